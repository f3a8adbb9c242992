//! The questions of `allocs.h`, as the program asks them. What each function and member means is said there.
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is that of allocs.h"
)]
#![allow(
    unreachable_pub,
    reason = "exported to C, whatever the module's own visibility"
)]

use core::ffi::{c_char, c_int, c_uchar, c_void};
use core::ptr;

use crate::allocator::Allocator;
use crate::chunks::{self, Chunk};

/// `enum alloc_error`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum Error {
    Ok = 0,
    Unmapped = 2,
    Free = 3,
    Unknown = 4,
    Invalid = 5,
}

/// `struct alloc_place`.
#[repr(C)]
pub struct Place {
    file: *const c_char,
    load_base: usize,
    symbol: *const c_char,
    symbol_base: usize,
    symbol_size: usize,
}

/// `struct alloc_info`.
#[repr(C)]
pub struct Info {
    allocator: *const Allocator,
    base: *const c_void,
    size: usize,
    usable_size: usize,
    site: *const c_void,
    site_place: Place,
    chunk_base: *const c_void,
    chunk_size: usize,
    arena_base: *const c_void,
    arena_limit: *const c_void,
    file: Place,
    build_id: *const c_uchar,
    build_id_size: usize,
    segment: c_int,
    section: *const c_char,
    mapping_kind: c_int,
    mapping_base: *const c_void,
    mapping_limit: *const c_void,
    mapping_protection: c_int,
    mapping_site: *const c_void,
}

/// `struct alloc_chunk`.
#[repr(C)]
pub struct WalkedChunk {
    base: *const c_void,
    size: usize,
    usable_size: usize,
    site: *const c_void,
    allocator: *const Allocator,
}

/// `struct alloc_range`.
#[repr(C)]
pub struct Range {
    begin: *const c_void,
    end: *const c_void,
    allocator: *const Allocator,
}

const NOWHERE: Place = Place {
    file: ptr::null(),
    load_base: 0,
    symbol: ptr::null(),
    symbol_base: 0,
    symbol_size: 0,
};

fn pointer(address: usize) -> *const c_void {
    ptr::with_exposed_provenance(address)
}

/// The live chunk that contains an address.
fn chunk_at(address: *const c_void) -> Option<Chunk> {
    chunks::at(address.expose_provenance())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_info(address: *const c_void, info: *mut Info) -> Error {
    if info.is_null() {
        return Error::Invalid;
    }
    let chunk = chunk_at(address);
    let known = |member: fn(&Chunk) -> usize| chunk.as_ref().map_or(0, member);
    let base = pointer(known(|chunk| chunk.base));
    let size = known(|chunk| chunk.record.size);
    let answer = Info {
        allocator: chunk.map_or(ptr::null(), |_| Allocator::malloc()),
        base,
        size,
        usable_size: known(|chunk| chunk.record.usable_size),
        site: pointer(known(|chunk| chunk.record.site.address())),
        site_place: NOWHERE,
        chunk_base: base,
        chunk_size: size,
        arena_base: ptr::null(),
        arena_limit: ptr::null(),
        file: NOWHERE,
        build_id: ptr::null(),
        build_id_size: 0,
        segment: -1,
        section: ptr::null(),
        mapping_kind: 0,
        mapping_base: ptr::null(),
        mapping_limit: ptr::null(),
        mapping_protection: 0,
        mapping_site: ptr::null(),
    };
    // SAFETY: the caller gives a structure to fill in.
    unsafe { info.write(answer) };
    if chunk.is_some() {
        Error::Ok
    } else {
        Error::Unknown
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_base(address: *const c_void) -> *const c_void {
    pointer(chunk_at(address).map_or(0, |chunk| chunk.base))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_limit(address: *const c_void) -> *const c_void {
    let limit = |chunk: Chunk| chunk.base.wrapping_add(chunk.record.size);
    pointer(chunk_at(address).map_or(0, limit))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_size(address: *const c_void) -> usize {
    chunk_at(address).map_or(0, |chunk| chunk.record.size)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_site(address: *const c_void) -> *const c_void {
    pointer(chunk_at(address).map_or(0, |chunk| chunk.record.site.address()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_allocator(address: *const c_void) -> *const Allocator {
    chunk_at(address).map_or(ptr::null(), |_| Allocator::malloc())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_stack(
    address: *const c_void,
    frames: *mut *const c_void,
    most: usize,
) -> usize {
    let Some(chunk) = chunk_at(address).filter(|_| !frames.is_null()) else {
        return 0;
    };
    let mut count = 0;
    for frame in chunk.record.site.frames().take(most) {
        // SAFETY: the caller has room for `most` of them.
        unsafe { frames.add(count).write(pointer(frame)) };
        count = count.wrapping_add(1);
    }
    count
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_walk(
    range: *const Range,
    callback: Option<extern "C" fn(*const WalkedChunk, *mut c_void) -> c_int>,
    argument: *mut c_void,
) -> c_int {
    let Some(callback) = callback else {
        return 0;
    };
    // SAFETY: null, or a structure that the caller has filled in.
    let (begin, end, allocator) = match unsafe { range.as_ref() } {
        Some(range) => (
            range.begin.expose_provenance(),
            range.end.expose_provenance(),
            range.allocator,
        ),
        None => (0, 0, ptr::null()),
    };
    if !allocator.is_null() && !ptr::eq(allocator, Allocator::malloc()) {
        return 0;
    }
    let end = if end == 0 { usize::MAX } else { end };
    let mut result = 0;
    chunks::walk(begin, end, |chunk| {
        let walked = WalkedChunk {
            base: pointer(chunk.base),
            size: chunk.record.size,
            usable_size: chunk.record.usable_size,
            site: pointer(chunk.record.site.address()),
            allocator: Allocator::malloc(),
        };
        result = callback(&raw const walked, argument);
        result == 0
    });
    result
}
