//! A map from 48-bit keys to 24-bit values that any number of threads may read and add to at once,
//! in signal handlers too: no lock, nothing is ever removed.
//!
//! An entry is one word: key and value. It is found in the slot that the key's low bits say, or in one
//! of a few others that agree with it in the lowest [`FIXED`] bits. So those bits need not be kept, and
//! a match is exact.
//!
//! There are four arrays of slots, each sixteen or eight times the size of the one before. A key belongs
//! in the first free one of its slots, the arrays taken in order; slots never become free, so all
//! threads agree on it.
//!
//! A value may be the number of something: whoever finds it sees what was written before it was added.

use core::ptr;

use crate::machine::CODE_ALIGNMENT;
use crate::sync::{
    AtomicPtr, AtomicU64, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed, Release, SeqCst},
};
use crate::sys;

/// Bits of a value.
pub(crate) const VALUE: u32 = 24;
/// Bits that a key has in common with the number of each of its slots.
const FIXED: u32 = 8;
/// How many slots of one array are looked at for a key.
const PROBES: usize = 8;
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
    pub(crate) const fn of_address(address: usize) -> Self {
        let address = address >> CODE_ALIGNMENT;
        Self((address.wrapping_mul(Self::FACTOR << 17) as u64).swap_bytes())
    }

    /// Its low bits, which say where it is found.
    const fn index(self) -> usize {
        self.0 as usize
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
    /// Slots of the newest array, if that is another than the first; else 0.
    newest: AtomicUsize,
    /// The reservation, once there is one.
    reserved: AtomicPtr<AtomicU64>,
    entries: AtomicUsize,
    first: [AtomicU64; FIRST],
}

impl Table {
    pub(crate) const fn new() -> Self {
        Self {
            newest: AtomicUsize::new(0),
            reserved: AtomicPtr::new(ptr::null_mut()),
            entries: AtomicUsize::new(0),
            first: [const { AtomicU64::new(0) }; FIRST],
        }
    }

    /// Slots of the newest array.
    fn largest(&self) -> usize {
        self.newest.load(Acquire).max(FIRST)
    }

    /// The slot numbered by the low bits of `index` in the array of `size`, if there is one.
    fn slot(&self, size: usize, index: usize) -> Option<&AtomicU64> {
        let index = index & (size.wrapping_sub(1));
        if size == FIRST {
            return self.first.get(index);
        }
        let there_is = size <= self.largest();
        let slot = self
            .reserved
            .load(Relaxed)
            .wrapping_add(size.wrapping_add(index));
        // SAFETY: `grow` has set the reservation before it released the size, and that has room for every array at its
        // size.
        there_is.then(|| unsafe { &*slot })
    }

    /// The slots of `key` in the array of `size`, if there is one.
    fn slots(&self, size: usize, key: Key) -> impl Iterator<Item = &AtomicU64> {
        let index = move |probe: usize| key.index().wrapping_add(probe << FIXED);
        (0..(size >> FIXED).min(PROBES)).map_while(move |probe| self.slot(size, index(probe)))
    }

    /// The slots of `key` in the order in which they are taken.
    fn all_slots(&self, key: Key) -> impl Iterator<Item = &AtomicU64> {
        SIZES
            .into_iter()
            .flat_map(move |size| self.slots(size, key))
    }

    /// The value of `key`.
    pub(crate) fn find(&self, key: Key) -> Option<u32> {
        self.find_slot(key).map(|(_, value)| value)
    }

    /// The slot of `key`, and its value.
    pub(crate) fn find_slot(&self, key: Key) -> Option<(&AtomicU64, u32)> {
        self.all_slots(key)
            .find_map(|slot| Some((slot, value(slot.load(Acquire), key)?)))
    }

    /// Adds `key` with `value`. Gives the value that it has then, which is another if it was there, and
    /// none if there is no room.
    pub(crate) fn add(&self, key: Key, value: u32) -> Option<u32> {
        if key.0 >> FIXED == 0 {
            return None;
        }
        let entry = entry(key, value);
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

    /// Gives `key`, if it is there, another value.
    pub(crate) fn change(&self, key: Key, value: u32) {
        if let Some((slot, _)) = self.find_slot(key) {
            // The key stays, so whoever else changes the value does so in full.
            slot.store(entry(key, value), SeqCst);
        }
    }

    /// Whether there is one array more now.
    #[cold]
    fn grow(&self) -> bool {
        const BYTES: usize = RESERVED * size_of::<AtomicU64>();
        let size = self.largest();
        let Some(next) = SIZES.into_iter().find(|next| *next > size) else {
            return false;
        };
        if self.reserved.load(Relaxed).is_null() {
            let Some(reserved) = sys::map_zeros(BYTES) else {
                return false;
            };
            let mapped = ptr::with_exposed_provenance_mut(reserved);
            let set = (self.reserved).compare_exchange(ptr::null_mut(), mapped, AcqRel, Relaxed);
            if set.is_err() {
                // SAFETY: nobody else has seen it.
                unsafe { sys::unmap(reserved, BYTES) };
            }
        }
        self.newest.fetch_max(next, AcqRel);
        true
    }
}

/// The entry of `key` with `value`.
fn entry(key: Key, value: u32) -> u64 {
    key.0 << (64 - 48) ^ u64::from(value)
}

/// The value in `entry`, if it is that of `key`.
pub(crate) fn value(entry: u64, key: Key) -> Option<u32> {
    let value = entry ^ self::entry(key, 0);
    (entry != 0 && value < 1 << VALUE).then_some(value as u32)
}

#[cfg(test)]
pub(super) mod tests {
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
    pub(crate) fn addresses(count: usize) -> impl Iterator<Item = usize> {
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
