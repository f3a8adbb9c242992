//! Allocators in the executable itself. Calls of their functions do not go through the loader's search for a
//! symbol, so the rewriter diverts the functions: each begins with a jump to an entry that leads here, with the
//! address of a table in r11. The table says where the *continuations* are, code that does what the functions
//! did; so they are what is next.
//!
//! ```text
//!  program ─call─▶ malloc: jmp entry ─▶ entry: r11 = table ─▶ allocs_divert_malloc ─▶ hooks ─▶ continuation
//! ```
//!
//! A table holds, in words: the distance to the allocator's first table; the distances to the continuations, in
//! the order of [`Hook`], then those of `operators`; the allocator's name. 0 stands for what it does not have.

use core::ffi::c_char;
use core::mem;
use core::ptr;

use crate::counters;
#[cfg(target_arch = "x86_64")]
use crate::heap;
use crate::heap::Heap;
use crate::hook::Hook;
use crate::index::Index;
use crate::memory::Mapped;
use crate::next::{self, Next, Origin};
#[cfg(target_arch = "x86_64")]
use crate::record::request;
use crate::record::{RECORD, padded};
use crate::sync::{
    AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire},
};

/// Words of a table in front of the continuations, and continuations.
const HEADER: usize = 1;
const SLOTS: usize = 37;
/// Size of a word.
const WORD: usize = size_of::<usize>();

/// One table, by its address.
#[derive(Clone, Copy, PartialEq, Eq)]
#[repr(transparent)]
pub(crate) struct Table(usize);

impl Table {
    fn word(self, index: usize) -> Mapped {
        // SAFETY: read-only data of the executable's.
        unsafe { Mapped::new(self.0.wrapping_add(index.wrapping_mul(WORD))) }
    }

    /// The continuation with that number.
    #[inline(always)]
    pub(crate) fn continuation(self, slot: usize) -> Option<usize> {
        let distance = self.word(slot.wrapping_add(HEADER)).word();
        (distance != 0).then(|| self.0.wrapping_add(distance))
    }

    /// The allocator's first table.
    fn first(self) -> Self {
        Self(self.0.wrapping_add(self.word(0).word()))
    }

    /// The allocator's name.
    pub(crate) fn name(self) -> *const c_char {
        ptr::with_exposed_provenance(self.word(HEADER + SLOTS).address())
    }

    /// How much the allocator is asked for, for a chunk of `size` bytes.
    #[cfg(target_arch = "x86_64")] // where the rewriter diverts functions
    pub(crate) fn request(self, size: usize) -> usize {
        let sizes = self.continuation(Hook::MallocUsableSize as usize);
        request(size, sizes.is_some())
    }

    /// The continuation with that number, as what is next.
    #[inline(always)]
    pub(crate) fn next_at(self, slot: usize) -> Option<Next> {
        let function = self.continuation(slot)?;
        let sizes = self.continuation(Hook::MallocUsableSize as usize);
        Some(Next::of_heap(heap(self), function, sizes.unwrap_or(0)))
    }

    /// The same, if the shorter way can be gone: if nothing is counted, it is the table that was known first, and the
    /// allocator says how large its chunks are.
    #[inline(always)]
    pub(crate) fn direct_at(self, slot: usize) -> Option<Next> {
        let known = KNOWN.first()?;
        if counters::are_running() || known.table.load(Acquire) != self.0 {
            return None;
        }
        let heap = known.heap()?;
        let sizes = self.continuation(Hook::MallocUsableSize as usize)?;
        Some(Next::of_heap(Some(heap), self.continuation(slot)?, sizes))
    }

    /// The same, if there is no other table, and if the program's malloc has not made `chunk`.
    #[cfg(target_arch = "x86_64")] // where the rewriter diverts functions
    #[inline(always)]
    pub(crate) fn only_direct_at(self, slot: usize, chunk: usize) -> Option<Next> {
        let is_only = KNOWN.get(1)?.table.load(Acquire) == 0;
        (is_only && !heap::PROGRAM.has(chunk)).then(|| self.direct_at(slot))?
    }
}

impl Origin for Table {
    /// The continuation of `hook`.
    #[inline(always)]
    fn next(self, hook: Hook) -> Option<Next> {
        self.next_at(hook as usize)
    }

    #[inline(always)]
    fn direct(self, hook: Hook) -> Option<Next> {
        self.direct_at(hook as usize)
    }

    #[inline(always)]
    fn index(self) -> Option<&'static Index> {
        Some(&KNOWN.first()?.heap()?.chunks)
    }

    #[inline(always)]
    fn request_at_hand(self, size: usize) -> Option<usize> {
        Some(padded(size))
    }

    #[inline(always)]
    fn usable_size_at_hand(self, chunk: usize) -> Option<usize> {
        let sizes = self.continuation(Hook::MallocUsableSize as usize)?;
        // SAFETY: that is the type of what the continuation does.
        let ask: extern "C" fn(usize) -> usize = unsafe { mem::transmute(sizes) };
        ask(chunk).checked_sub(RECORD)
    }
}

/// A table that a function was called with, and the heap of its allocator, once that was mapped.
struct Known {
    table: AtomicUsize,
    heap: AtomicPtr<Heap>,
}

/// How many tables there can be. The chunks of others are not noted.
const MOST: usize = 32;

static KNOWN: [Known; MOST] = [const {
    Known {
        table: AtomicUsize::new(0),
        heap: AtomicPtr::new(ptr::null_mut()),
    }
}; MOST];

impl Known {
    #[inline(always)]
    fn heap(&self) -> Option<&'static Heap> {
        // SAFETY: null, or a heap that was whole before its address was stored there, and that stays.
        unsafe { self.heap.load(Acquire).as_ref() }
    }

    fn table(&self) -> Option<Table> {
        Some(Table(self.table.load(Acquire))).filter(|table| table.0 != 0)
    }
}

/// The heap of the allocator of `table`.
#[inline(always)]
fn heap(table: Table) -> Option<&'static Heap> {
    let known = KNOWN.first()?;
    if known.table.load(Acquire) == table.0
        && let Some(heap) = known.heap()
    {
        return Some(heap);
    }
    other_heap(table)
}

/// The same, if it is not that of the table that was known first.
#[inline(never)]
fn other_heap(table: Table) -> Option<&'static Heap> {
    let known = KNOWN
        .iter()
        .find(|known| known.table.load(Acquire) == table.0);
    known
        .and_then(Known::heap)
        .or_else(|| note(table.first()).and_then(|heap| note_as(table, heap)))
}

/// Notes an allocator's first table. `None` if there is no memory or no place for it.
#[cold]
#[inline(never)]
fn note(first: Table) -> Option<&'static Heap> {
    #[cfg(not(test))]
    crate::relocate::relocate();
    // Finds out, too, who says whether there are other threads.
    next::of(Hook::Malloc);
    if let Some(heap) = known_as(first)?.heap() {
        return Some(heap);
    }
    let heap = Heap::map()?;
    heap.name(first);
    let noted = note_as(first, heap)?;
    if !ptr::eq(noted, heap) {
        heap.unmap();
    }
    Some(noted)
}

/// The place of `table`, which it takes if it has none.
fn known_as(table: Table) -> Option<&'static Known> {
    KNOWN.iter().find(|known| {
        let before = known.table.compare_exchange(0, table.0, AcqRel, Acquire);
        before.is_ok() || before == Err(table.0)
    })
}

/// Notes that the heap of `table` is this, unless another thread was first. The one that was noted.
fn note_as(table: Table, heap: &'static Heap) -> Option<&'static Heap> {
    let known = known_as(table)?;
    let heap = ptr::from_ref(heap).cast_mut();
    let _ = known
        .heap
        .compare_exchange(ptr::null_mut(), heap, AcqRel, Acquire);
    known.heap()
}

/// The tables that are first, each with the heap of its allocator.
fn first_tables() -> impl Iterator<Item = (Table, &'static Heap)> {
    KNOWN
        .iter()
        .map_while(|known| Some((known.table()?, known)))
        .filter(|(table, _)| *table == table.first())
        .filter_map(|(table, known)| Some((table, known.heap()?)))
}

/// Whether any function of an allocator in the executable was called.
#[inline(always)]
pub(crate) fn are_there() -> bool {
    KNOWN.first().is_some_and(|known| known.table().is_some())
}

/// The heaps of the executable's own allocators.
pub(crate) fn heaps() -> impl Iterator<Item = &'static Heap> {
    first_tables().map(|(_, heap)| heap)
}

/// One of the functions of the allocator of `heap`.
pub(crate) fn any_of(heap: &'static Heap) -> Option<Next> {
    let (table, _) = first_tables().find(|(_, other)| ptr::eq(*other, heap))?;
    (0..SLOTS).find_map(|slot| table.next_at(slot))
}
