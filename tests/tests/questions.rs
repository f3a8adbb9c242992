//! The questions of `allocs.h`: an address of each kind gets the right answer, under each loader, and a program that
//! asks does without the runtime.

use std::path::PathBuf;

use allocs_tests::tool;
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::index::{compile, gcc};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["questions": pie, non_pie, stripped, preloaded, without_proc, header_in_cxx]
}

pub(crate) const WITHOUT: &str = "nothing can be asked\n";
pub(crate) const WITH: &str = "all answers are right\n";

fn program(dir: &Dir, flags: &[&str]) -> PathBuf {
    let flags = [flags, &["-rdynamic", "-ldl", "-Wl,--build-id=sha1"]].concat();
    compile(dir, gcc(), "questions.c", &flags)
}

/// Built with `flags`, it asks nothing before it is rewritten, and all of it afterwards.
fn answered(dir: &Dir, program: &PathBuf) {
    assert_eq!(Command::new(program).succeed().stdout(), WITHOUT);
    let result = Rewrite::new(program, dir.make("rewritten").join("questions")).succeed();
    let outcome = result.command().run();
    assert_eq!(outcome.stdout(), WITH, "{outcome}");
    let reporting = result.command().env("ALLOCS_REPORT", dir.join("report"));
    let outcome = reporting.run();
    assert_eq!(outcome.stdout(), WITH, "{outcome}");
}

fn pie() {
    let dir = Dir::new("questions");
    answered(&dir, &program(&dir, &["-fPIE", "-pie"]));
}

/// Here the compiler and the linker take weak functions for null, unless they are told not to.
fn non_pie() {
    let dir = Dir::new("questions-non-pie");
    let flags = ["-fPIE", "-no-pie", "-Wl,-z,dynamic-undefined-weak"];
    answered(&dir, &program(&dir, &flags));
}

/// Without .symtab there are the functions of .dynsym, of which the program has all but the static ones.
fn stripped() {
    let dir = Dir::new("questions-stripped");
    let program = program(&dir, &["-fPIE", "-pie", "-Dstatic="]);
    Command::new(needs("strip")).arg(&program).succeed();
    answered(&dir, &program);
}

fn preloaded() {
    let dir = Dir::new("questions-preloaded");
    let program = program(&dir, &["-fPIE", "-pie"]);
    let outcome = Command::new(program)
        .env("LD_PRELOAD", tool::runtime())
        .run();
    assert_eq!(outcome.stdout(), WITH, "{outcome}");
}

/// What is in the heap is known without /proc.
fn without_proc() {
    let dir = Dir::new("questions-without-proc");
    let source = dir.write(
        "main.c",
        "#include \"allocs.h\"
         #include <stdio.h>
         #include <stdlib.h>
         int main(void) {
             char *chunk = malloc(10002);
             struct alloc_info info;
             enum alloc_error error = alloc_get_info(chunk + 5000, &info);
             printf(\"%d %d %zu %s\\n\", error, info.base == chunk, info.size,
                    info.site_place.symbol ? info.site_place.symbol : \"none\");
             return 0;
         }
",
    );
    let program = dir.join("program");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/include");
    gcc()
        .args(["-fno-builtin", "-rdynamic", "-I", include, "-o"])
        .args([&program, &source])
        .succeed();
    let hidden = "mount -t tmpfs none /proc && exec \"$@\"";
    let outcome = Command::new(needs("unshare"))
        .args(["--mount", "--", "sh", "-c", hidden, "sh"])
        .arg("env")
        .arg(format!("LD_PRELOAD={}", tool::runtime().display()))
        .arg(&program)
        .run();
    assert_eq!(outcome.stdout(), "0 1 10002 main\n", "{outcome}");
}

/// The header is one of C++, too.
fn header_in_cxx() {
    let dir = Dir::new("questions-cxx");
    let source = dir.write(
        "main.cpp",
        "#include \"allocs.h\"
         int main() { return alloc_get_base ? 1 : 0; }
",
    );
    let program = dir.join("program");
    let include = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime/include");
    Command::new(needs("g++"))
        .args(["-std=c++11", "-Wall", "-Wextra", "-Wpedantic", "-Werror"])
        .args(["-I", include, "-o"])
        .args([&program, &source])
        .succeed();
    Command::new(&program).succeed();
}
