//! Mappings that the program made by calls that the hooks saw: how large the call was, and where. What the
//! kernel tells differs: it joins neighbours and splits them by their rights.
//!
//! The table is short and searched from one end to the other, by mmap and munmap, too, beside whose cost that is
//! nothing. When it is full, calls go unnoted. A slot belongs to the thread that has taken it, until it fills it in or
//! frees it; readers look at its [`Begin`] before and after the rest. (A process that forks while another thread has
//! taken a slot loses that slot.)

use crate::pages;
use crate::sync::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};

/// How many mappings are noted at a time.
const SLOTS: usize = 4096;

static SLOTS_OF_ALL: Table = Table::new();

/// One mapping, or what munmap left of it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Noted {
    pub(crate) base: usize,
    /// As the call asked for: the mapping goes on to the end of the page.
    pub(crate) size: usize,
    /// Return address of the call.
    pub(crate) site: usize,
    /// PROT_READ and so on, as in the call.
    pub(crate) protection: u32,
}

impl Noted {
    /// One past the last address of the last page.
    pub(crate) fn limit(&self) -> usize {
        limit(self.base, self.size)
    }
}

fn limit(base: usize, size: usize) -> usize {
    pages::end(base.saturating_add(size))
}

/// Notes a new mapping. Whatever was there before is no more.
pub(crate) fn note(noted: Noted) {
    SLOTS_OF_ALL.note(noted);
}

/// Notes that nothing is mapped any more on the pages of `size` bytes at `base`.
pub(crate) fn forget(base: usize, size: usize) {
    SLOTS_OF_ALL.forget(base, size);
}

/// The mapping that contains `address`.
pub(crate) fn of(address: usize) -> Option<Noted> {
    SLOTS_OF_ALL.of(address)
}

/// Where the mapping of a slot begins, if there is one; and in the bits that are 0 in any such address a number that is
/// another one after each change, so that nobody takes one mapping for the next in the same place.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Begin(usize);

impl Begin {
    const TIMES: usize = pages::LEAST - 1;
    const FREE: usize = 0;
    /// The last page is the kernel's.
    const TAKEN: usize = !Self::TIMES;

    fn address(self) -> usize {
        self.0 & !Self::TIMES
    }

    /// What follows, with another address.
    fn then(self, address: usize) -> Self {
        let times = self.0.wrapping_add(1) & Self::TIMES;
        Self(address & !Self::TIMES | times)
    }
}

struct Slot {
    begin: AtomicUsize,
    size: AtomicUsize,
    site: AtomicUsize,
    protection: AtomicUsize,
}

impl Slot {
    /// The mapping in it, and what to take it by.
    fn read(&self) -> Option<(Begin, Noted)> {
        let begin = Begin(self.begin.load(Acquire));
        let noted = Noted {
            base: begin.address(),
            size: self.size.load(Relaxed),
            site: self.site.load(Relaxed),
            protection: u32::try_from(self.protection.load(Relaxed)).unwrap_or_default(),
        };
        fence(Acquire);
        let is_whole = ![Begin::FREE, Begin::TAKEN].contains(&noted.base);
        (is_whole && self.begin.load(Relaxed) == begin.0).then_some((begin, noted))
    }

    /// Takes it, if it is still free.
    fn take_free(&self) -> Option<Begin> {
        let begin = Begin(self.begin.load(Relaxed));
        (begin.address() == Begin::FREE).then(|| self.take(begin))?
    }

    /// Takes it, if it is still as it was. What there is then.
    fn take(&self, begin: Begin) -> Option<Begin> {
        let taken = begin.then(Begin::TAKEN);
        let before = (self.begin).compare_exchange(begin.0, taken.0, Acquire, Relaxed);
        // What is written next is not seen before that.
        fence(Release);
        before.is_ok().then_some(taken)
    }

    /// Fills it in and gives it up. The caller has taken it.
    fn publish(&self, taken: Begin, noted: Noted) {
        self.size.store(noted.size, Relaxed);
        self.site.store(noted.site, Relaxed);
        self.protection.store(noted.protection as usize, Relaxed);
        self.begin.store(taken.then(noted.base).0, Release);
    }
}

struct Table {
    slots: [Slot; SLOTS],
    /// No slot behind these was ever taken.
    used: AtomicUsize,
}

impl Table {
    const fn new() -> Self {
        Self {
            slots: [const {
                Slot {
                    begin: AtomicUsize::new(Begin::FREE),
                    size: AtomicUsize::new(0),
                    site: AtomicUsize::new(0),
                    protection: AtomicUsize::new(0),
                }
            }; SLOTS],
            used: AtomicUsize::new(0),
        }
    }

    fn used(&self) -> impl Iterator<Item = &Slot> {
        self.slots.iter().take(self.used.load(Acquire))
    }

    fn of(&self, address: usize) -> Option<Noted> {
        self.used()
            .filter_map(Slot::read)
            .map(|(_, noted)| noted)
            .find(|noted| (noted.base..noted.limit()).contains(&address))
    }

    fn note(&self, noted: Noted) {
        self.forget(noted.base, noted.size);
        self.add(noted);
    }

    fn add(&self, noted: Noted) {
        let places = (1..).zip(&self.slots);
        let mut ours = places.filter_map(|(used, slot)| Some((used, slot, slot.take_free()?)));
        if let Some((used, slot, taken)) = ours.next() {
            slot.publish(taken, noted);
            self.used.fetch_max(used, Release);
        }
    }

    fn forget(&self, base: usize, size: usize) {
        let end = limit(base, size);
        for slot in self.used() {
            let Some((begin, noted)) = slot.read() else {
                continue;
            };
            if noted.base >= end || base >= noted.limit() {
                continue;
            }
            let Some(taken) = slot.take(begin) else {
                continue;
            };
            let before = Noted {
                size: base.saturating_sub(noted.base),
                ..noted
            };
            let gone = end.wrapping_sub(noted.base);
            let behind = Noted {
                base: end,
                size: noted.size.saturating_sub(gone),
                ..noted
            };
            let mut left = [before, behind].into_iter().filter(|rest| rest.size != 0);
            match left.next() {
                Some(rest) => slot.publish(taken, rest),
                None => slot.begin.store(taken.then(Begin::FREE).0, Release),
            }
            left.for_each(|rest| self.add(rest));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::pages::LEAST as PAGE;
    use crate::sync;

    const AT: usize = 0x7f00_0000_0000;

    fn noted(base: usize, size: usize) -> Noted {
        Noted {
            base,
            size,
            site: base + size,
            protection: 3,
        }
    }

    fn all(table: &Table) -> Vec<(usize, usize, usize)> {
        let noted = table.used().filter_map(Slot::read);
        let mut all: Vec<_> = noted
            .map(|(_, noted)| (noted.base, noted.size, noted.site))
            .collect();
        all.sort_unstable();
        all
    }

    #[test]
    fn what_munmap_leaves() {
        let table = Box::new(Table::new());
        let whole = noted(AT, 10 * PAGE - 5);
        let site = whole.site;
        table.note(whole);
        assert_eq!(table.of(AT), Some(whole));
        assert_eq!(
            table.of(AT + 10 * PAGE - 1),
            Some(whole),
            "to the end of the page"
        );
        assert_eq!(table.of(AT + 10 * PAGE), None);
        assert_eq!(table.of(AT - 1), None);
        table.forget(AT - PAGE, PAGE);
        table.forget(AT + 10 * PAGE, PAGE);
        assert_eq!(all(&table), [(AT, 10 * PAGE - 5, site)]);
        table.forget(AT + 4 * PAGE, 1);
        let behind = (AT + 5 * PAGE, 5 * PAGE - 5, site);
        assert_eq!(all(&table), [(AT, 4 * PAGE, site), behind]);
        table.forget(AT - PAGE, 2 * PAGE);
        assert_eq!(all(&table), [(AT + PAGE, 3 * PAGE, site), behind]);
        table.forget(AT + 9 * PAGE, PAGE);
        let cut = (AT + 5 * PAGE, 4 * PAGE, site);
        assert_eq!(all(&table), [(AT + PAGE, 3 * PAGE, site), cut]);
        table.note(noted(AT + 3 * PAGE, 3 * PAGE));
        let last = (AT + 6 * PAGE, 3 * PAGE, site);
        let new = (AT + 3 * PAGE, 3 * PAGE, AT + 6 * PAGE);
        assert_eq!(all(&table), [(AT + PAGE, 2 * PAGE, site), new, last]);
        table.forget(0, usize::MAX);
        assert_eq!(all(&table), []);
    }

    #[test]
    fn a_full_table_notes_no_more() {
        let table = Box::new(Table::new());
        for index in 1..=SLOTS + 9 {
            table.note(noted(index * PAGE, PAGE));
        }
        assert!(table.of(SLOTS * PAGE).is_some());
        assert_eq!(table.of((SLOTS + 1) * PAGE), None);
        table.forget(PAGE, PAGE);
        table.note(noted((SLOTS + 1) * PAGE, PAGE));
        assert!(table.of((SLOTS + 1) * PAGE).is_some());
    }

    #[test]
    fn threads_note_and_forget_their_own() {
        let table = Box::new(Table::new());
        thread::scope(|scope| {
            for thread in 1..5 {
                let table = &table;
                scope.spawn(move || {
                    for round in 1..2000 {
                        let base = thread * AT + round * PAGE;
                        table.note(noted(base, PAGE));
                        assert_eq!(table.of(base), Some(noted(base, PAGE)));
                        table.forget(base, PAGE);
                        assert_eq!(table.of(base), None);
                    }
                });
            }
        });
        assert_eq!(all(&table), []);
    }

    /// While one thread unmaps and maps in the same place and another cuts off the end, a third is told of none but
    /// mappings that there were.
    #[test]
    fn nobody_reads_half_of_one_and_half_of_another() {
        static TABLE: Table = Table::new();
        let kept = noted(AT - 9 * PAGE, 8 * PAGE);
        for seed in 0..3000 {
            TABLE.note(kept);
            TABLE.note(noted(AT, 9 * PAGE));
            let again = || {
                for pages in 1..4 {
                    TABLE.forget(AT, 9 * PAGE);
                    TABLE.note(noted(AT, pages * PAGE));
                }
            };
            let cut = || TABLE.forget(AT - 3 * PAGE, 2 * PAGE);
            let read = || {
                for _ in 0..4 {
                    if let Some(read) = TABLE.of(AT) {
                        assert_eq!(read, noted(read.base, read.size), "seed {seed}");
                    }
                    if let Some(read) = TABLE.of(kept.base) {
                        let site = kept.site;
                        let expected = [
                            kept,
                            Noted {
                                size: 6 * PAGE,
                                ..kept
                            },
                        ];
                        assert!(expected.contains(&read) && read.site == site, "seed {seed}");
                    }
                }
            };
            sync::interleave(seed, &[&again, &read, &cut]);
            let first = (kept.base, 6 * PAGE, kept.site);
            let last = (AT, 3 * PAGE, AT + 3 * PAGE);
            assert_eq!(all(&TABLE), [first, last], "seed {seed}");
        }
    }
}
