//! Looking a symbol up in one loaded object by the object's own hash table, as the loader does, with
//! the loader's rule for versions.

use crate::elf::{
    DT_GNU_HASH, DT_HASH, DT_STRTAB, DT_SYMTAB, SHN_UNDEF, STB_GLOBAL, STB_WEAK, STT_TLS, SYMBOL,
};
use crate::machine;
use crate::memory::Mapped;
use crate::object::Object;

const DT_VERSYM: usize = 0x6fff_fff0;
const DT_VERDEF: usize = 0x6fff_fffc;

const STB_GNU_UNIQUE: u8 = 10;
const STT_GNU_IFUNC: u8 = 10;

/// A bound for chains that somebody else wrote.
const MANY: usize = 1 << 24;

/// A definition.
#[derive(Clone, Copy)]
pub(crate) struct Symbol {
    /// Where it is in memory. Of an IFUNC, the resolver.
    pub(crate) address: usize,
    /// Whether that is an IFUNC's resolver.
    pub(crate) ifunc: bool,
}

impl Symbol {
    /// The address to call. The resolver of an IFUNC is asked for it, as the loader would.
    pub(crate) fn function(self) -> usize {
        if !self.ifunc {
            return self.address;
        }
        machine::resolve(self.address)
    }
}

/// The tables of one object that a look-up needs.
pub(crate) struct Symbols {
    object: Object,
    strings: Mapped,
    symbols: Mapped,
    gnu_hash: Option<Mapped>,
    hash: Option<Mapped>,
    versions: Option<Mapped>,
    definitions: Option<Mapped>,
}

impl Symbols {
    /// Finds the tables of `object`.
    #[inline(never)]
    pub(crate) fn of(object: Object) -> Option<Self> {
        // In one pass: half of what the runtime does at the start is this.
        let [mut strings, mut symbols, mut gnu_hash] = [None; 3];
        let [mut hash, mut versions, mut definitions] = [None; 3];
        for (tag, value) in object.entries() {
            let table = match tag {
                DT_STRTAB => &mut strings,
                DT_SYMTAB => &mut symbols,
                DT_GNU_HASH => &mut gnu_hash,
                DT_HASH => &mut hash,
                DT_VERSYM => &mut versions,
                DT_VERDEF => &mut definitions,
                _ => continue,
            };
            // SAFETY: the dynamic table says where this table is.
            *table = Some(unsafe { Mapped::new(object.table(value)) });
        }
        Some(Self {
            object,
            strings: strings?,
            symbols: symbols?,
            gnu_hash,
            hash,
            versions,
            definitions,
        })
    }

    /// The definition of `name` that a program linked with libc is bound to.
    #[inline(never)]
    pub(crate) fn find(&self, name: &[u8]) -> Option<Symbol> {
        match (self.gnu_hash, self.hash) {
            (Some(table), _) => self.find_gnu(table, name),
            (None, Some(table)) => self.find_sysv(table, name),
            (None, None) => None,
        }
    }

    /// By DT_GNU_HASH: header of four words, filter, buckets, chain values whose lowest bit marks
    /// the last one.
    fn find_gnu(&self, table: Mapped, name: &[u8]) -> Option<Symbol> {
        let hash = gnu_hash(name);
        let (buckets, first_hashed) = (table.u32(), table.add(4).u32());
        let (filter_words, shift) = (table.add(8).u32(), table.add(12).u32());
        let filter = table.add(16);
        let at = (hash / u64::BITS) & filter_words.wrapping_sub(1);
        let filtered = filter.nth(at, 8).word();
        let bit = |by: u32| filtered.wrapping_shr(by) & 1;
        if bit(hash) & bit(hash.wrapping_shr(shift)) == 0 {
            return None;
        }
        let bucket = filter.nth(filter_words, 8);
        let chain = bucket.nth(buckets, 4);
        let first = bucket.nth(hash.checked_rem(buckets)?, 4).u32();
        for index in (first..).take(MANY) {
            let value = chain.nth(index.checked_sub(first_hashed)?, 4).u32();
            if value | 1 == hash | 1
                && let Some(symbol) = self.definition(index, name)
            {
                return Some(symbol);
            }
            if value & 1 == 1 {
                break;
            }
        }
        None
    }

    /// By DT_HASH: header of two words, buckets, chain that 0 ends.
    fn find_sysv(&self, table: Mapped, name: &[u8]) -> Option<Symbol> {
        let bucket = table.add(8);
        let chain = bucket.nth(table.u32(), 4);
        let mut index = bucket
            .nth(sysv_hash(name).checked_rem(table.u32())?, 4)
            .u32();
        for _ in 0..MANY {
            if index == 0 {
                break;
            }
            if let Some(symbol) = self.definition(index, name) {
                return Some(symbol);
            }
            index = chain.nth(index, 4).u32();
        }
        None
    }

    /// The symbol at `index`, if it defines `name` for others (elf/dl-lookup.c, `check_match`).
    fn definition(&self, index: u32, name: &[u8]) -> Option<Symbol> {
        let symbol = self.symbols.nth(index, SYMBOL);
        let (info, section) = (symbol.add(4).byte(), symbol.add(6).u16());
        let (kind, binding) = (info & 15, info >> 4);
        let value = symbol.add(8).word();
        let defines = section != SHN_UNDEF
            && value != 0
            && kind != STT_TLS
            && matches!(binding, STB_GLOBAL | STB_WEAK | STB_GNU_UNIQUE)
            && self.strings.nth(symbol.u32(), 1).is(name)
            && self.is_version_of_libc(index);
        defines.then(|| Symbol {
            address: self.object.base.wrapping_add(value),
            ifunc: kind == STT_GNU_IFUNC,
        })
    }

    /// Whether a reference to `malloc@GLIBC_2.2.5` and its like is bound to the symbol at `index`:
    /// the object has no versions, the symbol has none, or it has one of libc's. Hidden versions
    /// count (cfree@GLIBC_2.2.5 is one, and what old programs ask for); no function of the malloc
    /// family has two here.
    fn is_version_of_libc(&self, index: u32) -> bool {
        const HIDDEN: u16 = 0x8000;
        const NO_VERSION: u16 = 1;
        let (Some(versions), Some(definitions)) = (self.versions, self.definitions) else {
            return true;
        };
        let version = versions.nth(index, 2).u16();
        version <= NO_VERSION
            || self
                .version_name(definitions, version & !HIDDEN)
                .is_some_and(|name| name.starts_with(b"GLIBC_"))
    }

    /// The name of version `wanted`, from the list of the versions that the object defines.
    fn version_name(&self, first: Mapped, wanted: u16) -> Option<Mapped> {
        let mut version = first;
        for _ in 0..=u16::MAX {
            // Verdef: version, flags, index, names, hash, offset of the names, offset of the next.
            if version.add(4).u16() == wanted {
                let name = version.nth(version.add(12).u32(), 1).u32();
                return Some(self.strings.nth(name, 1));
            }
            match version.add(16).u32() {
                0 => break,
                step => version = version.nth(step, 1),
            }
        }
        None
    }
}

/// The hash of DT_GNU_HASH.
fn gnu_hash(name: &[u8]) -> u32 {
    name.iter().fold(5381, |hash: u32, byte| {
        hash.wrapping_mul(33).wrapping_add(u32::from(*byte))
    })
}

/// The hash of DT_HASH.
fn sysv_hash(name: &[u8]) -> u32 {
    name.iter().fold(0, |hash: u32, byte| {
        let hash = hash.wrapping_shl(4).wrapping_add(u32::from(*byte));
        (hash ^ ((hash >> 24) & 0xf0)) & 0x0fff_ffff
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values from the ELF specification's own examples and from readelf of libc.
    #[test]
    fn hashes() {
        assert_eq!(gnu_hash(b""), 0x1505);
        assert_eq!(gnu_hash(b"printf"), 0x156b_2bb8);
        assert_eq!(gnu_hash(b"exit"), 0x7c96_7e3f);
        assert_eq!(sysv_hash(b""), 0);
        assert_eq!(sysv_hash(b"printf"), 0x077905a6);
        assert_eq!(sysv_hash(b"exit"), 0x0006cf04);
    }
}
