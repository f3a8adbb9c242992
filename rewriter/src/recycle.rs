//! What the C runtime's start files left unused in nearly every executable.
//!
//! crt1.o and crtbegin.o refer weakly to functions that nobody defines: `__gmon_start__` (only
//! gcrt1.o of `-pg` defines it) and the two functions of libitm. Each leaves a dynamic symbol, its
//! name, and one relocation whose GOT slot stays 0. Where that is still so, the three can serve
//! for what a rewrite adds; this module finds out where it is so. The GOT slot keeps its 0, which
//! is what the start files test for.

use object::elf::{DT_AUXILIARY, DT_FILTER, DT_NEEDED, DT_RPATH, DT_RUNPATH, DT_SONAME, STB_WEAK};

use crate::elf::{Entry, FileOffset, GnuHash, Rela, Symbol, Vaddr, overlap};
use crate::error::Result;
use crate::parse::{Image, Table};
use crate::source::Source;

const SYMBOLS: &str = "the dynamic symbol table";

/// A weak undefined symbol that resolves nowhere.
#[derive(Clone, Debug)]
pub(crate) struct DeadSymbol {
    pub(crate) index: u32,
    pub(crate) symbol: Symbol,
    pub(crate) name: &'static str,
    /// Index in .rela.dyn of its only relocation, where there is exactly one and it fills a GOT
    /// slot that holds 0.
    pub(crate) relocation: Option<u64>,
    /// True if no other string, symbol or version uses the bytes of its name.
    pub(crate) owns_name: bool,
}

/// What one pass over the symbols and relocations found.
#[derive(Debug, Default)]
pub(crate) struct Findings {
    pub(crate) dead: Vec<DeadSymbol>,
    /// Relocations of the preinit array's entries, with their index in .rela.dyn.
    pub(crate) preinit: Vec<(u64, Rela)>,
    /// Symbols that R_*_COPY relocations bring in: addresses and sizes.
    pub(crate) copies: Vec<(Vaddr, u64)>,
}

/// The names, in the order in which they are used: the longest first, so that the init symbol's
/// name leaves room for another behind it.
pub(crate) const NAMES: [&str; 3] = [
    "_ITM_deregisterTMCloneTable",
    "_ITM_registerTMCloneTable",
    "__gmon_start__",
];

/// Looks through symbols and relocations once.
pub(crate) fn find(source: &Source, image: &Image) -> Result<Findings> {
    let mut findings = Findings {
        dead: find_dead_symbols(source, image)?,
        ..Findings::default()
    };
    find_relocations(source, image, &mut findings)?;
    Ok(findings)
}

fn find_dead_symbols(source: &Source, image: &Image) -> Result<Vec<DeadSymbol>> {
    let mut dead = Vec::new();
    for_each_weak_undefined(source, image, |index, symbol| {
        if let Some(name) = image.which(source, u64::from(symbol.name), &NAMES)?
            && !is_versioned(source, image, index)?
        {
            dead.push(DeadSymbol {
                index,
                symbol,
                name,
                relocation: None,
                owns_name: begins_a_string(source, image, &symbol)?,
            });
        }
        Ok(())
    })?;
    if needs_libitm(source, image)? {
        dead.retain(|symbol| !symbol.name.starts_with("_ITM_"));
    }
    if !dead.is_empty() {
        find_shared_names(source, image, &mut dead)?;
    }
    let rank = |name: &str| NAMES.iter().position(|&other| other == name);
    dead.sort_by_key(|symbol| (rank(symbol.name), symbol.index));
    Ok(dead)
}

/// Calls `visit` with number and symbol, for each that resolves nowhere without being missed. Only defined ones are in
/// DT_GNU_HASH, which are behind all others.
pub(crate) fn for_each_weak_undefined(
    source: &Source,
    image: &Image,
    mut visit: impl FnMut(u32, Symbol) -> Result<()>,
) -> Result<()> {
    let mut count = image.symbol_count();
    if let Some(hash) = image.gnu_hash {
        let head = source.bytes(hash.at, GnuHash::HEAD, "the DT_GNU_HASH table")?;
        let head = GnuHash::new(&head, image.format);
        // A table of none says nothing of where they would begin.
        let head = head.filter(|head| hash.size > head.chains_at());
        count = count.min(head.map_or(count, |head| head.first().into()));
    }
    source.for_each(image.symtab.at, count, SYMBOLS, |index, symbol| {
        let index = u32::try_from(index);
        let index = index.map_err(|_| source.malformed("it has too many symbols"))?;
        match is_weak_undefined(&symbol) {
            true => visit(index, symbol),
            false => Ok(()),
        }
    })
}

/// True if the symbol's name is not the tail of a longer string, as linkers merge them.
fn begins_a_string(source: &Source, image: &Image, symbol: &Symbol) -> Result<bool> {
    let Some(before) = u64::from(symbol.name).checked_sub(1) else {
        return Ok(false);
    };
    let at = FileOffset(image.strtab.at.0 + before);
    Ok(source.bytes(at, 1, "the dynamic string table")? == [0])
}

/// Takes note of the names whose bytes serve for another string too.
fn find_shared_names(source: &Source, image: &Image, dead: &mut [DeadSymbol]) -> Result<()> {
    let uses_bytes = |symbol: &DeadSymbol, offset: u64| {
        overlap(
            u64::from(symbol.symbol.name),
            symbol.name.len() as u64 + 1,
            offset,
            1,
        )
    };
    let others = other_string_users(source, image)?;
    let of_sections = strings_read_by_sections(image);
    for symbol in dead.iter_mut() {
        let shared = of_sections || others.iter().any(|&offset| uses_bytes(symbol, offset));
        symbol.owns_name &= !shared;
    }
    let count = image.symbol_count();
    source.for_each_symbol_name(image.symtab.at, count, SYMBOLS, |index, other| {
        for symbol in dead.iter_mut() {
            if u64::from(symbol.index) != index && uses_bytes(symbol, u64::from(other)) {
                symbol.owns_name = false;
            }
        }
        Ok(())
    })
}

/// Offsets of all strings that .dynamic and the version tables use.
fn other_string_users(source: &Source, image: &Image) -> Result<Vec<u64>> {
    let tags = [
        DT_NEEDED,
        DT_SONAME,
        DT_RPATH,
        DT_RUNPATH,
        DT_AUXILIARY,
        DT_FILTER,
        object::elf::DT_AUDIT,
        object::elf::DT_DEPAUDIT,
        object::elf::DT_CONFIG,
    ];
    let entries = image.dynamic.entries.iter();
    let mut offsets: Vec<u64> = entries
        .filter(|entry| tags.contains(&entry.tag))
        .map(|entry| entry.value)
        .collect();
    crate::versions::for_each_name(source, &image.segments, &image.dynamic, |name| {
        offsets.push(name.offset);
    })?;
    Ok(offsets)
}

/// True if the section header table uses bytes of .dynstr for section or other symbol names.
fn strings_read_by_sections(image: &Image) -> bool {
    let strtab = |section: &crate::elf::Section| {
        overlap(
            section.offset.0,
            section.file_size(),
            image.strtab.at.0,
            image.strtab.size,
        )
    };
    let of_symbols = image
        .sections
        .iter()
        .filter(|section| section.kind == object::elf::SHT_SYMTAB)
        .filter_map(|section| image.sections.get(usize::try_from(section.link).ok()?));
    image
        .section_names()
        .map(|(_, names)| names)
        .into_iter()
        .chain(of_symbols)
        .any(strtab)
}

fn is_weak_undefined(symbol: &Symbol) -> bool {
    symbol.is_undefined() && symbol.value == 0 && symbol.info.st_bind() == STB_WEAK
}

/// True if the executable itself uses transactional memory, which is what libitm is for.
fn needs_libitm(source: &Source, image: &Image) -> Result<bool> {
    for needed in image.needed(source)? {
        if needed.starts_with(b"libitm.so") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Version indices 0 and 1 mean "no version" (glibc elf/dl-lookup.c, `check_match`).
fn is_versioned(source: &Source, image: &Image, index: u32) -> Result<bool> {
    let Some(versym) = image.versym else {
        return Ok(false);
    };
    let at = FileOffset(versym.at.0 + 2 * u64::from(index));
    let bytes = source.bytes(at, 2, "the symbol version table")?;
    Ok(!matches!(image.format.half(&bytes), Some(0 | 1)))
}

/// Number of relocations at the table's beginning that need not be looked at. With a preinit array all are, for those of
/// its entries may be among them; and for musl, which does not count.
fn skipped(image: &Image) -> u64 {
    match (image.preinit, image.musl) {
        (None, false) => image.dynamic.relative_count(image.format, image.rela),
        _ => 0,
    }
}

fn find_relocations(source: &Source, image: &Image, findings: &mut Findings) -> Result<()> {
    let symbols = image.symbol_count();
    let mut uses: Vec<Vec<(Option<u64>, Rela)>> = vec![Vec::new(); findings.dead.len()];
    let mut copies = Vec::new();
    let mut preinit = Vec::new();
    let relative = skipped(image);
    for (table, plt) in [(image.rela, false), (image.jmprel, true)] {
        let Some(table) = table else { continue };
        let skip = if plt { 0 } else { relative };
        source.for_each(
            FileOffset(table.at.0 + Rela::size(image.format) * skip),
            table.size / Rela::size(image.format) - skip,
            "a relocation table",
            |index, rela: Rela| {
                let index = index + skip;
                if u64::from(rela.symbol) >= symbols {
                    return Err(source.malformed("a relocation names a symbol that does not exist"));
                }
                let index = (!plt).then_some(index);
                for (dead, uses) in findings.dead.iter().zip(&mut uses) {
                    if rela.symbol == dead.index {
                        uses.push((index, rela));
                    }
                }
                let in_preinit = |array: Table| {
                    overlap(array.vaddr.0, array.size, rela.place.0, image.format.word())
                };
                if let (Some(index), true) = (index, image.preinit.is_some_and(in_preinit)) {
                    preinit.push((index, rela));
                }
                if rela.kind == image.format.relocations.copy {
                    copies.push((rela.place, rela.symbol));
                }
                Ok(())
            },
        )?;
    }
    let types = image.format.relocations;
    let counted_relative = image.dynamic.relative_count(image.format, image.rela);
    for (dead, uses) in findings.dead.iter_mut().zip(&uses) {
        if let [(Some(index), rela)] = uses[..] {
            let fills_slot =
                index >= counted_relative && [types.glob_dat, types.symbolic].contains(&rela.kind);
            if fills_slot && rela.addend == 0 && slot_is_zero(source, image, rela.place)? {
                dead.relocation = Some(index);
            }
        }
    }
    findings.preinit = preinit;
    for (place, symbol) in copies {
        let symbol = image.symbol(source, symbol)?;
        let size = symbol.map_or(0, |symbol| symbol.size);
        findings.copies.push((place, size));
    }
    Ok(())
}

/// True if the word at `place` is 0 before relocation, so that they stay 0 without it.
fn slot_is_zero(source: &Source, image: &Image, place: Vaddr) -> Result<bool> {
    match crate::parse::locate(&image.segments, place, image.format.word()) {
        Some(at) => Ok({
            let slot = source.bytes(at, image.format.word(), "a GOT slot")?;
            slot.iter().all(|&byte| byte == 0)
        }),
        None => Ok(false),
    }
}
