//! The loader's list of loaded objects, found with nothing initialised: program headers, then the
//! executable's DT_DEBUG, then `r_debug`, then the list.
//!
//! glibc fills DT_DEBUG in before it maps the first library and its list is complete before it
//! relocates the first object (elf/rtld.c, `dl_main`: `_dl_debug_initialize`,
//! `elf_setup_debug_entry`, `_dl_map_object_deps`, then the calls of `_dl_relocate_object`). musl
//! fills it in after relocation, before any constructor (ldso/dynlink.c, `__dls3`).

use core::iter;

use crate::auxv::{Auxv, InitialStack};
use crate::memory::Mapped;
use crate::object::{MANY, Object};
use crate::symbol::Symbols;

const DT_DEBUG: usize = 21;

/// The list of the loaded objects.
#[derive(Clone, Copy)]
pub(crate) struct LinkMap {
    first: Mapped,
}

impl LinkMap {
    /// Finds the list. `None` if there is no trace of the loader.
    pub(crate) fn find() -> Option<Self> {
        let auxv = InitialStack::find()
            .map(|stack| stack.auxv())
            .or_else(Auxv::of_kernel)?;
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
        let known_by = |object: Option<Object>| {
            let debug = debug(object?)?;
            // `struct r_debug`: r_version, r_map.
            let first = Some(debug.add(8).word()).filter(|map| *map != 0)?;
            // SAFETY: the loader keeps the list's first entry there.
            Some(unsafe { Mapped::new(first) })
        };
        let first = known_by(executable).or_else(|| known_by(loader))?;
        Some(Self { first })
    }

    /// The objects in load order, the executable first.
    pub(crate) fn objects(self) -> impl Iterator<Item = Object> {
        let mut next = self.first.address();
        iter::from_fn(move || {
            // SAFETY: the list's pointers lead to its entries, which live as long as the objects do.
            let entry = Some(next)
                .filter(|at| *at != 0)
                .map(|at| unsafe { Mapped::new(at) })?;
            // `struct link_map`: l_addr, l_name, l_ld, l_next. musl's `struct dso` begins alike.
            next = entry.add(24).word();
            // SAFETY: l_ld is the address of the object's dynamic table.
            let dynamic = unsafe { Mapped::new(entry.add(16).word()) };
            Some(Object {
                base: entry.word(),
                dynamic,
            })
        })
        .take(MANY)
        .filter(|object| object.dynamic.address() != 0)
    }

    /// Those behind the runtime. Load order is the order of the global scope.
    pub(crate) fn behind(self) -> impl Iterator<Item = Object> {
        self.objects()
            .skip_while(|object| !object.is_runtime())
            .skip(1)
    }

    /// Those ahead of the runtime.
    pub(crate) fn ahead(self) -> impl Iterator<Item = Object> {
        self.objects().take_while(|object| !object.is_runtime())
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
