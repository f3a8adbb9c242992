//! What `allocs-rewrite explain` says, beside what the loader does.

use std::ffi::OsStr;
use std::path::Path;

use serde_json::Value;

use crate::loader::Event;
use crate::{Command, Outcome, tool};

/// `allocs-rewrite explain` with `args`.
pub fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    Command::new(tool::binary()).arg("explain").args(args)
}

/// What `explain --json` says with `args`.
#[derive(Debug)]
pub struct Explanation {
    /// How it ended.
    pub outcome: Outcome,
    /// What it printed.
    pub json: Value,
}

impl Explanation {
    /// Runs it; it must end with 0 or 3, whichever goes with its verdict.
    pub fn new<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Self {
        let outcome = command(args).arg("--json").run();
        let json: Value = serde_json::from_slice(&outcome.stdout)
            .unwrap_or_else(|e| panic!("{outcome}--json printed no JSON: {e}"));
        let status = match json["verdict"]["first"].as_bool() {
            Some(true) => 0,
            _ => 3,
        };
        assert_eq!(outcome.code(), Some(status), "{outcome}");
        Self { outcome, json }
    }

    /// The strings of a list.
    pub fn strings(&self, list: &str) -> Vec<String> {
        let list = self.json[list].as_array().expect("a list");
        list.iter().map(|item| text(item).to_owned()).collect()
    }

    /// The verdict's sentence.
    pub fn verdict(&self) -> &str {
        text(&self.json["verdict"]["text"])
    }

    /// Names that are not found.
    pub fn missing(&self) -> Vec<String> {
        let requests = self.json["requests"].as_array().expect("a list");
        let missing = requests
            .iter()
            .filter(|request| !request["problem"].is_null());
        missing
            .map(|request| text(&request["name"]).to_owned())
            .collect()
    }

    /// What the loader says in LD_DEBUG=files,reloc when it does that: everything up to the start of
    /// the program, whose own initialisation it has no part in. `called` is what the loader calls the
    /// program. Where a library is missing, it stops there.
    pub fn events(&self, called: &str, announces_all: bool) -> Vec<Event> {
        let program = text(&self.json["program"]);
        let name = |path: &str| match path == program {
            true => called.to_owned(),
            false => path.to_owned(),
        };
        let mut events = Vec::new();
        for request in self.json["requests"].as_array().expect("a list") {
            let asked = text(&request["name"]);
            // Preloads are asked for on behalf of the program.
            let by = match text(&request["needed_by"]) {
                "LD_PRELOAD" | "/etc/ld.so.preload" => called.to_owned(),
                by => name(by),
            };
            events.push(Event::Need {
                name: asked.to_owned(),
                by,
            });
            if request["new"].as_bool() == Some(true) {
                events.push(Event::Map(asked.to_owned()));
            }
            if request["required"].as_bool() == Some(true) {
                return events;
            }
        }
        let relocated = self.strings("relocation_order");
        events.extend(relocated.iter().map(|path| Event::Relocate(name(path))));
        // The loader relocates itself once more if anybody refers to it.
        let itself = text(&self.json["interpreter"]);
        let loaded = self.json["load_order"].as_array().expect("a list");
        if loaded.iter().any(|object| text(&object["path"]) == itself) {
            events.push(Event::Relocate(itself.to_owned()));
        }
        self.add_inits(program, called, announces_all, &mut events);
        events
    }

    fn add_inits(&self, program: &str, called: &str, announces_all: bool, events: &mut Vec<Event>) {
        let calls = self.json["init_order"].as_array().expect("a list");
        let constructors = |path: &str| {
            let is = |call: &&Value| {
                text(&call["object"]) == path && text(&call["entry"]).starts_with("DT_INIT")
            };
            calls.iter().any(|call| is(&call))
        };
        let preinit = |call: &Value| text(&call["entry"]).starts_with("DT_PREINIT");
        let initialised = self.strings("initialised");
        let loaded = self.json["load_order"].as_array().expect("a list");
        let first = initialised.first().filter(|path| {
            let is_it = |object: &&Value| text(&object["path"]) == path.as_str();
            let object = loaded.iter().find(is_it).expect("a loaded object");
            object["initfirst"].as_bool() == Some(true) && *path != program
        });
        let others = initialised.iter().skip(usize::from(first.is_some()));
        let others = others.filter(|path| *path != program);
        let init = |path: &String| Event::Init(path.clone());
        let announced = |path: &&String| announces_all || constructors(path);
        events.extend(first.into_iter().filter(announced).map(init));
        if calls.iter().any(preinit) {
            events.push(Event::Preinit(called.to_owned()));
        }
        events.extend(others.filter(announced).map(init));
    }
}

/// A JSON string.
fn text(value: &Value) -> &str {
    value
        .as_str()
        .unwrap_or_else(|| panic!("no string: {value}"))
}

/// Fails unless the loader did what the explanation says. Lines for what the program itself does
/// later are not part of it.
pub fn assert_same(predicted: &[Event], events: &[Event], explanation: &Explanation) {
    let start = events
        .iter()
        .position(|event| matches!(event, Event::Start(_)));
    let events = &events[..start.unwrap_or(events.len())];
    let kept = |event: &&Event| {
        matches!(
            event,
            Event::Need { .. }
                | Event::Map(_)
                | Event::Relocate(_)
                | Event::Init(_)
                | Event::Preinit(_)
        )
    };
    let events: Vec<&Event> = events.iter().filter(kept).collect();
    let predicted: Vec<&Event> = predicted.iter().collect();
    let differs = predicted.iter().zip(&events).position(|(a, b)| a != b);
    let at = differs.unwrap_or(predicted.len().min(events.len()));
    assert!(
        predicted == events,
        "the loader did something else, from line {} on: it did {:?}, not {:?}\n{}",
        at + 1,
        events.get(at),
        predicted.get(at),
        explanation.outcome
    );
}

/// The same, of a program's file.
pub fn of(program: &Path) -> Explanation {
    Explanation::new([program])
}
