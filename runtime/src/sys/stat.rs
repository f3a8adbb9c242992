//! What the kernel says of a file: fstat and fstatat fill in the same structure.

use crate::machine::system;

/// S_IFREG, the type of a regular file.
pub(super) const REGULAR: usize = 0o100_000;
/// S_IFLNK, that of a symbolic link.
pub(super) const LINK: usize = 0o120_000;

/// `struct stat`: 128 bytes on AArch64, 144 on x86-64.
pub(super) struct Stat([usize; 18]);

impl Stat {
    /// What `fill` has the kernel write at an address, or the error.
    pub(super) fn get(fill: impl FnOnce(usize) -> isize) -> Result<Self, isize> {
        let mut words = [0; 18];
        match fill(words.as_mut_ptr().expose_provenance()) {
            0 => Ok(Self(words)),
            error => Err(error),
        }
    }

    /// Device and inode: the first two words on all machines.
    pub(super) fn identity(&self) -> (usize, usize) {
        (self.0[0], self.0[1])
    }

    /// The file's type.
    pub(super) fn kind(&self) -> usize {
        const S_IFMT: usize = 0o170_000;
        self.0[system::STAT_MODE] & S_IFMT
    }

    /// The file's size: the seventh word on all machines.
    pub(super) fn size(&self) -> usize {
        self.0[6]
    }
}
