//! What is counted, if there will be a report: calls and bytes of each hook, chunks and bytes that are live, in
//! all and by site.
//!
//! Each thread counts in a [`shard`] of its own, found by its thread pointer, so that no write on the way of a
//! hook is contended.
//!
//! Only the outermost hook on a thread counts. Some allocators reach one function of the family
//! through another by a call that is bound to our hook again (musl's calloc calls malloc, its
//! memalign calls aligned_alloc); that is one request of the program and one chunk.

mod level;
mod shard;
pub(crate) mod sites;

use core::hint;
use core::ops::Deref;
use core::ptr;

use crate::counters::level::Level;
use crate::counters::shard::{Calls, Kept, Shard};
use crate::counters::sites::Counts;
use crate::holder::Holder;
use crate::hook::Hook;
use crate::site::Site;
use crate::state;
use crate::sync::{
    AtomicBool, AtomicPtr, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};
use crate::sys;

/// A power of two, so that finding a shard is a mask.
const SHARDS: usize = 512;
/// How often what is passed on meanwhile is waited for.
const PATIENCE: usize = 16;
/// How far from its home a thread looks for a free shard.
const PROBES: usize = 16;

/// Those of threads, once they are counted in: they take more memory than all the rest of the runtime.
static OWN: AtomicPtr<[Shard; SHARDS]> = AtomicPtr::new(ptr::null_mut());
/// For threads that found no shard, and for hooks that are entered before init.
static SHARED: Shard = Shard::new();
static BEFORE_INIT: AtomicUsize = AtomicUsize::new(0);
static LIVE: Level = Level::new();

/// One call of an outermost hook. It ends when this is dropped.
pub(crate) struct Entry<'a> {
    shard: &'static Shard,
    holder: &'a Holder,
}

/// Whether nothing is counted: once it is known that there will be no report.
#[unsafe(link_section = ".data")]
static STOPPED: AtomicBool = AtomicBool::new(false);

/// Lets each thread count by itself. Without memory for that, all go on together.
pub(crate) fn start() {
    if let Some(memory) = sys::map_zeros(size_of::<[Shard; SHARDS]>()) {
        OWN.store(ptr::with_exposed_provenance_mut(memory), Release);
    }
}

/// The shards of threads; none before [`start`].
#[inline(always)]
fn own() -> &'static [Shard] {
    // SAFETY: null, or memory that stays; zeros are shards that belong to nobody.
    unsafe { OWN.load(Acquire).as_ref() }.map_or(&[], <[Shard; SHARDS]>::as_slice)
}

/// Counts no more.
pub(crate) fn stop() {
    STOPPED.store(true, Relaxed);
}

/// Whether anything is counted.
pub(crate) fn are_running() -> bool {
    !STOPPED.load(Relaxed)
}

/// Begins a call of a hook. `None` if nothing is counted, or if the thread is inside a hook already.
#[inline(always)]
pub(crate) fn enter(holder: &Holder) -> Option<Entry<'_>> {
    if are_running() {
        enter_thread(holder)
    } else {
        None
    }
}

#[inline(never)]
fn enter_thread(holder: &Holder) -> Option<Entry<'_>> {
    let thread = sys::thread_pointer();
    match own().get(home(thread)) {
        Some(shard) if shard.owner.load(Relaxed) == thread => enter_own(shard, holder),
        _ => enter_elsewhere(thread, holder),
    }
}

/// Thread control blocks are a page apart or more; their stacks often a power of two.
#[inline(always)]
fn home(thread: usize) -> usize {
    (thread >> 12).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (SHARDS - 1)
}

#[inline(always)]
fn enter_own<'a>(shard: &'static Shard, holder: &'a Holder) -> Option<Entry<'a>> {
    // A hook that is called from a hook runs deeper in the stack. (A flag would do, but for a child that was forked
    // while another thread was inside a hook: a new thread that gets that one's stack would find the flag set for
    // ever. And a handler may leave a hook by siglongjmp.)
    let outer = shard.inside.load(Relaxed);
    if outer > holder.address() && is_nested(shard, outer) {
        return None;
    }
    shard.inside.store(holder.address(), Relaxed);
    holder.set(shard.name());
    Some(Entry { shard, holder })
}

/// Keeps the case out of the hot path.
#[cold]
#[inline(never)]
fn is_nested(shard: &Shard, outer: usize) -> bool {
    Holder::is_there(outer, shard.name())
}

/// The thread has no shard yet, or another one is at home where it would be.
#[cold]
#[inline(never)]
fn enter_elsewhere(thread: usize, holder: &Holder) -> Option<Entry<'_>> {
    if state::reached() {
        for shard in own().iter().cycle().skip(home(thread)).take(PROBES) {
            let owner = shard.owner.compare_exchange(0, thread, Relaxed, Relaxed);
            if owner.is_ok() || owner == Err(thread) {
                return enter_own(shard, holder);
            }
        }
    } else {
        BEFORE_INIT.fetch_add(1, Relaxed);
    }
    Some(Entry {
        shard: &SHARED,
        holder,
    })
}

impl Deref for Entry<'_> {
    type Target = Shard;

    fn deref(&self) -> &Shard {
        self.shard
    }
}

impl Drop for Entry<'_> {
    #[inline(always)]
    fn drop(&mut self) {
        self.shard.inside.store(0, Relaxed);
        self.holder.set(0);
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
        let kept = |part: fn(&Shard) -> isize| shards().map(part).fold(0, isize::wrapping_add);
        let live = LIVE.now().wrapping_add(kept(|shard| shard.live.now()));
        Self {
            before_init: BEFORE_INIT.load(Relaxed),
            live_chunks: chunks.cast_signed().max(0).unsigned_abs(),
            live_bytes: live.max(0).unsigned_abs(),
            peak_bytes: LIVE.peak(kept(|shard| shard.live.peak())),
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

/// What was counted at `site` since the start: `counts`, and what threads keep to themselves. Other threads may go on
/// counting, and pass on what they kept.
pub(crate) fn at(site: Site, counts: &Counts) -> Kept {
    added_up(own(), site, counts)
}

fn added_up(shards: &[Shard], site: Site, counts: &Counts) -> Kept {
    let mut sum = at_once(shards, site, counts);
    for _ in 0..PATIENCE {
        if let Ok(sum) = sum {
            return sum;
        }
        hint::spin_loop();
        sum = at_once(shards, site, counts);
    }
    // A handler may have come in while its own thread passed something on.
    sum.unwrap_or_else(|sum| sum)
}

/// The same, as an error if something was passed on meanwhile.
fn at_once(shards: &[Shard], site: Site, counts: &Counts) -> Result<Kept, Kept> {
    let counted = || (counts.calls.load(Acquire), counts.bytes.load(Acquire));
    let before = counted();
    let mut sum = Kept {
        calls: before.0,
        bytes: before.1,
        peak: 0,
    };
    let mut is_whole = true;
    for shard in shards.iter().filter(|shard| shard.owner.load(Relaxed) != 0) {
        let kept = shard.kept(site);
        is_whole &= kept.is_some();
        let kept = kept.unwrap_or_default();
        sum.calls = sum.calls.wrapping_add(kept.calls);
        sum.bytes = sum.bytes.wrapping_add(kept.bytes);
        sum.peak = sum.peak.max(kept.peak);
    }
    if is_whole && counted() == before {
        Ok(sum)
    } else {
        Err(sum)
    }
}

fn shards() -> impl Iterator<Item = &'static Shard> {
    own().iter().chain([&SHARED])
}

/// Thread pointers of the threads that have called a hook. Some may have ended.
pub(crate) fn thread_pointers() -> impl Iterator<Item = usize> {
    let owners = own().iter().map(|shard| shard.owner.load(Relaxed));
    owners.filter(|owner| *owner != 0)
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::expect_used,
        reason = "a test says that something is wrong by panicking"
    )]

    use super::*;
    use crate::sync;

    /// While threads pass on what they kept of one site, since others take its place, who adds up is never told of more
    /// calls than there were, nor of fewer than before.
    #[test]
    fn what_is_passed_on_is_counted_once() {
        static SHARDS: [Shard; 2] = [const { Shard::new() }; 2];
        const SIZE: usize = 10;
        let [site, rival] = [0x71_0001, 0x71_0041].map(Site::from_number);
        let counts = sites::counts(site).expect("memory");
        for (shard, thread) in SHARDS.iter().zip(1..) {
            shard.owner.store(thread, Relaxed);
        }
        for seed in 0..3000 {
            let work = |shard: &Shard| {
                for _ in 0..3 {
                    shard.born(site, SIZE);
                    shard.born(site, SIZE);
                    shard.born(rival, 1);
                }
            };
            let before = added_up(&SHARDS, site, counts).calls;
            let read = || {
                let mut last = before;
                for _ in 0..4 {
                    let Ok(sum) = at_once(&SHARDS, site, counts) else {
                        continue;
                    };
                    assert!((last..=before + 12).contains(&sum.calls), "seed {seed}");
                    // A call is counted before its bytes are.
                    let bytes = sum.calls.saturating_sub(2) * SIZE..=(sum.calls + 2) * SIZE;
                    assert!(bytes.contains(&sum.bytes), "seed {seed}");
                    last = sum.calls;
                }
            };
            sync::interleave(seed, &[&|| work(&SHARDS[0]), &read, &|| work(&SHARDS[1])]);
            let sum = added_up(&SHARDS, site, counts);
            assert_eq!((sum.calls, sum.bytes), (before + 12, (before + 12) * SIZE));
        }
    }

    /// Threads count at the same sites, two of which have one place in a shard; one thread has no shard of its own.
    #[test]
    fn nothing_is_lost_in_any_order() {
        static SHARDS: [Shard; 2] = [const { Shard::new() }; 2];
        let shards = [&SHARDS[0], &SHARDS[1], &SHARED];
        // More than a thread keeps to itself, and less.
        let sizes = [100_000, 7, 300];
        let sites = [0x70_0001, 0x70_0041, 0x70_0002].map(Site::from_number);
        let rivals = [0x70_0081, 0x70_0042].map(Site::from_number);
        let chunks = || sites.into_iter().zip(sizes);
        let work = |shard: &Shard| {
            for _ in 0..2 {
                chunks().for_each(|(site, size)| shard.born(site, size));
                chunks().for_each(|(site, size)| shard.died(site, size));
            }
            chunks().for_each(|(site, size)| shard.born(site, size));
        };
        for seed in 0..500 {
            let body = |number: usize| move || work(shards[number]);
            sync::interleave(seed, &[&body(0), &body(1), &body(2)]);
            // Has each shard pass on what it keeps.
            for shard in &SHARDS {
                rivals.iter().for_each(|rival| shard.born(*rival, 0));
            }
            let rounds = 3 * (seed as usize + 1);
            for (site, size) in chunks() {
                let counts = sites::counts(site).expect("memory");
                assert_eq!(counts.calls.load(Relaxed), 3 * rounds, "seed {seed}");
                assert_eq!(counts.bytes.load(Relaxed), 3 * rounds * size, "seed {seed}");
                let live = (rounds * size).cast_signed();
                assert_eq!(counts.live.now(), live, "seed {seed}");
                assert!(counts.live.peak(0) >= rounds * size, "seed {seed}");
            }
        }
    }
}
