//! The functions of `allocs.h`, as the program calls them. What each function and member means is said there.
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
use crate::call::{Call, called};
use crate::chunks;
use crate::file::{self, FileInfo};
use crate::heap;
use crate::mapping::Kind;
use crate::memory::Mapped;
use crate::nested::{self, Nested};
use crate::query::{self, Allocation, Made, NoAllocation};
use crate::report::{self, Format};

/// `enum alloc_error`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(C)]
pub enum Error {
    Ok = 0,
    NotAvailable = 1,
    Unmapped = 2,
    Free = 3,
    Unknown = 4,
    Invalid = 5,
}

impl From<NoAllocation> for Error {
    fn from(why: NoAllocation) -> Self {
        match why {
            NoAllocation::Unmapped => Self::Unmapped,
            NoAllocation::Free => Self::Free,
            NoAllocation::Unknown => Self::Unknown,
        }
    }
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

impl Place {
    const NOWHERE: Self = Self {
        file: ptr::null(),
        load_base: 0,
        symbol: ptr::null(),
        symbol_base: 0,
        symbol_size: 0,
    };

    /// That of a return address: the call is before it.
    fn of_call(caller: usize) -> Self {
        let call = Some(caller).filter(|caller| *caller != 0);
        call.and_then(|caller| file::place(caller.wrapping_sub(1)))
            .map_or(Self::NOWHERE, Self::from)
    }
}

impl From<file::Place> for Place {
    fn from(place: file::Place) -> Self {
        let symbol = place.symbol;
        Self {
            file: place
                .file
                .map_or(ptr::null(), |path| string(path.address())),
            load_base: place.load_base,
            symbol: symbol.map_or(ptr::null(), |symbol| string(symbol.name.address())),
            symbol_base: symbol.map_or(0, |symbol| symbol.base),
            symbol_size: symbol.map_or(0, |symbol| symbol.size),
        }
    }
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
pub struct Chunk {
    base: *const c_void,
    size: usize,
    usable_size: usize,
    site: *const c_void,
    allocator: *const Allocator,
}

impl From<Allocation> for Chunk {
    fn from(allocation: Allocation) -> Self {
        Self {
            base: pointer(allocation.base),
            size: allocation.size,
            usable_size: allocation.usable_size,
            site: pointer(allocation.made.address()),
            allocator: allocation.allocator,
        }
    }
}

/// `struct alloc_range`.
#[repr(C)]
pub struct Range {
    begin: *const c_void,
    end: *const c_void,
    allocator: *const Allocator,
}

fn pointer(address: usize) -> *const c_void {
    ptr::with_exposed_provenance(address)
}

fn string(address: usize) -> *const c_char {
    ptr::with_exposed_provenance(address)
}

/// The innermost allocation that contains an address.
#[inline(always)] // what is not asked for is not made up
fn allocation(address: *const c_void) -> Option<Allocation> {
    query::allocation(address.expose_provenance())
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_info(address: *const c_void, info: *mut Info) -> Error {
    if info.is_null() {
        return Error::Invalid;
    }
    let known = query::info(address.expose_provenance());
    // SAFETY: the caller gives a structure to fill in.
    unsafe { info.write(Info::from(&known)) };
    known.allocation.map_or_else(Error::from, |_| Error::Ok)
}

impl From<&query::Info> for Info {
    fn from(known: &query::Info) -> Self {
        let allocation = known.allocation.ok();
        let of = |member: fn(&Allocation) -> usize| allocation.as_ref().map_or(0, member);
        let site = of(|allocation| allocation.made.address());
        let mapping = known.mapping;
        let heap = mapping.filter(|mapping| mapping.kind == Kind::Heap);
        let file = known.file.as_ref();
        let build_id = file.and_then(|file| file.build_id);
        let section = |file: &FileInfo| Some(file.section?.address());
        Self {
            allocator: allocation.map_or(ptr::null(), |known| ptr::from_ref(known.allocator)),
            base: pointer(of(|allocation| allocation.base)),
            size: of(|allocation| allocation.size),
            usable_size: of(|allocation| allocation.usable_size),
            site: pointer(site),
            site_place: Place::of_call(site),
            chunk_base: pointer(known.chunk.map_or(0, |chunk| chunk.base)),
            chunk_size: known.chunk.map_or(0, |chunk| chunk.size),
            arena_base: pointer(heap.map_or(0, |heap| heap.base)),
            arena_limit: pointer(heap.map_or(0, |heap| heap.limit)),
            file: file.map_or(Place::NOWHERE, |file| Place::from(file.place)),
            build_id: build_id.map_or(ptr::null(), |(id, _)| pointer(id.address()).cast()),
            build_id_size: build_id.map_or(0, |(_, size)| size),
            segment: file.map_or(-1, |file| c_int::try_from(file.segment).unwrap_or(-1)),
            section: string(file.and_then(section).unwrap_or(0)),
            mapping_kind: mapping.map_or(0, |mapping| mapping.kind as c_int),
            mapping_base: pointer(mapping.map_or(0, |mapping| mapping.base)),
            mapping_limit: pointer(mapping.map_or(0, |mapping| mapping.limit)),
            mapping_protection: mapping.map_or(0, |mapping| mapping.protection.cast_signed()),
            mapping_site: pointer(mapping.map_or(0, |mapping| mapping.site)),
        }
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_base(address: *const c_void) -> *const c_void {
    pointer(allocation(address).map_or(0, |allocation| allocation.base))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_limit(address: *const c_void) -> *const c_void {
    pointer(allocation(address).map_or(0, |allocation| allocation.limit()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_size(address: *const c_void) -> usize {
    allocation(address).map_or(0, |allocation| allocation.size)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_site(address: *const c_void) -> *const c_void {
    pointer(allocation(address).map_or(0, |allocation| allocation.made.address()))
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_allocator(address: *const c_void) -> *const Allocator {
    allocation(address).map_or(ptr::null(), |allocation| allocation.allocator)
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_place(address: *const c_void, place: *mut Place) -> Error {
    if place.is_null() {
        return Error::Invalid;
    }
    let known = file::place(address.expose_provenance());
    // SAFETY: the caller gives a structure to fill in.
    unsafe { place.write(known.map_or(Place::NOWHERE, Place::from)) };
    if known.is_some() {
        Error::Ok
    } else {
        Error::Unknown
    }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_get_stack(
    address: *const c_void,
    frames: *mut *const c_void,
    most: usize,
) -> usize {
    if frames.is_null() {
        return 0;
    }
    let mut count = 0;
    let mut add = |frame| {
        // SAFETY: the caller has room for `most` of them.
        unsafe { frames.wrapping_add(count).write(pointer(frame)) };
        count = count.wrapping_add(1);
    };
    match allocation(address).map(|allocation| allocation.made) {
        Some(Made::At(site)) => site.frames().take(most).for_each(add),
        Some(Made::ByCaller(caller)) if caller != 0 && most != 0 => add(caller),
        _ => {}
    }
    count
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_walk(
    range: *const Range,
    callback: Option<extern "C" fn(*const Chunk, *mut c_void) -> c_int>,
    argument: *mut c_void,
) -> c_int {
    let Some(callback) = callback else {
        return 0;
    };
    // SAFETY: null, or a structure that the caller has filled in.
    let range = unsafe { range.as_ref() };
    let begin = range.map_or(0, |range| range.begin.expose_provenance());
    let end = range.map_or(0, |range| range.end.expose_provenance());
    let end = if end == 0 { usize::MAX } else { end };
    let wanted = range.map_or(ptr::null(), |range| range.allocator);
    let mut result = 0;
    let mut show = |allocation: Allocation| {
        if wanted.is_null() || ptr::eq(wanted, allocation.allocator) {
            let chunk = Chunk::from(allocation);
            result = callback(&raw const chunk, argument);
        }
        result == 0
    };
    let mut heaps =
        heap::all().filter(|heap| wanted.is_null() || ptr::eq(wanted, heap.allocator()));
    let goes_on =
        heaps.all(|heap| chunks::walk(heap, begin, end, |chunk| show(Allocation::from(chunk))));
    if goes_on {
        nested::walk(begin, end, |nested| {
            Allocation::of_nested(nested).is_none_or(&mut show)
        });
    }
    result
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_register_allocator(name: *const c_char) -> *const Allocator {
    Some(name)
        .filter(|name| !name.is_null())
        .and_then(Allocator::register)
        .map_or(ptr::null(), ptr::from_ref)
}

called!(
    /// Takes the site from where it is called.
    alloc_announce(allocator: *const Allocator, base: *const c_void, size: usize) -> Error,
        call => announce(allocator, base, size, call)
);

fn announce(allocator: *const Allocator, base: *const c_void, size: usize, call: Call) -> Error {
    let Some(allocator) = Allocator::number(allocator).filter(|_| !base.is_null()) else {
        return Error::Invalid;
    };
    let is_noted = nested::announce(Nested {
        base: base.expose_provenance(),
        size,
        allocator,
        site: call.site(),
    });
    if is_noted { Error::Ok } else { Error::Invalid }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_retract(allocator: *const Allocator, base: *const c_void) -> Error {
    let is_known = Allocator::number(allocator)
        .is_some_and(|allocator| nested::retract(allocator, base.expose_provenance()));
    if is_known { Error::Ok } else { Error::Invalid }
}

#[unsafe(no_mangle)]
pub unsafe extern "C" fn alloc_report(descriptor: c_int, format: *const c_char) -> Error {
    if format.is_null() {
        return Error::Invalid;
    }
    // SAFETY: the caller gives a string.
    let format = unsafe { Mapped::new(format.expose_provenance()) };
    let (Some(format), Ok(descriptor)) = (Format::of_text(format), usize::try_from(descriptor))
    else {
        return Error::Invalid;
    };
    match report::write_to(descriptor, format) {
        Some(true) => Error::Ok,
        Some(false) => Error::Invalid,
        None => Error::NotAvailable,
    }
}
