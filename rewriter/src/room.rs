//! Where new bytes can go that are written during relocation and read-only afterwards.
//!
//! A preinit array that has to grow, and .dynamic if it has to, must lie in whole pages that
//! PT_GNU_RELRO covers, next to what is there. A linker that starts the RELRO pages at their first
//! section leaves file padding below it (GNU ld); one that pads to the end of the last page leaves
//! memory above (lld, mold). Where the file has other bytes at that place, whole pages are inserted
//! there, and all that follows moves on in the file: addresses stay, only offsets change.

use object::elf::{PF_W, PT_GNU_RELRO, SHT_NOBITS};

use crate::elf::{
    Entry, FileOffset, Header, PAGE, Section, Segment, Vaddr, align_down, align_up, overlap,
};
use crate::error::{Error, ErrorKind, Result};
use crate::parse::Image;
use crate::recycle::Findings;
use crate::source::Source;

/// What has to find room, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted {
    /// .dynamic, 0 where it stays.
    pub(crate) dynamic: u64,
    /// What the loader fills for the program's own allocator.
    pub(crate) slots: u64,
    /// The preinit array's new entries.
    pub(crate) array: u64,
    /// True if the array must end where the writable segment starts.
    pub(crate) in_front: bool,
}

impl Wanted {
    /// Bytes in all.
    pub(crate) fn total(self) -> u64 {
        let in_front = if self.dynamic > 0 { IN_FRONT } else { 0 };
        in_front + self.dynamic + self.slots + self.array
    }
}

/// Bytes in front of .dynamic: of two segments that start together, llvm-objcopy lays the one that is
/// first in the table out by its own alignment, and patchelf puts PT_DYNAMIC ahead of PT_LOADs.
pub(crate) const IN_FRONT: u64 = 8;

/// Where the room is, relative to the writable segment that has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Place {
    /// Just below the segment's first byte.
    Below,
    /// At the zero-filled end of its RELRO pages, or without RELRO, behind its last byte.
    Above,
    /// In a writable segment of its own, which nothing protects; its addresses count from there.
    Apart,
}

/// Room for [`Wanted`]: .dynamic behind [`IN_FRONT`], then the slots, then the array.
#[derive(Clone, Debug)]
pub(crate) struct Room {
    /// Index of the PT_LOAD in the program header table.
    pub(crate) load: usize,
    pub(crate) place: Place,
    pub(crate) start: Vaddr,
    pub(crate) end: Vaddr,
    pub(crate) space: Space,
}

/// How the file comes to have the room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Space {
    /// There is padding.
    Padding,
    /// Pages are inserted between the segment's bytes and what is next to them.
    Inserted,
    /// The segment's bytes move to the end of the file, as something straddles that place.
    AtEnd,
}

impl Room {
    /// Where in the file the room's bytes are inserted, if they are, next to those of `load`.
    pub(crate) fn insertion(&self, load: &Segment) -> FileOffset {
        match self.place {
            Place::Above => load.offset_end(),
            Place::Below | Place::Apart => load.offset,
        }
    }
}

/// The writable segment whose pages the loader protects, or without PT_GNU_RELRO, the one that
/// has .dynamic, or the first.
pub(crate) fn writable_load<'a>(source: &Source, image: &'a Image) -> Result<(usize, &'a Segment)> {
    let address = match image.relro() {
        Some(relro) => Some(relro.vaddr),
        None if image.dynamic_is_read_only() => None,
        None => Some(image.dynamic.table.vaddr),
    };
    let has = |load: &Segment| address.is_none_or(|address| load.covers(address, 1));
    let mut writable = image.loads().filter(|(_, load)| load.flags.0 & PF_W.0 != 0);
    writable
        .find(|(_, load)| has(load))
        .ok_or_else(|| source.malformed("it has no writable segment for its PT_GNU_RELRO or data"))
}

/// Room in a segment of its own, for what cannot be protected, or never was.
pub(crate) fn apart(source: &Source, image: &Image, wanted: Wanted) -> Result<Room> {
    let dynamic = image.dynamic.table;
    let protected = image
        .relro()
        .is_some_and(|relro| relro.covers(dynamic.vaddr, dynamic.size));
    if wanted.dynamic > 0 && protected {
        return Err(no_room(source, image, wanted));
    }
    Ok(Room {
        load: 0,
        place: Place::Apart,
        start: Vaddr(0),
        end: Vaddr(wanted.total()),
        space: Space::Padding,
    })
}

fn no_room(source: &Source, image: &Image, wanted: Wanted) -> Error {
    let place = match image.relro() {
        Some(_) => "in the pages that become read-only after relocation (RELRO)",
        None => "beside its writable data",
    };
    source.error(ErrorKind::NoRoom {
        what: format!("has no {} free bytes {place}", wanted.total()),
        advice: "link it again with GNU ld and -z relro, which leaves room there",
    })
}

/// Finds room, preferring what changes least; `None` if there is none in any segment.
pub(crate) fn find(
    source: &Source,
    image: &Image,
    findings: &Findings,
    wanted: Wanted,
) -> Result<Option<Room>> {
    let (index, load) = writable_load(source, image)?;
    let search = Search {
        image,
        findings,
        index,
        load,
        wanted,
    };
    let below = search.below();
    if let Some(room) = &below
        && search.is_padding(source, room)?
    {
        return Ok(Some(room.clone()));
    }
    let above = || search.above().filter(|_| !wanted.in_front);
    let room = below.or_else(above);
    Ok(room.and_then(|room| {
        let space = search.space(&room)?;
        Some(Room { space, ..room })
    }))
}

/// How much zero-initialised data may become part of the file, in bytes.
const MAX_ZERO_FILL: u64 = 1 << 20;

struct Search<'a> {
    image: &'a Image,
    findings: &'a Findings,
    index: usize,
    load: &'a Segment,
    wanted: Wanted,
}

impl Search<'_> {
    /// The part of the segment's first page below its first byte. The kernel maps whole pages, so
    /// it is there already, and nothing else can be.
    fn below(&self) -> Option<Room> {
        let start = self.load.vaddr.checked_sub(self.wanted.total())?;
        // No more than that: an array's new entry has to touch the others.
        let start = Vaddr(align_down(start.0, self.image.format.word()));
        let in_page = start.0 >= align_down(self.load.vaddr.0, PAGE);
        let room = self.room(Place::Below, start)?;
        in_page.then_some(room)
    }

    /// Where nothing is protected, just behind the segment; its zero fill has to go to the file
    /// then, so there must not be much of it.
    fn behind(&self) -> Option<Room> {
        let zero_fill = self.load.memsz.checked_sub(self.load.filesz)?;
        let start = align_up(self.load.vaddr.checked_add(self.load.memsz)?.0, 8)?;
        let room = self.room(Place::Above, Vaddr(start))?;
        (zero_fill <= MAX_ZERO_FILL).then_some(room)
    }

    /// The end of the last RELRO page, where it holds only zero fill that no symbol uses.
    fn above(&self) -> Option<Room> {
        let Some(relro) = self.image.relro() else {
            return self.behind();
        };
        let top = self.protected_end(relro)?;
        let start = Vaddr(align_down(top.checked_sub(self.wanted.total())?, 8));
        let zero_fill = start.since(self.load.file_backed_end())?;
        if zero_fill > MAX_ZERO_FILL || start < self.load.vaddr {
            return None;
        }
        let size = top - start.0;
        let hits = |address: Vaddr, len: u64| overlap(address.0, len, start.0, size);
        let copied = self.findings.copies.iter();
        let used_by_copies = copied.clone().any(|&(address, len)| hits(address, len));
        let holds_copies = |section: &Section| {
            copied.clone().any(|&(address, len)| {
                overlap(address.0, len, section.vaddr.0, section.memory_size())
            })
        };
        let used_by_sections = self.image.sections.iter().any(|section| {
            let fill = section.kind == SHT_NOBITS && !holds_copies(section);
            !fill && hits(section.vaddr, section.memory_size())
        });
        if used_by_copies || used_by_sections {
            return None;
        }
        self.room(Place::Above, start)
    }

    /// Where the pages end that the loader protects, or would if RELRO went on to the end of its last
    /// page: Go's linker gives it a segment of its own, and ends both where the data does.
    fn protected_end(&self, relro: &Segment) -> Option<u64> {
        match self.load.end() <= relro.end() {
            true => align_up(relro.end().0, PAGE),
            false => Some(align_down(relro.end().0, PAGE)),
        }
    }

    /// The room at `start`, if it is protected like the rest and in nobody's way.
    fn room(&self, place: Place, start: Vaddr) -> Option<Room> {
        let end = start.checked_add(self.wanted.total())?;
        let protected = self.image.relro().is_none_or(|relro| {
            start.0 >= align_down(relro.vaddr.0, PAGE)
                && self.protected_end(relro).is_some_and(|top| end.0 <= top)
        });
        let pages = |start: u64, end: u64| (align_down(start, PAGE), align_up(end, PAGE));
        let (first, last) = pages(start.0, end.0);
        let last = last?;
        let taken = self.image.loads().any(|(index, other)| {
            let (start, end) = pages(other.vaddr.0, other.end().0);
            index != self.index && start < last && end.is_none_or(|end| end > first)
        });
        (protected && !taken).then_some(Room {
            load: self.index,
            place,
            start,
            end,
            space: Space::Padding,
        })
    }

    /// How the file can get the room, if it has other bytes there.
    fn space(&self, room: &Room) -> Option<Space> {
        let at = room.insertion(self.load);
        let image = self.image;
        let straddles = |start: FileOffset, len: u64| {
            start < at && start.checked_add(len).is_none_or(|end| end > at)
        };
        let in_segment = image
            .segments
            .iter()
            .filter(|segment| segment.kind != PT_GNU_RELRO) // mold: at offset 0
            .any(|segment| straddles(segment.offset, segment.filesz));
        let in_section = image
            .sections
            .iter()
            .any(|section| straddles(section.offset, section.file_size()));
        let in_section_headers = straddles(image.sections_at, image.section_headers_size());
        // Kernels before 5.18 take the program headers to be as far from the first segment in memory
        // as in the file, so neither may move on without the other.
        let first = image.loads().next();
        let headers_stay =
            image.segments_end() <= at && first.is_some_and(|(_, load)| load.offset < at);
        if headers_stay && !in_segment && !in_section && !in_section_headers {
            return Some(Space::Inserted);
        }
        // A segment that has the file's headers cannot go to its end.
        let movable = self.load.offset.0 >= Header::size(image.format);
        movable.then_some(Space::AtEnd)
    }

    /// True if the file has only zeros below the segment's bytes, and nothing claims them.
    fn is_padding(&self, source: &Source, room: &Room) -> Result<bool> {
        let size = self.load.vaddr.0 - room.start.0;
        let Some(at) = self.load.offset.checked_sub(size) else {
            return Ok(false);
        };
        if claimed(self.image, at, size) {
            return Ok(false);
        }
        let bytes = source.bytes(at, size, "the padding below the data segment")?;
        Ok(bytes.iter().all(|&byte| byte == 0))
    }
}

/// True if a header, table, segment or section uses bytes of `[at, at+size)` in the file.
fn claimed(image: &Image, at: FileOffset, size: u64) -> bool {
    let hits = |start: FileOffset, len: u64| overlap(start.0, len, at.0, size);
    let sections_size = image.sections.len() as u64 * Section::size(image.format);
    hits(FileOffset(0), Header::size(image.format))
        || hits(
            image.segments_at,
            image.segments_end().0 - image.segments_at.0,
        )
        || hits(image.sections_at, sections_size)
        || image
            .segments
            .iter()
            .filter(|segment| segment.kind != PT_GNU_RELRO) // mold: at offset 0
            .any(|segment| hits(segment.offset, segment.filesz))
        || image
            .sections
            .iter()
            .any(|section| hits(section.offset, section.file_size()))
}
