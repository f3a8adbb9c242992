//! What belongs to a file beside its bytes: owner, mode, ACLs, extended attributes and times.

use std::ffi::OsStr;
use std::fs::{self, File, FileTimes, Metadata, Permissions};
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt, fchown, lchown};
use std::path::Path;

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, utimensat};
use xattr::{FileExt, XAttrs};

/// POSIX ACLs, as acl(5) has them in extended attributes: a new file may have got one from its directory.
const ACLS: [&str; 2] = ["system.posix_acl_access", "system.posix_acl_default"];

/// An inode: an open file, or a path, of which a link is not followed.
pub(crate) trait Inode {
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()>;
    fn set_mode(&self, mode: u32) -> io::Result<()>;
    fn set_times(&self, of: &Metadata) -> io::Result<()>;
    fn xattrs(&self) -> io::Result<XAttrs>;
    fn xattr(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>>;
    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()>;
    fn remove_xattr(&self, name: &OsStr) -> io::Result<()>;
}

impl Inode for File {
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        // By way of libc, so that fakeroot(1) hears of it.
        fchown(self, Some(uid), Some(gid))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        self.set_permissions(Permissions::from_mode(mode))
    }

    fn set_times(&self, of: &Metadata) -> io::Result<()> {
        let times = FileTimes::new().set_accessed(of.accessed()?);
        Self::set_times(self, times.set_modified(of.modified()?))
    }

    fn xattrs(&self) -> io::Result<XAttrs> {
        self.list_xattr()
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        self.get_xattr(name)
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        FileExt::set_xattr(self, name, value)
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        FileExt::remove_xattr(self, name)
    }
}

impl Inode for Path {
    fn set_owner(&self, uid: u32, gid: u32) -> io::Result<()> {
        lchown(self, Some(uid), Some(gid))
    }

    fn set_mode(&self, mode: u32) -> io::Result<()> {
        match fs::symlink_metadata(self)?.is_symlink() {
            true => Ok(()), // it has none
            false => fs::set_permissions(self, Permissions::from_mode(mode)),
        }
    }

    fn set_times(&self, of: &Metadata) -> io::Result<()> {
        let time = |tv_sec, tv_nsec| Timespec { tv_sec, tv_nsec };
        let times = Timestamps {
            last_access: time(of.atime(), of.atime_nsec()),
            last_modification: time(of.mtime(), of.mtime_nsec()),
        };
        Ok(utimensat(CWD, self, &times, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn xattrs(&self) -> io::Result<XAttrs> {
        xattr::list(self)
    }

    fn xattr(&self, name: &OsStr) -> io::Result<Option<Vec<u8>>> {
        xattr::get(self, name)
    }

    fn set_xattr(&self, name: &OsStr, value: &[u8]) -> io::Result<()> {
        xattr::set(self, name, value)
    }

    fn remove_xattr(&self, name: &OsStr) -> io::Result<()> {
        xattr::remove(self, name)
    }
}

/// A step that failed, and what it was to do.
pub(crate) type Failed = (&'static str, io::Error);

/// Gives `to` everything that `from` has, as `cp -a` does: root gets an error for what cannot be given, and
/// others get what they may give; of the rights of another owner, nothing.
pub(crate) fn copy_all<From, To>(from: &From, of: &Metadata, to: &To) -> Result<(), Failed>
where
    From: Inode + ?Sized,
    To: Inode + ?Sized,
{
    let mut mode = of.mode() & 0o7777;
    match to.set_owner(of.uid(), of.gid()) {
        Err(error) if !refused(&error) => return Err(("give the owner to it", error)),
        Err(_) => mode &= 0o1777,
        Ok(()) => {}
    }
    to.set_mode(mode).map_err(|error| ("set the mode", error))?;
    match copy_xattrs(from, to, |_| true) {
        Err(error) if !refused(&error) => return Err(("copy the extended attributes", error)),
        _ => {}
    }
    to.set_times(of).map_err(|error| ("set the times", error))
}

/// Whether that is not for everybody to do, or not for this file system.
fn refused(error: &io::Error) -> bool {
    let of_root = error.kind() == io::ErrorKind::PermissionDenied;
    error.kind() == io::ErrorKind::Unsupported || of_root && !is_root()
}

/// Whether owners can be given away. Under fakeroot(1) they can, too, and there nothing fails.
pub(crate) fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Copies the extended attributes that are wanted, all but the integrity subsystem's, which are about the
/// old bytes. An ACL that `from` has not is taken away if all are wanted.
pub(crate) fn copy_xattrs<From, To>(
    from: &From,
    to: &To,
    wanted: impl Fn(&OsStr) -> bool,
) -> io::Result<()>
where
    From: Inode + ?Sized,
    To: Inode + ?Sized,
{
    let names: Vec<_> = match from.xattrs() {
        Err(error) if error.kind() == io::ErrorKind::Unsupported => return Ok(()),
        names => names?.collect(),
    };
    for name in &names {
        let of_old_bytes = name == "security.ima" || name == "security.evm";
        if of_old_bytes || !wanted(name) {
            continue;
        }
        let value = from.xattr(name)?;
        // What a directory's default has given already need not be permitted again.
        if let Some(value) =
            value.filter(|value| to.xattr(name).ok().flatten().as_ref() != Some(value))
        {
            to.set_xattr(name, &value)?;
        }
    }
    for name in to.xattrs()? {
        let acl = ACLS.iter().any(|acl| name == *acl);
        if acl && wanted(&name) && !names.contains(&name) {
            to.remove_xattr(&name)?;
        }
    }
    Ok(())
}
