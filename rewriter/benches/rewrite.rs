//! Rewriting beside what a user would run instead: `cp`, and Debian's `patchelf --add-needed`.
//!
//!     cargo bench -p allocs-rewrite [-- DIRECTORY [PROGRAM...]]
//!
//! The commands run in turn, so that a machine whose speed drifts slows all of them alike; each
//! writes a new file in DIRECTORY (by default cargo's temporary one). Printed are medians, ratios
//! of medians, and the largest resident set. Needs the Debian packages `patchelf` and `time`.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

/// Runs of each command; the first is not counted.
const RUNS: usize = 21;

/// A small, a middle-sized and a large executable.
const PROGRAMS: [&str; 3] = ["/usr/bin/ls", "/usr/bin/gdb", "/usr/bin/node"];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let mut arguments = std::env::args()
        .skip(1)
        .filter(|argument| argument != "--bench");
    let directory = arguments.next().map(PathBuf::from);
    let directory = directory.unwrap_or_else(|| PathBuf::from(env!("CARGO_TARGET_TMPDIR")));
    let named: Vec<String> = arguments.collect();
    let programs: Vec<&str> = match named.is_empty() {
        true => PROGRAMS.to_vec(),
        false => named.iter().map(String::as_str).collect(),
    };
    println!("medians of {} runs in {}", RUNS - 1, directory.display());
    println!(
        "{:<16} {:>8}  {:>9} {:>9} {:>9}  {:>6} {:>9}  {:>9} {:>9} {:>9}",
        "program",
        "MiB",
        "cp ms",
        "ours ms",
        "patchelf",
        "ours",
        "patchelf",
        "cp KiB",
        "ours KiB",
        "patchelf"
    );
    for program in programs {
        compare(Path::new(program), &directory)?;
    }
    Ok(())
}

/// Times the three commands on one program and prints a line.
fn compare(program: &Path, directory: &Path) -> Outcome<()> {
    let size = fs::metadata(program).map_err(|error| {
        format!(
            "{}: {error}; install it, or name another program",
            program.display()
        )
    })?;
    let output = directory.join("allocs-rewrite.bench");
    let commands = commands(program, &output);
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); commands.len()];
    for run in 0..RUNS {
        for (command, times) in commands.iter().zip(&mut times) {
            let time = time(command, &output)?;
            if run > 0 {
                times.push(time);
            }
        }
    }
    let milliseconds: Vec<f64> = times.iter_mut().map(|times| median(times)).collect();
    let memory: Outcome<Vec<u64>> = commands
        .iter()
        .map(|command| resident(command, &output))
        .collect();
    let memory = memory?;
    remove(&output)?;
    println!(
        "{:<16} {:>8.1}  {:>9.2} {:>9.2} {:>9.2}  {:>5.2}x {:>8.2}x  {:>9} {:>9} {:>9}",
        program.file_name().unwrap_or_default().to_string_lossy(),
        size.len() as f64 / f64::from(1 << 20),
        milliseconds[0],
        milliseconds[1],
        milliseconds[2],
        milliseconds[1] / milliseconds[0],
        milliseconds[2] / milliseconds[0],
        memory[0],
        memory[1],
        memory[2],
    );
    Ok(())
}

/// `cp`, ours and `patchelf`, each making `output` from `program`.
fn commands(program: &Path, output: &Path) -> [Vec<String>; 3] {
    let (program, output) = (program.display().to_string(), output.display().to_string());
    let line = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let ours = env!("CARGO_BIN_EXE_allocs-rewrite");
    let runtime = "/opt/allocs/liballocs_rt.so.1";
    [
        line(&["cp", &program, &output]),
        line(&[ours, "-q", "--force", &program, "-o", &output]),
        line(&[
            "patchelf",
            "--add-needed",
            runtime,
            "--output",
            &output,
            &program,
        ]),
    ]
}

fn time(command: &[String], output: &Path) -> Outcome<Duration> {
    remove(output)?;
    let start = Instant::now();
    let status = Command::new(&command[0]).args(&command[1..]).status();
    let time = start.elapsed();
    let status = status.map_err(|error| format!("{}: {error}; install it", command[0]))?;
    match status.success() {
        true => Ok(time),
        false => Err(format!("{command:?} failed").into()),
    }
}

/// Peak resident set of one more run, in KiB.
fn resident(command: &[String], output: &Path) -> Outcome<u64> {
    remove(output)?;
    let run = Command::new("/usr/bin/time")
        .args(["-f", "%M"])
        .args(command)
        .output();
    let run = run.map_err(|error| format!("/usr/bin/time: {error}; install the package time"))?;
    let text = String::from_utf8_lossy(&run.stderr);
    let last = text.lines().last().unwrap_or_default();
    last.trim()
        .parse()
        .map_err(|error| format!("{text}: {error}").into())
}

fn median(times: &mut [Duration]) -> f64 {
    times.sort();
    times[times.len() / 2].as_secs_f64() * 1e3
}

fn remove(path: &Path) -> Outcome<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error.into()),
        _ => Ok(()),
    }
}
