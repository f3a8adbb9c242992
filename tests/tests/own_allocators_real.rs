//! Programs as they are shipped that bring an allocator, or operators new and delete: all that they allocate is
//! seen, and they do what they did.

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::sample::rustc;
use allocs_tests::{Command, Dir, needs, tool, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile, gcc};
use crate::own_allocators::{diverted, is_known, leads_back, rewrite};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["own_allocators":
        rust_jemalloc,
        rust_mimalloc,
        the_compiler,
        the_linker,
        tcmalloc,
        operators_alone,
    ]
}

/// A program of `tests/allocators`, all of which are built at once.
pub(crate) fn rust(name: &str) -> PathBuf {
    let target = tool::binary()
        .with_file_name("allocs-tests")
        .join("allocators");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
        ])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/allocators/Cargo.toml"
        ))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo starts");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "cannot build tests/allocators: {said}"
    );
    target.join("release").join(name)
}

/// With `option`, all that the program allocates is seen, and given back by whom it came from.
fn rust_program(name: &str, option: &str) {
    let dir = Dir::new(name);
    let program = rust(name);
    let original = Command::new(&program).succeed();
    let result = rewrite(&dir, &program, &["--malloc", option]).succeed();
    let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
    outcome.assert_same_as(&original);
    // Each of four threads makes 2,000 vectors of zeros, as many boxes, and keeps names.
    assert!(report.allocations() > 24_000, "{outcome}{}", report.json());
    let freed = report.calls("free") + report.calls("free_sized");
    let live = report.number(&["live", "chunks"]);
    assert!(freed > 20_000, "{outcome}{}", report.json());
    assert!(live < 200, "{outcome}{live} chunks are left at the end");
    leads_back(&result);
}

fn rust_jemalloc() {
    rust_program("with_jemalloc", "_rjem_malloc=malloc");
}

fn rust_mimalloc() {
    rust_program("with_mimalloc", "mi_free=free");
}

/// rustc has jemalloc in its executable, and exports it: it makes the same program, and all is seen.
fn the_compiler() {
    let dir = Dir::new("own-rustc");
    let compiler = rustc();
    let libraries = compiler.with_file_name("../lib");
    std::os::unix::fs::symlink(libraries, dir.join("lib")).expect("a link");
    let result = rewrite(&dir, &compiler, &[]).succeed();
    assert!(diverted(&result).contains(&"malloc"), "{}", result.json);
    let source = dir.write("main.rs", "fn main() { println!(\"42\"); }\n");
    let compile = |command: Command, name: &str| {
        let program = dir.join(name);
        let command = command.arg("-O").arg(&source).arg("-o").arg(&program);
        (command, program)
    };
    let (original, expected) = compile(Command::new(&compiler), "expected");
    original.succeed();
    let (command, program) = compile(result.command(), "program");
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(
        report.calls("malloc") > 10_000,
        "{outcome}{}",
        report.json()
    );
    let bytes = |path: &Path| fs::read(path).expect("a program");
    assert!(
        bytes(&program) == bytes(&expected),
        "it made another program"
    );
    leads_back(&result);
}

/// mold has mimalloc in its executable, and exports it: it makes the same program, and all is seen. (As a rule it ends
/// by _exit, without a report.)
fn the_linker() {
    let dir = Dir::new("own-mold");
    let linker = needs("mold").canonicalize().expect("a real path");
    let result = rewrite(&dir, &linker, &[]).succeed();
    for name in ["malloc", "free", "_Znwm", "_ZdlPvm"] {
        assert!(diverted(&result).contains(&name), "{}", result.json);
    }
    let source = dir.write("main.c", "int main(void) { return 42; }\n");
    let object = dir.join("main.o");
    gcc().args(["-c", "-o"]).args([&object, &source]).succeed();
    let link = |command: Command, name: &str| {
        let program = dir.join(name);
        let command = command.args(["-pie", "--no-fork", "--no-quick-exit", "-o"]);
        let loader = ["-dynamic-linker", "/lib64/ld-linux-x86-64.so.2"];
        let command = command.arg(&program).args(loader).arg(gcc_file("Scrt1.o"));
        let libraries = gcc_file("libc.so.6");
        (command.args([&object, Path::new(&libraries)]), program)
    };
    let (original, expected) = link(Command::new(&linker), "expected");
    original.succeed();
    let (command, program) = link(result.command(), "program");
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(report.calls("malloc") > 1000, "{outcome}{}", report.json());
    let bytes = |path: &Path| fs::read(path).expect("a program");
    assert!(
        bytes(&program) == bytes(&expected),
        "it made another program"
    );
    assert_eq!(Command::new(&program).run().code(), Some(42));
    leads_back(&result);
}

/// Where gcc has a file of that name.
fn gcc_file(name: &str) -> String {
    let found = gcc().arg(format!("-print-file-name={name}")).succeed();
    found.stdout().trim().to_owned()
}

/// gperftools' allocator makes something by its own operator new when it is first asked how large a chunk is.
fn tcmalloc() {
    const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.a";
    let dir = Dir::new("own-tcmalloc");
    needs(TCMALLOC);
    let flags = [TCMALLOC, "-lstdc++", "-lm"];
    let program = compile(&dir, gcc(), "stress.c", &flags);
    let result = rewrite(&dir, &program, &[]).succeed();
    assert!(diverted(&result).contains(&"_Znwm"), "{}", result.json);
    is_known(&dir, &result, &["foreign"]);
    leads_back(&result);
}

/// A program that brings operators, and takes what they hand out from libc: all is known, whose it is and where it was
/// asked for.
fn operators_alone() {
    let dir = Dir::new("own-operators");
    let operators = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/programs/calling_operators.cpp"
    );
    for flags in [
        &["-std=c++17", "-O2", operators][..],
        &["-std=c++17", "-O2", operators, "-rdynamic"],
    ] {
        let program = compile(&dir, Command::new(needs("g++")), "operators.cpp", flags);
        let original = Command::new(&program).succeed();
        let result = rewrite(&dir, &program, &[]).succeed();
        assert!(diverted(&result).is_empty(), "{}", result.json);
        let file = dir.join("answers");
        let outcome = result.command().env("ANSWERS", &file).run();
        outcome.assert_same_as(&original);
        assert!(answers(&file) > 15, "{outcome}");
        leads_back(&result);
    }
}
