//! The program headers of a loaded object, as they are in memory: its segments and its notes.

use core::iter;

use crate::linkmap::Entry;
use crate::memory::{Access, Mapped};

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: usize = 3;

/// Words of a program header, and how many headers are read at a time.
const WORDS: usize = 7;
const AT_A_TIME: usize = 8;
/// More notes than an object has, and a longer build-id than any.
const NOTES: usize = 32;
const LONGEST_ID: usize = 64;

/// Where the headers are, and what is added to the addresses in them.
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    at: usize,
    count: usize,
    base: usize,
    access: Access,
}

/// One program header.
#[derive(Clone, Copy)]
pub(crate) struct Header {
    /// Its index.
    pub(crate) index: usize,
    kind: u32,
    flags: u32,
    offset: usize,
    /// Where it is in memory.
    pub(crate) begin: usize,
    size: usize,
}

impl Header {
    /// One past its last address.
    pub(crate) fn end(self) -> usize {
        self.begin.wrapping_add(self.size)
    }

    pub(crate) fn contains(self, address: usize) -> bool {
        (self.begin..self.end()).contains(&address)
    }
}

impl Headers {
    /// Those of the object of `entry`. `None` if it is gone, or its headers are not in memory.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let base = entry.object.base;
        let (at, count) = entry.headers.or_else(|| named_by_file_header(base))?;
        let headers = Self {
            at,
            count,
            base,
            access: entry.access,
        };
        // Something else may have come to that place meanwhile.
        let dynamic = entry.object.dynamic.address();
        headers
            .all()
            .any(|header| header.kind == PT_DYNAMIC && header.begin == dynamic)
            .then_some(headers)
    }

    /// All of them, in order.
    fn all(self) -> impl Iterator<Item = Header> {
        let mut some = [0; AT_A_TIME * WORDS];
        (0..self.count).map_while(move |index| {
            let place = index.checked_rem(AT_A_TIME)?.wrapping_mul(WORDS);
            if place == 0 {
                let left = self.count.wrapping_sub(index).min(AT_A_TIME);
                let at = self.at.wrapping_add(index.wrapping_mul(WORDS * 8));
                let wanted = some.get_mut(..left.wrapping_mul(WORDS))?;
                self.access.fill(at, wanted).then_some(())?;
            }
            let header = some.get(place..)?.first_chunk::<WORDS>()?;
            // p_type and p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
            let [kind, offset, vaddr, _, _, size, _] = *header;
            Some(Header {
                index,
                kind: low(kind),
                flags: low(kind >> 32),
                offset,
                begin: self.base.wrapping_add(vaddr),
                size,
            })
        })
    }

    /// The segments.
    pub(crate) fn segments(self) -> impl Iterator<Item = Header> {
        self.all().filter(|header| header.kind == PT_LOAD)
    }

    /// The lowest address of the segments and one past the highest.
    pub(crate) fn extent(self) -> Option<(usize, usize)> {
        let segments = || self.segments().filter(|segment| segment.size != 0);
        let begin = segments().map(|segment| segment.begin).min()?;
        let end = segments().map(Header::end).max()?;
        Some((begin, end))
    }

    /// The segment with the code: where it begins and ends, and its offset in the file.
    pub(crate) fn executable(self) -> Option<(usize, usize, usize)> {
        let segment = self.segments().find(|segment| segment.flags & PF_X != 0)?;
        Some((segment.begin, segment.end(), segment.offset))
    }

    /// Whether they stay where they are.
    pub(crate) fn stays(self) -> bool {
        self.access == Access::Direct
    }

    /// The table by which .eh_frame is searched, and its size.
    pub(crate) fn unwind_table(self) -> Option<(Mapped, usize)> {
        let header = self.all().find(|header| header.kind == PT_GNU_EH_FRAME)?;
        // SAFETY: the program headers of a loaded object say that it is there.
        Some((unsafe { Mapped::new(header.begin) }, header.size))
    }

    /// The build-id: where it is and its size.
    pub(crate) fn build_id(self) -> Option<(Mapped, usize)> {
        self.all()
            .filter(|header| header.kind == PT_NOTE)
            .find_map(|header| self.build_id_in(header))
    }

    fn build_id_in(self, notes: Header) -> Option<(Mapped, usize)> {
        let mut at = notes.begin;
        iter::from_fn(|| {
            let note = Some(at).filter(|at| at.wrapping_add(16) <= notes.end())?;
            // Sizes of name and descriptor, type, and the name's first word.
            let [sizes, kind] = self.access.words(note)?;
            let [name, size] = [sizes & 0xffff_ffff, sizes >> 32];
            let descriptor = note.wrapping_add(12).wrapping_add(padded(name));
            at = descriptor.wrapping_add(padded(size));
            Some((kind, name, descriptor, size))
        })
        .take(NOTES)
        .find(|(kind, name, descriptor, size)| {
            *kind == (GNU << 32 | NT_GNU_BUILD_ID)
                && *name == 4
                && (1..=LONGEST_ID).contains(size)
                && descriptor.wrapping_add(*size) <= notes.end()
        })
        // SAFETY: a note of the object's, inside of its segments.
        .map(|(_, _, descriptor, size)| (unsafe { Mapped::new(descriptor) }, size))
    }
}

/// "GNU\0".
const GNU: usize = 0x0055_4e47;

/// Names and descriptors of notes end at a multiple of four. (In notes that are aligned to eight, none is
/// a build-id's.)
fn padded(size: usize) -> usize {
    size.wrapping_add(3) & !3
}

fn low(word: usize) -> u32 {
    u32::try_from(word & 0xffff_ffff).unwrap_or_default()
}

/// Where the ELF header at `base` says that the program headers are, and their number.
fn named_by_file_header(base: usize) -> Option<(usize, usize)> {
    const MAGIC: usize = 0x464c_457f;
    // Guarded, for it is a guess that the header is there.
    let [ident, _, _, _, offset, _, _, counts] = Access::Guarded.words(base)?;
    // The last word is e_phnum, e_shentsize, e_shnum, e_shstrndx.
    (ident & 0xffff_ffff == MAGIC).then_some((base.wrapping_add(offset), counts & 0xffff))
}
