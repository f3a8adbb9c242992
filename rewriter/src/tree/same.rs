//! Whether a copy is up to date, as make(1) and rsync(1) see it: by what the two inodes say.

use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::attributes;

/// Whether all that belongs to `copy` is as it is in `original`, but for the bytes. The inode of an
/// original that changed after the copy was made, in whatever way, is the younger one.
pub(crate) fn belongings(original: &Metadata, copy: &Metadata) -> bool {
    let modified = |metadata: &Metadata| (metadata.mtime(), metadata.mtime_nsec());
    let changed = |metadata: &Metadata| (metadata.ctime(), metadata.ctime_nsec());
    let owner = |metadata: &Metadata| (metadata.uid(), metadata.gid());
    let same_owner = owner(original) == owner(copy);
    // Who cannot give files away has them all, without the rights of another owner.
    let rights = match same_owner || copy.is_symlink() {
        true => original.mode(),
        false => original.mode() & !0o6000,
    };
    (same_owner || !attributes::is_root())
        && rights == copy.mode()
        && modified(original) == modified(copy)
        && changed(original) < changed(copy)
}

/// Whether `copy` is a copy of what is at `path`.
pub(crate) fn copied(path: &Path, original: &Metadata, copy: &Path) -> io::Result<bool> {
    let found = match fs::symlink_metadata(copy) {
        Ok(found) => found,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error),
    };
    let same = belongings(original, &found)
        && original.rdev() == found.rdev()
        && original.len() == found.len();
    match same && original.is_symlink() {
        true => Ok(fs::read_link(path)? == fs::read_link(copy)?),
        false => Ok(same),
    }
}
