//! The loader's list of loaded objects, found with nothing initialised: program headers, then the
//! executable's DT_DEBUG, then `r_debug`, then the list.
//!
//! glibc fills DT_DEBUG in before it maps the first library and its list is complete before it
//! relocates the first object (elf/rtld.c, `dl_main`: `_dl_debug_initialize`,
//! `elf_setup_debug_entry`, `_dl_map_object_deps`, then the calls of `_dl_relocate_object`). musl
//! fills it in after relocation, before any constructor (ldso/dynlink.c, `__dls3`).
//!
//! The list may change while it is read: another thread calls dlopen or dlclose. Nothing is locked
//! (the loader's own lock is not for signal handlers) and nothing is remembered but how many objects
//! were there at the start: they are the first ones of the list and are never unloaded. An entry
//! behind them is read by the kernel, so that nothing faults if it is gone, and believed only if it
//! leads back to the entry that it was reached from, which freed memory does not. New objects are
//! whole when the loader adds them (elf/dl-load.c, `_dl_add_to_namespace_list`), at the end.

use core::mem;

use crate::auxv::Auxv;
use crate::memory::{Access, Mapped};
use crate::object::{MANY, Object};
use crate::symbol::Symbols;
use crate::sync::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::sys;

const DT_DEBUG: usize = 21;

/// `r_debug`, and what the auxiliary vector says, once that was found. It stays as it is, and to find
/// it again takes system calls.
#[unsafe(link_section = ".data")]
static DEBUG: AtomicUsize = AtomicUsize::new(0);
#[unsafe(link_section = ".data")]
static PHDR: AtomicUsize = AtomicUsize::new(0);
#[unsafe(link_section = ".data")]
static PHNUM: AtomicUsize = AtomicUsize::new(0);
#[unsafe(link_section = ".data")]
static LOADER: AtomicUsize = AtomicUsize::new(0);
#[unsafe(link_section = ".data")]
static PATH: AtomicUsize = AtomicUsize::new(0);

/// How many objects the list had when the program started. All of them, until that is known: what
/// comes before is the start.
#[unsafe(link_section = ".data")]
static AT_START: AtomicUsize = AtomicUsize::new(MANY);

/// How often an entry is read that does not lead back.
const TRIES: usize = 3;

/// The list of the loaded objects.
#[derive(Clone, Copy)]
pub(crate) struct LinkMap {
    debug: Mapped,
    auxv: Auxv,
}

/// One entry of the list.
#[derive(Clone, Copy)]
pub(crate) struct Entry {
    pub(crate) object: Object,
    /// The path by which the loader found it, a string; empty for the executable.
    pub(crate) path: usize,
    /// How its memory may be read.
    pub(crate) access: Access,
    /// Program headers and their number, where something else than its ELF header says so; else 0.
    pub(crate) headers: (usize, usize),
}

impl Entry {
    /// The path, if there is one.
    pub(crate) fn path(&self) -> Option<Mapped> {
        // The word with the string's first byte is in the same page.
        let [word] = self.access.words(self.path & !7)?;
        let first = word.to_le_bytes().get(self.path & 7).copied()?;
        // SAFETY: a string of the loader's, kept for as long as the object.
        (first != 0).then(|| unsafe { Mapped::new(self.path) })
    }
}

impl LinkMap {
    /// Finds the list. `None` if there is no trace of the loader.
    pub(crate) fn find() -> Option<Self> {
        Self::known().or_else(Self::look_for)
    }

    fn known() -> Option<Self> {
        let debug = Some(DEBUG.load(Acquire)).filter(|debug| *debug != 0)?;
        Some(Self {
            // SAFETY: this is where `look_for` found it.
            debug: unsafe { Mapped::new(debug) },
            auxv: Auxv {
                phdr: PHDR.load(Relaxed),
                phnum: PHNUM.load(Relaxed),
                loader: LOADER.load(Relaxed),
                path: PATH.load(Relaxed),
                ..Auxv::default()
            },
        })
    }

    #[cold]
    #[inline(never)]
    fn look_for() -> Option<Self> {
        let auxv = Auxv::find()?;
        let executable = (auxv.phdr != 0)
            // SAFETY: the kernel says that the program headers are there.
            .then(|| unsafe { Mapped::new(auxv.phdr) })
            .and_then(|phdr| Object::of_headers(phdr, auxv.phnum));
        let loader = (auxv.loader != 0)
            // SAFETY: the kernel says that the loader's ELF header is there.
            .then(|| unsafe { Mapped::new(auxv.loader) })
            .and_then(|header| {
                let phdr = header.add(header.add(32).word());
                Object::of_headers(phdr, usize::from(header.add(56).u16()))
            });
        let known_by =
            |object: Option<Object>| debug(object?).filter(|debug| first(*debug).is_some());
        let debug = known_by(executable).or_else(|| known_by(loader))?;
        PHDR.store(auxv.phdr, Relaxed);
        PHNUM.store(auxv.phnum, Relaxed);
        LOADER.store(auxv.loader, Relaxed);
        PATH.store(auxv.path, Relaxed);
        DEBUG.store(debug.address(), Release);
        Some(Self { debug, auxv })
    }

    /// The path that the program was executed by.
    pub(crate) fn executed(self) -> Option<Mapped> {
        // SAFETY: a string of the kernel's or the loader's, on the initial stack.
        let path = || unsafe { Mapped::new(self.auxv.path) };
        (self.auxv.path != 0).then(path)
    }

    /// Whether the loader was executed, with the program as an argument.
    pub(crate) fn is_loader_executed(self) -> bool {
        self.auxv.loader == 0
    }

    /// Notes how much of the list stays: all of it if this is the start of the program, else (the
    /// runtime may have come in by dlopen) nothing is sure to. `Access::Direct` begins to mean that
    /// the object's ELF header can be read, too.
    pub(crate) fn note(self, is_start: bool) {
        let has_header =
            |entry: &Entry| entry.headers.0 != 0 || sys::is_readable(entry.object.base);
        let stays = self.entries().take_while(has_header).count();
        AT_START.store(if is_start { stays } else { 0 }, Relaxed);
    }

    /// The objects in load order, the executable first. It is the order of the global scope.
    pub(crate) fn objects(self) -> impl Iterator<Item = Object> {
        self.entries().map(|entry| entry.object)
    }

    fn entries(self) -> Entries {
        Entries {
            at: first(self.debug).unwrap_or(0),
            last: 0,
            last_but_one: 0,
            left: MANY,
            stay: AT_START.load(Relaxed),
            headers: (self.auxv.phdr, self.auxv.phnum),
            namespace: None,
        }
    }

    /// Their entries, then those of the lists that dlmopen made, but for objects that are in the first list,
    /// too: the loader is in each.
    pub(crate) fn all_entries(self) -> Entries {
        Entries {
            namespace: Some(self.debug),
            ..self.entries()
        }
    }
}

/// The first entry of the list of `debug`, a `struct r_debug`: r_version, r_map, r_brk, r_state, r_ldbase.
fn first(debug: Mapped) -> Option<usize> {
    Some(debug.add(8).word()).filter(|map| *map != 0)
}

/// Goes through a list, or through all.
#[derive(Clone, Copy)]
pub(crate) struct Entries {
    at: usize,
    last: usize,
    last_but_one: usize,
    /// A bound, and how many of the next entries are never unloaded.
    left: usize,
    stay: usize,
    /// The executable's program headers, ahead of the first entry.
    headers: (usize, usize),
    /// The list's `r_debug`, if another one may follow.
    namespace: Option<Mapped>,
}

impl Entries {
    /// Of no list.
    pub(crate) const NONE: Self = Self {
        at: 0,
        last: 0,
        last_but_one: 0,
        left: 0,
        stay: 0,
        headers: (0, 0),
        namespace: None,
    };

    /// The next entry of this list.
    fn in_list(&mut self) -> Option<Entry> {
        self.left = self.left.checked_sub(1)?;
        let access = if self.stay == 0 {
            Access::Loaded
        } else {
            Access::Direct
        };
        self.stay = self.stay.saturating_sub(1);
        let [base, path, dynamic, next, _] = self.read(access)?;
        (self.last_but_one, self.last, self.at) = (self.last, self.at, next);
        let headers = mem::take(&mut self.headers);
        // SAFETY: l_ld is the address of the object's dynamic table.
        let dynamic = unsafe { Mapped::new(dynamic) };
        Some(Entry {
            object: Object { base, dynamic },
            path,
            access,
            headers,
        })
    }

    /// `struct link_map`: l_addr, l_name, l_ld, l_next, l_prev. musl's `struct dso` begins alike.
    fn read(&self, access: Access) -> Option<[usize; 5]> {
        // Another thread may be about to set `l_prev`, or have taken the last entry out meanwhile.
        for _ in 0..TRIES {
            let entry = Some(self.at).filter(|at| *at != 0)?;
            let entry: [usize; 5] = access.words(entry)?;
            if entry[4] == self.last || entry[4] == self.last_but_one {
                return Some(entry);
            }
        }
        None
    }

    /// Goes on to the next list: from glibc 2.35 on, version 2 says that `r_debug` goes on with the address of
    /// the next one, in an array that is never given back.
    fn next_list(&mut self) -> Option<()> {
        let namespace = self.namespace.filter(|debug| debug.u32() >= 2)?;
        let next = Some(namespace.add(40).word()).filter(|next| *next != 0)?;
        // SAFETY: the loader's, as just said.
        let next = unsafe { Mapped::new(next) };
        *self = Self {
            at: first(next).unwrap_or(0),
            last: 0,
            last_but_one: 0,
            left: MANY,
            namespace: Some(next),
            ..Self::NONE
        };
        Some(())
    }

    /// Whether the object is in the first list.
    fn is_in_first(object: Object) -> bool {
        LinkMap::known().is_some_and(|map| map.objects().any(|other| other == object))
    }
}

impl Iterator for Entries {
    type Item = Entry;

    #[inline(never)]
    fn next(&mut self) -> Option<Entry> {
        let is_first = |entries: &Self| {
            entries
                .namespace
                .is_none_or(|debug| debug.address() == DEBUG.load(Relaxed))
        };
        loop {
            match self.in_list() {
                Some(entry) if entry.object.dynamic.address() == 0 => {}
                Some(entry) if is_first(self) || !Self::is_in_first(entry.object) => {
                    return Some(entry);
                }
                Some(_) => {}
                None => self.next_list()?,
            }
        }
    }
}

/// The loader's `r_debug` as `object` knows it: as the value of DT_DEBUG, if it is the
/// executable, or by a symbol, if it is the loader: glibc's is the structure, musl's leads to it.
fn debug(object: Object) -> Option<Mapped> {
    let noted = object
        .entries()
        .find(|(tag, _)| *tag == DT_DEBUG)
        .map(|(_, value)| value);
    let defined = || {
        let symbols = Symbols::of(object)?;
        let pointer = || {
            let symbol = symbols.find(b"_dl_debug_addr")?;
            // SAFETY: a pointer variable of the loader's.
            Some(unsafe { Mapped::new(symbol.address) }.word()).filter(|at| *at != 0)
        };
        let structure = symbols.find(b"_r_debug").map(|symbol| symbol.address);
        structure.or_else(pointer)
    };
    let address = noted.filter(|value| *value != 0).or_else(defined)?;
    // SAFETY: this is where the loader keeps its `r_debug`.
    Some(unsafe { Mapped::new(address) })
}
