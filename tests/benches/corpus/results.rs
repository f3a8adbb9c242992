//! A line for each executable, in a file: a run that was stopped goes on from there.

use std::collections::HashSet;
use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::Path;
use std::sync::Mutex;

use allocs_tests::tool;
use serde_json::Value;

use crate::examine::Subject;

/// Programs wait more than they compute.
const WORKERS: usize = 4;

/// All lines of `results`, after `examine` has made those that were missing.
pub(crate) fn of(
    subjects: &[Subject<'_>],
    results: &Path,
    examine: impl Fn(&Subject<'_>) -> Value + Sync,
) -> Vec<Value> {
    let known: HashSet<(Value, Value)> = read(results)
        .into_iter()
        .map(|line| (line["place"].clone(), line["program"].clone()))
        .collect();
    let is_new = |subject: &&Subject<'_>| {
        let program = Value::from(subject.program.to_string_lossy());
        !known.contains(&(subject.place.name.clone().into(), program))
    };
    let todo: Vec<_> = subjects.iter().filter(is_new).collect();
    eprintln!("{} executables, {} to do", subjects.len(), todo.len());
    tool::binary(); // built once, ahead of the threads

    let next = Mutex::new(todo.into_iter());
    let file = OpenOptions::new().create(true).append(true).open(results);
    let file = Mutex::new(file.expect("the results"));
    let worker = || {
        loop {
            let Some(subject) = next.lock().expect("the queue").next() else {
                return;
            };
            let line = examine(subject);
            write(&file, &line);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(worker);
        }
    });
    read(results)
}

fn write(file: &Mutex<File>, line: &Value) {
    let mut file = file.lock().expect("the results");
    file.write_all(format!("{line}\n").as_bytes())
        .expect("a line written");
}

/// The lines of an earlier run, if any; one that was cut off is none.
fn read(results: &Path) -> Vec<Value> {
    let text = fs::read_to_string(results).unwrap_or_default();
    let lines = text.lines().map(serde_json::from_str);
    lines.filter_map(Result::ok).collect()
}
