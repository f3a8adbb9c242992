//! A shared object (or the executable) as the loader sees it: what it asks for, what it defines,
//! which of its functions are called without anybody calling them.
//!
//! Each table is read once and its file closed: a program may have more libraries than a process
//! may have open files.

use object::elf::{
    DF_1_NOW, DF_BIND_NOW, DF_SYMBOLIC, DT_AUXILIARY, DT_BIND_NOW, DT_FILTER, DT_FLAGS, DT_FLAGS_1,
    DT_INIT, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_JMPREL, DT_NEEDED, DT_PLTRELSZ, DT_PREINIT_ARRAY,
    DT_PREINIT_ARRAYSZ, DT_RELA, DT_RELASZ, DT_RPATH, DT_RUNPATH, DT_SONAME, DT_STRSZ, DT_STRTAB,
    DT_SYMBOLIC, DT_SYMTAB, DT_VERSYM, DynamicTag, R_X86_64_64, R_X86_64_COPY, R_X86_64_IRELATIVE,
    R_X86_64_JUMP_SLOT, R_X86_64_RELATIVE, SHT_SYMTAB,
};

use super::symbols::{GnuHash, Symbols};
use super::system::Opened;
use crate::elf::{Entry, FileOffset, Header, Rela, Section, Segment, Symbol, Vaddr};
use crate::error::Result;
use crate::parse::{self, Dynamic, Table, locate};
use crate::source::Source;

/// Tables of this size and more are not those of a library.
const LARGEST_TABLE: u64 = 1 << 30;

/// How an object asks for another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    Needed,
    Filter,
    Auxiliary,
}

/// An object's own data.
#[derive(Debug, Default)]
pub(crate) struct Object {
    pub(crate) identity: (u64, u64),
    pub(crate) soname: Option<Vec<u8>>,
    /// DT_NEEDED, DT_FILTER and DT_AUXILIARY, in order.
    pub(crate) needs: Vec<(Need, Vec<u8>)>,
    /// DT_RPATH, unless there is a DT_RUNPATH (glibc elf/get-dynamic-info.h).
    pub(crate) rpath: Option<Vec<u8>>,
    pub(crate) runpath: Option<Vec<u8>>,
    pub(crate) flags_1: u64,
    /// Relocations of functions are bound at start-up, not when they are first called.
    pub(crate) now: bool,
    /// Its own definitions come first for its own references.
    pub(crate) symbolic: bool,
    pub(crate) symbols: Symbols,
    pub(crate) init: Option<Function>,
    pub(crate) init_array: Vec<Function>,
    pub(crate) preinit_array: Vec<Function>,
    /// What a trampoline at the entry point calls before it goes on.
    pub(crate) trampoline: Option<Function>,
    pub(crate) relocations: Relocations,
}

/// A function that the loader calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Function {
    /// As the object's program headers count; unknown where a symbol of another object decides.
    pub(crate) address: Option<Vaddr>,
    /// Index of the symbol that the entry is relocated against.
    pub(crate) reference: Option<u32>,
    /// Its name, as far as the object has one.
    pub(crate) name: Option<String>,
}

/// What relocation does besides storing addresses.
#[derive(Debug, Default)]
pub(crate) struct Relocations {
    /// R_X86_64_IRELATIVE: resolvers of the object's own that run when it is relocated.
    pub(crate) irelative: u64,
    /// Symbols that are bound when it is relocated, by index, each once, in that order.
    pub(crate) bound: Vec<u32>,
    /// Symbols of copy relocations.
    pub(crate) copies: Vec<u32>,
}

/// Why a file is not loaded.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// It is for another machine or class: the search goes on.
    Foreign,
    /// The loader gives up.
    Damaged(String),
}

impl Object {
    /// Reads the object in `opened`, which the loader found at `path`.
    pub(crate) fn read(
        opened: Opened,
        path: &std::path::Path,
    ) -> std::result::Result<Self, Rejected> {
        let identity = opened.identity;
        let source = Source::new(opened.file, path, opened.len).read_ahead();
        let source = source.map_err(|error| Rejected::Damaged(error.kind().to_string()))?;
        if is_foreign(&source) {
            return Err(Rejected::Foreign);
        }
        let read = parse::read_header(&source).and_then(|header| Self::parse(&source, &header));
        let object = read.map_err(|error| Rejected::Damaged(error.kind().to_string()))?;
        Ok(Self { identity, ..object })
    }

    /// Reads what the loader would of the file whose ELF header is `header`.
    pub(crate) fn parse(source: &Source, header: &Header) -> Result<Self> {
        let (_, segments) = parse::read_segments(source, header)?;
        let dynamic = parse::read_dynamic(source, &segments)?;
        let reader = Reader {
            source,
            segments: &segments,
            dynamic: &dynamic,
        };
        reader.object(header)
    }

    /// The DT_FLAGS_1 bits `mask`.
    pub(crate) fn has(&self, mask: object::elf::DynamicFlags1) -> bool {
        self.flags_1 & mask.0 != 0
    }
}

/// An ELF file that is not for x86-64: the loader passes over it (glibc elf/dl-load.c, `open_verify`).
fn is_foreign(source: &Source) -> bool {
    let start = source.bytes(FileOffset(0), source.len().min(20), "the ELF header");
    start.is_ok_and(|start| {
        let class = start.get(4).copied();
        let machine = start.get(18..20);
        let here = class == Some(2) && machine == Some(&62_u16.to_le_bytes());
        start.starts_with(&object::elf::ELFMAG) && start.len() == 20 && !here
    })
}

struct Reader<'a> {
    source: &'a Source,
    segments: &'a [Segment],
    dynamic: &'a Dynamic,
}

impl Reader<'_> {
    fn object(&self, header: &Header) -> Result<Object> {
        let symbols = self.symbols()?;
        let string = |value: u64| -> Result<Vec<u8>> {
            let name = u32::try_from(value).ok().and_then(|at| symbols.string(at));
            let name =
                name.ok_or_else(|| self.source.malformed("a name lies outside DT_STRTAB"))?;
            Ok(name.to_vec())
        };
        let optional = |tag| self.dynamic.get(tag).map(string).transpose();
        let flags = self.dynamic.get(DT_FLAGS).unwrap_or(0);
        let flags_1 = self.dynamic.get(DT_FLAGS_1).unwrap_or(0);
        let has = |tag| self.dynamic.get(tag).is_some();
        let now = has(DT_BIND_NOW) || flags & DF_BIND_NOW.0 != 0 || flags_1 & DF_1_NOW.0 != 0;
        let runpath = optional(DT_RUNPATH)?;
        let mut object = Object {
            identity: (0, 0),
            soname: optional(DT_SONAME)?,
            needs: self.needs(string)?,
            rpath: optional(DT_RPATH)?.filter(|_| runpath.is_none()),
            runpath,
            flags_1,
            now,
            symbolic: has(DT_SYMBOLIC) || flags & DF_SYMBOLIC.0 != 0,
            init: self.init(),
            init_array: self.array(DT_INIT_ARRAY, DT_INIT_ARRAYSZ)?,
            preinit_array: self.array(DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ)?,
            trampoline: None,
            relocations: Relocations::default(),
            symbols: Symbols::default(),
        };
        object.symbols = symbols;
        self.relocate(header, &mut object)?;
        self.name_functions(header, &mut object)?;
        Ok(object)
    }

    fn needs(&self, string: impl Fn(u64) -> Result<Vec<u8>>) -> Result<Vec<(Need, Vec<u8>)>> {
        let kind = |tag| match tag {
            DT_NEEDED => Some(Need::Needed),
            DT_FILTER => Some(Need::Filter),
            DT_AUXILIARY => Some(Need::Auxiliary),
            _ => None,
        };
        let entries = self.dynamic.entries.iter();
        entries
            .filter_map(|entry| Some((kind(entry.tag)?, entry.value)))
            .map(|(kind, value)| Ok((kind, string(value)?)))
            .collect()
    }

    fn at(&self, address: u64, size: u64, what: &'static str) -> Result<FileOffset> {
        if size > LARGEST_TABLE {
            return Err(self
                .source
                .malformed(format!("{what} is larger than 1 GiB")));
        }
        locate(self.segments, Vaddr(address), size).ok_or_else(|| {
            self.source
                .malformed(format!("{what} lies in no PT_LOAD segment"))
        })
    }

    fn table(&self, tag: DynamicTag, size: u64, what: &'static str) -> Result<Vec<u8>> {
        match self.dynamic.get(tag) {
            Some(address) if size > 0 => {
                let at = self.at(address, size, what)?;
                self.source.bytes(at, size, what)
            }
            _ => Ok(Vec::new()),
        }
    }

    fn symbols(&self) -> Result<Symbols> {
        let size = self.dynamic.get(DT_STRSZ).unwrap_or(0);
        let strings = self.table(DT_STRTAB, size, "the dynamic string table")?;
        let (count, hash) = self.count_symbols()?;
        let table = self.table(DT_SYMTAB, 24 * count, "the dynamic symbol table")?;
        let versions = self.table(DT_VERSYM, 2 * count, "the symbol version table")?;
        let mut names = Vec::new();
        if !versions.is_empty() {
            self.version_names(&mut names)?;
        }
        Ok(Symbols {
            table,
            strings,
            hash,
            versions,
            names,
        })
    }

    /// Number of dynamic symbols: what the hash table knows of, or without one, what the relocations
    /// refer to.
    fn count_symbols(&self) -> Result<(u64, Option<GnuHash>)> {
        let tables = parse::Tables {
            source: self.source,
            segments: self.segments,
            dynamic: self.dynamic,
        };
        let gnu = tables.gnu_hash()?;
        let sysv = tables.sysv_hash()?;
        let rela = match (gnu, sysv) {
            (None, None) => self.relocation_tables()?.map(Some),
            _ => [None, None],
        };
        let count = tables.symbol_count(sysv, gnu, rela, &[])?;
        let hash = match gnu {
            Some(Table { at, size, .. }) if size <= LARGEST_TABLE => {
                GnuHash::new(&self.source.bytes(at, size, "the DT_GNU_HASH table")?)
            }
            _ => None,
        };
        // A table that hashes nothing says nothing of the undefined symbols before its first.
        let first = hash.as_ref().map_or(0, |hash| u64::from(hash.first()));
        let lies = first.saturating_mul(24) > self.source.len();
        Ok((count.max(if lies { 0 } else { first }), hash))
    }

    fn version_names(&self, names: &mut Vec<(u16, u32)>) -> Result<()> {
        crate::versions::for_each_name(self.source, self.segments, self.dynamic, |name| {
            let offset = u32::try_from(name.offset).ok();
            names.extend(name.version.zip(offset));
        })
    }

    fn init(&self) -> Option<Function> {
        let address = self.dynamic.get(DT_INIT).map(Vaddr)?;
        Some(Function {
            address: Some(address),
            ..Function::default()
        })
    }

    /// The array's entries with the values that they have in the file.
    fn array(&self, tag: DynamicTag, size_tag: DynamicTag) -> Result<Vec<Function>> {
        let size = self.dynamic.get(size_tag).unwrap_or(0);
        let bytes = self.table(tag, size - size % 8, "an array of constructors")?;
        let value = |bytes: &[u8]| {
            let bytes = bytes.iter().rev();
            bytes.fold(0, |sum, &byte| sum << 8 | u64::from(byte))
        };
        let functions = bytes.chunks_exact(8).map(|bytes| Function {
            address: Some(Vaddr(value(bytes))),
            ..Function::default()
        });
        Ok(functions.collect())
    }

    fn relocation_tables(&self) -> Result<[Table; 2]> {
        let table = |tag, size_tag, what| -> Result<Table> {
            let size = self.dynamic.get(size_tag).unwrap_or(0);
            let address = self.dynamic.get(tag).filter(|_| size > 0);
            let (vaddr, at, size) = match address {
                Some(address) => (Vaddr(address), self.at(address, size, what)?, size),
                None => (Vaddr(0), FileOffset(0), 0),
            };
            Ok(Table { vaddr, at, size })
        };
        let jmprel = table(DT_JMPREL, DT_PLTRELSZ, "the PLT relocation table")?;
        let rela = table(DT_RELA, DT_RELASZ, "the relocation table")?;
        Ok([parse::without_plt(rela, Some(jmprel)), jmprel])
    }

    /// Takes down what relocation calls, binds and copies, and what it stores in the arrays.
    fn relocate(&self, header: &Header, object: &mut Object) -> Result<()> {
        let trampoline = parse::trampoline(self.source, header, self.segments)?;
        let arrays = [
            self.entries(DT_INIT_ARRAY, object.init_array.len()),
            self.entries(DT_PREINIT_ARRAY, object.preinit_array.len()),
            trampoline.map_or(0..0, |code| code.slot.0..code.slot.0.saturating_add(8)),
        ];
        let mut seen = vec![false; object.symbols.len() as usize];
        for table in self.relocation_tables()? {
            let count = table.size / Rela::SIZE;
            const WHAT: &str = "a relocation table";
            self.source
                .for_each(table.at, count, WHAT, |_, rela: Rela| {
                    let place = rela.place.0;
                    let [init, preinit, slot] = &arrays;
                    if init.contains(&place) {
                        store(entry_of(&mut object.init_array, init.start, place), &rela);
                    } else if preinit.contains(&place) {
                        store(
                            entry_of(&mut object.preinit_array, preinit.start, place),
                            &rela,
                        );
                    } else if slot.contains(&place) {
                        store(Some(object.trampoline.insert(Function::default())), &rela);
                    }
                    match rela.kind {
                        R_X86_64_RELATIVE => {}
                        R_X86_64_IRELATIVE => object.relocations.irelative += 1,
                        R_X86_64_COPY => object.relocations.copies.push(rela.symbol),
                        R_X86_64_JUMP_SLOT if !object.now => {}
                        _ => {
                            let seen = seen.get_mut(rela.symbol as usize);
                            if seen.is_some_and(|seen| !std::mem::replace(seen, true)) {
                                object.relocations.bound.push(rela.symbol);
                            }
                        }
                    }
                    Ok(())
                })?;
        }
        Ok(())
    }

    /// The addresses of an array's entries.
    fn entries(&self, tag: DynamicTag, count: usize) -> std::ops::Range<u64> {
        let start = self.dynamic.get(tag).unwrap_or(0);
        start..start.saturating_add(8 * count as u64)
    }

    /// Finds names for the constructors: dynamic symbols, else those of .symtab.
    fn name_functions(&self, header: &Header, object: &mut Object) -> Result<()> {
        let mut unnamed: Vec<&mut Function> = object
            .init
            .iter_mut()
            .chain(&mut object.init_array)
            .chain(&mut object.preinit_array)
            .collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        for function in &mut unnamed {
            let name = function
                .reference
                .and_then(|index| object.symbols.name(index));
            function.name = name.map(lossy);
        }
        let addresses: Vec<u64> = { unnamed.iter() }
            .filter_map(|function| function.address.map(|address| address.0))
            .collect();
        for (index, symbol) in object.symbols.functions_at(&addresses) {
            name_one(&mut unnamed, &symbol, || {
                object.symbols.name(index).map(lossy)
            });
        }
        if unnamed.iter().any(|function| function.name.is_none()) {
            self.name_from_symtab(header, &mut unnamed)?;
        }
        Ok(())
    }

    fn name_from_symtab(&self, header: &Header, unnamed: &mut [&mut Function]) -> Result<()> {
        // Sections are decoration: where they make no sense, there are no names.
        let Ok((_, sections)) = parse::read_sections(self.source, header) else {
            return Ok(());
        };
        let symtab = sections.iter().find(|section| section.kind == SHT_SYMTAB);
        let strings = symtab.and_then(|symtab| sections.get(usize::try_from(symtab.link).ok()?));
        let (Some(symtab), Some(strings)) = (symtab, strings) else {
            return Ok(());
        };
        let count = symtab.size / Symbol::SIZE;
        const WHAT: &str = "the symbol table";
        self.source
            .for_each(symtab.offset, count, WHAT, |_, symbol: Symbol| {
                let is_function = symbol.info.st_type() == object::elf::STT_FUNC;
                if is_function && !symbol.is_undefined() {
                    name_one(unnamed, &symbol, || self.symtab_name(strings, symbol.name));
                }
                Ok(())
            })
    }

    fn symtab_name(&self, strings: &Section, name: u32) -> Option<String> {
        const LONGEST: u64 = 4096;
        let rest = strings.file_size().checked_sub(u64::from(name))?;
        let at = strings.offset.checked_add(u64::from(name))?;
        let bytes = self
            .source
            .bytes(at, rest.min(LONGEST), "a symbol's name")
            .ok()?;
        bytes.get(..memchr::memchr(0, &bytes)?).map(lossy)
    }
}

/// The entry of `array` (at address `start`) that a relocation at `place` fills.
fn entry_of(array: &mut [Function], start: u64, place: u64) -> Option<&mut Function> {
    array.get_mut(usize::try_from(place.checked_sub(start)? / 8).ok()?)
}

fn store(entry: Option<&mut Function>, rela: &Rela) {
    let Some(entry) = entry else { return };
    match rela.kind {
        R_X86_64_RELATIVE | R_X86_64_IRELATIVE => {
            entry.address = Some(Vaddr(rela.addend.cast_unsigned()));
        }
        R_X86_64_64 => {
            entry.address = None;
            entry.reference = Some(rela.symbol);
        }
        _ => {}
    }
}

fn name_one(unnamed: &mut [&mut Function], symbol: &Symbol, name: impl Fn() -> Option<String>) {
    for function in unnamed.iter_mut() {
        if function.name.is_none() && function.address == Some(Vaddr(symbol.value)) {
            function.name = name();
        }
    }
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
