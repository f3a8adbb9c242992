//! *Next*: for every hook the function that the program would have called without the runtime, that
//! is, the first definition behind the runtime in load order. Found once, without allocating and
//! without dlsym (whose dlerror allocates), whenever the first hook needs it.

use core::mem;
use core::ptr;

use crate::counters;
use crate::definitions::{Definition, Definitions};
use crate::heap::{Heap, PROGRAM};
use crate::hook::{self, HOOKS, Hook};
use crate::index::{Index, LARGE};
use crate::linkmap::LinkMap;
use crate::machine::shared;
use crate::memory::Mapped;
use crate::record::{RECORD, request};
use crate::symbol::Symbols;
use crate::sync::{AtomicBool, AtomicUsize, Ordering};
use crate::sys;
use crate::threads;

/// Nothing defines the function.
const ABSENT: usize = 1;

/// What was found for one hook: two addresses, 0 for "not looked for yet" or "none".
pub(crate) struct Found {
    function: AtomicUsize,
    usable_size: AtomicUsize,
    /// The function once more, as long as it is glibc's, headers can be relied on, and nothing is counted.
    direct: AtomicUsize,
}

/// Threads that get here at the same time find the same.
#[unsafe(link_section = ".data")]
pub(crate) static FOUND: [Found; HOOKS] = [const {
    Found {
        function: AtomicUsize::new(0),
        usable_size: AtomicUsize::new(0),
        direct: AtomicUsize::new(0),
    }
}; HOOKS];

/// Where in it malloc's is, to be called directly.
pub(crate) const DIRECT_MALLOC: usize =
    Hook::Malloc as usize * size_of::<Found>() + mem::offset_of!(Found, direct);

/// The next function of one hook.
#[derive(Clone, Copy)]
pub(crate) struct Next {
    function: usize,
    usable_size: usize,
    /// None if there is no memory for one: then chunks are not noted.
    heap: Option<&'static Heap>,
}

/// Whose function it is that the program has called.
pub(crate) trait Origin: Copy {
    /// Whether chunks that go the shorter way have a header that says how large they are. Else their allocator does.
    const HAS_HEADERS: bool = false;

    /// What `hook` passes the call on to. `None` if there is nothing.
    fn next(self, hook: Hook) -> Option<Next>;

    /// The same, if the shorter way can be gone.
    fn direct(self, hook: Hook) -> Option<Next>;

    /// The index of the chunks that go the shorter way.
    fn index(self) -> Option<&'static Index>;

    /// How much is asked for on the shorter way for a chunk of `size` bytes. `None` if it cannot be gone.
    fn request_at_hand(self, size: usize) -> Option<usize>;

    /// How much the program may use of a chunk that goes it and has a mark. `None` if it is large and has a header, or has
    /// no room for a record.
    fn usable_size_at_hand(self, chunk: usize) -> Option<usize>;
}

/// The runtime's own, which the loader has found for the program.
#[derive(Clone, Copy)]
pub(crate) struct Own;

impl Origin for Own {
    const HAS_HEADERS: bool = true;

    #[inline(always)]
    fn next(self, hook: Hook) -> Option<Next> {
        of(hook)
    }

    #[inline(always)]
    fn direct(self, hook: Hook) -> Option<Next> {
        direct(hook)
    }

    #[inline(always)]
    fn index(self) -> Option<&'static Index> {
        Some(&PROGRAM.chunks)
    }

    /// Glibc's chunks are large enough for their marks in any case.
    #[inline(always)]
    fn request_at_hand(self, size: usize) -> Option<usize> {
        (size < LARGE).then(|| size.wrapping_add(RECORD))
    }

    #[inline(always)]
    fn usable_size_at_hand(self, chunk: usize) -> Option<usize> {
        small_usable_size(chunk)
    }
}

impl Next {
    /// A function of an allocator in the executable, that one's heap, and its malloc_usable_size, or 0 for none.
    #[inline(always)]
    pub(crate) fn of_heap(
        heap: Option<&'static Heap>,
        function: usize,
        usable_size: usize,
    ) -> Self {
        Self {
            function,
            usable_size,
            heap,
        }
    }

    /// The heap of its allocator.
    #[inline(always)]
    pub(crate) fn heap(self) -> Option<&'static Heap> {
        self.heap
    }

    /// Whether that is the program's malloc.
    #[inline(always)]
    fn is_programs(self) -> bool {
        self.heap.is_some_and(Heap::is_programs)
    }

    /// Whether its chunks are noted. They are not if it is the program's malloc and does not say how large they are.
    #[inline(always)]
    pub(crate) fn is_noted(self) -> bool {
        self.heap.is_some() && (self.knows_capacity() || !self.is_programs())
    }

    /// Who has `chunk`: the program's malloc, if the allocator in the executable has got it from there.
    #[inline(always)]
    pub(crate) fn holder(self, chunk: usize) -> Self {
        if self.knows_capacity() || !PROGRAM.has(chunk) {
            return self;
        }
        of(Hook::Malloc).unwrap_or(self)
    }

    /// Whether its chunks have their records inside; else those are beside the marks.
    #[inline(always)]
    pub(crate) fn has_records(self) -> bool {
        self.knows_capacity() && !self.must_be_exact()
    }

    /// Whether the program may give a chunk back past the hooks, and say how large it is.
    #[inline(always)]
    fn must_be_exact(self) -> bool {
        self.is_programs() && EXACT.load(Ordering::Relaxed)
    }

    /// How much it is asked for, for a chunk of `size` bytes that is noted.
    #[inline(always)]
    pub(crate) fn request(self, size: usize) -> usize {
        if self.must_be_exact() {
            size
        } else {
            request(size, self.knows_capacity())
        }
    }

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

    /// Whether the allocator says how large its chunks are.
    #[inline(always)]
    pub(crate) fn knows_capacity(self) -> bool {
        self.usable_size != 0
    }

    /// How large `chunk`, a live one, is according to its allocator; 0 if that cannot say.
    #[inline(always)]
    pub(crate) fn capacity(self, chunk: usize) -> usize {
        if self.is_programs()
            && headers_are_known()
            && let Some(capacity) = header_capacity(chunk)
        {
            return capacity;
        }
        self.asked_capacity(chunk)
    }

    #[inline(never)]
    fn asked_capacity(self, chunk: usize) -> usize {
        // Two chunks that are closer would share a mark.
        if self.usable_size == 0 || chunk & 15 != 0 {
            return 0;
        }
        let is_programs = self.is_programs();
        if is_programs && has_replaced_hooks() {
            return 0;
        }
        let ask = self.usable_size;
        // SAFETY: `look_up` only keeps the address of a malloc_usable_size here.
        let ask: extern "C" fn(usize) -> usize = unsafe { mem::transmute(ask) };
        let capacity = ask(chunk);
        if is_programs && GLIBC.load(Ordering::Relaxed) {
            compare_header(chunk, capacity);
        }
        capacity
    }
}

/// Whether the allocator is that of a glibc whose chunks have their size in the word in front of them: the
/// chunk's own, which ends where the next one's begins, with three flags (malloc/malloc.c, "malloc_chunk").
#[unsafe(link_section = ".data")]
static GLIBC: AtomicBool = AtomicBool::new(false);
/// Whether that was seen to be so. The function that gives the size does the same, but a call of it costs as
/// much as all the rest.
#[unsafe(link_section = ".data")]
static HEADERS: AtomicBool = AtomicBool::new(false);
const FLAGS: usize = 7;
/// The chunk has a mapping of its own.
const MAPPED: usize = 2;
/// Where old glibc's `__malloc_hook` is, by which debugging aids such as mcheck(3) put other pointers in
/// place of the allocator's; 0 if there is none.
#[unsafe(link_section = ".data")]
static HOOK_VARIABLE: AtomicUsize = AtomicUsize::new(0);

/// Whether the program's allocator has functions that are no hooks and take the program's word for the size of a chunk.
#[unsafe(link_section = ".data")]
static EXACT: AtomicBool = AtomicBool::new(false);

/// Whether the program's chunks have headers that say how large they are.
#[inline(always)]
pub(crate) fn headers_are_known() -> bool {
    HEADERS.load(Ordering::Relaxed)
}

/// # Safety
/// There must be a readable word in front of `chunk`.
#[inline(always)]
unsafe fn header(chunk: usize) -> usize {
    let header = chunk.wrapping_sub(size_of::<usize>());
    // SAFETY: the caller answers for the word.
    unsafe { ptr::with_exposed_provenance::<usize>(header).read() }
}

/// How large `chunk` is, a live one of glibc's. `None` if it has a mapping of its own, and another header.
#[inline(always)]
pub(crate) fn header_capacity(chunk: usize) -> Option<usize> {
    // SAFETY: it has a header.
    let header = unsafe { header(chunk) };
    (header & MAPPED == 0).then_some((header & !FLAGS).wrapping_sub(size_of::<usize>()))
}

/// How much of that the program may use, if the chunk is not large, nor as large as one can be that is not: then one
/// look at the header says that it is none with a mapping of its own, either.
#[inline(always)]
fn small_usable_size(chunk: usize) -> Option<usize> {
    const { assert!(LARGE.is_power_of_two()) };
    const OTHERS: usize = MAPPED | !(LARGE - 1);
    // SAFETY: it has a header.
    if unsafe { shared::has_any_before::<{ OTHERS.cast_signed() }>(chunk) } {
        return None;
    }
    // SAFETY: as above.
    let size = unsafe { header(chunk) } & !(OTHERS | FLAGS);
    Some(size.wrapping_sub(size_of::<usize>() + RECORD))
}

/// Sees whether the header of `chunk` says what the allocator says, which is `capacity`. If not, there is
/// something in between, such as valgrind with an allocator of its own, and headers are never looked at again.
#[cold]
fn compare_header(chunk: usize, capacity: usize) {
    // SAFETY: even where it is no header, an allocator has something in front of a chunk: the heap begins with
    // what it needs itself. valgrind would complain.
    let header = sys::unreported(|| unsafe { header(chunk) });
    if header & MAPPED == 0 || capacity == 0 {
        let same = (header & !FLAGS).wrapping_sub(size_of::<usize>()) == capacity;
        GLIBC.store(same, Ordering::Relaxed);
        HEADERS.store(same, Ordering::Relaxed);
        if !same && sys::runs_under_valgrind() {
            forget_sizes();
        }
        settle();
    }
}

/// Enters no more chunks: a tool of valgrind's that has an allocator of its own has put it in the place of most
/// of the hooks, too, but not of all, so that the runtime would see chunks come and not go.
fn forget_sizes() {
    for found in &FOUND {
        found.usable_size.store(0, Ordering::Relaxed);
    }
}

/// Has the header of `chunk` compared with what the allocator says.
pub(crate) fn check_header(chunk: usize) {
    if let Some(next) = of(Hook::Malloc).filter(|next| next.knows_capacity()) {
        next.asked_capacity(chunk);
    }
}

/// Whether somebody has replaced the functions of an old glibc's allocator.
fn has_replaced_hooks() -> bool {
    let variable = HOOK_VARIABLE.load(Ordering::Relaxed);
    // SAFETY: a pointer variable of libc's.
    variable != 0 && unsafe { Mapped::new(variable) }.word() != 0
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
        heap: Some(&PROGRAM),
    })
}

/// The same on the shortest way: if it is glibc's, its headers can be relied on, and nothing is counted.
#[inline(always)]
pub(crate) fn direct(hook: Hook) -> Option<Next> {
    let function = FOUND.get(hook as usize)?.direct.load(Ordering::Acquire);
    (function != 0).then_some(Next {
        function,
        usable_size: 0,
        heap: Some(&PROGRAM),
    })
}

/// Finds out which hooks can go the shortest way. To be called when something of that has changed.
pub(crate) fn settle() {
    let can = headers_are_known() && !counters::are_running();
    for found in &FOUND {
        let its = can && found.usable_size.load(Ordering::Relaxed) != 0;
        let function = found.function.load(Ordering::Relaxed);
        let direct = if its { function } else { 0 };
        found.direct.store(direct, Ordering::Release);
    }
}

#[cold]
#[inline(never)]
fn look_up_for(found: &Found) -> usize {
    #[cfg(not(test))]
    crate::relocate::relocate();
    look_up();
    found.function.load(Ordering::Acquire)
}

/// Finds all next functions. May be called again and by any number of threads at once.
pub(crate) fn look_up() {
    let Some(map) = LinkMap::find() else {
        return;
    };
    let definitions = Definitions::<HOOKS>::find(map, hook::NAMES);
    let behind = |hook: Hook| definitions.behind(hook as usize);
    let usable_size = behind(Hook::MallocUsableSize)
        .filter(|sizes| behind(Hook::Malloc).is_some_and(|malloc| malloc.object == sizes.object))
        .filter(|_| is_programs_heap(&definitions));
    if let Some(symbols) = usable_size.and_then(|sizes| Symbols::of(sizes.object)) {
        look_at_glibc(&symbols);
        EXACT.store(frees_by_size(&symbols), Ordering::Relaxed);
    }
    threads::note_variable(single_threaded(map));
    for (hook, found) in Hook::ALL.into_iter().zip(&FOUND) {
        let definition = definition_for(hook, &definitions);
        // Only the allocator's own chunks may be shown to its malloc_usable_size. (A program with a
        // preloaded allocator that has no pvalloc gets pvalloc from libc.)
        let sizes = usable_size
            .filter(|sizes| definition.is_some_and(|found| found.object == sizes.object))
            .map_or(0, |sizes| sizes.symbol.function());
        let function = definition.map_or(ABSENT, |definition| definition.symbol.function());
        found.usable_size.store(sizes, Ordering::Relaxed);
        found.function.store(function, Ordering::Release);
    }
}

/// Where glibc says that there is one thread: in libc, or where the executable has its copy of that.
fn single_threaded(map: LinkMap) -> Option<usize> {
    let variable = Definitions::<1>::find(map, b"__libc_single_threaded");
    let first = variable.ahead(0).or_else(|| variable.behind(0))?;
    Some(first.symbol.address)
}

/// Whether an allocator has functions that are no hooks and free by size: jemalloc's own, or operators delete that do
/// not call free. The chunks of its aligned_alloc, for one, are then given back by these.
fn frees_by_size(symbols: &Symbols) -> bool {
    symbols.find(b"sdallocx").is_some() || symbols.find(b"_ZdlPvm").is_some()
}

/// Finds out whether the object that defines the program's allocator is glibc, and what is to be known then.
fn look_at_glibc(symbols: &Symbols) {
    if symbols.find(b"gnu_get_libc_version").is_none() {
        return;
    }
    // 2.34 was the first version without `__malloc_hook` and MALLOC_CHECK_ inside of it, and the first with this
    // function. (To ask it for its version would cost two page faults.)
    if symbols.find(b"closefrom").is_some() {
        GLIBC.store(true, Ordering::Relaxed);
    } else if let Some(variable) = symbols.find(b"__malloc_hook") {
        HOOK_VARIABLE.store(variable.address, Ordering::Relaxed);
    }
}

/// What `hook` passes on to.
fn definition_for(hook: Hook, definitions: &Definitions<HOOKS>) -> Option<Definition> {
    let behind = |hook: Hook| definitions.behind(hook as usize);
    let ahead = |hook: Hook| definitions.ahead(hook as usize);
    match hook {
        // Younger than many an allocator, or dropped by it. Without the runtime a weak reference
        // would have been null; now that there is a definition it has to work, with the free that
        // belongs to the program's malloc, wherever that is.
        Hook::Cfree | Hook::FreeSized | Hook::FreeAlignedSized => behind(hook)
            .or_else(|| ahead(Hook::Free))
            .or_else(|| behind(Hook::Free)),
        // A runtime that came in by dlopen is behind libc.
        _ => behind(hook).or_else(|| ahead(hook)),
    }
}

/// Whether the chunks that the program has are next's. Not if an allocator comes ahead of the
/// runtime: the functions that it does not define are still hooked, and called for its chunks.
fn is_programs_heap(definitions: &Definitions<HOOKS>) -> bool {
    let basic = [Hook::Malloc, Hook::Realloc, Hook::Free];
    basic
        .into_iter()
        .all(|hook| definitions.ahead(hook as usize).is_none())
}
