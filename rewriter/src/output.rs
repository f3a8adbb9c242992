//! Which file is written, and which owner, mode and attributes it gets.

use std::fs::{self, Permissions};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{Gid, Uid, XattrFlags, fchown, fsetxattr};

use crate::error::{Error, ErrorKind, Result};
use crate::input::{CAPABILITIES, Input};
use crate::source::Source;
use crate::write::Output;

/// The file to write, links resolved.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// True if that is the input itself.
    replaces_input: bool,
}

impl Target {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file will be, and with it $ORIGIN.
    pub(crate) fn directory(&self) -> &Path {
        crate::directory_of(&self.path)
    }
}

/// Follows a symbolic link to what it names, and refuses what is no file to write.
pub(crate) fn resolve(output: &Path, input: &Input) -> Result<Target> {
    let link = fs::symlink_metadata(output);
    let is_link = link.is_ok_and(|metadata| metadata.is_symlink());
    let path = match is_link {
        true => fs::canonicalize(output)
            .map_err(|source| Error::io(output, "follow the link", source))?,
        false => output.to_owned(),
    };
    let Ok(metadata) = fs::metadata(&path) else {
        let replaces_input = false;
        return Ok(Target {
            path,
            replaces_input,
        });
    };
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        Some("a directory")
    } else if kind.is_char_device() || kind.is_block_device() {
        Some("a device")
    } else if kind.is_fifo() || kind.is_socket() {
        Some("a FIFO or socket")
    } else {
        None
    };
    if let Some(what) = what {
        return Err(Error::new(output, ErrorKind::OutputKind { what }));
    }
    let same = (metadata.dev(), metadata.ino()) == (input.metadata.dev(), input.metadata.ino());
    if same && entry(output) != entry(input.source.path()) {
        return Err(Error::new(
            output,
            ErrorKind::SameFile {
                prog: input.source.path().display().to_string(),
            },
        ));
    }
    Ok(Target {
        path,
        replaces_input: same,
    })
}

/// The directory entry that a path names: its directory without links, and its last component.
fn entry(path: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(crate::directory_of(path)).ok()?;
    Some(directory.join(path.file_name()?))
}

impl Output {
    /// The file as written so far, to read it back.
    pub(crate) fn source(&self, len: u64) -> Result<Source> {
        let file = self.file().try_clone();
        let file = file.map_err(|source| Error::io(self.path(), "read back", source))?;
        Ok(Source::new(file, self.path(), len))
    }

    /// Gives the file the input's mode; its owner and capabilities too where they matter: in the
    /// place of the input, or with privileges that belong to that owner.
    pub(crate) fn set_attributes(&self, input: &Input, target: &Target) -> Result<()> {
        let failed = |action| move |source| Error::io(self.path(), action, source);
        if target.replaces_input || input.privileges.any() {
            let owner = &input.metadata;
            let (uid, gid) = (Uid::from_raw(owner.uid()), Gid::from_raw(owner.gid()));
            fchown(self.file(), Some(uid), Some(gid))
                .map_err(|error| failed("give the input's owner to it")(error.into()))?;
        }
        let mode = Permissions::from_mode(input.metadata.mode() & 0o7777);
        let changed = self.file().set_permissions(mode);
        changed.map_err(failed("set the mode"))?;
        if let Some(value) = &input.privileges.capabilities {
            fsetxattr(self.file(), CAPABILITIES, value, XattrFlags::empty())
                .map_err(|error| failed("set the file capabilities")(error.into()))?;
        }
        Ok(())
    }
}
