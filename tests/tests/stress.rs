//! A program that allocates at random in many threads, and holds the index against its own list of chunks:
//! rewritten and preloaded, with every allocator that Debian has, under limits, under glibc's own debugging aids,
//! under valgrind, under musl and under four releases' glibc.
//!
//! ALLOCS_OPERATIONS=50000000 lets the long one run for minutes, and ALLOCS_SEEDS=FIRST..END others than the usual.

use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::tool;
use allocs_tests::tree::{self, Tree};
use allocs_tests::trial::seeds;
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, trial, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile, gcc};
use crate::rivals;

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["stress":
        rewritten,
        preloaded,
        address_space_limit,
        debugging_of_glibc,
        debugging_library,
        musl,
        memcheck,
    ];
    for allocator in ALLOCATORS {
        let name = |how| format!("stress::{}::{how}", allocator.0);
        all.push(trial(name("ahead"), || ahead(allocator.1)));
        all.push(trial(name("behind"), || behind(allocator.1)));
        all.push(trial(name("linked"), || linked(allocator.1)));
    }
    for tree in tree::all() {
        let name = format!("stress::{}", tree.release);
        all.push(trial(name, || in_tree(tree)));
    }
    all
}

const ALLOCATORS: &[(&str, &str)] = &[
    ("jemalloc", "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2"),
    (
        "tcmalloc",
        "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
    ),
    ("mimalloc", "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0"),
];

/// Operations of the runs that are not the long one.
const FEW: &str = "100000";

/// It ends well, and says nothing else.
fn succeed(command: &Command) -> Outcome {
    let outcome = command.run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    assert_eq!(outcome.stderr(), "", "{outcome}");
    outcome
}

/// Runs `command`, in which the runtime is; the index must have known the chunks.
fn known(dir: &Dir, command: &Command) {
    let file = dir.join("answers");
    let outcome = succeed(&command.clone().env("ANSWERS", &file));
    let answers = answers(&file);
    assert!(answers > 10_000, "{outcome}{answers} answers");
}

fn build(dir: &Dir) -> PathBuf {
    compile(dir, gcc(), "stress.c", &[])
}

fn rewrite(dir: &Dir, program: &Path) -> PathBuf {
    let name = program.file_name().expect("a name");
    let out = dir.make("rewritten").join(name);
    Rewrite::new(program, out).succeed().path
}

fn rewritten() {
    let dir = Dir::new("stress");
    let program = rewrite(&dir, &build(&dir));
    let operations = std::env::var("ALLOCS_OPERATIONS").unwrap_or_else(|_| "2000000".to_owned());
    for seed in seeds("1..2") {
        let command = Command::new(&program)
            .args(["8", &operations, &seed.to_string()])
            .limit(Duration::from_secs(1800));
        known(&dir, &command);
    }
}

/// Where the constructor is the first that the runtime hears of, and one thread alone as well.
fn preloaded() {
    let dir = Dir::new("stress-preloaded");
    let program = build(&dir);
    for threads in ["1", "3", "40"] {
        let command = Command::new(&program).args([threads, FEW, "2"]);
        succeed(&command);
        known(&dir, &command.env("LD_PRELOAD", tool::runtime()));
    }
}

/// Where an allocator comes ahead of the runtime, its chunks are not known; what is said of them is not wrong.
fn ahead(allocator: &str) {
    let dir = Dir::new("stress-ahead");
    let program = rewrite(&dir, &build(&dir));
    let command = Command::new(program).args(["4", FEW, "3", "foreign", "incomplete"]);
    succeed(&command.env("LD_PRELOAD", needs(allocator)));
}

fn behind(allocator: &str) {
    let dir = Dir::new("stress-behind");
    let command = Command::new(build(&dir)).args(["4", FEW, "4", "foreign"]);
    let allocator = needs(allocator);
    succeed(&command.clone().env("LD_PRELOAD", &allocator));
    let both = format!("{}:{}", tool::runtime().display(), allocator.display());
    known(&dir, &command.env("LD_PRELOAD", both));
}

fn linked(allocator: &str) {
    let dir = Dir::new("stress-linked");
    let allocator = needs(allocator);
    let flags = ["-Wl,--no-as-needed", &allocator.display().to_string()];
    let program = compile(&dir, gcc(), "stress.c", &flags);
    let command = Command::new(rewrite(&dir, &program)).args(["4", FEW, "5", "foreign"]);
    known(&dir, &command);
}

/// There may be no memory for an index, or for a chunk. The program's own memory comes first.
fn address_space_limit() {
    let dir = Dir::new("stress-limit");
    let original = build(&dir);
    let program = rewrite(&dir, &original);
    for (threads, mebibytes) in [("8", 1024), ("8", 400), ("2", 60), ("1", 20)] {
        let limited = |program: &Path| {
            Command::new(program)
                .args([threads, FEW, "6", "incomplete"])
                .memory_limit(mebibytes << 20)
        };
        succeed(&limited(&original));
        succeed(&limited(&program));
    }
    // Enough for everything.
    let command = Command::new(&program).args(["8", FEW, "6"]);
    known(&dir, &command.memory_limit(4 << 30));
}

fn debugging_of_glibc() {
    let dir = Dir::new("stress-debugging");
    let program = rewrite(&dir, &build(&dir));
    for (name, value) in [
        ("MALLOC_CHECK_", "3"),
        ("MALLOC_PERTURB_", "165"),
        ("MALLOC_ARENA_MAX", "1"),
        ("GLIBC_TUNABLES", "glibc.malloc.check=3"),
        ("GLIBC_TUNABLES", "glibc.malloc.tcache_count=0"),
        ("GLIBC_TUNABLES", "glibc.malloc.mxfast=0"),
        ("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1"),
        ("GLIBC_TUNABLES", "glibc.malloc.mmap_threshold=1024"),
    ] {
        let command = Command::new(&program).args(["4", FEW, "7"]);
        known(&dir, &command.env(name, value));
    }
}

/// glibc's library of debugging aids is an allocator of its own, ahead of the runtime or behind it.
fn debugging_library() {
    let dir = Dir::new("stress-debugging-library");
    let original = build(&dir);
    let program = rewrite(&dir, &original);
    let both = format!("{}:libc_malloc_debug.so.0", tool::runtime().display());
    for check in ["0", "3"] {
        let with = |program: &Path, preload: &str| {
            Command::new(program)
                .args(["4", FEW, "8"])
                .env("LD_PRELOAD", preload)
                .env("MALLOC_CHECK_", check)
        };
        succeed(&with(&program, "libc_malloc_debug.so.0").arg("incomplete"));
        known(&dir, &with(&original, &both));
    }
}

fn musl() {
    let dir = Dir::new("stress-musl");
    let original = compile(&dir, Command::new(needs("musl-gcc")), "stress.c", &[]);
    let program = rewrite(&dir, &original);
    for threads in ["1", "4"] {
        let arguments = [threads, FEW, "9"];
        succeed(&Command::new(&original).args(arguments));
        known(&dir, &Command::new(&program).args(arguments));
    }
}

/// memcheck, which replaces the functions of all allocators, finds nothing that it does not find in the original.
fn memcheck() {
    let dir = Dir::new("stress-memcheck");
    let original = build(&dir);
    let program = rewrite(&dir, &original);
    for program in [original, program] {
        succeed(
            &Command::new(needs("valgrind"))
                .args(["-q", "--error-exitcode=9", "--leak-check=full"])
                .arg(program)
                .args(["2", "20000", "10", "foreign", "small", "silent"]),
        );
    }
}

/// Built against the oldest glibc, run under each.
fn in_tree(tree: &'static Tree) {
    let dir = Dir::new("stress-tree");
    let original = compile(&dir, rivals::gcc(&dir, ""), "stress.c", &[]);
    let program = rewrite(&dir, &original);
    let file = dir.join("answers");
    let run = |program: &Path, variables: &[(&str, String)], more: &[&str]| {
        let mut arguments = vec!["4", FEW, "11"];
        arguments.extend(more);
        let outcome = tree.run(variables, program, &arguments);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    };
    run(&original, &[], &[]);
    run(&program, &[("ANSWERS", file.display().to_string())], &[]);
    assert!(answers(&file) > 10_000);
    // Up to 2.33 checks are functions in place of the allocator's, whose chunks are not looked into.
    run(
        &program,
        &[("MALLOC_CHECK_", "3".to_owned())],
        &["incomplete"],
    );
}
