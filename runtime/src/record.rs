//! The record: eight bytes at the end of each chunk that say where it was made and how many bytes were asked for.
//!
//! ```text
//!  chunk                                       capacity, as the allocator gives it
//!  |◀────── size, asked for ──────▶|           |◀ 8 ▶|
//!  |◀───────────── usable size ───────────────▶| size << 24 | site
//! ```
//!
//! Hooks ask the allocator for eight bytes more, and malloc_usable_size says eight less, so that the record
//! belongs to nobody else. Where an allocator in the executable does not say how large its chunks are, records are
//! beside the marks. A record means something only while the chunk's mark is set; and a program that writes
//! beyond its chunks may have written over it, so nothing but answers depends on it.

use core::ptr;

use crate::site::Site;

/// Size of a record.
pub(crate) const RECORD: usize = size_of::<u64>();
/// Allocators may have chunks of eight bytes side by side, but one mark stands for sixteen.
const LEAST: usize = 16;
/// Bits of the site.
const SITE: u32 = 24;

/// What is known of one chunk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record {
    /// Bytes that were asked for.
    pub(crate) size: usize,
    /// Bytes that the program may use.
    pub(crate) usable_size: usize,
    pub(crate) site: Site,
}

impl Record {
    /// That of a chunk whose allocator does not say how large it is.
    pub(crate) const UNKNOWN: Self = Self {
        size: 0,
        usable_size: 0,
        site: Site::UNKNOWN,
    };
}

/// What to ask the allocator for, so that a chunk of `size` bytes has its record. (A size that overflows cannot
/// be had with or without.)
#[inline(always)]
pub(crate) const fn padded(size: usize) -> usize {
    let padded = size.saturating_add(RECORD);
    if padded < LEAST { LEAST } else { padded }
}

/// How many bytes an allocator is asked for; `padded` if it says how large a chunk is, so that its record is in it.
#[inline(always)]
pub(crate) const fn request(size: usize, has_record: bool) -> usize {
    if has_record {
        padded(size)
    } else if size < LEAST {
        LEAST
    } else {
        size
    }
}

/// The word that says so; of a size that has too many bits, the lowest.
#[inline(always)]
pub(crate) fn word(size: usize, site: Site) -> u64 {
    (size as u64) << SITE | u64::from(site.number())
}

/// What `word` says of a chunk of which `usable_size` bytes may be used, and no more.
#[inline(always)]
pub(crate) fn read_word(word: u64, usable_size: usize) -> Record {
    let size = usize::try_from(word >> SITE).unwrap_or(usize::MAX);
    let site = u32::try_from(word & ((1 << SITE) - 1)).unwrap_or_default();
    Record {
        size: size.min(usable_size),
        usable_size,
        site: Site::from_number(site),
    }
}

/// What `word` says of a chunk that has no room for it, and for which the allocator gives `capacity`, or 0 if it does not
/// say.
pub(crate) fn read_beside(word: u64, capacity: usize) -> Record {
    let record = read_word(word, usize::MAX);
    Record {
        usable_size: if capacity == 0 {
            request(record.size, false)
        } else {
            capacity
        },
        ..record
    }
}

/// Writes the record of `chunk`, of which `usable_size` bytes may be used, and for which `size` bytes were asked. False if
/// those are not in the chunk, or too many for the record.
///
/// # Safety
/// The chunk must be alive, and have room for its record behind what may be used.
#[inline(always)]
pub(crate) unsafe fn write(chunk: usize, usable_size: usize, size: usize, site: Site) -> bool {
    if size > usable_size || size >= 1 << (u64::BITS - SITE) {
        return false;
    }
    let at = ptr::with_exposed_provenance_mut::<u64>(chunk.wrapping_add(usable_size));
    // SAFETY: the last bytes of the chunk, which nobody else uses. Some allocators' capacities are odd.
    unsafe { at.write_unaligned(word(size, site)) };
    true
}

/// Reads the record of `chunk`, of which `usable_size` bytes may be used.
///
/// # Safety
/// The chunk must be alive, have room for its record behind them, and be marked.
#[inline(always)]
pub(crate) unsafe fn read(chunk: usize, usable_size: usize) -> Record {
    let at = ptr::with_exposed_provenance::<u64>(chunk.wrapping_add(usable_size));
    // SAFETY: as in `write`; a mark says that it was written.
    read_word(unsafe { at.read_unaligned() }, usable_size)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut memory = [0_u64; 8];
        let chunk = memory.as_mut_ptr().expose_provenance();
        let site = Site::from_number(0xab_cdef);
        for (size, usable_size) in [(0, 8), (10, 16), (56, 56), (3, 49), (30, 53)] {
            // SAFETY: `memory` has room for the record behind it.
            assert!(unsafe { write(chunk, usable_size, size, site) });
            let record = Record {
                size,
                usable_size,
                site,
            };
            // SAFETY: as above.
            assert_eq!(unsafe { read(chunk, usable_size) }, record);
        }
        // SAFETY: as above.
        assert!(!unsafe { write(chunk, 16, 17, site) });
        // SAFETY: nothing is written.
        assert!(!unsafe { write(chunk, 1 << 41, 1 << 40, site) });
    }

    #[test]
    fn nothing_is_larger_than_its_chunk() {
        assert_eq!(read_word(u64::MAX, 24).size, 24);
    }

    #[test]
    fn sizes_are_padded() {
        assert_eq!([0, 8, 9, 100].map(padded), [16, 16, 17, 108]);
        assert_eq!(padded(usize::MAX - 3), usize::MAX);
    }
}
