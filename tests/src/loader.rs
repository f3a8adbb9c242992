//! What glibc's loader says that it did, from LD_DEBUG.

use std::path::Path;

use crate::{Command, Dir, Outcome};

/// One thing that the loader did.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// Looked up the library `0`.
    Find(String),
    /// Was asked for a library that it did not have yet.
    Need {
        /// Its name.
        name: String,
        /// The file that needs it.
        by: String,
    },
    /// Mapped the library that it was asked for by the name `0`.
    Map(String),
    /// Relocated the file `0`.
    Relocate(String),
    /// Bound `symbol` of `from` to the definition in `to`.
    Bind {
        /// The file that refers to it.
        from: String,
        /// The file that defines it.
        to: String,
        /// Its name.
        symbol: String,
    },
    /// Called the constructors of the library `0`.
    Init(String),
    /// Called the preinit array of the program `0`.
    Preinit(String),
    /// Passed control to the program `0`.
    Start(String),
}

/// Runs `command` and returns what the loader did for its first process, in order.
pub fn events(command: &Command) -> Vec<Event> {
    trace("libs,bindings", |variables| {
        let with = |command: Command, (name, value): &(&str, String)| command.env(name, value);
        variables.iter().fold(command.clone(), with).run()
    })
}

/// What the loader did for the first process that `run` starts, in order. `debug` is the value of
/// LD_DEBUG; `run` has to set the variables that it is given for the program.
pub fn trace(debug: &str, run: impl FnOnce(&[(&str, String)]) -> Outcome) -> Vec<Event> {
    let dir = Dir::new("ld-debug");
    let log = dir.join("log").display().to_string();
    let outcome = run(&[("LD_DEBUG", debug.to_owned()), ("LD_DEBUG_OUTPUT", log)]);
    // One file per process; the first process has the lowest id, save where ids wrap around.
    let mut logs: Vec<_> = std::fs::read_dir(dir.path())
        .expect("a readable directory")
        .map(|entry| entry.expect("an entry").path())
        .collect();
    logs.sort_by_key(|path| (path.as_os_str().len(), path.clone()));
    let log = logs.first().unwrap_or_else(|| panic!("{outcome}no log"));
    let log = std::fs::read(log).expect("the log");
    let log = String::from_utf8_lossy(&log);
    log.lines().filter_map(parse).collect()
}

/// Lines read `PID:\tcalling init: PATH`, for example.
fn parse(line: &str) -> Option<Event> {
    let (_, text) = line.split_once(":\t")?;
    let text = text.trim();
    if let Some(rest) = text.strip_prefix("find library=") {
        return Some(Event::Find(rest.split_once(" [")?.0.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("calling init: ") {
        return Some(Event::Init(rest.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("calling preinit: ") {
        return Some(Event::Preinit(rest.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("transferring control: ") {
        return Some(Event::Start(rest.to_owned()));
    }
    if let Some(rest) = text.strip_prefix("relocation processing: ") {
        let file = rest.strip_suffix(" (lazy)").unwrap_or(rest);
        return Some(Event::Relocate(file.to_owned()));
    }
    if let Some((name, rest)) = text
        .strip_prefix("file=")
        .and_then(|rest| rest.split_once(" [0];  "))
    {
        if rest == "generating link map" {
            return Some(Event::Map(name.to_owned()));
        }
        let by = rest.strip_prefix("needed by ")?.strip_suffix(" [0]")?;
        return Some(Event::Need {
            name: name.to_owned(),
            by: by.to_owned(),
        });
    }
    // binding file FROM [0] to TO [0]: normal symbol `NAME' [VERSION]
    let (from, rest) = text.strip_prefix("binding file ")?.split_once(" [")?;
    let (_, rest) = rest.split_once("] to ")?;
    let (to, rest) = rest.split_once(" [")?;
    let (_, rest) = rest.split_once('`')?;
    let (symbol, _) = rest.split_once('\'')?;
    Some(Event::Bind {
        from: from.to_owned(),
        to: to.to_owned(),
        symbol: symbol.to_owned(),
    })
}

/// Whether `path` ends in the file name `name`.
pub fn is(path: &str, name: &str) -> bool {
    Path::new(path).file_name().is_some_and(|file| file == name)
}
