//! What all hooks do: have a chunk made and enter it, take a chunk out and have it given back, or both for one that is
//! resized. There is a short way for the usual chunks where nothing is counted, of which callers have a copy of
//! their own, and one that counts.

use core::hint;
use core::ptr;

use crate::call::Call;
use crate::chunks;
use crate::counters;
use crate::holder::Holder;
use crate::hook::Hook;
use crate::hooks::Chunk;
use crate::index::{GRAIN, Mark};
use crate::machine::shared;
use crate::next::{Next, Origin};
use crate::record::Record;
use crate::site::{self, Known, Site};
use crate::sync::{AtomicU32, Ordering::Relaxed};
use crate::threads;

/// What every hook that allocates does: `ask` next for a chunk with room for its record, enter it, count it.
#[inline(always)]
pub(crate) fn allocate<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> Chunk {
    if let Some(request) = origin.request_at_hand(size)
        && let Some(next) = origin.direct(hook)
    {
        // SAFETY: each hook names the function's type next to its own.
        let function = unsafe { next.function() };
        let chunk = ask(function, request);
        return match chunk.is_null() {
            true => chunk,
            false => enter(origin, chunk, size, call),
        };
    }
    allocate_and_count(origin, hook, size, call, ask)
}

/// Enters a chunk that was just made on the short way, and gives it back. Its callers end with it: whatever is
/// not as usual is a function to go on with, for which nothing has to be kept.
#[inline(always)]
pub(crate) fn enter(origin: impl Origin, chunk: Chunk, size: usize, call: Call) -> Chunk {
    match call.site_at_hand() {
        Ok(site) => enter_at(origin, site, chunk, size, call),
        Err(known) => enter_behind(origin, chunk, size, call, known),
    }
}

/// The same where the direct caller is not the site, or not known yet.
#[inline(never)]
fn enter_behind(origin: impl Origin, chunk: Chunk, size: usize, call: Call, known: Known) -> Chunk {
    match call.site_behind(known) {
        Some(site) => enter_at(origin, site, chunk, size, call),
        None => enter_learning(origin, chunk, size, call),
    }
}

/// The same where not all is known.
#[cold]
#[inline(never)]
fn enter_learning(origin: impl Origin, chunk: Chunk, size: usize, call: Call) -> Chunk {
    enter_any(origin, chunk, size, call.learn_site(), call)
}

#[inline(always)]
fn enter_at(origin: impl Origin, site: Site, chunk: Chunk, size: usize, call: Call) -> Chunk {
    let address = chunk.expose_provenance();
    match chunks::enter_at_hand(origin, address, size, site) {
        Some(is_single) if is_sample(address, is_single) => sample(chunk, call),
        Some(_) => chunk,
        None => enter_any(origin, chunk, size, site, call),
    }
}

/// The same for one that is not as usual, or the first in its place.
#[cold]
#[inline(never)]
fn enter_any(origin: impl Origin, chunk: Chunk, size: usize, site: Site, call: Call) -> Chunk {
    let address = chunk.expose_provenance();
    if let Some(next) = origin.next(Hook::MallocUsableSize) {
        chunks::enter(next, address, size, site);
    }
    if is_sample(address, threads::is_single()) {
        return sample(chunk, call);
    }
    given_back(chunk)
}

#[cold]
#[inline(never)]
fn sample(chunk: Chunk, call: Call) -> Chunk {
    LEFT.store(site::calls_to_next_sample(), Relaxed);
    call.sample();
    given_back(chunk)
}

/// The same chunk. If the compiler knew that, it would keep it across a call that could be a jump, and for that save
/// registers at the beginning of its caller, in the usual case, too.
fn given_back(chunk: Chunk) -> Chunk {
    hint::black_box(chunk)
}

/// The calls before the next one that is looked at more closely.
static LEFT: AtomicU32 = AtomicU32::new(1);

/// Whether the call that made the chunk at `address` is.
#[inline(always)]
pub(crate) fn is_sample(address: usize, is_single: bool) -> bool {
    // Threads would contend for a counter. Addresses say it as well, if not as well: they are used again.
    if !is_single {
        return (address / GRAIN).is_multiple_of(site::EVERY as usize);
    }
    shared::count_down!(LEFT)
}

/// The same where something is counted, or the allocator is not known so well.
#[inline(never)]
fn allocate_and_count<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> Chunk {
    let Some(next) = origin.next(hook) else {
        return ptr::null_mut();
    };
    let holder = Holder::new();
    let entry = counters::enter(&holder);
    let (chunk, born) = make(next, size, call, ask);
    if let Some(entry) = entry {
        entry.called(hook, if chunk.is_null() { 0 } else { size });
        if let Some(site) = born {
            entry.born(site, size);
        }
    }
    chunk
}

/// Has a chunk made, and entered if its allocator says how large it is. Gives its site, if what was made will be
/// known when it is given back.
#[inline(always)]
fn make<F: Copy>(
    next: Next,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> (Chunk, Option<Site>) {
    // SAFETY: each hook names the function's type next to its own.
    let function = unsafe { next.function() };
    if !next.is_noted() {
        let chunk = ask(function, size);
        return (chunk, (!chunk.is_null()).then_some(Site::UNKNOWN));
    }
    let chunk = ask(function, next.request(size));
    let address = chunk.expose_provenance();
    if address == 0 {
        return (chunk, None);
    }
    let site = call.site();
    if is_sample(address, threads::is_single()) {
        sample(chunk, call);
    }
    let entered = chunks::enter(next.holder(address), address, size, site);
    (chunk, entered.then_some(site))
}

/// What every hook that frees does: take the chunk out and have it freed by `pass_on`. Taken out first: once it
/// is free, another thread may get the chunk and enter it.
#[inline(always)]
pub(crate) fn release<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    chunk: Chunk,
    pass_on: impl FnOnce(F, Chunk),
) {
    if let Some(next) = origin.direct(hook)
        && let Some(mark) = chunks::small_or_unknown(origin, chunk.expose_provenance())
    {
        // SAFETY: each hook names the function's type next to its own.
        let function = unsafe { next.function() };
        if mark.clear() {
            return pass_on(function, chunk);
        }
        return pass_on_later(mark, function, chunk, pass_on);
    }
    release_any(origin, hook, chunk, pass_on);
}

/// The same for one that is large, or where something is counted. A function of its own: it keeps more registers.
#[inline(never)]
fn release_any<F: Copy, O: Origin>(
    origin: O,
    hook: Hook,
    chunk: Chunk,
    pass_on: impl FnOnce(F, Chunk),
) {
    if !O::HAS_HEADERS
        && let Some(next) = origin.direct(hook)
        && let Some(mark) = chunks::forget_at_hand(origin, chunk.expose_provenance())
    {
        if !mark.clear() {
            mark.wait();
        }
        // SAFETY: each hook names the function's type next to its own.
        return pass_on(unsafe { next.function() }, chunk);
    }
    release_and_count(origin, hook, chunk, pass_on);
}

/// The same where somebody may be reading.
#[cold]
#[inline(never)]
fn pass_on_later<F: Copy>(mark: Mark, function: F, chunk: Chunk, pass_on: impl FnOnce(F, Chunk)) {
    mark.wait();
    pass_on(function, chunk);
}

/// The same where something is counted, or the allocator or the chunk is not known so well.
#[inline(always)]
fn release_and_count<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    chunk: Chunk,
    pass_on: impl FnOnce(F, Chunk),
) {
    let Some(next) = origin.next(hook) else {
        return;
    };
    let holder = Holder::new();
    let entry = counters::enter(&holder);
    let record = take_out(next, chunk);
    if let Some(entry) = &entry {
        entry.called(hook, 0);
        if let Some(record) = record {
            entry.died(record.site, record.size);
        }
    }
    // SAFETY: each hook names the function's type next to its own.
    pass_on(unsafe { next.function() }, chunk);
}

/// Takes a chunk out that is about to be given back. What was counted when it came to life.
#[inline(always)]
fn take_out(next: Next, chunk: Chunk) -> Option<Record> {
    if next.is_noted() {
        let address = chunk.expose_provenance();
        chunks::leave(next.holder(address), address)
    } else {
        (!chunk.is_null()).then_some(Record::UNKNOWN)
    }
}

/// What realloc does under either of its names: take the old chunk out, `ask` next to resize it, enter the new
/// one; or the old one again, if that could not be done.
#[inline(always)]
pub(crate) fn reallocate<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    old: Chunk,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> Chunk {
    if let Some(next) = origin.direct(hook).filter(|_| size != 0)
        && let Some(mark) = chunks::small(origin, old.expose_provenance())
        && let Some(request) = origin.request_at_hand(size)
    {
        if !mark.clear() {
            mark.wait();
        }
        // SAFETY: each hook names the function's type next to its own.
        let new = ask(unsafe { next.function() }, request);
        if new.is_null() {
            // The old one is as it was.
            mark.set();
            return new;
        }
        return enter(origin, new, size, call);
    }
    reallocate_and_count(origin, hook, old, size, call, ask)
}

/// The same where something is counted, or the allocator or the chunk is not known so well.
#[inline(never)]
fn reallocate_and_count<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    old: Chunk,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> Chunk {
    let Some(next) = origin.next(hook) else {
        return ptr::null_mut();
    };
    let holder = Holder::new();
    let entry = counters::enter(&holder);
    let before = take_out(next, old);
    // Nothing asked for in place of a chunk means free, in glibc.
    let frees = size == 0 && !old.is_null();
    let ask = |function, request| {
        if frees {
            ask(function, 0)
        } else {
            ask(function, request)
        }
    };
    let (new, born) = make(next, size, call, ask);
    let failed = new.is_null() && !frees;
    if failed
        && next.is_noted()
        && let Some(before) = before
    {
        chunks::enter(next, old.expose_provenance(), before.size, before.site);
    }
    if let Some(entry) = entry {
        entry.called(hook, if new.is_null() { 0 } else { size });
        if let Some(before) = before
            && !failed
        {
            entry.died(before.site, before.size);
        }
        if let Some(site) = born {
            entry.born(site, size);
        }
    }
    new
}
