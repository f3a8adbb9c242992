//! [`Plan`] → [`Layout`]: every offset and address of the result.
//!
//! The result is the input with an insertion at the end of its ELF part (before any appended
//! data), and with bytes replaced here and there. First all segments, sections and moved tables
//! get their final places; then each table's new content is put where it has ended up.

mod content;
mod diverted;

use object::elf::{
    PF_R, PF_W, PF_X, PT_GNU_RELRO, PT_LOAD, PT_PHDR, ProgramFlags, SHF_ALLOC, SHF_EXECINSTR,
    SHT_NOBITS, SectionFlags,
};

use crate::elf::{Dyn, Entry, FileOffset, Header, PAGE, Section, Segment, Vaddr, align_up};
use crate::error::{ErrorKind, Result};
use crate::headers::Move;
use crate::parse::{Image, locate};
use crate::plan::{Plan, Preinit};
use crate::recycle::Findings;
use crate::room::{self, Place, Room};
use crate::runtime::Request;
use crate::source::Source;
use crate::spans::{Content, Spans};
use crate::trampoline;

/// How large a hole the file may get for the sake of the program header table or of an alignment, in
/// bytes: what its size has to do with a program's zero-initialised data has to end somewhere.
const MAX_HOLE: u64 = 256 << 20;

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) spans: Spans,
    /// Address of the new preinit entry.
    pub(crate) slot: Vaddr,
    /// The same in the file.
    pub(crate) slot_at: FileOffset,
    /// Where the undo journal goes, if there is to be one.
    pub(crate) journal: FileOffset,
    /// The result leads back to the input.
    pub(crate) leads_back: bool,
    /// Address of the code that is the new entry point, where there is one.
    pub(crate) code: Option<Vaddr>,
    /// Bytes by which data appended behind the ELF part moved.
    pub(crate) appended_data_moved: Option<u64>,
}

impl Layout {
    /// Lays out the result, with `journal` bytes for an undo journal.
    pub(crate) fn make(
        source: &Source,
        image: &Image,
        findings: &Findings,
        plan: &Plan,
        request: Request<'_>,
        journal: u64,
    ) -> Result<Self> {
        let mut builder = Builder::new(source, image, findings, plan);
        builder.place_writable_segment()?;
        builder.place_read_only_segment()?;
        builder.place_code_segment()?;
        builder.place_diverted(request.diversion)?;
        builder.place_segment_apart()?;
        builder.place_section_headers()?;
        builder.slide_notes()?;
        builder.cover_headers();
        let journal = builder.place_journal(journal)?;
        builder.finish_insertion()?;
        builder.put_names()?;
        builder.put_symbols()?;
        builder.put_hash(request)?;
        builder.put_relocations(request.diversion)?;
        builder.put_preinit_values()?;
        builder.put_dynamic()?;
        builder.put_debugger_symbols()?;
        builder.put_code()?;
        builder.put_diverted(request.diversion)?;
        builder.put_headers()?;
        let slot = builder.array();
        builder.put_at(slot, vec![0; 8])?; // ours, whatever it says in the end
        Ok(Self {
            slot,
            slot_at: builder.file_offset(slot, 8)?,
            journal,
            leads_back: false,
            code: builder.code,
            appended_data_moved: builder.appended_data_moved(),
            spans: builder.spans,
        })
    }
}

struct Builder<'a> {
    source: &'a Source,
    image: &'a Image,
    findings: &'a Findings,
    plan: &'a Plan,
    room: Option<Room>,
    segments: Vec<Segment>,
    segments_at: FileOffset,
    sections: Vec<Section>,
    sections_at: FileOffset,
    header: Header,
    /// Address of the trampoline.
    code: Option<Vaddr>,
    /// Address of the segment that the program's own allocator is led through.
    diverted: Option<Vaddr>,
    /// Old and new address of each moved table.
    moved: Vec<(Move, Vaddr)>,
    /// End of the insertion so far.
    end: u64,
    /// What the insertion holds, by file offset.
    inserted: Vec<(FileOffset, u64, Content)>,
    spans: Spans,
}

impl<'a> Builder<'a> {
    fn new(source: &'a Source, image: &'a Image, findings: &'a Findings, plan: &'a Plan) -> Self {
        Self {
            source,
            image,
            findings,
            plan,
            room: plan.room.clone(),
            segments: image.segments.clone(),
            segments_at: image.segments_at,
            sections: image.sections.clone(),
            sections_at: image.sections_at,
            header: image.header.clone(),
            code: None,
            diverted: None,
            moved: Vec::new(),
            end: image.elf_end.0,
            inserted: Vec::new(),
            spans: Spans::default(),
        }
    }

    fn overflow(&self) -> crate::error::Error {
        self.source
            .malformed("its segments leave no addresses for a new one")
    }

    /// Address of the preinit array.
    fn array(&self) -> Vaddr {
        let room_end = self.room.as_ref().map_or(0, |room| room.end.0);
        match &self.plan.preinit {
            Preinit::Terminator => {
                let (start, entries) = self.dynamic_place();
                Vaddr(start.0 + Dyn::SIZE * entries - 8)
            }
            Preinit::Extended => Vaddr(room_end - 8),
            Preinit::Moved(entries) => Vaddr(room_end - 8 * (entries.values.len() as u64 + 1)),
        }
    }

    /// Address of .dynamic, and how many entries it has with all its DT_NULLs.
    fn dynamic_place(&self) -> (Vaddr, u64) {
        let old = &self.image.dynamic;
        match (self.plan.dynamic.moves, &self.room) {
            (true, Some(room)) => (
                Vaddr(room.start.0 + room::IN_FRONT),
                self.plan.dynamic.entries.len() as u64 + 1,
            ),
            _ => (old.table.vaddr, old.capacity() as u64),
        }
    }

    /// Extends the writable segment and RELRO over the room, and moves the segment's bytes to the
    /// insertion where the file has no place for it.
    fn place_writable_segment(&mut self) -> Result<()> {
        let room = self.plan.room.as_ref();
        let Some(room) = room.filter(|room| room.place != Place::Apart) else {
            return Ok(());
        };
        let old = self.image.segments[room.load].clone();
        let mut load = old.clone();
        match room.place {
            Place::Below => {
                let grown = old.vaddr.0 - room.start.0;
                load.vaddr = room.start;
                load.paddr = load.paddr.wrapping_sub(grown);
                load.offset = FileOffset(load.offset.0.wrapping_sub(grown));
                load.filesz += grown;
                load.memsz += grown;
            }
            Place::Above => {
                load.memsz = load.memsz.max(room.end.0 - load.vaddr.0);
                if room.segment_moves {
                    load.filesz = room.end.0 - load.vaddr.0;
                }
            }
            Place::Apart => {}
        }
        if room.segment_moves {
            self.move_segment(&old, &mut load)?;
        }
        self.segments[room.load] = load.clone();
        self.extend_relro(room, &load);
        Ok(())
    }

    /// Gives the segment a place in the insertion; `new` has its new addresses and sizes.
    fn move_segment(&mut self, old: &Segment, new: &mut Segment) -> Result<()> {
        let align = new.align.max(PAGE);
        let at = congruent(self.end, new.vaddr.0, align).ok_or_else(|| self.overflow())?;
        new.offset = FileOffset(at);
        let old_start = FileOffset(at + (old.vaddr.0 - new.vaddr.0));
        self.insert(FileOffset(at), new.filesz, Content::Zero)?;
        self.insert(old_start, old.filesz, Content::Input(old.offset))?;
        let shift = old_start.0.wrapping_sub(old.offset.0);
        let inside = |address: Vaddr, offset: FileOffset| {
            address >= old.vaddr
                && address <= old.end()
                && address.0.wrapping_sub(old.vaddr.0) == offset.0.wrapping_sub(old.offset.0)
        };
        for segment in &mut self.segments {
            if segment.kind != PT_LOAD && inside(segment.vaddr, segment.offset) {
                segment.offset = FileOffset(segment.offset.0.wrapping_add(shift));
            }
        }
        for section in &mut self.sections {
            let in_memory = section.is_loaded() && section.vaddr < old.end();
            // mold gives a section without bytes an offset of 0, Go's linker one as if it had some.
            let in_file =
                section.offset >= old.offset && section.offset.0 - old.offset.0 <= old.memsz;
            if in_memory && in_file && section.vaddr >= old.vaddr {
                section.offset = FileOffset(section.offset.0.wrapping_add(shift));
            }
        }
        Ok(())
    }

    /// Extends RELRO over the room in `load`, as that is now.
    fn extend_relro(&mut self, room: &Room, load: &Segment) {
        for relro in self.segments.iter_mut().filter(|s| s.kind == PT_GNU_RELRO) {
            if relro.vaddr > room.start {
                let grown = relro.vaddr.0 - room.start.0;
                relro.vaddr = room.start;
                relro.paddr = relro.paddr.wrapping_sub(grown);
                // Nobody reads this one, so a linker may have said anything.
                let skip = relro.vaddr.0.wrapping_sub(load.vaddr.0);
                relro.offset = FileOffset(load.offset.0.wrapping_add(skip));
                relro.filesz += grown;
                relro.memsz += grown;
            }
            if room.segment_moves && room.place == Place::Above {
                let size = room.end.0 - relro.vaddr.0;
                relro.filesz = relro.filesz.max(size);
                relro.memsz = relro.memsz.max(size);
            }
        }
        if room.place == Place::Above && room.segment_moves {
            for section in &mut self.sections {
                let fills = section.kind == SHT_NOBITS && section.memory_size() > 0;
                if fills
                    && section.vaddr < room.start
                    && section.vaddr.0 + section.size > room.start.0
                {
                    section.size = room.start.0 - section.vaddr.0;
                }
            }
        }
    }

    /// Puts the tables that move into the insertion, and maps them behind all other segments.
    fn place_read_only_segment(&mut self) -> Result<()> {
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
        self.add_segment(PF_R, FileOffset(start), Vaddr(base), at - start);
        Ok(())
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
        let size = (self.segments.len() as u64 + self.plan.headers.added()) * Segment::SIZE;
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
    fn next_place(&self) -> Result<(u64, u64)> {
        let align = self.image.load_align();
        let start = align_up(self.end, 16).ok_or_else(|| self.overflow())?;
        let loads = self.segments.iter().filter(|s| s.kind == PT_LOAD);
        let highest = loads.map(|load| load.end().0).max().unwrap_or(0);
        let base = align_up(highest, align).and_then(|base| base.checked_add(start % align));
        Ok((start, base.ok_or_else(|| self.overflow())?))
    }

    /// Adds a PT_LOAD behind the others.
    fn add_segment(&mut self, flags: ProgramFlags, offset: FileOffset, vaddr: Vaddr, size: u64) {
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
        for table in self.segments.iter_mut().filter(|s| s.kind == PT_PHDR) {
            table.filesz += Segment::SIZE;
            table.memsz += Segment::SIZE;
        }
    }

    /// Maps the trampoline: executable, and never writable. A section of its own keeps it in the file
    /// when strip goes through the sections; without sections there is no strip.
    fn place_code_segment(&mut self) -> Result<()> {
        if !self.plan.headers.code {
            return Ok(());
        }
        let (start, base) = self.next_place()?;
        self.insert(FileOffset(start), trampoline::SIZE, Content::Zero)?;
        self.code = Some(Vaddr(base));
        self.add_code(FileOffset(start), Vaddr(base), trampoline::SIZE);
        Ok(())
    }

    /// Maps code, and gives it a section like that of the entry point.
    fn add_code(&mut self, at: FileOffset, base: Vaddr, size: u64) {
        let flags = ProgramFlags(PF_R.0 | PF_X.0);
        self.add_segment(flags, at, base, size);
        let old_entry = self.image.header.entry();
        let of_entry = self.image.sections.iter().find(|section| {
            let skip = old_entry.since(section.vaddr);
            section.is_loaded() && skip.is_some_and(|skip| skip < section.size)
        });
        if let Some(text) = of_entry
            && self.header.add_section()
        {
            self.sections.push(Section {
                offset: at,
                vaddr: base,
                size,
                align: 16,
                // That of the entry point may be tied to another by SHF_LINK_ORDER.
                flags: SectionFlags(SHF_ALLOC.0 | SHF_EXECINSTR.0),
                link: 0,
                info: 0,
                ..text.clone()
            });
        }
    }

    /// Moves the section header table to the insertion, if it grows or is in the way.
    fn place_section_headers(&mut self) -> Result<()> {
        let grows = self.sections.len() > self.image.sections.len();
        if !grows && !self.plan.headers.sections_make_way {
            return Ok(());
        }
        let at = align_up(self.end, 8).ok_or_else(|| self.overflow())?;
        let size = self.sections.len() as u64 * Section::SIZE;
        self.sections_at = FileOffset(at);
        self.insert(FileOffset(at), size, Content::Zero)
    }

    /// Maps room that is in no other segment.
    fn place_segment_apart(&mut self) -> Result<()> {
        let room = self.room.clone();
        let Some(room) = room.filter(|room| room.place == Place::Apart) else {
            return Ok(());
        };
        let (start, base) = self.next_place()?;
        let size = room.end.0 - room.start.0;
        self.insert(FileOffset(start), size, Content::Zero)?;
        let flags = ProgramFlags(PF_R.0 | PF_W.0);
        self.add_segment(flags, FileOffset(start), Vaddr(base), size);
        self.room = Some(Room {
            start: Vaddr(base),
            end: Vaddr(base + size),
            ..room
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
    fn slide_notes(&mut self) -> Result<()> {
        let mut at = self.image.segments_end().0 + Segment::SIZE * self.plan.headers.added();
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
    fn cover_headers(&mut self) {
        let at = self.segments_at;
        let end = at.0 + Segment::SIZE * self.segments.len() as u64;
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

    /// Makes room for what only `undo` reads, in no segment.
    fn place_journal(&mut self, size: u64) -> Result<FileOffset> {
        let at = FileOffset(align_up(self.end, 8).ok_or_else(|| self.overflow())?);
        if size > 0 {
            self.insert(at, size, Content::Zero)?;
        }
        Ok(at)
    }

    fn insert(&mut self, at: FileOffset, len: u64, content: Content) -> Result<()> {
        let most = self.source.len() + MAX_HOLE;
        let end = at.checked_add(len);
        let end = end.filter(|end| end.0.saturating_sub(self.end) <= most);
        let end = end.ok_or_else(|| self.overflow())?;
        self.end = self.end.max(end.0);
        self.inserted.push((at, len, content));
        Ok(())
    }

    /// Knows how long the insertion is, and lays out the whole file. Appended data keeps its
    /// position modulo a page, and with it the section header table its place just before: some
    /// self-extracting programs find their data at the table's end.
    fn finish_insertion(&mut self) -> Result<()> {
        let (elf_end, len) = (self.image.elf_end.0, self.source.len());
        let appended = len - elf_end;
        let sections_size = self.sections.len() as u64 * Section::SIZE;
        let mut inserted = self.end - elf_end;
        if inserted > 0 && appended > 0 {
            let with_sections = inserted.checked_add(sections_size);
            inserted = with_sections
                .and_then(|size| align_up(size, PAGE))
                .ok_or_else(|| self.overflow())?;
            if sections_size > 0 {
                self.sections_at = FileOffset(elf_end + inserted - sections_size);
            }
        }
        self.spans.push(elf_end, Content::Input(FileOffset(0)));
        self.spans.push(inserted, Content::Zero);
        self.spans
            .push(appended, Content::Input(FileOffset(elf_end)));
        for (at, len, content) in std::mem::take(&mut self.inserted) {
            self.put(at, len, content)?;
        }
        for note in &self.plan.headers.slides {
            let to = self.file_offset(self.new_address(note.from.vaddr), note.from.size)?;
            self.put(to, note.from.size, Content::Input(note.from.at))?;
        }
        Ok(())
    }

    fn appended_data_moved(&self) -> Option<u64> {
        let moved = self.spans.len() - self.source.len();
        (moved > 0 && self.image.elf_end.0 < self.source.len()).then_some(moved)
    }

    fn put(&mut self, at: FileOffset, len: u64, content: Content) -> Result<()> {
        self.spans
            .put(at, len, content)
            .ok_or_else(|| self.source.malformed("a table lies outside its file"))
    }

    fn put_bytes(&mut self, at: FileOffset, bytes: Vec<u8>) -> Result<()> {
        self.put(at, bytes.len() as u64, Content::Bytes(bytes))
    }

    /// The address in the result of what was at `address` in the input.
    fn new_address(&self, address: Vaddr) -> Vaddr {
        let moved = self.moved.iter().find_map(|(table, to)| {
            let skip = address.since(table.from.vaddr)?;
            (skip < table.from.size).then(|| Vaddr(to.0 + skip))
        });
        moved.unwrap_or(address)
    }

    /// Address of the first byte that the table called `name` gained.
    fn gained(&self, name: &str) -> Option<Vaddr> {
        let table = self
            .moved
            .iter()
            .find(|(table, _)| table.name == name && table.extra > 0);
        table.map(|(table, to)| Vaddr(to.0 + table.from.size))
    }

    fn file_offset(&self, address: Vaddr, size: u64) -> Result<FileOffset> {
        locate(&self.segments, address, size)
            .ok_or_else(|| self.source.malformed("a table lies in no PT_LOAD segment"))
    }

    fn put_at(&mut self, address: Vaddr, bytes: Vec<u8>) -> Result<()> {
        let at = self.file_offset(address, bytes.len() as u64)?;
        self.put_bytes(at, bytes)
    }
}

/// The first file offset from `at` on that has the remainder of `address` by `align`.
fn congruent(at: u64, address: u64, align: u64) -> Option<u64> {
    let wanted = address.checked_rem(align)?;
    let base = at - at.checked_rem(align)?;
    let first = base.checked_add(wanted)?;
    match first >= at {
        true => Some(first),
        false => first.checked_add(align),
    }
}
