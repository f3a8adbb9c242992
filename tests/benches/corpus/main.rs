//! Rewrites and starts every executable of whole systems, and prints how that went: see
//! `tests/corpus`, which makes the trees and the namespaces, and starts this.
//!
//!     corpus WORK
//!
//! WORK has `host` (this system), `tree` (unpacked packages), `dev`, and an empty `top`. Each
//! executable gets a line in WORK/results.jsonl; those that have one are not done again.
#![allow(
    clippy::expect_used,
    reason = "a check that cannot go on says why and stops"
)]

use std::collections::{BTreeSet, HashSet};
use std::fs::{self, File, OpenOptions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use allocs_tests::others::{self, Other};
use allocs_tests::{elf, tool};
use serde_json::Value;

mod examine;
mod linker;
mod place;
mod tables;

use examine::Subject;
use place::Place;

/// Programs wait more than they compute.
const WORKERS: usize = 4;

fn main() {
    let work = PathBuf::from(std::env::args().nth(1).expect("a directory"));
    let place = |name, root| Place {
        name,
        root: work.join(root),
        work: work.clone(),
    };
    let places = [place("system", "host"), place("packages", "tree")];
    let results = work.join("results.jsonl");
    let others = others::all(&work.join("venv"));
    examine_all(&subjects(&places), &others, &results);
    tables::print(&read(&results), &others);
}

/// The executables of all places, each content once.
fn subjects(places: &[Place]) -> Vec<Subject<'_>> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for place in places {
        let mut files = BTreeSet::new();
        add_files(&place.path(Path::new("/usr")), &mut files);
        add_files(&place.path(&rust()), &mut files);
        for file in files {
            if is_executable(&file) && seen.insert(content(&file)) {
                let inside = file.strip_prefix(&place.root).expect("a file in the tree");
                all.push(Subject {
                    place,
                    program: Path::new("/").join(inside),
                    number: all.len(),
                });
            }
        }
    }
    all
}

/// Adds what is below `dir`. A directory that this root cannot read is a daemon's own.
fn add_files(dir: &Path, files: &mut BTreeSet<PathBuf>) {
    for entry in fs::read_dir(dir).into_iter().flatten() {
        let entry = entry.expect("an entry");
        let kind = entry.file_type().expect("its type");
        if kind.is_dir() {
            add_files(&entry.path(), files);
        } else if kind.is_file() {
            files.insert(entry.path());
        }
    }
}

/// The Rust toolchain that runs this.
fn rust() -> PathBuf {
    let rustc = Command::new("rustc").args(["--print", "sysroot"]).output();
    let path = String::from_utf8(rustc.expect("rustc").stdout).expect("a path");
    PathBuf::from(path.trim())
}

/// A file that can be started, and that the loader starts.
fn is_executable(file: &Path) -> bool {
    let meta = fs::symlink_metadata(file).expect("metadata");
    meta.mode() & 0o111 != 0 && elf::is_dynamic_executable(file)
}

fn content(file: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read(file).expect("a readable file").hash(&mut hasher);
    hasher.finish()
}

fn examine_all(subjects: &[Subject<'_>], others: &[Other], results: &Path) {
    let known: HashSet<(Value, Value)> = read(results)
        .into_iter()
        .map(|line| (line["place"].clone(), line["program"].clone()))
        .collect();
    let is_new = |subject: &&Subject<'_>| {
        let program = Value::from(subject.program.to_string_lossy());
        !known.contains(&(subject.place.name.into(), program))
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
            let line = subject.examine(others);
            write(&file, &line);
        }
    };
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            scope.spawn(worker);
        }
    });
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
