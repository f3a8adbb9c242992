//! What an object's file tells that memory does not: names of sections, and names of functions that are not
//! exported. It is read once, the first time that an address in the object is asked about, into memory of the
//! runtime's own, where strings stay valid whatever becomes of file and object; mapping the file would be quicker
//! and a fault for whoever reads a name after somebody has truncated it.
//!
//! Tables are found by the object's fingerprint: an object that is loaded again has its tables already, and one
//! that comes to the place of another never gets the other's. They are whole before they are published, and
//! never change or go. Two threads that make the same ones at the same time both make them, and one set is
//! given back: nobody waits, as a signal handler could not.
//!
//! A file that is not there or has been replaced is no file. Then the dynamic symbols in memory have to do.

use core::ptr;

use crate::arena::{Arena, Plain};
use crate::file::LoadedObject;
use crate::file::dynamic::Dynamic;
use crate::file::headers::Headers;
use crate::file::symbols::{self, Symbol};
use crate::memory::{Access, Mapped};
use crate::sync::{AtomicPtr, Ordering::Acquire, Ordering::Release};
use crate::sys::{File, signal};

const SHT_SYMTAB: u32 = 2;
const SHT_NOBITS: u32 = 8;
const SHT_DYNSYM: u32 = 11;
const SHF_ALLOC: usize = 2;
const SHF_TLS: usize = 0x400;

/// How many files there can be, a power of two, and how far from its home the tables of one are looked for.
const FILES: usize = 1024;
const PROBES: usize = 32;
/// The largest tables that are read: those of a browser with all its symbols.
const LARGEST: usize = 512 << 20;

/// The tables, each at the place of its fingerprint or behind it.
static TABLES: [AtomicPtr<Tables>; FILES] = [const { AtomicPtr::new(ptr::null_mut()) }; FILES];

/// The tables of one file.
pub(crate) struct Tables {
    fingerprint: usize,
    sections: &'static [Section],
    section_names: &'static [u8],
    symbols: &'static [Symbol],
    names: &'static [u8],
}

/// A section header (Elf64_Shdr).
#[derive(Clone, Copy, Default)]
#[repr(C)]
struct Section {
    name: u32,
    kind: u32,
    flags: usize,
    address: usize,
    offset: usize,
    size: usize,
    link: u32,
    info: u32,
    alignment: usize,
    entry: usize,
}

// SAFETY: numbers, and no padding: 4 + 4 + 4 * 8 + 4 + 4 + 2 * 8.
unsafe impl Plain for Section {}

impl Section {
    fn contains(&self, address: usize) -> bool {
        // .tbss takes no space.
        let is_nowhere = self.flags & SHF_TLS != 0 && self.kind == SHT_NOBITS;
        self.flags & SHF_ALLOC != 0 && !is_nowhere && address.wrapping_sub(self.address) < self.size
    }
}

impl Tables {
    /// Those of `object`, read now if they have not been. `None` if the object is gone, or without memory.
    pub(crate) fn of(object: &LoadedObject) -> Option<&'static Self> {
        let fingerprint = object.fingerprint;
        let home = fingerprint >> 32;
        let places = (home..home.wrapping_add(PROBES)).map(|index| index & (FILES - 1));
        for place in places.filter_map(|index| TABLES.get(index)) {
            match published(place) {
                Some(tables) if tables.fingerprint == fingerprint => return Some(tables),
                Some(_) => {}
                None => {
                    return signal::uninterrupted(|| Self::make(object, fingerprint, place));
                }
            }
        }
        None
    }

    #[cold]
    #[inline(never)]
    fn make(
        object: &LoadedObject,
        fingerprint: usize,
        place: &AtomicPtr<Self>,
    ) -> Option<&'static Self> {
        let (arena, tables) = Self::read(object, fingerprint)?;
        let own = ptr::from_ref(tables).cast_mut();
        let raced = place.compare_exchange(ptr::null_mut(), own, Release, Acquire);
        if raced.is_ok() {
            return Some(tables);
        }
        // SAFETY: nobody else has seen it.
        unsafe { arena.give_back() };
        published(place).filter(|tables| tables.fingerprint == fingerprint)
    }

    fn read(object: &LoadedObject, fingerprint: usize) -> Option<(Arena, &'static Self)> {
        let of_file = |file: &File| {
            let is_same = Headers::of_file(file)?.summary(|_| true)?.fingerprint == fingerprint;
            let parts = Parts::of_file(file).filter(|_| is_same)?;
            parts.read(Access::File(file.number()), fingerprint)
        };
        let access = object.headers.access();
        let of_memory = || Parts::of_memory(object, access)?.read(access, fingerprint);
        object.with_file(of_file).or_else(of_memory)
    }

    /// The name of the section that contains `address`, an address in the file.
    pub(crate) fn section(&self, address: usize) -> Option<Mapped> {
        let mut sections = self.sections.iter();
        let section = sections.find(|section| section.contains(address))?;
        string(self.section_names, section.name)
    }

    /// The symbol that contains `address`, an address in the file, and its name.
    pub(crate) fn symbol(&self, address: usize) -> Option<(&'static Symbol, Mapped)> {
        let reaches = |section: u16| {
            let section = self.sections.get(usize::from(section));
            section.is_some_and(|section| section.contains(address))
        };
        let symbol = symbols::containing(self.symbols, address, reaches)?;
        Some((symbol, string(self.names, symbol.name)?))
    }
}

/// What is published at `place`.
fn published(place: &AtomicPtr<Tables>) -> Option<&'static Tables> {
    // SAFETY: null, or what `make` has published, which stays.
    unsafe { place.load(Acquire).as_ref() }
}

/// The string at `offset` of a table of strings.
fn string(table: &'static [u8], offset: u32) -> Option<Mapped> {
    let first = table.get(offset as usize)?;
    // SAFETY: the table ends with a NUL and stays.
    Some(unsafe { Mapped::new(ptr::from_ref(first).expose_provenance()) })
}

/// Where an object's tables are: an offset in its file or an address, and a number of values.
#[derive(Clone, Copy, Default)]
pub(super) struct Part {
    pub(super) at: usize,
    pub(super) count: usize,
}

#[derive(Default)]
pub(super) struct Parts {
    sections: Part,
    section_names: Part,
    pub(super) symbols: Part,
    pub(super) names: Part,
}

impl Parts {
    fn of_file(file: &File) -> Option<Self> {
        let size = file.regular_size()?;
        Self::of_contents(Access::File(file.number()), 0, size, true)
    }

    /// Those of a file of `size` bytes that begins at `begin`; with the dynamic symbols, if they may be and if there
    /// are no others.
    pub(super) fn of_contents(
        access: Access,
        begin: usize,
        size: usize,
        may_be_dynamic: bool,
    ) -> Option<Self> {
        // e_shoff; e_phnum, e_shentsize, e_shnum, e_shstrndx.
        let [_, _, _, _, _, at, _, counts] = access.words(begin)?;
        let (count, names) = (counts >> 32 & 0xffff, counts >> 48);
        let end = at.checked_add(count.wrapping_mul(size_of::<Section>()))?;
        if end > size {
            return None;
        }
        let at = begin.wrapping_add(at);
        let section = |index: usize| {
            let mut section = [Section::default()];
            let at = at.wrapping_add(index.wrapping_mul(size_of::<Section>()));
            let [mut section] =
                (index < count && access.fill(at, &mut section)).then_some(section)?;
            let is_inside = section.offset.checked_add(section.size)? <= size;
            section.offset = section.offset.wrapping_add(begin);
            is_inside.then_some(section)
        };
        let of_kind = |kind| {
            (0..count)
                .filter_map(section)
                .find(|section| section.kind == kind)
        };
        let strings = |index| {
            let section = section(index)?;
            Some(Part {
                at: section.offset,
                count: section.size,
            })
        };
        let symbols =
            of_kind(SHT_SYMTAB).or_else(|| may_be_dynamic.then(|| of_kind(SHT_DYNSYM)).flatten());
        let section_names = strings(names)?;
        Some(Self {
            sections: Part { at, count },
            section_names,
            symbols: symbols.map_or(Part::default(), |section| Part {
                at: section.offset,
                count: section.size / size_of::<Symbol>(),
            }),
            names: symbols
                .and_then(|section| strings(section.link as usize))
                .unwrap_or_default(),
        })
    }

    pub(super) fn of_memory(object: &LoadedObject, access: Access) -> Option<Self> {
        let dynamic = Dynamic::of(object.object, access);
        let Some(dynamic) = dynamic else {
            return Some(Self::default());
        };
        Some(Self {
            symbols: Part {
                at: dynamic.symbols,
                count: dynamic.count,
            },
            names: Part {
                at: dynamic.names,
                count: dynamic.names_size,
            },
            ..Self::default()
        })
    }

    /// Reads all parts into memory of the runtime's own.
    fn read(&self, access: Access, fingerprint: usize) -> Option<(Arena, &'static Tables)> {
        let mut arena = Arena::of(self.room()?)?;
        let tables = self.read_into(&mut arena, access, fingerprint);
        if tables.is_none() {
            // SAFETY: nothing of it has got out.
            unsafe { arena.give_back() };
            return None;
        }
        Some((arena, tables?))
    }

    fn room(&self) -> Option<usize> {
        let rooms = [
            Arena::room::<Tables>(1)?,
            Arena::room::<Section>(self.sections.count)?,
            Arena::room::<u8>(self.section_names.count)?,
            Arena::room::<Symbol>(self.symbols.count)?,
            Arena::room::<u8>(self.names.count)?,
        ];
        let sum = |sum: usize, room| sum.checked_add(room);
        rooms
            .into_iter()
            .try_fold(0, sum)
            .filter(|size| *size <= LARGEST)
    }

    fn read_into(
        &self,
        arena: &mut Arena,
        access: Access,
        fingerprint: usize,
    ) -> Option<&'static Tables> {
        let sections = self.sections.values(arena, access)?;
        let section_names = self.section_names.strings(arena, access)?;
        let symbols = self.symbols.values(arena, access)?;
        let names = self.names.strings(arena, access)?;
        arena.keep(Tables {
            fingerprint,
            sections,
            section_names,
            symbols: symbols::sorted(symbols, names),
            names,
        })
    }
}

impl Part {
    fn values<T: Plain>(&self, arena: &mut Arena, access: Access) -> Option<&'static mut [T]> {
        let values = arena.slice(self.count)?;
        access.fill(self.at, values).then_some(values)
    }

    /// Bytes that end with a NUL, whatever was there.
    fn strings(&self, arena: &mut Arena, access: Access) -> Option<&'static [u8]> {
        let strings = self.values::<u8>(arena, access)?;
        if let Some(last) = strings.last_mut() {
            *last = 0;
        }
        Some(strings)
    }
}
