//! A tree in which a program can be replaced without touching the system: the directories of the
//! programs are real, everything else in it is a symbolic link to the original. What a program finds
//! through its own path or `$ORIGIN` is there, and before and after it has one and the same path.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

use crate::Dir;

/// Such a tree.
#[derive(Debug)]
pub struct Mirror {
    dir: Dir,
}

impl Mirror {
    /// A tree in which `programs` (real absolute paths) are to be replaced; until then, they are
    /// links to the originals, too.
    pub fn new<'a>(name: &str, programs: impl IntoIterator<Item = &'a PathBuf>) -> Self {
        let mut real = BTreeSet::new();
        for program in programs {
            real.extend(program.ancestors().skip(1).map(Path::to_owned));
        }
        let mirror = Self {
            dir: Dir::new(name),
        };
        for dir in &real {
            let here = mirror.path(dir);
            fs::create_dir_all(&here).expect("a directory");
            let entries = fs::read_dir(dir).unwrap_or_else(|e| panic!("{}: {e}", dir.display()));
            for entry in entries {
                let entry = entry.expect("an entry").path();
                // /tmp, /proc and the like are not a program's own files.
                let kept = dir != Path::new("/") || in_a_package(&entry);
                if kept && !real.contains(&entry) {
                    let link = here.join(entry.file_name().expect("a name"));
                    symlink(&entry, link).expect("a link");
                }
            }
        }
        mirror
    }

    /// Where `real` is in the tree.
    pub fn path(&self, real: &Path) -> PathBuf {
        let mut path = self.dir.join("root");
        path.extend(
            real.components()
                .filter(|c| matches!(c, Component::Normal(_))),
        );
        path
    }

    /// Puts a copy of the original in its place.
    pub fn put_copy(&self, real: &Path) -> PathBuf {
        let path = self.remove(real);
        crate::dir::copy_program(real, &path);
        path
    }

    /// Puts the link to the original back.
    pub fn put_link(&self, real: &Path) {
        symlink(real, self.remove(real)).expect("a link");
    }

    /// A directory beside the tree.
    pub fn scratch(&self, name: &str) -> PathBuf {
        self.dir.make(Path::new("scratch").join(name))
    }

    fn remove(&self, real: &Path) -> PathBuf {
        let path = self.path(real);
        fs::remove_file(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        path
    }
}

fn in_a_package(entry: &Path) -> bool {
    ["/usr", "/lib", "/lib64", "/etc", "/opt", "/var"].contains(&entry.to_str().unwrap_or(""))
}
