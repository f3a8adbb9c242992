//! Bytes of the input → the same bytes in the result, by the kernel: none pass through this process where it
//! can do without. Holes stay holes.
//!
//! All of a large input can be copied ahead, on a processor of its own, while it is not yet known what
//! is to become of it.

use std::fs::File;
use std::io;
use std::mem;
use std::os::unix::fs::FileExt;
use std::panic::resume_unwind;
use std::path::PathBuf;
use std::sync::mpsc::{self, Receiver};
use std::thread::{Builder, JoinHandle};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;

use crate::elf::FileOffset;
use crate::error::{Error, ErrorKind, Result};
use crate::processors::{LARGE, is_one_free};
use crate::source::Source;

/// Bytes that the kernel copies in one call, so that progress shows.
const CHUNK: u64 = 4 << 20;

/// The kernel copies this much at a time through a pipe, and faster where that fills whole large
/// folios of the page cache: after an odd start, a copy gets back into step at its next multiple.
const STRIDE: u64 = 64 << 10;

/// From one file to another.
#[derive(Debug)]
pub(crate) struct Copier {
    pub(crate) source: Source,
    /// Whether the input has holes.
    pub(crate) sparse: bool,
    pub(crate) file: File,
    /// What the other file is called in errors.
    pub(crate) path: PathBuf,
}

impl Copier {
    /// Copies `len` bytes at `from` to `to`; `copied` hears of every run of bytes, and may end it.
    pub(crate) fn copy(
        &self,
        from: FileOffset,
        len: u64,
        to: FileOffset,
        copied: &mut impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let end = from.0 + len;
        let mut at = from.0;
        while at < end {
            let (data, data_end) = match self.sparse {
                true => next_data(&self.source, at, end)?,
                false => (at, end),
            };
            let mut position = data;
            while position < data_end {
                let step = match position % STRIDE {
                    0 => CHUNK,
                    odd => STRIDE - odd,
                };
                let len = step.min(data_end - position);
                self.copy_piece(position, to.0 + (position - from.0), len)?;
                copied(len)?;
                position += len;
            }
            at = data_end;
        }
        Ok(())
    }

    fn copy_piece(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let (mut from, mut to) = (from, to);
        let end = from + len;
        while from < end {
            let len = usize::try_from(end - from).unwrap_or(usize::MAX);
            match copy_file_range(
                self.source.file(),
                Some(&mut from),
                &self.file,
                Some(&mut to),
                len,
            ) {
                Ok(0) => return Err(self.source.error(ErrorKind::Changed)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                    return self.copy_through_memory(from, to, end - from);
                }
                Err(error) => return self.checked(Err(error.into())),
            }
        }
        Ok(())
    }

    /// For file systems between which the kernel does not copy.
    fn copy_through_memory(&self, from: u64, to: u64, len: u64) -> Result<()> {
        let mut buffer = vec![0; 128 << 10];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(buffer.len() as u64);
            let window = &mut buffer[..usize::try_from(step).unwrap_or(0)];
            self.source.fill(FileOffset(from + done), window)?;
            self.checked(self.file.write_all_at(window, to + done))?;
            done += step;
        }
        Ok(())
    }

    fn checked<T>(&self, result: io::Result<T>) -> Result<T> {
        result.map_err(|source| Error::io(&self.path, "write", source))
    }

    /// Shares all blocks of the input with the empty file, where the file system can (ioctl_ficlone(2)).
    pub(crate) fn share(&self) -> bool {
        ioctl_ficlone(&self.file, self.source.file()).is_ok()
    }

    /// Whether it is worth it to [`begin`](Self::begin) with an input.
    pub(crate) fn pays(source: &Source) -> bool {
        source.len() >= LARGE && is_one_free()
    }

    /// Begins to put all of the input into the empty file, while this process does something else.
    pub(crate) fn begin(self) -> Base {
        if self.share() {
            return Base::Whole;
        }
        let (tell, copied) = mpsc::channel();
        let thread = Builder::new().spawn(move || {
            let mut untold = 0; // a file may have very many holes
            let all = self.source.len();
            self.copy(FileOffset(0), all, FileOffset(0), &mut |len| {
                untold += len;
                let told = match untold < CHUNK {
                    true => Ok(()),
                    false => tell.send(mem::take(&mut untold)),
                };
                told.map_err(|_| Error::new(&self.path, ErrorKind::Stopped))
            })?;
            let _ = tell.send(untold); // or nobody asks any more
            Ok(())
        });
        match thread {
            Ok(thread) => Base::Coming(Ahead {
                copied,
                thread: Some(thread),
            }),
            Err(_) => Base::Empty,
        }
    }
}

/// What the result has of the input before anything else is written.
#[derive(Debug, Default)]
pub(crate) enum Base {
    /// Nothing: it is empty.
    #[default]
    Empty,
    /// All.
    Whole,
    /// All, when that has ended.
    Coming(Ahead),
}

/// A copy that is being made; it ends soon when nobody wants it any more.
#[derive(Debug)]
pub(crate) struct Ahead {
    /// Bytes copied, run by run.
    copied: Receiver<u64>,
    thread: Option<JoinHandle<Result<()>>>,
}

impl Ahead {
    /// Waits until the first `len` bytes are copied, and nothing is written any more; `copied` hears of every run of
    /// these, and may end it.
    pub(crate) fn wait(
        mut self,
        len: u64,
        mut copied: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let mut left = len;
        while left > 0
            && let Ok(run) = self.copied.recv()
        {
            let run = run.min(left);
            left -= run;
            copied(run)?;
        }
        match (self.end(), left) {
            (_, 0) => Ok(()), // whatever came of the rest
            (ended, _) => ended,
        }
    }

    fn end(&mut self) -> Result<()> {
        self.copied = mpsc::channel().1; // nobody hears of the other any more
        let ended = self.thread.take().map(JoinHandle::join);
        ended.map_or(Ok(()), |ended| {
            ended.unwrap_or_else(|panic| resume_unwind(panic))
        })
    }
}

impl Drop for Ahead {
    fn drop(&mut self) {
        let _ = self.end(); // of which nobody wants to know
    }
}

/// The next run of data in `[at, end)` of a file with holes; empty at `end` if there is none.
fn next_data(source: &Source, at: u64, end: u64) -> Result<(u64, u64)> {
    let data = match seek(source.file(), SeekFrom::Data(at)) {
        Ok(data) => data.min(end),
        Err(Errno::NXIO) => end, // a hole up to the end of the file
        Err(Errno::INVAL) => at, // a file system that knows no holes
        Err(error) => return Err(Error::io(source.path(), "read", error.into())),
    };
    if data == end {
        return Ok((end, end));
    }
    let hole = seek(source.file(), SeekFrom::Hole(data));
    let hole = hole.map_err(|error| Error::io(source.path(), "read", error.into()))?;
    Ok((data, hole.min(end)))
}
