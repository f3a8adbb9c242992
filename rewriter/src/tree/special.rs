//! What is neither a directory nor a file: symbolic links, FIFOs, sockets and devices.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::Path;

use rustix::fs::{CWD, FileType, Mode, mknodat};

use super::Tree;
use super::walk::Entry;
use crate::error::{Error, Result};
use crate::{attributes, directory_of, temporary};

/// Makes a copy of the entry.
pub(crate) fn copy(tree: &Tree<'_>, entry: &Entry) -> Result<()> {
    let (from, to) = (tree.source.join(&entry.path), tree.output.join(&entry.path));
    let metadata = &entry.metadata;
    let link = match metadata.is_symlink() {
        true => Some(fs::read_link(&from).map_err(|error| Error::io(&from, "read", error))?),
        false => None,
    };
    let make = |path: &Path| match &link {
        Some(link) => symlink(link, path),
        None => {
            let kind = FileType::from_raw_mode(metadata.mode());
            let made = mknodat(CWD, path, kind, Mode::RUSR, metadata.rdev());
            made.map_err(io::Error::from)
        }
    };
    let made = temporary::make_in(directory_of(&to), make);
    let made = made.map_err(|error| Error::io(&to, "make", error))?;
    attributes::copy_all(from.as_path(), metadata, made.path())
        .map_err(|(action, error)| Error::io(&to, action, error))?;
    match made.persist(&to) {
        Ok(()) => Ok(()),
        Err(error) => Err(Error::io(&to, "make", error.error)),
    }
}
