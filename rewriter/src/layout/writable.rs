//! Where what is written during relocation goes: into the writable segment, or into one of its own.

use object::elf::{PF_R, PF_W, PT_GNU_RELRO, PT_LOAD, ProgramFlags, SHT_NOBITS};

use super::{Builder, MAX_HOLE};
use crate::elf::{FileOffset, PAGE, Section, Segment, Vaddr, align_up};
use crate::error::Result;
use crate::parse::Image;
use crate::room::{Place, Room, Space};
use crate::spans::{Content, Gap};

impl Builder<'_> {
    /// Extends the writable segment and RELRO over the room, and moves the segment's bytes to the
    /// insertion where the file has no place for it.
    pub(super) fn place_writable_segment(&mut self) -> Result<()> {
        let room = self.plan.room.as_ref();
        let Some(room) = room.filter(|room| room.place != Place::Apart) else {
            return Ok(());
        };
        let old = self.image.segments[room.load].clone();
        if room.space == Space::Inserted {
            self.insert_gap(room, &old)?;
        }
        let mut load = self.segments[room.load].clone();
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
                load.filesz = room.end.0 - load.vaddr.0;
            }
            Place::Apart => {}
        }
        if room.space == Space::AtEnd {
            self.move_segment(&old, &mut load)?;
        }
        self.segments[room.load] = load.clone();
        self.extend_relro(room, &load);
        Ok(())
    }

    /// Inserts pages into the file next to the segment `load`, and has all that is behind them move on.
    fn insert_gap(&mut self, room: &Room, load: &Segment) -> Result<()> {
        let grown = match room.place {
            Place::Below | Place::Apart => load.vaddr.0 - room.start.0,
            Place::Above => room.end.0 - load.file_backed_end().0,
        };
        let at = room.insertion(load);
        let most = self.limit().saturating_sub(self.source.len()).min(MAX_HOLE);
        let len = align_up(grown, self.image.load_align()).filter(|&len| len <= most);
        let gap = Gap {
            at,
            len: len.ok_or_else(|| self.overflow())?,
        };
        let end = at.0 + gap.len;
        self.free = match room.place {
            Place::Below | Place::Apart => at.0..end - grown,
            Place::Above => at.0 + grown..end,
        };
        self.end += gap.len;
        self.sections_at = gap.moved(self.sections_at);
        let image = self.image;
        for segment in &mut self.segments {
            if is_behind(image, at, Some(segment.vaddr), segment.offset) {
                // That of a PT_GNU_RELRO or PT_NULL may be anything: nobody reads it.
                segment.offset = FileOffset(segment.offset.0.wrapping_add(gap.len));
            }
        }
        for section in &mut self.sections {
            let vaddr = section.is_loaded().then_some(section.vaddr);
            let offset = match section.kind {
                SHT_NOBITS => load_offset(image, section).unwrap_or(section.offset),
                _ => section.offset,
            };
            if section.offset >= at && is_behind(image, at, vaddr, offset) {
                section.offset.0 += gap.len;
            }
        }
        self.gap = gap;
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
            if room.place == Place::Above {
                let size = room.end.0 - relro.vaddr.0;
                relro.filesz = relro.filesz.max(size);
                relro.memsz = relro.memsz.max(size);
            }
        }
        if room.place == Place::Above {
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

    /// Maps room that is in no other segment.
    pub(super) fn place_segment_apart(&mut self) -> Result<()> {
        let room = self.room.clone();
        let Some(room) = room.filter(|room| room.place == Place::Apart) else {
            return Ok(());
        };
        let (start, base) = self.next_place()?;
        let size = room.end.0 - room.start.0;
        self.insert(FileOffset(start), size, Content::Zero)?;
        let flags = ProgramFlags(PF_R.0 | PF_W.0);
        self.add_segment(flags, FileOffset(start), Vaddr(base), size)?;
        self.room = Some(Room {
            start: Vaddr(base),
            end: Vaddr(base + size),
            ..room
        });
        Ok(())
    }
}

/// True if what is at `offset`, and at `vaddr` in memory, is behind `at` in the file: where nothing of it
/// is in the file, if the segment is that has it.
fn is_behind(image: &Image, at: FileOffset, vaddr: Option<Vaddr>, offset: FileOffset) -> bool {
    let has = |load: &Segment, size| {
        let same = |vaddr: Vaddr| {
            load.covers(vaddr, size)
                && vaddr.0.wrapping_sub(load.vaddr.0) == offset.0.wrapping_sub(load.offset.0)
        };
        vaddr.is_some_and(same)
    };
    let find = |size| image.loads().find(|(_, load)| has(load, size));
    let load = find(1).or_else(|| find(0)); // what has no bytes may be at a segment's end
    load.map_or(offset, |(_, load)| load.offset) >= at
}

/// Where a section without bytes would be in the file if it had some: what it says itself need not be as far from its
/// segment's beginning as in memory.
fn load_offset(image: &Image, section: &Section) -> Option<FileOffset> {
    let (_, load) = image
        .loads()
        .find(|(_, load)| load.covers(section.vaddr, 1))?;
    load.offset.checked_add(section.vaddr.since(load.vaddr)?)
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
