//! The directories of a copy: made first, and given what belongs to them when all is in them.

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, File, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use super::walk::{Entry, Found};
use super::{Tree, retain_outside, same};
use crate::error::{Error, ErrorKind, Result};
use crate::processors::on_all;
use crate::{attributes, temporary};

/// What its owner needs to make files in a directory.
const WRITABLE: u32 = 0o700;
/// What its owner needs to get at what is in one.
const PASSABLE: u32 = 0o100;

/// Makes the directories that are not there yet, and takes away what killed runs have left in the others.
/// What cannot be made is lost with all that is below it.
pub(crate) fn prepare(tree: &Tree<'_>, found: &mut Found) -> Vec<Error> {
    let mut failures = Vec::new();
    let mut lost: BTreeSet<PathBuf> = BTreeSet::new();
    for directory in &found.directories {
        let path = &directory.path;
        if path.ancestors().any(|place| lost.contains(place)) {
            continue;
        }
        let is_new = found.is_made(path.parent());
        match make(&tree.output.join(path), is_new) {
            Ok(true) => {
                found.made.insert(path.clone());
            }
            Ok(false) => {}
            Err(error) => {
                failures.push(error);
                lost.insert(path.clone());
            }
        }
    }
    if !lost.is_empty() {
        retain_outside(found, &lost);
    }
    failures
}

/// True if it was not there; which is known of one in a directory that `is_new`.
fn make(path: &Path, is_new: bool) -> Result<bool> {
    let failed = |action| move |error| Error::io(path, action, error);
    let new = || {
        let mut directory = DirBuilder::new();
        directory.mode(WRITABLE);
        directory
            .create(path)
            .map(|()| true)
            .map_err(failed("make"))
    };
    if is_new {
        return new();
    }
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => new(),
        Err(error) => Err(failed("make")(error)),
        // A symbolic link would lead out of the tree.
        Ok(there) if !there.is_dir() => Err(Error::new(path, ErrorKind::InTheWay)),
        Ok(there) => {
            if there.mode() & WRITABLE != WRITABLE && !attributes::is_root() {
                let mode = Permissions::from_mode(there.mode() & 0o7777 | WRITABLE);
                fs::set_permissions(path, mode).map_err(failed("write to"))?;
            }
            temporary::remove_left_over(path).map_err(failed("clean up"))?;
            Ok(false)
        }
    }
}

/// Gives each directory what belongs to it, but for those that could not be read. Where the owner may not pass, that is
/// after all that is below.
pub(crate) fn finish(tree: &Tree<'_>, found: &Found) -> Vec<Error> {
    let directories = found.directories.iter().rev();
    let directories = directories.filter(|directory| !found.unread.contains(&directory.path));
    let (open, closed): (Vec<_>, Vec<_>) =
        directories.partition(|directory| directory.metadata.mode() & PASSABLE != 0);
    let finish = |directory: &&Entry| finish_one(tree, directory);
    let mut finished = on_all(1, &open, finish, || ());
    finished.extend(closed.iter().map(finish));
    finished.into_iter().filter_map(Result::err).collect()
}

/// The same once more for the directory at `path`, which something was written to since.
pub(crate) fn restore(tree: &Tree<'_>, path: &Path) -> Result<()> {
    match fs::symlink_metadata(tree.source.join(path)) {
        Ok(metadata) if metadata.is_dir() => {
            let path = path.to_owned();
            finish_one(tree, &Entry { path, metadata })
        }
        _ => Ok(()), // a directory that the copy alone has
    }
}

fn finish_one(tree: &Tree<'_>, directory: &Entry) -> Result<()> {
    let (from, to) = (
        tree.source.join(&directory.path),
        tree.output.join(&directory.path),
    );
    let failed = |(action, error)| Error::io(&to, action, error);
    let there = fs::symlink_metadata(&to).map_err(|error| failed(("read", error)))?;
    if same::belongings(&directory.metadata, &there) {
        return Ok(());
    }
    let original = File::open(&from).map_err(|error| tree.error(&directory.path, "open", error))?;
    let copy = File::open(&to).map_err(|error| failed(("open", error)))?;
    attributes::copy_all(&original, &directory.metadata, &copy).map_err(failed)
}
