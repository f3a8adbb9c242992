//! Allocations that the program itself makes inside memory that it has got elsewhere, and announces: those of
//! pools, slabs and obstacks. They have marks as chunks have, but their memory has no room for a record, so there
//! is one for each mark, in memory that is resident only where something was announced.

use crate::index::{GRAIN, Index};
use crate::site::Site;
use crate::sync::{AtomicBool, AtomicU64, Ordering::Relaxed};

static NESTED: Index = Index::new();

/// Whether anything was ever announced.
static ANY: AtomicBool = AtomicBool::new(false);

/// Bits of the parts of a record.
const SIZE: u32 = 30;
const WITHIN: u32 = 4;
const ALLOCATOR: u32 = 6;

/// One nested allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Nested {
    pub(crate) base: usize,
    pub(crate) size: usize,
    /// Number of the registered allocator.
    pub(crate) allocator: usize,
    pub(crate) site: Site,
}

impl Nested {
    /// What is kept of it: site, allocator, where in its first 16 bytes it begins, size.
    fn packed(&self) -> u64 {
        let within = (self.base & 15) as u64;
        let mut record = u64::from(self.site.number());
        record = record << ALLOCATOR | self.allocator as u64;
        record = record << WITHIN | within;
        record << SIZE | self.size as u64
    }

    fn unpacked(grain: usize, record: u64) -> Self {
        let part = |from: u32, bits: u32| {
            let part = (record >> from) & ((1 << bits) - 1);
            usize::try_from(part).unwrap_or_default()
        };
        let site = u32::try_from(record >> (SIZE + WITHIN + ALLOCATOR)).unwrap_or_default();
        Self {
            base: grain | part(SIZE, WITHIN),
            size: part(0, SIZE),
            allocator: part(SIZE + WITHIN, ALLOCATOR),
            site: Site::from_number(site),
        }
    }

    /// The first address behind it. One without a byte has one address.
    pub(crate) fn limit(&self) -> usize {
        self.base.wrapping_add(self.size.max(1))
    }
}

/// Enters an allocation. False if there is one already in its first 16 bytes, if it is too large, and if there
/// is no memory to note it.
pub(crate) fn announce(nested: Nested) -> bool {
    if nested.size >> SIZE != 0 {
        return false;
    }
    ANY.store(true, Relaxed);
    let grain = nested.base & !(GRAIN - 1);
    let mark = NESTED.mark(grain);
    let Some(mark) = mark.or_else(|| NESTED.make_mark(grain, true)) else {
        return false;
    };
    let Some(record) = NESTED.record(nested.base).filter(|_| !mark.is_set()) else {
        return false;
    };
    record.store(nested.packed(), Relaxed);
    NESTED.note_large(nested.base, nested.limit());
    mark.set();
    true
}

/// Takes the allocation at `base` out again. False if `allocator` has none there.
pub(crate) fn retract(allocator: usize, base: usize) -> bool {
    let is_it = |nested: &Nested| nested.allocator == allocator && nested.base == base;
    let Some(nested) = beginning_at(base).filter(is_it) else {
        return false;
    };
    if let Some(mark) = NESTED.mark(base & !(GRAIN - 1)) {
        NESTED.forget_large(base, nested.limit());
        mark.clear();
    }
    true
}

/// Whether there may be any.
pub(crate) fn are_there() -> bool {
    ANY.load(Relaxed)
}

/// The allocation that contains `address`.
pub(crate) fn at(address: usize) -> Option<Nested> {
    let base = NESTED.at_or_below(address)?;
    beginning_at(base).filter(|nested| (nested.base..nested.limit()).contains(&address))
}

/// The allocation that begins in the 16 bytes around `address`.
fn beginning_at(address: usize) -> Option<Nested> {
    let grain = address & !(GRAIN - 1);
    let mark = NESTED.mark(grain).filter(|mark| mark.is_set());
    mark?;
    let record = NESTED.record(grain)?.load(Relaxed);
    Some(Nested::unpacked(grain, record))
}

/// Shows `visit` the allocations that begin from `begin` on and before `end`, until it returns false.
pub(crate) fn walk(begin: usize, end: usize, mut visit: impl FnMut(Nested) -> bool) -> bool {
    NESTED.words(begin, end).all(|(first, word)| {
        marks(first, word)
            .filter_map(beginning_at)
            .filter(|nested| (begin..end).contains(&nested.base))
            .all(&mut visit)
    })
}

/// The addresses that are marked in `word`.
fn marks(first: usize, word: &AtomicU64) -> impl Iterator<Item = usize> {
    let bits = word.load(Relaxed);
    (0..u64::BITS as usize)
        .filter(move |bit| bits >> bit & 1 == 1)
        .map(move |bit| first.wrapping_add(bit << 4))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_packed_is_unpacked() {
        let nested = Nested {
            base: 0x7fff_1234_5678,
            size: (1 << SIZE) - 1,
            allocator: 62,
            site: Site::from_number(0xff_1234),
        };
        let grain = nested.base & !15;
        assert_eq!(Nested::unpacked(grain, nested.packed()), nested);
    }

    #[test]
    fn what_is_announced_is_found_and_retracted() {
        let base = 0x1234_5678_9abc;
        let nested = |base, size| Nested {
            base,
            size,
            allocator: 3,
            site: Site::UNKNOWN,
        };
        assert!(announce(nested(base, 100)));
        assert!(!announce(nested(base + 1, 10)), "in the same 16 bytes");
        assert!(!announce(nested(base + 64, 1 << SIZE)), "too large");
        assert_eq!(at(base - 1), None);
        assert_eq!(at(base), Some(nested(base, 100)));
        assert_eq!(at(base + 99), Some(nested(base, 100)));
        assert_eq!(at(base + 100), None);
        assert!(announce(nested(base + 200, 10)));
        let mut seen = Vec::new();
        walk(base & !15, base + 1, |nested| {
            seen.push(nested);
            true
        });
        assert_eq!(seen, [nested(base, 100)]);
        assert!(!retract(4, base));
        assert!(retract(3, base));
        assert!(!retract(3, base));
        assert_eq!(at(base), None);
        // A large one, from one 64 MiB into the next.
        let base = 0x1234_7bff_fff8;
        assert!(announce(nested(base, 0x20000)));
        assert_eq!(at(base + 0x18000), Some(nested(base, 0x20000)));
        assert!(retract(3, base));
        assert_eq!(at(base + 0x18000), None);
    }
}
