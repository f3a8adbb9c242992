//! The record: eight bytes at the end of each chunk that say where it was made and how many bytes were asked for.
//!
//! ```text
//!  chunk                                       capacity, as the allocator gives it
//!  |◀────── size, asked for ──────▶|◀─ slack ─▶|◀ 8 ▶|
//!  |◀───────────── usable size ───────────────▶| slack << 24 | site
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

/// A record of a chunk that has no room for it: size and site.
pub(crate) fn beside(size: usize, site: Site) -> u64 {
    (size as u64) << SITE | u64::from(site.number())
}

/// Reads one of [`beside`].
pub(crate) fn read_beside(record: u64) -> Record {
    let size = usize::try_from(record >> SITE).unwrap_or(usize::MAX);
    let site = u32::try_from(record & ((1 << SITE) - 1)).unwrap_or_default();
    Record {
        size,
        usable_size: request(size, false),
        site: Site::from_number(site),
    }
}

/// Writes the record of `chunk`, for which `size` bytes were asked, and for which the allocator gives
/// `capacity`. False if there is no room.
///
/// # Safety
/// The chunk must be alive, of that capacity, and asked for with [`padded`] if it has room at all.
#[inline(always)]
pub(crate) unsafe fn write(chunk: usize, capacity: usize, size: usize, site: Site) -> bool {
    let Some(usable_size) = capacity.checked_sub(RECORD) else {
        return false;
    };
    let Some(slack) = usable_size.checked_sub(size) else {
        return false;
    };
    let at = ptr::with_exposed_provenance_mut::<u64>(chunk.wrapping_add(usable_size));
    // SAFETY: the last bytes of the chunk, which nobody else uses. Some allocators' capacities are odd.
    unsafe { at.write_unaligned((slack as u64) << SITE | u64::from(site.number())) };
    true
}

/// Reads the record of `chunk`. `None` if it has no room for one.
///
/// # Safety
/// The chunk must be alive, of that capacity, and marked.
#[inline(always)]
pub(crate) unsafe fn read(chunk: usize, capacity: usize) -> Option<Record> {
    let usable_size = capacity.checked_sub(RECORD)?;
    let at = ptr::with_exposed_provenance::<u64>(chunk.wrapping_add(usable_size));
    // SAFETY: as in `write`; a mark says that it was written.
    let record = unsafe { at.read_unaligned() };
    let slack = usize::try_from(record >> SITE).unwrap_or(usize::MAX);
    let site = u32::try_from(record & ((1 << SITE) - 1)).unwrap_or_default();
    Some(Record {
        size: usable_size.saturating_sub(slack),
        usable_size,
        site: Site::from_number(site),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read() {
        let mut memory = [0_u64; 8];
        let chunk = memory.as_mut_ptr().expose_provenance();
        for (size, capacity) in [(0, 16), (10, 24), (56, 64), (3, 57), (30, 61)] {
            let site = Site::from_number(0xab_cdef);
            // SAFETY: `memory` is that large.
            assert!(unsafe { write(chunk, capacity, size, site) });
            let usable_size = capacity - RECORD;
            let record = Record {
                size,
                usable_size,
                site,
            };
            // SAFETY: as above.
            assert_eq!(unsafe { read(chunk, capacity) }, Some(record));
        }
        // SAFETY: as above.
        assert!(!unsafe { write(chunk, 7, 0, Site::UNKNOWN) });
        // SAFETY: as above.
        assert!(!unsafe { write(chunk, 24, 17, Site::UNKNOWN) });
    }

    #[test]
    fn sizes_are_padded() {
        assert_eq!([0, 8, 9, 100].map(padded), [16, 16, 17, 108]);
        assert_eq!(padded(usize::MAX - 3), usize::MAX);
    }
}
