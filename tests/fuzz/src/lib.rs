//! What the fuzz targets share: a place for files, and promises that hold for every input.

mod edits;
mod journal;

use std::fs;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use allocs_rewrite::{By, Destination, ErrorKind, Options, Reading};

pub use edits::Edits;
pub use journal::correct_checksum;

/// A runtime whose name fits into names that are left over, one whose name makes tables grow, and the own one, to which
/// a program's allocator is diverted.
pub const RUNTIMES: [Option<&str>; 3] = [
    Some("libfuzz.so"),
    Some("libfuzz-by-a-name-that-is-too-long-for-the-room.so"),
    None,
];

/// Files of one process, in memory where TMPDIR is.
pub struct Place {
    dir: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new directory. It stays when the process is killed; `run` removes what it is in.
    pub fn new() -> Self {
        let dir = std::env::temp_dir().join(format!("allocs-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory");
        Self { dir }
    }

    /// The path of `name` in it.
    pub fn join(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Writes a file in it.
    pub fn write(&self, name: &str, bytes: &[u8]) -> PathBuf {
        let path = self.join(name);
        fs::write(&path, bytes).expect("a file");
        path
    }

    /// Gives `bytes` a runtime. There is an output that passed verification and leads back to `bytes`,
    /// or an error of one line and no output.
    pub fn rewrite(&self, bytes: &[u8], runtime: Option<&str>) {
        let input = self.write("input", bytes);
        let output = self.join("output");
        let options = Options {
            runtime: runtime.map(str::to_owned),
            ..Options::new(&input, Destination::File(output.clone()))
        };
        match allocs_rewrite::rewrite(&options, &mut |_, _| ControlFlow::Continue(())) {
            Ok(_) => {
                self.undo_gives(&output, bytes);
                fs::remove_file(&output).expect("an output");
            }
            Err(error) => {
                check_error(&error);
                assert!(!output.exists(), "refused and written: {error}");
            }
        }
    }

    fn undo_gives(&self, file: &Path, bytes: &[u8]) {
        match allocs_rewrite::undo(file, &Destination::InPlace, &mut |_, _| {
            ControlFlow::Continue(())
        }) {
            Ok(_) => assert!(
                fs::read(file).expect("a file") == bytes,
                "undo gives another file"
            ),
            // Data behind an ELF part that did not grow leaves no room for a journal.
            Err(error) => assert!(matches!(error.kind(), ErrorKind::NoUndo), "{error}"),
        }
    }

    /// Undoes `bytes`: an output, or an error of one line and no output.
    pub fn undo(&self, bytes: &[u8]) {
        let input = self.write("input", bytes);
        let output = self.join("output");
        let destination = Destination::File(output.clone());
        match allocs_rewrite::undo(&input, &destination, &mut |_, _| ControlFlow::Continue(())) {
            Ok(_) => fs::remove_file(&output).expect("an output"),
            Err(error) => {
                check_error(&error);
                assert!(!output.exists(), "refused and written: {error}");
            }
        }
    }

    /// Reads `bytes` as a report, by itself and compared with itself: something to show, or an error of
    /// one line. The system that it is about is this place, so that it does not lead to other files.
    pub fn report(&self, bytes: &[u8]) {
        let report = self.write("report", bytes);
        let reading = Reading {
            sysroot: Some(self.dir.clone()),
            by: By::Peak,
        };
        let page = self.join("page");
        let pair = [report.clone(), report.clone()];
        match allocs_rewrite::census(&pair, &reading, &mut |_, _| ()) {
            Ok(census) => {
                std::hint::black_box(census.report(usize::MAX));
                census.write_page(&page).expect("a page");
            }
            Err(error) => check_error(&error),
        }
        match allocs_rewrite::compare(&report, &report, &reading, &mut |_, _| ()) {
            Ok(comparison) => {
                std::hint::black_box(comparison.report(usize::MAX));
                comparison.write_page(&page).expect("a page");
            }
            Err(error) => check_error(&error),
        }
    }
}

fn check_error(error: &allocs_rewrite::Error) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than a line: {text}");
}

/// The seed programs, with each runtime.
pub fn rewritten_seeds(place: &Place) -> Vec<Vec<u8>> {
    let mut all = Vec::new();
    for program in seeds("parse") {
        let input = place.write("input", &program);
        for runtime in RUNTIMES {
            let output = place.join("output");
            let options = Options {
                runtime: runtime.map(str::to_owned),
                ..Options::new(&input, Destination::File(output.clone()))
            };
            allocs_rewrite::rewrite(&options, &mut |_, _| ControlFlow::Continue(()))
                .expect("a good seed");
            all.push(fs::read(&output).expect("an output"));
            fs::remove_file(&output).expect("an output");
        }
    }
    all
}

/// The seeds that `seeds` has made, in the order of their names.
pub fn seeds(kind: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("corpus")
        .join(kind);
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}; run tests/fuzz/seeds first", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "seed")
        })
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| fs::read(path).expect("a seed"))
        .collect()
}
