//! Mappings that the program made by calls that the hooks saw: how large the call was, and where. What the
//! kernel tells differs: it joins neighbours and splits them by their rights.
//!
//! The table is short and searched from one end to the other, by mmap and munmap, too, beside whose cost that is
//! nothing. When it is full, calls go unnoted. A slot belongs to the thread that sets its base to `TAKEN`, until it
//! sets it to something else; readers look at the base before and after the rest. (A process that forks while
//! another thread has taken a slot loses that slot.)

use crate::pages;
use crate::sync::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release, fence};

/// How many mappings are noted at a time.
const SLOTS: usize = 4096;
const FREE: usize = 0;
const TAKEN: usize = 1;

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

struct Slot {
    base: AtomicUsize,
    size: AtomicUsize,
    site: AtomicUsize,
    protection: AtomicUsize,
}

impl Slot {
    fn read(&self) -> Option<Noted> {
        let base = self.base.load(Acquire);
        let noted = Noted {
            base,
            size: self.size.load(Relaxed),
            site: self.site.load(Relaxed),
            protection: u32::try_from(self.protection.load(Relaxed)).unwrap_or_default(),
        };
        fence(Acquire);
        (base > TAKEN && self.base.load(Relaxed) == base).then_some(noted)
    }

    /// Takes it, if its base is still `base`.
    fn take(&self, base: usize) -> bool {
        let taken = self.base.compare_exchange(base, TAKEN, Acquire, Relaxed);
        taken.is_ok()
    }

    /// Fills it in and gives it up. The caller has taken it.
    fn publish(&self, noted: Noted) {
        self.size.store(noted.size, Relaxed);
        self.site.store(noted.site, Relaxed);
        self.protection.store(noted.protection as usize, Relaxed);
        self.base.store(noted.base, Release);
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
                    base: AtomicUsize::new(FREE),
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
            .find(|noted| (noted.base..noted.limit()).contains(&address))
    }

    fn note(&self, noted: Noted) {
        self.forget(noted.base, noted.size);
        self.add(noted);
    }

    fn add(&self, noted: Noted) {
        let mut places = (1..).zip(&self.slots);
        let is_ours =
            |(_, slot): &(usize, &Slot)| slot.base.load(Relaxed) == FREE && slot.take(FREE);
        if let Some((used, slot)) = places.find(is_ours) {
            slot.publish(noted);
            self.used.fetch_max(used, Release);
        }
    }

    fn forget(&self, base: usize, size: usize) {
        let end = limit(base, size);
        for slot in self.used() {
            let Some(noted) = slot.read() else { continue };
            let is_touched = noted.base < end && base < noted.limit();
            if !is_touched || !slot.take(noted.base) {
                continue;
            }
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
            slot.base.store(FREE, Release);
            for rest in [before, behind] {
                if rest.size != 0 {
                    self.add(rest);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::pages::LEAST as PAGE;

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
            .map(|noted| (noted.base, noted.size, noted.site))
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
}
