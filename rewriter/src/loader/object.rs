//! A shared object (or the executable) as the loader sees it: what it asks for, what it defines,
//! which of its functions are called without anybody calling them.
//!
//! Each table is read once and its file closed: a program may have more libraries than a process
//! may have open files.

mod functions;
mod relocations;

use object::elf::{
    DF_1_NOW, DF_BIND_NOW, DF_SYMBOLIC, DT_AUXILIARY, DT_BIND_NOW, DT_FILTER, DT_FLAGS, DT_FLAGS_1,
    DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_NEEDED, DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, DT_RPATH,
    DT_RUNPATH, DT_SONAME, DT_STRSZ, DT_STRTAB, DT_SYMBOLIC, DT_SYMTAB, DT_VERSYM, DynamicTag,
};

pub(crate) use self::functions::Function;
pub(crate) use self::relocations::Relocations;
use super::symbols::{Hash, Symbols};
use super::system::Opened;
use crate::elf::{Entry, FileOffset, Format, GnuHash, Header, Segment, Symbol, Vaddr};
use crate::error::Result;
use crate::parse::{self, Dynamic, NEEDED_TOO_LONG, Table, locate};
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
        format: Format,
    ) -> std::result::Result<Self, Rejected> {
        let identity = opened.identity;
        let source = Source::new(opened.file, path, opened.len).read_ahead();
        let source = source.map_err(|error| Rejected::Damaged(error.kind().to_string()))?;
        if is_foreign(&source, format) {
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

/// An ELF file of another format than the program: the loader passes over it (glibc elf/dl-load.c, `open_verify`).
fn is_foreign(source: &Source, format: Format) -> bool {
    let len = source.len().min(Format::IDENTIFIED_BY);
    let start = source.bytes(FileOffset(0), len, "the ELF header");
    start.is_ok_and(|start| {
        let is_whole = start.len() as u64 == Format::IDENTIFIED_BY;
        let is_elf = start.starts_with(&object::elf::ELFMAG) && is_whole;
        is_elf && Format::identify(&start) != Some(format)
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
        let mut allowance = self.source.allowance();
        let entries = self.dynamic.entries.iter();
        entries
            .filter_map(|entry| Some((kind(entry.tag)?, entry.value)))
            .map(|(kind, value)| {
                let name = allowance.take(string(value)?);
                let name = name.ok_or_else(|| self.source.malformed(NEEDED_TOO_LONG))?;
                Ok((kind, name))
            })
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
        let table = self.table(
            DT_SYMTAB,
            Symbol::size(self.source.format()) * count,
            "the dynamic symbol table",
        )?;
        let versions = self.table(DT_VERSYM, 2 * count, "the symbol version table")?;
        let mut names = Vec::new();
        if !versions.is_empty() {
            self.version_names(&mut names)?;
        }
        Ok(Symbols {
            format: self.source.format(),
            table,
            strings,
            hash,
            versions,
            names,
        })
    }

    /// Number of dynamic symbols: what the hash table knows of; without one, or if it hashes nothing (ld
    /// makes such a table of a program that exports nothing), what the relocations refer to.
    fn count_symbols(&self) -> Result<(u64, Option<Hash>)> {
        let tables = parse::Tables {
            source: self.source,
            segments: self.segments,
            dynamic: self.dynamic,
        };
        let gnu = tables.gnu_hash()?;
        let sysv = tables.sysv_hash()?;
        let hash = match gnu {
            Some(Table { at, size, .. }) if size <= LARGEST_TABLE => {
                let bytes = self.source.bytes(at, size, "the DT_GNU_HASH table")?;
                let head = GnuHash::new(&bytes, self.source.format());
                head.map(|head| Hash { head, bytes })
            }
            _ => None,
        };
        let hashes_nothing = gnu.is_none() || hash.as_ref().is_some_and(Hash::is_empty);
        let rela = match sysv {
            None if hashes_nothing => self.relocation_tables()?.map(Some),
            _ => [None, None],
        };
        let count = tables.symbol_count(sysv, gnu, rela, &[])?;
        // A table that hashes nothing says nothing of the undefined symbols before its first.
        let first = hash.as_ref().map_or(0, |hash| u64::from(hash.head.first()));
        let lies = first.saturating_mul(Symbol::size(self.source.format())) > self.source.len();
        Ok((count.max(if lies { 0 } else { first }), hash))
    }

    fn version_names(&self, names: &mut Vec<(u16, u32)>) -> Result<()> {
        crate::versions::for_each_name(self.source, self.segments, self.dynamic, |name| {
            let offset = u32::try_from(name.offset).ok();
            names.extend(name.version.zip(offset));
        })
    }
}
