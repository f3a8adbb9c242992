//! Two words that are changed together.

use core::ptr;

use crate::machine::shared;
use crate::sync::{AtomicUsize, Ordering::SeqCst};

/// The two. Each alone may be read, and written by those who agree on it.
#[repr(C, align(16))]
pub(crate) struct Pair {
    pub(crate) first: AtomicUsize,
    pub(crate) second: AtomicUsize,
}

impl Pair {
    pub(crate) const fn new() -> Self {
        Self {
            first: AtomicUsize::new(0),
            second: AtomicUsize::new(0),
        }
    }

    /// Their values; from two different times, if they are changed meanwhile.
    #[inline(always)]
    pub(crate) fn load(&self) -> [usize; 2] {
        let second = self.second.load(SeqCst);
        [self.first.load(SeqCst), second]
    }

    /// Makes them `new` if they are `old`. What others do before or after that they do for all in that order.
    #[inline(always)]
    pub(crate) fn change(&self, old: [usize; 2], new: [usize; 2]) -> bool {
        #[cfg(test)]
        crate::sync::locked();
        // SAFETY: the words may be changed by anybody, and are aligned to their size together.
        unsafe { shared::change_pair(ptr::from_ref(self).cast(), old, new) }
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;

    #[test]
    fn both_are_changed_or_none() {
        let pair = Pair::new();
        assert!(pair.change([0, 0], [1, 2]));
        assert!(!pair.change([1, 0], [3, 4]));
        assert!(!pair.change([0, 2], [3, 4]));
        assert_eq!(pair.load(), [1, 2]);
        assert!(pair.change([1, 2], [0, usize::MAX]));
        assert_eq!(pair.load(), [0, usize::MAX]);
    }

    #[test]
    fn threads_change_it_in_turn() {
        let pair = Pair::new();
        thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..20_000 {
                        while {
                            let [first, second] = pair.load();
                            !pair.change([first, second], [first + 1, second + 2])
                        } {}
                    }
                });
            }
        });
        assert_eq!(pair.load(), [80_000, 160_000]);
    }
}
