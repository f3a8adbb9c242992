//! `explain` beside what a user would run instead to see a program's libraries: `ldd`, which lets the
//! loader load them, and `lddtree` (Debian package pax-utils), where it is installed.
//!
//!     cargo bench -p allocs-tests --bench explain
//!
//! The commands run in turn, on a small program, on gdb, on the program in /usr/bin with the most
//! libraries, and on a generated one with 10,000. Printed are medians and ratios.
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

fn main() {
    let dir = Dir::new("bench-explain");
    let many = graph::many(&dir, MANY);
    let programs = [
        (PathBuf::from("/usr/bin/ls"), RUNS),
        (PathBuf::from("/usr/bin/gdb"), RUNS),
        (largest(), RUNS),
        (many, RUNS / 10),
    ];
    println!(
        "{:<28} {:>8} {:>12} {:>12} {:>12} {:>7} {:>8}",
        "program", "objects", "explain ms", "ldd ms", "lddtree ms", "ldd", "lddtree"
    );
    for (program, runs) in programs {
        let commands = [
            vec![tool::binary().display().to_string(), "explain".to_owned()],
            vec!["ldd".to_owned()],
            ["/usr/bin/python3", "/usr/bin/lddtree"]
                .map(str::to_owned)
                .into(),
        ];
        let [ours, ldd, lddtree] = medians(&commands, &program, runs);
        let ms = |time: Duration| time.as_secs_f64() * 1e3;
        let ratio = |time: Duration| time.as_secs_f64() / ours.expect("our own time").as_secs_f64();
        let shown = |time: Option<Duration>, format: &dyn Fn(Duration) -> String| {
            time.map_or("-".to_owned(), format)
        };
        println!(
            "{:<28} {:>8} {:>12} {:>12} {:>12} {:>7} {:>8}",
            program
                .display()
                .to_string()
                .split("/bench-explain")
                .next()
                .unwrap_or_default(),
            objects(&program),
            shown(ours, &|time| format!("{:.2}", ms(time))),
            shown(ldd, &|time| format!("{:.2}", ms(time))),
            shown(lddtree, &|time| format!("{:.2}", ms(time))),
            shown(ldd, &|time| format!("{:.1}x", ratio(time))),
            shown(lddtree, &|time| format!("{:.1}x", ratio(time))),
        );
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

/// Median time of each command on `program`, run in turn; `None` for one that is not installed.
fn medians(commands: &[Vec<String>; 3], program: &Path, runs: usize) -> [Option<Duration>; 3] {
    let mut times = [const { Vec::new() }; 3];
    for _ in 0..runs.max(3) {
        for (command, times) in commands.iter().zip(&mut times) {
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
