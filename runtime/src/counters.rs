//! What is counted: calls and bytes of each hook, chunks and bytes that are live.
//!
//! Each thread counts in a shard of its own, found by its thread pointer, so that the hot path has
//! no contended write but one: live bytes are one number for the process, because their peak cannot
//! be told from parts.
//!
//! Only the outermost hook on a thread counts. Some allocators reach one function of the family
//! through another by a call that is bound to our hook again (musl's calloc calls malloc, its
//! memalign calls aligned_alloc); that is one request of the program and one chunk.

use core::sync::atomic::{AtomicIsize, AtomicUsize, Ordering::Relaxed};

use crate::hook::{HOOKS, Hook};
use crate::state;
use crate::sys;

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
static LIVE: AtomicIsize = AtomicIsize::new(0);
static PEAK: AtomicIsize = AtomicIsize::new(0);

/// One call of an outermost hook. It ends when this is dropped.
pub(crate) struct Entry {
    shard: &'static Shard,
    shared: bool,
}

/// Begins a call of a hook. `None` if the thread is inside a hook already.
#[inline(always)]
pub(crate) fn enter() -> Option<Entry> {
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
    pub(crate) fn born(&self, usable_size: usize) {
        self.add(&self.shard.born, 1);
        live_bytes_grow(usable_size.cast_signed());
    }

    /// Notes a chunk that is about to be given back.
    #[inline(always)]
    pub(crate) fn died(&self, usable_size: usize) {
        self.add(&self.shard.died, 1);
        LIVE.fetch_sub(usable_size.cast_signed(), Relaxed);
    }

    /// Notes that a chunk is of another size now.
    #[inline(always)]
    pub(crate) fn resized(&self, before: usize, after: usize) {
        live_bytes_grow(after.wrapping_sub(before).cast_signed());
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

#[inline(always)]
fn live_bytes_grow(change: isize) {
    let live = LIVE.fetch_add(change, Relaxed).wrapping_add(change);
    if live > PEAK.load(Relaxed) {
        PEAK.fetch_max(live, Relaxed);
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
        let at_least_none = |number: isize| number.max(0).unsigned_abs();
        let chunks = sum(|shard| &shard.born).wrapping_sub(sum(|shard| &shard.died));
        Self {
            before_init: BEFORE_INIT.load(Relaxed),
            live_chunks: at_least_none(chunks.cast_signed()),
            live_bytes: at_least_none(LIVE.load(Relaxed)),
            peak_bytes: at_least_none(PEAK.load(Relaxed)),
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

/// Thread pointers of the threads that have called a hook. Some may have ended.
pub(crate) fn thread_pointers() -> impl Iterator<Item = usize> {
    let owners = OWN.iter().map(|shard| shard.owner.load(Relaxed));
    owners.filter(|owner| *owner != 0)
}
