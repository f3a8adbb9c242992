//! The functions of `allocs.h`, each of which is there or not, and the structures that they fill in.
//!
//! Stable Rust cannot declare a function weak. So the address is read in assembly from the global offset table, where
//! the loader puts it, or leaves null if no library defines the function: the reference is weak in each object file
//! that contains one, and through the table alone, which linkers leave to the loader even where the program is not
//! position-independent.

use core::arch::asm;
use core::ffi::{c_char, c_int, c_uchar, c_void};
use core::mem;
use core::ptr;
use core::sync::atomic::AtomicPtr;

/// Defines `fn $function() -> Option<$type>`: the function `$name` of `allocs.h`, if it is there.
macro_rules! weak {
    ($($function:ident is $name:literal: fn($($argument:ty),*) -> $result:ty;)*) => {$(
        #[inline]
        pub(crate) fn $function() -> Option<unsafe extern "C" fn($($argument),*) -> $result> {
            let address: *const ();
            // SAFETY: reads one word, which the linker has made for it.
            unsafe {
                asm!(
                    concat!(".weak ", $name),
                    concat!("mov {}, qword ptr [rip + ", $name, "@GOTPCREL]"),
                    out(reg) address,
                    options(pure, readonly, nostack, preserves_flags),
                );
            }
            // SAFETY: null, or the function, whose type is that of allocs.h.
            unsafe { mem::transmute(address) }
        }
    )*};
}

weak! {
    get_info is "alloc_get_info": fn(*const c_void, *mut Info) -> c_int;
    get_base is "alloc_get_base": fn(*const c_void) -> *mut c_void;
    get_size is "alloc_get_size": fn(*const c_void) -> usize;
    get_site is "alloc_get_site": fn(*const c_void) -> *const c_void;
    get_allocator is "alloc_get_allocator": fn(*const c_void) -> *const Allocator;
    get_place is "alloc_get_place": fn(*const c_void, *mut Place) -> c_int;
    get_stack is "alloc_get_stack": fn(*const c_void, *mut *const c_void, usize) -> usize;
    walk is "alloc_walk": fn(*const Range, Show, *mut c_void) -> c_int;
    register_allocator is "alloc_register_allocator": fn(*const c_char) -> *const Allocator;
    announce is "alloc_announce": fn(*const Allocator, *const c_void, usize) -> c_int;
    retract is "alloc_retract": fn(*const Allocator, *const c_void) -> c_int;
    report is "alloc_report": fn(c_int, *const c_char) -> c_int;
}

/// The callback of `alloc_walk`.
pub(crate) type Show = unsafe extern "C" fn(*const Chunk, *mut c_void) -> c_int;

/// `struct allocator`. The runtime may write the same name again while it is read.
#[derive(Debug)]
#[repr(C)]
pub(crate) struct Allocator {
    pub(crate) name: AtomicPtr<c_char>,
}

/// `struct alloc_place`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Place {
    pub(crate) file: *const c_char,
    pub(crate) load_base: usize,
    pub(crate) symbol: *const c_char,
    pub(crate) symbol_base: usize,
    pub(crate) symbol_size: usize,
}

impl Place {
    pub(crate) const NOWHERE: Self = Self {
        file: ptr::null(),
        load_base: 0,
        symbol: ptr::null(),
        symbol_base: 0,
        symbol_size: 0,
    };
}

/// `struct alloc_info`.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Info {
    pub(crate) allocator: *const Allocator,
    pub(crate) base: *mut c_void,
    pub(crate) size: usize,
    pub(crate) usable_size: usize,
    pub(crate) site: *const c_void,
    pub(crate) site_place: Place,
    pub(crate) chunk_base: *mut c_void,
    pub(crate) chunk_size: usize,
    pub(crate) arena_base: usize,
    pub(crate) arena_limit: usize,
    pub(crate) file: Place,
    pub(crate) build_id: *const c_uchar,
    pub(crate) build_id_size: usize,
    pub(crate) segment: c_int,
    pub(crate) section: *const c_char,
    pub(crate) mapping_kind: c_int,
    pub(crate) mapping_base: usize,
    pub(crate) mapping_limit: usize,
    pub(crate) mapping_protection: c_int,
    pub(crate) mapping_site: *const c_void,
}

impl Info {
    pub(crate) const NOTHING: Self = Self {
        allocator: ptr::null(),
        base: ptr::null_mut(),
        size: 0,
        usable_size: 0,
        site: ptr::null(),
        site_place: Place::NOWHERE,
        chunk_base: ptr::null_mut(),
        chunk_size: 0,
        arena_base: 0,
        arena_limit: 0,
        file: Place::NOWHERE,
        build_id: ptr::null(),
        build_id_size: 0,
        segment: -1,
        section: ptr::null(),
        mapping_kind: 0,
        mapping_base: 0,
        mapping_limit: 0,
        mapping_protection: 0,
        mapping_site: ptr::null(),
    };
}

/// `struct alloc_chunk`.
#[repr(C)]
pub(crate) struct Chunk {
    pub(crate) base: *mut c_void,
    pub(crate) size: usize,
    pub(crate) usable_size: usize,
    pub(crate) site: *const c_void,
    pub(crate) allocator: *const Allocator,
}

/// `struct alloc_range`.
#[repr(C)]
pub(crate) struct Range {
    pub(crate) begin: usize,
    pub(crate) end: usize,
    pub(crate) allocator: *const Allocator,
}
