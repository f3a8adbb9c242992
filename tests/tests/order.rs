//! The runtime starts before everything else, and the file that makes it so is as sound as it was.

use std::path::Path;

use allocs_tests::loader::{self, Event};
use allocs_tests::report::Report;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool::{INIT, RUNTIME};
use allocs_tests::{Dir, Rewrite, structure, trial};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for sample in Sample::all() {
        for variant in sample.variants().into_iter().filter(|v| v.pie != v.now) {
            let sample = sample.clone();
            let name = format!("order::{}::{variant}", sample.name);
            all.push(trial(name, move || first(&sample, variant)));
        }
    }
    all
}

fn first(sample: &Sample, variant: Variant) {
    let dir = Dir::new(&format!("order-{}-{variant}", sample.name));
    let program = sample.build(&dir.path(), variant, &[]);
    let kept = dir.join("original");
    std::fs::rename(&program, &kept).expect("renamed");
    let result = Rewrite::new(&kept, &program).succeed();

    structure::check(&result, &format!("$ORIGIN/{RUNTIME}"));
    structure::check_sections(&result);
    check_events(&sample.name, &loader::events(&result.command()));
    check_report(sample, &result.path, &dir);

    let before = result.command().run();
    let stripped = structure::stripped(&result);
    let after = allocs_tests::Command::new(stripped).run();
    after.assert_same_as(&before);
}

/// The loader bound the init symbol, which starts the runtime, before it called any constructor or
/// preinit entry.
fn check_events(program: &str, events: &[Event]) {
    let position = |what: &str, wanted: &dyn Fn(&Event) -> bool| {
        let found = events.iter().position(wanted);
        found.unwrap_or_else(|| panic!("{program}: {what}: not in {events:#?}"))
    };
    let bound = position("the init symbol is bound to the runtime", &|event| {
        matches!(event, Event::Bind { from, to, symbol }
            if symbol == INIT && loader::is(from, program) && loader::is(to, RUNTIME))
    });
    let called = position("something is called", &|event| {
        matches!(event, Event::Init(_) | Event::Preinit(_))
    });
    let preinit = position(
        "the preinit array is called",
        &|event| matches!(event, Event::Preinit(file) if loader::is(file, program)),
    );
    let other = position(
        "libc's constructor is called",
        &|event| matches!(event, Event::Init(file) if loader::is(file, "libc.so.6")),
    );
    assert!(
        bound < called,
        "{program}: called before bound: {events:#?}"
    );
    assert!(
        preinit < other,
        "{program}: constructors before preinit: {events:#?}"
    );
}

/// The runtime itself says when it started and what it counted.
fn check_report(sample: &Sample, program: &Path, dir: &Dir) {
    let command = allocs_tests::Command::new(program);
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(report.phase(), "relocation", "{outcome}{report:#?}");
    assert_eq!(
        report.before_init(),
        sample.before_init,
        "{outcome}{report:#?}"
    );
    if let Some(known) = &sample.constructors {
        let (calls, bytes) = (report.calls(&known.hook), report.bytes(&known.hook));
        assert!(
            calls >= known.calls && bytes >= known.bytes,
            "{outcome}constructors alone make {known:?}; counted: {calls} calls, {bytes} bytes"
        );
    }
}
