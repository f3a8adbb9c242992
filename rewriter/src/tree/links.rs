//! Hard links: the names of one file stay names of one file.
//!
//! In a copy, the first name gets the file, and the others are linked to it; what is missing after a run
//! that was killed is seen by comparing with the original. In place there is no original any more as
//! soon as the first name has the new file. So `.NAME.allocs-rewrite-old` beside the first NAME is a link
//! to the old file meanwhile: the next run finds by it which names still have that.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Tree;
use super::walk::{self, Entry, Found};
use crate::error::{Error, Result};
use crate::{directory_of, temporary};

const MARKER: &str = ".allocs-rewrite-old";

/// A file, or something else that is no directory, with all its names in the tree.
#[derive(Debug)]
pub(crate) struct Item<'e> {
    pub(crate) entry: &'e Entry,
    /// The other names.
    pub(crate) links: Vec<&'e Entry>,
    /// True if its directory was made by this run: nothing is there.
    pub(crate) is_new: bool,
}

impl Item<'_> {
    /// All names.
    pub(crate) fn paths(&self) -> impl Iterator<Item = &Path> {
        let links = self.links.iter().copied();
        [self.entry]
            .into_iter()
            .chain(links)
            .map(|name| &*name.path)
    }
}

/// What there is to do: everything for a copy, and in place the executables.
pub(crate) fn items<'e>(tree: &Tree<'_>, found: &'e Found) -> Vec<Item<'e>> {
    let inodes = walk::by_inode(&found.entries);
    let names = |entry: &Entry| inodes.get(&entry.inode()).map_or(&[][..], Vec::as_slice);
    let mut items = Vec::new();
    for (index, entry) in found.entries.iter().enumerate() {
        let names = names(entry);
        let is_first = names.first().is_none_or(|&first| first == index);
        if is_first && (!tree.in_place() || entry.is_program()) {
            let others = names.iter().skip(1);
            let links = others.filter_map(|&other| found.entries.get(other));
            let links = links.collect();
            let is_new = found.is_made(entry.path.parent());
            items.push(Item {
                entry,
                links,
                is_new,
            });
        }
    }
    items
}

/// Makes `name` another name of the file at `path`. True if it was not.
pub(crate) fn link(path: &Path, name: &Path) -> Result<bool> {
    let failed = |error| Error::io(name, "make a hard link", error);
    let inode = |metadata: fs::Metadata| (metadata.dev(), metadata.ino());
    let wanted = fs::symlink_metadata(path).map(inode).map_err(failed)?;
    if fs::symlink_metadata(name).map(inode).ok() == Some(wanted) {
        return Ok(false);
    }
    let made = temporary::make_in(directory_of(name), |temporary| {
        fs::hard_link(path, temporary)
    });
    let made = made.map_err(failed)?;
    made.persist(name).map_err(|error| failed(error.error))?;
    Ok(true)
}

/// The old file's name while others take the new one; gone again when it is dropped.
#[derive(Debug)]
pub(crate) struct Marker(PathBuf);

impl Marker {
    /// Marks the file that is open as `old` as the one that all names of `item` have. It is locked, so that
    /// no other run takes the marker for a left-over.
    pub(crate) fn make(tree: &Tree<'_>, item: &Item<'_>, old: &File) -> Result<Self> {
        let path = tree.source.join(&item.entry.path);
        let marker = marker_of(&path);
        temporary::lock(old);
        fs::hard_link(&path, &marker)
            .map_err(|error| Error::io(&marker, "make a hard link", error))?;
        Ok(Self(marker))
    }

    /// Leaves it to the next run, which goes on from there.
    pub(crate) fn leave(mut self) {
        self.0 = PathBuf::new();
    }
}

impl Drop for Marker {
    fn drop(&mut self) {
        // If that fails, the next run does it.
        let _ = fs::remove_file(&self.0);
    }
}

fn marker_of(path: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(path.file_name().unwrap_or_default());
    name.push(MARKER);
    path.with_file_name(name)
}

/// The file that `marker` was made for, if it is a marker.
fn marked(marker: &Path) -> Option<PathBuf> {
    let name = marker.file_name()?.to_str()?;
    let name = name.strip_prefix('.')?.strip_suffix(MARKER)?;
    (!name.is_empty()).then(|| marker.with_file_name(name))
}

pub(crate) fn is_marker(path: &Path) -> bool {
    marked(path).is_some()
}

/// Goes on where runs that were killed had given a new file to some names of an old one only.
pub(crate) fn resume(tree: &Tree<'_>, markers: &[Entry], found: &mut Found) -> Result<()> {
    for marker in markers {
        let path = tree.source.join(&marker.path);
        let failed = |error: io::Error| Error::io(&path, "go on from", error);
        if !temporary::is_abandoned(&path, &marker.metadata).map_err(failed)? {
            continue;
        }
        if let Some(first) = marked(&path).filter(|first| took_over(first, &marker.metadata)) {
            let old = marker.inode();
            for entry in found
                .entries
                .iter_mut()
                .filter(|entry| entry.inode() == old)
            {
                link(&first, &tree.source.join(&entry.path))?;
            }
            for entry in &mut found.entries {
                let now = fs::symlink_metadata(tree.source.join(&entry.path));
                entry.metadata = now.map_err(failed)?;
            }
        }
        fs::remove_file(&path).map_err(failed)?;
    }
    Ok(())
}

/// Whether `first` has a file that was made of the `old` one. If that was written to since, it was not.
fn took_over(first: &Path, old: &fs::Metadata) -> bool {
    let inode = |metadata: &fs::Metadata| (metadata.dev(), metadata.ino());
    let written = |metadata: &fs::Metadata| (metadata.mtime(), metadata.mtime_nsec());
    fs::symlink_metadata(first).is_ok_and(|now| {
        now.is_file() && inode(&now) != inode(old) && written(&now) >= written(old)
    })
}
