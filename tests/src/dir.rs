//! Temporary directories that stay when their test fails.

use std::collections::BTreeMap;
use std::fs::{self, Metadata, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tempfile::TempDir;

use crate::Command;

/// A directory of its own for one test. It is removed at the end of the test, unless the test
/// fails or `ALLOCS_TESTS_KEEP` is set; its path then is in what the failure prints.
#[derive(Debug)]
pub struct Dir {
    dir: TempDir,
}

impl Dir {
    /// A new directory, readable by every user, with `name` as a part of its own name.
    pub fn new(name: &str) -> Self {
        Self::below(&std::env::temp_dir(), name)
    }

    /// The same where only root can write: for the libraries of setuid programs. Needs root.
    pub fn of_root(name: &str) -> Self {
        Self::below(Path::new("/opt"), name)
    }

    /// The same in memory, for files that are replaced thousands of times: where a file system is mounted with `discard`,
    /// each of them would wait for the disk.
    pub fn in_memory(name: &str) -> Self {
        Self::below(Path::new("/dev/shm"), name)
    }

    /// The same in `parent`.
    pub fn below(parent: &Path, name: &str) -> Self {
        let name = name.replace('/', "-");
        let dir = TempDir::with_prefix_in(format!("allocs-{name}-"), parent);
        let dir = dir.expect("a temporary directory");
        fs::set_permissions(dir.path(), Permissions::from_mode(0o755)).expect("mode 0755");
        Self { dir }
    }

    /// Its path, without symbolic links.
    pub fn path(&self) -> PathBuf {
        self.dir.path().canonicalize().expect("a real path")
    }

    /// The path of `name` in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path().join(name)
    }

    /// Writes a file, and the directories above it.
    pub fn write(&self, name: impl AsRef<Path>, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(path.parent().expect("below the directory")).expect("directories");
        fs::write(&path, bytes).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }

    /// Makes a directory in it.
    pub fn make(&self, name: impl AsRef<Path>) -> PathBuf {
        let path = self.join(name);
        fs::create_dir_all(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

impl Drop for Dir {
    fn drop(&mut self) {
        let keep = std::thread::panicking() || std::env::var_os("ALLOCS_TESTS_KEEP").is_some();
        self.dir.disable_cleanup(keep);
    }
}

/// What identifies an entry of a directory: a change of any of this would be noticed by a user.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    kind_and_mode: u32,
    inode: u64,
    size: u64,
    changed: (i64, i64),
}

impl Entry {
    fn new(meta: &Metadata) -> Self {
        Self {
            kind_and_mode: meta.mode(),
            inode: meta.ino(),
            size: meta.len(),
            changed: (meta.ctime(), meta.ctime_nsec()),
        }
    }
}

/// Everything below `path`, to compare before and after. Directories' own times are left out: a
/// temporary file that comes and goes is no harm.
pub fn listing(path: &Path) -> BTreeMap<PathBuf, Entry> {
    let mut all = BTreeMap::new();
    let mut todo = vec![path.to_owned()];
    while let Some(dir) = todo.pop() {
        let entries = match fs::read_dir(&dir) {
            Err(error) if error.kind() == ErrorKind::NotFound && dir != path => continue,
            entries => entries.unwrap_or_else(|e| panic!("{}: {e}", dir.display())),
        };
        for entry in entries {
            let entry = entry.expect("a directory entry");
            let meta = match entry.metadata() {
                // Gone meanwhile: a failure may list what other tests write to.
                Err(error) if error.kind() == ErrorKind::NotFound => continue,
                meta => meta.expect("its metadata"),
            };
            let mut known = Entry::new(&meta);
            if meta.is_dir() {
                known.changed = (0, 0);
                known.size = 0;
                todo.push(entry.path());
            }
            all.insert(entry.path(), known);
        }
    }
    all
}

/// Copies a program, mode and all, in a process of its own: its descriptor for writing is then in
/// no other test's child, and the copy can be started at once.
pub fn copy_program(from: &Path, to: &Path) {
    Command::line("cp --preserve=mode --")
        .args([from, to])
        .succeed();
}
