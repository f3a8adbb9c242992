//! Stacks of threads. Nobody lists them: the kernel does not name them, and what it says about a thread's stack
//! pointer (/proc/self/task) is for privileged readers. But libc keeps a thread's control block, which the
//! thread pointer leads to, at the upper end of the thread's stack (glibc, nptl/allocatestack.c; musl,
//! src/thread/pthread_create.c), and a guard without rights at the lower one. So an address lies in a stack if a
//! control block follows further up in the same region.
//!
//! Control blocks are known of the threads that have called a hook, and of the one that asks. One of a thread that
//! never did either is found if its stack is not joined with a region above: glibc's is in the last page, and two
//! of its words are its own address. A thread that has ended leaves its block if libc keeps the stack for the
//! next one.

use crate::counters;
use crate::machine::control_block;
use crate::mapping::maps::Region;
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use crate::{pages, sys};

/// The main thread's control block, which is in no stack; and neither is the main thread's stack here.
#[unsafe(link_section = ".data")]
static MAIN: AtomicUsize = AtomicUsize::new(0);

/// Notes the thread that init runs on.
pub(crate) fn note_main() {
    MAIN.store(sys::thread_pointer(), Relaxed);
}

/// Where the stack ends that contains `address`, which lies in `region`, memory for reading and writing.
pub(crate) fn limit(address: usize, region: &Region) -> Option<usize> {
    let is_above = |block: &usize| *block < region.end && page_end(*block) > address;
    let known = counters::thread_pointers()
        .chain([sys::thread_pointer()])
        .filter(is_above)
        .filter(|block| *block != MAIN.load(Relaxed))
        .filter(|block| control_block::is_one(*block))
        .min();
    known.or_else(|| block_at_end(region)).map(page_end)
}

/// A control block is less than a page, at the end of the last one.
fn page_end(block: usize) -> usize {
    pages::end(block.saturating_add(1))
}

/// A control block of glibc's in the last page.
fn block_at_end(region: &Region) -> Option<usize> {
    let page = region.end.checked_sub(pages::size())?;
    control_block::within(page, region.end).find(|block| *block != MAIN.load(Relaxed))
}
