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

pub(crate) mod common;

use core::ffi::{c_int, c_void};
use core::ptr;

use crate::call::{Call, hook};
use crate::chunks;
use crate::counters;
use crate::holder::Holder;
use crate::hook::Hook;
use crate::hooks::common::{allocate, enter, reallocate, release};
use crate::machine::stubs::{called_directly, entry};
use crate::next::{self, Next, Origin, Own};
use crate::record::padded;

pub(crate) type Chunk = *mut c_void;

/// ENOMEM, which posix_memalign returns instead of setting `errno`.
const ENOMEM: c_int = 12;

called_directly!(
    /// malloc(3).
    malloc(size: usize) -> Chunk, call => malloc_hook(Own, size, call),
    next::DIRECT_MALLOC, chunk => enter(Own, chunk, size, call)
);
entry!(
    /// The entry of an allocator's function of that name.
    allocs_divert_malloc(size: usize) -> Chunk, table, call => malloc_hook(table, size, call)
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
    release(Own, Hook::Free, chunk, |next: Function, chunk| unsafe {
        next(chunk)
    });
}

/// cfree(3), which libc has dropped; old programs still call it.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn cfree(chunk: Chunk) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to cfree's contract, which is free's.
    release(Own, Hook::Cfree, chunk, |next: Function, chunk| unsafe {
        next(chunk)
    });
}

/// free_sized of C23. An allocator that takes the program's word for the size would look in the wrong place for
/// a chunk that is larger than the program knows, so its free is called.
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn free_sized(chunk: Chunk, _: usize) {
    type Function = unsafe extern "C" fn(Chunk);
    // SAFETY: the caller keeps to free_sized's contract.
    release(
        Own,
        Hook::FreeSized,
        chunk,
        |next: Function, chunk| unsafe { next(chunk) },
    );
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
        |next: Function, chunk| unsafe { next(chunk) },
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
