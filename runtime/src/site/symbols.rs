//! All functions that an object names: those of its dynamic symbols, and those of the symbol table in its
//! file if it was not stripped.

use crate::file::{self, LoadedObject};
use crate::memory::Mapped;
use crate::object::Object;
use crate::sys::{self, File};

const DT_HASH: usize = 4;
const DT_STRTAB: usize = 5;
const DT_SYMTAB: usize = 6;
const DT_SONAME: usize = 14;
const DT_GNU_HASH: usize = 0x6fff_fef5;
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
    let (_, name) = object.entries().find(|(tag, _)| *tag == DT_SONAME)?;
    Some(table(object, DT_STRTAB)?.add(name))
}

/// Calls `seen` for each function.
pub(crate) fn for_each(object: &LoadedObject, mut seen: impl FnMut(Symbol)) {
    let base = object.object.base;
    if let Some((symbols, count, strings)) = dynamic_symbols(object.object) {
        functions(symbols, count, strings, base, usize::MAX).for_each(&mut seen);
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

fn table(object: Object, wanted: usize) -> Option<Mapped> {
    let (_, value) = object.entries().find(|(tag, _)| *tag == wanted)?;
    // Without the base in read-only tables and with musl; it is smaller than the base then.
    let address = if value < object.base {
        value.wrapping_add(object.base)
    } else {
        value
    };
    // SAFETY: the dynamic table says where this table is.
    Some(unsafe { Mapped::new(address) })
}

/// The dynamic symbols, their number and their names.
fn dynamic_symbols(object: Object) -> Option<(Mapped, u32, Mapped)> {
    let symbols = table(object, DT_SYMTAB)?;
    let count = match (table(object, DT_HASH), table(object, DT_GNU_HASH)) {
        (Some(hash), _) => hash.add(4).u32(),
        (None, Some(hash)) => count_of_gnu_hash(hash),
        (None, None) => return None,
    };
    Some((symbols, count, table(object, DT_STRTAB)?))
}

/// One more than the largest index: the end of the chain that begins with the highest one.
fn count_of_gnu_hash(table: Mapped) -> u32 {
    let (buckets, first_hashed, filter_words) =
        (table.u32(), table.add(4).u32(), table.add(8).u32());
    let bucket = table.add(16).nth(filter_words, 8);
    let chain = bucket.nth(buckets, 4);
    let highest = (0..buckets)
        .map(|index| bucket.nth(index, 4).u32())
        .max()
        .unwrap_or(0);
    let Some(in_chain) = highest.checked_sub(first_hashed) else {
        return first_hashed;
    };
    let last = (in_chain..).find(|index| chain.nth(*index, 4).u32() & 1 == 1);
    last.unwrap_or(in_chain)
        .wrapping_add(first_hashed)
        .wrapping_add(1)
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
