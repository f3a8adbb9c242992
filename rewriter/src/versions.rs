//! The strings that the symbol version tables use: DT_VERNEED and DT_VERDEF.
//!
//! Both are linked lists of records with lists of auxiliary records (Linux Standard Base,
//! "Symbol Versioning"). A step forward of 0 ends a list, and every step here is forward, so a
//! walk ends within the file.

use object::elf::{DT_VERDEF, DT_VERNEED};

use crate::elf::{Segment, Vaddr};
use crate::error::Result;
use crate::parse::{Dynamic, locate};
use crate::source::Source;

/// Where a record keeps what, in bytes from its start.
struct Shape {
    size: u64,
    auxiliary: u64,
    next: u64,
    /// The record's own name, where it has one.
    name: Option<u64>,
    auxiliary_size: u64,
    auxiliary_name: u64,
    auxiliary_next: u64,
}

const VERNEED: Shape = Shape {
    size: 16,
    auxiliary: 8,
    next: 12,
    name: Some(4),
    auxiliary_size: 16,
    auxiliary_name: 8,
    auxiliary_next: 12,
};

const VERDEF: Shape = Shape {
    size: 20,
    auxiliary: 12,
    next: 16,
    name: None,
    auxiliary_size: 8,
    auxiliary_name: 0,
    auxiliary_next: 4,
};

/// More records than this are no version table: the largest known has a few hundred.
const MOST_RECORDS: u32 = 1 << 16;

/// A string that the tables use.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Name {
    /// Where it is in the string table.
    pub(crate) offset: u64,
    /// The index of the version that it names, as in DT_VERSYM; the base version, which stands for
    /// the file itself, has none, nor have files and the ancestors of a version.
    pub(crate) version: Option<u16>,
}

/// Calls `visit` with each file and version name.
pub(crate) fn for_each_name(
    source: &Source,
    segments: &[Segment],
    dynamic: &Dynamic,
    mut visit: impl FnMut(Name),
) -> Result<()> {
    for (tag, shape) in [(DT_VERNEED, VERNEED), (DT_VERDEF, VERDEF)] {
        if let Some(address) = dynamic.get(tag) {
            let mut walk = Walk {
                source,
                segments,
                shape: &shape,
                window: (Vaddr(0), Vec::new()),
                records: 0,
            };
            walk.table(Vaddr(address), &mut visit)?;
        }
    }
    Ok(())
}

struct Walk<'a> {
    source: &'a Source,
    segments: &'a [Segment],
    shape: &'a Shape,
    /// Bytes read ahead, and their address.
    window: (Vaddr, Vec<u8>),
    records: u32,
}

impl Walk<'_> {
    fn table(&mut self, mut record: Vaddr, visit: &mut impl FnMut(Name)) -> Result<()> {
        loop {
            let fields = self.fields(record, self.shape.size)?;
            if let Some(name) = self.shape.name {
                visit(Name {
                    offset: fields.word(name),
                    version: None,
                });
            }
            let first = self.step(record, fields.word(self.shape.auxiliary))?;
            self.auxiliaries(first, &fields, visit)?;
            match fields.word(self.shape.next) {
                0 => return Ok(()),
                next => record = self.step(record, next)?,
            }
        }
    }

    fn auxiliaries(
        &mut self,
        mut auxiliary: Vaddr,
        record: &Fields,
        visit: &mut impl FnMut(Name),
    ) -> Result<()> {
        // A definition's first auxiliary record has its own name, the others its ancestors'.
        let mut version = self.shape.defined_index(record);
        loop {
            let fields = self.fields(auxiliary, self.shape.auxiliary_size)?;
            visit(Name {
                offset: fields.word(self.shape.auxiliary_name),
                version: version.take().or_else(|| self.shape.needed_index(&fields)),
            });
            // Lists that share their tails would make a walk quadratic.
            self.records += 1;
            if self.records > MOST_RECORDS {
                let what = "it has too many symbol version records";
                return Err(self.source.malformed(what));
            }
            match fields.word(self.shape.auxiliary_next) {
                0 => return Ok(()),
                next => auxiliary = self.step(auxiliary, next)?,
            }
        }
    }

    /// The record's words.
    fn fields(&mut self, record: Vaddr, size: u64) -> Result<Fields> {
        const AHEAD: u64 = 4096;
        let what = "a symbol version record";
        let (start, bytes) = &self.window;
        let fits = |skip: &u64| {
            let end = skip.checked_add(size);
            end.is_some_and(|end| end <= bytes.len() as u64)
        };
        let skip = record.since(*start).filter(fits);
        if skip.is_none() {
            let at = locate(self.segments, record, size).ok_or_else(|| {
                self.source
                    .malformed(format!("{what} lies in no PT_LOAD segment"))
            })?;
            let rest = self.source.len().saturating_sub(at.0);
            let bytes = self.source.bytes(at, rest.min(AHEAD).max(size), what)?;
            self.window = (record, bytes);
        }
        let skip = usize::try_from(skip.unwrap_or(0)).unwrap_or(usize::MAX);
        let size = usize::try_from(size).unwrap_or(0);
        let bytes = self
            .window
            .1
            .get(skip..)
            .and_then(|bytes| bytes.get(..size));
        Ok(Fields(self.source.format().words(bytes.unwrap_or(&[]))))
    }

    fn step(&self, from: Vaddr, bytes: u64) -> Result<Vaddr> {
        from.checked_add(bytes).ok_or_else(|| {
            self.source
                .malformed("a symbol version record lies beyond the address space")
        })
    }
}

/// A record's words.
struct Fields(Vec<u32>);

impl Fields {
    /// The word at `offset` bytes.
    fn word(&self, offset: u64) -> u64 {
        let index = usize::try_from(offset / 4).unwrap_or(usize::MAX);
        self.0.get(index).copied().map_or(0, u64::from)
    }
}

impl Shape {
    /// vd_ndx, unless VER_FLG_BASE is set in vd_flags.
    fn defined_index(&self, record: &Fields) -> Option<u16> {
        const VER_FLG_BASE: u64 = 1 << 16;
        let defines = self.name.is_none() && record.word(0) & VER_FLG_BASE == 0;
        defines.then(|| low_half(record.word(4)))
    }

    /// vna_other.
    fn needed_index(&self, auxiliary: &Fields) -> Option<u16> {
        self.name.map(|_| low_half(auxiliary.word(4) >> 16))
    }
}

fn low_half(word: u64) -> u16 {
    u16::try_from(word & 0x7fff).unwrap_or(0)
}
