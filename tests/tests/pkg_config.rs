//! `allocs-rt.pc`, wherever it is installed: pkg-config gives what a program that asks is built with.

use std::path::Path;

use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, trials};
use libtest_mimic::Trial;

const RUNTIME: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../runtime");

pub(crate) fn trials() -> Vec<Trial> {
    trials!["pkg_config": in_lib, in_share, version]
}

/// Installs header and .pc below a prefix.
fn install(dir: &Dir, prefix: &str, pkgconfig: &str) {
    for (from, to) in [
        ("include/allocs.h", format!("{prefix}/include/allocs.h")),
        ("allocs-rt.pc", format!("{prefix}/{pkgconfig}/allocs-rt.pc")),
    ] {
        let text = std::fs::read(Path::new(RUNTIME).join(from)).expect("a file to install");
        dir.write(to, text);
    }
}

fn ask(pkgconfig: &Path, questions: &[&str]) -> Outcome {
    Command::new(needs("pkg-config"))
        .env("PKG_CONFIG_PATH", pkgconfig)
        .args(questions)
        .arg("allocs-rt")
        .succeed()
}

/// A program that is built with its flags asks, before and after the tree has moved.
fn works(pkgconfig: &str) {
    let dir = Dir::new("pkg-config");
    install(&dir, "stage/usr", pkgconfig);
    std::fs::rename(dir.join("stage/usr"), dir.join("moved")).expect("renamed");
    let pkgconfig = dir.join("moved").join(pkgconfig);
    assert_eq!(ask(&pkgconfig, &["--libs"]).stdout().trim(), "");
    let flags = ask(&pkgconfig, &["--cflags", "--libs"]).stdout();
    let source = dir.write(
        "main.c",
        "#include <allocs.h>
         #include <stdio.h>
         #include <stdlib.h>
         int main(void) {
             char *chunk = malloc(10002);
             printf(\"%zu\\n\", alloc_get_size ? alloc_get_size(chunk + 5000) : 0);
             return 0;
         }
",
    );
    let program = dir.join("program");
    Command::new(needs("gcc"))
        .args(["-fno-builtin", "-o"])
        .args([&program, &source])
        .args(flags.split_whitespace())
        .succeed();
    assert_eq!(Command::new(&program).succeed().stdout(), "0\n");
    let result = Rewrite::new(&program, dir.join("program.allocs")).succeed();
    assert_eq!(result.command().succeed().stdout(), "10002\n");
}

fn in_lib() {
    works("lib/pkgconfig");
}

fn in_share() {
    works("share/pkgconfig");
}

fn version() {
    let outcome = ask(Path::new(RUNTIME), &["--modversion"]);
    assert_eq!(outcome.stdout().trim(), env!("CARGO_PKG_VERSION"));
}
