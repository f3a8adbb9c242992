//! The crate `allocs` asks the questions of `allocs.h` in Rust: however a program is built, it links and runs without
//! the runtime, and gets the right answers with it.

use std::path::{Path, PathBuf};

use allocs_tests::elf::Elf;
use allocs_tests::sample::rustc;
use allocs_tests::{Command, Dir, Rewrite, needs, tool, trial, trials};
use libtest_mimic::Trial;

use crate::questions::{WITH, WITHOUT};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["rust_crate": lto, new_names, preloaded, panics];
    for (model, is_pie) in [("pie", true), ("static", false)] {
        for linker in ["lld", "bfd"] {
            for level in ["0", "3"] {
                let name = format!("rust_crate::{model}::{linker}::opt_level_{level}");
                all.push(trial(name, move || {
                    let dir = Dir::new("rust-crate");
                    let model = format!("-Crelocation-model={model}");
                    let level = format!("-Copt-level={level}");
                    let program = build_with(linker, &dir, &[&model, &level]);
                    assert_eq!(Elf::read(&program).is_pie(), is_pie);
                    answered(&dir, &program);
                }));
            }
        }
    }
    all
}

/// Builds the crate and `tests/programs/questions.rs`.
fn build(dir: &Dir, flags: &[&str], linking: &[&str]) -> PathBuf {
    let root = Path::new(ROOT);
    let library = dir.join("liballocs.rlib");
    let program = dir.join("questions");
    let compiler = Command::new(rustc()).arg("--edition=2024").args(flags);
    let named = ["--crate-type=rlib", "--crate-name=allocs", "-o"];
    let sources = root.join("runtime/rust/src/lib.rs");
    compiler
        .clone()
        .args(named)
        .args([&library, &sources])
        .succeed();
    compiler
        .args(linking)
        .arg(format!("--extern=allocs={}", library.display()))
        .arg("-o")
        .args([&program, &root.join("tests/programs/questions.rs")])
        .succeed();
    program
}

fn build_with(linker: &str, dir: &Dir, flags: &[&str]) -> PathBuf {
    needs(if linker == "lld" { "ld.lld" } else { "ld" });
    let program = build(dir, flags, &[&format!("-Clink-arg=-fuse-ld={linker}")]);
    let elf = Elf::read(&program);
    let is_of_lld = elf.bytes().windows(11).any(|bytes| bytes == b"Linker: LLD");
    assert_eq!(is_of_lld, linker == "lld");
    program
}

/// It asks nothing before it is rewritten, and all of it afterwards.
fn answered(dir: &Dir, program: &Path) {
    assert_eq!(Command::new(program).succeed().stdout(), WITHOUT);
    let result = Rewrite::new(program, dir.make("rewritten").join("questions")).succeed();
    is_answered(&result.command());
}

fn is_answered(command: &Command) {
    let outcome = command.succeed();
    let stdout = outcome.stdout();
    let report = stdout.strip_prefix(WITH);
    let report = report.unwrap_or_else(|| panic!("{outcome}"));
    assert!(report.starts_with("allocations of process"), "{outcome}");
}

fn lto() {
    let dir = Dir::new("rust-crate-lto");
    let flags = ["-Copt-level=3", "-Clto=fat", "-Cembed-bitcode=yes"];
    answered(&dir, &build(&dir, &flags, &[]));
}

fn new_names() {
    let dir = Dir::new("rust-crate-new-names");
    answered(&dir, &build(&dir, &["-Csymbol-mangling-version=v0"], &[]));
}

fn preloaded() {
    let dir = Dir::new("rust-crate-preloaded");
    let program = build(&dir, &[], &[]);
    is_answered(&Command::new(program).env("LD_PRELOAD", tool::runtime()));
}

/// A panic ends the process before it gets to the runtime's frames, which cannot be unwound.
fn panics() {
    let dir = Dir::new("rust-crate-panics");
    let program = build(&dir, &["-Cpanic=unwind"], &[]);
    let outcome = Command::new(program)
        .arg("panic")
        .env("LD_PRELOAD", tool::runtime())
        .run();
    assert_eq!(outcome.ending(), "ended by signal 6", "{outcome}");
    assert!(outcome.stderr().contains("in a walk"), "{outcome}");
    assert_eq!(outcome.stdout(), "", "{outcome}");
}
