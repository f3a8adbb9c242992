//! The file tree that the program will run in: this machine's, or the one below `--sysroot`.
//!
//! In a sysroot every path, and every symbolic link on the way, is taken as if that directory were
//! the root (openat2(2), RESOLVE_IN_ROOT). A program that does not lie below it still finds what is
//! beside itself.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, OFlags, ResolveFlags, fstat, openat, openat2};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind, Result};

/// A tree of files.
#[derive(Debug)]
pub(crate) struct System {
    root: Option<Root>,
}

#[derive(Debug)]
struct Root {
    dir: OwnedFd,
    path: PathBuf,
    /// The directory of a program that lies outside of the tree.
    outside: Option<PathBuf>,
}

/// A regular file that is open for reading.
#[derive(Debug)]
pub(crate) struct Opened {
    pub(crate) file: File,
    /// In bytes.
    pub(crate) len: u64,
    /// Device and inode: the loader knows a file again by these.
    pub(crate) identity: (u64, u64),
}

impl System {
    /// The tree below `sysroot`, or this machine's.
    pub(crate) fn new(sysroot: Option<&Path>) -> Result<Self> {
        let Some(path) = sysroot else {
            return Ok(Self { root: None });
        };
        let failed = |source: io::Error| Error::io(path, "open the sysroot", source);
        let flags = OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC;
        let dir = openat(CWD, path, flags, Mode::empty()).map_err(|e| failed(e.into()))?;
        let path = path.canonicalize().map_err(failed)?;
        Ok(Self {
            root: Some(Root {
                dir,
                path,
                outside: None,
            }),
        })
    }

    /// The same for those who cannot do without it: older kernels look up no path as if the tree were all.
    pub(crate) fn needed(sysroot: Option<&Path>) -> Result<Self> {
        let system = Self::new(sysroot)?;
        match system.open_with(Path::new("/"), OFlags::PATH | OFlags::CLOEXEC) {
            Err(error) if error.raw_os_error() == Some(Errno::NOSYS.raw_os_error()) => {
                let path = sysroot.unwrap_or(Path::new("/"));
                Err(Error::new(path, ErrorKind::NoSysroots))
            }
            _ => Ok(system),
        }
    }

    /// The path in the tree of the program whose path without symbolic links is `real`: what
    /// /proc/self/exe will have.
    pub(crate) fn place(&mut self, real: &Path) -> PathBuf {
        let Some(root) = &mut self.root else {
            return real.to_owned();
        };
        if let Ok(inside) = real.strip_prefix(&root.path) {
            return Path::new("/").join(inside);
        }
        root.outside = real.parent().map(Path::to_owned);
        real.to_owned()
    }

    /// Opens the regular file at `path`, as the loader would.
    pub(crate) fn open(&self, path: &Path) -> io::Result<Opened> {
        // Without NONBLOCK, opening a FIFO would wait for somebody to write into it.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = self.open_with(path, flags)?;
        let stat = fstat(&fd)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok(Opened {
            file: File::from(fd),
            len: u64::try_from(stat.st_size).unwrap_or(0),
            identity: (stat.st_dev, stat.st_ino),
        })
    }

    /// The path on this machine, without symbolic links, of what is at `path`.
    pub(crate) fn real_path(&self, path: &Path) -> io::Result<PathBuf> {
        let fd = self.open_with(path, OFlags::PATH | OFlags::CLOEXEC)?;
        fs::read_link(format!("/proc/self/fd/{}", fd.as_raw_fd()))
    }

    /// Whether `real`, such a path, is below the root of the tree.
    pub(crate) fn is_below_root(&self, real: &Path) -> bool {
        let root = self.root.as_ref();
        root.is_none_or(|root| real != root.path && real.starts_with(&root.path))
    }

    /// True if there is a directory at `path`.
    pub(crate) fn is_directory(&self, path: &Path) -> bool {
        self.open_with(path, OFlags::DIRECTORY | OFlags::PATH | OFlags::CLOEXEC)
            .is_ok()
    }

    /// The whole of a small file; `None` if there is none or it is no regular file.
    pub(crate) fn read(&self, path: &Path, most: u64) -> Result<Option<Vec<u8>>> {
        use std::io::Read;
        let Ok(opened) = self.open(path) else {
            return Ok(None);
        };
        if opened.len > most {
            return Err(Error::new(
                path,
                ErrorKind::Malformed {
                    what: format!("it is larger than {most} bytes"),
                },
            ));
        }
        let mut bytes = Vec::new();
        opened
            .file
            .take(most)
            .read_to_end(&mut bytes)
            .map_err(|source| Error::io(path, "read", source))?;
        Ok(Some(bytes))
    }

    fn open_with(&self, path: &Path, flags: OFlags) -> io::Result<OwnedFd> {
        let inside = self.root.as_ref().filter(|root| {
            let beside = |dir: &PathBuf| path.starts_with(dir);
            !root.outside.as_ref().is_some_and(beside)
        });
        let Some(root) = inside else {
            return Ok(openat(CWD, path, flags, Mode::empty())?);
        };
        loop {
            // The kernel gives up on a path with `..` while anything in the system is renamed or
            // mounted (openat2(2), EAGAIN).
            match openat2(&root.dir, path, flags, Mode::empty(), ResolveFlags::IN_ROOT) {
                Err(Errno::AGAIN) => {}
                opened => return Ok(opened?),
            }
        }
    }
}
