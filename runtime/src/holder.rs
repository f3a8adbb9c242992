//! Who has taken something that others want: a place, or a turn. Whoever has may never give it back: a handler of a
//! signal may leave the function by siglongjmp, its thread may be cancelled, or it may be a thread of the process
//! that this one was forked from. So what is taken is taken together with the address of a word on the taker's stack
//! that says so, and others believe in it only as long as the word is there.

use core::ptr;
use core::sync::atomic::{AtomicUsize, Ordering::Release};

use crate::memory::Access;
use crate::sys::signal;

/// The word. Aligned, so that its address has bits to spare.
#[repr(align(16))]
pub(crate) struct Holder(AtomicUsize);

impl Holder {
    /// How many of the lowest bits of its address are 0.
    pub(crate) const SPARE: u32 = align_of::<Self>().trailing_zeros();

    /// One that holds nothing yet.
    pub(crate) const fn new() -> Self {
        Self(AtomicUsize::new(0))
    }

    /// Where it lies.
    pub(crate) fn address(&self) -> usize {
        ptr::from_ref(self).expose_provenance()
    }

    /// Says that it holds `what`, which is not 0, or no longer anything.
    #[inline(always)]
    pub(crate) fn set(&self, what: usize) {
        // What was done while it held something was done before.
        self.0.store(what, Release);
    }

    /// Whether the one at `address` is there and holds `what`.
    #[cold]
    #[inline(never)]
    pub(crate) fn is_there(address: usize, what: usize) -> bool {
        Access::Guarded.words(address) == Some([what])
    }

    /// Whether the one of this thread at `address` was left: it lies deeper in the stack than this one.
    #[cold]
    #[inline(never)]
    pub(crate) fn has_left(&self, address: usize) -> bool {
        let on_same_stack = signal::stack().is_none_or(|stack| stack.contains(&address));
        on_same_stack && address <= self.address()
    }
}
