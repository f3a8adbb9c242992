//! What is counted: calls and bytes of each hook, chunks and bytes that are live.
//!
//! Each thread counts in a shard of its own, found by its thread pointer, so that the hot path has
//! no contended write but one: live bytes are one number for the process, because their peak cannot
//! be told from parts.
//!
//! Only the outermost hook on a thread counts. Some allocators reach one function of the family
//! through another by a call that is bound to our hook again (musl's calloc calls malloc, its
//! memalign calls aligned_alloc); that is one request of the program and one chunk.

pub(crate) mod sites;

use core::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};

use crate::hook::{HOOKS, Hook};
use crate::site::Site;
use crate::state;
use crate::sys;
use crate::threads;

/// A power of two, so that finding a shard is a mask.
const SHARDS: usize = 512;
/// How far from its home a thread looks for a free shard.
const PROBES: usize = 16;

/// Calls of one hook, and the bytes that were asked for by the calls that succeeded.
pub(crate) struct Calls {
    calls: AtomicUsize,
    bytes: AtomicUsize,
}

/// What one thread counted. 256 bytes: four cache lines that no other thread writes.
#[repr(C, align(64))]
struct Shard {
    /// Thread pointer of the thread that it belongs to; 0 if none. Never given back: thread
    /// pointers are addresses, and the next thread on that stack goes on counting here.
    owner: AtomicUsize,
    /// Stack pointer of the outermost hook that the thread is inside of; 0 if none.
    inside: AtomicUsize,
    /// Chunks that came to life, chunks that were given back.
    born: AtomicUsize,
    died: AtomicUsize,
    hooks: [Calls; HOOKS],
}

impl Shard {
    const fn new() -> Self {
        Self {
            owner: AtomicUsize::new(0),
            inside: AtomicUsize::new(0),
            born: AtomicUsize::new(0),
            died: AtomicUsize::new(0),
            hooks: [const {
                Calls {
                    calls: AtomicUsize::new(0),
                    bytes: AtomicUsize::new(0),
                }
            }; HOOKS],
        }
    }
}

static OWN: [Shard; SHARDS] = [const { Shard::new() }; SHARDS];
/// For threads that found no shard, and for hooks that are entered before init.
static SHARED: Shard = Shard::new();
static BEFORE_INIT: AtomicUsize = AtomicUsize::new(0);
static LIVE: Level = Level::new();

/// A number of live bytes and the highest that it has been. It may be less than nothing for a moment: a chunk is
/// free before it is entered, as others see it.
pub(crate) struct Level {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Level {
    const fn new() -> Self {
        Self {
            now: AtomicUsize::new(0),
            peak: AtomicUsize::new(0),
        }
    }

    #[inline(always)]
    fn grow(&self, size: usize) {
        let now = threads::add(&self.now, size);
        if now > self.peak.load(Relaxed) && now.cast_signed() > 0 {
            self.peak.fetch_max(now, Relaxed);
        }
    }

    #[inline(always)]
    fn shrink(&self, size: usize) {
        threads::add(&self.now, size.wrapping_neg());
    }

    pub(crate) fn now(&self) -> usize {
        at_least_none(self.now.load(Relaxed))
    }

    pub(crate) fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }
}

fn at_least_none(number: usize) -> usize {
    number.cast_signed().max(0).unsigned_abs()
}

/// One call of an outermost hook. It ends when this is dropped.
pub(crate) struct Entry {
    shard: &'static Shard,
    shared: bool,
}

/// Whether nothing is counted: once it is known that there will be no report.
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Counts no more.
pub(crate) fn stop() {
    STOPPED.store(true, Relaxed);
}

/// Begins a call of a hook. `None` if nothing is counted, or if the thread is inside a hook already.
#[inline(always)]
pub(crate) fn enter() -> Option<Entry> {
    if STOPPED.load(Relaxed) {
        return None;
    }
    enter_thread()
}

#[inline(never)]
fn enter_thread() -> Option<Entry> {
    let thread = sys::thread_pointer();
    let shard = OWN.get(home(thread))?;
    if shard.owner.load(Relaxed) == thread {
        enter_own(shard, sys::stack_pointer())
    } else {
        enter_elsewhere(thread, sys::stack_pointer())
    }
}

/// Thread control blocks are a page apart or more; their stacks often a power of two.
#[inline(always)]
fn home(thread: usize) -> usize {
    (thread >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (SHARDS - 1)
}

#[inline(always)]
fn enter_own(shard: &'static Shard, frame: usize) -> Option<Entry> {
    // A hook that is called from a hook runs deeper in the stack; `frame` is the hook's own. (A flag
    // would do, but for a child that was forked while another thread was inside a hook: a new thread
    // that gets that one's stack would find the flag set for ever.)
    if shard.inside.load(Relaxed) > frame {
        return nested();
    }
    shard.inside.store(frame, Relaxed);
    Some(Entry {
        shard,
        shared: false,
    })
}

/// Keeps the case out of the hot path.
#[cold]
fn nested() -> Option<Entry> {
    None
}

/// The thread has no shard yet, or another one is at home where it would be.
#[cold]
#[inline(never)]
fn enter_elsewhere(thread: usize, frame: usize) -> Option<Entry> {
    if state::reached() {
        for shard in OWN.iter().cycle().skip(home(thread)).take(PROBES) {
            let owner = shard.owner.compare_exchange(0, thread, Relaxed, Relaxed);
            if owner.is_ok() || owner == Err(thread) {
                return enter_own(shard, frame);
            }
        }
    } else {
        BEFORE_INIT.fetch_add(1, Relaxed);
    }
    Some(Entry {
        shard: &SHARED,
        shared: true,
    })
}

impl Entry {
    /// Notes the call; `bytes` are those asked for if it succeeded, else 0.
    #[inline(always)]
    pub(crate) fn called(&self, hook: Hook, bytes: usize) {
        if let Some(calls) = self.shard.hooks.get(hook as usize) {
            self.add(&calls.calls, 1);
            if bytes != 0 {
                self.add(&calls.bytes, bytes);
            }
        }
    }

    /// Notes a chunk that came to life.
    #[inline(always)]
    pub(crate) fn born(&self, site: Site, size: usize) {
        self.add(&self.shard.born, 1);
        sites::born(site, size);
        LIVE.grow(size);
    }

    /// Notes a chunk that is about to be given back.
    #[inline(always)]
    pub(crate) fn died(&self, site: Site, size: usize) {
        self.add(&self.shard.died, 1);
        sites::died(site, size);
        LIVE.shrink(size);
    }

    /// Only its own thread writes to a shard, so it need not lock the bus for it.
    #[inline(always)]
    fn add(&self, counter: &AtomicUsize, amount: usize) {
        if self.shared {
            counter.fetch_add(amount, Relaxed);
        } else {
            counter.store(counter.load(Relaxed).wrapping_add(amount), Relaxed);
        }
    }
}

impl Drop for Entry {
    #[inline(always)]
    fn drop(&mut self) {
        self.shard.inside.store(0, Relaxed);
    }
}

/// Sums over all threads.
pub(crate) struct Totals {
    pub(crate) before_init: usize,
    pub(crate) live_chunks: usize,
    pub(crate) live_bytes: usize,
    pub(crate) peak_bytes: usize,
}

impl Totals {
    /// As they are now; other threads may go on counting.
    pub(crate) fn now() -> Self {
        let chunks = sum(|shard| &shard.born).wrapping_sub(sum(|shard| &shard.died));
        Self {
            before_init: BEFORE_INIT.load(Relaxed),
            live_chunks: at_least_none(chunks),
            live_bytes: LIVE.now(),
            peak_bytes: LIVE.peak(),
        }
    }
}

/// Calls and bytes of `hook`.
#[inline(never)]
pub(crate) fn of(hook: Hook) -> (usize, usize) {
    let total = |counter: fn(&Calls) -> &AtomicUsize| {
        shards()
            .filter_map(|shard| shard.hooks.get(hook as usize))
            .fold(0_usize, |sum, calls| {
                sum.wrapping_add(counter(calls).load(Relaxed))
            })
    };
    (total(|calls| &calls.calls), total(|calls| &calls.bytes))
}

fn sum(counter: impl Fn(&'static Shard) -> &'static AtomicUsize) -> usize {
    shards().fold(0, |sum, shard| {
        sum.wrapping_add(counter(shard).load(Relaxed))
    })
}

fn shards() -> impl Iterator<Item = &'static Shard> {
    OWN.iter().chain([&SHARED])
}
