//! The way back: `undo` gives the original's bytes, `refresh` what a fresh rewrite would be, however
//! often, and after strip as long as the rewrite kept the file's size.
//!
//! That undo gives back every layout and every program of the system is asked where those are
//! rewritten (`structure::check`).

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, Rewrite, needs, trial, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["undo":
        ten_rounds,
        refresh_is_a_fresh_rewrite,
        refresh_keeps_what_is_not_given,
        after_strip_of_what_grew,
        after_a_change_of_what_grew,
        of_another_file,
        musl,
        with_a_runtime_of_its_own,
        data_behind_the_program,
    ];
    for (name, tool, args) in STRIPS {
        for variant in VARIANTS {
            let name = format!("undo::after::{name}::{}", variant.0);
            all.push(trial(name, move || after(tool, args, variant)));
        }
    }
    all
}

/// Name, tool, arguments; the file to change comes last.
const STRIPS: &[(&str, &str, &[&str])] = &[
    ("strip", "strip", &[]),
    ("strip-debug", "strip", &["--strip-debug"]),
    ("llvm-strip", "llvm-strip-14", &[]),
    ("eu-strip", "eu-strip", &[]),
    (
        "objcopy-remove",
        "objcopy",
        &["--remove-section", ".comment"],
    ),
    (
        "objcopy-compress",
        "objcopy",
        &["--compress-debug-sections"],
    ),
];

/// Name, compiler, flags.
type Build = (&'static str, &'static str, &'static [&'static str]);

const VARIANTS: &[Build] = &[
    ("pie", "gcc", &["-g"]),
    ("hash", "gcc", &["-g", "-Wl,--hash-style=both"]),
    ("gold", "gcc", &["-g", "-fuse-ld=gold"]),
    ("clang", "clang", &["-g"]),
];

fn build(dir: &Dir, compiler: &'static str, flags: &[&str]) -> PathBuf {
    needs("ld.gold");
    let variant = Variant {
        compiler,
        ..Variant::GCC
    };
    Sample::named("threads").build(&dir.path(), variant, flags)
}

fn rewriter(command: &str) -> Command {
    Command::new(tool::binary()).arg(command)
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// Strip of the rewritten file, undone, is strip of the original.
fn after(tool: &str, args: &[&str], (_, compiler, flags): &Build) {
    let dir = Dir::new("undo-after");
    let original = build(&dir, compiler, flags);
    let result = Rewrite::new(&original, dir.join("rewritten")).succeed();
    assert!(result.recycled(), "{}: has grown", result.path.display());
    for file in [&original, &result.path] {
        Command::new(needs(tool)).args(args).arg(file).succeed();
    }
    let undone = tool::undo(&result.path);
    assert!(undone == read(&original), "{}", result.path.display());
}

/// Rewritten, undone and refreshed again and again, with names that fit and that do not.
fn ten_rounds() {
    let dir = Dir::new("rounds");
    let file = build(&dir, "gcc", &[]);
    let original = read(&file);
    let long = format!("$ORIGIN/{RUNTIME}-by-a-name-that-is-too-long-for-the-room-that-there-is");
    fs::copy(
        tool::runtime(),
        dir.join(long.trim_start_matches("$ORIGIN/")),
    )
    .expect("a runtime");
    let mut first = None;
    for round in 0..10 {
        let in_place = ["--in-place", "--in-place=direct"][round % 2];
        let run = |args: &[&str]| {
            Command::new(tool::binary())
                .args(args)
                .arg(in_place)
                .arg(&file)
                .succeed();
            read(&file)
        };
        let short = run(&[]);
        let grown = run(&["refresh", "--runtime", &long]);
        let back = run(&["refresh", "--runtime", &format!("$ORIGIN/{RUNTIME}")]);
        assert!(back == short, "round {round}: {}", file.display());
        let all = (short, grown);
        assert!(*first.get_or_insert(all.clone()) == all, "round {round}");
        assert!(run(&["undo"]) == original, "round {round}");
    }
}

fn refresh_is_a_fresh_rewrite() {
    let dir = Dir::new("refresh");
    let original = build(&dir, "gcc", &[]);
    let before = Rewrite::new(&original, dir.join("before")).succeed();
    let runtime = tool::runtime().to_owned();
    let fresh = Rewrite::new(&original, dir.join("fresh"))
        .arg("--runtime")
        .arg(&runtime)
        .succeed();
    let refreshed = dir.join("refreshed");
    rewriter("refresh")
        .arg(&before.path)
        .arg("-o")
        .arg(&refreshed)
        .arg("--runtime")
        .arg(&runtime)
        .succeed();
    assert!(
        read(&refreshed) == read(&fresh.path),
        "{}",
        refreshed.display()
    );
    let (outcome, report) = Report::of(&Command::new(&refreshed), &dir.join("report.json"));
    assert_eq!(report.before_init(), 0, "{outcome}");
}

/// The phase of a runtime's init, say; and the own runtime's file is there.
fn refresh_keeps_what_is_not_given() {
    let dir = Dir::new("refresh-keeps");
    let original = build(&dir, "gcc", &[]);
    let before = Rewrite::new(&original, dir.join("before"))
        .args_line("--init allocs_init")
        .succeed();
    let elsewhere = dir.make("elsewhere").join("refreshed");
    rewriter("refresh")
        .arg(&before.path)
        .arg("-o")
        .arg(&elsewhere)
        .succeed();
    assert!(
        read(&elsewhere) == read(&before.path),
        "{}",
        elsewhere.display()
    );
    Command::new(&elsewhere).succeed();
}

fn grown(dir: &Dir) -> (PathBuf, PathBuf) {
    let original = build(dir, "gcc", &["-g"]);
    let runtime = dir.join(format!("{RUNTIME}-by-a-name-that-is-too-long"));
    fs::copy(tool::runtime(), &runtime).expect("a runtime");
    let result = Rewrite::new(&original, dir.join("grown"))
        .arg("--runtime")
        .arg(&runtime)
        .succeed();
    assert!(!result.recycled());
    (original, result.path)
}

/// undo says that it cannot, and leaves the file alone.
fn no_way_back(file: &Path) {
    let before = read(file);
    for command in ["undo", "refresh"] {
        let outcome = rewriter(command).arg("--in-place").arg(file).run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        let text = outcome.stderr();
        let said = text.contains("lead back") && text.contains(&*file.to_string_lossy());
        assert!(said && text.contains("use the original"), "{outcome}");
    }
    assert!(read(file) == before, "{}: changed", file.display());
}

fn after_strip_of_what_grew() {
    let dir = Dir::new("undo-grown-strip");
    let (_, result) = grown(&dir);
    Command::new(needs("strip")).arg(&result).succeed();
    no_way_back(&result);
    Command::new(&result).succeed();
}

/// What patchelf did would be lost.
fn after_a_change_of_what_grew() {
    let dir = Dir::new("undo-grown-changed");
    let (original, result) = grown(&dir);
    assert!(tool::undo(&result) == read(&original));
    Command::new(needs("patchelf"))
        .args(["--set-rpath", "/nonexistent"])
        .arg(&result)
        .succeed();
    no_way_back(&result);
}

fn of_another_file() {
    let dir = Dir::new("undo-other");
    let original = build(&dir, "gcc", &[]);
    for command in ["undo", "refresh"] {
        let outcome = rewriter(command)
            .arg(&original)
            .arg("-o")
            .arg(dir.join("out"))
            .run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains("is not rewritten"), "{outcome}");
        assert!(!dir.join("out").exists(), "{outcome}");
    }
}

fn musl() {
    let dir = Dir::new("undo-musl");
    let source = dir.write("main.c", "int main(void) { return 7; }\n");
    let original = dir.join("main");
    Command::new(needs("musl-gcc"))
        .arg(source)
        .arg("-o")
        .arg(&original)
        .succeed();
    let result = Rewrite::new(&original, dir.join("rewritten")).succeed();
    assert!(
        result.undo() == read(&original),
        "{}",
        result.path.display()
    );
}

/// A program that was linked with the runtime in its DT_NEEDED list.
fn with_a_runtime_of_its_own() {
    let dir = Dir::new("undo-linked");
    let source = dir.write("main.c", "int main(void) { return 0; }\n");
    let original = dir.join("main");
    fs::copy(tool::runtime(), dir.join(RUNTIME)).expect("a runtime");
    Command::new(needs("gcc"))
        .arg(source)
        .args(["-Wl,--no-as-needed", "-lm", "-l:liballocs_rt.so.1", "-L"])
        .arg(dir.path())
        .arg("-Wl,-rpath,$ORIGIN")
        .arg("-o")
        .arg(&original)
        .succeed();
    let result = Rewrite::new(&original, dir.join("rewritten"))
        .arg("--runtime")
        .arg(RUNTIME)
        .succeed();
    result.command().succeed();
    assert!(
        result.undo() == read(&original),
        "{}",
        result.path.display()
    );
}

/// It comes back to its place, and stays where it is if nothing but a way back would move it.
fn data_behind_the_program() {
    let dir = Dir::new("undo-appended");
    let original = build(&dir, "gcc", &[]);
    let mut bytes = read(&original);
    bytes.extend(b"a payload, to be found from the end");
    fs::write(&original, &bytes).expect("a longer program");
    let result = Rewrite::new(&original, dir.join("short")).succeed();
    assert!(result.recycled() && result.undo() == bytes);
    let runtime = dir.join(format!("{RUNTIME}-by-a-name-that-is-too-long"));
    fs::copy(tool::runtime(), &runtime).expect("a runtime");
    let result = Rewrite::new(&original, dir.join("long"))
        .arg("--runtime")
        .arg(&runtime)
        .succeed();
    assert!(!result.recycled() && result.undo() == bytes);
}
