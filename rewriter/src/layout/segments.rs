//! New segments behind all others, what moves into them, and the headers that say so.

use object::elf::{
    PF_R, PF_X, PT_LOAD, PT_NULL, PT_PHDR, ProgramFlags, SHF_ALLOC, SHF_EXECINSTR, SHT_PROGBITS,
    SectionFlags,
};

use super::sections::is_called;
use super::{Builder, MAX_HOLE};
use crate::elf::{Class, Entry, FileOffset, PAGE, Section, Segment, Vaddr, align_up};
use crate::error::{ErrorKind, Result};
use crate::headers::Move;
use crate::spans::Content;
use crate::trampoline;

impl Builder<'_> {
    /// Puts the tables that move into the insertion, and maps them behind all other segments.
    pub(super) fn place_read_only_segment(&mut self) -> Result<()> {
        if !self.plan.headers.read_only() {
            return Ok(());
        }
        let (start, base) = match self.plan.headers.table_moves {
            true => self.place_program_headers()?,
            false => self.next_place()?,
        };
        let mut at = self.end.max(start);
        if self.is_segment(self.plan.headers.moves.first()) {
            // Of two segments that start together, llvm-objcopy lays the first in the table out by
            // its own alignment, and the other along with it: .interp has an alignment of 1.
            at = at.checked_add(16).ok_or_else(|| self.overflow())?;
        }
        for table in &self.plan.headers.moves {
            at = align_up(at, table.align.max(1)).ok_or_else(|| self.overflow())?;
            let size = table.from.size.checked_add(table.extra);
            let size = size.ok_or_else(|| self.overflow())?;
            self.insert(
                FileOffset(at),
                table.from.size,
                Content::Input(table.from.at),
            )?;
            self.insert(FileOffset(at + table.from.size), table.extra, Content::Zero)?;
            self.relocate(table, FileOffset(at), Vaddr(base + (at - start)));
            at += size;
        }
        self.add_segment(PF_R, FileOffset(start), Vaddr(base), at - start)
    }

    /// File offset and address of a segment that begins with the program header table. Kernels before
    /// 5.18 take the table to be as far from the first segment in memory as in the file
    /// (fs/binfmt_elf.c, `create_elf_tables`), so the file gets a hole where memory has more than it.
    fn place_program_headers(&mut self) -> Result<(u64, u64)> {
        let (_, first) = self.image.loads().next().ok_or_else(|| self.overflow())?;
        let distance = first.vaddr.0.wrapping_sub(first.offset.0);
        let align = self.image.load_align();
        let (_, base) = self.next_place()?;
        let base = align_up(base, align).ok_or_else(|| self.overflow())?;
        // In the file it lies behind everything as well.
        let end = align_up(self.end, PAGE).ok_or_else(|| self.overflow())?;
        let start = end.max(base.wrapping_sub(distance));
        let base = start.wrapping_add(distance);
        if start - end > MAX_HOLE {
            return Err(self.source.error(ErrorKind::NoRoom {
                what: "needs one more program header, and what follows the table cannot move".to_owned(),
                advice: "link it again with GNU ld or lld, or pass a --runtime name of at most 25 bytes",
            }));
        }
        let added = self.image.longer_by(self.plan.headers.added());
        let size = (self.segments.len() as u64 + added) * Segment::size(self.image.format);
        self.insert(FileOffset(start), size, Content::Zero)?;
        self.segments_at = FileOffset(start);
        for table in self.segments.iter_mut().filter(|s| s.kind == PT_PHDR) {
            table.offset = FileOffset(start);
            table.vaddr = Vaddr(base);
            table.paddr = base;
        }
        Ok((start, base))
    }

    /// True if a table that moves is a segment, too.
    fn is_segment(&self, table: Option<&Move>) -> bool {
        let mut segments = self.segments.iter().filter(|s| s.kind != PT_LOAD);
        table.is_some_and(|table| segments.any(|s| s.vaddr == table.from.vaddr))
    }

    /// File offset and address of the next new segment: behind everything else.
    pub(super) fn next_place(&self) -> Result<(u64, u64)> {
        let align = self.image.load_align();
        let start = align_up(self.end, 16).ok_or_else(|| self.overflow())?;
        let loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        let highest = loads.map(|load| load.end().0).max().unwrap_or(0);
        let base = align_up(highest, align).and_then(|base| base.checked_add(start % align));
        Ok((start, base.ok_or_else(|| self.overflow())?))
    }

    /// Adds a PT_LOAD behind the others, in the place of a program header that says nothing if there is one.
    pub(super) fn add_segment(
        &mut self,
        flags: ProgramFlags,
        offset: FileOffset,
        vaddr: Vaddr,
        size: u64,
    ) -> Result<()> {
        if vaddr
            .0
            .checked_add(size)
            .is_none_or(|end| end > self.limit())
        {
            return Err(self.overflow());
        }
        if let Some(spare) = self.segments.iter().rposition(|s| s.kind == PT_NULL) {
            self.segments.remove(spare);
        }
        let last = self.segments.iter().rposition(|s| s.kind == PT_LOAD);
        let segment = Segment {
            kind: PT_LOAD,
            flags,
            offset,
            vaddr,
            paddr: vaddr.0,
            filesz: size,
            memsz: size,
            align: match vaddr.0.wrapping_sub(offset.0) % self.image.load_align() {
                0 => self.image.load_align(),
                _ => PAGE,
            },
        };
        self.segments
            .insert(last.map_or(0, |last| last + 1), segment);
        // Loaders read its address alone, so the input may say any size.
        let size = self.segments.len() as u64 * Segment::size(self.image.format);
        for table in self.segments.iter_mut().filter(|s| s.kind == PT_PHDR) {
            table.filesz = size;
            table.memsz = size;
        }
        Ok(())
    }

    /// The largest address or offset that the file can name.
    pub(super) fn limit(&self) -> u64 {
        match self.image.format.class {
            Class::Elf32 => u64::from(u32::MAX),
            Class::Elf64 => u64::MAX,
        }
    }

    /// Maps the trampoline: executable, and never writable.
    pub(super) fn place_code_segment(&mut self) -> Result<()> {
        if !self.plan.headers.code {
            return Ok(());
        }
        let (start, base) = self.next_place()?;
        self.insert(FileOffset(start), trampoline::SIZE, Content::Zero)?;
        self.code = Some(Vaddr(base));
        self.add_code(FileOffset(start), Vaddr(base), trampoline::SIZE)
    }

    /// Maps code, and gives it a section, which keeps it in the file when strip goes through the sections; without sections
    /// there is no strip. If that of the entry point is called `.text`, this one is called `text`: of a file with another
    /// .text elsewhere in memory, valgrind reads nothing (coregrind/m_debuginfo/readelf.c).
    pub(super) fn add_code(&mut self, at: FileOffset, base: Vaddr, size: u64) -> Result<()> {
        let flags = ProgramFlags(PF_R.0 | PF_X.0);
        self.add_segment(flags, at, base, size)?;
        let old_entry = self.image.header.entry();
        let of_entry = self.image.sections.iter().find(|section| {
            let skip = old_entry.since(section.vaddr);
            section.is_loaded() && skip.is_some_and(|skip| skip < section.size)
        });
        if self.image.sections.is_empty() || !self.header.add_section() {
            return Ok(());
        }
        let name = match of_entry {
            Some(text) => {
                let names = self.image.section_names().map(|(_, names)| names);
                text.name + u32::from(is_called(self.source, names, text.name, b".text\0")?)
            }
            // The empty name, which every table of names begins with.
            None => 0,
        };
        self.sections.push(Section {
            name,
            kind: SHT_PROGBITS,
            flags: SectionFlags(SHF_ALLOC.0 | SHF_EXECINSTR.0),
            vaddr: base,
            offset: at,
            size,
            link: 0,
            info: 0,
            align: 16,
            entsize: 0,
        });
        Ok(())
    }

    /// Records a table's new place and takes along the segments and sections that lie in it.
    fn relocate(&mut self, table: &Move, at: FileOffset, vaddr: Vaddr) {
        self.moved.push((table.clone(), vaddr));
        let from = table.from;
        if from.size == 0 {
            return;
        }
        let inside = |address: Vaddr, size: u64| {
            address
                .since(from.vaddr)
                .is_some_and(|skip| skip < from.size && skip + size <= from.size)
        };
        for segment in &mut self.segments {
            let tied = !matches!(segment.kind, PT_LOAD | PT_PHDR) && segment.memsz > 0;
            if tied && inside(segment.vaddr, segment.memsz) {
                let skip = segment.vaddr.0 - from.vaddr.0;
                segment.offset = FileOffset(at.0 + skip);
                segment.vaddr = Vaddr(vaddr.0 + skip);
                segment.paddr = segment.vaddr.0;
            }
        }
        for section in &mut self.sections {
            if section.is_loaded() && inside(section.vaddr, section.size) {
                let skip = section.vaddr.0 - from.vaddr.0;
                section.offset = FileOffset(at.0 + skip);
                section.vaddr = Vaddr(vaddr.0 + skip);
                // Of several sections (`-z nocombreloc`), the last one is longer.
                if section.size > 0 && skip + section.size == from.size {
                    section.size += table.extra;
                }
            }
        }
    }

    /// Puts notes that made way for the new program header just behind the table.
    pub(super) fn slide_notes(&mut self) -> Result<()> {
        let mut at =
            self.segments_at.0 + Segment::size(self.image.format) * self.segments.len() as u64;
        for note in &self.plan.headers.slides {
            at = align_up(at, note.align).ok_or_else(|| self.overflow())?;
            let vaddr = Vaddr((note.from.vaddr.0 + at).wrapping_sub(note.from.at.0));
            self.relocate(note, FileOffset(at), vaddr);
            at += note.from.size;
        }
        Ok(())
    }

    /// Has the segment that maps the program header table map all of it: patchelf makes one that ends
    /// just behind.
    pub(super) fn cover_headers(&mut self) {
        let at = self.segments_at;
        let end = at.0 + Segment::size(self.image.format) * self.segments.len() as u64;
        let maps = |load: &&mut Segment| {
            load.kind == PT_LOAD && load.offset <= at && at < load.offset_end()
        };
        if let Some(load) = self.segments.iter_mut().find(maps) {
            let size = end - load.offset.0;
            // Whole pages are mapped, and where this one has more memory than file, that is zero.
            if load.filesz == load.memsz && load.filesz < size {
                load.filesz = size;
                load.memsz = size;
            }
        }
    }
}
