//! *Next*: for every hook the function that the program would have called without the runtime, that
//! is, the first definition behind the runtime in load order. Found once, without allocating and
//! without dlsym (whose dlerror allocates), whenever the first hook needs it.

use core::ffi::c_void;
use core::mem;
use core::sync::atomic::{AtomicUsize, Ordering};

use crate::hook::{HOOKS, Hook};
use crate::linkmap::LinkMap;
use crate::object::Object;
use crate::symbol::Symbols;

/// Nothing defines the function.
const ABSENT: usize = 1;

/// What was found for one hook: two addresses, 0 for "not looked for yet" or "none".
struct Found {
    function: AtomicUsize,
    usable_size: AtomicUsize,
}

/// Threads that get here at the same time find the same.
static FOUND: [Found; HOOKS] = [const {
    Found {
        function: AtomicUsize::new(0),
        usable_size: AtomicUsize::new(0),
    }
}; HOOKS];

/// The next function of one hook.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    function: usize,
    usable_size: usize,
}

impl Next {
    /// The function, as `F`.
    ///
    /// # Safety
    /// `F` must be the function pointer type of the hook that this is next to.
    pub(crate) unsafe fn function<F: Copy>(self) -> F {
        const { assert!(size_of::<F>() == size_of::<usize>()) };
        // SAFETY: the address is that of the function with the hook's name, whose type the caller
        // answers for.
        unsafe { mem::transmute_copy(&self.function) }
    }

    /// How much of `chunk` the program may use according to its allocator, or 0: for no chunk, and
    /// if the allocator that `chunk` comes from cannot say.
    pub(crate) fn usable_size(self, chunk: *mut c_void) -> usize {
        if chunk.is_null() || self.usable_size == 0 {
            return 0;
        }
        let ask = self.usable_size;
        // SAFETY: `look_up` only keeps the address of a malloc_usable_size here.
        let ask: extern "C" fn(*mut c_void) -> usize = unsafe { mem::transmute(ask) };
        ask(chunk)
    }
}

/// What `hook` passes its calls on to. `None` if nothing behind the runtime defines it, or if the
/// loader's list of objects cannot be found.
#[inline(always)]
pub(crate) fn of(hook: Hook) -> Option<Next> {
    let found = FOUND.get(hook as usize)?;
    let mut function = found.function.load(Ordering::Acquire);
    if function == 0 {
        function = look_up_for(found);
    }
    let usable_size = found.usable_size.load(Ordering::Relaxed);
    (function > ABSENT).then_some(Next {
        function,
        usable_size,
    })
}

/// Whether the program's allocator says how large its chunks are.
pub(crate) fn knows_sizes() -> bool {
    of(Hook::Malloc).is_some_and(|next| next.usable_size != 0)
}

#[cold]
#[inline(never)]
fn look_up_for(found: &Found) -> usize {
    look_up();
    found.function.load(Ordering::Acquire)
}

/// One definition: its address and the object that it is in.
#[derive(Clone, Copy)]
struct Definition {
    address: usize,
    object: Object,
}

/// Finds all next functions. May be called again and by any number of threads at once.
pub(crate) fn look_up() {
    let Some(map) = LinkMap::find() else {
        return;
    };
    let malloc = first_in(map.behind(), Hook::Malloc);
    let usable_size = first_in(map.behind(), Hook::MallocUsableSize)
        .filter(|usable_size| malloc.is_some_and(|malloc| malloc.object == usable_size.object))
        .filter(|_| is_programs_heap(map));
    for (hook, found) in Hook::ALL.into_iter().zip(&FOUND) {
        let definition = definition_for(hook, map);
        // Only the allocator's own chunks may be shown to its malloc_usable_size. (A program with a
        // preloaded allocator that has no pvalloc gets pvalloc from libc.)
        let sizes = usable_size
            .filter(|sizes| definition.is_some_and(|found| found.object == sizes.object))
            .map_or(0, |sizes| sizes.address);
        let function = definition.map_or(ABSENT, |definition| definition.address);
        found.usable_size.store(sizes, Ordering::Relaxed);
        found.function.store(function, Ordering::Release);
    }
}

/// What `hook` passes on to.
fn definition_for(hook: Hook, map: LinkMap) -> Option<Definition> {
    let next = first_in(map.behind(), hook);
    match hook {
        // Younger than many an allocator, or dropped by it. Without the runtime a weak reference
        // would have been null; now that there is a definition it has to work, with the free that
        // belongs to the program's malloc, wherever that is.
        Hook::Cfree | Hook::FreeSized | Hook::FreeAlignedSized => {
            next.or_else(|| first_in(map.ahead().chain(map.behind()), Hook::Free))
        }
        // A runtime that came in by dlopen is behind libc.
        _ => next.or_else(|| first_in(map.ahead(), hook)),
    }
}

/// Whether the chunks that the program has are next's. Not if an allocator comes ahead of the
/// runtime: the functions that it does not define are still hooked, and called for its chunks.
fn is_programs_heap(map: LinkMap) -> bool {
    let basic = [Hook::Malloc, Hook::Realloc, Hook::Free];
    basic
        .into_iter()
        .all(|hook| first_in(map.ahead(), hook).is_none())
}

/// The first definition of `hook`'s function in `objects`.
fn first_in(mut objects: impl Iterator<Item = Object>, hook: Hook) -> Option<Definition> {
    objects.find_map(|object| {
        let symbol = Symbols::of(object)?.find(hook.name())?;
        Some(Definition {
            address: symbol.function(),
            object,
        })
    })
}
