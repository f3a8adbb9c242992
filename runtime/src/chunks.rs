//! The live chunks of the program's allocator: the index of their beginnings and the record that each has.

use core::mem::MaybeUninit;
use core::sync::atomic::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

use crate::holder::Holder;
use crate::hook::Hook;
use crate::index::readers::Reader;
use crate::index::{Index, LARGE, Mark};
use crate::next::{self, Next};
use crate::record::{self, RECORD, Record};
use crate::site::Site;

static CHUNKS: Index<false> = Index::new();

/// Where chunks begin, at multiples of this: one mark stands for so many addresses.
const GRAIN: usize = 16;

/// Enters `chunk`, which the allocator has just made and for which the program asked for `size` bytes. It stays
/// unknown if there is no memory for its mark, or if the allocator does not say how large it is.
#[inline]
pub(crate) fn enter(next: Next, chunk: usize, size: usize, site: Site) -> bool {
    let Some(mark) = mark(chunk).or_else(|| first_in_region(chunk)) else {
        return false;
    };
    let capacity = next.capacity(chunk);
    // SAFETY: the chunk is the caller's, of that capacity, and asked for with room.
    if !unsafe { record::write(chunk, capacity, size, site) } {
        return false;
    }
    CHUNKS.note_large(chunk, chunk.wrapping_add(capacity));
    mark.set();
    true
}

/// The same for one of glibc's that is small, has its mark at hand, and comes from glibc's heap; says whether there is
/// no other thread. `None` if it is another one.
#[inline(always)]
pub(crate) fn enter_small(chunk: usize, size: usize, site: Site) -> Option<bool> {
    let mark = CHUNKS.mark_at_hand(chunk)?;
    let capacity = small_capacity(chunk)?;
    // SAFETY: the chunk is the caller's, of that capacity, and asked for with room.
    let is_written = unsafe { record::write(chunk, capacity, size, site) };
    is_written.then(|| mark.set())
}

/// The mark for the beginning of `chunk`. Not for an address that shares it with a chunk's beginning: the program
/// may, by mistake, give back any.
#[inline(always)]
fn mark(chunk: usize) -> Option<Mark> {
    if chunk.is_multiple_of(GRAIN) {
        CHUNKS.mark(chunk)
    } else {
        None
    }
}

/// Makes the marks of a region, and looks at the way in which capacities are read.
#[cold]
#[inline(never)]
fn first_in_region(chunk: usize) -> Option<Mark> {
    if !chunk.is_multiple_of(GRAIN) {
        return None;
    }
    next::check_header(chunk);
    CHUNKS.make_mark(chunk)
}

/// Takes `chunk` out, which is about to be given back, and says what was known of it. `None` if it is no chunk
/// that was entered, or no longer one.
#[inline]
pub(crate) fn leave(next: Next, chunk: usize) -> Option<Record> {
    let mark = mark(chunk).filter(|mark| mark.is_set())?;
    let capacity = next.capacity(chunk);
    // SAFETY: the chunk is marked, so it is alive and has a record.
    let record = unsafe { record_of(chunk, capacity) };
    CHUNKS.forget_large(chunk, chunk.wrapping_add(capacity));
    if !mark.clear() {
        mark.wait();
    }
    record
}

/// The record of `chunk`. `None` if it has become larger than it was made: then the program has written over what
/// the allocator keeps in front of it, and the allocator will say so.
///
/// # Safety
/// As for [`record::read`].
#[inline(always)]
unsafe fn record_of(chunk: usize, capacity: usize) -> Option<Record> {
    if capacity >= LARGE && !CHUNKS.is_large(chunk) {
        return None;
    }
    // SAFETY: as the caller says.
    unsafe { record::read(chunk, capacity) }
}

/// The mark of `chunk`, if it is one of glibc's that was entered and is small: there is nothing else to take out.
#[inline(always)]
pub(crate) fn small(chunk: usize) -> Option<Mark> {
    if !chunk.is_multiple_of(GRAIN) {
        return None;
    }
    let mark = CHUNKS.mark_at_hand(chunk).filter(|mark| mark.is_set())?;
    small_capacity(chunk)?;
    Some(mark)
}

/// How large a chunk of glibc's heap is, if it is small.
#[inline(always)]
fn small_capacity(chunk: usize) -> Option<usize> {
    next::small_header_capacity::<LARGE>(chunk)
}

/// How much of `chunk` the program may use, for which the allocator says `capacity`.
pub(crate) fn usable_size(chunk: usize, capacity: usize) -> usize {
    match mark(chunk).filter(|mark| mark.is_set()) {
        Some(_) => capacity.saturating_sub(RECORD),
        None => capacity,
    }
}

/// A live chunk.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) base: usize,
    pub(crate) record: Record,
}

impl Chunk {
    /// The first address behind what the program may use. Chunks without a usable byte have one address.
    pub(crate) fn limit(&self) -> usize {
        self.base.wrapping_add(self.record.usable_size.max(1))
    }
}

/// The live chunk that contains `address`.
pub(crate) fn at(address: usize) -> Option<Chunk> {
    let base = CHUNKS.at_or_below(address)?;
    let next = next::of(Hook::Malloc)?;
    let mark = CHUNKS.mark(base)?;
    let holder = Holder::new();
    let _reader = Reader::hold(&holder, mark.word())?;
    if !mark.is_set() {
        return None;
    }
    // SAFETY: the chunk is marked, and the reader keeps it so.
    let record = unsafe { record_of(base, next.capacity(base)) }?;
    Some(Chunk { base, record }).filter(|chunk| address < chunk.limit())
}

/// Whether any chunk begins from `begin` on and before `end`.
pub(crate) fn are_in(begin: usize, end: usize) -> bool {
    CHUNKS.words(begin, end).any(|(first, word)| {
        let bits = word.load(Relaxed);
        (0..u64::BITS as usize)
            .filter(|bit| bits >> bit & 1 == 1)
            .any(|bit| (begin..end).contains(&first.wrapping_add(bit * GRAIN)))
    })
}

/// Shows `visit` the live chunks that begin from `begin` on and before `end`, until it returns false. Whatever
/// lives all the while is shown once, what comes or goes meanwhile once or not at all; `visit` may do both.
/// Chunks are in the order of their addresses within 64 MiB. False if `visit` has ended it.
pub(crate) fn walk(begin: usize, end: usize, mut visit: impl FnMut(Chunk) -> bool) -> bool {
    let within = |chunk: &Chunk| (begin..end).contains(&chunk.base);
    CHUNKS
        .words(begin, end)
        .all(|(first, word)| chunks_in(first, word, |chunk| !within(&chunk) || visit(chunk)))
}

/// Shows `visit` the chunks of one word of marks; `first` is the address of its first mark. They are noted
/// down first, since `visit` may free them, and take its time.
fn chunks_in(first: usize, word: &'static AtomicU64, mut visit: impl FnMut(Chunk) -> bool) -> bool {
    let mut noted = [const { MaybeUninit::<Chunk>::uninit() }; u64::BITS as usize];
    let mut free = noted.iter_mut();
    let holder = Holder::new();
    if let (Some(_reader), Some(next)) = (Reader::hold(&holder, word), next::of(Hook::Malloc)) {
        let mut marks = word.load(SeqCst);
        while marks != 0 {
            let base = first.wrapping_add((marks.trailing_zeros() as usize) << 4);
            marks &= marks.wrapping_sub(1);
            // SAFETY: the chunk is marked, and the reader keeps it so.
            let record = unsafe { record_of(base, next.capacity(base)) };
            // A place is taken only for what is written there.
            if let Some(record) = record
                && let Some(place) = free.next()
            {
                place.write(Chunk { base, record });
            }
        }
    }
    let left = free.len();
    let count = noted.len().wrapping_sub(left);
    noted.iter().take(count).all(|chunk| {
        // SAFETY: the first `count` were written.
        visit(unsafe { chunk.assume_init() })
    })
}
