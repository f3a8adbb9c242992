//! What the fuzz targets share: a place for files, and promises that hold for every input.

mod edits;

use std::fs;
use std::path::{Path, PathBuf};

use allocs_rewrite::{Destination, ErrorKind, Options};

pub use edits::Edits;

/// Files of one process, in memory.
pub struct Place {
    dir: PathBuf,
}

impl Default for Place {
    fn default() -> Self {
        Self::new()
    }
}

impl Place {
    /// A new directory below /dev/shm. It stays when the process is killed; `run` removes it.
    pub fn new() -> Self {
        let dir = PathBuf::from(format!("/dev/shm/allocs-fuzz-{}", std::process::id()));
        fs::create_dir_all(&dir).expect("a directory in /dev/shm");
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

    /// Rewrites `bytes`. There is an output that passed verification and leads back to `bytes`, or an
    /// error of one line and no output.
    pub fn rewrite(&self, bytes: &[u8]) {
        let input = self.write("input", bytes);
        let output = self.join("output");
        let options = Options {
            runtime: Some("libfuzz.so".to_owned()),
            ..Options::new(&input, Destination::File(output.clone()))
        };
        match allocs_rewrite::rewrite(&options, &mut |_, _| ()) {
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
        match allocs_rewrite::undo(file, &Destination::InPlace, &mut |_, _| ()) {
            Ok(_) => assert!(fs::read(file).expect("a file") == bytes, "undo gives another file"),
            // Data behind an ELF part that did not grow leaves no room for a journal.
            Err(error) => assert!(matches!(error.kind(), ErrorKind::NoUndo), "{error}"),
        }
    }

    /// Undoes `bytes`: an output, or an error of one line and no output.
    pub fn undo(&self, bytes: &[u8]) {
        let input = self.write("input", bytes);
        let output = self.join("output");
        let destination = Destination::File(output.clone());
        match allocs_rewrite::undo(&input, &destination, &mut |_, _| ()) {
            Ok(_) => fs::remove_file(&output).expect("an output"),
            Err(error) => {
                check_error(&error);
                assert!(!output.exists(), "refused and written: {error}");
            }
        }
    }
}

fn check_error(error: &allocs_rewrite::Error) {
    let text = error.to_string();
    assert!(!text.contains('\n'), "more than a line: {text}");
}

/// The seed programs that `seeds` has made, in the order of their names.
pub fn seeds(kind: &str) -> Vec<Vec<u8>> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus").join(kind);
    let mut paths: Vec<PathBuf> = fs::read_dir(&dir)
        .unwrap_or_else(|error| panic!("{}: {error}; run tests/fuzz/seeds first", dir.display()))
        .map(|entry| entry.expect("an entry").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "seed"))
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).expect("a seed")).collect()
}
