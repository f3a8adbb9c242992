//! The functions that an executable defines, by name: from .dynsym, and from .symtab where there is one.

use std::collections::HashMap;

use memchr::memmem::Finder;
use object::elf::{
    PF_X, SHT_SYMTAB, STB_LOCAL, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE, STT_OBJECT, STT_TLS,
    SymbolBind,
};

use super::names::{Scheme, Sign};
use crate::elf::{Entry, FileOffset, GnuHash, PAGE, Symbol, Vaddr};
use crate::error::Result;
use crate::parse::{Image, Table};
use crate::source::Source;

const WHAT: &str = "a symbol table";

/// So many strings that end like a name are taken for one.
const MOST_NAMES: usize = 64;
/// A power of two.
const LOWEST: usize = 4096;

/// A function, by one of its names.
#[derive(Clone, Debug)]
pub(super) struct Function {
    pub(super) name: String,
    pub(super) start: Vaddr,
    pub(super) size: u64,
    /// In .dynsym.
    pub(super) exported: bool,
    local: bool,
    pub(super) ifunc: bool,
}

/// What the symbol tables say.
#[derive(Debug, Default)]
pub(super) struct Symbols {
    /// Those that have a name of one of the schemes.
    pub(super) functions: Vec<Function>,
    /// Addresses of everything in code that has a name, in order.
    pub(super) starts: Vec<u64>,
}

impl Symbols {
    /// Reads the tables, if one of them defines a name of one of `schemes`: most programs have none that does.
    pub(super) fn read(source: &Source, image: &Image, schemes: &[Scheme]) -> Result<Self> {
        let mut symbols = Self::default();
        let tables = tables(image);
        let signs: Vec<Sign<'_>> = schemes.iter().flat_map(Scheme::signs).collect();
        let found = (tables.iter()).try_fold(false, |found, &(strings, table, exported)| {
            let hash = image.gnu_hash.filter(|_| exported);
            Ok(found || defines(source, strings, table, hash, &signs)?)
        })?;
        if !found {
            return Ok(symbols);
        }
        for (strings, table, exported) in tables {
            symbols.read_table(source, image, schemes, strings, table, exported)?;
        }
        symbols.starts.sort_unstable();
        symbols.starts.dedup();
        Ok(symbols)
    }

    fn read_table(
        &mut self,
        source: &Source,
        image: &Image,
        schemes: &[Scheme],
        strings: Table,
        table: Table,
        exported: bool,
    ) -> Result<()> {
        let names = source.bytes(strings.at, strings.size, "a string table")?;
        let mut of_offset: HashMap<u32, bool> = HashMap::new();
        let count = table.size / Symbol::size(image.format);
        source.for_each(table.at, count, WHAT, |_, symbol: Symbol| {
            let kind = symbol.info.st_type();
            let code = image.loads().any(|(_, load)| {
                load.flags.0 & PF_X.0 != 0 && load.locate(Vaddr(symbol.value), 1).is_some()
            });
            let data = [STT_OBJECT, STT_TLS].contains(&kind);
            if symbol.is_undefined() || symbol.section.0 >= 0xff00 || !code || data {
                return Ok(());
            }
            self.starts.push(symbol.value);
            if ![STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE].contains(&kind) {
                return Ok(());
            }
            let name = string(&names, symbol.name);
            let wanted = of_offset
                .entry(symbol.name)
                .or_insert_with(|| schemes.iter().any(|scheme| scheme.kind(name).is_some()));
            if *wanted {
                self.functions.push(Function {
                    name: String::from_utf8_lossy(name).into_owned(),
                    start: Vaddr(symbol.value),
                    size: symbol.size,
                    exported,
                    local: bind(&symbol) == STB_LOCAL,
                    ifunc: kind == STT_GNU_IFUNC,
                });
            }
            Ok(())
        })
    }

    /// The functions of `scheme`, one for each name; an error names one that there are several of.
    pub(super) fn of(&self, scheme: &Scheme) -> std::result::Result<Vec<&Function>, String> {
        let mut found: Vec<&Function> = Vec::new();
        let mut all: Vec<&Function> = (self.functions.iter())
            .filter(|function| scheme.kind(function.name.as_bytes()).is_some())
            .collect();
        // What other objects get comes first, and what has its name in one source file only last.
        all.sort_by_key(|function| (!function.exported, function.local));
        for function in all {
            match found.iter().find(|other| other.name == function.name) {
                None => found.push(function),
                Some(other) if other.local && other.start != function.start => {
                    return Err(function.name.clone());
                }
                Some(_) => {}
            }
        }
        Ok(found)
    }

    /// The first address with a name behind `address`.
    pub(super) fn next(&self, address: Vaddr) -> Option<Vaddr> {
        let behind = self.starts.partition_point(|&start| start <= address.0);
        self.starts.get(behind).copied().map(Vaddr)
    }
}

fn bind(symbol: &Symbol) -> SymbolBind {
    symbol.info.st_bind()
}

/// String table, symbol table, and whether it is .dynsym.
fn tables(image: &Image) -> Vec<(Table, Table, bool)> {
    let section = |section: &crate::elf::Section| Table {
        vaddr: section.vaddr,
        at: section.offset,
        size: section.file_size(),
    };
    let debugger = image.sections.iter().filter(|s| s.kind == SHT_SYMTAB);
    let debugger = debugger.filter_map(|symbols| {
        let strings = image.sections.get(usize::try_from(symbols.link).ok()?)?;
        Some((section(strings), section(symbols), false))
    });
    let dynamic = (image.strtab, image.symtab, true);
    [dynamic].into_iter().chain(debugger).collect()
}

/// Whether `table` defines something with a name that is one of `signs`. By `hash`, DT_GNU_HASH, if there is one: then it
/// takes some pages, however long the tables are. Else only symbols with the offset of such a string are looked at: most
/// programs have some, but undefined.
fn defines(
    source: &Source,
    strings: Table,
    table: Table,
    hash: Option<Table>,
    signs: &[Sign<'_>],
) -> Result<bool> {
    let mut whole = Vec::new();
    for sign in signs {
        let defined = match (sign, hash) {
            (Sign::Begins(prefix), _) => contains(source, strings, prefix.as_bytes())?,
            (Sign::Is(name), Some(hash)) => is_hashed(source, strings, table, hash, name)?,
            (Sign::Is(name), None) => {
                whole.push([name.as_bytes(), b"\0"].concat());
                false
            }
        };
        if defined {
            return Ok(true);
        }
    }
    let mut offsets = Vec::new();
    find(source, strings, &whole, &mut |at| {
        offsets.extend(u32::try_from(at).ok());
        offsets.len() < MOST_NAMES
    })?;
    let mut found = offsets.len() == MOST_NAMES;
    if offsets.is_empty() || found {
        return Ok(found);
    }
    let size = Symbol::size(source.format());
    // Of nearly all symbols the offset's lowest bits tell that it is none of these.
    let lowest = |offset: u32| offset as usize % LOWEST;
    let mut likely = [false; LOWEST];
    for &offset in &offsets {
        likely[lowest(offset)] = true;
    }
    let mut named = Vec::new();
    source.for_each_symbol_name(table.at, table.size / size, WHAT, |index, name| {
        if likely[lowest(name)] && offsets.contains(&name) {
            named.push(index);
        }
        Ok(())
    })?;
    for index in named {
        found |= !symbol_at(source, table, index)?.is_undefined();
    }
    Ok(found)
}

fn symbol_at(source: &Source, table: Table, index: u64) -> Result<Symbol> {
    let at = FileOffset(table.at.0 + index * Symbol::size(source.format()));
    let symbols = source.table(at, 1, WHAT)?;
    symbols
        .into_iter()
        .next()
        .ok_or_else(|| source.malformed("a symbol table cannot be read"))
}

/// Whether DT_GNU_HASH leads to a definition of `name`.
fn is_hashed(
    source: &Source,
    strings: Table,
    table: Table,
    hash: Table,
    name: &str,
) -> Result<bool> {
    const TABLE: &str = "the DT_GNU_HASH table";
    let format = source.format();
    let head = GnuHash::new(&source.bytes(hash.at, GnuHash::HEAD, TABLE)?, format);
    let Some(head) = head else {
        return Ok(false);
    };
    let mut page = (0, Vec::new());
    let word = |at: u64| {
        let missing = at < page.0 || at + 4 > page.0 + page.1.len() as u64;
        if missing && at < hash.size {
            let size = (hash.size - at).min(PAGE);
            page = (at, source.bytes(FileOffset(hash.at.0 + at), size, TABLE)?);
        }
        let inside = at
            .checked_sub(page.0)
            .and_then(|at| usize::try_from(at).ok());
        let bytes = inside.and_then(|inside| page.1.get(inside..));
        Ok(bytes.and_then(|bytes| format.first_word(bytes)))
    };
    let wanted = [name.as_bytes(), b"\0"].concat();
    let is_it = |index: u32| {
        if u64::from(index) >= table.size / Symbol::size(format) {
            return Ok(false);
        }
        let symbol = symbol_at(source, table, index.into())?;
        let (at, size) = (u64::from(symbol.name), wanted.len() as u64);
        if symbol.is_undefined() || at + size > strings.size {
            return Ok(false);
        }
        let at = FileOffset(strings.at.0 + at);
        Ok(source.bytes(at, size, "a string table")? == wanted)
    };
    Ok(head.find(name.as_bytes(), word, is_it)?.is_some())
}

/// True if `strings` has `sign` anywhere: names may be the ends of others.
pub(super) fn contains(source: &Source, strings: Table, sign: &[u8]) -> Result<bool> {
    let mut found = false;
    find(source, strings, &[sign], &mut |_| {
        found = true;
        false
    })?;
    Ok(found && !sign.is_empty())
}

/// Shows `visit` the offset in `strings` of each of `signs`, until it returns false.
fn find(
    source: &Source,
    strings: Table,
    signs: &[impl AsRef<[u8]>],
    visit: &mut dyn FnMut(u64) -> bool,
) -> Result<()> {
    if signs.is_empty() {
        return Ok(());
    }
    let mut finders: Vec<(Finder<'_>, Vec<u8>)> = (signs.iter())
        .map(|sign| (Finder::new(sign.as_ref()), Vec::new()))
        .collect();
    let mut goes_on = true;
    source.for_each_window(
        strings.at,
        strings.size,
        "a string table",
        |start, window| {
            for (finder, carried) in &mut finders {
                // The end of what came before, in which a sign may begin that ends here.
                let kept = finder.needle().len().saturating_sub(1);
                let before = carried.len() as u64;
                carried.extend(window.iter().take(kept));
                let across = finder
                    .find_iter(carried)
                    .map(|at| at as u64 + start - before);
                let within = finder.find_iter(window).map(|at| at as u64 + start);
                goes_on = goes_on && across.chain(within).all(&mut *visit);
                *carried = window[window.len().saturating_sub(kept)..].to_vec();
            }
            Ok(())
        },
    )
}

fn string(names: &[u8], at: u32) -> &[u8] {
    let rest = usize::try_from(at).ok().and_then(|at| names.get(at..));
    let rest = rest.unwrap_or(&[]);
    let end = memchr::memchr(0, rest).unwrap_or(0);
    &rest[..end]
}

#[cfg(test)]
mod tests {
    use std::io::{self, Write};
    use std::path::Path;

    use super::*;
    use crate::source::WINDOW;

    /// A name is found wherever it is, also where two of the pieces meet that are read at a time, and once.
    #[test]
    fn names_anywhere() -> io::Result<()> {
        const SIZE: usize = 2 * WINDOW as usize + 100;
        const SEAM: usize = WINDOW as usize;
        let names: [&[u8]; 2] = [b"malloc\0", b"_Znwm\0"];
        for at in (SEAM - 20..SEAM + 20).chain([0, SIZE - 7]) {
            let mut bytes = vec![b'x'; SIZE];
            bytes.splice(at..at + 7, *b"malloc\0");
            let mut file = tempfile::tempfile()?;
            file.write_all(&bytes)?;
            let source = Source::new(file, Path::new("strings"), SIZE as u64);
            let strings = Table {
                vaddr: Vaddr(0),
                at: FileOffset(0),
                size: SIZE as u64,
            };
            let mut found = Vec::new();
            let visited = find(&source, strings, &names, &mut |at| {
                found.push(at);
                true
            });
            assert!(visited.is_ok());
            assert_eq!(found, [at as u64]);
        }
        Ok(())
    }
}
