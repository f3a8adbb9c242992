//! Files by their names.

use super::stat::{LINK, REGULAR, Stat};
use super::{AT_FDCWD, File, syscall};
use crate::machine::system::{self, O_NOFOLLOW};
use crate::sync::{AtomicU8, Ordering::Relaxed};

const ENOENT: isize = 2;

const O_WRONLY: usize = 0o1;

/// What a path leads to, its last part not followed if it is a symbolic link.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Nothing,
    Regular,
    Link,
    /// A device, a FIFO, a socket, a directory, or what cannot be looked at.
    Other,
}

/// A file's name, with a NUL behind it.
#[derive(Clone, Copy)]
pub(crate) struct Path<'a>(&'a [AtomicU8]);

impl<'a> Path<'a> {
    /// The bytes up to the first NUL, if there is one.
    pub(crate) fn new(bytes: &'a [AtomicU8]) -> Option<Self> {
        bytes.iter().find(|byte| byte.load(Relaxed) == 0)?;
        Some(Self(bytes))
    }

    fn address(self) -> usize {
        self.0.as_ptr().expose_provenance()
    }

    /// What is there.
    pub(crate) fn kind(self) -> Kind {
        const AT_SYMLINK_NOFOLLOW: usize = 0x100;
        let stat = Stat::get(|at| {
            let arguments = [AT_FDCWD, self.address(), at, AT_SYMLINK_NOFOLLOW, 0];
            // SAFETY: the path has an end; the kernel fills the structure in.
            unsafe { syscall(system::FSTATAT, arguments) }
        });
        match stat.map(|stat| stat.kind()) {
            Ok(REGULAR) => Kind::Regular,
            Ok(LINK) => Kind::Link,
            Err(error) if error == -ENOENT => Kind::Nothing,
            _ => Kind::Other,
        }
    }

    /// Gives the file the name `to`, in place of whatever file had it.
    pub(crate) fn rename(self, to: Path<'_>) -> bool {
        let arguments = [AT_FDCWD, self.address(), AT_FDCWD, to.address(), 0];
        // SAFETY: both paths have an end.
        unsafe { syscall(system::RENAMEAT, arguments) == 0 }
    }

    /// Takes the name away.
    pub(crate) fn unlink(self) {
        // SAFETY: the path has an end.
        unsafe { syscall(system::UNLINKAT, [AT_FDCWD, self.address(), 0, 0, 0]) };
    }

    /// Creates the file, where nothing must be, not even a symbolic link. No program that is executed
    /// meanwhile inherits it.
    pub(crate) fn create(self) -> Option<File> {
        const O_CREAT: usize = 0o100;
        const O_EXCL: usize = 0o200;
        let flags = O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW;
        // SAFETY: the path has an end.
        unsafe { File::open_at(self.address(), flags) }
    }

    /// Opens what is there for writing, which keeps its content. Follows no symbolic link, waits for
    /// no reader and gets no terminal.
    pub(crate) fn open_to_write(self) -> Option<File> {
        const O_NOCTTY: usize = 0o400;
        const O_NONBLOCK: usize = 0o4000;
        let flags = O_WRONLY | O_NOCTTY | O_NONBLOCK | O_NOFOLLOW;
        // SAFETY: the path has an end.
        unsafe { File::open_at(self.address(), flags) }
    }
}
