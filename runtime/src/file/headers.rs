//! The program headers of an object, where it is loaded or in its file: its segments, its build-id, and what tells
//! it from any other object.

use core::mem::MaybeUninit;

use crate::elf::{PT_DYNAMIC, PT_LOAD};
use crate::linkmap::Entry;
use crate::memory::Access;
use crate::memory::Mapped;
use crate::sys::File;

const PT_NOTE: u32 = 4;
const PT_GNU_EH_FRAME: u32 = 0x6474_e550;
const PF_X: u32 = 1;
const PF_W: u32 = 2;
const PF_R: u32 = 4;
const NT_GNU_BUILD_ID: usize = 3;
/// "GNU\0".
const GNU: usize = 0x0055_4e47;

/// Words of a program header.
const WORDS: usize = 7;
/// More headers than linkers make; what is beyond is not seen.
const HEADERS: usize = 24;
/// More notes than an object has, and a longer build-id than any.
const NOTES: usize = 32;
const LONGEST_ID: usize = 64;

/// Where the program headers are, and what is added to the addresses in them.
#[derive(Clone, Copy)]
pub(crate) struct Headers {
    at: usize,
    count: usize,
    base: usize,
    access: Access,
}

/// What all of them say together.
#[derive(Clone, Copy)]
pub(crate) struct Summary {
    /// The lowest address of the segments and one past the highest.
    pub(crate) begin: usize,
    pub(crate) end: usize,
    /// Where the build-id is and its size; 0 if there is none.
    pub(crate) build_id: usize,
    pub(crate) build_id_size: usize,
    /// A number that the same object has wherever it is loaded, and in its file, and no other object: made of all
    /// headers and the build-id.
    pub(crate) fingerprint: usize,
}

/// One program header.
#[derive(Clone, Copy)]
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

    fn is_segment(&self) -> bool {
        self.kind == PT_LOAD && self.size != 0
    }

    /// One past its last address.
    pub(crate) fn end(&self) -> usize {
        self.begin.wrapping_add(self.size)
    }

    /// PROT_READ and so on: the same bits as of its flags, in the other order.
    pub(crate) fn protection(&self) -> u32 {
        (self.flags & PF_R) >> 2 | self.flags & PF_W | (self.flags & PF_X) << 2
    }

    /// Whether it covers `address`.
    pub(crate) fn contains(&self, address: usize) -> bool {
        address.wrapping_sub(self.begin) < self.size
    }
}

impl Headers {
    /// Those of the object of `entry`. `None` if there is no ELF header where it should be.
    pub(crate) fn of(entry: &Entry) -> Option<Self> {
        let base = entry.object.base;
        let (at, count) = match entry.headers {
            (0, _) => named_by_header(entry.access, base)?,
            headers => headers,
        };
        Some(Self {
            at,
            count: count.min(HEADERS),
            base,
            access: entry.access,
        })
    }

    /// Those in an object's file.
    pub(crate) fn of_file(file: &File) -> Option<Self> {
        let access = Access::File(file.number());
        let (at, count) = named_by_header(access, 0)?;
        Some(Self {
            at,
            count: count.min(HEADERS),
            base: 0,
            access,
        })
    }

    /// How the object is read.
    pub(crate) fn access(self) -> Access {
        self.access
    }

    /// What `read` makes of them.
    fn with<T>(self, read: impl FnOnce(&[[usize; WORDS]]) -> Option<T>) -> Option<T> {
        let mut buffer = MaybeUninit::<[usize; HEADERS * WORDS]>::uninit();
        let words = self.count.wrapping_mul(WORDS);
        let words = self.access.fill_new(self.at, words, &mut buffer)?;
        let (headers, _) = words.as_chunks();
        read(headers)
    }

    fn parsed(self, headers: &[[usize; WORDS]]) -> impl Iterator<Item = Header> {
        let headers = (0_usize..).zip(headers);
        headers.map(move |(index, words)| Header::of(index, words, self.base))
    }

    /// What they say, if the dynamic table is where `is_dynamic` says: something else may have come to that place.
    #[inline(never)]
    pub(crate) fn summary(self, is_dynamic: impl Fn(usize) -> bool) -> Option<Summary> {
        self.with(|headers| {
            let all = || self.parsed(headers);
            let segments = || all().filter(Header::is_segment);
            all()
                .any(|header| header.kind == PT_DYNAMIC && is_dynamic(header.begin))
                .then_some(())?;
            let of_headers = all().fold(0, |mixed, header| {
                let kind = (header.kind as usize) << 32 | header.flags as usize;
                let vaddr = header.begin.wrapping_sub(self.base);
                let mixed = mix(mix(mixed, kind), header.offset);
                mix(mix(mixed, vaddr), header.size)
            });
            let notes = all().filter(|header| header.kind == PT_NOTE);
            let build_id = notes.filter_map(|notes| self.build_id_in(&notes)).next();
            let (build_id, build_id_size) = build_id.unwrap_or((0, 0));
            let fingerprint = if build_id_size >= 16 {
                let [first, second] = self.access.words(build_id)?;
                mix(mix(of_headers, first), second)
            } else {
                of_headers
            };
            Some(Summary {
                begin: segments().map(|segment| segment.begin).min()?,
                end: segments().map(|segment| segment.end()).max()?,
                build_id,
                build_id_size,
                fingerprint,
            })
        })
    }

    /// The segment that contains `address`.
    #[inline(never)]
    pub(crate) fn segment(self, address: usize) -> Option<Header> {
        self.with(|headers| {
            let mut segments = self.parsed(headers).filter(Header::is_segment);
            segments.find(|segment| segment.contains(address))
        })
    }

    /// The segments with code: where each begins and ends, and its offset in the file.
    pub(crate) fn executable(self) -> impl Iterator<Item = (usize, usize, usize)> {
        let segment = move |index| {
            self.with(|headers| {
                let segments = self.parsed(headers).filter(Header::is_segment);
                let mut executable = segments.filter(|segment| segment.flags & PF_X != 0);
                let segment = executable.nth(index)?;
                Some((segment.begin, segment.end(), segment.offset))
            })
        };
        (0..).map_while(segment)
    }

    /// Whether they stay where they are.
    pub(crate) fn stays(self) -> bool {
        self.access == Access::Direct
    }

    /// The table by which .eh_frame is searched, and its size.
    pub(crate) fn unwind_table(self) -> Option<(Mapped, usize)> {
        self.with(|headers| {
            let mut all = self.parsed(headers);
            let header = all.find(|header| header.kind == PT_GNU_EH_FRAME)?;
            // SAFETY: the program headers of a loaded object say that it is there.
            Some((unsafe { Mapped::new(header.begin) }, header.size))
        })
    }

    fn build_id_in(self, notes: &Header) -> Option<(usize, usize)> {
        let mut at = match self.access {
            Access::File(_) => notes.offset,
            Access::Direct | Access::Loaded | Access::Guarded => notes.begin,
        };
        let end = at.wrapping_add(notes.size);
        for _ in 0..NOTES {
            if at.wrapping_add(16) > end {
                break;
            }
            // Sizes of name and descriptor, type, and the name's first word.
            let [sizes, kind] = self.access.words(at)?;
            let [name, size] = [sizes & 0xffff_ffff, sizes >> 32];
            let descriptor = at.wrapping_add(12).wrapping_add(padded(name));
            if kind == (GNU << 32 | NT_GNU_BUILD_ID) {
                let is_inside = descriptor.wrapping_add(size) <= end;
                let is_plausible = (1..=LONGEST_ID).contains(&size) && is_inside;
                return is_plausible.then_some((descriptor, size));
            }
            at = descriptor.wrapping_add(padded(size));
        }
        None
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
