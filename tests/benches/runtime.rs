//! What the runtime costs: a program as it is and rewritten, side by side.
//!
//!     cargo bench -p allocs-tests
//!
//! Instructions are counted by callgrind (user space, every run alike): of one malloc and free
//! pair, by the difference between two loops, and of a whole short program. Times are medians of
//! runs in turn. Needs the Debian packages gcc, valgrind and libjemalloc-dev.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run says why and stops"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use allocs_tests::{Dir, Rewrite};

/// argv: size, number of pairs.
const PAIRS: &str = r"
#include <stdlib.h>
int main(int argc, char **argv) {
    size_t size = strtoul(argv[argc - 2], NULL, 10);
    for (long left = strtol(argv[argc - 1], NULL, 10); left > 0; left--) {
        void *volatile chunk = malloc(size);
        free(chunk);
    }
    return 0;
}
";
const SIZES: [&str; 3] = ["16", "1000", "100000"];
/// The same with as many chunks at a time as one of which is a sample; no longer when there are enough.
const RING: &str = r"
#include <stdlib.h>
static void *volatile ring[64];
int main(int argc, char **argv) {
    size_t size = strtoul(argv[argc - 2], NULL, 10);
    for (long left = strtol(argv[argc - 1], NULL, 10); left > 0; left--) {
        free(ring[left % 64]);
        ring[left % 64] = malloc(size);
    }
    return 0;
}
";
const AFTER_SAMPLES: u64 = 600_000;
/// jemalloc as a library, and in the executable, with C++'s operators in the place of malloc and free as well.
const JEMALLOC: [(&str, &str, &[&str]); 3] = [
    ("library", "libjemalloc.so.2", &[]),
    ("executable", "libjemalloc.a", &[]),
    (
        "operators",
        "libjemalloc.a",
        &["-Dmalloc=_Znwm", "-Dfree=_ZdlPv"],
    ),
];
const LIBRARIES: &str = "/usr/lib/x86_64-linux-gnu";
const COUNTED: u64 = 100_000;
const TIMED: u64 = 5_000_000;
const RUNS: usize = 11;
const STARTS: usize = 200;

fn main() {
    let dir = Dir::new("bench-runtime");
    let source = dir.write("pairs.c", PAIRS);
    let original = dir.join("pairs");
    run(Command::new("gcc")
        .args(["-O1", "-o"])
        .args([&original, &source]));
    let rewritten = Rewrite::new(&original, dir.join("rewritten")).succeed();
    let pair = [original, rewritten.path];
    println!(
        "{:<28} {:>12} {:>12} {:>6}",
        "", "original", "rewritten", "ratio"
    );
    for size in SIZES {
        let [old, new] = [&pair[0], &pair[1]].map(|program| pair_of(&dir, program, size, 1000));
        print(&format!("{size} bytes: instructions"), old, new);
        let [old, new] = medians(&pair, RUNS, &[size, &TIMED.to_string()]);
        let per_pair = |time: Duration| time.as_secs_f64() * 1e9 / TIMED as f64;
        print(&format!("{size} bytes: ns"), per_pair(old), per_pair(new));
    }
    own_allocator(&dir);
    let start = Rewrite::new("/bin/true", dir.join("true")).succeed();
    let start = [PathBuf::from("/bin/true"), start.path];
    let [old, new] = [&start[0], &start[1]].map(|program| instructions(&dir, program, &[]) as f64);
    print("true: instructions", old, new);
    let [old, new] = medians(&start, STARTS, &[]);
    let micros = |time: Duration| time.as_secs_f64() * 1e6;
    print("true: µs", micros(old), micros(new));
}

/// What a pair costs more that was led to the runtime in the executable, beside one that the runtime hooks: the same
/// allocator as an archive and as a library.
fn own_allocator(dir: &Dir) {
    let source = dir.write("ring.c", RING);
    let added = JEMALLOC.map(|(what, file, flags)| {
        let original = dir.join(what);
        run(Command::new("gcc")
            .args(["-O1", "-fno-builtin", "-Wl,--no-as-needed"])
            .args(flags)
            .arg("-o")
            .args([&original, &source, &Path::new(LIBRARIES).join(file)])
            .args(["-lstdc++", "-lm"]));
        let rewritten = Rewrite::new(&original, dir.make("own").join(what)).succeed();
        let [old, new] =
            [&original, &rewritten.path].map(|program| pair_of(dir, program, "16", AFTER_SAMPLES));
        print(&format!("jemalloc, {what}: instructions"), old, new);
        new - old
    });
    let [hooked, diverted, operators] = added;
    println!(
        "added to a pair: {hooked:.1} by hooks, {diverted:.1} where it was led to the runtime ({:+.1} a call), \
         {operators:.1} to operators ({:+.1})",
        (diverted - hooked) / 2.0,
        (operators - hooked) / 2.0,
    );
}

/// Instructions of a pair, when `from` pairs were made.
fn pair_of(dir: &Dir, program: &Path, size: &str, from: u64) -> f64 {
    let count = |pairs: u64| instructions(dir, program, &[size, &pairs.to_string()]);
    (count(from + COUNTED) - count(from)) as f64 / COUNTED as f64
}

fn print(what: &str, old: f64, new: f64) {
    println!("{what:<28} {old:>12.1} {new:>12.1} {:>5.2}x", new / old);
}

fn run(command: &mut Command) {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.unwrap_or_else(|error| panic!("{command:?}: {error}; install it"));
    assert!(status.success(), "{command:?}: {status}");
}

/// Instructions of one run in user space, the loader's included.
fn instructions(dir: &Dir, program: &Path, arguments: &[&str]) -> u64 {
    let output = dir.join("callgrind");
    run(Command::new("valgrind")
        .args(["-q", "--tool=callgrind"])
        .arg(format!("--callgrind-out-file={}", output.display()))
        .arg(program)
        .args(arguments));
    let text = std::fs::read_to_string(output).expect("callgrind's output");
    let total = text.lines().find_map(|line| line.strip_prefix("totals: "));
    total
        .and_then(|number| number.trim().parse().ok())
        .expect("callgrind's total")
}

/// Median times of both programs, run in turn.
fn medians(programs: &[PathBuf; 2], runs: usize, arguments: &[&str]) -> [Duration; 2] {
    let mut times = [Vec::new(), Vec::new()];
    for _ in 0..runs {
        for (program, times) in programs.iter().zip(&mut times) {
            let start = Instant::now();
            run(Command::new(program).args(arguments));
            times.push(start.elapsed());
        }
    }
    times.map(|mut times| {
        times.sort();
        times[times.len() / 2]
    })
}
