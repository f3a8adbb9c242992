//! Facades by name: functions that hand on what malloc gave them, and whole libraries of such functions.
//! Nobody looks for the cause of an allocation there.
//!
//! The names of an object are read once, when the first call site in it is seen: the dynamic symbols
//! in memory, and the symbols of static functions from its file. What is kept are the addresses at
//! which facades begin.

use core::ptr;
use core::slice;
use core::sync::atomic::{
    AtomicU64, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};

use crate::file::LoadedObject;
use crate::memory::Mapped;
use crate::site::glob;
use crate::site::symbols::{self, Symbol};
use crate::site::table::{Key, Table};
use crate::sys;

/// Names and patterns. Such with `.so` are libraries: all of their functions are meant.
const NAMES: &[u8] = b"\
libc.so.6 ld-linux-x86-64.so.2 libpthread.so.0 libdl.so.2 libc.musl-x86_64.so.1 ld-musl-x86_64.so.1 \
libstdc++.so.6 libc++.so.1 libc++abi.so.1 \
_Znwm _Znam _ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t _ZnwmSt11align_val_t _ZnamSt11align_val_t \
_ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t \
_ZNSt* _ZNKSt* _ZNSs* _ZSt* _ZN9__gnu_cxx* \
__rust_alloc __rust_alloc_zeroed __rust_realloc __rdl_alloc __rdl_alloc_zeroed __rdl_realloc \
__rg_alloc __rg_alloc_zeroed __rg_realloc \
_RNvC*___rustc12___rust_alloc _RNvC*___rustc19___rust_alloc_zeroed _RNvC*___rustc14___rust_realloc \
_RNvC*___rustc11___rdl_alloc _RNvC*___rustc18___rdl_alloc_zeroed _RNvC*___rustc13___rdl_realloc \
g_malloc g_malloc0 g_malloc_n g_malloc0_n g_realloc g_realloc_n g_try_malloc g_try_malloc0 g_try_malloc_n \
g_try_malloc0_n g_try_realloc g_try_realloc_n g_slice_alloc g_slice_alloc0 g_slice_copy g_aligned_alloc \
g_aligned_alloc0 g_strdup g_strndup g_strdup_printf g_strdup_vprintf g_strconcat g_strjoin g_strjoinv \
g_strdupv g_strnfill g_memdup g_memdup2 \
xmalloc xcalloc xzalloc xrealloc xnmalloc xnrealloc x2nrealloc xreallocarray x2realloc xmemdup xmemdup0 \
xstrdup xstrndup xasprintf xvasprintf ximalloc xicalloc xizalloc xirealloc ximemdup ximemdup0 xcharalloc \
emalloc ecalloc erealloc estrdup safe_malloc safe_calloc safe_realloc checked_malloc checked_realloc";

/// What ALLOCS_FACADES says instead of any name.
const NO_NAMES: &[u8] = b"none";
/// Longest list of names of the user's own.
const LONGEST: usize = 4096;

/// ALLOCS_FACADES: where its copy lies and how long it is. Programs overwrite their environment.
static OWN: AtomicUsize = AtomicUsize::new(0);
static OWN_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Which of [`BEGINNINGS`] are those of names.
static BEGINNING: [AtomicU64; BEGINNINGS / 64] = [const { AtomicU64::new(0) }; BEGINNINGS / 64];
/// How many classes of beginnings there are.
const BEGINNINGS: usize = 2048;
/// How many characters a beginning has.
const BEGINNING_LENGTH: usize = 4;
/// What is known about the names.
static READ: AtomicUsize = AtomicUsize::new(0);
/// Values of [`READ`].
const DONE: usize = 1;
const OFF: usize = 2;

/// Facades by their first address; objects that were read, by the second key of their dynamic table's.
static FACADES: Table = Table::new();
/// What an object can be.
const READ_ONCE: u32 = 1;
const ALL_FACADES: u32 = 2;

/// Takes the user's own names over, separated by commas, colons or spaces; only `none` for no facades.
pub(crate) fn configure(names: Mapped) {
    if names.is(NO_NAMES) {
        READ.store(OFF, Relaxed);
        return;
    }
    let Some(length) = (0..LONGEST).find(|at| names.add(*at).byte() == 0) else {
        return;
    };
    let Some(copy) = sys::map_zeros(LONGEST) else {
        return;
    };
    for at in 0..length {
        let byte = match names.add(at).byte() {
            b',' | b':' => b' ',
            byte => byte,
        };
        // SAFETY: inside of the memory that was just got.
        unsafe { ptr::with_exposed_provenance_mut::<u8>(copy.wrapping_add(at)).write(byte) };
    }
    OWN_LENGTH.store(length, Relaxed);
    OWN.store(copy, Release);
}

/// The names and patterns of the list, then the user's own.
fn names() -> impl Iterator<Item = &'static [u8]> {
    let own = OWN.load(Acquire);
    let own: &[u8] = if own == 0 {
        b""
    } else {
        let at = ptr::with_exposed_provenance(own);
        // SAFETY: `configure` has written them, and nobody writes there any more.
        unsafe { slice::from_raw_parts(at, OWN_LENGTH.load(Relaxed)) }
    };
    let words = |list: &'static [u8]| list.split(|byte| *byte == b' ');
    words(NAMES)
        .chain(words(own))
        .filter(|word| !word.is_empty())
}

/// Whether there are facades at all.
pub(crate) fn are_sought() -> bool {
    READ.load(Relaxed) != OFF
}

/// Whether the function of `object` that begins at `function` is a facade.
pub(crate) fn is_facade(object: &LoadedObject, function: usize) -> bool {
    if !are_sought() {
        return false;
    }
    let table = object.object.dynamic.address();
    let known = Key::of_address(table).second();
    let kind = FACADES.find(known).unwrap_or_else(|| {
        let kind = read(object);
        FACADES.add(known, kind).unwrap_or(kind)
    });
    kind == ALL_FACADES || FACADES.find(Key::of_address(function)).is_some()
}

/// Makes the function that begins at `function` one.
pub(crate) fn add(function: usize) {
    FACADES.add(Key::of_address(function), READ_ONCE);
}

/// Notes which functions of `object` are facades.
#[cold]
#[inline(never)]
fn read(object: &LoadedObject) -> u32 {
    if READ.load(Relaxed) == 0 {
        prepare();
        READ.store(DONE, Relaxed);
    }
    if symbols::soname(object.object).is_some_and(|name| is_name(name, true)) {
        return ALL_FACADES;
    }
    symbols::for_each(object, |symbol| {
        let name = symbol.name;
        if may_be_name(name) && is_name(name, false) || glob::is_of_rust_alloc(name) {
            add(symbol.address);
            if let Some(target) = only_jump(symbol) {
                add(target);
            }
        }
    });
    READ_ONCE
}

/// `vasprintf` and its like end in a jump to the function that does it, which has no name.
fn only_jump(symbol: Symbol) -> Option<usize> {
    const LONGEST: usize = 32;
    const JUMP: usize = 5;
    let end = symbol.address.wrapping_add(symbol.size);
    if !(JUMP..LONGEST).contains(&symbol.size) {
        return None;
    }
    // SAFETY: the code of a function.
    let jump = unsafe { Mapped::new(end.wrapping_sub(JUMP)) };
    let distance = jump.add(1).u32().cast_signed() as isize;
    (jump.byte() == 0xe9).then(|| end.wrapping_add_signed(distance))
}

/// Whether `name` is one: of a library, or of a function.
fn is_name(name: Mapped, library: bool) -> bool {
    names().any(|word| is_library(word) == library && glob::matches(word, name))
}

fn is_library(word: &[u8]) -> bool {
    word.windows(3).any(|part| part == b".so")
}

/// Notes how the names of functions begin: few of a program's do so.
fn prepare() {
    for word in names().filter(|word| !is_library(word)) {
        match word.first_chunk::<BEGINNING_LENGTH>() {
            Some(beginning) if !beginning.iter().any(|byte| b"*?".contains(byte)) => {
                note_beginning(beginning_of(*beginning));
            }
            _ => (0..BEGINNINGS).for_each(note_beginning),
        }
    }
}

fn beginning_of(characters: [u8; BEGINNING_LENGTH]) -> usize {
    let hash = u32::from_le_bytes(characters).wrapping_mul(0x9e37_79b1);
    (hash >> (u32::BITS - BEGINNINGS.ilog2())) as usize
}

fn note_beginning(beginning: usize) {
    if let Some(word) = BEGINNING.get(beginning / 64) {
        word.fetch_or(1 << (beginning % 64), Relaxed);
    }
}

fn may_be_name(name: Mapped) -> bool {
    let mut beginning = [0; BEGINNING_LENGTH];
    for (at, character) in beginning.iter_mut().enumerate() {
        *character = name.add(at).byte();
        if *character == 0 {
            return false;
        }
    }
    let class = beginning_of(beginning);
    let noted = BEGINNING
        .get(class / 64)
        .map_or(0, |word| word.load(Relaxed));
    noted >> (class % 64) & 1 == 1
}
