//! Every dynamically linked program in /usr/bin and /usr/sbin starts after the rewrite as it did
//! before: same exit status and same output of `--version`, or of `--help` where that is refused.
//! There is no list of known exceptions.
//!
//! Each is rewritten and run under its own name in a tree where everything else is as in the system
//! (`Mirror`), so that what it finds beside itself is there, and messages with its path are the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use allocs_tests::behaviour::Behaviour;
use allocs_tests::mirror::Mirror;
use allocs_tests::report::Report;
use allocs_tests::tool::{self, RUNTIME, Rewritten};
use allocs_tests::{Command, Dir, Outcome, Rewrite, elf, structure, trial};
use libtest_mimic::Trial;

/// Programs that are not started (though rewritten and read back), each with the reason.
const NOT_STARTED: &[(&str, &str)] = &[
    (
        "killall5",
        "takes no option for help: it signals every process",
    ),
    (
        "systemctl",
        "is also halt, poweroff and reboot, and talks to the init of this machine",
    ),
    ("systemd", "is an init"),
    ("init", "is an init"),
    ("shutdown", "ends this machine"),
    ("halt", "ends this machine"),
    ("poweroff", "ends this machine"),
    ("reboot", "ends this machine"),
    ("runlevel", "talks to init"),
    ("telinit", "tells init what to do"),
    ("kexec", "starts another kernel"),
];

/// Far from what any program takes: PAM's helpers sleep for ten seconds to annoy who starts them by
/// hand, and a limit near that would end one run of two.
pub(crate) const LIMIT: Duration = Duration::from_secs(30);
/// No program needs more to print its version; one that prints for ever is stopped.
pub(crate) const OUTPUT_LIMIT: u64 = 64 << 20;

pub(crate) fn trials() -> Vec<Trial> {
    let programs = programs().iter();
    programs
        .map(|program| trial(format!("system::{}", program.display()), || check(program)))
        .collect()
}

/// Whether starting a program of that name does no harm.
pub(crate) fn may_start(program: &Path) -> bool {
    let name = program.file_name().expect("a name");
    !NOT_STARTED.iter().any(|(not, _)| name == *not)
}

/// Real paths, each file once, whatever its names are.
pub(crate) fn programs() -> &'static [PathBuf] {
    static PROGRAMS: OnceLock<Vec<PathBuf>> = OnceLock::new();
    PROGRAMS.get_or_init(|| {
        let mut seen = BTreeSet::new();
        let mut all = Vec::new();
        for dir in ["/usr/bin", "/usr/sbin"] {
            for entry in fs::read_dir(dir).expect("a directory of programs") {
                let entry = entry.expect("an entry").path();
                let Ok(real) = entry.canonicalize() else {
                    continue; // a dangling link
                };
                let meta = fs::metadata(&real).expect("its metadata");
                let runs = meta.is_file() && meta.mode() & 0o111 != 0;
                if runs
                    && seen.insert((meta.dev(), meta.ino()))
                    && elf::is_dynamic_executable(&real)
                {
                    all.push(real);
                }
            }
        }
        all.sort();
        all
    })
}

/// One tree for all, made when the first test needs it; dropped, and so removed, by `print_tally`.
static MIRROR: Mutex<Option<Arc<Mirror>>> = Mutex::new(None);

fn mirror() -> Arc<Mirror> {
    let mut mirror = MIRROR.lock().expect("the tree");
    let made = mirror.get_or_insert_with(|| Arc::new(Mirror::new("system", programs())));
    Arc::clone(made)
}

#[derive(Debug, Default)]
struct Tally {
    programs: usize,
    recycled: usize,
    moved: BTreeMap<String, usize>,
    privileged: Vec<PathBuf>,
    reported: usize,
    before_init: Vec<PathBuf>,
    not_started: Vec<PathBuf>,
    timed_out: Vec<PathBuf>,
    failing: usize,
    varying: Vec<PathBuf>,
}

static TALLY: Mutex<Option<Tally>> = Mutex::new(None);

fn count(change: impl FnOnce(&mut Tally)) {
    change(TALLY.lock().expect("the tally").get_or_insert_default());
}

fn check(real: &Path) {
    let mirror = &*mirror();
    let path = mirror.put_copy(real);

    let original = may_start(real).then(|| Original::learn(&path, mirror, real));
    let mut trusted = None; // while the program runs
    let result = rewrite(real, &path, &mut trusted);
    if let Some(original) = original {
        compare(&original, &result, mirror, real);
    } else {
        count(|tally| tally.not_started.push(real.to_owned()));
    }
    mirror.put_link(real);
    count(|tally| {
        tally.programs += 1;
        tally.recycled += usize::from(result.recycled());
        for table in result.moved() {
            *tally.moved.entry(table).or_default() += 1;
        }
    });
}

/// Rewrites `real` to `path`, where a copy of it is. One that the loader starts with privileges gets
/// the runtime by a path in `trusted`, after the tool has refused `$ORIGIN` for it.
fn rewrite(real: &Path, path: &Path, trusted: &mut Option<Dir>) -> Rewritten {
    let plain = Rewrite::new(real, path);
    let (result, needed) = if tool::is_privileged(real) {
        let outcome = plain.run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains("$ORIGIN"), "{outcome}");
        count(|tally| tally.privileged.push(real.to_owned()));
        let runtime = trusted.get_or_insert_with(|| Dir::of_root("runtime"));
        let runtime = tool::runtime_in(runtime);
        let needed = runtime.display().to_string();
        let asked = plain.arg("--allow-setuid").arg("--runtime").arg(runtime);
        (asked.succeed(), needed)
    } else {
        (plain.succeed(), format!("$ORIGIN/{RUNTIME}"))
    };
    structure::check(&result, &needed);
    result
}

/// What the original does with an option that it takes.
struct Original {
    option: &'static str,
    behaviour: Behaviour,
}

impl Original {
    fn learn(path: &Path, mirror: &Mirror, real: &Path) -> Self {
        let mut option = "--version";
        let mut first = run(path, option, mirror, real);
        if first.code() != Some(0) {
            option = "--help";
            first = run(path, option, mirror, real);
        }
        if first.status.is_none() {
            count(|tally| tally.timed_out.push(real.to_owned()));
        } else if first.code() != Some(0) {
            count(|tally| tally.failing += 1);
        }
        let second = run(path, option, mirror, real);
        Self {
            option,
            behaviour: Behaviour {
                runs: vec![first, second],
            },
        }
    }
}

fn run(path: &Path, option: &str, mirror: &Mirror, real: &Path) -> Outcome {
    command(path, option, mirror, real).run()
}

/// In an empty directory of its own, which is the home directory as well.
fn command(path: &Path, option: &str, mirror: &Mirror, real: &Path) -> Command {
    let name = real.file_name().expect("a name").to_string_lossy();
    let scratch = mirror.scratch(&name);
    fs::remove_dir_all(&scratch).expect("the old one removed");
    let scratch = mirror.scratch(&name);
    Command::new(path)
        .arg(option)
        .dir(&scratch)
        .env("HOME", &scratch)
        .env("TMPDIR", &scratch)
        .limit(LIMIT)
        .file_size_limit(OUTPUT_LIMIT)
}

fn compare(original: &Original, result: &Rewritten, mirror: &Mirror, real: &Path) {
    let file = real.file_name().expect("a name").to_string_lossy();
    let report = mirror.scratch("reports").join(format!("{file}.json"));
    let rewritten = command(&result.path, original.option, mirror, real)
        .env("ALLOCS_REPORT", &report)
        .run();
    let mut known = original.behaviour.clone();
    if !known.allows(&rewritten) {
        // Before this counts as a difference: does the original do that, too, now and then?
        let kept = result.path.with_extension("rewritten");
        fs::rename(&result.path, &kept).expect("put aside");
        allocs_tests::dir::copy_program(real, &result.path);
        for _ in 0..12 {
            known
                .runs
                .push(run(&result.path, original.option, mirror, real));
        }
        fs::rename(&kept, &result.path).expect("put back");
    }
    assert!(
        known.allows(&rewritten),
        "{} behaves differently\n== original\n{}== rewritten\n{rewritten}",
        real.display(),
        known.runs[0]
    );
    if known.varies() {
        count(|tally| tally.varying.push(real.to_owned()));
    }
    // One that ends by _exit or exec leaves no report.
    if let Ok(report) = Report::read(&report) {
        assert_eq!(report.phase(), "relocation", "{rewritten}{report:?}");
        count(|tally| {
            tally.reported += 1;
            if report.before_init() > 0 {
                tally.before_init.push(real.to_owned());
            }
        });
    }
}

/// What the programs were, for those who read the log. Ends the tree.
pub(crate) fn print_tally() {
    drop(MIRROR.lock().expect("the tree").take());
    let Some(tally) = TALLY.lock().expect("the tally").take() else {
        return;
    };
    let Tally {
        programs,
        recycled,
        moved,
        reported,
        failing,
        ..
    } = tally;
    println!("system programs: {programs} rewritten, {recycled} of them without growing");
    for (table, count) in moved {
        println!("  {count} times moved: {table}");
    }
    println!("  {reported} wrote a report; {failing} know neither --version nor --help");
    for (what, list) in [
        (
            "given the runtime by an absolute path (setuid or the like)",
            tally.privileged,
        ),
        ("not started", tally.not_started),
        (
            "still running at the time limit, before and after",
            tally.timed_out,
        ),
        (
            "printing something else each time, before and after",
            tally.varying,
        ),
        (
            "allocating in a resolver, before anything can start",
            tally.before_init,
        ),
    ] {
        let list: Vec<_> = list.iter().map(|path| path.display().to_string()).collect();
        println!("  {} {what}: {}", list.len(), list.join(" "));
    }
}
