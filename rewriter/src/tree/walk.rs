//! What there is in a tree.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::fs::{self, DirEntry, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::{Tree, links};
use crate::direct;
use crate::error::{Error, Result};
use crate::processors::on_all;
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
    /// Directories that the copy had not.
    pub(crate) made: HashSet<PathBuf>,
    /// What could not be looked at.
    pub(crate) failures: Vec<Error>,
    /// Where that is, if it is a directory.
    pub(crate) unread: HashSet<PathBuf>,
}

impl Found {
    /// Whether this run made the copy's `directory`.
    pub(crate) fn is_made(&self, directory: Option<&Path>) -> bool {
        directory.is_some_and(|directory| self.made.contains(directory))
    }
}

/// What is in a directory, in the order of names: entries, and what could not be looked at.
type Content = Vec<std::result::Result<Entry, (PathBuf, io::Error)>>;

/// Looks at everything below the source. What runs that were killed have left there is no part of the
/// tree; in place, it is taken away.
pub(crate) fn walk(tree: &Tree<'_>) -> Result<Found> {
    let mut found = Found::default();
    let mut unfinished = Vec::new();
    let mut contents = contents(tree);
    let metadata = fs::symlink_metadata(&tree.source);
    let path = PathBuf::new();
    let top = metadata
        .map(|metadata| Entry {
            path: path.clone(),
            metadata,
        })
        .map_err(|error| (path, error));
    let mut within = vec![vec![top].into_iter()];
    while let Some(content) = within.last_mut() {
        let entry = match content.next() {
            Some(Ok(entry)) => entry,
            Some(Err((path, error))) => {
                found.failures.push(tree.error(&path, "read", error));
                found.unread.insert(path);
                continue;
            }
            None => {
                within.pop();
                continue;
            }
        };
        if entry.metadata.is_dir() {
            let content = contents.remove(&entry.path).unwrap_or_default();
            within.push(content.into_iter());
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

/// What is in each directory, by its path from the top.
fn contents(tree: &Tree<'_>) -> HashMap<PathBuf, Content> {
    let mut all = HashMap::new();
    let mut level = vec![PathBuf::new()];
    while !level.is_empty() {
        let read = on_all(1, &level, |directory| content(tree, directory), || ());
        let entries = read.iter().flatten().flatten();
        let directories = entries.filter(|entry| entry.metadata.is_dir());
        let next = directories.map(|entry| entry.path.clone()).collect();
        all.extend(level.into_iter().zip(read));
        level = next;
    }
    all
}

fn content(tree: &Tree<'_>, directory: &Path) -> Content {
    let failed = |error| (directory.to_owned(), error);
    let entries = match fs::read_dir(tree.source.join(directory)) {
        Ok(entries) => entries,
        Err(error) => return vec![Err(failed(error))],
    };
    let look = |entry: io::Result<DirEntry>| {
        let entry = entry.map_err(failed)?;
        let path = directory.join(entry.file_name());
        match entry.metadata() {
            Ok(metadata) => Ok(Entry { path, metadata }),
            Err(error) => Err((path, error)),
        }
    };
    let mut content: Content = entries.map(look).collect();
    content.sort_unstable_by(|one, other| path_of(one).cmp(path_of(other)));
    content
}

fn path_of(found: &std::result::Result<Entry, (PathBuf, io::Error)>) -> &OsStr {
    match found {
        Ok(Entry { path, .. }) | Err((path, _)) => path.as_os_str(),
    }
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
