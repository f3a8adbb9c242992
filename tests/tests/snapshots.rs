//! `ALLOCS_SIGNAL`: reports of a running program, whatever it is doing when the signal comes.

use std::collections::BTreeSet;

use allocs_tests::{Dir, trials};
use libtest_mimic::Trial;

use crate::reports::{files, names, report, run, site_of, sites};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["snapshots":
        numbered_files,
        any_name_of_the_signal,
        for_those_who_ask,
        handler_of_the_program,
        in_the_middle_of_everything,
        while_a_call_waits,
        on_a_small_signal_stack,
    ]
}

/// Each in a file of its own, with what was alive at that time.
fn numbered_files() {
    let dir = Dir::new("snapshots");
    let program = sites(&dir, "");
    for (file, all) in [
        ("a.json", ["a.1.json", "a.2.json", "a.json"]),
        ("b", ["b.1", "b.2", "b"]),
        ("c.x.pb.gz", ["c.x.1.pb.gz", "c.x.2.pb.gz", "c.x.pb.gz"]),
    ] {
        run(&program, &dir, "ask", file);
        let of_this = files(&dir)
            .into_iter()
            .filter(|name| name.starts_with(&file[..1]));
        assert_eq!(of_this.collect::<BTreeSet<_>>(), names(all));
    }
    let kept = |name: &str| {
        let report = report(&dir, name);
        site_of(&program, &report, "keep").number("live_chunks")
    };
    assert_eq!(["a.1.json", "a.2.json", "a.json"].map(kept), [7, 10, 10]);
    // To standard error, one after the other.
    let outcome = run(&program, &dir, "ask", "-");
    let count = outcome.stderr().matches("allocations of process").count();
    assert_eq!(count, 3, "{outcome}");
}

fn any_name_of_the_signal() {
    let dir = Dir::new("signal-names");
    let program = sites(&dir, "");
    for name in ["SIGUSR2", "USR2", "12"] {
        let command = program.command().arg("ask").env("ALLOCS_SIGNAL", name);
        let file = format!("{name}.json");
        let command = command.dir(dir.make("cwd")).env("ALLOCS_REPORT", &file);
        let outcome = command.run();
        assert_eq!(outcome.code(), Some(5), "{outcome}");
        report(&dir, &format!("{name}.2.json"));
    }
}

/// Without both variables the signal does what it always did.
fn for_those_who_ask() {
    let dir = Dir::new("not-asked");
    let program = sites(&dir, "");
    let cwd = dir.make("cwd");
    for (name, value) in [
        ("ALLOCS_SIGNAL", "SIGUSR2"),
        ("ALLOCS_REPORT", "report.json"),
        ("OTHER", ""),
    ] {
        let command = program.command().arg("ask").dir(&cwd);
        let outcome = command.env(name, value).run();
        assert_eq!(outcome.ending(), "ended by signal 12", "{outcome}");
    }
    assert_eq!(files(&dir), names([]));
}

fn handler_of_the_program() {
    let dir = Dir::new("own-handler");
    let program = sites(&dir, "");
    let outcome = run(&program, &dir, "own", "report.json");
    assert_eq!(outcome.stdout(), "own\n", "{outcome}");
    assert_eq!(files(&dir), names(["report.json"]));
}

/// The signal comes to threads that are inside of the program's allocator, and inside of hooks.
fn in_the_middle_of_everything() {
    let dir = Dir::new("everywhere");
    let program = sites(&dir, "");
    let outcome = run(&program, &dir, "threads", "report.json");
    assert_eq!(outcome.stdout(), "", "{outcome}");
    let all = files(&dir);
    // Signals that come while one waits are one.
    assert!(all.len() > 5, "{all:?}");
    for name in &all {
        let report = report(&dir, name);
        let kept = site_of(&program, &report, "keep");
        assert_eq!(kept.number("live_chunks"), 7, "{name}: {report:?}");
    }
}

fn while_a_call_waits() {
    let dir = Dir::new("restart");
    let program = sites(&dir, "");
    let outcome = run(&program, &dir, "interrupted", "report.json");
    assert_eq!(outcome.stdout(), "read: 1\n", "{outcome}");
    assert_eq!(files(&dir), names(["report.json", "report.1.json"]));
}

fn on_a_small_signal_stack() {
    let dir = Dir::new("signal-stack");
    let program = sites(&dir, "");
    for file in ["report.json", "report.txt", "report.pb.gz"] {
        run(&program, &dir, "stack", file);
    }
    report(&dir, "report.1.json");
}
