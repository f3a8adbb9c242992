//! The census: what is alive, by site. It walks over all live chunks, while the program goes on.

use core::sync::atomic::{AtomicBool, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

use crate::chunks;
use crate::counters::sites;
use crate::site::Site;

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

/// Whether one is being taken: there is one set of counts.
static BUSY: AtomicBool = AtomicBool::new(false);

/// Takes a census and shows `visit` each site at which something is alive or was counted. False if another
/// one is being taken, which this call may even have interrupted.
pub(crate) fn sites(mut visit: impl FnMut(Site, &SiteCounts)) -> bool {
    if BUSY.swap(true, Acquire) {
        return false;
    }
    for (_, counts) in sites::all() {
        counts.found_chunks.store(0, Relaxed);
        counts.found_bytes.store(0, Relaxed);
    }
    chunks::walk(0, usize::MAX, |chunk| {
        if let Some(counts) = sites::counts(chunk.record.site) {
            // Nobody else writes to these.
            let chunks = counts.found_chunks.load(Relaxed).wrapping_add(1);
            let bytes = counts.found_bytes.load(Relaxed).wrapping_add(chunk.record.size);
            counts.found_chunks.store(chunks, Relaxed);
            counts.found_bytes.store(bytes, Relaxed);
        }
        true
    });
    for (site, counts) in sites::all() {
        let counts = SiteCounts {
            live_chunks: counts.found_chunks.load(Relaxed),
            live_bytes: counts.found_bytes.load(Relaxed),
            calls: counts.calls.load(Relaxed),
            bytes: counts.bytes.load(Relaxed),
            peak_bytes: counts.live.peak(),
        };
        if counts.live_chunks != 0 || counts.calls != 0 {
            visit(site, &counts);
        }
    }
    BUSY.store(false, Release);
    true
}
