//! All functions that an object names: those of its dynamic symbols, and those of the symbol table in its
//! file if it was not stripped.

use crate::file::dynamic::Dynamic;
use crate::file::{self, LoadedObject};
use crate::memory::{Access, Mapped};
use crate::object::Object;
use crate::sys::{self, File};

const DT_STRTAB: usize = 5;
const DT_SONAME: usize = 14;
const STT_FUNC: u8 = 2;
const SHN_UNDEF: u16 = 0;
const SHT_SYMTAB: u32 = 2;
/// Sizes of a symbol and of a section header.
const SYMBOL: usize = 24;
const SECTION: usize = 64;
/// How much of a file is compared with memory: ELF header, program headers, build-id.
const COMPARED: usize = 1024;

/// A function's.
#[derive(Clone, Copy)]
pub(crate) struct Symbol {
    pub(crate) name: Mapped,
    /// Where it is in memory.
    pub(crate) address: usize,
    pub(crate) size: usize,
}

/// The name that other objects ask for the library by.
pub(crate) fn soname(object: Object) -> Option<Mapped> {
    let value = |wanted| {
        let (_, value) = object.entries().find(|(tag, _)| *tag == wanted)?;
        Some(value)
    };
    let strings = object.table(value(DT_STRTAB)?);
    // SAFETY: a string among those of the dynamic table.
    Some(unsafe { Mapped::new(strings.wrapping_add(value(DT_SONAME)?)) })
}

/// Calls `see` for each function.
pub(crate) fn for_each(object: &LoadedObject, mut see: impl FnMut(Symbol)) {
    let base = object.object.base;
    // A symbol may also be a number that is no address.
    let mut seen = |symbol: Symbol| {
        let inside = symbol.address.checked_add(symbol.size);
        if symbol.address >= object.begin && inside.is_some_and(|end| end <= object.end) {
            see(symbol);
        }
    };
    // The code that was called from is there, so all of the object is.
    if let Some(tables) = Dynamic::of(object.object, Access::Direct) {
        // SAFETY: this is where the object's tables are.
        let [symbols, names] = [tables.symbols, tables.names].map(|at| unsafe { Mapped::new(at) });
        let count = u32::try_from(tables.count).unwrap_or_default();
        functions(symbols, count, names, base, tables.names_size).for_each(&mut seen);
    }
    let path = object.path.or_else(file::executable_path);
    let Some(file) = path.and_then(File::open_string) else {
        return;
    };
    let mapped = file.map();
    file.close();
    let Some((contents, size)) = mapped else {
        return;
    };
    // SAFETY: this is where the object's first page lies, with its ELF header.
    let memory = unsafe { Mapped::new(object.begin) };
    if size >= COMPARED
        && (0..COMPARED)
            .step_by(8)
            .all(|at| contents.add(at).word() == memory.add(at).word())
    {
        symbol_table(contents, size, base, &mut seen);
    }
    // SAFETY: names were looked at, and not kept.
    unsafe { sys::unmap(contents.address(), size) };
}

/// The functions among the symbols. Names lie in the `limit` bytes behind `strings`.
fn functions(
    symbols: Mapped,
    count: u32,
    strings: Mapped,
    base: usize,
    limit: usize,
) -> impl Iterator<Item = Symbol> {
    (0..count).filter_map(move |index| {
        // st_name, st_info, st_other, st_shndx; st_value; st_size.
        let symbol = symbols.nth(index, SYMBOL);
        let [n0, n1, n2, n3, info, _, s0, s1] = symbol.word().to_le_bytes();
        let name = u32::from_le_bytes([n0, n1, n2, n3]) as usize;
        let defined = u16::from_le_bytes([s0, s1]) != SHN_UNDEF;
        (info & 15 == STT_FUNC && defined && name < limit).then(|| Symbol {
            name: strings.add(name),
            address: base.wrapping_add(symbol.add(8).word()),
            size: symbol.add(16).word(),
        })
    })
}

/// Calls `seen` for each function of the symbol table of the file at `contents`.
fn symbol_table(
    contents: Mapped,
    size: usize,
    base: usize,
    seen: impl FnMut(Symbol),
) -> Option<()> {
    // e_shoff, e_shnum.
    let sections = contents.add(40).word();
    let count = contents.add(60).u16();
    let fits =
        |offset: usize, length: usize| offset.checked_add(length).is_some_and(|end| end <= size);
    if !fits(sections, usize::from(count).wrapping_mul(SECTION)) {
        return None;
    }
    // sh_type, sh_offset, sh_size, sh_link.
    let section = |index: u32| contents.add(sections).nth(index, SECTION);
    let place = |section: Mapped| {
        let (offset, length) = (section.add(24).word(), section.add(32).word());
        fits(offset, length).then(|| (contents.add(offset), length))
    };
    let symbols = (0..u32::from(count))
        .map(section)
        .find(|section| section.add(4).u32() == SHT_SYMTAB)?;
    let linked = Some(symbols.add(40).u32()).filter(|index| *index < u32::from(count))?;
    let (strings, limit) = place(section(linked))?;
    let (symbols, length) = place(symbols)?;
    // The last name has an end.
    (strings.add(limit.checked_sub(1)?).byte() == 0).then_some(())?;
    let count = u32::try_from(length / SYMBOL).ok()?;
    functions(symbols, count, strings, base, limit).for_each(seen);
    Some(())
}
