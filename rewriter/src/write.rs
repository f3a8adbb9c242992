//! [`Spans`] → a file, all at once or not at all.
//!
//! The result is written under a temporary name in the target directory and renamed when it is
//! whole and verified. The kernel copies or shares the input's bytes; but for those in pages that change,
//! none pass through this process. Holes stay holes. Pages with new bytes are written first, and the
//! others are copied around them, so that a write in the wrong place cannot survive.

use std::fs::{self, File};
use std::io::{self, Write};
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use rustix::fs::{SeekFrom, copy_file_range, ioctl_ficlone, seek};
use rustix::io::Errno;
use tempfile::NamedTempFile;

use crate::directory_of;
use crate::elf::{FileOffset, PAGE, align_down, align_up};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;
use crate::spans::{Content, Span, Spans};
use crate::temporary;

/// Bytes that the kernel copies in one call, so that progress shows.
const CHUNK: u64 = 4 << 20;

/// The kernel copies this much at a time through a pipe, and faster where that fills whole large
/// folios of the page cache: after an odd start, a copy gets back into step at its next multiple.
const STRIDE: u64 = 64 << 10;

/// A file being written next to where it will be.
#[derive(Debug)]
pub(crate) struct Output {
    temporary: NamedTempFile,
    path: PathBuf,
}

impl Output {
    /// Starts a file that will be `path`, in its directory.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let temporary = temporary::create_in(directory_of(path))
            .map_err(|source| Error::io(path, "write in its directory", source))?;
        Ok(Self {
            temporary,
            path: path.to_owned(),
        })
    }

    pub(crate) fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// What the temporary file is called, for error messages about it and for reading it back.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Fills the file; `copied` hears of every run of bytes copied from the input, which may be `sparse`, and may
    /// end it.
    pub(crate) fn fill(
        &self,
        source: &Source,
        sparse: bool,
        spans: &Spans,
        mut copied: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let file = self.file();
        let pages = changed_pages(spans);
        let shared = self.share(source, spans);
        let ends_in_hole = sparse || spans.ends_in_zeros();
        if ends_in_hole || shared && spans.len() != source.len() {
            self.checked("write", file.set_len(spans.len()))?;
        }
        self.write_pages(source, spans, &pages)?;
        if shared {
            return Ok(());
        }
        let starts = [0].into_iter().chain(pages.iter().map(|page| page.end));
        let ends = pages.iter().map(|page| page.start).chain([spans.len()]);
        for (start, end) in starts.zip(ends) {
            for span in spans.slice(FileOffset(start), end - start) {
                if let Content::Input(from) = span.content {
                    self.copy_span(source, &span, from, sparse, &mut copied)?;
                }
            }
        }
        Ok(())
    }

    /// Shares the input's blocks where the file system can (ioctl_ficlone(2)), if all of the input
    /// stays at its place.
    fn share(&self, source: &Source, spans: &Spans) -> bool {
        let in_place = |span: &Span| match span.content {
            Content::Input(from) => from == span.at,
            Content::Bytes(_) => true,
            Content::Zero => span.at.0 >= source.len(),
        };
        spans.iter().all(in_place) && ioctl_ficlone(self.file(), source.file()).is_ok()
    }

    /// Writes whole pages: of one that is written in part, the kernel would first read the rest from the
    /// disk where blocks are shared, as no page of the new file is in its cache yet.
    fn write_pages(&self, source: &Source, spans: &Spans, pages: &[Range<u64>]) -> Result<()> {
        if pages.is_empty() {
            return Ok(()); // a copy
        }
        let result = source.through(spans);
        for range in pages {
            let (at, size) = (FileOffset(range.start), range.end - range.start);
            result.for_each_window(at, size, "the pages that change", |skip, window| {
                let written = self.file().write_all_at(window, range.start + skip);
                self.checked("write", written)
            })?;
        }
        Ok(())
    }

    fn copy_span(
        &self,
        source: &Source,
        span: &Span,
        from: FileOffset,
        sparse: bool,
        copied: &mut impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let end = from.0 + span.len;
        let mut at = from.0;
        while at < end {
            let (data, data_end) = match sparse {
                true => next_data(source, at, end)?,
                false => (at, end),
            };
            let mut position = data;
            while position < data_end {
                let step = match position % STRIDE {
                    0 => CHUNK,
                    odd => STRIDE - odd,
                };
                let len = step.min(data_end - position);
                self.copy_piece(source, position, span.at.0 + (position - from.0), len)?;
                copied(len)?;
                position += len;
            }
            at = data_end;
        }
        Ok(())
    }

    fn copy_piece(&self, source: &Source, from: u64, to: u64, len: u64) -> Result<()> {
        let (mut from, mut to) = (from, to);
        let end = from + len;
        while from < end {
            let len = usize::try_from(end - from).unwrap_or(usize::MAX);
            match copy_file_range(
                source.file(),
                Some(&mut from),
                self.file(),
                Some(&mut to),
                len,
            ) {
                Ok(0) => return Err(source.error(ErrorKind::Changed)),
                Ok(_) | Err(Errno::INTR) => {}
                Err(Errno::XDEV | Errno::NOSYS | Errno::INVAL | Errno::OPNOTSUPP) => {
                    return self.copy_through_memory(source, from, to, end - from);
                }
                Err(error) => return self.checked("write", Err(error.into())),
            }
        }
        Ok(())
    }

    /// For file systems between which the kernel does not copy.
    fn copy_through_memory(&self, source: &Source, from: u64, to: u64, len: u64) -> Result<()> {
        let mut buffer = vec![0; 128 << 10];
        let mut done = 0;
        while done < len {
            let step = (len - done).min(buffer.len() as u64);
            let window = &mut buffer[..usize::try_from(step).unwrap_or(0)];
            source.fill(FileOffset(from + done), window)?;
            self.checked("write", self.file().write_all_at(window, to + done))?;
            done += step;
        }
        Ok(())
    }

    /// Gives the file its name. The bytes are flushed to disk only where they replace others that are
    /// to be `kept` till then: what is new can be made again, what is replaced cannot (cp(1) does not
    /// flush either).
    pub(crate) fn finish(self, kept: bool) -> Result<()> {
        let Self { temporary, path } = self;
        if kept && fs::symlink_metadata(&path).is_ok() {
            let flushed = temporary.as_file().sync_all();
            flushed.map_err(|source| Error::io(&path, "flush", source))?;
        }
        match temporary.persist(&path) {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::io(
                &path,
                "rename the finished file to it",
                error.error,
            )),
        }
    }

    fn checked<T>(&self, action: &'static str, result: io::Result<T>) -> Result<T> {
        result.map_err(|source| Error::io(&self.path, action, source))
    }
}

/// Writes a small file that takes its name when it is whole, with `mode` as the umask leaves it.
pub(crate) fn whole_file(path: &Path, bytes: &[u8], mode: u32) -> io::Result<()> {
    let mut file = temporary::create_with_mode(directory_of(path), mode)?;
    file.write_all(bytes)?;
    file.persist(path)?;
    Ok(())
}

/// The pages of the result that have new bytes, in runs.
fn changed_pages(spans: &Spans) -> Vec<Range<u64>> {
    let mut pages: Vec<Range<u64>> = Vec::new();
    let new = |span: &&Span| matches!(span.content, Content::Bytes(_));
    for span in spans.iter().filter(new) {
        let start = align_down(span.at.0, PAGE);
        let end = align_up(span.at.0 + span.len, PAGE).unwrap_or(u64::MAX);
        let end = end.min(spans.len());
        match pages.last_mut() {
            Some(last) if start <= last.end => last.end = last.end.max(end),
            _ => pages.push(start..end),
        }
    }
    pages
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
