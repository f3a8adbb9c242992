//! Numbers of live bytes and the highest that they have been. Threads share a [`Level`], but change it seldom:
//! each keeps what it has changed in a [`Change`] of its own, as long as that is small. So with one thread the
//! peak is exact, and with several it is within [`KEPT`] bytes for each of them.

use crate::sync::{AtomicUsize, Ordering::Relaxed};

/// The change that a thread keeps to itself at most.
const KEPT: isize = 1 << 16;

/// A number of bytes, of all threads, and the highest that it has been. It may be less than nothing for a
/// moment: threads tell of what they have given back and of what they have got at different times.
pub(crate) struct Level {
    now: AtomicUsize,
    peak: AtomicUsize,
}

/// What one thread has changed, and the highest that this has been since it began to be kept.
pub(crate) struct Change {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Level {
    pub(crate) const fn new() -> Self {
        Self {
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    /// The number now, with none of the changes that threads keep.
    pub(crate) fn now(&self) -> isize {
        self.now.load(Relaxed).cast_signed()
    }

    /// The highest that the number has been, `kept` being the changes that threads keep.
    pub(crate) fn peak(&self, kept: isize) -> usize {
        let known = self.peak.load(Relaxed).cast_signed();
        let now = self.now().wrapping_add(kept);
        known.max(now).max(0).unsigned_abs()
    }

    /// Notes a peak that is still kept: the highest that one thread's change has been.
    pub(crate) fn note_peak(&self, highest: isize) {
        let peak = self.now().wrapping_add(highest);
        if peak > self.peak.load(Relaxed).cast_signed() {
            self.peak.store(peak.cast_unsigned(), Relaxed);
        }
    }

    /// Adds `change`, which was `highest` in between.
    pub(crate) fn take(&self, change: isize, highest: isize) {
        let before = self.now.fetch_add(change.cast_unsigned(), Relaxed);
        let peak = before.cast_signed().wrapping_add(highest);
        if peak > self.peak.load(Relaxed).cast_signed() {
            self.peak.fetch_max(peak.cast_unsigned(), Relaxed);
        }
    }
}

impl Change {
    pub(crate) const fn new() -> Self {
        Self {
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    /// What is kept.
    pub(crate) fn now(&self) -> isize {
        self.now.load(Relaxed).cast_signed()
    }

    /// The highest that it has been.
    pub(crate) fn peak(&self) -> isize {
        self.peak.load(Relaxed).cast_signed()
    }

    /// Adds `size`. Only its own thread may.
    #[inline(always)]
    pub(crate) fn grow(&self, size: usize, level: &Level) {
        let now = self.now.load(Relaxed).wrapping_add(size);
        self.now.store(now, Relaxed);
        if now.cast_signed() > self.peak() {
            self.peak.store(now, Relaxed);
            if now.cast_signed() > KEPT {
                self.give(level);
            }
        }
    }

    /// Takes `size` away. Only its own thread may.
    #[inline(always)]
    pub(crate) fn shrink(&self, size: usize, level: &Level) {
        let now = self.now.load(Relaxed).wrapping_sub(size);
        self.now.store(now, Relaxed);
        if now.cast_signed() < -KEPT {
            self.give(level);
        }
    }

    /// Passes everything on.
    #[inline(never)]
    pub(crate) fn give(&self, level: &Level) {
        level.take(self.now(), self.peak());
        self.now.store(0, Relaxed);
        self.peak.store(0, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_peak_of_one_thread_is_exact() {
        let (level, change) = (Level::new(), Change::new());
        let mut sizes = Vec::new();
        let (mut now, mut peak) = (0, 0);
        for size in [10, 1 << 20, 5000, 70_000, 3] {
            change.grow(size, &level);
            sizes.push(size);
            now += size;
            peak = peak.max(now);
            if size == 5000 {
                let gone = sizes.remove(1);
                change.shrink(gone, &level);
                now -= gone;
            }
            let kept = change.now();
            assert_eq!(level.now() + kept, now.cast_signed());
            change_peak(&level, &change, peak);
        }
    }

    fn change_peak(level: &Level, change: &Change, expected: usize) {
        let kept = change.peak().max(change.now());
        assert_eq!(level.peak(kept), expected);
    }
}
