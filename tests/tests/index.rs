//! What `allocs.h` says is right at any time: while other threads allocate and free, in signal handlers, in fork
//! children, at exit, after a fault; and programs that ask do and print what they do and print without the runtime.

use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::tool;
use allocs_tests::tree;
use allocs_tests::{Command, Dir, Rewrite, needs, trial, trials};
use libtest_mimic::Trial;

use crate::rivals;

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["index": operators, operators_replaced, mcheck, jumps_counted];
    for (program, cases) in [
        ("walks", WALKS),
        ("processes", PROCESSES),
        ("faults", FAULTS),
        ("jumps", JUMPS),
    ] {
        for case in cases.split_whitespace() {
            all.push(trial(format!("index::{program}::{case}"), move || {
                same(&format!("{program}.c"), gcc(), &[case]);
            }));
        }
    }
    // glibc's addresses are no musl's, and its heap is never given back.
    let programs = [
        ("processes.c", PROCESSES),
        ("walks.c", WALKS),
        ("jumps.c", JUMPS),
    ];
    let cases =
        programs.map(|(program, cases)| cases.split_whitespace().map(move |case| (program, case)));
    for (program, case) in cases.into_iter().flatten() {
        let case = case.to_owned();
        all.push(trial(format!("index::musl::{case}"), move || {
            same(program, Command::new(needs("musl-gcc")), &[&case]);
        }));
    }
    all
}

const WALKS: &str = "churn signals wild";
const PROCESSES: &str = "storm fork spawn exit exit-now longjmp cancel";
const JUMPS: &str = "base info walk report malloc stack threads frees";
const FAULTS: &str =
    "twice twice-fast twice-later twice-mapped twice-by-realloc inside inside-large misaligned
    resized-inside stack data unmapped non-canonical resized-unmapped";

/// The compiler; it must not know what malloc is.
pub(crate) fn gcc() -> Command {
    Command::new(needs("gcc"))
}

/// Builds a program of `tests/programs/`, which asks the index.
pub(crate) fn compile(dir: &Dir, compiler: Command, source: &str, flags: &[&str]) -> PathBuf {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let source = root.join("programs").join(source);
    let program = dir.join(source.file_stem().expect("a name"));
    compiler
        .args(["-Wall", "-Wextra", "-Werror", "-fno-builtin", "-O1"])
        .args(["-pthread", "-I"])
        .arg(root.join("../runtime/include"))
        .arg("-o")
        .args([&program, &source])
        .args(flags)
        .succeed();
    program
}

/// How many answers a program says that it got, all of them right.
pub(crate) fn answers(file: &Path) -> u64 {
    let text =
        std::fs::read_to_string(file).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
    text.trim().parse().expect("a number")
}

/// Builds a program and runs it as it is, rewritten and with the runtime preloaded: it does the same, and with the
/// runtime there are answers.
fn same(source: &str, compiler: Command, arguments: &[&str]) {
    let dir = Dir::new("index");
    let flags: &[&str] = match source.ends_with(".cpp") {
        true => &["-std=c++17"],
        false => &[],
    };
    same_as_built(&dir, &compile(&dir, compiler, source, flags), arguments);
}

fn same_as_built(dir: &Dir, program: &Path, arguments: &[&str]) {
    let original = Command::new(program).args(arguments).run();
    let name = program.file_name().expect("a name");
    let rewritten = Rewrite::new(program, dir.make("rewritten").join(name)).succeed();
    let file = dir.join("answers");
    let preloaded = Command::new(program).env("LD_PRELOAD", tool::runtime());
    for command in [rewritten.command(), preloaded] {
        let outcome = command.args(arguments).env("ANSWERS", &file).run();
        outcome.assert_same_as(&original);
        // One that ends at once tells nobody.
        if arguments != ["exit-now"] {
            assert!(answers(&file) > 0, "{outcome}no answers");
            std::fs::remove_file(&file).expect("removed");
        }
    }
}

/// Operator new and delete of libstdc++.
fn operators() {
    same("operators.cpp", Command::new(needs("g++")), &[]);
}

/// Those of the program itself.
fn operators_replaced() {
    let replaced = Command::new(needs("g++")).arg("-DREPLACED");
    same("operators.cpp", replaced, &[]);
}

/// What is called after a jump out of a hook is counted, too, wherever in the stack that is.
fn jumps_counted() {
    let dir = Dir::new("index-jumps");
    let program = compile(&dir, gcc(), "jumps.c", &[]);
    let rewritten = Rewrite::new(&program, dir.make("rewritten").join("jumps")).succeed();
    let file = dir.join("report.json");
    let command = rewritten.command().args(["malloc"]);
    let (outcome, report) = Report::of(&command, &file);
    let calls = report.calls("calloc");
    assert!(calls >= 120_000, "{outcome}{calls} calls of calloc");
}

/// Programs that are linked with -lmcheck: in glibc 2.31 that puts other functions in place of the allocator's.
fn mcheck() {
    let dir = Dir::new("index-mcheck");
    let source = dir.write(
        "main.c",
        "#include <mcheck.h>
         #include <stdio.h>
         #include <stdlib.h>
         #include <string.h>
         int main(int argc, char **argv) {
             char *chunks[100];
             for (int i = 0; i < 100; i++) {
                 chunks[i] = malloc(i * 37 % 500 + 1);
                 memset(chunks[i], 1, i * 37 % 500 + 1);
             }
             for (int i = 0; i < 100; i++) chunks[i] = realloc(chunks[i], 700 + i);
             printf(\"%d\\n\", mprobe(chunks[5]));
             fflush(stdout);
             if (strcmp(argv[argc - 1], \"before\") == 0) chunks[7][-1] = 3;
             if (strcmp(argv[argc - 1], \"twice\") == 0) free(chunks[7]);
             for (int i = 0; i < 100; i++) free(chunks[i]);
             puts(\"done\");
             return 0;
         }",
    );
    let original = dir.join("main");
    rivals::gcc(&dir, "-fno-builtin -o main")
        .arg(source)
        .arg("-lmcheck")
        .succeed();
    let program = Rewrite::new(&original, dir.make("rewritten").join("main"))
        .succeed()
        .path;
    for tree in tree::all() {
        for fault in ["none", "before", "twice"] {
            let before = tree.run(&[], &original, &[fault]);
            let after = tree.run(&[], &program, &[fault]);
            after.assert_same_as(&before);
        }
    }
}
