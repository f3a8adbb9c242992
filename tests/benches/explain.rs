//! `explain` beside what a user would run instead: `ldd`, which lets the loader load the libraries,
//! `ldd -r`, which lets it bind their symbols as well, and `lddtree` (Debian package pax-utils), where it
//! is installed.
//!
//!     cargo bench -p allocs-tests --bench explain
//!
//! The commands run in turn, on a small program, on the program in /usr/bin with the most libraries, and
//! on a generated one with 10,000. Printed are medians and ratios.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run says why and stops"
)]

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use allocs_tests::{Dir, graph, tool};

/// Runs of each command on a system's program; a tenth of that on the generated one.
const RUNS: usize = 40;
const MANY: usize = 10_000;

/// What is run with the program as its last argument; our own is the first.
fn commands() -> [(&'static str, Vec<String>); 4] {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect();
    let ours = vec![tool::binary().display().to_string(), "explain".to_owned()];
    [
        ("explain", ours),
        ("ldd", words("ldd")),
        ("ldd -r", words("ldd -r")),
        ("lddtree", words("/usr/bin/python3 /usr/bin/lddtree")),
    ]
}

fn main() {
    let dir = Dir::new("bench-explain");
    let many = graph::many(&dir, MANY);
    let programs = [
        ("ls", PathBuf::from("/usr/bin/ls"), RUNS),
        ("most libraries", largest(), RUNS),
        ("generated", many, RUNS / 10),
    ];
    for (name, program, runs) in programs {
        let count = objects(&program);
        println!("{name} ({}), {count} objects", program.display());
        let times = medians(&program, runs);
        let ours = times
            .first()
            .copied()
            .flatten()
            .expect("our own time")
            .as_secs_f64();
        for ((command, _), time) in commands().iter().zip(times) {
            match time.map(|time| time.as_secs_f64()) {
                Some(time) => println!(
                    "  {command:<8} {:>10.2} ms {:>6.1}x",
                    time * 1e3,
                    time / ours
                ),
                None => println!("  {command:<8} fails, or is not installed"),
            }
        }
    }
}

/// Number of objects that are loaded for a program; 0 if it cannot be explained.
fn objects(program: &Path) -> usize {
    let output = Command::new(tool::binary())
        .args(["explain", "--json"])
        .arg(program)
        .output()
        .expect("explain starts");
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    json["load_order"].as_array().map_or(0, Vec::len)
}

/// The program in /usr/bin with the most libraries.
fn largest() -> PathBuf {
    let entries = std::fs::read_dir("/usr/bin").expect("/usr/bin");
    let programs = entries.filter_map(|entry| entry.ok()?.path().canonicalize().ok());
    let largest = programs.max_by_key(|program| (objects(program), program.clone()));
    largest.expect("a program")
}

/// Median time of each command on `program`, run in turn; `None` for one that fails.
fn medians(program: &Path, runs: usize) -> [Option<Duration>; 4] {
    let mut times = [const { Vec::new() }; 4];
    for _ in 0..runs.max(3) {
        for ((_, command), times) in commands().iter().zip(&mut times) {
            let start = Instant::now();
            let status = Command::new(&command[0])
                .args(&command[1..])
                .arg(program)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .env_remove("LD_LIBRARY_PATH") // cargo's, which would slow ldd down
                .status();
            let answers = [Some(0), Some(3)]; // 3: not rewritten
            if status.is_ok_and(|status| answers.contains(&status.code())) {
                times.push(start.elapsed());
            }
        }
    }
    times.map(|mut times| {
        times.sort();
        times.get(times.len() / 2).copied()
    })
}
