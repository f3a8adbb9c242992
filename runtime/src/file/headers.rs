//! The program headers of an object, where it is loaded or in its file: its segments, its build-id, and what tells
//! it from any other object.

use core::iter;

use crate::linkmap::Entry;
use crate::memory::{Access, Mapped};
use crate::sys::File;

const PT_LOAD: u32 = 1;
const PT_DYNAMIC: u32 = 2;
const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const NT_GNU_BUILD_ID: usize = 3;
/// "GNU\0".
const GNU: usize = 0x0055_4e47;

/// Words of a program header.
const WORDS: usize = 7;
/// More headers than linkers make, and more segments and notes among them; what is beyond is not seen.
const HEADERS: usize = 24;
const KEPT: usize = 16;
/// More notes than an object has, and a longer build-id than any.
const NOTES: usize = 32;
const LONGEST_ID: usize = 64;

/// What the program headers say.
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    access: Access,
    fingerprint: usize,
    /// Segments, notes, and that of .eh_frame_hdr.
    kept: [Header; KEPT],
    build_id: Option<(usize, usize)>,
}

/// One program header.
#[derive(Clone, Copy, Default)]
pub(crate) struct Header {
    kind: u32,
    flags: u32,
    /// Its index.
    pub(crate) index: usize,
    offset: usize,
    /// Where it is in memory.
    pub(crate) begin: usize,
    size: usize,
}

impl Header {
    fn of(index: usize, words: &[usize; WORDS], base: usize) -> Self {
        // p_type and p_flags, p_offset, p_vaddr, p_paddr, p_filesz, p_memsz, p_align.
        let [kind, offset, vaddr, _, _, size, _] = *words;
        let half = |word| u32::try_from(word & 0xffff_ffff).unwrap_or_default();
        Self {
            kind: half(kind),
            flags: half(kind >> 32),
            index,
            offset,
            begin: base.wrapping_add(vaddr),
            size,
        }
    }

    /// One past its last address.
    pub(crate) fn end(&self) -> usize {
        self.begin.wrapping_add(self.size)
    }

    /// Whether it covers `address`.
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.begin) < self.size
    }
}

impl Headers {
    /// Those of the object of `entry`. `None` if it is gone, or its headers are not in memory.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let base = entry.object.base;
        let by_header = || named_by_header(entry.access, base);
        let (at, count) = entry.headers.or_else(by_header)?;
        let dynamic = entry.object.dynamic.address();
        // Something else may have come to that place meanwhile.
        Self::read(entry.access, at, count, base, |header| {
            header.kind == PT_DYNAMIC && header.begin == dynamic
        })
    }

    /// Those in an object's file.
    pub(crate) fn of_file(file: &File) -> Option<Self> {
        let access = Access::File(file.number());
        let (at, count) = named_by_header(access, 0)?;
        Self::read(access, at, count, 0, |header| header.kind == PT_DYNAMIC)
    }

    /// Reads `count` headers at `at`, one of which has to be `wanted`.
    #[inline(never)]
    fn read(
        access: Access,
        at: usize,
        count: usize,
        base: usize,
        wanted: impl Fn(&Header) -> bool,
    ) -> Option<Self> {
        let mut words = [0; HEADERS * WORDS];
        let words = words.get_mut(..count.min(HEADERS).wrapping_mul(WORDS))?;
        access.fill(at, words).then_some(())?;
        let (headers, _) = words.as_chunks::<WORDS>();
        let headers = || {
            let headers = (0_usize..).zip(headers);
            headers.map(|(index, words)| Header::of(index, words, base))
        };
        headers().any(|header| wanted(&header)).then_some(())?;
        let mut kept = [Header::default(); KEPT];
        let matter =
            headers().filter(|header| matches!(header.kind, PT_LOAD | PT_NOTE | PT_GNU_EH_FRAME));
        for (place, header) in kept.iter_mut().zip(matter) {
            *place = header;
        }
        let mut read = Self {
            access,
            fingerprint: headers().fold(0, |mixed, header| {
                let kind = (header.kind as usize) << 32 | header.flags as usize;
                let vaddr = header.begin.wrapping_sub(base);
                let words = [kind, header.offset, vaddr, header.size];
                words.into_iter().fold(mixed, mix)
            }),
            kept,
            build_id: None,
        };
        read.build_id = read.find_build_id();
        if let Some((id, 16..)) = read.build_id {
            let [first, second] = access.words(id)?;
            read.fingerprint = mix(mix(read.fingerprint, first), second);
        }
        Some(read)
    }

    /// How the object is read.
    pub(crate) fn access(&self) -> Access {
        self.access
    }

    /// A number that the same object has wherever it is loaded, and in its file, and no other object: made of all
    /// headers and the build-id.
    pub(crate) fn fingerprint(&self) -> usize {
        self.fingerprint
    }

    fn kept(&self, kind: u32) -> impl Iterator<Item = &Header> {
        self.kept.iter().filter(move |header| header.kind == kind)
    }

    /// The segments.
    pub(crate) fn segments(&self) -> impl Iterator<Item = &Header> {
        self.kept(PT_LOAD).filter(|segment| segment.size != 0)
    }

    /// The lowest address of the segments and one past the highest.
    pub(crate) fn extent(&self) -> Option<(usize, usize)> {
        let begin = self.segments().map(|segment| segment.begin).min()?;
        let end = self.segments().map(Header::end).max()?;
        Some((begin, end))
    }

    /// The segment with the code: where it begins and ends, and its offset in the file.
    pub(crate) fn executable(&self) -> Option<(usize, usize, usize)> {
        let segment = self.segments().find(|segment| segment.flags & PF_X != 0)?;
        Some((segment.begin, segment.end(), segment.offset))
    }

    /// Whether they stay where they are.
    pub(crate) fn stays(&self) -> bool {
        self.access == Access::Direct
    }

    /// The table by which .eh_frame is searched, and its size.
    pub(crate) fn unwind_table(&self) -> Option<(Mapped, usize)> {
        let header = self.kept(PT_GNU_EH_FRAME).next()?;
        // SAFETY: the program headers of a loaded object say that it is there.
        Some((unsafe { Mapped::new(header.begin) }, header.size))
    }

    /// The build-id: where it is and its size.
    pub(crate) fn build_id(&self) -> Option<(Mapped, usize)> {
        let (id, size) = self.build_id?;
        // SAFETY: a note of the object's, inside of its segments.
        Some((unsafe { Mapped::new(id) }, size))
    }

    fn find_build_id(&self) -> Option<(usize, usize)> {
        let mut notes = self.kept(PT_NOTE);
        notes.find_map(|notes| self.build_id_in(notes))
    }

    fn build_id_in(&self, notes: &Header) -> Option<(usize, usize)> {
        let begin = match self.access {
            Access::File(_) => notes.offset,
            Access::Direct | Access::Guarded => notes.begin,
        };
        let end = begin.wrapping_add(notes.size);
        let mut at = begin;
        let (_, descriptor, size) = iter::from_fn(|| {
            let note = Some(at).filter(|at| at.wrapping_add(16) <= end)?;
            // Sizes of name and descriptor, type, and the name's first word.
            let [sizes, kind] = self.access.words(note)?;
            let [name, size] = [sizes & 0xffff_ffff, sizes >> 32];
            let descriptor = note.wrapping_add(12).wrapping_add(padded(name));
            at = descriptor.wrapping_add(padded(size));
            Some((kind, descriptor, size))
        })
        .take(NOTES)
        .find(|(kind, _, _)| *kind == (GNU << 32 | NT_GNU_BUILD_ID))?;
        let is_inside = (1..=LONGEST_ID).contains(&size) && descriptor.wrapping_add(size) <= end;
        is_inside.then_some((descriptor, size))
    }
}

fn mix(mixed: usize, word: usize) -> usize {
    (mixed ^ word)
        .wrapping_mul(0x9e37_79b9_7f4a_7c15)
        .rotate_left(29)
}

/// Names and descriptors of notes end at a multiple of four. (Notes that are aligned to eight have descriptors of
/// such sizes.)
fn padded(size: usize) -> usize {
    size.wrapping_add(3) & !3
}

/// Where the ELF header at `at` says that the program headers are, and their number.
fn named_by_header(access: Access, at: usize) -> Option<(usize, usize)> {
    const MAGIC: usize = 0x464c_457f;
    let [ident, _, _, _, offset, _, _, counts] = access.words(at)?;
    // The last word is e_phnum, e_shentsize, e_shnum, e_shstrndx.
    (ident & 0xffff_ffff == MAGIC).then_some((at.wrapping_add(offset), counts & 0xffff))
}
