//! [`Spans`] → a file, all at once or not at all.
//!
//! The result is written under a temporary name in the target directory and renamed when it is
//! whole and verified. The kernel copies or shares the input's bytes ([`Copier`]): what stays at its place may be there
//! already, of a large input or where blocks are shared. Then pages with new bytes are written, and no others; and
//! around them is copied what is not there yet, over whatever was written in the wrong place.

use std::fs::{self, File};
use std::io::{self, Write};
use std::mem;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use tempfile::NamedTempFile;

use crate::copy::{Base, Copier};
use crate::directory_of;
use crate::elf::{FileOffset, PAGE, align_down, align_up};
use crate::error::{Error, Result};
use crate::input::Input;
use crate::source::Source;
use crate::spans::{Content, Span, Spans};
use crate::temporary;

/// A file being written next to where it will be.
#[derive(Debug)]
pub(crate) struct Output {
    temporary: NamedTempFile,
    path: PathBuf,
    /// What is in it before it is filled.
    base: Base,
}

impl Output {
    /// Starts a file that will be `path`, in its directory.
    pub(crate) fn create(path: &Path) -> Result<Self> {
        let temporary = temporary::create_in(directory_of(path))
            .map_err(|source| Error::io(path, "write in its directory", source))?;
        Ok(Self {
            temporary,
            path: path.to_owned(),
            base: Base::Empty,
        })
    }

    pub(crate) fn file(&self) -> &File {
        self.temporary.as_file()
    }

    /// What the temporary file is called, for error messages about it and for reading it back.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Begins to put all of `input` into it, which is of use where that stays at its place.
    pub(crate) fn begin(&mut self, input: &Input) -> Result<()> {
        self.base = self.copier(input)?.begin();
        Ok(())
    }

    /// From `input` to this file.
    fn copier(&self, input: &Input) -> Result<Copier> {
        Ok(Copier {
            source: input.source.clone(),
            sparse: input.is_sparse(),
            file: self.checked("write", self.file().try_clone())?,
            path: self.path.clone(),
        })
    }

    /// Fills the file; `copied` hears of every run of bytes copied from the input, and may end it.
    pub(crate) fn fill(
        &mut self,
        input: &Input,
        spans: &Spans,
        mut copied: impl FnMut(u64) -> Result<()>,
    ) -> Result<()> {
        let pages = changed_pages(spans);
        let others = around(&pages, spans);
        let copier = self.copier(input)?;
        let kept = self.keep(&copier, &others, spans.len(), &mut copied)?;
        if input.is_sparse() || spans.ends_in_zeros() {
            self.checked("write", self.file().set_len(spans.len()))?;
        }
        self.write_pages(&input.source, spans, &pages)?;
        for span in others.iter().filter(|span| span.at.0 >= kept) {
            if let Content::Input(from) = span.content {
                copier.copy(from, span.len, span.at, &mut copied)?;
            }
        }
        Ok(())
    }

    /// Keeps as many bytes of what is there of the input as stay at their place in a result of `len` bytes, up to the
    /// first that does not, and says how many.
    fn keep(
        &mut self,
        copier: &Copier,
        others: &[Span],
        len: u64,
        copied: impl FnMut(u64) -> Result<()>,
    ) -> Result<u64> {
        let all = copier.source.len();
        let moves = |span: &&Span| match span.content {
            Content::Input(from) => from != span.at,
            _ => span.at.0 < all,
        };
        let first = others.iter().find(moves);
        let stay = first.map_or(len, |first| first.at.0).min(all);
        match mem::take(&mut self.base) {
            Base::Coming(ahead) => ahead.wait(stay, copied)?,
            Base::Empty if !copier.share() => return Ok(0),
            Base::Empty | Base::Whole => {}
        }
        if stay < all {
            self.checked("write", self.file().set_len(stay))?;
        }
        Ok(stay)
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

    /// Gives the file its name. The bytes are flushed to disk only where they replace others that are
    /// to be `kept` till then: what is new can be made again, what is replaced cannot (cp(1) does not
    /// flush either).
    pub(crate) fn finish(self, kept: bool) -> Result<()> {
        let Self {
            temporary, path, ..
        } = self;
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

/// What is around `pages`: of the input, or zeros.
fn around(pages: &[Range<u64>], spans: &Spans) -> Vec<Span> {
    let starts = [0].into_iter().chain(pages.iter().map(|page| page.end));
    let ends = pages.iter().map(|page| page.start).chain([spans.len()]);
    let ranges = starts.zip(ends);
    let slices = ranges.flat_map(|(at, end)| spans.slice(FileOffset(at), end - at));
    slices.collect()
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
