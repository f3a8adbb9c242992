//! The hooks: the whole malloc family, and the only functions by which the program calls the runtime.
//!
//! Each passes its call on to *next* and counts. What it returns, sets in `errno` and does to the
//! heap is next's doing; the runtime's own part touches none of the three. If nothing defines next,
//! an allocating hook returns null.
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is that of the libc function of that name"
)]

use core::ffi::{c_int, c_void};
use core::ptr;

use crate::counters;
use crate::hook::Hook;
use crate::next;

type Chunk = *mut c_void;

/// ENOMEM, which posix_memalign returns instead of setting `errno`.
const ENOMEM: c_int = 12;

/// malloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn malloc(size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(usize) -> Chunk;
    // SAFETY: the caller keeps to malloc's contract.
    allocate(Hook::Malloc, size, |next: Function| unsafe { next(size) })
}

/// calloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn calloc(count: usize, size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(usize, usize) -> Chunk;
    // A product that overflows makes next fail, and then it is not counted.
    let bytes = count.wrapping_mul(size);
    // SAFETY: the caller keeps to calloc's contract.
    allocate(Hook::Calloc, bytes, |next: Function| unsafe {
        next(count, size)
    })
}

/// memalign(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn memalign(alignment: usize, size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(usize, usize) -> Chunk;
    // SAFETY: the caller keeps to memalign's contract.
    allocate(Hook::Memalign, size, |next: Function| unsafe {
        next(alignment, size)
    })
}

/// aligned_alloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn aligned_alloc(alignment: usize, size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(usize, usize) -> Chunk;
    // SAFETY: the caller keeps to aligned_alloc's contract.
    allocate(Hook::AlignedAlloc, size, |next: Function| unsafe {
        next(alignment, size)
    })
}

/// valloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn valloc(size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(usize) -> Chunk;
    // SAFETY: the caller keeps to valloc's contract.
    allocate(Hook::Valloc, size, |next: Function| unsafe { next(size) })
}

/// pvalloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn pvalloc(size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(usize) -> Chunk;
    // SAFETY: the caller keeps to pvalloc's contract.
    allocate(Hook::Pvalloc, size, |next: Function| unsafe { next(size) })
}

/// posix_memalign(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn posix_memalign(chunk: *mut Chunk, alignment: usize, size: usize) -> c_int {
    type Function = unsafe extern "C" fn(*mut Chunk, usize, usize) -> c_int;
    let mut error = ENOMEM;
    allocate(Hook::PosixMemalign, size, |next: Function| {
        // SAFETY: the caller keeps to posix_memalign's contract.
        error = unsafe { next(chunk, alignment, size) };
        if error != 0 {
            return ptr::null_mut();
        }
        // SAFETY: a call that succeeded has stored the chunk's address there.
        unsafe { *chunk }
    });
    error
}

/// realloc(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn realloc(chunk: Chunk, size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(Chunk, usize) -> Chunk;
    // SAFETY: the caller keeps to realloc's contract.
    reallocate(Hook::Realloc, chunk, size, |next: Function| unsafe {
        next(chunk, size)
    })
}

/// reallocarray(3). Next's is asked even though it is realloc of the product: it calls the program's
/// realloc, which is not next's if an allocator without reallocarray comes ahead of the runtime.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn reallocarray(chunk: Chunk, count: usize, size: usize) -> Chunk {
    type Function = unsafe extern "C" fn(Chunk, usize, usize) -> Chunk;
    type Realloc = unsafe extern "C" fn(Chunk, usize) -> Chunk;
    // A product that overflows makes next fail. In a libc that is older than reallocarray, realloc
    // fails for a size that cannot be had, which sets `errno` and leaves the chunk alone.
    let bytes = count.saturating_mul(size);
    if next::of(Hook::Reallocarray).is_none() {
        // SAFETY: the caller keeps to reallocarray's contract, which is realloc's.
        return reallocate(Hook::Realloc, chunk, bytes, |next: Realloc| unsafe {
            next(chunk, bytes)
        });
    }
    // SAFETY: as above.
    reallocate(Hook::Reallocarray, chunk, bytes, |next: Function| unsafe {
        next(chunk, count, size)
    })
}

/// free(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free(chunk: Chunk) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to free's contract.
    release(Hook::Free, chunk, |next: Function| unsafe { next(chunk) });
}

/// cfree(3), which libc has dropped; old programs still call it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn cfree(chunk: Chunk) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to cfree's contract, which is free's.
    release(Hook::Cfree, chunk, |next: Function| unsafe { next(chunk) });
}

/// free_sized of C23. Next may be free, which ignores the size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_sized(chunk: Chunk, size: usize) {
    type Function = unsafe extern "C" fn(Chunk, usize);
    // SAFETY: the caller keeps to free_sized's contract; an argument too many is never looked at.
    release(Hook::FreeSized, chunk, |next: Function| unsafe {
        next(chunk, size)
    });
}

/// free_aligned_sized of C23. Next may be free, which ignores alignment and size.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_aligned_sized(chunk: Chunk, alignment: usize, size: usize) {
    type Function = unsafe extern "C" fn(Chunk, usize, usize);
    // SAFETY: the caller keeps to free_aligned_sized's contract; as above.
    release(Hook::FreeAlignedSized, chunk, |next: Function| unsafe {
        next(chunk, alignment, size)
    });
}

/// malloc_usable_size(3).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn malloc_usable_size(chunk: Chunk) -> usize {
    type Function = unsafe extern "C" fn(Chunk) -> usize;
    let Some(next) = next::of(Hook::MallocUsableSize) else {
        return 0;
    };
    if let Some(entry) = counters::enter() {
        entry.called(Hook::MallocUsableSize, 0);
    }
    // SAFETY: this is the function's type.
    let function: Function = unsafe { next.function() };
    // SAFETY: the caller keeps to malloc_usable_size's contract.
    unsafe { function(chunk) }
}

/// What every hook that allocates does: `ask` next for a chunk and count it.
#[inline(always)]
fn allocate<F: Copy>(hook: Hook, bytes: usize, ask: impl FnOnce(F) -> Chunk) -> Chunk {
    let Some(next) = next::of(hook) else {
        return ptr::null_mut();
    };
    let entry = counters::enter();
    // SAFETY: each hook names the function's type next to its own.
    let chunk = ask(unsafe { next.function() });
    if let Some(entry) = entry {
        if chunk.is_null() {
            entry.called(hook, 0);
        } else {
            let size = next.usable_size(chunk);
            entry.called(hook, bytes);
            entry.born(size);
        }
    }
    chunk
}

/// What every hook that frees does: count the chunk and have it freed by `pass_on`. Counted first:
/// once it is free, another thread may get the chunk and count it.
#[inline(always)]
fn release<F: Copy>(hook: Hook, chunk: Chunk, pass_on: impl FnOnce(F)) {
    let Some(next) = next::of(hook) else {
        return;
    };
    let entry = counters::enter();
    if let Some(entry) = &entry {
        let size = next.usable_size(chunk);
        entry.called(hook, 0);
        if !chunk.is_null() {
            entry.died(size);
        }
    }
    // SAFETY: each hook names the function's type next to its own.
    pass_on(unsafe { next.function() });
}

/// What realloc does under either of its names: `ask` next to resize `old` and count the difference.
#[inline(always)]
fn reallocate<F: Copy>(
    hook: Hook,
    old: Chunk,
    bytes: usize,
    ask: impl FnOnce(F) -> Chunk,
) -> Chunk {
    let Some(next) = next::of(hook) else {
        return ptr::null_mut();
    };
    let entry = counters::enter();
    let before = if entry.is_some() {
        next.usable_size(old)
    } else {
        0
    };
    // SAFETY: each hook names the function's type next to its own.
    let new = ask(unsafe { next.function() });
    if let Some(entry) = entry {
        entry.called(hook, if new.is_null() { 0 } else { bytes });
        match (old.is_null(), new.is_null()) {
            (true, true) => {}
            (true, false) => entry.born(next.usable_size(new)),
            (false, false) => entry.resized(before, next.usable_size(new)),
            // Nothing for nothing asked is no failure: glibc has freed the chunk.
            (false, true) if bytes == 0 => entry.died(before),
            (false, true) => {}
        }
    }
    new
}
