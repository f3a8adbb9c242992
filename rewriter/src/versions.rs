//! The strings that the symbol version tables use: DT_VERNEED and DT_VERDEF.
//!
//! Both are linked lists of records with lists of auxiliary records (Linux Standard Base,
//! "Symbol Versioning"). A step forward of 0 ends a list, and every step here is forward, so a
//! walk ends within the file.

use object::elf::{DT_VERDEF, DT_VERNEED};

use crate::elf::{FileOffset, Vaddr};
use crate::error::Result;
use crate::parse::{Image, locate, words};
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

/// Calls `visit` with the string table offset of each file and version name.
pub(crate) fn for_each_name(
    source: &Source,
    image: &Image,
    mut visit: impl FnMut(u64),
) -> Result<()> {
    for (tag, shape) in [(DT_VERNEED, VERNEED), (DT_VERDEF, VERDEF)] {
        if let Some(address) = image.dynamic.get(tag) {
            walk(source, image, Vaddr(address), &shape, &mut visit)?;
        }
    }
    Ok(())
}

fn walk(
    source: &Source,
    image: &Image,
    mut record: Vaddr,
    shape: &Shape,
    visit: &mut impl FnMut(u64),
) -> Result<()> {
    let mut records = 0;
    loop {
        let field = fields(source, image, record, shape.size)?;
        if let Some(name) = shape.name {
            visit(field(name));
        }
        let mut auxiliary = step(source, record, field(shape.auxiliary))?;
        loop {
            let field = fields(source, image, auxiliary, shape.auxiliary_size)?;
            visit(field(shape.auxiliary_name));
            // Lists that share their tails would make a walk quadratic.
            records += 1;
            if records > MOST_RECORDS {
                return Err(source.malformed("it has too many symbol version records"));
            }
            match field(shape.auxiliary_next) {
                0 => break,
                next => auxiliary = step(source, auxiliary, next)?,
            }
        }
        match field(shape.next) {
            0 => return Ok(()),
            next => record = step(source, record, next)?,
        }
    }
}

/// A reader of the record's words, by their offset in bytes.
fn fields(source: &Source, image: &Image, record: Vaddr, size: u64) -> Result<impl Fn(u64) -> u64> {
    let at: FileOffset = locate(&image.segments, record, size)
        .ok_or_else(|| source.malformed("a symbol version record lies in no PT_LOAD segment"))?;
    let words = words(&source.bytes(at, size, "a symbol version record")?);
    Ok(move |offset: u64| {
        let index = usize::try_from(offset / 4).unwrap_or(usize::MAX);
        words.get(index).copied().map_or(0, u64::from)
    })
}

fn step(source: &Source, from: Vaddr, bytes: u64) -> Result<Vaddr> {
    from.checked_add(bytes)
        .ok_or_else(|| source.malformed("a symbol version record lies beyond the address space"))
}
