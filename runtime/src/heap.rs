//! Heaps: one for each allocator of which the runtime sees the functions. What a heap's index says holds for
//! the chunks of its allocator only, so a chunk is taken out, and asked for its size, where it was entered,
//! whatever other allocator has had the same address before.
//!
//! One is the program's malloc, as the loader would find it behind the runtime. Others are in the executable
//! itself, and have their functions diverted to the runtime (`diverted`).

use core::ptr;

use crate::allocator::Allocator;
use crate::diverted::{self, Table};
use crate::hook::Hook;
use crate::index::Index;
use crate::next::{self, Next};
use crate::sync::{
    AtomicU8,
    Ordering::{AcqRel, Acquire, Release},
};
use crate::sys;

/// The heap of one allocator. All zeros is one without chunks.
pub(crate) struct Heap {
    /// Where its live chunks begin.
    pub(crate) chunks: Index,
    allocator: Allocator,
    /// Whether its allocator was asked how large a chunk is.
    asked: AtomicU8,
}

/// What is in `asked`.
const NEVER: u8 = 0;
const ASKING: u8 = 1;
const ASKED: u8 = 2;

/// That of the program's malloc.
pub(crate) static PROGRAM: Heap = Heap {
    chunks: Index::new(),
    allocator: Allocator::unnamed(),
    asked: AtomicU8::new(NEVER),
};

impl Heap {
    /// Maps one. `None` if there is no memory.
    pub(crate) fn map() -> Option<&'static Self> {
        let memory = sys::map_zeros(size_of::<Self>())?;
        // SAFETY: fresh memory of that size, aligned to a page; all its members are words that may be 0.
        Some(unsafe { &*ptr::with_exposed_provenance(memory) })
    }

    /// Gives back one that nobody else has seen.
    pub(crate) fn unmap(&'static self) {
        let memory = ptr::from_ref(self).expose_provenance();
        // SAFETY: `map` mapped it, and the caller has the only reference, which ends here.
        unsafe { sys::unmap(memory, size_of::<Self>()) };
    }

    /// Whether it is that of the program's malloc.
    #[inline(always)]
    pub(crate) fn is_programs(&'static self) -> bool {
        ptr::eq(self, &raw const PROGRAM)
    }

    /// Who allocates in it.
    pub(crate) fn allocator(&'static self) -> &'static Allocator {
        if self.is_programs() {
            self.allocator.named(c"malloc".as_ptr())
        } else {
            &self.allocator
        }
    }

    /// Says who allocates in it.
    pub(crate) fn name(&'static self, table: Table) {
        self.allocator.named(table.name());
    }

    /// Asks its allocator how large a chunk is, if nobody has yet. False meanwhile: asked for the first time,
    /// gperftools' makes something for itself by operator new, which cannot be asked about.
    pub(crate) fn ask_first(&'static self, ask: impl FnOnce() -> usize) -> bool {
        match self.asked.compare_exchange(NEVER, ASKING, AcqRel, Acquire) {
            Ok(_) => {
                ask();
                self.asked.store(ASKED, Release);
                true
            }
            Err(state) => state == ASKED,
        }
    }

    /// One of its allocator's functions.
    pub(crate) fn next(&'static self) -> Option<Next> {
        if self.is_programs() {
            next::of(Hook::Malloc)
        } else {
            diverted::any_of(self)
        }
    }

    /// Whether its records are beside its marks.
    pub(crate) fn has_records_beside(&'static self) -> bool {
        self.next()
            .is_some_and(|next| next.is_noted() && !next.has_records())
    }

    /// Whether the chunk that begins at `address` is in it.
    #[inline(always)]
    pub(crate) fn has(&'static self, address: usize) -> bool {
        self.chunks.mark(address).is_some_and(|mark| mark.is_set())
    }
}

/// All heaps.
#[inline]
pub(crate) fn all() -> impl Iterator<Item = &'static Heap> {
    [&PROGRAM].into_iter().chain(diverted::heaps())
}

/// Whether the sizes of the chunks of any allocator are known.
pub(crate) fn know_sizes() -> bool {
    all().any(|heap| heap.next().is_some_and(Next::is_noted))
}
