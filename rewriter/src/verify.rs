//! Reads the result back and holds it against every promise, before it gets its name.
//!
//! What changed is derived from the two files alone, as `goblin` reads them, not from the plan.
//! Bytes that were not written on purpose come from the kernel's copy of the input (see `write`); the pages that
//! ours lie in, which alone are written, are compared with the input byte for byte, and each of our bytes must belong
//! to a table that a promise names.

mod bytes;
mod diverted;
mod hash;
mod sections;
mod tables;
mod unwinding;
mod view;

use goblin::elf::dynamic as tag;
use goblin::elf::program_header as pt;

use self::diverted::Found;
use self::view::{Range, View, broken};
use crate::elf::{FileOffset, PAGE, Vaddr, align_down, overlap};
use crate::error::{Error, ErrorKind, Result};
use crate::layout::Layout;
use crate::parse::Image;
use crate::phase::Phase;
use crate::processors::{LARGE, on_all};
use crate::runtime::Request;
use crate::source::Source;
use crate::spans::{Content, Gap, Spans};
use crate::trampoline::{self, Trampoline};

/// Fails unless `result` is `source` with exactly the promised changes. Returns how many bytes of
/// the input have another value in the result.
pub(crate) fn verify(
    source: &Source,
    result: &Source,
    layout: &Layout,
    request: Request<'_>,
) -> Result<u64> {
    // `undo` and `refresh` have to read it as well.
    Image::parse(result).map_err(|error| match error.kind() {
        ErrorKind::Malformed { what } => broken(result, what),
        other => broken(result, other.to_string()),
    })?;
    let (before, after) = (View::read(source)?, View::read(result)?);
    let mut check = Check {
        code: match request.phase {
            Phase::Entry => Some(entry_code(&before, &after)?),
            _ => None,
        },
        before,
        after,
        written: written(&layout.spans),
        gap: layout.gap,
        diverted: Found::default(),
        request,
    };
    check.follow_jumps()?;
    check.header()?;
    check.segments()?;
    check.program_headers()?;
    check.protection()?;
    check.sections()?;
    check.dynamic()?;
    let dead = check.symbols()?;
    check.strings(&dead)?;
    check.hash(&dead)?;
    check.preinit_array()?;
    check.long_tables()?;
    check.small_things()?;
    check.mapped_bytes(&layout.spans)?;
    check.changed_bytes(&layout.spans, &dead)
}

struct Check<'a> {
    before: View<'a>,
    after: View<'a>,
    /// Offset and length of all bytes that are ours.
    written: Vec<(u64, u64)>,
    /// Pages of zeros that the result has more.
    gap: Gap,
    /// What is at the entry point.
    code: Option<Trampoline>,
    /// What the program's own allocator is led through.
    diverted: Found,
    request: Request<'a>,
}

/// First and last address of the pages that are read-only after relocation.
type Relro = Option<(u64, u64)>;

/// The trampoline that the result's entry point is, as a decoder reads it: it has to lead on to the
/// input's.
fn entry_code(before: &View<'_>, after: &View<'_>) -> Result<Trampoline> {
    let entry = after.header.e_entry;
    let at = FileOffset(after.locate(entry, trampoline::SIZE)?);
    let code = after
        .source
        .bytes(at, trampoline::SIZE, "the new entry point")?;
    Trampoline::recognise(&code, Vaddr(entry))
        .filter(|code| code.entry == Vaddr(before.header.e_entry))
        .ok_or_else(|| broken(after.source, "the entry point does not lead to the old one"))
}

fn written(spans: &Spans) -> Vec<(u64, u64)> {
    let ours = spans
        .iter()
        .filter(|span| matches!(span.content, Content::Bytes(_)));
    ours.map(|span| (span.at.0, span.len)).collect()
}

/// A symbol that was recycled.
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

    /// The checks that take long where there is much of it.
    fn long_tables(&self) -> Result<()> {
        let all = [Self::relocations, Self::fill_alone, Self::unwinding];
        match self.after.source.len() < LARGE {
            true => all.iter().try_for_each(|check| check(self)),
            false => {
                let done = on_all(1, &all, |check| check(self), || ());
                done.into_iter().collect()
            }
        }
    }

    fn header(&self) -> Result<()> {
        let (mut before, after) = (self.before.header, self.after.header);
        before.e_phnum = after.e_phnum;
        before.e_phoff = after.e_phoff;
        before.e_shoff = after.e_shoff;
        if self.code.is_some() {
            before.e_entry = after.e_entry;
        }
        if self.added_code() > 0 || self.new_relocations()?.is_some() {
            before.e_shnum = after.e_shnum;
        }
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
            added.is_some_and(|added| added <= 2 + self.added_code()),
            "program headers were lost or too many added",
        )
    }

    /// Number of new segments of code.
    fn added_code(&self) -> usize {
        usize::from(self.code.is_some()) + usize::from(self.diverted_start().is_some())
    }

    /// Each segment is still there, over at least the same memory, in the same order; a new one is
    /// read-only and in nobody's way.
    fn segments(&self) -> Result<()> {
        // What said nothing may have made room.
        let all = self.before.segments.iter();
        let mut before = all.filter(|old| old.p_type != pt::PT_NULL).peekable();
        let after = self.after.segments.iter();
        for after in after.filter(|new| new.p_type != pt::PT_NULL) {
            let same = |old: &&pt::ProgramHeader| {
                old.p_type == after.p_type && old.p_flags == after.p_flags
            };
            let covers =
                |old: &&pt::ProgramHeader| after.p_vaddr <= old.p_vaddr && end(after) >= end(old);
            let moves = [
                pt::PT_PHDR,
                pt::PT_INTERP,
                pt::PT_NOTE,
                pt::PT_GNU_PROPERTY,
                pt::PT_DYNAMIC,
                pt::PT_GNU_EH_FRAME,
            ];
            let expected = |old: &&pt::ProgramHeader| {
                same(old) && (covers(old) || moves.contains(&old.p_type))
            };
            if before.next_if(expected).is_none() {
                let code = after.p_vaddr == self.after.header.e_entry || self.is_diverted(after);
                let flags = if code {
                    pt::PF_R | pt::PF_X
                } else if self.is_apart(after)? {
                    pt::PF_R | pt::PF_W
                } else {
                    pt::PF_R
                };
                let new = after.p_type == pt::PT_LOAD && after.p_flags == flags;
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

    /// True if the segment is there for the new preinit entry alone.
    fn is_apart(&self, segment: &pt::ProgramHeader) -> Result<bool> {
        let array = self.array(&self.after)?.vaddr;
        Ok(segment.p_type == pt::PT_LOAD && (segment.p_vaddr..end(segment)).contains(&array))
    }

    /// The kernel finds the program header table, and so does the loader: PT_PHDR is where it is, mapped,
    /// and as far from the first segment in memory as in the file (see `layout`).
    fn program_headers(&self) -> Result<()> {
        let (at, size) = self.after.program_headers();
        let first = self.after.loads().next();
        let distance = first.map_or(0, |load| load.p_vaddr.wrapping_sub(load.p_offset));
        let vaddr = at.wrapping_add(distance);
        let moved = at != self.before.program_headers().0;
        let mapped = self.after.locate(vaddr, size).ok() == Some(at);
        self.require(mapped || !moved, "the program header table is not mapped")?;
        let mut tables = self
            .after
            .segments
            .iter()
            .filter(|s| s.p_type == pt::PT_PHDR);
        let told = tables.all(|s| (s.p_offset, s.p_vaddr, s.p_filesz) == (at, vaddr, size));
        self.require(told || !moved, "PT_PHDR is not where the table is")
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
        let array = self.array(&self.after)?;
        self.require(
            loaded(&self.after, array.vaddr, true),
            "the preinit array is not where the loader can write it",
        )?;
        let protected = inside(relro(&self.before), old.0, old.1);
        // The loader writes nothing to a .dynamic there, and protects what else it writes.
        let read_only = loaded(&self.before, old.0, false);
        let range = relro(&self.after);
        if protected {
            self.require(
                inside(range, new.0, new.1),
                ".dynamic is no longer under RELRO",
            )?;
        }
        if protected || read_only && range.is_some() {
            let covered = inside(range, array.vaddr, array.size);
            // A segment that was not there before has none of the program's own pointers.
            let apart = |address: u64| {
                let loads = self.after.loads();
                let mut loads = loads.filter(|load| load.p_flags & pt::PF_W != 0);
                loads.any(|load| {
                    let was = self
                        .before
                        .loads()
                        .any(|old| overlap(old.p_vaddr, old.p_memsz, load.p_vaddr, load.p_memsz));
                    !was && (load.p_vaddr..end(load)).contains(&address)
                })
            };
            self.require(
                covered || apart(array.vaddr),
                "the preinit array is not under RELRO",
            )?;
            let slots = self.slots_protected(range, apart);
            self.require(slots, "a slot is not under RELRO")?;
        }
        Ok(())
    }

    /// The preinit array that DT_PREINIT_ARRAY names; empty where there is none. With a trampoline,
    /// the one slot that it calls through.
    fn array(&self, view: &View<'_>) -> Result<Range> {
        if let Some(code) = self.code {
            let is_result = view.header.e_entry != self.before.header.e_entry;
            return Ok(Range {
                vaddr: code.slot.0,
                at: 0,
                size: if is_result { view.word() } else { 0 },
            });
        }
        // A size without an address is none.
        let vaddr = view.get(tag::DT_PREINIT_ARRAY);
        let size = vaddr.and_then(|_| view.get(tag::DT_PREINIT_ARRAYSZ));
        Ok(Range {
            vaddr: vaddr.unwrap_or(0),
            at: 0,
            size: size.unwrap_or(0),
        })
    }

    /// .rela.dyn without the PLT relocations that DT_RELASZ may include.
    fn relocation_table(view: &View<'_>) -> Result<Option<Range>> {
        let (table, size) = view.relocation_tags();
        let size = view.get(size).unwrap_or(0);
        let Some(table) = view.table(table, size)? else {
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

    /// Interpreter path and notes have their bytes, and what a core dump needs of the first page (build-id,
    /// package metadata) stays there.
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
                // patchelf moves the property note and leaves PT_GNU_PROPERTY behind.
                let (start, size) = self.before.program_headers();
                if overlap(before.at, before.size, start, size) {
                    continue;
                }
                self.require(
                    before.size == after.size,
                    "a note or the interpreter changed",
                )?;
                let mut dumped = false;
                self.pairs(before, after, 1, |at, old, new| {
                    let has = |owner: &[u8]| memchr::memmem::find(old, owner).is_some();
                    dumped |= at == 0 && (has(b"\x03\0\0\0GNU\0") || has(b"\x7e\x1a\xfe\xcaFDO\0"));
                    self.require(old == new, "a note or the interpreter changed")
                })?;
                let left = dumped && before.at < PAGE && after.at + after.size > PAGE;
                self.require(
                    !left,
                    "the build-id or the package's name left the first page",
                )?;
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
}

/// First address behind a segment.
fn end(segment: &pt::ProgramHeader) -> u64 {
    segment.p_vaddr.saturating_add(segment.p_memsz)
}

/// Whether `address` is in a segment that is loaded, `writable` or not.
fn loaded(view: &View<'_>, address: u64, writable: bool) -> bool {
    view.loads().any(|load| {
        let inside = (load.p_vaddr..end(load)).contains(&address);
        inside && (load.p_flags & pt::PF_W != 0) == writable
    })
}
