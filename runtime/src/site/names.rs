//! Facades by name: functions that hand on what malloc gave them, and whole libraries of such functions.
//! Nobody looks for the cause of an allocation there.
//!
//! The names of an object are read once, when the first call site in it is seen: the dynamic symbols
//! in memory, and the symbols of static functions from its file. What is kept are the addresses at
//! which facades begin.

use core::ptr;
use core::slice;

use crate::file::{LoadedObject, Symbol, dynamic};
use crate::memory::Mapped;
use crate::site::glob;
use crate::site::rust;
use crate::site::table::{Key, Table};
use crate::sync::{
    AtomicBool, AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release,
};
use crate::sys;

/// Libraries all of whose functions are facades.
const LIBRARIES: &[u8] =
    b"libc.so.6 ld-linux-x86-64.so.2 libpthread.so.0 libdl.so.2 libc.musl-x86_64.so.1 \
ld-musl-x86_64.so.1 ld-linux-aarch64.so.1 libc.musl-aarch64.so.1 ld-musl-aarch64.so.1 libstdc++.so.6 libc++.so.1 libc++abi.so.1";
/// Names and patterns of functions.
const FUNCTIONS: &[u8] = b"\
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

/// How the names of operators new begin.
const OPERATORS_NEW: [&[u8]; 2] = [b"_Znw", b"_Zna"];

/// What ALLOCS_FACADES says instead of any name.
const NO_NAMES: &[u8] = b"none";
/// Longest list of names of the user's own.
const LONGEST: usize = 4096;

/// ALLOCS_FACADES: where its copy lies and how long it is. Programs overwrite their environment.
static OWN: AtomicUsize = AtomicUsize::new(0);
static OWN_LENGTH: AtomicUsize = AtomicUsize::new(0);

/// Whether there are none.
static OFF: AtomicBool = AtomicBool::new(false);

/// Facades by their first address.
static FACADES: Table = Table::new();
/// What operators new have there, and what others have.
const OPERATOR: u32 = 2;
const FUNCTION: u32 = 1;
/// Whether there are operators new outside of the libraries.
static OPERATORS: AtomicBool = AtomicBool::new(false);

/// Takes the user's own names over, separated by commas, colons or spaces; only `none` for no facades.
pub(crate) fn configure(names: Mapped) {
    if names.is(NO_NAMES) {
        OFF.store(true, Relaxed);
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

/// The user's own names and patterns. Such with `.so` are libraries.
fn own() -> impl Iterator<Item = &'static [u8]> {
    let own = OWN.load(Acquire);
    let own: &[u8] = if own == 0 {
        b""
    } else {
        let at = ptr::with_exposed_provenance(own);
        // SAFETY: `configure` has written them, and nobody writes there any more.
        unsafe { slice::from_raw_parts(at, OWN_LENGTH.load(Relaxed)) }
    };
    words(own)
}

fn words(list: &[u8]) -> impl Iterator<Item = &[u8]> {
    list.split(|byte| *byte == b' ')
        .filter(|word| !word.is_empty())
}

/// Whether there are facades at all.
pub(crate) fn are_sought() -> bool {
    !OFF.load(Relaxed)
}

/// Whether the function that begins at `function` is a facade.
pub(crate) fn is_facade(function: usize) -> bool {
    FACADES.find(Key::of_address(function)).is_some()
}

/// Makes the function that begins at `function` one.
pub(crate) fn add(function: usize) {
    FACADES.add(Key::of_address(function), FUNCTION);
}

/// Whether the program has operators new of its own.
pub(crate) fn have_operators() -> bool {
    OPERATORS.load(Relaxed)
}

/// Whether the function that begins at `function` is one of them.
pub(crate) fn is_operator(function: usize) -> bool {
    FACADES.find(Key::of_address(function)) == Some(OPERATOR)
}

/// Notes which functions of `object` are facades. Whether all are.
#[cold]
#[inline(never)]
pub(crate) fn are_all_facades(object: &LoadedObject) -> bool {
    if !are_sought() {
        return false;
    }
    // libc's reallocarray calls realloc, and is called by a hook.
    if object.object.is_runtime() {
        return true;
    }
    let is_library = |name| {
        words(LIBRARIES)
            .chain(own())
            .any(|word| glob::matches(word, name))
    };
    if dynamic::soname(object.object).is_some_and(is_library) {
        return true;
    }
    object.for_each_function(|symbol| {
        if is_function(symbol.name) {
            if OPERATORS_NEW
                .iter()
                .any(|name| symbol.name.starts_with(name))
            {
                FACADES.add(Key::of_address(symbol.base), OPERATOR);
                OPERATORS.store(true, Relaxed);
            }
            add(symbol.base);
            if let Some(target) = only_jump(symbol) {
                add(target);
            }
        }
    });
    false
}

/// `vasprintf` and its like end in a jump to the function that does it, which has no name.
fn only_jump(symbol: Symbol) -> Option<usize> {
    const LONGEST: usize = 32;
    const JUMP: usize = 5;
    let end = symbol.base.wrapping_add(symbol.size);
    if !(JUMP..LONGEST).contains(&symbol.size) {
        return None;
    }
    // SAFETY: the code of a function.
    let jump = unsafe { Mapped::new(end.wrapping_sub(JUMP)) };
    let distance = jump.add(1).u32().cast_signed() as isize;
    (jump.byte() == 0xe9).then(|| end.wrapping_add_signed(distance))
}

fn is_function(name: Mapped) -> bool {
    let mut beginning = [0; BEGINNING];
    for (at, character) in beginning.iter_mut().enumerate() {
        *character = name.add(at).byte();
        if *character == 0 {
            break;
        }
    }
    let beginning = u32::from_le_bytes(beginning);
    let is_marked = |class: usize| {
        let classes = CLASSES.get(class / 64);
        classes.is_some_and(|classes| classes >> (class % 64) & 1 == 1)
    };
    // Few names of a program begin like one of these.
    let may_be = classes(beginning).into_iter().all(is_marked);
    let matches = |word: &Word| {
        word.beginning == beginning
            && FUNCTIONS
                .get(word.begin..word.end)
                .is_some_and(|pattern| glob::matches(pattern, name))
    };
    (may_be && WORDS.iter().any(matches))
        || rust::is_of_library(name)
        || own().any(|pattern| glob::matches(pattern, name))
}

/// One name or pattern.
#[derive(Clone, Copy)]
struct Word {
    /// Its first characters; they are the name's.
    beginning: u32,
    /// Where it is in [`FUNCTIONS`].
    begin: usize,
    end: usize,
}

/// How many characters a beginning has.
const BEGINNING: usize = 4;
/// How many classes of beginnings are told apart.
const CLASSES_COUNT: usize = 2048;
const WORD_COUNT: usize = {
    let (mut count, mut at) = (1, 0);
    while at < FUNCTIONS.len() {
        count += (FUNCTIONS[at] == b' ') as usize;
        at += 1;
    }
    count
};

static WORDS: [Word; WORD_COUNT] = {
    let mut words = [Word {
        beginning: 0,
        begin: 0,
        end: 0,
    }; WORD_COUNT];
    let (mut word, mut begin, mut at) = (0, 0, 0);
    while at <= FUNCTIONS.len() {
        if at == FUNCTIONS.len() || FUNCTIONS[at] == b' ' {
            let (_, rest) = FUNCTIONS.split_at(begin);
            let Some(beginning) = rest.first_chunk::<BEGINNING>() else {
                panic!("a name is too short"); // while it is compiled
            };
            words[word] = Word {
                beginning: u32::from_le_bytes(*beginning),
                begin,
                end: at,
            };
            (word, begin) = (word + 1, at + 1);
        }
        at += 1;
    }
    words
};

/// A bit for each class that a beginning is of.
static CLASSES: [u64; CLASSES_COUNT / 64] = {
    let mut marked = [0; CLASSES_COUNT / 64];
    let mut word = 0;
    while word < WORD_COUNT {
        let [one, other] = classes(WORDS[word].beginning);
        marked[one / 64] |= 1 << (one % 64);
        marked[other / 64] |= 1 << (other % 64);
        word += 1;
    }
    marked
};

/// The two classes of a beginning.
const fn classes(beginning: u32) -> [usize; 2] {
    let hash = beginning.wrapping_mul(0x9e37_79b1) as usize;
    let bits = CLASSES_COUNT.ilog2();
    [
        hash >> (32 - bits),
        hash >> (32 - 2 * bits) & (CLASSES_COUNT - 1),
    ]
}
