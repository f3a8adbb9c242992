//! A map from 48-bit keys to 24-bit values that any number of threads may read and add to at once,
//! in signal handlers too: no lock, nothing is ever removed.
//!
//! An entry is one word: key and value. It is found in the slot that the key's low bits say, or in one
//! of a few others that agree with it in the lowest [`FIXED`] bits. So those bits need not be kept, and
//! a match is exact.
//!
//! There are four arrays of slots, each sixteen or eight times the size of the one before. A key belongs
//! in the first free one of its slots, the arrays taken in order; slots never become free, so all
//! threads agree on it. Looked up is first in a cache, where each key has one slot: what was met last is
//! copied there.
//!
//! A value may be the number of something: whoever finds it sees what was written before it was added.

use crate::machine::CODE_ALIGNMENT;
use crate::sync::{
    AtomicU64, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release, SeqCst},
};
use crate::sys;

/// Bits of a value.
const VALUE: u32 = 24;
/// Bits that a key has in common with the number of each of its slots.
const FIXED: u32 = 8;
/// How many slots of one array are looked at for a key.
const PROBES: usize = 8;
/// Slots of the cache.
const CACHED: usize = 1 << 10;
/// Slots of the first array.
const FIRST: usize = 1 << 10;
/// Slots of the arrays.
const SIZES: [usize; 4] = [FIRST, 1 << 14, 1 << 18, 1 << 21];
/// Slots of the reservation for all but the first: each array begins at its size.
const RESERVED: usize = 1 << 22;

/// A key: at least 2^8 and less than 2^48.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Key(u64);

impl Key {
    /// Odd; spreads addresses, as compilers and the kernel lay them out, over the highest bits of the product.
    /// One of the few random numbers for which the test of free slots holds.
    const FACTOR: usize = 0x785e_04b6_a61f;

    /// That of an address of code. The kernel maps nothing at 2^47 or higher without being told to, or where
    /// instructions are aligned, at 2^48: 47 bits are left. Different for different addresses: an odd factor, and no
    /// bit of the product is lost.
    #[inline(always)]
    pub(crate) const fn of_address(address: usize) -> Self {
        let address = address >> CODE_ALIGNMENT;
        Self((address.wrapping_mul(Self::FACTOR << 17) as u64).swap_bytes())
    }

    /// One that no address has, one for each.
    pub(crate) const fn second(self) -> Self {
        Self(self.0 | 1 << 40)
    }

    /// That of a hash.
    pub(crate) const fn of_hash(hash: u64) -> Self {
        Self(hash >> 16 | 1 << FIXED)
    }
}

/// The map. All zeros is empty.
pub(crate) struct Table {
    cache: [AtomicU64; CACHED],
    /// What the newest array's size has over that of the first.
    larger: AtomicUsize,
    /// Distance of the reservation from where it would lie if the first array were its part.
    distance: AtomicUsize,
    entries: AtomicUsize,
    first: [AtomicU64; FIRST],
}

impl Table {
    pub(crate) const fn new() -> Self {
        Self {
            cache: [const { AtomicU64::new(0) }; CACHED],
            larger: AtomicUsize::new(0),
            distance: AtomicUsize::new(0),
            entries: AtomicUsize::new(0),
            first: [const { AtomicU64::new(0) }; FIRST],
        }
    }

    /// The value of `key`, or a number that is no value: the usual case of a look-up, in few
    /// instructions. The key may be there even so.
    #[inline(always)]
    pub(crate) fn at_hand(&self, key: Key) -> u64 {
        let entry = self.cached(key).map_or(0, |slot| slot.load(Acquire));
        entry ^ (key.0 << (64 - 48))
    }

    /// The slot of `key` in the cache.
    #[inline(always)]
    fn cached(&self, key: Key) -> Option<&AtomicU64> {
        self.cache.get(key.0 as usize & (CACHED - 1))
    }

    /// Slots of the newest array.
    fn largest(&self) -> usize {
        self.larger.load(Acquire).wrapping_add(FIRST)
    }

    /// The slot numbered by the bits of `index` under `mask`, in the array of that size. A mask larger than the first
    /// array's has to come from `larger`, acquired: `grow` has set the distance before it releases that.
    fn slot(&self, mask: usize, index: usize) -> &AtomicU64 {
        let base = self.first.as_ptr().wrapping_sub(FIRST);
        let base = base.wrapping_byte_add(self.distance.load(Relaxed));
        let slot = base.wrapping_add((index & mask).wrapping_add(mask).wrapping_add(1));
        // SAFETY: either the distance is 0 and the mask that of the first array, since with a larger one the distance
        // is seen that was set before; or it leads to the reservation, which has room for every array at its size.
        unsafe { &*slot }
    }

    /// The slots of `key` in the array of `size`, if there is one.
    fn slots(&self, size: usize, key: Key) -> impl Iterator<Item = &AtomicU64> {
        let index = move |probe: usize| (key.0 as usize).wrapping_add(probe << FIXED);
        let probes = (size >> FIXED).min(PROBES);
        let exists = size == FIRST || size <= self.largest();
        (0..if exists { probes } else { 0 }).filter_map(move |probe| {
            if size == FIRST {
                self.first.get(index(probe) & (FIRST - 1))
            } else {
                Some(self.slot(size.wrapping_sub(1), index(probe)))
            }
        })
    }

    /// The slots of `key` in the order in which they are taken.
    fn all_slots(&self, key: Key) -> impl Iterator<Item = &AtomicU64> {
        SIZES
            .into_iter()
            .flat_map(move |size| self.slots(size, key))
    }

    /// The value of `key`.
    pub(crate) fn find(&self, key: Key) -> Option<u32> {
        let home = self.all_slots(key).find_map(|slot| {
            let value = value(slot.load(Acquire), key)?;
            Some((slot, value))
        });
        let (slot, value) = home?;
        self.copy(key, slot);
        Some(value)
    }

    /// Puts `key`, which is in `home`, into the cache. While another thread changes the value, this one writes the cache
    /// and reads `home`, that one writes `home` and reads the cache: with one order of all four, one of them sees what
    /// the other has written.
    fn copy(&self, key: Key, home: &AtomicU64) {
        let entry = home.load(SeqCst);
        if let Some(slot) = self.cached(key) {
            slot.store(entry, SeqCst);
        }
        let now = home.load(SeqCst);
        if now != entry {
            self.change(key, value(now, key).unwrap_or_default());
        }
    }

    /// Adds `key` with `value`. Gives the value that it has then, which is another if it was there, and
    /// none if there is no room.
    pub(crate) fn add(&self, key: Key, value: u32) -> Option<u32> {
        if key.0 >> FIXED == 0 {
            return None;
        }
        let entry = key.0 << (64 - 48) ^ u64::from(value);
        if self.entries.load(Relaxed) > self.largest() / 4 {
            self.grow();
        }
        loop {
            for slot in self.all_slots(key) {
                match slot.compare_exchange(0, entry, Release, Acquire) {
                    Ok(_) => {
                        self.entries.fetch_add(1, Relaxed);
                        return Some(value);
                    }
                    Err(found) => {
                        if let Some(value) = self::value(found, key) {
                            return Some(value);
                        }
                    }
                }
            }
            if !self.grow() {
                return None;
            }
        }
    }

    /// Gives `key`, if it is there, another value, in an order with [`Self::copy`].
    pub(crate) fn change(&self, key: Key, value: u32) {
        for slot in self.all_slots(key).chain(self.cached(key)) {
            let entry = slot.load(SeqCst);
            if self::value(entry, key).is_some() {
                // The key stays, so whoever else changes the value does so in full.
                slot.store(key.0 << (64 - 48) ^ u64::from(value), SeqCst);
            }
        }
    }

    /// Whether there is one array more now.
    #[cold]
    fn grow(&self) -> bool {
        let size = self.largest();
        let Some(next) = SIZES.into_iter().find(|next| *next > size) else {
            return false;
        };
        if self.distance.load(Relaxed) == 0 {
            const BYTES: usize = RESERVED * size_of::<u64>();
            let Some(reserved) = sys::map_zeros(BYTES) else {
                return false;
            };
            let base = self.first.as_ptr().wrapping_sub(FIRST).addr();
            let distance = reserved.wrapping_sub(base);
            let set = self
                .distance
                .compare_exchange(0, distance, Relaxed, Relaxed);
            if set.is_err() {
                // SAFETY: nobody else has seen it.
                unsafe { sys::unmap(reserved, BYTES) };
            }
        }
        self.larger.fetch_max(next.wrapping_sub(FIRST), Release);
        true
    }
}

/// The value in `entry`, if it is that of `key`.
fn value(entry: u64, key: Key) -> Option<u32> {
    let value = entry ^ (key.0 << (64 - 48));
    (entry != 0 && value < 1 << VALUE).then_some(value as u32)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test says that something is wrong by panicking"
    )]

    use std::sync::Mutex;
    use std::thread;

    use super::*;
    use crate::sync;

    /// Return addresses as programs have them: some thousand in a few objects.
    fn addresses(count: usize) -> impl Iterator<Item = usize> {
        (0..count).map(|index| 0x7f12_3456_0000 + ((index % 7) << 28) + index * 13)
    }

    #[test]
    fn what_was_added_is_found_through_all_arrays() {
        static TABLE: Table = Table::new();
        const MANY: usize = 1 << 19;
        for (address, value) in addresses(MANY).zip(1..) {
            assert_eq!(TABLE.find(Key::of_address(address)), None);
            assert_eq!(TABLE.add(Key::of_address(address), value), Some(value));
        }
        for (address, value) in addresses(MANY).zip(1..) {
            let key = Key::of_address(address);
            assert_eq!(TABLE.find(key.second()), None);
            assert_eq!(TABLE.add(key, 7), Some(value));
            assert_eq!(TABLE.find(key), Some(value));
        }
        let key = Key::of_address(addresses(1).next().unwrap());
        TABLE.change(key, 99);
        assert_eq!(TABLE.find(key), Some(99));
    }

    #[test]
    fn what_is_at_hand_is_right() {
        static TABLE: Table = Table::new();
        let value = |address: usize| u32::try_from(address & 0x7f_ffff).unwrap();
        for address in addresses(3000) {
            TABLE.add(Key::of_address(address), value(address));
            TABLE.find(Key::of_address(address));
        }
        let at_hand = addresses(3000)
            .skip(2000)
            .filter(|address| {
                let found = TABLE.at_hand(Key::of_address(*address));
                assert!(found == u64::from(value(*address)) || found >= 1 << VALUE);
                found < 1 << VALUE
            })
            .count();
        assert!(at_hand > 600, "{at_hand}");
        for address in addresses(3000) {
            assert!(TABLE.at_hand(Key::of_address(address + 1)) >= 1 << VALUE);
        }
    }

    #[test]
    fn a_full_table_takes_no_more_and_lies_about_none() {
        static TABLE: Table = Table::new();
        const MANY: usize = 3 << 20;
        let added: Vec<_> = addresses(MANY)
            .map(|address| TABLE.add(Key::of_address(address), 5))
            .collect();
        assert!(added.iter().filter(|added| added.is_some()).count() > 1 << 20);
        assert!(added.contains(&None));
        for (address, added) in addresses(MANY).zip(added) {
            assert_eq!(TABLE.find(Key::of_address(address)), added);
        }
    }

    #[test]
    fn all_threads_see_one_value() {
        static TABLE: Table = Table::new();
        let values = |thread: u32| {
            let own =
                move |(index, address)| TABLE.add(Key::of_address(address), thread << 16 | index);
            (0..).zip(addresses(20_000)).map(own).collect::<Vec<_>>()
        };
        let threads: Vec<_> = (1..5)
            .map(|thread| thread::spawn(move || values(thread)))
            .collect();
        let seen: Vec<_> = threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .collect();
        assert!(seen.iter().all(|values| *values == seen[0]));
        for (address, value) in addresses(20_000).zip(&seen[0]) {
            assert_eq!(TABLE.find(Key::of_address(address)), *value);
        }
    }

    /// One thread changes a key's value while others find it, and copy it to the cache.
    #[test]
    fn a_change_reaches_every_copy() {
        static TABLE: Table = Table::new();
        const KEYS: usize = 200;
        let keys = || addresses(KEYS).map(Key::of_address);
        for key in keys() {
            assert_eq!(TABLE.add(key, 1), Some(1));
        }
        for (array, value) in (0_u64..).zip(2..5) {
            assert!(TABLE.grow());
            for (key, seed) in keys().zip(array * 1000..) {
                let find = || {
                    let found = TABLE.find(key);
                    assert!(found.is_some_and(|found| (value - 1..=value).contains(&found)));
                };
                sync::interleave(seed, &[&find, &|| TABLE.change(key, value), &find]);
                let at_hand = TABLE.at_hand(key);
                assert_eq!(at_hand, u64::from(value), "array {array}, seed {seed}");
                assert_eq!(TABLE.find(key), Some(value), "array {array}, seed {seed}");
            }
        }
    }

    /// Threads add a key at the same time, each with its own value.
    #[test]
    fn a_key_is_added_once() {
        static TABLE: Table = Table::new();
        for (address, seed) in addresses(500).zip(0..) {
            let key = Key::of_address(address);
            let seen = Mutex::new(Vec::new());
            let add = |value: u32| {
                let added = TABLE.add(key, value);
                seen.lock().unwrap().push(added);
            };
            sync::interleave(seed, &[&|| add(1), &|| add(2), &|| add(3)]);
            let last = TABLE.find(key);
            let seen = seen.into_inner().unwrap();
            assert!(
                last.is_some() && seen.iter().all(|seen| *seen == last),
                "seed {seed}"
            );
        }
    }

    /// The free slot would be taken for an entry of keys less than 2^7. Those of no place where code lies are.
    #[test]
    fn no_code_has_the_key_of_a_free_slot() {
        // The inverse of the factor modulo 2^47, by Newton's method.
        let inverse = (0..6).fold(1_usize, |inverse, _| {
            inverse.wrapping_mul(2_usize.wrapping_sub(Key::FACTOR.wrapping_mul(inverse)))
        });
        for key in 1..1_u64 << 7 {
            let product = (key.swap_bytes() >> 17) as usize;
            let address = product.wrapping_mul(inverse) % (1 << 47);
            assert!(Key::of_address(address) == Key(key));
            let executables = 0..1 << 36;
            let high = [
                0x5500_0000_0000..0x5700_0000_0000,
                0x7e00_0000_0000..0x8000_0000_0000,
            ];
            assert!(
                !executables.contains(&address)
                    && !high.iter().any(|range| range.contains(&address))
            );
        }
    }
}
