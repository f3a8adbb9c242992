//! All functions that an object names: those of its dynamic symbols in memory, and those of the symbol table in its
//! file if it was not stripped. The file is mapped meanwhile: names are looked at, and not kept.

use crate::elf::{SHN_UNDEF, SYMBOL};
use crate::file::tables::Parts;
use crate::file::{LoadedObject, Symbol};
use crate::memory::{Access, Mapped};
use crate::sandbox;
use crate::sys::{self, File, signal};

const STT_FUNC: u8 = 2;
/// How much of a file is compared with memory: ELF header, program headers, build-id.
const COMPARED: usize = 1024;

impl LoadedObject {
    /// Calls `see` for each function. Some are seen twice.
    pub(crate) fn for_each_function(&self, mut see: impl FnMut(Symbol)) {
        // A symbol may also be a number that is no address.
        let mut seen = |symbol: Symbol| {
            let inside = symbol.base.checked_add(symbol.size);
            if symbol.base >= self.begin && inside.is_some_and(|end| end <= self.end) {
                see(symbol);
            }
        };
        // The code that was called from is there, so all of the object is.
        if let Some(parts) = Parts::of_memory(self, Access::Direct) {
            parts.functions(self.object.base).for_each(&mut seen);
        }
        if !sandbox::is_entered() {
            signal::uninterrupted(|| self.for_each_in_file(seen));
        }
    }

    fn for_each_in_file(&self, seen: impl FnMut(Symbol)) {
        let Some(file) = self.path().and_then(File::open_string) else {
            return;
        };
        let mapped = file.map();
        file.close();
        let Some((contents, size)) = mapped else {
            return;
        };
        // SAFETY: this is where the object's first page lies, with its ELF header.
        let memory = unsafe { Mapped::new(self.begin) };
        let is_same = size >= COMPARED
            && (0..COMPARED)
                .step_by(8)
                .all(|at| contents.add(at).word() == memory.add(at).word());
        let parts =
            is_same.then(|| Parts::of_contents(Access::Direct, contents.address(), size, false));
        if let Some(parts) = parts.flatten() {
            parts.functions(self.object.base).for_each(seen);
        }
        // SAFETY: names were looked at, and not kept.
        unsafe { sys::unmap(contents.address(), size) };
    }
}

impl Parts {
    /// The functions among the symbols, which are in memory; what is added to their addresses is `base`.
    fn functions(&self, base: usize) -> impl Iterator<Item = Symbol> {
        // SAFETY: this is where the object or its file has the tables.
        let [symbols, names] =
            [self.symbols.at, self.names.at].map(|at| unsafe { Mapped::new(at) });
        // The last name has an end.
        let limit = self.names.count;
        let is_whole = limit != 0 && names.add(limit.wrapping_sub(1)).byte() == 0;
        let count = u32::try_from(self.symbols.count).unwrap_or_default();
        (0..if is_whole { count } else { 0 }).filter_map(move |index| {
            // st_name, st_info, st_other, st_shndx; st_value; st_size.
            let symbol = symbols.nth(index, SYMBOL);
            let [n0, n1, n2, n3, info, _, s0, s1] = symbol.word().to_le_bytes();
            let name = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
            let defined = u16::from_le_bytes([s0, s1]) != SHN_UNDEF;
            (info & 15 == STT_FUNC && defined && name < limit).then(|| Symbol {
                name: names.add(name),
                base: base.wrapping_add(symbol.add(8).word()),
                size: symbol.add(16).word(),
            })
        })
    }
}
