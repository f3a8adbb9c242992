//! Opens the input, and knows what its inode says: kind, owner, privileges, and whether it changed.

use std::fs::{File, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use xattr::FileExt;

use crate::direct;
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::Surroundings;
use crate::source::Source;

/// The extended attribute that holds file capabilities (capabilities(7)).
pub(crate) const CAPABILITIES: &str = "security.capability";

/// An open input.
#[derive(Debug)]
pub(crate) struct Input {
    pub(crate) source: Source,
    pub(crate) metadata: Metadata,
    pub(crate) privileges: Privileges,
    /// True if what an earlier run had begun was taken back first.
    pub(crate) recovered: bool,
}

/// What the kernel gives the program beyond its caller's rights.
#[derive(Clone, Debug, Default)]
pub(crate) struct Privileges {
    /// The first of "setuid", "setgid", "given file capabilities".
    kind: Option<&'static str>,
}

impl Privileges {
    /// Refuses a runtime that would not be found in a privileged process, or that others than root
    /// can replace. glibc ignores $ORIGIN there (elf/dl-load.c, `_dl_dst_substitute`).
    pub(crate) fn check(
        &self,
        source: &Source,
        needed: &str,
        allowed: bool,
        surroundings: &dyn Surroundings,
    ) -> Result<()> {
        let Some(privilege) = self.kind else {
            return Ok(());
        };
        let flaw = match allowed {
            true => surroundings.flaw(needed),
            false => Some("that is not asked for".to_owned()),
        };
        match flaw {
            None => Ok(()),
            Some(flaw) => Err(source.error(ErrorKind::Privileged { privilege, flaw })),
        }
    }

    /// True if the program has any.
    pub(crate) fn any(&self) -> bool {
        self.kind.is_some()
    }
}

/// Opens `path` to make another file of it, or in its place.
pub(crate) fn open_to_change(path: &Path) -> Result<Input> {
    let recovered = direct::recover(path)?;
    Ok(Input {
        recovered,
        ..open(path)?
    })
}

/// Opens `path` if it is a regular file, to look into it.
pub(crate) fn open(path: &Path) -> Result<Input> {
    let Input {
        source, metadata, ..
    } = open_to_copy(path)?;
    let privileges = privileges(source.file(), &metadata);
    Ok(Input {
        privileges: privileges.map_err(|source| Error::io(path, "read the attributes", source))?,
        source: source.read_ahead()?,
        metadata,
        recovered: false,
    })
}

/// Opens `path` if it is a regular file, of which nothing has to be known but its bytes.
pub(crate) fn open_to_copy(path: &Path) -> Result<Input> {
    let failed = |action| move |source| Error::io(path, action, source);
    // Without O_NONBLOCK, opening a FIFO would wait for somebody to write into it.
    let nonblocking = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or(0);
    let file = File::options()
        .read(true)
        .custom_flags(nonblocking)
        .open(path)
        .map_err(|source| match is_special(path) {
            true => Error::new(path, ErrorKind::NotAFile),
            false => Error::io(path, "open", source),
        })?;
    let metadata = file.metadata().map_err(failed("read"))?;
    if metadata.is_dir() {
        return Err(Error::new(path, ErrorKind::Directory));
    }
    if !metadata.is_file() {
        return Err(Error::new(path, ErrorKind::NotAFile));
    }
    Ok(Input {
        source: Source::new(file, path, metadata.len()),
        metadata,
        privileges: Privileges::default(),
        recovered: false,
    })
}

fn is_special(path: &Path) -> bool {
    path.metadata().is_ok_and(|metadata| {
        let kind = metadata.file_type();
        kind.is_socket() || kind.is_fifo() || kind.is_char_device() || kind.is_block_device()
    })
}

fn privileges(file: &File, metadata: &Metadata) -> io::Result<Privileges> {
    let kind = match metadata.mode() {
        mode if mode & 0o4000 != 0 => Some("setuid"),
        mode if mode & 0o2000 != 0 => Some("setgid"),
        _ => match file.get_xattr(CAPABILITIES) {
            Err(error) if error.kind() == io::ErrorKind::Unsupported => None,
            capabilities => capabilities?.map(|_| "given file capabilities"),
        },
    };
    Ok(Privileges { kind })
}

impl Input {
    /// Whether the file has holes: fewer blocks than bytes (stat(2) counts 512 bytes each).
    pub(crate) fn is_sparse(&self) -> bool {
        self.metadata.blocks().saturating_mul(512) < self.metadata.len()
    }

    /// Fails if another file has the input's place by now: a result would undo that.
    pub(crate) fn check_in_place(&self, path: &Path) -> Result<()> {
        let now = path.metadata();
        let now = now.map_err(|source| Error::io(path, "read", source))?;
        let which = |metadata: &Metadata| (metadata.dev(), metadata.ino());
        match which(&now) == which(&self.metadata) {
            true => Ok(()),
            false => Err(self.source.error(ErrorKind::Replaced)),
        }
    }

    /// What went wrong with the input: if somebody wrote to it, that, and not what this made of it.
    pub(crate) fn cause(&self, error: Error) -> Error {
        match error.kind() {
            ErrorKind::Malformed { .. }
            | ErrorKind::Truncated { .. }
            | ErrorKind::Verify { .. } => self.check_unchanged().err().unwrap_or(error),
            _ => error,
        }
    }

    /// Fails if somebody wrote to the input since it was opened.
    pub(crate) fn check_unchanged(&self) -> Result<()> {
        let path = self.source.path();
        let now = self.source.file().metadata();
        let now = now.map_err(|source| Error::io(path, "read", source))?;
        let stamp = |metadata: &Metadata| (metadata.len(), metadata.mtime(), metadata.mtime_nsec());
        match stamp(&now) == stamp(&self.metadata) {
            true => Ok(()),
            false => Err(self.source.error(ErrorKind::Changed)),
        }
    }
}
