//! ld.so.cache: the library paths that ldconfig found.
//!
//! The format is glibc's `struct cache_file_new`, alone or behind the older `struct cache_file`
//! (sysdeps/generic/dl-cache.h); the lookup is that of `search_cache` in elf/dl-cache.c. The table is
//! sorted downwards by a comparison that takes runs of digits as numbers, and of the entries with
//! one name, those for a better processor come first. A cache that makes no sense is no cache, as
//! the loader has it.

use std::cmp::Ordering;
use std::path::Path;

use object::Endianness;
use object::elf;

use crate::elf::{Class, Format};

const MAGIC: &[u8] = b"glibc-ld.so.cache1.1";
const OLD_MAGIC: &[u8] = b"ld.so-1.7.0";
const HEADER: usize = 48;
const ENTRY: usize = 24;
const OLD_HEADER: usize = 16;
const OLD_ENTRY: usize = 12;
const EXTENSION_MAGIC: u32 = 0xeaa4_2174;
const GLIBC_HWCAPS: u32 = 1;

/// A cache that has been read.
#[derive(Debug, Default)]
pub(crate) struct Cache {
    format: Format,
    /// What the entries of the libraries that count say.
    flags: &'static [u32],
    /// From the new format's header on: offsets count from there.
    bytes: Vec<u8>,
    entries: usize,
    /// For each glibc-hwcaps name of the cache, its rank on the program's processor, 1 the best;
    /// `None` where it lacks it.
    ranks: Vec<Option<usize>>,
    /// Bit number of the processor's instruction set level: 0 is the baseline.
    level: u64,
}

impl Cache {
    /// Takes the bytes of the file that the loader at `loader` reads; `hwcaps` are the names that the processor
    /// has, best first.
    pub(crate) fn new(file: &[u8], hwcaps: &[String], format: Format, loader: &Path) -> Self {
        Self::parse(file, hwcaps, format, flags(format, loader)).unwrap_or_default()
    }

    fn parse(
        file: &[u8],
        hwcaps: &[String],
        format: Format,
        flags: &'static [u32],
    ) -> Option<Self> {
        let word = |bytes: &[u8], at| word(format, bytes, at);
        let start = match file.starts_with(OLD_MAGIC) {
            false => 0,
            true => {
                let entries = usize::try_from(word(file, 12)?).ok()?;
                let end = entries.checked_mul(OLD_ENTRY)?.checked_add(OLD_HEADER)?;
                end.checked_next_multiple_of(8)?
            }
        };
        let bytes = file.get(start..)?;
        let endianness = *bytes.get(28)? & 3;
        let own = match format.endian {
            Endianness::Little => 2,
            Endianness::Big => 3,
        };
        if !bytes.starts_with(MAGIC) || (endianness != 0 && endianness != own) {
            return None;
        }
        let entries = usize::try_from(word(bytes, 20)?).ok()?;
        if bytes.len().checked_sub(HEADER)? / ENTRY < entries {
            return None;
        }
        let mut cache = Self {
            format,
            flags,
            bytes: bytes.to_vec(),
            entries,
            ranks: Vec::new(),
            level: level(hwcaps),
        };
        // Offsets of extensions count from the start of the file.
        cache.ranks = cache.ranks(file, hwcaps).unwrap_or_default();
        Some(cache)
    }

    fn ranks(&self, file: &[u8], hwcaps: &[String]) -> Option<Vec<Option<usize>>> {
        let word = |bytes: &[u8], at| word(self.format, bytes, at);
        let directory = usize::try_from(word(&self.bytes, 32)?).ok()?;
        if directory == 0 || directory % 4 != 0 || word(file, directory)? != EXTENSION_MAGIC {
            return None;
        }
        let count = usize::try_from(word(file, directory + 4)?).ok()?;
        let sections = (0..count).map_while(|index| {
            let at = index.checked_mul(16)?.checked_add(directory + 8)?;
            Some((word(file, at)?, word(file, at + 8)?, word(file, at + 12)?))
        });
        let (_, at, size) = { sections }.find(|(tag, ..)| *tag == GLIBC_HWCAPS)?;
        let (at, size) = (usize::try_from(at).ok()?, usize::try_from(size).ok()?);
        let names = self.format.words(file.get(at..at.checked_add(size)?)?);
        let rank = |name: u32| {
            let name = string(file, name)?;
            let place = hwcaps.iter().position(|has| has.as_bytes() == name)?;
            Some(place + 1)
        };
        Some(names.into_iter().map(rank).collect())
    }

    /// The path of the library `name`.
    pub(crate) fn find(&self, name: &[u8]) -> Option<&[u8]> {
        let key = |index| string(&self.bytes, self.entry(index)?.key);
        let (mut left, mut right) = (0, self.entries);
        while left < right {
            let middle = left + (right - left) / 2;
            match compare(name, key(middle)?) {
                Ordering::Less => left = middle + 1,
                Ordering::Greater => right = middle,
                Ordering::Equal => {
                    let same = |&index: &usize| {
                        key(index).is_some_and(|key| compare(name, key) == Ordering::Equal)
                    };
                    let first = (0..middle).rev().take_while(same).last();
                    let all = (first.unwrap_or(middle)..self.entries).take_while(same);
                    return self.best(all);
                }
            }
        }
        None
    }

    /// The best for this processor among the entries with one name.
    fn best(&self, indices: impl Iterator<Item = usize>) -> Option<&[u8]> {
        let mut best: Option<(usize, &[u8])> = None;
        for entry in indices.filter_map(|index| self.entry(index)) {
            let Some(path) =
                string(&self.bytes, entry.value).filter(|_| self.flags.contains(&entry.flags))
            else {
                continue;
            };
            match entry.extension() {
                Some((level, name)) => {
                    let rank = self.ranks.get(name).copied().flatten();
                    let Some(rank) = rank.filter(|_| level <= self.level) else {
                        continue;
                    };
                    if best.is_none_or(|(before, _)| rank < before) {
                        best = Some((rank, path));
                    }
                }
                // Those for better processors come first.
                None if best.is_some() => break,
                None if entry.hwcap == 0 => return Some(path),
                None => {}
            }
        }
        best.map(|(_, path)| path)
    }

    fn entry(&self, index: usize) -> Option<Entry> {
        let at = HEADER.checked_add(index.checked_mul(ENTRY)?)?;
        let bytes = &self.bytes;
        let word = |bytes: &[u8], at| word(self.format, bytes, at);
        let (first, second) = (word(bytes, at + 16)?, word(bytes, at + 20)?);
        let (low, high) = match self.format.endian {
            Endianness::Little => (first, second),
            Endianness::Big => (second, first),
        };
        Some(Entry {
            flags: word(bytes, at)?,
            key: word(bytes, at + 4)?,
            value: word(bytes, at + 8)?,
            hwcap: u64::from(high) << 32 | u64::from(low),
        })
    }
}

/// `struct file_entry_new`.
struct Entry {
    flags: u32,
    key: u32,
    value: u32,
    hwcap: u64,
}

impl Entry {
    /// Instruction set level and number of the glibc-hwcaps name, where the entry is for one
    /// (`dl_cache_hwcap_extension`).
    fn extension(&self) -> Option<(u64, usize)> {
        const EXTENSION: u64 = 1 << 30;
        const LEVEL: u64 = (1 << 10) - 1;
        let high = self.hwcap >> 32;
        let name = usize::try_from(self.hwcap & 0xffff_ffff).ok()?;
        (high & !LEVEL == EXTENSION).then_some((high & LEVEL, name))
    }
}

/// `_dl_cache_libcmp`.
fn compare(a: &[u8], b: &[u8]) -> Ordering {
    let (mut a, mut b) = (a, b);
    while let Some((&first, rest)) = a.split_first() {
        let other = b.first().copied();
        let ordering = match (
            first.is_ascii_digit(),
            other.is_some_and(|o| o.is_ascii_digit()),
        ) {
            (true, true) => number(&mut a).cmp(&number(&mut b)),
            (true, false) => return Ordering::Greater,
            (false, true) => return Ordering::Less,
            (false, false) if other == Some(first) => {
                (a, b) = (rest, &b[1..]);
                Ordering::Equal
            }
            (false, false) => return Some(first).cmp(&other),
        };
        if ordering != Ordering::Equal {
            return ordering;
        }
    }
    if b.is_empty() {
        Ordering::Equal
    } else {
        Ordering::Less
    }
}

/// Takes the number at the start of `text`. It wraps around as the loader's does.
fn number(text: &mut &[u8]) -> i32 {
    let mut value = 0_i32;
    while let Some((digit, rest)) = text
        .split_first()
        .filter(|(digit, _)| digit.is_ascii_digit())
    {
        value = value.wrapping_mul(10).wrapping_add(i32::from(digit - b'0'));
        *text = rest;
    }
    value
}

fn word(format: Format, bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..at.checked_add(4)?)?;
    format.words(bytes).first().copied()
}

/// What an entry says of a library that this loader takes: that it is an ELF file for glibc, and its ABI (glibc
/// sysdeps/generic/ldconfig.h; `_dl_cache_check_flags` in the dl-cache.h of each machine).
fn flags(format: Format, loader: &Path) -> &'static [u32] {
    let is_hard_float = loader.to_string_lossy().ends_with("-armhf.so.3");
    match (format.machine, format.class) {
        (elf::EM_X86_64, Class::Elf64) => &[0x303],
        (elf::EM_X86_64, Class::Elf32) => &[0x803],
        (elf::EM_S390, Class::Elf64) => &[0x403],
        (elf::EM_PPC64, _) => &[0x503],
        (elf::EM_MIPS, Class::Elf64) => &[0x703],
        (elf::EM_AARCH64, _) => &[0xa03],
        (elf::EM_RISCV, _) => &[0x1003],     // lp64d
        (elf::EM_LOONGARCH, _) => &[0x1203], // the same
        // Libraries that do not say which of the two they are for are for both.
        (elf::EM_ARM, _) if is_hard_float => &[0x903, 3],
        (elf::EM_ARM, _) => &[0xb03, 3],
        // The first ABI of all: ldconfig up to 2.31 does not know whose library it is that needs none.
        _ => &[3, 1],
    }
}

/// The x86-64 level above the baseline, of the best processor that has one of these names.
fn level(hwcaps: &[String]) -> u64 {
    let levels = hwcaps.iter().filter_map(|name| {
        let level: u64 = name.strip_prefix("x86-64-v")?.parse().ok()?;
        level.checked_sub(1)
    });
    levels.max().unwrap_or(0)
}

fn string(bytes: &[u8], at: u32) -> Option<&[u8]> {
    let rest = bytes.get(usize::try_from(at).ok()?..)?;
    rest.get(..memchr::memchr(0, rest)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digits_compare_as_numbers() {
        assert_eq!(compare(b"libx.so.10", b"libx.so.9"), Ordering::Greater);
        assert_eq!(compare(b"libx.so.2", b"libx.so.02"), Ordering::Equal);
        assert_eq!(compare(b"liba.so", b"liba.so.1"), Ordering::Less);
        assert_eq!(compare(b"lib1", b"liba"), Ordering::Greater);
        assert_eq!(compare(b"", b""), Ordering::Equal);
    }
}
