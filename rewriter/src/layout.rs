//! [`Plan`] → [`Layout`]: every offset and address of the result.
//!
//! The result is the input with an insertion at the end of its ELF part (before any appended
//! data), perhaps with a gap of some pages for room under RELRO, and with bytes replaced here and there. First all segments, sections and moved tables
//! get their final places; then each table's new content is put where it has ended up.

mod content;
mod diverted;
mod sections;
mod segments;
mod writable;

use std::ops::Range;

use crate::elf::{
    Addends, Dyn, Entry, FileOffset, Header, PAGE, Section, Segment, Vaddr, align_up,
};
use crate::error::Result;
use crate::headers::{DynamicMove, Move};
use crate::parse::{Image, locate};
use crate::plan::{Plan, Preinit};
use crate::recycle::Findings;
use crate::room::{self, Room};
use crate::runtime::Request;
use crate::source::Source;
use crate::spans::{Content, Gap, Spans};

/// How large a hole the file may get for the sake of the program header table or of an alignment, in
/// bytes: what its size has to do with a program's zero-initialised data has to end somewhere.
const MAX_HOLE: u64 = 256 << 20;

/// Where everything goes.
#[derive(Debug)]
pub(crate) struct Layout {
    pub(crate) spans: Spans,
    /// Pages inserted for room under RELRO.
    pub(crate) gap: Gap,
    /// Address of the new preinit entry.
    pub(crate) slot: Vaddr,
    /// Where in the file the word goes that leads back.
    pub(crate) word_at: FileOffset,
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
        builder.describe_new_relocations()?;
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
        builder.put_unwinding(request.diversion)?;
        builder.put_headers()?;
        let slot = builder.array();
        let word = image.format.word();
        let word_place = builder.word_place(slot);
        for ours in [slot, word_place] {
            builder.put_at(ours, image.format.address(0))?; // whatever it says in the end
        }
        Ok(Self {
            slot,
            word_at: builder.file_offset(word_place, word)?,
            journal,
            leads_back: false,
            code: builder.code,
            appended_data_moved: builder.appended_data_moved(),
            gap: builder.gap,
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
    /// Pages inserted for room under RELRO, and the part of them that it leaves free.
    gap: Gap,
    free: Range<u64>,
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
            gap: Gap::default(),
            free: 0..0,
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
        let word = self.image.format.word();
        let room_end = self.room.as_ref().map_or(0, |room| room.end.0);
        match &self.plan.preinit {
            Preinit::Terminator => {
                let (start, entries) = self.dynamic_place();
                Vaddr(start.0 + Dyn::size(self.image.format) * entries - word)
            }
            Preinit::Extended => Vaddr(room_end - word),
            Preinit::Moved(entries) => Vaddr(room_end - word * (entries.values.len() as u64 + 1)),
        }
    }

    /// Address of the word that leads back: the slot, or where that has to hold an addend, the value of the first
    /// DT_NULL.
    fn word_place(&self, slot: Vaddr) -> Vaddr {
        let format = self.image.format;
        let (start, _) = self.dynamic_place();
        let before = self.plan.dynamic.entries.len() as u64 * Dyn::size(format);
        match format.relocations.addends {
            Addends::Explicit => slot,
            Addends::Implicit => Vaddr(start.0 + before + format.word()),
        }
    }

    /// Address of .dynamic, and how many entries it has with all its DT_NULLs.
    fn dynamic_place(&self) -> (Vaddr, u64) {
        let old = &self.image.dynamic;
        let needed = (self.plan.dynamic.entries.len() + self.plan.dynamic.nulls) as u64;
        match (self.plan.dynamic.moves, &self.room) {
            (DynamicMove::Room, Some(room)) => (Vaddr(room.start.0 + room::IN_FRONT), needed),
            (DynamicMove::ReadOnly, _) => (
                self.new_address(old.table.vaddr),
                needed.max(old.table.size / Dyn::size(self.image.format)),
            ),
            _ => (old.table.vaddr, old.capacity() as u64),
        }
    }

    /// Makes room for what only `undo` reads, in no segment.
    fn place_journal(&mut self, size: u64) -> Result<FileOffset> {
        let free = align_up(self.free.start, 8);
        if let Some(at) = free.filter(|at| at.saturating_add(size) <= self.free.end) {
            return Ok(FileOffset(at));
        }
        let at = FileOffset(align_up(self.end, 8).ok_or_else(|| self.overflow())?);
        if size > 0 {
            self.insert(at, size, Content::Zero)?;
        }
        Ok(at)
    }

    fn insert(&mut self, at: FileOffset, len: u64, content: Content) -> Result<()> {
        let most = self.source.len() + MAX_HOLE;
        let end = at.checked_add(len);
        let end = end.filter(|end| end.0.saturating_sub(self.end) <= most && end.0 <= self.limit());
        let end = end.ok_or_else(|| self.overflow())?;
        self.end = self.end.max(end.0);
        self.inserted.push((at, len, content));
        Ok(())
    }

    /// Knows how long the insertion is, and lays out the whole file. Appended data keeps its
    /// position modulo a page, and with it the section header table its place just before: some
    /// self-extracting programs find their data at the table's end.
    fn finish_insertion(&mut self) -> Result<()> {
        let (elf_end, gap) = (self.image.elf_end.0, self.gap);
        let appended = self.source.len() - elf_end;
        let sections_size = self.sections.len() as u64 * Section::size(self.image.format);
        let start = elf_end + gap.len;
        let mut inserted = self.end - start;
        if inserted > 0 && appended > 0 {
            let with_sections = inserted.checked_add(sections_size);
            inserted = with_sections
                .and_then(|size| align_up(size, PAGE))
                .ok_or_else(|| self.overflow())?;
            if sections_size > 0 {
                self.sections_at = FileOffset(start + inserted - sections_size);
            }
        }
        self.spans.push(gap.at.0, Content::Input(FileOffset(0)));
        self.spans.push(gap.len, Content::Zero);
        self.spans.push(elf_end - gap.at.0, Content::Input(gap.at));
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
