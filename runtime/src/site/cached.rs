//! A table with a cache in front of it, where each key has one slot: what was met last is found in a few instructions.

use crate::site::table::{Key, Table, entry, value};
use crate::sync::{
    AtomicU64,
    Ordering::{Acquire, SeqCst},
};

/// Slots of the cache. A power of two, and more than the low bits of a key that an entry leaves out.
const SLOTS: usize = 1 << 12;

/// A table, and the cache. All zeros is empty.
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

    /// The value of `key`, or a number that is no value: the usual case of a look-up. The key may be there even so.
    #[inline(always)]
    pub(crate) fn at_hand(&self, key: Key) -> u64 {
        let slot = self.slot(key).map_or(0, |slot| slot.load(Acquire));
        slot ^ entry(key, 0)
    }

    #[inline(always)]
    fn slot(&self, key: Key) -> Option<&AtomicU64> {
        self.slots.get(key.index() & (SLOTS - 1))
    }

    /// The value of `key`, which is at hand from now on, until another one takes its slot.
    pub(crate) fn meet(&self, key: Key) -> Option<u32> {
        let (home, value) = self.table.find_slot(key)?;
        self.copy(key, home);
        Some(value)
    }

    /// Puts `key`, which is in `home`, into the cache. While another thread changes the value, this one writes the cache
    /// and reads `home`, that one writes `home` and reads the cache: with one order of all four, one of them sees what
    /// the other has written.
    fn copy(&self, key: Key, home: &AtomicU64) {
        let before = home.load(SeqCst);
        if let Some(slot) = self.slot(key) {
            slot.store(before, SeqCst);
        }
        let now = home.load(SeqCst);
        if now != before
            && let Some(value) = value(now, key)
        {
            self.change(key, value);
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

    /// Gives `key`, if it is there, another value, in an order with [`Self::copy`].
    pub(crate) fn change(&self, key: Key, value: u32) {
        self.table.change(key, value);
        // Should another key come into the slot meanwhile, it has to be met again.
        if let Some(slot) = self.slot(key)
            && self::value(slot.load(SeqCst), key).is_some()
        {
            slot.store(entry(key, value), SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        reason = "a test says that something is wrong by panicking"
    )]

    use super::*;
    use crate::site::table::VALUE;
    use crate::site::table::tests::addresses;
    use crate::sync;

    #[test]
    fn what_is_at_hand_is_right() {
        static CACHED: Cached = Cached::new();
        const MANY: usize = 3 * SLOTS;
        let value = |address: usize| u32::try_from(address & 0x7f_ffff).unwrap();
        for address in addresses(MANY) {
            let key = Key::of_address(address);
            CACHED.add(key, value(address));
            assert!(CACHED.at_hand(key) >= 1 << VALUE);
            assert_eq!(CACHED.meet(key), Some(value(address)));
            assert_eq!(CACHED.at_hand(key), u64::from(value(address)));
        }
        let at_hand = addresses(MANY)
            .filter(|address| {
                let found = CACHED.at_hand(Key::of_address(*address));
                assert!(found == u64::from(value(*address)) || found >= 1 << VALUE);
                found < 1 << VALUE
            })
            .count();
        assert!(at_hand > SLOTS / 2, "{at_hand}");
        for address in addresses(MANY) {
            assert!(CACHED.at_hand(Key::of_address(address + 1)) >= 1 << VALUE);
        }
    }

    /// One thread changes a key's value while others meet it, and one that has the same slot.
    #[test]
    fn a_change_reaches_the_copy() {
        static CACHED: Cached = Cached::new();
        let first = Key::of_address(0x7f12_3456_7890);
        let is_rival = |key: &Key| (key.index() ^ first.index()).is_multiple_of(SLOTS);
        let second = addresses(1 << 16).map(Key::of_address).find(is_rival);
        let second = second.unwrap();
        for key in [first, second] {
            assert_eq!(CACHED.add(key, 1), Some(1));
        }
        for (seed, value) in (0_u64..).zip(2..3000) {
            let meet = |key: Key, last: u32| {
                let found = CACHED.meet(key);
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
