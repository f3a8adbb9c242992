//! The input file: bounded reads, and tables in a stream.
//!
//! Nothing is mapped and no whole file is held: the peak memory of a rewrite is that of the few
//! tables which change. Every read is checked against the file's length first, so a count that a
//! hostile file gives costs nothing.

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::buffer::spare_capacity;
use rustix::io::Errno;

use crate::elf::{Entry, FileOffset, Format, Symbol};
use crate::error::{Error, ErrorKind, Result};
use crate::spans::{Content, Spans};

/// Bytes read at a time while a table goes by: a multiple of every entry size (2, 4, 8, 12, 16, 24, 32, 40, 56, 64).
pub(crate) const WINDOW: u64 = 6720 * 5;

/// An open file of known length.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    file: Arc<File>,
    path: PathBuf,
    len: u64,
    format: Format,
    /// The file's first bytes, read ahead.
    head: Arc<Vec<u8>>,
    /// What is made of the file, where that is another than the file itself.
    spans: Option<Spans>,
}

/// Bytes of strings that may still be taken out of a file. Strings may share their ends; without this,
/// a hostile file could have each of a hundred thousand be the rest of one long one.
#[derive(Debug)]
pub(crate) struct Allowance(u64);

impl Allowance {
    /// `string`, unless all that were taken are longer than the file together.
    pub(crate) fn take<S: AsRef<[u8]>>(&mut self, string: S) -> Option<S> {
        let len = string.as_ref().len() as u64;
        self.0 = self.0.checked_sub(len)?;
        Some(string)
    }
}

impl Source {
    /// Bytes of which nothing is known.
    pub(crate) fn new(file: impl Into<Arc<File>>, path: &Path, len: u64) -> Self {
        Self {
            file: file.into(),
            path: path.to_owned(),
            len,
            format: Format::default(),
            head: Arc::default(),
            spans: None,
        }
    }

    /// What `spans` make of this file, without making it.
    pub(crate) fn through(&self, spans: &Spans) -> Self {
        let spans = match &self.spans {
            Some(inner) => spans.over(inner),
            None => spans.clone(),
        };
        Self {
            file: self.file.clone(),
            path: self.path.clone(),
            len: spans.len(),
            format: self.format,
            head: self.head.clone(),
            spans: Some(spans),
        }
    }

    /// The same as an ELF file. Its first bytes are read at once: the headers and most of the tables are there.
    pub(crate) fn read_ahead(mut self) -> Result<Self> {
        const AHEAD: u64 = 32 << 10;
        let head = self.bytes(FileOffset(0), self.len.min(AHEAD), "the file's beginning")?;
        // Another than these is refused when the header is read.
        self.format = Format::identify(&head).unwrap_or_default();
        self.head = head.into();
        Ok(self)
    }

    pub(crate) fn file(&self) -> &File {
        &self.file
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Length in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.len
    }

    /// How its structures are laid out.
    pub(crate) fn format(&self) -> Format {
        self.format
    }

    /// For the strings of one kind.
    pub(crate) fn allowance(&self) -> Allowance {
        Allowance(self.len)
    }

    /// An error about this file.
    pub(crate) fn error(&self, kind: ErrorKind) -> Error {
        Error::new(&self.path, kind)
    }

    /// An error that says how this file contradicts itself.
    pub(crate) fn malformed(&self, what: impl Into<String>) -> Error {
        self.error(ErrorKind::Malformed { what: what.into() })
    }

    /// Fails unless `size` bytes at `at` lie in the file.
    pub(crate) fn check(&self, at: FileOffset, size: u64, what: &'static str) -> Result<()> {
        let end = at.0.saturating_add(size);
        if end > self.len {
            return Err(self.error(ErrorKind::Truncated {
                what,
                end,
                size: self.len,
            }));
        }
        Ok(())
    }

    /// `size` bytes at `at`.
    pub(crate) fn bytes(&self, at: FileOffset, size: u64, what: &'static str) -> Result<Vec<u8>> {
        self.check(at, size, what)?;
        let size = self.host_size(size)?;
        if self.spans.is_some() {
            let mut bytes = vec![0; size];
            self.fill(at, &mut bytes)?;
            return Ok(bytes);
        }
        if let Some(ahead) = self.ahead(at, size) {
            return Ok(ahead.to_vec());
        }
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            let offset = at.0 + bytes.len() as u64;
            bytes.reserve_exact(size - bytes.len());
            match rustix::io::pread(&self.file, spare_capacity(&mut bytes), offset) {
                Ok(0) => return Err(self.error(ErrorKind::Changed)), // it has shrunk
                Ok(_) | Err(Errno::INTR) => {}
                Err(error) => return Err(Error::io(&self.path, "read", error.into())),
            }
        }
        // The allocator may have given more room than was asked for.
        bytes.truncate(size);
        Ok(bytes)
    }

    /// `size` bytes at `at`, if they were read ahead.
    fn ahead(&self, at: FileOffset, size: usize) -> Option<&[u8]> {
        let start = usize::try_from(at.0).ok()?;
        self.head.get(start..start.checked_add(size)?)
    }

    /// Fills `buffer` from `at`.
    pub(crate) fn fill(&self, at: FileOffset, buffer: &mut [u8]) -> Result<()> {
        let Some(spans) = &self.spans else {
            return self.fill_from_file(at, buffer);
        };
        for span in spans.slice(at, buffer.len() as u64) {
            let start = self.host_size(span.at.0 - at.0)?;
            let piece = &mut buffer[start..start + self.host_size(span.len)?];
            match span.content {
                Content::Input(from) => self.fill_from_file(from, piece)?,
                Content::Bytes(bytes) => piece.copy_from_slice(&bytes),
                Content::Zero => piece.fill(0),
            }
        }
        Ok(())
    }

    fn fill_from_file(&self, at: FileOffset, buffer: &mut [u8]) -> Result<()> {
        if let Some(ahead) = self.ahead(at, buffer.len()) {
            buffer.copy_from_slice(ahead);
            return Ok(());
        }
        self.file
            .read_exact_at(buffer, at.0)
            .map_err(|source| match source.kind() {
                // The length was checked at the start, so the file has shrunk since.
                std::io::ErrorKind::UnexpectedEof => self.error(ErrorKind::Changed),
                _ => Error::io(&self.path, "read", source),
            })
    }

    /// `count` table entries at `at`, all at once: for tables that are short by nature.
    pub(crate) fn table<T: Entry>(
        &self,
        at: FileOffset,
        count: u64,
        what: &'static str,
    ) -> Result<Vec<T>> {
        let mut entries = Vec::new();
        self.for_each(at, count, what, |_, entry| {
            entries.push(entry);
            Ok(())
        })?;
        Ok(entries)
    }

    /// Calls `visit` with index and entry, for each of `count` entries at `at`.
    pub(crate) fn for_each<T: Entry>(
        &self,
        at: FileOffset,
        count: u64,
        what: &'static str,
        mut visit: impl FnMut(u64, T) -> Result<()>,
    ) -> Result<()> {
        let size = count
            .checked_mul(T::size(self.format))
            .ok_or_else(|| self.malformed(format!("{what} has an impossible size")))?;
        let entry_size = self.host_size(T::size(self.format))?;
        let mut index = 0;
        self.for_each_window(at, size, what, |_, window| {
            for entry in window.chunks_exact(entry_size) {
                let entry = T::decode(entry, self.format)
                    .ok_or_else(|| self.malformed(format!("{what} cannot be read")))?;
                visit(index, entry)?;
                index += 1;
            }
            Ok(())
        })
    }

    /// Calls `visit` with index and offset of the name, for each of `count` symbols at `at`: to decode the rest takes most of
    /// the time where there are many. The name comes first in both classes (gABI, "Symbol Table").
    pub(crate) fn for_each_symbol_name(
        &self,
        at: FileOffset,
        count: u64,
        what: &'static str,
        mut visit: impl FnMut(u64, u32) -> Result<()>,
    ) -> Result<()> {
        let entry_size = Symbol::size(self.format);
        let size = count.saturating_mul(entry_size);
        let entry_size = self.host_size(entry_size)?;
        let mut indices = 0..;
        self.for_each_window(at, size, what, |_, window| {
            for (entry, index) in window.chunks_exact(entry_size).zip(&mut indices) {
                let name = self.format.first_word(entry);
                visit(index, name.unwrap_or_default())?;
            }
            Ok(())
        })
    }

    /// Calls `visit` with position (from `at`) and bytes, for each window of `size` bytes at `at`.
    pub(crate) fn for_each_window(
        &self,
        at: FileOffset,
        size: u64,
        what: &'static str,
        visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.for_each_run(at, size, WINDOW, what, visit)
    }

    /// Calls `visit` with all of the file, in runs of `most` bytes and what is left.
    pub(crate) fn for_all(&self, most: u64, mut visit: impl FnMut(&[u8])) -> Result<()> {
        self.for_each_run(FileOffset(0), self.len, most, "the file", |_, run| {
            visit(run);
            Ok(())
        })
    }

    fn for_each_run(
        &self,
        at: FileOffset,
        size: u64,
        most: u64,
        what: &'static str,
        mut visit: impl FnMut(u64, &[u8]) -> Result<()>,
    ) -> Result<()> {
        self.check(at, size, what)?;
        let mut buffer = vec![0; self.host_size(size.min(most))?];
        let mut position = 0;
        while position < size {
            let step = (size - position).min(most);
            let window = &mut buffer[..self.host_size(step)?];
            self.fill(FileOffset(at.0 + position), window)?;
            visit(position, window)?;
            position += step;
        }
        Ok(())
    }

    fn host_size(&self, size: u64) -> Result<usize> {
        usize::try_from(size).map_err(|_| self.malformed("a table has an impossible size"))
    }
}
