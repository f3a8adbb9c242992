//! The regions whose first address lies inside a large chunk that begins in a region before: by the number of
//! the region, the chunk's beginning. An address far inside a chunk of gigabytes is then found in one step.

use crate::index::region;
use crate::sync::{AtomicUsize, Ordering};

/// A power of two: a terabyte of such chunks, at any one time and place.
const PLACES: usize = 1 << 14;
/// How far from its place a region is looked for.
const PROBES: usize = 64;

struct Place {
    /// Number of the region plus one; 0 if there is none. Never changes once it is set: heaps come back to
    /// where they were.
    key: AtomicUsize,
    /// Beginning of the chunk; 0 if there is none.
    base: AtomicUsize,
}

pub(crate) struct Covered([Place; PLACES]);

impl Covered {
    pub(crate) const fn new() -> Self {
        Self(
            [const {
                Place {
                    key: AtomicUsize::new(0),
                    base: AtomicUsize::new(0),
                }
            }; PLACES],
        )
    }

    /// Notes all regions that the chunk from `base` to `limit` reaches into, or forgets them. If the table is
    /// full, some are not noted.
    pub(crate) fn change(&self, base: usize, limit: usize, covers: bool) {
        let first = region::number(base).wrapping_add(1);
        let end = region::number(limit.wrapping_sub(1)).wrapping_add(1);
        for number in (first..end).take(PLACES) {
            let Some(place) = self.place(number, covers) else {
                continue;
            };
            if covers {
                place.base.store(base, Ordering::SeqCst);
            } else {
                // Only its own: the memory may have been given out again meanwhile.
                let _ = place
                    .base
                    .compare_exchange(base, 0, Ordering::SeqCst, Ordering::SeqCst);
            }
        }
    }

    /// The beginning of the chunk that contains the first address of the region of `address`.
    pub(crate) fn base(&self, address: usize) -> Option<usize> {
        let place = self.place(region::number(address), false)?;
        Some(place.base.load(Ordering::SeqCst)).filter(|base| *base != 0)
    }

    /// The place of the region with that number; with `take`, a new one if there is none.
    fn place(&self, number: usize, take: bool) -> Option<&Place> {
        let key = number.wrapping_add(1);
        for step in 0..PROBES {
            let place = self.0.get(number.wrapping_add(step) & (PLACES - 1))?;
            let mut found = place.key.load(Ordering::SeqCst);
            if found == 0 && take {
                let taken = place
                    .key
                    .compare_exchange(0, key, Ordering::SeqCst, Ordering::SeqCst);
                found = taken.map_or_else(|found| found, |_| key);
            }
            if found == key {
                return Some(place);
            }
            if found == 0 {
                return None;
            }
        }
        None
    }
}
