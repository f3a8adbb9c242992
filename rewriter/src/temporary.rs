//! Files that have not got their name yet, and those that a run which was killed has left.
//!
//! They are called `.allocs-rewrite-` and six letters or digits, and are locked by the process that makes
//! them: a lock ends with its process, so what nobody has locked is nobody's.

use std::fs::{self, File, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use tempfile::{Builder, NamedTempFile};

const PREFIX: &str = ".allocs-rewrite-";
/// Letters and digits behind it.
const RANDOM: usize = 6;

/// A file in `directory` that is gone when it is dropped, for its owner alone.
pub(crate) fn create_in(directory: &Path) -> io::Result<NamedTempFile> {
    create_with_mode(directory, 0o600)
}

/// The same with permissions from its beginning, less the umask.
pub(crate) fn create_with_mode(directory: &Path, mode: u32) -> io::Result<NamedTempFile> {
    loop {
        let file = builder()
            .permissions(Permissions::from_mode(mode))
            .tempfile_in(directory)?;
        // Between its creation and its lock, another run may have taken it for a left-over.
        match lock(file.as_file()) {
            Locked::Ours if file.as_file().metadata()?.nlink() > 0 => return Ok(file),
            Locked::Impossible => return Ok(file),
            _ => {}
        }
    }
}

/// Something else than a file: `make` gets a path in `directory`, and makes it.
pub(crate) fn make_in(
    directory: &Path,
    make: impl FnMut(&Path) -> io::Result<()>,
) -> io::Result<NamedTempFile<()>> {
    builder().make_in(directory, make)
}

fn builder() -> Builder<'static, 'static> {
    let mut builder = Builder::new();
    builder.prefix(PREFIX).rand_bytes(RANDOM);
    builder
}

/// Whether a directory entry can only be one of these.
pub(crate) fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    let random = name.strip_prefix(PREFIX.as_bytes());
    random.is_some_and(|random| {
        random.len() == RANDOM && random.iter().all(u8::is_ascii_alphanumeric)
    })
}

/// Removes what is left in `directory` of runs that were killed.
pub(crate) fn remove_left_over(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        if is_temporary(&entry.path()) && is_abandoned(&entry.path(), &entry.metadata()?)? {
            match fs::remove_file(entry.path()) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
    }
    Ok(())
}

/// Whether no run has the file locked. What is no file cannot be locked.
pub(crate) fn is_abandoned(path: &Path, metadata: &Metadata) -> io::Result<bool> {
    if metadata.is_dir() {
        return Ok(false); // none of ours
    }
    if !metadata.is_file() {
        return Ok(true);
    }
    match File::open(path) {
        Ok(file) => Ok(!matches!(lock(&file), Locked::Theirs)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// Keeps other runs away for as long as it lives.
///
/// A lock ends when all descriptors of the open file are closed, and a child that another thread is
/// just starting has one until its exec. So the lock is given up, not only closed.
#[derive(Debug)]
pub(crate) struct Lock(File);

impl Lock {
    /// Of a file or directory; none if another run has it.
    pub(crate) fn take(file: File) -> Option<Self> {
        (lock(&file) != Locked::Theirs).then(|| Self(file))
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        let _ = flock(&self.0, FlockOperation::Unlock); // if that fails, closing it does the same
    }
}

/// Whose a lock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Locked {
    Ours,
    Theirs,
    /// The file system knows no locks.
    Impossible,
}

/// Locks a file or directory for as long as it is open.
pub(crate) fn lock(file: &File) -> Locked {
    match flock(file, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Locked::Ours,
        Err(Errno::WOULDBLOCK) => Locked::Theirs,
        Err(_) => Locked::Impossible,
    }
}
