//! `--in-place=direct`: only the bytes that change are written, into the program itself.
//!
//! For build trees: nothing is copied, and links and inode stay. While it goes on, a record beside
//! the program, `.NAME.allocs-rewrite`, has the old bytes, so that the next run on the program can
//! take back what one that was cut off had begun. The record is locked by the run that made it: a
//! lock ends with its process. Nothing is flushed to disk; what a crash of the machine leaves of a
//! build tree can be built again.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::directory_of;
use crate::elf::FileOffset;
use crate::error::{Error, ErrorKind, Result};
use crate::input::Input;
use crate::spans::Spans;
use crate::temporary;

/// Behind a dot and the program's name.
const SUFFIX: &str = ".allocs-rewrite";

/// A program about to be edited.
#[derive(Debug)]
pub(crate) struct Direct {
    file: File,
    path: PathBuf,
    record: Record,
}

/// What is written beside the program meanwhile, as JSON.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    /// The program's inode: another file by that name is not what was edited.
    inode: u64,
    edits: Vec<Edit>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Edit {
    /// Offset in the file, in bytes.
    at: u64,
    old: Vec<u8>,
    new: Vec<u8>,
}

impl Direct {
    /// Opens the program at `path`, links resolved, to make of it what `spans` say; the error is why
    /// it has to be replaced as a whole.
    pub(crate) fn open(
        input: &Input,
        path: &Path,
        spans: &Spans,
    ) -> Result<std::result::Result<Self, &'static str>> {
        if input.privileges.any() {
            return Ok(Err("a write would take its privileges away"));
        }
        let Some(edits) = spans.edits(input.source.len()) else {
            return Ok(Err("it has to grow or shrink"));
        };
        let file = match File::options().write(true).open(path) {
            Ok(file) => file,
            Err(error) => match error.kind() {
                io::ErrorKind::ExecutableFileBusy => return Ok(Err("it is running")),
                io::ErrorKind::PermissionDenied => return Ok(Err("it is not writable")),
                _ => return Err(Error::io(path, "open for writing", error)),
            },
        };
        let edit = |(at, new): (FileOffset, &[u8])| {
            let old = input.source.bytes(at, new.len() as u64, "changed bytes")?;
            Ok(Edit {
                at: at.0,
                old,
                new: new.to_vec(),
            })
        };
        let record = Record {
            inode: input.metadata.ino(),
            edits: edits.into_iter().map(edit).collect::<Result<_>>()?,
        };
        if inode(&file, path)? != record.inode {
            return Err(input.source.error(ErrorKind::Changed));
        }
        Ok(Ok(Self {
            file,
            path: path.to_owned(),
            record,
        }))
    }

    /// Writes the new bytes. If that fails, the old ones are back.
    pub(crate) fn apply(self) -> Result<()> {
        let record_path = record_path(&self.path);
        let record = self.record.write(&record_path)?;
        let written = self.record.put(&self.file, |edit| &edit.new);
        if let Err(source) = written {
            let back = self.record.put(&self.file, |edit| &edit.old);
            if back.is_ok() {
                remove(&record_path)?;
            }
            return Err(Error::io(&self.path, "write", source));
        }
        remove(&record_path)?;
        drop(record); // and the lock with it
        Ok(())
    }
}

impl Record {
    /// Puts the record in place, whole and locked, if no other run has one there.
    fn write(&self, path: &Path) -> Result<File> {
        let failed = |source| Error::io(path, "write", source);
        let mut file = temporary::create_in(directory_of(path)).map_err(failed)?;
        let json = serde_json::to_vec(self).map_err(|error| failed(error.into()))?;
        file.write_all(&json).map_err(failed)?;
        file.persist_noclobber(path)
            .map_err(|error| match error.error.kind() {
                io::ErrorKind::AlreadyExists => Error::new(path, ErrorKind::Busy),
                _ => failed(error.error),
            })
    }

    /// Whether the file is the one that was edited: each byte is the old or the new one. A linker that has made
    /// it again may have given it the same inode.
    fn is_of(&self, file: &File) -> io::Result<bool> {
        for edit in &self.edits {
            let mut now = vec![0; edit.old.len()];
            match file.read_exact_at(&mut now, edit.at) {
                Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
                read => read?,
            }
            let known = edit.old.iter().zip(&edit.new);
            if !now
                .iter()
                .zip(known)
                .all(|(now, (old, new))| now == old || now == new)
            {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn put(&self, file: &File, bytes: impl Fn(&Edit) -> &Vec<u8>) -> io::Result<()> {
        let mut edits = self.edits.iter();
        edits.try_for_each(|edit| file.write_all_at(bytes(edit), edit.at))
    }
}

/// Takes back what a run on the program at `path` had begun when it was cut off. True if there was
/// such a thing.
pub(crate) fn recover(path: &Path) -> Result<bool> {
    let Ok(path) = path.canonicalize() else {
        return Ok(false); // who opens it will say why
    };
    let record_path = record_path(&path);
    let record = match File::open(&record_path) {
        Ok(record) => record,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(Error::io(&record_path, "open", error)),
    };
    let failed = |source| Error::io(&record_path, "read", source);
    match flock(&record, FlockOperation::NonBlockingLockExclusive) {
        Err(Errno::WOULDBLOCK) => return Err(Error::new(&record_path, ErrorKind::Busy)),
        locked => locked.map_err(|error| failed(error.into()))?,
    }
    if record.metadata().map_err(failed)?.nlink() == 0 {
        return Ok(false); // the run that had it has ended well meanwhile
    }
    let found: Record = serde_json::from_reader(io::BufReader::new(&record))
        .map_err(|_| Error::new(&record_path, ErrorKind::DamagedRecord))?;
    let program = File::options().read(true).write(true).open(&path);
    let program = program.map_err(|source| Error::io(&path, "open for writing", source))?;
    let is_of = found.is_of(&program);
    let is_of = is_of.map_err(|source| Error::io(&path, "read", source))?;
    let same = is_of && inode(&program, &path)? == found.inode;
    if same {
        let back = found.put(&program, |edit| &edit.old);
        back.map_err(|source| Error::io(&path, "write", source))?;
    }
    remove(&record_path)?;
    Ok(same)
}

fn inode(file: &File, path: &Path) -> Result<u64> {
    let metadata = file.metadata();
    metadata
        .map(|metadata| metadata.ino())
        .map_err(|source| Error::io(path, "read", source))
}

fn record_path(program: &Path) -> PathBuf {
    let mut name = std::ffi::OsString::from(".");
    name.push(program.file_name().unwrap_or_default());
    name.push(SUFFIX);
    program.with_file_name(name)
}

/// Whether a file can only be a record, by its name.
pub(crate) fn is_record(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().as_encoded_bytes();
    name.starts_with(b".") && name.ends_with(SUFFIX.as_bytes()) && name.len() > SUFFIX.len() + 1
}

fn remove(record: &Path) -> Result<()> {
    fs::remove_file(record).map_err(|source| Error::io(record, "remove", source))
}
