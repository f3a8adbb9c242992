//! A program rewritten, under a runtime name that old strings have room for and under one that makes
//! tables grow: what has to hold for any program.

use std::path::{Path, PathBuf};

use crate::report::Report;
use crate::tool::{self, RUNTIME, Rewritten};
use crate::{Command, Dir, Outcome, Rewrite, structure};

/// Rewrites `program` both ways; see [`check_one`].
pub fn check(dir: &Dir, program: &Path) {
    for long in [false, true] {
        check_one(dir, program, long);
    }
}

/// What [`sound`] asks; and the runtime is first, by its own report.
pub fn check_one(dir: &Dir, program: &Path, long: bool) -> Rewritten {
    let result = sound(dir, program, long);
    let command = result.command().dir(dir.make("work"));
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(report.phase(), "relocation", "{outcome}");
    assert_eq!(report.before_init(), 0, "{outcome}");
    assert!(report.bytes("malloc") >= 12345, "{outcome}{report:?}");
    result
}

/// Rewrites `program`, under a long runtime name or not: the result is sound and does what the original
/// does, which ends with status 5; undo gives back its bytes.
pub fn sound(dir: &Dir, program: &Path, long: bool) -> Rewritten {
    let original = run(dir, program);
    assert_eq!(
        original.code(),
        Some(5),
        "{original}the original itself fails"
    );
    let out = dir
        .make(if long { "grown" } else { "rewritten" })
        .join("program");
    let rewrite = Rewrite::new(program, &out);
    let result = match long {
        true => rewrite.arg("--runtime").arg(long_name(dir)).succeed(),
        false => rewrite.succeed(),
    };
    let needed = result.json["runtime"]["needed"].as_str();
    structure::check(&result, needed.expect("a name"));
    structure::check_sections(&result);
    run(dir, &out).assert_same_as(&original);
    result
}

/// Some programs write files where they are started.
fn run(dir: &Dir, program: &Path) -> Outcome {
    Command::new(program).dir(dir.make("work")).run()
}

/// The runtime under a name that cannot be recycled, so that tables have to grow.
pub fn long_name(dir: &Dir) -> PathBuf {
    let long = dir.make("a-directory-whose-name-is-longer-than-any-name-that-can-be-recycled");
    let runtime = long.join(RUNTIME);
    std::fs::copy(tool::runtime(), &runtime).expect("the runtime copied");
    runtime
}
