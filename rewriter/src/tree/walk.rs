//! What there is in a tree.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use walkdir::WalkDir;

use super::{Tree, links};
use crate::direct;
use crate::error::{Error, Result};
use crate::temporary;

/// Something with a name in the tree.
#[derive(Debug)]
pub(crate) struct Entry {
    /// From the top of the tree.
    pub(crate) path: PathBuf,
    /// Of itself: a link is not followed.
    pub(crate) metadata: Metadata,
}

impl Entry {
    /// Device and inode.
    pub(crate) fn inode(&self) -> (u64, u64) {
        (self.metadata.dev(), self.metadata.ino())
    }

    /// A file that somebody may execute.
    pub(crate) fn is_program(&self) -> bool {
        self.metadata.is_file() && self.metadata.mode() & 0o111 != 0
    }

    /// What the progress counts: bytes, and something for each entry.
    pub(crate) fn work(&self) -> u64 {
        match self.metadata.is_file() {
            true => self.metadata.len() + 1,
            false => 1,
        }
    }
}

/// All of them, in the order of their names; a directory comes before what is in it.
#[derive(Debug, Default)]
pub(crate) struct Found {
    /// The top is the first.
    pub(crate) directories: Vec<Entry>,
    /// Everything else.
    pub(crate) entries: Vec<Entry>,
    /// What could not be looked at.
    pub(crate) failures: Vec<Error>,
}

/// Looks at everything below the source. What runs that were killed have left there is no part of the
/// tree; in place, it is taken away.
pub(crate) fn walk(tree: &Tree<'_>) -> Result<Found> {
    let mut found = Found::default();
    let mut unfinished = Vec::new();
    for entry in WalkDir::new(&tree.source).sort_by_file_name() {
        let metadata = entry.and_then(|entry| Ok((entry.metadata()?, entry)));
        let (metadata, entry) = match metadata {
            Ok(both) => both,
            Err(error) => {
                found.failures.push(failure(tree, error));
                continue;
            }
        };
        let path = entry
            .path()
            .strip_prefix(&tree.source)
            .unwrap_or(entry.path());
        let entry = Entry {
            path: path.to_owned(),
            metadata,
        };
        if entry.metadata.is_dir() {
            found.directories.push(entry);
        } else if temporary::is_temporary(&entry.path) {
            if tree.in_place() {
                clean(&tree.source.join(&entry.path), &entry.metadata)
                    .map_err(|error| tree.error(&entry.path, "remove", error))?;
            }
        } else if links::is_marker(&entry.path) {
            unfinished.push(entry);
        } else if !direct::is_record(&entry.path) || tree.in_place() {
            found.entries.push(entry);
        }
    }
    if tree.in_place() {
        links::resume(tree, &unfinished, &mut found)?;
    }
    Ok(found)
}

fn failure(tree: &Tree<'_>, error: walkdir::Error) -> Error {
    let path = error.path().unwrap_or(&tree.source).to_owned();
    Error::io(&path, "read", error.into())
}

fn clean(path: &Path, metadata: &Metadata) -> io::Result<()> {
    match temporary::is_abandoned(path, metadata)? {
        true => fs::remove_file(path),
        false => Ok(()),
    }
}

/// Indices of the entries that are names of one inode, for each inode.
pub(crate) fn by_inode(entries: &[Entry]) -> BTreeMap<(u64, u64), Vec<usize>> {
    let mut inodes: BTreeMap<_, Vec<usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        if entry.metadata.nlink() > 1 {
            inodes.entry(entry.inode()).or_default().push(index);
        }
    }
    inodes
}
