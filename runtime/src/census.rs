//! The census: what is alive, by site. It walks over all live chunks, while the program goes on.

use crate::chunks;
use crate::counters::{self, sites};
use crate::heap;
use crate::report::Turn;
use crate::site::Site;
use crate::sync::{AtomicUsize, Ordering::Relaxed};

/// What is known of the allocations that were made at one site.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct SiteCounts {
    /// Alive now, and their bytes, as asked for.
    pub(crate) live_chunks: usize,
    pub(crate) live_bytes: usize,
    /// Since the start, and their bytes; 0 if nothing was counted.
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
    /// The live bytes at their peak; 0 if nothing was counted.
    pub(crate) peak_bytes: usize,
}

/// Takes a census and shows `visit` each site at which something is alive or was counted. There is one set
/// of counts; whose turn it is may use it.
pub(crate) fn sites(_turn: &Turn<'_>, mut visit: impl FnMut(Site, &SiteCounts)) {
    for (_, counts) in sites::all() {
        for count in [&counts.found_chunks, &counts.found_bytes] {
            count.store(0, Relaxed);
        }
    }
    for heap in heap::all() {
        chunks::walk(heap, 0, usize::MAX, |chunk| {
            if let Some(counts) = sites::counts(chunk.record.site) {
                add(&counts.found_chunks, 1);
                add(&counts.found_bytes, chunk.record.size);
            }
            true
        });
    }
    for (site, counts) in sites::all() {
        let counted = counters::at(site, counts);
        counts.live.note_peak(counted.peak);
        let counts = SiteCounts {
            live_chunks: counts.found_chunks.load(Relaxed),
            live_bytes: counts.found_bytes.load(Relaxed),
            calls: counted.calls,
            bytes: counted.bytes,
            peak_bytes: counts.live.peak(0),
        };
        if counts.live_chunks != 0 || counts.calls != 0 {
            visit(site, &counts);
        }
    }
}

/// Nobody else writes to what a census counts.
fn add(count: &AtomicUsize, amount: usize) {
    count.store(count.load(Relaxed).wrapping_add(amount), Relaxed);
}
