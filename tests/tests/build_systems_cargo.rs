//! `cargo allocs-rewrite` rewrites what cargo builds, beside it, and runs that: the sample `anagrams`, a workspace.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use allocs_tests::prefix::{Prefix, copy_directory, is_first, stamp};
use allocs_tests::sample::rustc;
use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) fn trials() -> Vec<Trial> {
    trials!["build_systems::cargo": builds, release, runs, tests, failures]
}

/// A copy of the sample.
struct Workspace {
    prefix: Prefix,
    path: PathBuf,
    dir: Dir,
}

impl Workspace {
    fn new(name: &str) -> Self {
        let dir = Dir::new(&format!("cargo-{name}"));
        let path = dir.make("samples/anagrams");
        copy_directory(&Path::new(ROOT).join("samples/anagrams"), &path);
        // It depends on a crate of the project's workspace.
        for name in ["Cargo.toml", "rewriter", "runtime", "tests"] {
            symlink(Path::new(ROOT).join(name), dir.join(name)).expect("a link");
        }
        needs("gcc");
        Self {
            prefix: Prefix::new(&dir),
            path,
            dir,
        }
    }

    fn cargo(&self, line: &str) -> Command {
        let cargo = self.prefix.command(rustc().with_file_name("cargo"));
        let cargo = cargo.env("CARGO_HOME", self.dir.join("home"));
        let cargo = cargo.env("RUSTC", rustc()).env("CARGO_NET_OFFLINE", "true");
        let cargo = cargo.env("RUSTDOC", rustc().with_file_name("rustdoc"));
        cargo.args(line.split_whitespace()).dir(&self.path)
    }

    fn result(&self, name: &str) -> PathBuf {
        self.path.join("target").join(name)
    }
}

/// The program has to start `runtime` before all else, and get its answer.
fn starts_first(program: &Path, runtime: &Path) {
    let command = Command::new(program);
    let outcome = command.succeed();
    assert!(
        outcome.stdout().ends_with("84 bytes of words\n"),
        "{outcome}"
    );
    is_first(&command, program, runtime);
}

/// Each program is rewritten when it, the tool or the runtime's name has changed, and only then.
fn builds() {
    let workspace = Workspace::new("builds");
    let build = |line: &str| workspace.cargo(line).succeed();
    let outcome = build("allocs-rewrite build --all-targets");
    let program = workspace.result("debug/anagrams.allocs");
    let beside = workspace.result("debug").join(RUNTIME);
    starts_first(&program, &beside);
    let summary = format!("{}: starts $ORIGIN/{RUNTIME} first", program.display());
    assert!(outcome.stderr().contains(&summary), "{outcome}");
    let original = Command::new(workspace.result("debug/anagrams")).succeed();
    assert!(
        original.stdout().ends_with("nobody knows what they cost\n"),
        "{original}"
    );

    // The example and the tests too, and no build script.
    let listing = allocs_tests::dir::listing(&workspace.result("debug"));
    let rewritten = listing
        .keys()
        .filter(|path| path.extension().is_some_and(|is| is == "allocs"));
    let names: Vec<_> = rewritten.map(|path| path.display().to_string()).collect();
    assert!(
        names
            .iter()
            .any(|name| name.ends_with("examples/longest.allocs")),
        "{names:?}"
    );
    assert!(
        names.iter().all(|name| !name.contains("/build/")),
        "{names:?}"
    );

    let build = || build("allocs-rewrite build");
    let built = stamp(&program);
    let outcome = build();
    assert_eq!(stamp(&program), built, "{outcome}nothing was to be done");

    let source = workspace.path.join("anagrams/src/main.rs");
    let text = fs::read_to_string(&source).expect("a source");
    fs::write(&source, text.replace("bytes of words", "84 bytes of words")).expect("written");
    build();
    assert!(
        Command::new(&program)
            .succeed()
            .stdout()
            .ends_with("84 84 bytes of words\n")
    );
    let edited = stamp(&program);

    workspace.prefix.upgrade("cargo-allocs-rewrite");
    build();
    assert_ne!(stamp(&program), edited, "the tool has changed");

    fs::remove_file(&beside).expect("removed");
    build();
    starts_first(&program, &beside);

    let runtime = workspace.prefix.runtime();
    let named = format!("allocs-rewrite --runtime {} build", runtime.display());
    for _ in 0..2 {
        workspace.cargo(&named).succeed();
        starts_first(&program, &runtime);
    }
}

/// Stripped and with LTO, to be packaged.
fn release() {
    let workspace = Workspace::new("release");
    let runtime = workspace.prefix.runtime();
    let line = format!(
        "allocs-rewrite --runtime {} build --release",
        runtime.display()
    );
    workspace.cargo(&line).succeed();
    starts_first(&workspace.result("release/anagrams.allocs"), &runtime);
    assert!(!workspace.result("release").join(RUNTIME).exists());
}

/// Whatever runner is set for plain cargo.
fn runs() {
    let workspace = Workspace::new("runs");
    let run = workspace
        .cargo("allocs-rewrite run --quiet")
        .env("CARGO_TARGET_X86_64_UNKNOWN_LINUX_GNU_RUNNER", "false");
    let outcome = run.succeed();
    assert!(
        outcome.stdout().ends_with("84 bytes of words\n"),
        "{outcome}"
    );
    assert_eq!(outcome.stderr(), "", "{outcome}");

    let example = workspace
        .cargo("allocs-rewrite run --example longest -- --quiet")
        .env("ALLOCS_REPORT", "-");
    let outcome = example.succeed();
    assert_eq!(outcome.stdout(), "tinsel\n", "{outcome}");
    assert!(
        outcome.stderr().contains("started: relocation"),
        "{outcome}"
    );
}

/// Those of units, of the library as a whole, and of its documentation.
fn tests() {
    let workspace = Workspace::new("tests");
    let test = workspace
        .cargo("allocs-rewrite test")
        .env("ALLOCS_REPORT", "-");
    let outcome = test.succeed();
    let printed = outcome.stdout() + &outcome.stderr();
    let started = printed.matches("started: relocation").count();
    assert_eq!(started, 4, "{outcome}");
}

/// What cargo, the rewrite or the program says, with its exit status.
fn failures() {
    let workspace = Workspace::new("failures");
    let fails = |command: Command, code: i32, message: &str| {
        let outcome = command.run();
        assert_eq!(outcome.code(), Some(code), "{outcome}");
        assert!(outcome.stderr().contains(message), "{outcome}{message}");
    };
    let build = || workspace.cargo("allocs-rewrite build");
    fails(build().arg("--bin=two"), 101, "no bin target named `two`");
    fails(
        workspace.cargo("allocs-rewrite walk"),
        2,
        "unrecognized subcommand 'walk'",
    );
    let is_static = ("RUSTFLAGS", "-Ctarget-feature=+crt-static");
    for verb in ["build", "run"] {
        let line = format!("allocs-rewrite {verb} --target x86_64-unknown-linux-gnu");
        let command = workspace.cargo(&line).env(is_static.0, is_static.1);
        fails(command, 1, "cargo allocs-rewrite: ");
    }
    let source = workspace.path.join("anagrams/src/main.rs");
    fs::write(&source, "fn main() { std::process::exit(42) }").expect("written");
    fails(workspace.cargo("allocs-rewrite run"), 42, "");
    fs::write(&source, "fn main() { 42 }").expect("written");
    fails(build(), 101, "mismatched types");
}
