//! `--phase`: when the runtime's init is called, and what is refused because it cannot be called then.

use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::tool::{self, Rewritten};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::musl;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["phases":
        preinit_by_request,
        foreign_function,
        foreign_ifunc,
        wrong_for_the_loader,
        wrong_for_the_symbol,
    ]
}

/// A program with a library that glibc initialises ahead of everything, of which a constructor allocates.
pub(crate) fn with_rival(dir: &Dir, compiler: &Command) -> PathBuf {
    let rival = dir.write(
        "librival.c",
        "#include <stdlib.h>\nvoid *kept;\n\
         __attribute__((constructor)) static void begin(void) { kept = malloc(10002); }\n",
    );
    let main = dir.write(
        "main.c",
        "extern void *kept; int main(void) { return !kept; }\n",
    );
    let gcc = || compiler.clone().dir(dir.path());
    gcc()
        .args(["-shared", "-fPIC", "-Wl,-z,initfirst", "-o", "librival.so"])
        .arg(rival)
        .succeed();
    gcc()
        .args(["-Wl,-rpath,$ORIGIN", "-o", "main"])
        .arg(main)
        .args(["-L.", "-lrival"])
        .succeed();
    dir.join("main")
}

/// The phases make the difference that they are said to make.
fn preinit_by_request() {
    let dir = Dir::new("preinit");
    let program = with_rival(&dir, &Command::new(needs("gcc")));
    for (phase, before_init) in [("preinit", 1), ("relocation", 0), ("auto", 0)] {
        let out = dir.join(phase);
        let result = Rewrite::new(&program, out)
            .arg("--phase")
            .arg(phase)
            .succeed();
        let reached = if phase == "auto" { "relocation" } else { phase };
        assert_eq!(result.json["runtime"]["phase"], reached);
        let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(report.phase(), reached, "{outcome}{report:?}");
        assert_eq!(report.before_init(), before_init, "{outcome}{report:?}");
    }
}

/// `true` with a foreign runtime, whose init function is `begin`.
fn with_foreign(dir: &Dir, text: &str) -> Rewritten {
    let source = dir.write("foreign.c", text);
    let runtime = dir.join("libforeign.so");
    Command::new(needs("gcc"))
        .args(["-shared", "-fPIC", "-o"])
        .args([&runtime, &source])
        .succeed();
    Rewrite::new("/bin/true", dir.join("true"))
        .arg("--runtime")
        .arg(runtime)
        .args_line("--init begin")
        .succeed()
}

/// An ordinary function of a foreign runtime is called at preinit.
fn foreign_function() {
    let dir = Dir::new("foreign-function");
    let text =
        "#include <unistd.h>\nvoid begin(int argc) { write(1, \"begin\\n\", 6 * (argc == 1)); }\n";
    let result = with_foreign(&dir, text);
    assert_eq!(result.json["runtime"]["phase"], "preinit");
    let outcome = result.command().succeed();
    assert_eq!(outcome.stdout(), "begin\n", "{outcome}");
}

/// An IFUNC is called while the program is relocated.
fn foreign_ifunc() {
    let dir = Dir::new("foreign-ifunc");
    let text = "static void later(void) {}\nstatic void *choose(void) { return later; }\n\
                void begin(void) __attribute__((ifunc(\"choose\")));\n";
    let result = with_foreign(&dir, text);
    assert_eq!(result.json["runtime"]["phase"], "relocation");
    result.command().succeed();
}

fn wrong_for_the_loader() {
    let dir = Dir::new("wrong-loader");
    let musl = musl::constructors(&dir);
    let out = dir.join("out");
    for phase in ["relocation", "preinit"] {
        let rewrite = Rewrite::new(&musl, &out).arg("--phase").arg(phase);
        rewrite.refuse(&dir.path(), &musl, &[phase, "musl", "--phase entry"]);
    }
    let rewrite = Rewrite::new(&musl, &out).args_line("--runtime $ORIGIN/libfoo.so");
    rewrite.refuse(
        &dir.path(),
        Path::new("$ORIGIN/libfoo.so"),
        &["musl", "absolute path"],
    );
    let rewrite = Rewrite::new("/bin/true", &out).args_line("--phase entry");
    rewrite.refuse(
        &dir.path(),
        Path::new("/bin/true"),
        &["glibc", "--phase relocation"],
    );
}

fn wrong_for_the_symbol() {
    let dir = Dir::new("wrong-symbol");
    let runtime = tool::runtime();
    let out = dir.join("out");
    for (phase, init) in [("relocation", "allocs_init"), ("preinit", "allocs_preinit")] {
        let rewrite = Rewrite::new("/bin/true", &out)
            .args_line(&format!("--phase {phase} --init {init} --runtime"))
            .arg(runtime);
        rewrite.refuse(&dir.path(), runtime, &[init, "IFUNC", phase]);
    }
}
