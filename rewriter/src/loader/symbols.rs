//! The dynamic symbols of one object, and how the loader looks one up among them.

use std::convert::Infallible;

use object::elf::{
    STB_GLOBAL, STB_GNU_UNIQUE, STB_WEAK, STT_COMMON, STT_FUNC, STT_GNU_IFUNC, STT_NOTYPE,
    STT_OBJECT, STT_TLS, SymbolType,
};

use crate::elf::{Class, Entry, Format, GnuHash, Symbol};

/// .dynsym, .dynstr and what belongs to them.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) format: Format,
    /// .dynsym as it stands in the file.
    pub(crate) table: Vec<u8>,
    pub(crate) strings: Vec<u8>,
    pub(crate) hash: Option<Hash>,
    /// .gnu.version: an index for each symbol.
    pub(crate) versions: Vec<u8>,
    /// Version index and offset of its name, from DT_VERDEF and DT_VERNEED; the base version, which
    /// stands for the file itself, is not among them.
    pub(crate) names: Vec<(u16, u32)>,
}

/// DT_GNU_HASH, all of it.
#[derive(Debug)]
pub(crate) struct Hash {
    pub(crate) head: GnuHash,
    pub(crate) bytes: Vec<u8>,
}

impl Hash {
    /// True if no symbol is hashed: then `first` is no symbol's index either.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.len() as u64 <= self.head.chains_at()
    }
}

impl Symbols {
    /// Size of a symbol, in bytes.
    fn entry_size(&self) -> usize {
        usize::try_from(Symbol::size(self.format)).unwrap_or(usize::MAX)
    }

    /// Where in a symbol its type is.
    fn info_at(&self) -> usize {
        match self.format.class {
            Class::Elf32 => 12,
            Class::Elf64 => 4,
        }
    }

    /// Number of symbols, the null symbol among them.
    pub(crate) fn len(&self) -> u32 {
        u32::try_from(self.table.len() / self.entry_size()).unwrap_or(u32::MAX)
    }

    /// The symbol at `index`.
    pub(crate) fn get(&self, index: u32) -> Option<Symbol> {
        let at = usize::try_from(index)
            .ok()?
            .checked_mul(self.entry_size())?;
        Symbol::decode(
            self.table.get(at..at.checked_add(self.entry_size())?)?,
            self.format,
        )
    }

    /// Its type, without decoding the rest.
    pub(crate) fn kind(&self, index: u32) -> Option<SymbolType> {
        let at = usize::try_from(index)
            .ok()?
            .checked_mul(self.entry_size())?;
        self.table
            .get(at.checked_add(self.info_at())?)
            .map(|info| SymbolType(info & 15))
    }

    /// The string at `offset` of .dynstr.
    pub(crate) fn string(&self, offset: u32) -> Option<&[u8]> {
        let rest = self.strings.get(usize::try_from(offset).ok()?..)?;
        rest.get(..memchr::memchr(0, rest)?)
    }

    /// The name of the symbol at `index`.
    pub(crate) fn name(&self, index: u32) -> Option<&[u8]> {
        self.string(self.get(index)?.name)
    }

    /// The first four bytes of its name, or fewer: what tells most names apart.
    pub(crate) fn prefix(&self, index: u32) -> Option<u32> {
        let at = usize::try_from(index)
            .ok()?
            .checked_mul(self.entry_size())?;
        let name = *self
            .format
            .words(self.table.get(at..at.checked_add(4)?)?)
            .first()?;
        let name = self.strings.get(usize::try_from(name).ok()?..)?;
        let bytes = name.iter().take(4).take_while(|byte| **byte != 0);
        Some(bytes.fold(0, |prefix, byte| prefix << 8 | u32::from(*byte)))
    }

    /// Whether the symbol at `index` has that name: cheaper than to take its name first.
    fn is_named(&self, index: u32, name: &[u8]) -> bool {
        let offset = self
            .get(index)
            .and_then(|symbol| usize::try_from(symbol.name).ok());
        let rest = offset.and_then(|offset| self.strings.get(offset..));
        let rest = rest.and_then(|rest| rest.strip_prefix(name));
        rest.is_some_and(|rest| rest.first() == Some(&0))
    }

    /// The version that the symbol at `index` has or, undefined, asks for; `None` for the base one.
    pub(crate) fn version(&self, index: u32) -> Option<&[u8]> {
        let wanted = self.version_index(index)? & !HIDDEN;
        let (_, name) = self.names.iter().find(|(index, _)| *index == wanted)?;
        self.string(*name)
    }

    fn version_index(&self, index: u32) -> Option<u16> {
        let at = usize::try_from(index).ok()?.checked_mul(2)?;
        let bytes = self.versions.get(at..at.checked_add(2)?)?;
        self.format.half(bytes)
    }

    /// Index of the undefined symbol whose address in this object is `value`: its PLT entry.
    pub(crate) fn undefined_at(&self, value: u64) -> Option<u32> {
        let is_at = |symbol: Symbol| symbol.is_undefined() && symbol.value == value;
        let mut all = (1..self.len()).filter(|_| value != 0);
        all.find(|&index| self.get(index).is_some_and(is_at))
    }

    /// The definition of `name` that a reference to `version` of it gets here, if any.
    pub(crate) fn find(&self, name: &[u8], version: Option<&[u8]>) -> Option<u32> {
        let defines = |index: u32| {
            self.is_named(index, name) && self.is_definition(index) && self.fits(index, version)
        };
        let Some(hash) = &self.hash else {
            return (1..self.len()).find(|&index| defines(index));
        };
        let word = |at: u64| {
            let bytes = usize::try_from(at).ok().and_then(|at| hash.bytes.get(at..));
            Ok::<_, Infallible>(bytes.and_then(|bytes| self.format.first_word(bytes)))
        };
        let Ok(found) = (hash.head).find(name, word, |index| Ok(defines(index)));
        found
    }

    /// Index of the symbol by which the object refers to `name`, defined here or not.
    pub(crate) fn reference(&self, name: &[u8]) -> Option<u32> {
        let refers = |&index: &u32| self.is_named(index, name);
        let undefined = self.hash.as_ref();
        let undefined = undefined.map_or(self.len(), |hash| hash.head.first());
        let undefined = (1..undefined.min(self.len())).find(refers);
        undefined.or_else(|| self.find(name, None))
    }

    /// What the loader takes for a definition (glibc elf/dl-lookup.c, `check_match`).
    fn is_definition(&self, index: u32) -> bool {
        const KINDS: [SymbolType; 6] = [
            STT_NOTYPE,
            STT_OBJECT,
            STT_FUNC,
            STT_COMMON,
            STT_TLS,
            STT_GNU_IFUNC,
        ];
        self.get(index).is_some_and(|symbol| {
            let (kind, binding) = (symbol.info.st_type(), symbol.info.st_bind());
            !symbol.is_undefined()
                && (symbol.value != 0 || kind == STT_TLS)
                && KINDS.contains(&kind)
                && matches!(binding, STB_GLOBAL | STB_WEAK | STB_GNU_UNIQUE)
        })
    }

    /// Whether a reference to `version` accepts the symbol's version (`check_match` again): an
    /// object without versions fits every reference; a reference without one takes the base or the
    /// default version.
    fn fits(&self, index: u32, version: Option<&[u8]>) -> bool {
        let Some(own) = self.version_index(index) else {
            return true;
        };
        match (version, self.version(index)) {
            (Some(wanted), Some(version)) => wanted == version,
            (Some(_), None) | (None, Some(_)) => own & HIDDEN == 0,
            (None, None) => true,
        }
    }

    /// The functions that are defined at one of `addresses`, by index.
    pub(crate) fn functions_at(&self, addresses: &[u64]) -> impl Iterator<Item = (u32, Symbol)> {
        let format = self.format;
        let mut addresses = addresses.to_vec();
        addresses.sort_unstable();
        let entries = (0..).zip(self.table.chunks_exact(self.entry_size()));
        entries
            .filter_map(move |(index, entry)| Some((index, Symbol::decode(entry, format)?)))
            .filter(move |(_, symbol)| {
                let kind = symbol.info.st_type();
                addresses.binary_search(&symbol.value).is_ok()
                    && !symbol.is_undefined()
                    && matches!(kind, STT_FUNC | STT_GNU_IFUNC)
            })
    }

    /// Indices of the IFUNCs.
    pub(crate) fn ifuncs(&self) -> impl Iterator<Item = u32> {
        let entries = (0..).zip(self.table.chunks_exact(self.entry_size()));
        let info_at = self.info_at();
        let kind = move |entry: &[u8]| entry.get(info_at).map(|info| SymbolType(info & 15));
        entries
            .filter(move |(_, entry)| kind(entry) == Some(STT_GNU_IFUNC))
            .map(|(index, _)| index)
    }
}

/// Set in a version index whose symbol is not the default version (`VERSYM_HIDDEN`).
const HIDDEN: u16 = 0x8000;
