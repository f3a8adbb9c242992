//! The marks of one region, 64 MiB of the address space. They lie in memory of their own, which is resident only
//! where something was marked: one page of marks for each 512 KiB of heap.

use core::ptr;

use crate::index::Mark;
use crate::sync::{AtomicPtr, AtomicU64, Ordering};
use crate::sys;
use crate::threads;

/// Size of a region, as a power of two.
const REGION: u32 = 26;
/// Bytes that one mark stands for: no allocator gives out chunks that are closer.
pub(super) const GRAIN: u32 = 4;
/// Bytes that a word of marks stands for.
const WORD: u32 = GRAIN + u64::BITS.trailing_zeros();
/// Bytes that a bit of `pages` stands for, and a word of them.
const PAGE: u32 = 12;
const PAGE_WORD: u32 = PAGE + u64::BITS.trailing_zeros();

const MARKS: usize = 1 << (REGION - GRAIN);
const WORDS: usize = 1 << (REGION - WORD);
const PAGE_WORDS: usize = 1 << (REGION - PAGE_WORD);
const WORDS_IN_PAGE: usize = 1 << (PAGE - WORD);

type Records = [AtomicU64; MARKS];

/// The marks of one region.
#[repr(C)]
pub(crate) struct Region {
    /// The marks. They come first: an addition less on the way to them.
    words: [AtomicU64; WORDS],
    /// Number of the region. It never changes once others see it, so a comparison may read it where it is.
    number: usize,
    /// Records, one beside each mark; null if there are none.
    records: AtomicPtr<Records>,
    /// Which words of `pages` may have a bit.
    groups: [AtomicU64; PAGE_WORDS.div_ceil(u64::BITS as usize)],
    /// The pages in which a large chunk begins.
    pages: [AtomicU64; PAGE_WORDS],
}

/// An address that a mark may stand for, rotated so that the bits that have to be 0 are above all others: it takes no
/// comparison of their own to see that they are.
#[derive(Clone, Copy)]
pub(crate) struct Rotated(usize);

impl Rotated {
    #[inline(always)]
    pub(crate) fn of(address: usize) -> Self {
        Self(address.rotate_right(GRAIN))
    }

    /// The number of its region; none that there is if there can be no mark.
    #[inline(always)]
    pub(crate) fn number(self) -> usize {
        self.0 >> (REGION - GRAIN)
    }
}

/// The number of the region of `address`.
#[inline(always)]
pub(crate) fn number(address: usize) -> usize {
    address >> REGION
}

/// The first address of the region of `address`.
pub(crate) fn begin(address: usize) -> usize {
    number(address) << REGION
}

/// How many words of marks the region of `address` has up to that of `address`.
pub(crate) fn words_up_to(address: usize) -> usize {
    word_of(address).wrapping_add(1)
}

#[inline(always)]
fn word_of(address: usize) -> usize {
    (address >> WORD) & (WORDS - 1)
}

/// The bits up to that of `number`, a number modulo 64.
#[inline(always)]
fn up_to(number: usize) -> u64 {
    u64::MAX >> (63 - (number & 63))
}

/// The number of the highest bit, which there must be.
#[inline(always)]
fn highest(bits: u64) -> usize {
    (bits | 1).ilog2() as usize
}

fn is_marked(word: &AtomicU64) -> bool {
    word.load(Ordering::SeqCst) != 0
}

/// The last of `words` that is not 0. Inside of a large chunk all are 0, so they are looked at in groups.
fn last_marked(words: &[AtomicU64]) -> Option<usize> {
    let (rest, groups) = words.as_rchunks::<8>();
    let bits = |group: &[AtomicU64; 8]| {
        let words = group.iter().map(|word| word.load(Ordering::SeqCst));
        words.fold(0, |all, bits| all | bits)
    };
    match groups.iter().rposition(|group| bits(group) != 0) {
        Some(index) => {
            let before = rest.len().wrapping_add(index << 3);
            Some(before.wrapping_add(groups.get(index)?.iter().rposition(is_marked)?))
        }
        None => rest.iter().rposition(is_marked),
    }
}

impl Region {
    /// Maps one for the region of `address`.
    pub(crate) fn map(address: usize, with_records: bool) -> Option<&'static Self> {
        let memory = sys::map_zeros(size_of::<Self>())?;
        // SAFETY: fresh memory of that size, aligned to a page; zeros are a region without marks; and nobody else sees it yet.
        let region = unsafe { &mut *ptr::with_exposed_provenance_mut::<Self>(memory) };
        region.number = number(address);
        let region: &'static Self = region;
        if with_records {
            let Some(records) = sys::map_zeros(size_of::<Records>()) else {
                region.unmap();
                return None;
            };
            let records = ptr::with_exposed_provenance_mut(records);
            region.records.store(records, Ordering::Relaxed);
        }
        Some(region)
    }

    /// Gives back one that nobody else has seen.
    pub(crate) fn unmap(&'static self) {
        let records = self.records.load(Ordering::Relaxed);
        if !records.is_null() {
            // SAFETY: as below.
            unsafe { sys::unmap(records.expose_provenance(), size_of::<Records>()) };
        }
        let address = ptr::from_ref(self).expose_provenance();
        // SAFETY: `map` mapped it, and the caller has the only reference, which ends here.
        unsafe { sys::unmap(address, size_of::<Self>()) };
    }

    /// The record beside the mark for `address`.
    pub(crate) fn record(&self, address: usize) -> Option<&'static AtomicU64> {
        // SAFETY: null, or memory that is mapped as long as the region is.
        let records = unsafe { self.records.load(Ordering::Relaxed).as_ref() }?;
        records.get((address >> GRAIN) & (MARKS - 1))
    }

    #[inline(always)]
    pub(crate) fn contains(&self, address: usize) -> bool {
        self.number == number(address)
    }

    /// The first address.
    pub(crate) fn begin(&self) -> usize {
        self.number << REGION
    }

    /// The first address behind it.
    pub(crate) fn end(&self) -> usize {
        self.begin().saturating_add(1 << REGION)
    }

    /// The mark for `address`. `None` if that is not in the region, or no multiple of 16.
    #[inline(always)]
    pub(crate) fn mark(&'static self, address: Rotated) -> Option<Mark> {
        if self.number != address.number() {
            return None;
        }
        Some(Mark {
            word: self
                .words
                .get((address.0 >> u64::BITS.trailing_zeros()) & (WORDS - 1))?,
            bit: 1 << (address.0 & 63),
        })
    }

    /// The words of marks that are not 0, from the one of `from` on: each with the address of its first mark.
    pub(crate) fn marked_words(
        &'static self,
        from: usize,
    ) -> impl Iterator<Item = (usize, &'static AtomicU64)> {
        let first = word_of(from);
        let words = self.words.get(first..).unwrap_or_default();
        words
            .iter()
            .zip(first..)
            .filter(|(word, _)| word.load(Ordering::Relaxed) != 0)
            .map(|(word, index)| (self.begin().wrapping_add(index << WORD), word))
    }

    /// The highest marked address that is not above `address`, in `most` words.
    pub(crate) fn below(&self, address: usize, most: usize) -> Option<usize> {
        self.search(address, most, last_marked)
    }

    /// The same in so few words that they are looked at one by one.
    #[inline(always)]
    pub(crate) fn close_below(&self, address: usize, most: usize) -> Option<usize> {
        self.search(address, most, |words| words.iter().rposition(is_marked))
    }

    /// The same, where `last_of` finds the last word that is not 0.
    #[inline(always)]
    fn search(
        &self,
        address: usize,
        most: usize,
        last_of: impl Fn(&[AtomicU64]) -> Option<usize>,
    ) -> Option<usize> {
        let last = word_of(address);
        let first = last.saturating_sub(most.checked_sub(1)?);
        let bits = self.words.get(last)?.load(Ordering::SeqCst) & up_to(address >> GRAIN);
        if bits != 0 {
            return Some(self.address(last, bits));
        }
        let before = self.words.get(first..last)?;
        let index = last_of(before)?;
        let bits = before.get(index)?.load(Ordering::SeqCst);
        (bits != 0).then(|| self.address(first.wrapping_add(index), bits))
    }

    /// The address of the highest of `bits`, which are word `index`.
    fn address(&self, index: usize, bits: u64) -> usize {
        self.begin()
            .wrapping_add(index << WORD)
            .wrapping_add(highest(bits) << GRAIN)
    }

    /// Notes in which page the large chunk at `base` begins, or began. There is only one in each.
    pub(crate) fn change_page(&self, base: usize, begins: bool) {
        let index = (base >> PAGE_WORD) & (PAGE_WORDS - 1);
        let bit = 1 << ((base >> PAGE) & 63);
        let (Some(word), Some(group)) = (self.pages.get(index), self.groups.get(index >> 6)) else {
            return;
        };
        if begins {
            threads::set(word, bit);
            // What is set there stays so.
            let in_group = 1 << (index & 63);
            if group.load(Ordering::Relaxed) & in_group == 0 {
                group.fetch_or(in_group, Ordering::SeqCst);
            }
        } else {
            threads::clear(word, bit);
        }
    }

    /// Whether a large chunk begins in the page of `base`.
    #[inline(always)]
    pub(crate) fn has_page(&self, base: usize) -> bool {
        let index = (base >> PAGE_WORD) & (PAGE_WORDS - 1);
        let word = self.pages.get(index);
        word.is_some_and(|word| word.load(Ordering::SeqCst) >> ((base >> PAGE) & 63) & 1 == 1)
    }

    /// The beginning of the last large chunk that does not begin above `address`.
    pub(crate) fn large_below(&self, address: usize) -> Option<usize> {
        let last = (address >> PAGE_WORD) & (PAGE_WORDS - 1);
        let pages = up_to(address >> PAGE);
        // The one that begins in the page of `address` may begin above it, where the one before it ends.
        [pages, pages >> 1]
            .into_iter()
            .filter_map(|pages| self.last_large(last, pages))
            .find(|base| *base <= address)
    }

    /// The beginning of the last large chunk in the pages up to word `last`, with `mask` laid over that one.
    fn last_large(&self, last: usize, mask: u64) -> Option<usize> {
        let (index, pages) = self.pages_below(last, mask)?;
        let page = (index << 6) | highest(pages);
        // No other chunk begins behind the large one in its page.
        let first = page.checked_mul(WORDS_IN_PAGE)?;
        let words = self.words.get(first..first.checked_add(WORDS_IN_PAGE)?)?;
        words
            .iter()
            .enumerate()
            .rev()
            .map(|(index, word)| (first.wrapping_add(index), word.load(Ordering::SeqCst)))
            .find(|(_, bits)| *bits != 0)
            .map(|(index, bits)| self.address(index, bits))
    }

    /// The last word of `pages` up to `last` that is not 0, with `mask` laid over that one.
    fn pages_below(&self, last: usize, mask: u64) -> Option<(usize, u64)> {
        let load = |index: usize| Some(self.pages.get(index)?.load(Ordering::SeqCst));
        let own = load(last)? & mask;
        if own != 0 {
            return Some((last, own));
        }
        let mut before = last;
        while let Some(end) = before.checked_sub(1) {
            let group = self.groups.get(end >> 6)?.load(Ordering::SeqCst) & up_to(end);
            if group == 0 {
                before = end & !63;
                continue;
            }
            before = (end & !63) | highest(group);
            let pages = load(before)?;
            if pages != 0 {
                return Some((before, pages));
            }
        }
        None
    }
}
