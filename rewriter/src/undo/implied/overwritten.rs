//! Symbols that lost their names to others, as they were: in .dynsym, .dynstr and DT_HASH.

use object::elf::{STB_WEAK, STT_NOTYPE, SymbolInfo};

use super::Edit;
use crate::elf::{Entry, Symbol};
use crate::error::Result;
use crate::parse::{Image, Table};
use crate::source::Source;
use crate::sysv_hash::SysvHash;

/// A symbol whose name was overwritten.
pub(super) struct Overwritten {
    pub(super) index: u32,
    /// As it is now.
    pub(super) symbol: Symbol,
    /// What it was called.
    pub(super) name: &'static str,
    /// Offset of that in .dynstr.
    pub(super) string: u64,
    /// Its position in its chain of DT_HASH.
    pub(super) position: u64,
}

impl Overwritten {
    /// True if `string` begins where the old name was.
    pub(super) fn has_room_of(&self, string: u64) -> bool {
        let skip = string.checked_sub(self.string);
        skip.is_some_and(|skip| skip <= self.name.len() as u64)
    }

    /// The symbol and its name.
    pub(super) fn edits(&self, result: &Source, image: &Image) -> Result<[Edit; 2]> {
        let outside = || result.malformed("a name lies outside DT_STRTAB");
        let mut name = self.name.as_bytes().to_vec();
        name.push(0);
        let name_at = image
            .strtab
            .at
            .checked_add(self.string)
            .ok_or_else(outside)?;
        let symbol = Symbol {
            name: u32::try_from(self.string).map_err(|_| outside())?,
            info: SymbolInfo::new(STB_WEAK, STT_NOTYPE),
            ..self.symbol
        };
        let symbol_at = image.symbol_offset(self.index);
        Ok([(symbol_at, symbol.encode(image.format)), (name_at, name)])
    }
}

/// DT_HASH with the symbols back in their chains, in the opposite order of the layout's.
pub(super) fn hash(
    result: &Source,
    image: &Image,
    overwritten: &[Overwritten],
) -> Result<Option<Edit>> {
    let Some(table) = image.sysv_hash else {
        return Ok(None);
    };
    let mut hash = read_hash(result, table)?;
    if let [carrier, others @ ..] = overwritten {
        for symbol in [carrier].into_iter().chain(others.iter().rev()) {
            hash.remove(symbol.index);
            hash.insert(symbol.index, symbol.name, symbol.position);
        }
    }
    Ok(Some((table.at, hash.encode(image.format))))
}

/// DT_HASH as it is.
pub(super) fn read_hash(source: &Source, table: Table) -> Result<SysvHash> {
    let bytes = source.bytes(table.at, table.size, "the DT_HASH table")?;
    SysvHash::decode(&bytes, source.format())
        .ok_or_else(|| source.malformed("its DT_HASH table has no buckets"))
}
