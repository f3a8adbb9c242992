//! Rewrites and starts every executable of whole systems, and prints how that went: see
//! `tests/corpus`, which makes the trees and the namespaces, and starts this.
//!
//!     corpus WORK
//!
//! WORK has `host` (this system), `tree` (unpacked packages), `dev`, and an empty `top`. Each
//! executable gets a line in WORK/results.jsonl; those that have one are not done again.
//!
//!     corpus WORK MACHINE
//!
//! The executables of WORK/tree are those of another machine: they are rewritten and looked at, and not started. See
//! `tests/corpus-machines`.
#![allow(
    clippy::expect_used,
    reason = "a check that cannot go on says why and stops"
)]

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use allocs_tests::{elf, others};

mod examine;
mod linker;
mod machines;
mod place;
mod results;
mod tables;

use examine::Subject;
use place::Place;

fn main() {
    // cargo adds its own.
    let mut args = std::env::args().skip(1).filter(|arg| arg != "--bench");
    let work = PathBuf::from(args.next().expect("a directory"));
    let machine = args.next();
    let place = |name: &str, root: &str| Place {
        name: name.to_owned(),
        root: work.join(root),
        work: work.clone(),
    };
    match machine {
        None => start_all(&work, &[place("system", "host"), place("packages", "tree")]),
        Some(machine) => machines::look_at_all(&work, &place(&machine, "tree")),
    }
}

fn start_all(work: &Path, places: &[Place]) {
    let others = others::all(&work.join("venv"));
    let below = [Path::new("/usr"), &rust()];
    let subjects = subjects(places, &below, elf::is_dynamic_executable);
    let examine = |subject: &Subject<'_>| subject.examine(&others);
    let lines = results::of(&subjects, &work.join("results.jsonl"), examine);
    tables::print(&lines, &others);
}

/// The executables of all places that are below one of those directories, each content once.
fn subjects<'a>(
    places: &'a [Place],
    below: &[&Path],
    is_run_by_loader: impl Fn(&Path) -> bool,
) -> Vec<Subject<'a>> {
    let mut seen = HashSet::new();
    let mut all = Vec::new();
    for place in places {
        let mut files = BTreeSet::new();
        for dir in below {
            add_files(&place.path(dir), &mut files);
        }
        for file in files {
            if is_executable(&file) && is_run_by_loader(&file) && seen.insert(content(&file)) {
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

/// A file that can be started.
fn is_executable(file: &Path) -> bool {
    let meta = fs::symlink_metadata(file).expect("metadata");
    meta.mode() & 0o111 != 0
}

fn content(file: &Path) -> u64 {
    let mut hasher = DefaultHasher::new();
    fs::read(file).expect("a readable file").hash(&mut hasher);
    hasher.finish()
}
