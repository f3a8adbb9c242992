//! Whole commands, timed in turn.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

/// Runs of each command; the first is not counted.
const RUNS: usize = 21;
/// A command that has taken as long as this has had enough runs.
const ENOUGH: Duration = Duration::from_secs(5);
const LEAST: usize = 4;

/// A command, and one that is run ahead of each of its runs, untimed: it makes the files what they were.
pub(crate) struct Timed {
    pub(crate) command: Vec<OsString>,
    pub(crate) before: Vec<OsString>,
}

/// A command line of words without blanks.
pub(crate) fn words(words: &[&(impl AsRef<OsStr> + ?Sized)]) -> Vec<OsString> {
    words.iter().map(|word| word.as_ref().to_owned()).collect()
}

/// Median time of each command in ms, run in turn; of one that fails, nothing.
pub(crate) fn medians(all: &[Timed]) -> Vec<Option<f64>> {
    let mut times: Vec<Vec<Duration>> = vec![Vec::new(); all.len()];
    for round in 0..RUNS {
        for (timed, times) in all.iter().zip(&mut times) {
            let spent: Duration = times.iter().sum();
            let failed = times.len() < round.min(1);
            if failed || round >= LEAST && spent > ENOUGH {
                continue;
            }
            assert!(run(&timed.before), "{:?} failed", timed.before);
            let start = Instant::now();
            let succeeded = run(&timed.command);
            let time = start.elapsed();
            if succeeded {
                times.push(time);
            }
        }
    }
    times.into_iter().map(median).collect()
}

/// The first is left out.
fn median(times: Vec<Duration>) -> Option<f64> {
    let mut counted = times.get(1..)?.to_vec();
    counted.sort();
    Some(counted.get(counted.len() / 2)?.as_secs_f64() * 1e3)
}

fn run(command: &[OsString]) -> bool {
    let status = Command::new(&command[0])
        .args(&command[1..])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .env_remove("LD_LIBRARY_PATH") // cargo's, which would slow the start of a process down
        .status();
    status
        .unwrap_or_else(|error| panic!("{command:?}: {error}"))
        .success()
}

/// Largest resident set of one more run, in MiB; of a command that fails, nothing.
pub(crate) fn resident(timed: &Timed) -> Option<f64> {
    assert!(run(&timed.before), "{:?} failed", timed.before);
    let output = Command::new(allocs_tests::needs("/usr/bin/time"))
        .args(["-q", "-f", "%M"])
        .args(&timed.command)
        .output()
        .expect("time starts");
    let text = String::from_utf8_lossy(&output.stderr);
    let kib: f64 = text.lines().last()?.trim().parse().ok()?;
    output.status.success().then_some(kib / 1024.0)
}

/// File name and size in MiB.
pub(crate) fn describe(program: &Path) -> (String, f64) {
    let meta =
        std::fs::metadata(program).unwrap_or_else(|error| panic!("{}: {error}", program.display()));
    let name = program.file_name().unwrap_or_default().to_string_lossy();
    (name.into_owned(), meta.len() as f64 / f64::from(1 << 20))
}

/// `12.3 ms, 1.23×`, the ratio being to `of`.
pub(crate) fn cell(time: Option<f64>, of: f64) -> String {
    time.map_or("fails".to_owned(), |time| {
        format!("{time:.2} ms, {:.2}×", time / of)
    })
}
