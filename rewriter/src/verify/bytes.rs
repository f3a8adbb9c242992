//! The check of the bytes themselves: which may differ, and that no others do.

use goblin::elf::dynamic as tag;
use goblin::elf::program_header as pt;
use goblin::elf::section_header::{SHN_ABS, SHT_SYMTAB};

use super::view::View;
use super::{Check, Dead};
use crate::elf::{FileOffset, PAGE, overlap};
use crate::error::Result;
use crate::spans::{Content, Spans};

impl Check<'_> {
    /// Each byte of ours lies in a table that may change; around ours, the pages are the input's.
    pub(super) fn changed_bytes(&self, spans: &Spans, dead: &[Dead]) -> Result<u64> {
        let allowed = self.allowed(dead)?;
        let len = insertion(spans, self.before.source.len());
        let mut changed = 0;
        for span in spans.iter() {
            match &span.content {
                Content::Bytes(bytes) => {
                    let origin = self.gap.origin(span.at).filter(|from| from.0 < len);
                    let old = match origin {
                        None => Vec::new(),
                        Some(from) => {
                            let size = span.len.min(len - from.0);
                            self.before.source.bytes(from, size, "changed bytes")?
                        }
                    };
                    let differs = old.iter().zip(bytes).zip(span.at.0..);
                    for (_, at) in differs.filter(|((old, new), _)| old != new) {
                        changed += 1;
                        let named = allowed.iter().any(|range| overlap(range.0, range.1, at, 1));
                        self.require(named, &format!("byte {at} changed without a reason"))?;
                    }
                    let mut written = vec![0; bytes.len()];
                    self.after.source.fill(span.at, &mut written)?;
                    self.require(&written == bytes, "the file has not what was written")?;
                }
                Content::Input(from) => {
                    for (skip, size) in edges(span.at.0, span.len) {
                        let old = FileOffset(from.0 + skip);
                        let old = self.before.source.bytes(old, size, "copied bytes")?;
                        let new = FileOffset(span.at.0 + skip);
                        let new = self.after.source.bytes(new, size, "copied bytes")?;
                        self.require(old == new, "a byte changed that was only copied")?;
                    }
                }
                Content::Zero => {}
            }
        }
        Ok(changed)
    }

    /// Each segment has its first and its last byte of the input where it had them in memory.
    pub(super) fn mapped_bytes(&self, spans: &Spans) -> Result<()> {
        let (headers, size) = self.before.program_headers();
        // Notes slide where the program headers are, which stay: see `program_headers`.
        let moves = |load: &&pt::ProgramHeader| {
            load.p_filesz > 0 && !overlap(load.p_offset, load.p_filesz, headers, size)
        };
        for load in self.before.loads().filter(moves) {
            for skip in [0, load.p_filesz - 1] {
                let at = self.after.locate(load.p_vaddr.saturating_add(skip), 1)?;
                let old = load.p_offset.saturating_add(skip);
                let same = spans
                    .slice(FileOffset(at), 1)
                    .all(|span| match span.content {
                        Content::Input(from) => from.0 == old,
                        Content::Bytes(_) => true, // ours, see `changed_bytes`
                        Content::Zero => false,
                    });
                self.require(same, "a segment maps other bytes")?;
            }
        }
        Ok(())
    }

    /// File ranges (offset, length) of the result that a promise allows to change.
    fn allowed(&self, dead: &[Dead]) -> Result<Vec<(u64, u64)>> {
        let (before, after) = (&self.before, &self.after);
        let headers = |view: &View<'_>| {
            let header = &view.header;
            [
                (0, u64::from(header.e_ehsize)),
                view.program_headers(),
                (
                    header.e_shoff,
                    view.sections.len() as u64 * u64::from(header.e_shentsize),
                ),
            ]
        };
        let of_kind = |view: &View<'_>| -> Vec<(u64, u64)> {
            let of_kind = view.segments.iter().filter(|s| {
                matches!(
                    s.p_type,
                    pt::PT_DYNAMIC | pt::PT_NOTE | pt::PT_INTERP | pt::PT_GNU_PROPERTY
                )
            });
            of_kind.map(|s| (s.p_offset, s.p_filesz)).collect()
        };
        let mut ranges: Vec<(u64, u64)> = headers(before).into();
        ranges.extend(of_kind(before));
        let strings = before.table(tag::DT_STRTAB, 1)?.map_or(0, |table| table.at);
        let symbols = before
            .table(tag::DT_SYMTAB, before.symbol_size())?
            .map_or(0, |table| table.at);
        for symbol in dead {
            ranges.push((strings + symbol.name, symbol.len));
            ranges.push((
                symbols + before.symbol_size() * symbol.index,
                before.symbol_size(),
            ));
        }

        if let Some(table) = Self::relocation_table(before)? {
            ranges.push((table.at, table.size));
        }
        if let Some(table) = before.table(tag::DT_HASH, 1)? {
            ranges.push((table.at, before.hash_size(table.at)?.1));
        }
        self.allow_debugger_symbols(&mut ranges)?;
        for (at, _) in &mut ranges {
            *at = self.gap.moved(FileOffset(*at)).0;
        }
        ranges.extend(headers(after));
        ranges.extend(of_kind(after));
        self.allow_diverted(&mut ranges)?;
        let array = self.array(after)?;
        if let Ok(at) = after.locate(array.vaddr, array.size) {
            ranges.push((at, array.size));
        }
        Ok(ranges)
    }

    /// Values of .symtab symbols may change that follow their section to another address.
    fn allow_debugger_symbols(&self, ranges: &mut Vec<(u64, u64)>) -> Result<()> {
        let sections = (&self.before.sections, &self.after.sections);
        let moved: Vec<bool> = (sections.0.iter().zip(sections.1))
            .map(|(old, new)| old.sh_addr != new.sh_addr)
            .collect();
        if !moved.contains(&true) {
            return Ok(());
        }
        let source = self.before.source;
        let segments = &mut self.before.segments.iter();
        let dynamic = segments.rfind(|s| s.p_type == pt::PT_DYNAMIC);
        let dynamic = dynamic.map_or(0, |segment| segment.p_vaddr);
        for table in sections
            .0
            .iter()
            .filter(|section| section.sh_type == SHT_SYMTAB)
        {
            let at = FileOffset(table.sh_offset);
            source.for_each_window(at, table.sh_size, "the symbol table", |skip, window| {
                let symbols = self.before.symbols(window)?;
                for (index, symbol) in (0..).zip(symbols.iter()) {
                    // `_DYNAMIC` often is in no section.
                    let absolute =
                        symbol.st_shndx == SHN_ABS as usize && symbol.st_value == dynamic;
                    if absolute || moved.get(symbol.st_shndx) == Some(&true) {
                        let (value, len) = self.before.symbol_value();
                        let symbol = self.before.symbol_size() * index;
                        ranges.push((table.sh_offset + skip + symbol + value, len));
                    }
                }
                Ok(())
            })?;
        }
        Ok(())
    }
}

/// Offset at which the result has more than the input: before data that was appended to an ELF
/// file and has moved on, or at the end of an input of `len` bytes.
fn insertion(spans: &Spans, len: u64) -> u64 {
    match spans.iter().last() {
        Some(last) => match last.content {
            Content::Input(from) if from != last.at && from.0 + last.len == len => from.0,
            _ => len,
        },
        None => len,
    }
}

/// The parts of `[at, at+len)` that share a page with what lies before or behind it, as offsets
/// from `at` and lengths.
fn edges(at: u64, len: u64) -> [(u64, u64); 2] {
    let first = (PAGE - at % PAGE).min(len);
    let last = ((at + len) % PAGE).min(len - first);
    [(0, first), (len - last, last)]
}
