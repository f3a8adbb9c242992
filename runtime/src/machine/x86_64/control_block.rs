//! What libc keeps of a thread, in a block whose first word is its own address: the thread pointer (glibc,
//! sysdeps/x86_64/nptl/tls.h; musl, src/internal/pthread_impl.h).

use crate::memory::Access;
use crate::sys;

/// Control blocks are aligned to this.
const ALIGNMENT: usize = 64;
/// Words of a control block that are looked at for the thread's number: glibc has it in the 90th, musl in the 6th.
const WORDS: usize = 128;

/// Whether a thread has the thread pointer `block`.
pub(crate) fn is_one(block: usize) -> bool {
    leads_to_itself(block).is_some()
}

/// The thread pointers that there seem to be from `page` on and before `end`: two words of glibc's are the block's own
/// address.
pub(crate) fn within(page: usize, end: usize) -> impl Iterator<Item = usize> {
    (page..end)
        .step_by(ALIGNMENT)
        .filter(|block| leads_to_itself(*block).is_some_and(|[_, _, third]| third == *block))
}

/// The first words of a control block: the first is always its address.
fn leads_to_itself(block: usize) -> Option<[usize; 3]> {
    let words: [usize; 3] = Access::Guarded.words(block)?;
    words
        .first()
        .is_some_and(|first| *first == block)
        .then_some(words)
}

/// The number by which the kernel knows the thread with the thread pointer `thread`; 0 or less if it has ended. It is
/// where the calling thread has its own number.
pub(crate) fn number(thread: usize) -> Option<i32> {
    let own: [usize; WORDS] = Access::Guarded.words(sys::thread_pointer())?;
    let halves = |word: usize| [word & 0xffff_ffff, word >> 32];
    let own_number = sys::thread_id();
    let index = own
        .into_iter()
        .flat_map(halves)
        .position(|half| half == own_number)?;
    let number = Access::Guarded.u32(thread.wrapping_add(index << 2))?;
    Some(number.cast_signed())
}
