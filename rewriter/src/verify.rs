//! Reads the result back and holds it against every promise, before it gets its name.
//!
//! What changed is derived from the two files alone, as `goblin` reads them, not from the plan.
//! Bytes that were not written on purpose come from the kernel's copy of the input, which is made
//! after ours and around it (see `write`); the pages that ours lie in are compared with the input
//! byte for byte, and each of our bytes must belong to a table that a promise names.

use goblin::elf::dynamic as tag;
use goblin::elf::program_header as pt;
use goblin::elf::reloc::{R_X86_64_64, R_X86_64_RELATIVE};
use goblin::elf::section_header::{SHF_ALLOC, SHT_NOBITS};
use goblin::elf::sym::{STB_GLOBAL, STB_WEAK, Symtab, st_bind};

use crate::elf::{FileOffset, PAGE, align_down, overlap};
use crate::error::{Error, Result};
use crate::plan::Request;
use crate::source::Source;
use crate::spans::{Content, Spans};
use crate::view::{CTX, Range, View, broken};

/// Fails unless `result` is `source` with exactly the promised changes. Returns how many bytes of
/// the input have another value in the result.
pub(crate) fn verify(
    source: &Source,
    result: &Source,
    spans: &Spans,
    request: Request<'_>,
) -> Result<u64> {
    let check = Check {
        before: View::read(source)?,
        after: View::read(result)?,
        written: written(spans),
        request,
    };
    check.header()?;
    check.segments()?;
    check.protection()?;
    check.sections()?;
    check.dynamic()?;
    let dead = check.symbols()?;
    check.strings(&dead)?;
    check.preinit_array()?;
    check.relocations()?;
    check.small_things()?;
    check.changed_bytes(spans, &dead)
}

struct Check<'a> {
    before: View<'a>,
    after: View<'a>,
    /// Offset and length of all bytes that are ours.
    written: Vec<(u64, u64)>,
    request: Request<'a>,
}

fn written(spans: &Spans) -> Vec<(u64, u64)> {
    let ours = spans
        .iter()
        .filter(|span| matches!(span.content, Content::Bytes(_)));
    ours.map(|span| (span.at.0, span.len)).collect()
}

/// A symbol that may be recycled.
struct Dead {
    /// In .dynsym.
    index: u64,
    /// Its name: offset in .dynstr, and length with the NUL.
    name: u64,
    len: u64,
}

impl Check<'_> {
    fn broken(&self, what: impl Into<String>) -> Error {
        broken(self.after.source, what)
    }

    fn require(&self, holds: bool, what: &str) -> Result<()> {
        match holds {
            true => Ok(()),
            false => Err(self.broken(what)),
        }
    }

    fn header(&self) -> Result<()> {
        let (mut before, after) = (self.before.header, self.after.header);
        before.e_phnum = after.e_phnum;
        before.e_shoff = after.e_shoff;
        self.require(
            before == after,
            "the ELF header differs in more than its tables",
        )?;
        let added = self
            .after
            .segments
            .len()
            .checked_sub(self.before.segments.len());
        self.require(
            matches!(added, Some(0 | 1)),
            "program headers were lost or too many added",
        )
    }

    /// Each segment is still there, over at least the same memory, in the same order; a new one is
    /// read-only and in nobody's way.
    fn segments(&self) -> Result<()> {
        let mut before = self.before.segments.iter().peekable();
        for after in &self.after.segments {
            let same = |old: &&pt::ProgramHeader| {
                old.p_type == after.p_type && old.p_flags == after.p_flags
            };
            let covers =
                |old: &&pt::ProgramHeader| after.p_vaddr <= old.p_vaddr && end(after) >= end(old);
            let moves = [
                pt::PT_INTERP,
                pt::PT_NOTE,
                pt::PT_GNU_PROPERTY,
                pt::PT_DYNAMIC,
            ];
            let expected = |old: &&pt::ProgramHeader| {
                same(old) && (covers(old) || moves.contains(&old.p_type))
            };
            if before.next_if(expected).is_none() {
                let new = after.p_type == pt::PT_LOAD && after.p_flags == pt::PF_R;
                self.require(new, "a segment changed its kind, flags or place")?;
            }
        }
        self.require(before.next().is_none(), "a segment was lost")?;
        let loads: Vec<_> = self.after.loads().collect();
        for pair in loads.windows(2) {
            let was_sorted = self.before.loads().is_sorted_by_key(|load| load.p_vaddr);
            let sorted = end(pair[0]) <= pair[1].p_vaddr;
            self.require(
                sorted || !was_sorted,
                "two segments overlap or are out of order",
            )?;
        }
        for load in loads {
            let align = load.p_align.max(PAGE);
            let congruent = load.p_vaddr % align == load.p_offset % align || load.p_filesz == 0;
            self.require(
                congruent,
                "a segment's offset and address differ modulo its alignment",
            )?;
        }
        Ok(())
    }

    /// RELRO covers .dynamic and the preinit array if it did cover .dynamic.
    fn protection(&self) -> Result<()> {
        let relro = |view: &View<'_>| {
            let segment = view
                .segments
                .iter()
                .rfind(|s| s.p_type == pt::PT_GNU_RELRO)?;
            Some((
                align_down(segment.p_vaddr, PAGE),
                align_down(end(segment), PAGE),
            ))
        };
        let inside = |range: Option<(u64, u64)>, at: u64, size: u64| {
            range.is_some_and(|(start, end)| at >= start && at.saturating_add(size) <= end)
        };
        let dynamic = |view: &View<'_>| {
            let segment = view.segments.iter().rfind(|s| s.p_type == pt::PT_DYNAMIC);
            segment.map_or((0, 0), |segment| (segment.p_vaddr, segment.p_memsz))
        };
        let (old, new) = (dynamic(&self.before), dynamic(&self.after));
        if inside(relro(&self.before), old.0, old.1) {
            let range = relro(&self.after);
            let array = self.array(&self.after)?;
            self.require(
                inside(range, new.0, new.1),
                ".dynamic is no longer under RELRO",
            )?;
            let covered = inside(range, array.vaddr, array.size);
            self.require(covered, "the preinit array is not under RELRO")?;
        }
        Ok(())
    }

    /// Sections keep name, kind and order, and say where their bytes are.
    fn sections(&self) -> Result<()> {
        let (before, after) = (&self.before.sections, &self.after.sections);
        self.require(before.len() == after.len(), "sections were lost or added")?;
        for (old, new) in before.iter().zip(after) {
            let mut expected = old.clone();
            expected.sh_addr = new.sh_addr;
            expected.sh_offset = new.sh_offset;
            expected.sh_size = new.sh_size;
            self.require(expected == *new, "a section header changed")?;
            let loaded = new.sh_flags & u64::from(SHF_ALLOC) != 0;
            if !loaded {
                let moved = (old.sh_offset, old.sh_size) != (new.sh_offset, new.sh_size);
                self.require(!moved, "a section that is not loaded moved")?;
            } else if new.sh_type != SHT_NOBITS && new.sh_size > 0 && *old != *new {
                let at = self.after.locate(new.sh_addr, new.sh_size)?;
                self.require(
                    at == new.sh_offset,
                    "a section header does not tell the truth",
                )?;
            }
        }
        Ok(())
    }

    fn dynamic(&self) -> Result<()> {
        let mut needed = self.before.needed()?;
        needed.retain(|name| name != self.request.needed.as_bytes());
        needed.insert(0, self.request.needed.as_bytes().to_vec());
        let in_order = self.after.needed()? == needed;
        self.require(
            in_order,
            "DT_NEEDED is not the runtime and then what it was",
        )?;
        let flags = self.before.get(tag::DT_FLAGS_1).unwrap_or(0) | tag::DF_1_INITFIRST;
        let kept = self.after.get(tag::DT_FLAGS_1) == Some(flags);
        self.require(
            kept,
            "DT_FLAGS_1 is not what it was with DF_1_INITFIRST added",
        )?;
        let may_change = [
            tag::DT_NEEDED,
            tag::DT_FLAGS_1,
            tag::DT_PREINIT_ARRAY,
            tag::DT_PREINIT_ARRAYSZ,
            tag::DT_STRTAB,
            tag::DT_STRSZ,
            tag::DT_SYMTAB,
            tag::DT_VERSYM,
            tag::DT_HASH,
            tag::DT_GNU_HASH,
            tag::DT_RELA,
            tag::DT_RELASZ,
            tag::DT_RELAENT,
            tag::DT_JMPREL,
        ];
        let fixed = |view: &View<'_>| -> Vec<(u64, u64)> {
            let entries = view.dynamic.iter();
            entries
                .filter(|(tag, _)| !may_change.contains(tag))
                .copied()
                .collect()
        };
        let same = fixed(&self.before) == fixed(&self.after);
        self.require(same, "a dynamic entry changed that had no reason to")?;
        for (tag, size) in [(tag::DT_GNU_HASH, 16), (tag::DT_JMPREL, self.plt_size())] {
            let tables = (self.before.table(tag, size)?, self.after.table(tag, size)?);
            if let (Some(before), Some(after)) = tables {
                self.pairs(before, after, 1, |_, old, new| {
                    self.require(old == new, "a table changed that only moved")
                })?;
            }
        }
        Ok(())
    }

    fn plt_size(&self) -> u64 {
        self.before.get(tag::DT_PLTRELSZ).unwrap_or(0)
    }

    /// Number of dynamic symbols that the section headers or, without them, the distance to the
    /// string table gives: only to know how far to compare.
    fn symbol_count(&self) -> u64 {
        let symtab = self.before.get(tag::DT_SYMTAB).unwrap_or(0);
        let of_section = self
            .before
            .sections
            .iter()
            .find(|section| section.sh_addr == symtab);
        let strtab = self.before.get(tag::DT_STRTAB).unwrap_or(0);
        match of_section {
            Some(section) => section.sh_size / 24,
            None => strtab.saturating_sub(symtab) / 24,
        }
    }

    /// All symbols are what they were, but for those that never resolved: one of them, or a new
    /// one at the end, is the init symbol.
    fn symbols(&self) -> Result<Vec<Dead>> {
        let dead = self.dead_symbols()?;
        let size = self.symbol_count() * 24;
        let tables = (
            self.before.table(tag::DT_SYMTAB, size)?,
            self.after.table(tag::DT_SYMTAB, size)?,
        );
        let (Some(before), Some(after)) = tables else {
            return Err(self.broken("DT_SYMTAB was lost"));
        };
        self.pairs(before, after, 24, |index, old, new| {
            if old == new {
                return Ok(());
            }
            let was_dead = dead.iter().any(|symbol| symbol.index == index);
            self.require(was_dead, "a symbol changed that the program uses")?;
            let new = self.after.symbol(index)?;
            let name = self.after.string(new.st_name as u64)?;
            let init = name == self.request.init.as_bytes();
            let bind = if init { STB_GLOBAL } else { STB_WEAK };
            let expected = new.st_shndx == 0 && st_bind(new.st_info) == bind && new.st_value == 0;
            self.require(expected, "a recycled symbol is not an undefined one")
        })?;
        Ok(dead)
    }

    /// The symbols that only the C runtime's start files refer to, and that nobody defines.
    fn dead_symbols(&self) -> Result<Vec<Dead>> {
        let start_files = [
            b"_ITM_deregisterTMCloneTable".as_slice(),
            b"_ITM_registerTMCloneTable",
            b"__gmon_start__",
        ];
        let mut dead = Vec::new();
        let size = self.symbol_count() * 24;
        let Some(table) = self.before.table(tag::DT_SYMTAB, size)? else {
            return Ok(dead);
        };
        let at = FileOffset(table.at);
        let source = self.before.source;
        source.for_each_window(at, size, "the dynamic symbol table", |start, window| {
            let symbols = Symtab::parse(window, 0, window.len() / 24, CTX);
            let symbols = symbols.map_err(|error| self.broken(error.to_string()))?;
            for (index, symbol) in (start / 24..).zip(symbols.iter()) {
                if symbol.st_shndx == 0 && st_bind(symbol.st_info) == STB_WEAK {
                    let name = symbol.st_name as u64;
                    let string = self.before.string(name)?;
                    if start_files.contains(&string.as_slice()) {
                        let len = string.len() as u64 + 1;
                        dead.push(Dead { index, name, len });
                    }
                }
            }
            Ok(())
        })?;
        Ok(dead)
    }

    /// .dynstr has every byte that it had, but for names of symbols that were given another.
    fn strings(&self, dead: &[Dead]) -> Result<()> {
        let size = self.before.get(tag::DT_STRSZ).unwrap_or(0);
        let tables = (
            self.before.table(tag::DT_STRTAB, size)?,
            self.after.table(tag::DT_STRTAB, size)?,
        );
        let (Some(before), Some(after)) = tables else {
            return Err(self.broken("DT_STRTAB was lost"));
        };
        self.pairs(before, after, 1, |at, old, new| {
            let free = |at| {
                dead.iter()
                    .any(|symbol| overlap(symbol.name, symbol.len, at, 1))
            };

            let bytes = old.iter().zip(new).zip(at..);
            let stray = bytes
                .filter(|((old, new), at)| old != new && !free(*at))
                .count();
            self.require(stray == 0, "a string changed that the program uses")
        })
    }

    /// The preinit array that DT_PREINIT_ARRAY names; empty where there is none.
    fn array(&self, view: &View<'_>) -> Result<Range> {
        Ok(Range {
            vaddr: view.get(tag::DT_PREINIT_ARRAY).unwrap_or(0),
            at: 0,
            size: view.get(tag::DT_PREINIT_ARRAYSZ).unwrap_or(0),
        })
    }

    /// One new entry, first, filled by one relocation against the init symbol; then the old ones.
    fn preinit_array(&self) -> Result<()> {
        let (before, after) = (self.array(&self.before)?, self.array(&self.after)?);
        self.require(
            after.size == before.size + 8,
            "DT_PREINIT_ARRAY has not one more entry",
        )?;
        self.require(after.vaddr % 8 == 0, "DT_PREINIT_ARRAY is not aligned")?;
        for entry in 0..before.size / 8 {
            let old = before.vaddr + 8 * entry;
            let new = after.vaddr + 8 * (entry + 1);
            if old != new {
                let value = |view: &View<'_>, at: u64| -> Result<Vec<u8>> {
                    let at = FileOffset(view.locate(at, 8)?);
                    view.source.bytes(at, 8, "a preinit entry")
                };
                let kept = value(&self.before, old)? == value(&self.after, new)?;
                self.require(kept, "an entry of the preinit array lost its value")?;
            }
        }
        Ok(())
    }

    /// .rela.dyn without the PLT relocations that DT_RELASZ may include.
    fn relocation_table(view: &View<'_>) -> Result<Option<Range>> {
        let size = view.get(tag::DT_RELASZ).unwrap_or(0);
        let Some(table) = view.table(tag::DT_RELA, size)? else {
            return Ok(None);
        };
        let plt = view.get(tag::DT_JMPREL).zip(view.get(tag::DT_PLTRELSZ));
        let size = match plt {
            Some((at, len)) if len > 0 && at >= table.vaddr && at + len == table.vaddr + size => {
                at - table.vaddr
            }
            _ => size,
        };
        Ok(Some(Range { size, ..table }))
    }

    /// Every relocation is what it was; those of preinit entries follow their entry; exactly one
    /// fills the new entry, either a new one or one that filled a slot for nothing.
    fn relocations(&self) -> Result<()> {
        let after = Self::relocation_table(&self.after)?;
        let after = after.ok_or_else(|| self.broken("there is no DT_RELA"))?;
        let empty = Range { size: 0, ..after };
        let before = Self::relocation_table(&self.before)?.unwrap_or(empty);
        let common = before.size.min(after.size);
        self.require(common == before.size, "relocations were lost")?;
        let mut init = 0;
        let shared = Range {
            size: common,
            ..after
        };
        self.pairs(before, shared, 24, |_, old, new| {
            if old != new {
                init += u32::from(self.changed_relocation(&Entry::read(old), &Entry::read(new))?);
            }
            Ok(())
        })?;
        let added = after.size - common;
        let bytes =
            self.after
                .source
                .bytes(FileOffset(after.at + common), added, "the new relocations")?;
        for new in bytes.chunks_exact(24).map(Entry::read) {
            init += u32::from(self.new_relocation(&new)?);
        }
        self.require(
            init == 1,
            "the new preinit entry is not filled by exactly one relocation",
        )
    }

    /// True if `new` fills the new entry; an error if it is neither that nor an old preinit
    /// entry's.
    fn changed_relocation(&self, old: &Entry, new: &Entry) -> Result<bool> {
        let (before, after) = (self.array(&self.before)?, self.array(&self.after)?);
        if self.fills_new_entry(new)? {
            return Ok(true);
        }
        let skip = old.place.wrapping_sub(before.vaddr);
        let follows = skip < before.size && new.place == after.vaddr + 8 + skip;
        let same = (old.info, old.addend) == (new.info, new.addend);
        self.require(
            follows && same,
            "a relocation changed that had no reason to",
        )?;
        Ok(false)
    }

    /// The same for a relocation that was not there before: a packed one of an old entry.
    fn new_relocation(&self, new: &Entry) -> Result<bool> {
        if self.fills_new_entry(new)? {
            return Ok(true);
        }
        let array = self.array(&self.after)?;
        let inside = new.place > array.vaddr && new.place < array.vaddr + array.size;
        let value = self.after.source.bytes(
            FileOffset(self.after.locate(new.place, 8)?),
            8,
            "a preinit entry",
        )?;
        let relative = new.info == u64::from(R_X86_64_RELATIVE) && new.addend == value[..];
        self.require(
            inside && relative,
            "a relocation was added without a reason",
        )?;
        Ok(false)
    }

    fn fills_new_entry(&self, new: &Entry) -> Result<bool> {
        if new.place != self.array(&self.after)?.vaddr {
            return Ok(false);
        }
        let symbol = self.after.symbol(new.info >> 32)?;
        let name = self.after.string(symbol.st_name as u64)?;
        let kind = new.info & u64::from(u32::MAX);
        let filled = kind == u64::from(R_X86_64_64)
            && new.addend == [0; 8]
            && name == self.request.init.as_bytes()
            && symbol.st_shndx == 0
            && st_bind(symbol.st_info) == STB_GLOBAL;
        self.require(filled, "the new preinit entry is filled by something else")?;
        Ok(true)
    }

    /// Interpreter path and notes have their bytes, and a build-id in the first page stays there.
    fn small_things(&self) -> Result<()> {
        for kind in [pt::PT_INTERP, pt::PT_NOTE, pt::PT_GNU_PROPERTY] {
            let all = |view: &View<'_>| -> Vec<Range> {
                let of_kind = view.segments.iter().filter(|s| s.p_type == kind);
                of_kind
                    .map(|s| Range {
                        vaddr: s.p_vaddr,
                        at: s.p_offset,
                        size: s.p_filesz,
                    })
                    .collect()
            };
            for (before, after) in all(&self.before).into_iter().zip(all(&self.after)) {
                self.require(
                    before.size == after.size,
                    "a note or the interpreter changed",
                )?;
                let mut build_id = false;
                self.pairs(before, after, 1, |at, old, new| {
                    build_id |= at == 0 && memchr::memmem::find(old, b"\x03\0\0\0GNU\0").is_some();
                    self.require(old == new, "a note or the interpreter changed")
                })?;
                let left = build_id && before.at < PAGE && after.at + after.size > PAGE;
                self.require(!left, "the build-id left the first page")?;
            }
        }
        Ok(())
    }

    /// Calls `visit` with index and both entries wherever two tables may differ: in a table that
    /// moved, all through it; in one that stayed, where bytes are ours. Runs that are equal are
    /// visited in one piece.
    fn pairs(
        &self,
        before: Range,
        after: Range,
        entry: u64,
        mut visit: impl FnMut(u64, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        if before.at != after.at {
            return self.pairs_in(before, after, entry, 0, before.size, &mut visit);
        }
        for &(at, len) in &self.written {
            if overlap(before.at, before.size, at, len) {
                let start = align_down(at.saturating_sub(before.at), entry);
                let end = (at + len - before.at)
                    .next_multiple_of(entry)
                    .min(before.size);
                self.pairs_in(before, after, entry, start, end, &mut visit)?;
            }
        }
        Ok(())
    }

    /// The same for the entries in `[start, end)` of the tables' bytes.
    fn pairs_in(
        &self,
        before: Range,
        after: Range,
        entry: u64,
        start: u64,
        end: u64,
        visit: &mut impl FnMut(u64, &[u8], &[u8]) -> Result<()>,
    ) -> Result<()> {
        let (source, result) = (self.before.source, self.after.source);
        let mut other = Vec::new();
        let from = FileOffset(before.at + start);
        source.for_each_window(from, end - start, "a table", |at, old| {
            let at = start + at;
            other.resize(old.len(), 0);
            result.fill(FileOffset(after.at + at), &mut other)?;
            if old == other.as_slice() {
                return visit(at / entry, old, &other);
            }
            let size = usize::try_from(entry).unwrap_or(1);
            let pairs = old.chunks_exact(size).zip(other.chunks_exact(size));
            for (index, (old, new)) in (at / entry..).zip(pairs) {
                visit(index, old, new)?;
            }
            Ok(())
        })
    }

    /// Each byte of ours lies in a table that may change; around ours, the pages are the input's.
    fn changed_bytes(&self, spans: &Spans, dead: &[Dead]) -> Result<u64> {
        let allowed = self.allowed(dead)?;
        let mut changed = 0;
        for span in spans.iter() {
            let len = self.before.source.len();
            match &span.content {
                Content::Bytes(bytes) => {
                    let end = (span.at.0 + span.len).min(len);
                    let old_size = end.saturating_sub(span.at.0);
                    let old = match old_size {
                        0 => Vec::new(),
                        _ => self
                            .before
                            .source
                            .bytes(span.at, old_size, "changed bytes")?,
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

    /// File ranges (offset, length) of the input that a promise allows to change.
    fn allowed(&self, dead: &[Dead]) -> Result<Vec<(u64, u64)>> {
        let (before, after) = (&self.before, &self.after);
        let headers = |view: &View<'_>| {
            let header = &view.header;
            [
                (0, 64),
                (header.e_phoff, u64::from(header.e_phnum) * 56),
                (header.e_shoff, view.sections.len() as u64 * 64),
            ]
        };
        let mut ranges: Vec<(u64, u64)> = headers(before).into();
        ranges.extend(headers(after));
        for view in [before, after] {
            let of_kind = view.segments.iter().filter(|s| {
                matches!(
                    s.p_type,
                    pt::PT_DYNAMIC | pt::PT_NOTE | pt::PT_INTERP | pt::PT_GNU_PROPERTY
                )
            });
            ranges.extend(of_kind.map(|s| (s.p_offset, s.p_filesz)));
        }
        let strings = before.table(tag::DT_STRTAB, 1)?.map_or(0, |table| table.at);
        let symbols = before
            .table(tag::DT_SYMTAB, 24)?
            .map_or(0, |table| table.at);
        for symbol in dead {
            ranges.push((strings + symbol.name, symbol.len));
            ranges.push((symbols + 24 * symbol.index, 24));
        }

        if let Some(table) = Self::relocation_table(before)? {
            ranges.push((table.at, table.size));
        }
        if let Some(table) = before.table(tag::DT_HASH, 8)? {
            let words = crate::parse::words(&before.source.bytes(
                FileOffset(table.at),
                8,
                "the DT_HASH table",
            )?);
            ranges.push((
                table.at,
                4 * (2 + u64::from(words[0]) + u64::from(words[1])),
            ));
        }
        let array = self.array(after)?;
        if let Ok(at) = after.locate(array.vaddr, array.size) {
            ranges.push((at, array.size));
        }
        Ok(ranges)
    }
}

/// The parts of `[at, at+len)` that share a page with what lies before or behind it, as offsets
/// from `at` and lengths.
fn edges(at: u64, len: u64) -> [(u64, u64); 2] {
    let first = (PAGE - at % PAGE).min(len);
    let last = ((at + len) % PAGE).min(len - first);
    [(0, first), (len - last, last)]
}

/// First address behind a segment.
fn end(segment: &pt::ProgramHeader) -> u64 {
    segment.p_vaddr.saturating_add(segment.p_memsz)
}

/// A relocation as it stands in the file.
struct Entry {
    place: u64,
    info: u64,
    addend: [u8; 8],
}

impl Entry {
    /// `bytes` are the 24 of one entry.
    fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| -> [u8; 8] {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            word
        };
        Self {
            place: u64::from_le_bytes(word(0)),
            info: u64::from_le_bytes(word(8)),
            addend: word(16),
        }
    }
}
