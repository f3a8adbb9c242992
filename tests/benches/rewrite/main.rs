//! Rewriting beside what a user would run instead.
//!
//!     cargo bench -p allocs-tests --bench rewrite [-- PROGRAM|DIRECTORY...]
//!
//! To another file: `cp`, ours, and the other rewriters (`tests/others`), on the file system of cargo's
//! target directory and on a tmpfs. In place: ours beside `true`, which is the start of a process, there
//! and on an XFS that shares blocks, in a file of its own (as root, where the kernel has XFS).
//!
//! A tree at a time: `cp -a`, ours, and a loop with patchelf. A DIRECTORY in the place of a PROGRAM is one;
//! by default it is the Debian 12 that `tests/trees` makes.
//!
//! The commands run in turn, so that a machine whose speed drifts slows all of them alike. Printed are
//! medians, ratios of medians and the largest resident sets, as the tables of docs/benchmarks.md, and then
//! which aim is met. The packages at the end of tests/packages.txt are needed.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run says why and stops"
)]

use std::path::{Path, PathBuf};

use allocs_tests::xfs::Xfs;
use allocs_tests::{Command, Dir, needs, others, tree};

mod aims;
mod copies;
mod in_place;
mod measure;
mod trees;

use aims::Aims;

/// A small, a middle-sized, a large and a very large executable.
const PROGRAMS: [&str; 4] = [
    "/usr/bin/ls",
    "/usr/bin/gdb",
    "/usr/bin/node",
    "/usr/lib/chromium/chromium",
];

/// A directory, and what its file system is called.
struct Place {
    name: String,
    dir: PathBuf,
}

impl Place {
    fn new(dir: &Path) -> Self {
        let line = "findmnt --first-only --noheadings --output FSTYPE --target";
        let name = Command::line(line).arg(dir).succeed().stdout();
        Self {
            name: name.trim().to_owned(),
            dir: dir.to_owned(),
        }
    }
}

fn main() {
    let named = std::env::args().skip(1).filter(|word| word != "--bench");
    let named: Vec<PathBuf> = named.map(PathBuf::from).collect();
    let named = match named.is_empty() {
        true => {
            let tree = tree::all().iter().find(|tree| tree.release == "bookworm");
            let tree = tree.expect("bookworm").needed().root.clone();
            let programs = PROGRAMS.iter().map(PathBuf::from);
            programs.chain([tree]).collect()
        }
        false => named,
    };
    let (trees, programs): (Vec<PathBuf>, Vec<PathBuf>) =
        named.into_iter().partition(|path| path.is_dir());
    let tmp = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let venv = tmp.join("others");
    needs("/usr/lib/python3.11/ensurepip/__init__.py");
    others::install(&venv);
    let others = others::all(&venv);

    let mut aims = Aims::default();
    let dirs = [tmp, Path::new("/dev/shm")].map(|parent| Dir::below(parent, "bench-rewrite"));
    let places = dirs.iter().map(|dir| Place::new(&dir.path()));
    let mut places: Vec<Place> = places.collect();
    for place in &places {
        trees::compare(place, &trees, &mut aims);
        copies::compare(place, &programs, &others, &mut aims);
    }
    let xfs = Xfs::mount(&places[0].dir);
    match &xfs {
        Ok(xfs) => places.push(Place::new(xfs.dir())),
        Err(why) => println!("\nno XFS: {why}"),
    }
    for place in &places {
        in_place::compare(place, &programs, &mut aims);
    }
    aims.print();
}
