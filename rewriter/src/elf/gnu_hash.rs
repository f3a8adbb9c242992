//! DT_GNU_HASH: four words, a Bloom filter of words of an address's size, buckets, and one chain word for each symbol
//! from `first` on; a chain ends at a word whose lowest bit is set (glibc elf/dl-lookup.c, `do_lookup_x`).

use object::Endianness;

use crate::elf::{Class, Format};

/// What the first words say: where in the table what is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct GnuHash {
    format: Format,
    buckets: u32,
    first: u32,
    bloom: u32,
    bloom_shift: u32,
}

impl GnuHash {
    /// Bytes of the first words.
    pub(crate) const HEAD: u64 = 16;

    /// The table that begins with `head`.
    pub(crate) fn new(head: &[u8], format: Format) -> Option<Self> {
        let [buckets, first, bloom, bloom_shift] = *format.words(head).first_chunk()?;
        Some(Self {
            format,
            buckets,
            first,
            bloom,
            bloom_shift: bloom_shift % 32,
        })
    }

    /// Index of the first symbol that is hashed; those before it are undefined or local.
    pub(crate) fn first(&self) -> u32 {
        self.first
    }

    /// Bytes of the buckets.
    pub(crate) fn buckets_size(&self) -> u64 {
        4 * u64::from(self.buckets)
    }

    /// Offset of the buckets in the table.
    pub(crate) fn buckets_at(&self) -> u64 {
        Self::HEAD + self.format.word() * u64::from(self.bloom)
    }

    /// Offset of the first symbol's chain word.
    pub(crate) fn chains_at(&self) -> u64 {
        self.buckets_at() + self.buckets_size()
    }

    /// The first symbol with the name's hash that `is_it`: its index is asked about. `word` reads the four bytes at an offset
    /// of the table, and gives `None` behind its end.
    pub(crate) fn find<E>(
        &self,
        name: &[u8],
        mut word: impl FnMut(u64) -> Result<Option<u32>, E>,
        mut is_it: impl FnMut(u32) -> Result<bool, E>,
    ) -> Result<Option<u32>, E> {
        let hash = object::elf::gnu_hash(name);
        let Some(bucket) = hash.checked_rem(self.buckets) else {
            return Ok(None);
        };
        for bit in [hash, hash >> self.bloom_shift] {
            let (at, bit) = self.bloom_bit(hash, bit);
            if self.bloom != 0 && word(at)?.is_some_and(|word| word >> bit & 1 == 0) {
                return Ok(None);
            }
        }
        let start = word(self.buckets_at() + 4 * u64::from(bucket))?;
        let Some(start) = start.filter(|start| *start != 0 && *start >= self.first) else {
            return Ok(None);
        };
        for index in start..=u32::MAX {
            let Some(chain) = word(self.chains_at() + 4 * u64::from(index - self.first))? else {
                break;
            };
            if chain | 1 == hash | 1 && is_it(index)? {
                return Ok(Some(index));
            }
            if chain & 1 == 1 {
                break;
            }
        }
        Ok(None)
    }

    /// Offset of the four bytes of the Bloom filter that have the bit which says `bit` of the names with that hash, and its
    /// number there.
    fn bloom_bit(&self, hash: u32, bit: u32) -> (u64, u32) {
        let size = self.format.word();
        let bits = 8 * u32::try_from(size).unwrap_or(u32::MAX);
        let index = (hash / bits) & self.bloom.wrapping_sub(1);
        let half = u64::from(bit % bits / 32);
        let half = match self.format.endian {
            Endianness::Big if self.format.class == Class::Elf64 => 1 - half,
            _ => half,
        };
        (Self::HEAD + size * u64::from(index) + 4 * half, bit % 32)
    }
}
