//! Hooks for the calls that map memory. Each passes its call on to the function that the program would have
//! called, and notes what that did; it sets no `errno` and calls nothing else, so it may be called from
//! anywhere, also by a vfork child, whose mappings are its parent's. (What libc maps for itself, such as the
//! stacks of threads and the arenas of malloc, it maps without these functions.)
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is that of the libc function of that name"
)]

#[cfg(not(test))]
use core::arch::naked_asm;
use core::ffi::{c_int, c_void};
use core::mem;

use crate::definitions::Definitions;
use crate::linkmap::LinkMap;
#[cfg(not(test))]
use crate::machine::stubs::{self, jump};
use crate::mapping::noted::{self, Noted};
use crate::pages;
use crate::sync::{AtomicUsize, Ordering::Relaxed};

type Address = *mut c_void;

/// MAP_FAILED.
const FAILED: usize = usize::MAX;

/// A function that is hooked.
#[derive(Clone, Copy)]
#[repr(usize)]
enum Function {
    Mmap,
    Mmap64,
    Mremap,
    Munmap,
}

/// How many there are.
const FUNCTIONS: usize = 4;

/// Their names in that order: one string, for an array of them would be relocated.
const NAMES: &[u8] = b"mmap mmap64 mremap munmap";

/// What each is passed on to; 0 if that is not known yet.
#[unsafe(link_section = ".data")]
static NEXT: [AtomicUsize; FUNCTIONS] = [const { AtomicUsize::new(0) }; FUNCTIONS];

impl Function {
    /// The function that the program would have called, as `F`. `None` if there is none.
    ///
    /// # Safety
    /// `F` must be the type of the function.
    unsafe fn next<F: Copy>(self) -> Option<F> {
        const { assert!(size_of::<F>() == size_of::<usize>()) };
        let place = NEXT.get(self as usize)?;
        if place.load(Relaxed) == 0 {
            look_up();
        }
        let address = Some(place.load(Relaxed)).filter(|address| *address != 0)?;
        // SAFETY: this is the function with that name, whose type the caller answers for.
        Some(unsafe { mem::transmute_copy(&address) })
    }
}

/// Finds what the hooks pass on to, before there are other threads.
#[cold]
#[inline(never)]
pub(crate) fn look_up() {
    let Some(map) = LinkMap::find() else {
        return;
    };
    let definitions = Definitions::<FUNCTIONS>::find(map, NAMES);
    let found = |function: Function| {
        // A runtime that came in by dlopen is behind libc.
        let behind = definitions.behind(function as usize);
        behind.or_else(|| definitions.ahead(function as usize))
    };
    // musl has given up the second name; the types of both are the same here.
    let mmap64 = found(Function::Mmap64).or_else(|| found(Function::Mmap));
    let found = [
        found(Function::Mmap),
        mmap64,
        found(Function::Mremap),
        found(Function::Munmap),
    ];
    for (definition, place) in found.into_iter().zip(&NEXT) {
        let address = definition.map_or(0, |definition| definition.symbol.function());
        place.store(address, Relaxed);
    }
}

// Rust has no way to ask for a return address.

macro_rules! mmap {
    ($(#[$doc:meta])* $name:ident => $hook:ident) => {
        $(#[$doc])*
        #[cfg(not(test))]
        #[unsafe(naked)]
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(
            address: Address,
            size: usize,
            protection: c_int,
            flags: c_int,
            file: c_int,
            offset: isize,
        ) -> Address {
            naked_asm!(stubs::add_caller_to_mmap!(), jump!("{hook}"), hook = sym $hook)
        }
    };
}

mmap!(
    /// mmap(2).
    mmap => mmap_from
);
mmap!(
    /// mmap64, which is mmap(2).
    mmap64 => mmap64_from
);

/// mremap(2), whose last argument is there only with some flags.
#[cfg(not(test))]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn mremap(
    address: Address,
    old_size: usize,
    size: usize,
    flags: c_int,
    new_address: Address,
) -> Address {
    naked_asm!(stubs::add_caller_to_mremap!(), jump!("{hook}"), hook = sym mremap_from)
}

unsafe extern "C" fn mmap_from(
    address: Address,
    size: usize,
    site: usize,
    how: usize,
    file: c_int,
    offset: isize,
) -> usize {
    // SAFETY: the caller keeps to mmap's contract.
    unsafe { map(Function::Mmap, (address, size, how, file, offset), site) }
}

unsafe extern "C" fn mmap64_from(
    address: Address,
    size: usize,
    site: usize,
    how: usize,
    file: c_int,
    offset: isize,
) -> usize {
    // SAFETY: the caller keeps to mmap's contract.
    unsafe { map(Function::Mmap64, (address, size, how, file, offset), site) }
}

#[inline(always)]
unsafe fn map(
    function: Function,
    arguments: (Address, usize, usize, c_int, isize),
    site: usize,
) -> usize {
    type Mmap = unsafe extern "C" fn(Address, usize, u32, u32, c_int, isize) -> usize;
    // SAFETY: this is the type of both.
    let Some(next) = (unsafe { function.next::<Mmap>() }) else {
        return FAILED;
    };
    let (address, size, how, file, offset) = arguments;
    let int = |word: usize| u32::try_from(word & 0xffff_ffff).unwrap_or_default();
    let (protection, flags) = (int(how >> 32), int(how));
    // SAFETY: the caller keeps to mmap's contract.
    let base = unsafe { next(address, size, protection, flags, file, offset) };
    if base != FAILED {
        noted::note(Noted {
            base,
            size,
            site,
            protection,
        });
    }
    base
}

/// A mapping that is moved or resized is one of this call, as a chunk is realloc's.
unsafe extern "C" fn mremap_from(
    address: Address,
    old_size: usize,
    size: usize,
    flags: c_int,
    new_address: Address,
    site: usize,
) -> usize {
    const MREMAP_DONTUNMAP: c_int = 4;
    type Mremap = unsafe extern "C" fn(Address, usize, usize, c_int, ...) -> usize;
    // SAFETY: this is its type.
    let Some(next) = (unsafe { Function::Mremap.next::<Mremap>() }) else {
        return FAILED;
    };
    let old = address.expose_provenance();
    let before = noted::of(old);
    let stays = flags & MREMAP_DONTUNMAP != 0 || old_size == 0;
    // Beforehand: once it is unmapped, another thread may get the place.
    if !stays {
        noted::forget(old, old_size);
    }
    // SAFETY: the caller keeps to mremap's contract; an argument too many is never looked at.
    let base = unsafe { next(address, old_size, size, flags, new_address) };
    match before {
        Some(before) if base == FAILED && !stays => noted::note(before),
        _ if base == FAILED => {}
        _ => noted::note(Noted {
            base,
            size,
            site,
            protection: before.map_or(0, |before| before.protection),
        }),
    }
    base
}

/// munmap(2).
#[cfg_attr(not(test), unsafe(no_mangle))]
pub unsafe extern "C" fn munmap(address: Address, size: usize) -> c_int {
    type Munmap = unsafe extern "C" fn(Address, usize) -> c_int;
    // SAFETY: this is its type.
    let Some(next) = (unsafe { Function::Munmap.next::<Munmap>() }) else {
        return -1;
    };
    let base = address.expose_provenance();
    // Beforehand, as above; what the kernel refuses is not forgotten.
    if base == pages::begin(base) && size != 0 {
        noted::forget(base, size);
    }
    // SAFETY: the caller keeps to munmap's contract.
    unsafe { next(address, size) }
}
