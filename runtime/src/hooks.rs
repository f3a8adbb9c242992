//! The hooks: the whole malloc family, and the only functions by which the program's calls reach the runtime.
//!
//! Each passes its call on to *next*, enters the chunk into the index and counts. What it returns, sets in
//! `errno` and does to the heap is next's doing; the runtime's own part touches none of the three. If nothing
//! defines next, an allocating hook returns null.
//!
//! The exported symbols are stubs that add to the arguments where the call came from, and which allocator's
//! function it was that the program called.
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is that of the libc function of that name"
)]

use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::{AtomicU32, Ordering::Relaxed};

use crate::call::{Call, hook};
use crate::chunks;
use crate::counters;
use crate::holder::Holder;
use crate::hook::Hook;
use crate::index::Mark;
use crate::next::{Next, Origin, Own};
use crate::record::{RECORD, Record, padded};
use crate::site::Site;
use crate::threads;

pub(crate) type Chunk = *mut c_void;

/// ENOMEM, which posix_memalign returns instead of setting `errno`.
const ENOMEM: c_int = 12;

hook!(
    /// malloc(3).
    malloc, allocs_divert_malloc(size: usize) -> Chunk => malloc_hook(call)
);
hook!(
    /// calloc(3).
    calloc, allocs_divert_calloc(count: usize, size: usize) -> Chunk => calloc_hook(call)
);
hook!(
    /// memalign(3).
    memalign, allocs_divert_memalign(alignment: usize, size: usize) -> Chunk => memalign_hook(call)
);
hook!(
    /// aligned_alloc(3).
    aligned_alloc, allocs_divert_aligned_alloc(alignment: usize, size: usize) -> Chunk => aligned_alloc_hook(call)
);
hook!(
    /// valloc(3).
    valloc, allocs_divert_valloc(size: usize) -> Chunk => valloc_hook(call)
);
hook!(
    /// pvalloc(3).
    pvalloc, allocs_divert_pvalloc(size: usize) -> Chunk => pvalloc_hook(call)
);
hook!(
    /// posix_memalign(3).
    posix_memalign, allocs_divert_posix_memalign(chunk: *mut Chunk, alignment: usize, size: usize) -> c_int => posix_memalign_hook(call)
);
hook!(
    /// realloc(3).
    realloc, allocs_divert_realloc(chunk: Chunk, size: usize) -> Chunk => realloc_hook(call)
);
hook!(
    /// reallocarray(3).
    reallocarray, allocs_divert_reallocarray(chunk: Chunk, count: usize, size: usize) -> Chunk => reallocarray_hook(call)
);

#[inline(always)]
unsafe fn malloc_hook(origin: impl Origin, size: usize, call: Call) -> Chunk {
    type Function = unsafe extern "C" fn(usize) -> Chunk;
    let ask = |next: Function, size| {
        // SAFETY: the caller keeps to malloc's contract.
        unsafe { next(size) }
    };
    allocate(origin, Hook::Malloc, size, call, ask)
}

#[inline(always)]
unsafe fn calloc_hook(origin: impl Origin, count: usize, size: usize, call: Call) -> Chunk {
    type Function = unsafe extern "C" fn(usize, usize) -> Chunk;
    // A product that overflows makes next fail.
    let bytes = count.saturating_mul(size);
    let ask = |next: Function, bytes| {
        // SAFETY: the caller keeps to calloc's contract.
        unsafe { next(1, bytes) }
    };
    allocate(origin, Hook::Calloc, bytes, call, ask)
}

#[inline(always)]
unsafe fn memalign_hook(origin: impl Origin, alignment: usize, size: usize, call: Call) -> Chunk {
    type Function = unsafe extern "C" fn(usize, usize) -> Chunk;
    let ask = |next: Function, size| {
        // SAFETY: the caller keeps to memalign's contract.
        unsafe { next(alignment, size) }
    };
    allocate(origin, Hook::Memalign, size, call, ask)
}

#[inline(always)]
unsafe fn aligned_alloc_hook(
    origin: impl Origin,
    alignment: usize,
    size: usize,
    call: Call,
) -> Chunk {
    type Function = unsafe extern "C" fn(usize, usize) -> Chunk;
    // C11 wants a multiple of the alignment, and some allocators fail for another size.
    let is_multiple = size.checked_rem(alignment) == Some(0);
    let ask = |next: Function, bytes: usize| {
        let rounded = if is_multiple && bytes != size {
            size.saturating_add(alignment.max(padded(0)))
        } else {
            bytes
        };
        // SAFETY: the caller keeps to aligned_alloc's contract.
        unsafe { next(alignment, rounded) }
    };
    allocate(origin, Hook::AlignedAlloc, size, call, ask)
}

#[inline(always)]
unsafe fn valloc_hook(origin: impl Origin, size: usize, call: Call) -> Chunk {
    type Function = unsafe extern "C" fn(usize) -> Chunk;
    let ask = |next: Function, size| {
        // SAFETY: the caller keeps to valloc's contract.
        unsafe { next(size) }
    };
    allocate(origin, Hook::Valloc, size, call, ask)
}

#[inline(always)]
unsafe fn pvalloc_hook(origin: impl Origin, size: usize, call: Call) -> Chunk {
    type Function = unsafe extern "C" fn(usize) -> Chunk;
    let ask = |next: Function, size| {
        // SAFETY: the caller keeps to pvalloc's contract.
        unsafe { next(size) }
    };
    allocate(origin, Hook::Pvalloc, size, call, ask)
}

#[inline(always)]
unsafe fn posix_memalign_hook(
    origin: impl Origin,
    chunk: *mut Chunk,
    alignment: usize,
    size: usize,
    call: Call,
) -> c_int {
    type Function = unsafe extern "C" fn(*mut Chunk, usize, usize) -> c_int;
    let mut error = ENOMEM;
    allocate(
        origin,
        Hook::PosixMemalign,
        size,
        call,
        |next: Function, size| {
            // SAFETY: the caller keeps to posix_memalign's contract.
            error = unsafe { next(chunk, alignment, size) };
            if error != 0 {
                return ptr::null_mut();
            }
            // SAFETY: a call that succeeded has stored the chunk's address there.
            unsafe { *chunk }
        },
    );
    error
}

#[inline(always)]
unsafe fn realloc_hook(origin: impl Origin, chunk: Chunk, size: usize, call: Call) -> Chunk {
    type Function = unsafe extern "C" fn(Chunk, usize) -> Chunk;
    let ask = |next: Function, size| {
        // SAFETY: the caller keeps to realloc's contract.
        unsafe { next(chunk, size) }
    };
    reallocate(origin, Hook::Realloc, chunk, size, call, ask)
}

/// Next's reallocarray is asked even though it is realloc of the product: it calls the program's realloc,
/// which is not next's if an allocator without reallocarray comes ahead of the runtime. If one comes behind the
/// runtime, the program's realloc is this one, and is called at once: libc would not know about the record.
#[inline(always)]
unsafe fn reallocarray_hook(
    origin: impl Origin,
    chunk: Chunk,
    count: usize,
    size: usize,
    call: Call,
) -> Chunk {
    type Function = unsafe extern "C" fn(Chunk, usize, usize) -> Chunk;
    // A product that overflows makes next fail. In a libc that is older than reallocarray, realloc
    // fails for a size that cannot be had, which sets `errno` and leaves the chunk alone.
    let bytes = count.saturating_mul(size);
    let knows = |hook| origin.next(hook).map(Next::is_noted);
    let reallocarray = knows(Hook::Reallocarray);
    if reallocarray.is_none() || (reallocarray == Some(false) && knows(Hook::Realloc) == Some(true))
    {
        // SAFETY: the caller keeps to reallocarray's contract, which is realloc's.
        return unsafe { realloc_hook(origin, chunk, bytes, call) };
    }
    let ask = |next: Function, bytes| {
        // SAFETY: the caller keeps to reallocarray's contract.
        unsafe { next(chunk, 1, bytes) }
    };
    reallocate(origin, Hook::Reallocarray, chunk, bytes, call, ask)
}

/// free(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free(chunk: Chunk) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to free's contract.
    release(Own, Hook::Free, chunk, move |next: Function| unsafe {
        next(chunk)
    });
}

/// cfree(3), which libc has dropped; old programs still call it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn cfree(chunk: Chunk) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to cfree's contract, which is free's.
    release(Own, Hook::Cfree, chunk, move |next: Function| unsafe {
        next(chunk)
    });
}

/// free_sized of C23. An allocator that takes the program's word for the size would look in the wrong place for
/// a chunk that is larger than the program knows, so its free is called.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_sized(chunk: Chunk, _: usize) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to free_sized's contract.
    release(Own, Hook::FreeSized, chunk, move |next: Function| unsafe {
        next(chunk)
    });
}

/// free_aligned_sized of C23. As free_sized.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_aligned_sized(chunk: Chunk, _: usize, _: usize) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to free_aligned_sized's contract.
    release(
        Own,
        Hook::FreeAlignedSized,
        chunk,
        move |next: Function| unsafe { next(chunk) },
    );
}

hook!(
    /// malloc_usable_size(3).
    malloc_usable_size, allocs_divert_malloc_usable_size(chunk: Chunk) -> usize => malloc_usable_size_hook
);

#[inline(always)]
unsafe fn malloc_usable_size_hook(origin: impl Origin, chunk: Chunk) -> usize {
    type Function = unsafe extern "C" fn(Chunk) -> usize;
    let Some(next) = origin.next(Hook::MallocUsableSize) else {
        return 0;
    };
    if let Some(entry) = counters::enter(&Holder::new()) {
        entry.called(Hook::MallocUsableSize, 0);
    }
    // SAFETY: this is the function's type.
    let function: Function = unsafe { next.function() };
    // SAFETY: the caller keeps to malloc_usable_size's contract.
    let capacity = unsafe { function(chunk) };
    chunks::usable_size(next, chunk.expose_provenance(), capacity)
}

/// What every hook that allocates does: `ask` next for a chunk with room for its record, enter it, count it.
#[inline(always)]
fn allocate<F: Copy, O: Origin>(
    origin: O,
    hook: Hook,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> Chunk {
    if let Some(next) = origin.direct(hook)
        && let Some(request) = short_request::<O>(size)
    {
        // SAFETY: each hook names the function's type next to its own.
        let function = unsafe { next.function() };
        return enter(origin, ask(function, request), size, call);
    }
    allocate_and_count(origin, hook, size, call, ask)
}

/// How much is asked for on the shorter way. Glibc's chunks are large enough in any case.
#[inline(always)]
fn short_request<O: Origin>(size: usize) -> Option<usize> {
    let request = size.checked_add(RECORD)?;
    Some(if O::HAS_HEADERS {
        request
    } else {
        request.max(padded(0))
    })
}

/// Enters a chunk that was just made on the short way, and gives it back.
#[inline(always)]
pub(crate) fn enter(origin: impl Origin, chunk: Chunk, size: usize, call: Call) -> Chunk {
    if chunk.is_null() {
        return chunk;
    }
    match call.site_at_hand() {
        Some(site) => enter_at(origin, site, chunk, size, call),
        None => enter_in_facade(origin, chunk, size, call),
    }
}

/// The same where the direct caller is not the site, or not known yet.
#[inline(never)]
fn enter_in_facade(origin: impl Origin, chunk: Chunk, size: usize, call: Call) -> Chunk {
    enter_at(origin, call.site(), chunk, size, call)
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

#[cold]
#[inline(never)]
fn sample(chunk: Chunk, call: Call) -> Chunk {
    LEFT.store(EVERY, Relaxed);
    call.sample();
    chunk
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
    chunk
}

/// One call in so many is looked at more closely.
const EVERY: u32 = 64;
/// The calls before the next one.
static LEFT: AtomicU32 = AtomicU32::new(1);

/// Whether the call that made the chunk at `address` is.
#[inline(always)]
pub(crate) fn is_sample(address: usize, is_single: bool) -> bool {
    // Threads would contend for a counter. Addresses say it as well, if not as well: they are used again.
    if !is_single {
        return (address >> 4).is_multiple_of(EVERY as usize);
    }
    let left = LEFT.load(Relaxed).wrapping_sub(1);
    LEFT.store(left, Relaxed);
    left == 0
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
    allocate_here(origin, hook, size, call, ask)
}

#[inline(always)]
fn allocate_here<F: Copy>(
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
    pass_on: impl FnOnce(F),
) {
    if let Some(next) = origin.direct(hook)
        && let Some(mark) = chunks::small_or_unknown(origin, chunk.expose_provenance())
    {
        // SAFETY: each hook names the function's type next to its own.
        let function = unsafe { next.function() };
        if mark.clear() {
            return pass_on(function);
        }
        return pass_on_later(mark, function, pass_on);
    }
    release_and_count(origin, hook, chunk, pass_on);
}

/// The same where somebody may be reading.
#[cold]
#[inline(never)]
fn pass_on_later<F: Copy>(mark: Mark, function: F, pass_on: impl FnOnce(F)) {
    mark.wait();
    pass_on(function);
}

/// The same where something is counted, or the allocator or the chunk is not known so well.
#[inline(never)]
fn release_and_count<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    chunk: Chunk,
    pass_on: impl FnOnce(F),
) {
    release_here(origin, hook, chunk, pass_on);
}

/// The same.
#[inline(always)]
pub(crate) fn release_here<F: Copy>(
    origin: impl Origin,
    hook: Hook,
    chunk: Chunk,
    pass_on: impl FnOnce(F),
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
    pass_on(unsafe { next.function() });
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
pub(crate) fn reallocate<F: Copy, O: Origin>(
    origin: O,
    hook: Hook,
    old: Chunk,
    size: usize,
    call: Call,
    ask: impl FnOnce(F, usize) -> Chunk,
) -> Chunk {
    if let Some(next) = origin.direct(hook).filter(|_| size != 0)
        && let Some(mark) = chunks::small(origin, old.expose_provenance())
        && let Some(request) = short_request::<O>(size)
    {
        if !mark.clear() {
            mark.wait();
        }
        // SAFETY: each hook names the function's type next to its own.
        let new = ask(unsafe { next.function() }, request);
        if new.is_null() {
            // The old one is as it was.
            mark.set();
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
