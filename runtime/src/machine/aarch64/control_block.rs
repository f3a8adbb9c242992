//! What libc keeps of a thread, in a block below the thread pointer. glibc's has the thread's number, and behind it the
//! list of its robust mutexes (nptl/descr.h, `struct pthread`: tid, robust_prev, robust_head): two words that are the
//! second one's address, unless the thread holds such a mutex. How large the block is depends on the version. musl's
//! has no such words: its threads' stacks are not known.

use crate::memory::Access;
use crate::sys;

/// Thread pointers are aligned to this.
const ALIGNMENT: usize = 16;
/// How far below the thread pointer the list is at most, and how many bytes are looked at at a time.
const FARTHEST: usize = 4096;
const PART: usize = 256;
const WORD: usize = size_of::<usize>();

/// Whether a thread has the thread pointer `block`.
pub(crate) fn is_one(block: usize) -> bool {
    list(block).is_some()
}

/// The thread pointers that there seem to be from `page` on and before `end`.
pub(crate) fn within(page: usize, end: usize) -> impl Iterator<Item = usize> {
    let own = sys::thread_pointer();
    let distance = list(own).map(|list| own.wrapping_sub(list));
    (page..end)
        .step_by(ALIGNMENT)
        .filter(move |block| distance.is_some_and(|distance| is_list(block.wrapping_sub(distance))))
}

/// The number by which the kernel knows the thread with the thread pointer `thread`; 0 or less if it has ended.
pub(crate) fn number(thread: usize) -> Option<i32> {
    let number = |thread| Access::Guarded.u32(list(thread)?.wrapping_sub(2 * WORD));
    let is_known = number(sys::thread_pointer())? as usize == sys::thread_id();
    is_known
        .then(|| number(thread))?
        .map(|number| number.cast_signed())
}

/// Where the list of robust mutexes begins of the thread with that thread pointer.
fn list(thread: usize) -> Option<usize> {
    // From the thread pointer down: what is below the block is not always mapped.
    let parts = (1..=FARTHEST / PART).map(|part| thread.wrapping_sub(part * PART));
    parts
        .map_while(|part| Some((part, Access::Guarded.words::<{ PART / WORD }>(part)?)))
        .find_map(|(part, words)| {
            let places = (0..words.len()).map(|index| part.wrapping_add(index * WORD));
            places
                .zip(words)
                .find(|(place, word)| place == word && is_list(*place))
        })
        .map(|(place, _)| place)
}

fn is_list(place: usize) -> bool {
    let words: Option<[usize; 2]> = Access::Guarded.words(place.wrapping_sub(WORD));
    words == Some([place; 2])
}
