//! What one thread counts, in memory that no other thread writes to, so that no count is contended: calls of
//! each hook, live bytes, and the counts of the sites that it allocated at last. One shard is for all threads
//! that have none of their own; there every change is locked.

use core::ptr;

use crate::counters::level::Change;
use crate::counters::sites;
use crate::counters::{LIVE, SHARED};
use crate::hook::{HOOKS, Hook};
use crate::site::Site;
use crate::sync::{
    AtomicU32, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
    fence,
};

/// How many sites a shard has counts of. A power of two.
const SITES: usize = 64;

/// Calls of one hook, and the bytes that were asked for by the calls that succeeded.
pub(crate) struct Calls {
    pub(crate) calls: AtomicUsize,
    pub(crate) bytes: AtomicUsize,
}

/// What was counted at one site since the shard has it.
struct AtSite {
    /// Its number, or [`MOVING`].
    site: AtomicU32,
    calls: AtomicUsize,
    bytes: AtomicUsize,
    live: Change,
}

/// The counts are being passed on.
const MOVING: u32 = u32::MAX;

/// What threads keep to themselves of the counts of one site.
#[derive(Clone, Copy, Default)]
pub(crate) struct Kept {
    pub(crate) calls: usize,
    pub(crate) bytes: usize,
    /// The highest that the change of live bytes has been.
    pub(crate) peak: isize,
}

/// What one thread counted.
#[repr(C, align(64))]
pub(crate) struct Shard {
    /// Thread pointer of the thread that it belongs to; 0 if none. Never given back: thread
    /// pointers are addresses, and the next thread on that stack goes on counting here.
    pub(crate) owner: AtomicUsize,
    /// Where the [`Holder`](crate::holder::Holder) of the outermost hook lies that the thread is inside of; 0 if none.
    pub(crate) inside: AtomicUsize,
    /// Chunks that came to life, chunks that were given back.
    pub(crate) born: AtomicUsize,
    pub(crate) died: AtomicUsize,
    pub(crate) live: Change,
    pub(crate) hooks: [Calls; HOOKS],
    sites: [AtSite; SITES],
}

impl Shard {
    pub(crate) const fn new() -> Self {
        Self {
            owner: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            born: AtomicUsize::new(0),
            died: AtomicUsize::new(0),
            live: Change::new(),
            hooks: [const {
                Calls {
                    calls: AtomicUsize::new(0),
                    bytes: AtomicUsize::new(0),
                }
            }; HOOKS],
            sites: [const {
                AtSite {
                    site: AtomicU32::new(0),
                    calls: AtomicUsize::new(0),
                    bytes: AtomicUsize::new(0),
                    live: Change::new(),
                }
            }; SITES],
        }
    }

    /// Whether it is for all threads that have none.
    #[inline(always)]
    fn is_shared(&self) -> bool {
        ptr::eq(self, &raw const SHARED)
    }

    /// What the holder of a hook says.
    #[inline(always)]
    pub(crate) fn name(&self) -> usize {
        ptr::from_ref(self).expose_provenance()
    }

    /// Notes a call; `bytes` are those asked for if it succeeded, else 0.
    #[inline(always)]
    pub(crate) fn called(&self, hook: Hook, bytes: usize) {
        if let Some(calls) = self.hooks.get(hook as usize) {
            self.add(&calls.calls, 1);
            self.add(&calls.bytes, bytes);
        }
    }

    /// Notes a chunk that came to life.
    #[inline(always)]
    pub(crate) fn born(&self, site: Site, size: usize) {
        self.add(&self.born, 1);
        if self.is_shared() {
            LIVE.take(size.cast_signed(), size.cast_signed());
            return sites::born(site, size);
        }
        self.live.grow(size, &LIVE);
        if let Some((counts, at_site)) = self.at(site) {
            self.add(&at_site.calls, 1);
            self.add(&at_site.bytes, size);
            at_site.live.grow(size, &counts.live);
        }
    }

    /// Takes back what [`Self::born`] has just noted.
    #[cfg(target_arch = "x86_64")] // for operators new of allocators in the executable
    pub(crate) fn unborn(&self, site: Site, size: usize) {
        self.add(&self.born, usize::MAX);
        if self.is_shared() {
            LIVE.take(size.cast_signed().wrapping_neg(), 0);
            return sites::unborn(site, size);
        }
        self.live.shrink(size, &LIVE);
        if let Some((counts, at_site)) = self.at(site) {
            self.add(&at_site.calls, usize::MAX);
            self.add(&at_site.bytes, size.wrapping_neg());
            at_site.live.shrink(size, &counts.live);
        }
    }

    /// Notes a chunk that is about to be given back.
    #[inline(always)]
    pub(crate) fn died(&self, site: Site, size: usize) {
        self.add(&self.died, 1);
        if self.is_shared() {
            LIVE.take(size.cast_signed().wrapping_neg(), 0);
            return sites::died(site, size);
        }
        self.live.shrink(size, &LIVE);
        if let Some((counts, at_site)) = self.at(site) {
            at_site.live.shrink(size, &counts.live);
        }
    }

    #[inline(always)]
    fn add(&self, counter: &AtomicUsize, amount: usize) {
        if self.is_shared() {
            counter.fetch_add(amount, Relaxed);
        } else {
            counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
        }
    }

    /// The counts that this thread keeps of `site`, and those of all threads.
    #[inline(always)]
    fn at(&self, site: Site) -> Option<(&'static sites::Counts, &AtSite)> {
        let at_site = self.sites.get(site.number() as usize & (SITES - 1))?;
        let before = at_site.site.load(Relaxed);
        if before != site.number() {
            at_site.give(Site::from_number(before));
            at_site.site.store(site.number(), Release);
        }
        Some((sites::counts(site)?, at_site))
    }

    /// What it keeps of `site`; `None` if that may be on its way to what all threads have counted.
    pub(crate) fn kept(&self, site: Site) -> Option<Kept> {
        let at_site = self.sites.get(site.number() as usize & (SITES - 1))?;
        let whose = at_site.site.load(Acquire);
        if whose == MOVING {
            return None;
        }
        if whose != site.number() {
            return Some(Kept::default());
        }
        let kept = Kept {
            calls: at_site.calls.load(Relaxed),
            bytes: at_site.bytes.load(Relaxed),
            peak: at_site.live.peak(),
        };
        fence(Acquire);
        (at_site.site.load(Relaxed) == whose).then_some(kept)
    }
}

impl AtSite {
    /// Passes everything on to what all threads have counted at `site`. Whoever adds both up sees that it is about to be
    /// in neither or in both ([`Shard::kept`]), or that the sum of all has changed.
    #[inline(never)]
    fn give(&self, site: Site) {
        self.site.store(MOVING, Relaxed);
        if let Some(counts) = sites::counts(site) {
            (counts.calls).fetch_add(self.calls.load(Relaxed), Release);
            (counts.bytes).fetch_add(self.bytes.load(Relaxed), Release);
            self.live.give(&counts.live);
        }
        self.calls.store(0, Release);
        self.bytes.store(0, Release);
    }
}
