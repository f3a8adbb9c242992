//! A table with a cache in front of it, where each key has one slot: what was met last is found in a few instructions.

use crate::machine::CODE_ALIGNMENT;
use crate::site::table::{Key, Table, VALUE, value};
use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, SeqCst},
};

/// Bits of an address that say which slot of the cache is its.
const SLOT: u32 = 12;
const SLOTS: usize = 1 << SLOT;

/// A table of return addresses, and the cache. All zeros is empty.
///
/// What is in a slot is the address with the value laid over it, shifted so far that addresses which differ and have
/// one slot differ in bits that no value has.
pub(crate) struct Cached {
    slots: [AtomicU64; SLOTS],
    table: Table,
}

impl Cached {
    pub(crate) const fn new() -> Self {
        Self {
            slots: [const { AtomicU64::new(0) }; SLOTS],
            table: Table::new(),
        }
    }

    /// The value of `address`, or a number that is no value: the usual case of a look-up. It may be there even so.
    #[inline(always)]
    pub(crate) fn at_hand(&self, address: usize) -> u64 {
        let slot = self.slot(address).map_or(0, |slot| slot.load(Acquire));
        slot ^ laid_over(address, 0)
    }

    #[inline(always)]
    fn slot(&self, address: usize) -> Option<&AtomicU64> {
        self.slots.get((address >> CODE_ALIGNMENT) % SLOTS)
    }

    /// The value of `address`, which is at hand from now on, until another one takes its slot.
    pub(crate) fn meet(&self, address: usize) -> Option<u32> {
        let key = Key::of_address(address);
        let (home, value) = self.table.find_slot(key)?;
        self.copy(address, key, home);
        Some(value)
    }

    /// Puts `address`, which is in `home`, into the cache. While another thread changes the value, this one writes the
    /// cache and reads `home`, that one writes `home` and reads the cache: with one order of all four, one of them sees
    /// what the other has written.
    fn copy(&self, address: usize, key: Key, home: &AtomicU64) {
        let before = home.load(SeqCst);
        if let Some(slot) = self.slot(address)
            && let Some(value) = value(before, key)
        {
            slot.store(laid_over(address, value), SeqCst);
        }
        let now = home.load(SeqCst);
        if now != before
            && let Some(value) = value(now, key)
        {
            self.change(address, value);
        }
    }

    /// The value of a `key` that is not looked up so often.
    pub(crate) fn find(&self, key: Key) -> Option<u32> {
        self.table.find(key)
    }

    /// [`Table::add`].
    pub(crate) fn add(&self, key: Key, value: u32) -> Option<u32> {
        self.table.add(key, value)
    }

    /// Gives `address`, if it is there, another value, in an order with [`Self::copy`].
    pub(crate) fn change(&self, address: usize, value: u32) {
        self.table.change(Key::of_address(address), value);
        // Should another address come into the slot meanwhile, it has to be met again.
        if let Some(slot) = self.slot(address)
            && slot.load(SeqCst) ^ laid_over(address, 0) < 1 << VALUE
        {
            slot.store(laid_over(address, value), SeqCst);
        }
    }
}

/// What is in the slot of `address` if it has `value`. An address has fewer bits than are lost.
#[inline(always)]
const fn laid_over(address: usize, value: u32) -> u64 {
    (((address >> CODE_ALIGNMENT) as u64) << (VALUE - SLOT)) ^ value as u64
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a test says that something is wrong by panicking"
    )]

    use super::*;
    use crate::site::table::tests::addresses;
    use crate::sync;

    #[test]
    fn what_is_at_hand_is_right() {
        static CACHED: Cached = Cached::new();
        const MANY: usize = 3 * SLOTS;
        let value = |address: usize| u32::try_from(address & 0x7f_ffff).unwrap();
        for address in addresses(MANY) {
            CACHED.add(Key::of_address(address), value(address));
            assert!(CACHED.at_hand(address) >= 1 << VALUE);
            assert_eq!(CACHED.meet(address), Some(value(address)));
            assert_eq!(CACHED.at_hand(address), u64::from(value(address)));
        }
        let at_hand = addresses(MANY)
            .filter(|address| {
                let found = CACHED.at_hand(*address);
                assert!(found == u64::from(value(*address)) || found >= 1 << VALUE);
                found < 1 << VALUE
            })
            .count();
        assert!(at_hand > SLOTS / 2, "{at_hand}");
        for address in addresses(MANY) {
            assert!(CACHED.at_hand(address + 1) >= 1 << VALUE);
        }
    }

    /// One thread changes an address's value while others meet it, and one that has the same slot.
    #[test]
    fn a_change_reaches_the_copy() {
        static CACHED: Cached = Cached::new();
        let first = 0x7f12_3456_7890_usize;
        let second = first ^ SLOTS << CODE_ALIGNMENT;
        for address in [first, second] {
            assert_eq!(CACHED.add(Key::of_address(address), 1), Some(1));
        }
        for (seed, value) in (0_u64..).zip(2..3000) {
            let meet = |address: usize, last: u32| {
                let found = CACHED.meet(address);
                assert!(found.is_some_and(|found| (last - 1..=last).contains(&found)));
            };
            sync::interleave(
                seed,
                &[
                    &|| meet(first, value),
                    &|| CACHED.change(first, value),
                    &|| meet(second, 1),
                ],
            );
            let at_hand = CACHED.at_hand(first);
            assert!(
                at_hand == u64::from(value) || at_hand >= 1 << VALUE,
                "seed {seed}"
            );
            assert_eq!(CACHED.meet(first), Some(value), "seed {seed}");
            assert_eq!(CACHED.at_hand(first), u64::from(value), "seed {seed}");
            assert_eq!(CACHED.meet(second), Some(1), "seed {seed}");
        }
    }
}
