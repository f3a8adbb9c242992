//! The index: which addresses are the beginning of a live chunk. One *mark*, a bit, stands for each 16 bytes of
//! heap; a second bitmap, of one bit a page, for the beginnings of large chunks; and a table of the regions that
//! a large chunk from further below reaches into. So the chunk that contains an address is found by a bounded
//! search backwards, whatever its size:
//!
//! 1. 65 words of marks, that is, at least [`LARGE`] bytes: finds the beginning of every smaller chunk;
//! 2. the pages of the region: finds every larger chunk that begins in it;
//! 3. the entry of the region among those that are covered from below.
//!
//! A mark is set when the chunk is whole and cleared before it is given back, without a lock. What it says is
//! relied on by readers only while they hold it: see [`readers`].

mod covered;
pub(crate) mod readers;
mod region;

use core::ptr;

use crate::index::covered::Covered;
use crate::index::region::{Region, Rotated};
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::threads;

/// Chunks from this size on are found by their page.
pub(crate) const LARGE: usize = 64 << 10;
/// How many words of marks, 1 KiB of heap each, a search for smaller ones looks at: that of the address, and so many below.
const SEARCHED: usize = 1 + (LARGE >> 10);
/// How many of these are looked at first, one by one: enough for chunks of four pages.
const CLOSE: usize = 17;
/// How many regions there can be: four terabytes of heap, if it lies close together. So many that the low half of a number's
/// low half is a place: that is one instruction.
const REGIONS: usize = 1 << 16;

/// Where chunks begin, at multiples of this: one mark stands for so many addresses.
pub(crate) const GRAIN: usize = 1 << region::GRAIN;

/// The regions, each at the place of its number or, if that is taken, behind it.
pub(crate) struct Index {
    regions: [AtomicPtr<Region>; REGIONS],
    covered: Covered,
}

/// The place of one mark.
#[derive(Clone, Copy)]
pub(crate) struct Mark {
    word: &'static AtomicU64,
    bit: u64,
}

impl Index {
    pub(crate) const fn new() -> Self {
        Self {
            regions: [const { AtomicPtr::new(ptr::null_mut()) }; REGIONS],
            covered: Covered::new(),
        }
    }

    /// The place of the mark for `address`. `None` if nothing in its region was ever marked, or if it is no multiple
    /// of 16: the program may, by mistake, give back any.
    #[inline(always)]
    pub(crate) fn mark(&self, address: usize) -> Option<Mark> {
        self.region(address)?.mark(Rotated::of(address))
    }

    /// The same, if that takes no search.
    #[inline(always)]
    pub(crate) fn mark_at_hand(&self, address: usize) -> Option<Mark> {
        let address = Rotated::of(address);
        loaded(self.home(address.number())?)?.mark(address)
    }

    /// That, if no large chunk begins in the page of `address`.
    #[inline(always)]
    pub(crate) fn small_mark_at_hand(&self, address: usize) -> Option<Mark> {
        let rotated = Rotated::of(address);
        loaded(self.home(rotated.number())?)
            .filter(|region| !region.has_page(address))?
            .mark(rotated)
    }

    /// The place of the mark; makes the region if there is none yet, and with it, if they are wanted, records beside its
    /// marks. `None` if there is no memory for it, or no place, and for what is no multiple of 16.
    #[cold]
    #[inline(never)]
    pub(crate) fn make_mark(&self, address: usize, with_records: bool) -> Option<Mark> {
        if !address.is_multiple_of(GRAIN) {
            return None;
        }
        if let Some(region) = self.region(address) {
            return region.mark(Rotated::of(address));
        }
        let made = Region::map(address, with_records)?;
        for place in self.places(address) {
            let there = place.compare_exchange(
                ptr::null_mut(),
                ptr::from_ref(made).cast_mut(),
                Ordering::AcqRel,
                Ordering::Acquire,
            );
            match there {
                Ok(_) => return made.mark(Rotated::of(address)),
                Err(_) if loaded(place).is_some_and(|region| region.contains(address)) => break,
                Err(_) => {}
            }
        }
        // Another thread was first, or there is no place left.
        made.unmap();
        self.mark(address)
    }

    /// Notes that the chunk at `base`, about to be marked, ends at `limit`.
    #[inline(always)]
    pub(crate) fn note_large(&self, base: usize, limit: usize) {
        if limit.wrapping_sub(base) >= LARGE {
            self.change_large(base, limit, true);
        }
    }

    /// Notes that the chunk at `base`, about to be given back, ended at `limit`.
    #[inline(always)]
    pub(crate) fn forget_large(&self, base: usize, limit: usize) {
        if limit.wrapping_sub(base) >= LARGE {
            self.change_large(base, limit, false);
        }
    }

    /// Whether the chunk at `base` was noted as a large one.
    #[cold]
    #[inline(never)]
    pub(crate) fn is_large(&self, base: usize) -> bool {
        self.region(base)
            .is_some_and(|region| region.has_page(base))
    }

    #[cold]
    #[inline(never)]
    fn change_large(&self, base: usize, limit: usize, begins: bool) {
        if let Some(region) = self.region(base) {
            region.change_page(base, begins);
        }
        if region::number(base) != region::number(limit.wrapping_sub(1)) {
            self.covered.change(base, limit, begins);
        }
    }

    /// The highest marked address that is not above `address`, if a chunk that begins there may reach to it.
    #[inline]
    pub(crate) fn at_or_below(&self, address: usize) -> Option<usize> {
        match self.region(address) {
            Some(region) => region
                .below(address, SEARCHED)
                .or_else(|| self.in_region_before(address))
                .or_else(|| region.large_below(address))
                .or_else(|| self.covered.base(address)),
            None => self
                .in_region_before(address)
                .or_else(|| self.covered.base(address)),
        }
    }

    /// The same, if it is close by.
    #[inline(always)]
    pub(crate) fn close_below(&self, address: usize) -> Option<usize> {
        loaded(self.home(region::number(address))?)
            .filter(|region| region.contains(address))?
            .close_below(address, CLOSE)
    }

    /// The rest of the search for small chunks, if it reaches the beginning of the region of `address`.
    fn in_region_before(&self, address: usize) -> Option<usize> {
        let end = region::begin(address).checked_sub(1)?;
        let left = SEARCHED.checked_sub(region::words_up_to(address))?;
        self.region(end)?.below(end, left)
    }

    /// The record beside the mark for `address`, if there are any.
    pub(crate) fn record(&self, address: usize) -> Option<&'static AtomicU64> {
        self.region(address)?.record(address)
    }

    /// The words that have marks for addresses from `begin` on and before `end`, each with the address of its
    /// first mark. They may have marks for others. Region by region, in no order; in each, in order.
    pub(crate) fn words(
        &self,
        begin: usize,
        end: usize,
    ) -> impl Iterator<Item = (usize, &'static AtomicU64)> {
        let regions = self.regions.iter().filter_map(loaded);
        regions
            .filter(move |region| region.begin() < end && region.end() > begin)
            .flat_map(move |region| {
                let words = region.marked_words(begin.max(region.begin()));
                words.take_while(move |(first, _)| *first < end)
            })
    }

    #[inline(always)]
    fn region(&self, address: usize) -> Option<&'static Region> {
        match loaded(self.home(region::number(address))?) {
            Some(region) if region.contains(address) => Some(region),
            Some(_) => self.region_elsewhere(address),
            None => None,
        }
    }

    #[inline(always)]
    fn home(&self, number: usize) -> Option<&AtomicPtr<Region>> {
        self.regions.get(number & (REGIONS - 1))
    }

    #[cold]
    #[inline(never)]
    fn region_elsewhere(&self, address: usize) -> Option<&'static Region> {
        self.places(address)
            .map_while(loaded)
            .find(|region| region.contains(address))
    }

    /// Where the region of `address` can be: a place that is taken is never given up.
    fn places(&self, address: usize) -> impl Iterator<Item = &AtomicPtr<Region>> {
        let home = region::number(address);
        (0..REGIONS).filter_map(move |step| self.home(home.wrapping_add(step)))
    }
}

#[inline(always)]
fn loaded(place: &AtomicPtr<Region>) -> Option<&'static Region> {
    // SAFETY: null, or a region that was whole before its address was stored there, and that stays.
    unsafe { place.load(Ordering::Acquire).as_ref() }
}

impl Mark {
    /// Sets it. Whether there is no other thread.
    #[inline(always)]
    pub(crate) fn set(self) -> bool {
        threads::set(self.word, self.bit)
    }

    /// Whether it is set.
    #[inline(always)]
    pub(crate) fn is_set(self) -> bool {
        self.word.load(Ordering::SeqCst) & self.bit != 0
    }

    /// Clears it. False if somebody may rely on it: then there is a need to [`wait`](Self::wait).
    #[inline(always)]
    pub(crate) fn clear(self) -> bool {
        threads::clear(self.word, self.bit) || !readers::are_there()
    }

    /// Waits until no reader relies on it, which is cleared.
    pub(crate) fn wait(self) {
        readers::wait_for(self.word);
    }

    /// The word that it is in.
    pub(crate) fn word(self) -> &'static AtomicU64 {
        self.word
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_multiple_of_16_has_a_mark() {
        static INDEX: Index = Index::new();
        // Addresses of 47 and of 57 bits, and of two regions with the same home.
        let bases = [0x7f12_3400_0040, 0xff_0012_3400_0040, 0x7e12_3400_0040];
        for base in bases {
            assert!(INDEX.make_mark(base + 8, false).is_none());
            assert!(INDEX.mark(base).is_none() && INDEX.mark_at_hand(base).is_none());
            let mark = INDEX.make_mark(base, false);
            assert!(mark.is_some_and(|mark| !mark.is_set()));
            mark.map(Mark::set);
            for address in base + 1..base + GRAIN {
                assert!(INDEX.mark(address).is_none() && INDEX.mark_at_hand(address).is_none());
            }
        }
        for base in bases {
            let is_set = |address| INDEX.mark(address).is_some_and(Mark::is_set);
            assert!(is_set(base) && !is_set(base + GRAIN) && !is_set(base - GRAIN));
            assert_eq!(INDEX.at_or_below(base + LARGE), Some(base));
            assert_eq!(INDEX.at_or_below(base - 1), None);
        }
    }
}
