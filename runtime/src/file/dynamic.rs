//! An object's dynamic symbols where they are in memory: what is left of an object whose file is gone, such as a
//! library that was unpacked, loaded and removed, and of the vdso, which never had one.

use crate::elf::{DT_GNU_HASH, DT_HASH, DT_NULL, DT_STRTAB, DT_SYMTAB};
use crate::memory::{Access, Mapped};
use crate::object::Object;

const DT_STRSZ: usize = 10;
const DT_SONAME: usize = 14;

/// More entries than a dynamic table has, and more symbols.
const ENTRIES: usize = 256;
const SYMBOLS: u32 = 1 << 24;

/// Where the tables are.
pub(crate) struct Dynamic {
    pub(crate) symbols: usize,
    pub(crate) count: usize,
    pub(crate) names: usize,
    pub(crate) names_size: usize,
}

impl Dynamic {
    /// Those of `object`. `None` if it has none, or is gone.
    pub(crate) fn of(object: Object, access: Access) -> Option<Self> {
        let value = |wanted: usize| {
            (0..ENTRIES)
                .map_while(|index| {
                    access.words(
                        object
                            .dynamic
                            .address()
                            .wrapping_add(index.wrapping_mul(16)),
                    )
                })
                .take_while(|[tag, _]| *tag != DT_NULL)
                .find(|[tag, _]| *tag == wanted)
                .map(|[_, value]| value)
        };
        let table = |wanted: usize| value(wanted).map(|value| object.table(value));
        let count = match (table(DT_HASH), table(DT_GNU_HASH)) {
            // The chain has a place for each symbol.
            (Some(hash), _) => access.u32(hash.wrapping_add(4))?,
            (None, Some(hash)) => hashed(access, hash)?,
            (None, None) => return None,
        };
        Some(Self {
            symbols: table(DT_SYMTAB)?,
            count: Some(count).filter(|count| *count < SYMBOLS)? as usize,
            names: table(DT_STRTAB)?,
            names_size: value(DT_STRSZ)?,
        })
    }
}

/// The name that other objects ask for a library by.
pub(crate) fn soname(object: Object) -> Option<Mapped> {
    let value = |wanted| {
        let (_, value) = object.entries().find(|(tag, _)| *tag == wanted)?;
        Some(value)
    };
    let strings = object.table(value(DT_STRTAB)?);
    // SAFETY: a string among those of the dynamic table.
    Some(unsafe { Mapped::new(strings.wrapping_add(value(DT_SONAME)?)) })
}

/// How many symbols there are up to the last one in the DT_GNU_HASH at `table`, see `symbol`.
fn hashed(access: Access, table: usize) -> Option<u32> {
    let nth = |at: usize, index: u32| access.u32(at.wrapping_add((index as usize).wrapping_mul(4)));
    let (buckets, first_hashed) = (nth(table, 0)?, nth(table, 1)?);
    let filter_words = nth(table, 2)? as usize;
    let bucket = table
        .wrapping_add(16)
        .wrapping_add(filter_words.wrapping_mul(8));
    let chain = bucket.wrapping_add((buckets as usize).wrapping_mul(4));
    let last = (0..buckets.min(SYMBOLS))
        .map_while(|index| nth(bucket, index))
        .max()?;
    if last < first_hashed {
        return Some(first_hashed);
    }
    let is_last = |index: &u32| {
        nth(chain, index.wrapping_sub(first_hashed)).is_none_or(|value| value & 1 == 1)
    };
    (last..SYMBOLS)
        .find(is_last)
        .map(|index| index.wrapping_add(1))
}
