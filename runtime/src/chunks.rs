//! The live chunks of the program's allocators: the index of their beginnings and the record that each has.

use core::mem::MaybeUninit;

use crate::diverted;
use crate::heap::{self, Heap, PROGRAM};
use crate::holder::Holder;
use crate::index::readers::Reader;
use crate::index::{GRAIN, LARGE, Mark};
use crate::next::{self, Next, Origin, Own};
use crate::record::{self, RECORD, Record};
use crate::site::Site;
use crate::sync::{
    AtomicU64,
    Ordering::{Relaxed, SeqCst},
};
use crate::threads;

/// Enters `chunk`, which the allocator has just made and for which the program asked for `size` bytes. It stays
/// unknown if there is no memory for its mark, or if the allocator does not say how large it is.
#[inline]
pub(crate) fn enter(next: Next, chunk: usize, size: usize, site: Site) -> bool {
    let Some(heap) = next.heap() else {
        return false;
    };
    let Some(mark) = heap
        .chunks
        .mark(chunk)
        .or_else(|| first_in_region(next, heap, chunk))
    else {
        return false;
    };
    if !next.has_records() {
        return enter_beside(next, heap, mark, chunk, size, site);
    }
    let capacity = next.capacity(chunk);
    let Some(usable_size) = capacity.checked_sub(RECORD) else {
        return false;
    };
    // SAFETY: the chunk is the caller's, and of that capacity.
    if !unsafe { record::write(chunk, usable_size, size, site) } {
        return false;
    }
    heap.chunks.note_large(chunk, chunk.wrapping_add(capacity));
    mark.set();
    true
}

/// The same where records are beside the marks.
fn enter_beside(
    next: Next,
    heap: &Heap,
    mark: Mark,
    chunk: usize,
    size: usize,
    site: Site,
) -> bool {
    let Some(place) = heap.chunks.record(chunk) else {
        return false;
    };
    // SAFETY: a chunk that is marked is alive, and so is the caller's.
    let extent = || unsafe { record_of(next, heap, chunk) }.1;
    // The call that made it may be inside of another, which knows better how large it is.
    if mark.is_set() {
        heap.chunks
            .forget_large(chunk, chunk.wrapping_add(extent()));
    }
    place.store(record::word(size, site), Relaxed);
    heap.chunks.note_large(chunk, chunk.wrapping_add(extent()));
    mark.set();
    true
}

/// The same on the shorter way, for one that has its mark and its capacity at hand; says whether there is no other
/// thread. `None` if it is another one.
#[inline(always)]
pub(crate) fn enter_at_hand<O: Origin>(
    origin: O,
    chunk: usize,
    size: usize,
    site: Site,
) -> Option<bool> {
    let index = origin.index()?;
    let mark = index.mark_at_hand(chunk)?;
    let usable_size = origin.usable_size_at_hand(chunk)?;
    // SAFETY: the chunk is the caller's, and that is without its record.
    if !unsafe { record::write(chunk, usable_size, size, site) } {
        return None;
    }
    // Where there are headers, it is not large.
    if !O::HAS_HEADERS {
        index.note_large(chunk, end(chunk, usable_size));
    }
    Some(mark.set())
}

/// Where the record of `chunk` ends, and so the chunk.
fn end(chunk: usize, usable_size: usize) -> usize {
    chunk.wrapping_add(usable_size).wrapping_add(RECORD)
}

/// Makes the marks of a region, and looks at the way in which capacities are read.
#[cold]
#[inline(never)]
fn first_in_region(next: Next, heap: &'static Heap, chunk: usize) -> Option<Mark> {
    // There are allocators whose smallest chunks are like that.
    if !chunk.is_multiple_of(GRAIN) {
        return None;
    }
    if heap.is_programs() {
        next::check_header(chunk);
    } else if !heap.ask_first(|| next.capacity(chunk)) {
        return None;
    }
    heap.chunks.make_mark(chunk, heap.has_records_beside())
}

/// Takes `chunk` out, which is about to be given back, and says what was known of it. `None` if it is no chunk
/// that was entered, or no longer one.
#[inline]
pub(crate) fn leave(next: Next, chunk: usize) -> Option<Record> {
    let heap = next.heap()?;
    let mark = heap.chunks.mark(chunk).filter(|mark| mark.is_set())?;
    // SAFETY: the chunk is marked, so it is alive and has a record.
    let (record, capacity) = unsafe { record_of(next, heap, chunk) };
    heap.chunks
        .forget_large(chunk, chunk.wrapping_add(capacity));
    if !mark.clear() {
        mark.wait();
    }
    record
}

/// The record of `chunk`, and its capacity. No record if it has become larger than it was made: then the program has
/// written over what the allocator keeps in front of it, and the allocator will say so.
///
/// # Safety
/// As for [`record::read`].
#[inline(always)]
unsafe fn record_of(next: Next, heap: &Heap, chunk: usize) -> (Option<Record>, usize) {
    let capacity = next.capacity(chunk);
    if !next.has_records() {
        let record = heap.chunks.record(chunk);
        let record = record.map(|record| record::read_beside(record.load(Relaxed), capacity));
        return (record, record.map_or(0, |record| record.usable_size));
    }
    if capacity >= LARGE && !heap.chunks.is_large(chunk) {
        return (None, capacity);
    }
    let usable_size = capacity.checked_sub(RECORD);
    // SAFETY: as the caller says.
    let record = usable_size.map(|usable_size| unsafe { record::read(chunk, usable_size) });
    (record, capacity)
}

/// The mark of `chunk` on the shorter way, if it was entered and is small: there is nothing else to take out.
#[inline(always)]
pub(crate) fn small<O: Origin>(origin: O, chunk: usize) -> Option<Mark> {
    let mark = small_or_unknown(origin, chunk);
    // Where there are headers, it was looked at.
    mark.filter(|mark| O::HAS_HEADERS || mark.is_set())
}

/// The same; where chunks have no headers, perhaps the mark of one that was not entered, or no longer is: an operator
/// delete has taken it out, and calls free.
#[inline(always)]
pub(crate) fn small_or_unknown<O: Origin>(origin: O, chunk: usize) -> Option<Mark> {
    let index = origin.index()?;
    if !O::HAS_HEADERS {
        return index.small_mark_at_hand(chunk);
    }
    let mark = index.mark_at_hand(chunk).filter(|mark| mark.is_set())?;
    origin.usable_size_at_hand(chunk)?;
    Some(mark)
}

/// The mark of `chunk` on the shorter way, if it was entered, has no header and may be large: there is nothing else left
/// to take out. Its allocator is asked once how large it is.
#[inline(always)]
pub(crate) fn forget_at_hand(origin: impl Origin, chunk: usize) -> Option<Mark> {
    let index = origin.index()?;
    let mark = index.mark_at_hand(chunk).filter(|mark| mark.is_set())?;
    let usable_size = origin.usable_size_at_hand(chunk)?;
    index.forget_large(chunk, end(chunk, usable_size));
    Some(mark)
}

/// How much of `chunk` the program may use, for which the allocator says `capacity`.
pub(crate) fn usable_size(next: Next, chunk: usize, capacity: usize) -> usize {
    if !next.has_records() {
        return capacity;
    }
    let mark = next.heap().and_then(|heap| heap.chunks.mark(chunk));
    match mark.filter(|mark| mark.is_set()) {
        Some(_) => capacity.saturating_sub(RECORD),
        None => capacity,
    }
}

/// A live chunk.
#[derive(Clone, Copy)]
pub(crate) struct Chunk {
    pub(crate) base: usize,
    pub(crate) record: Record,
    pub(crate) heap: &'static Heap,
}

impl Chunk {
    /// The first address behind what the program may use. Chunks without a usable byte have one address.
    pub(crate) fn limit(&self) -> usize {
        self.base.wrapping_add(self.record.usable_size.max(1))
    }
}

/// The live chunk that contains `address`: the innermost, if one allocator has got memory from another.
pub(crate) fn at(address: usize) -> Option<Chunk> {
    heap::all()
        .filter_map(|heap| in_heap(heap, address))
        .max_by_key(|chunk| chunk.base)
}

/// The same, if it is one of glibc's that begins close by, and nobody can give it back meanwhile or have it from
/// another allocator: the usual case of a question, in few instructions.
#[inline(always)]
pub(crate) fn close_at_hand(address: usize) -> Option<Chunk> {
    if !are_at_hand() {
        return None;
    }
    let base = PROGRAM.chunks.close_below(address)?;
    let usable_size = Own.usable_size_at_hand(base)?;
    // SAFETY: the chunk is marked, so it is alive, and there is no other thread.
    let record = unsafe { record::read(base, usable_size) };
    let heap = &PROGRAM;
    Some(Chunk { base, record, heap }).filter(|chunk| address < chunk.limit())
}

/// The same, wherever it begins.
pub(crate) fn at_hand(address: usize) -> Option<Chunk> {
    if !are_at_hand() {
        return None;
    }
    let heap = &PROGRAM;
    let base = heap.chunks.at_or_below(address)?;
    if !heap.chunks.mark(base)?.is_set() {
        return None;
    }
    // SAFETY: the chunk is marked, so it is alive, and there is no other thread.
    let record = unsafe { record_of(heap.next()?, heap, base) }.0?;
    Some(Chunk { base, record, heap }).filter(|chunk| address < chunk.limit())
}

/// Whether all chunks are glibc's, and there is no other thread.
#[inline(always)]
fn are_at_hand() -> bool {
    next::headers_are_known() && threads::is_single() && !diverted::are_there()
}

/// The live chunk of `heap` that contains `address`.
#[inline]
fn in_heap(heap: &'static Heap, address: usize) -> Option<Chunk> {
    let base = heap.chunks.at_or_below(address)?;
    let next = heap.next()?;
    let mark = heap.chunks.mark(base)?;
    let holder = Holder::new();
    let _reader = Reader::hold(&holder, mark.word())?;
    if !mark.is_set() {
        return None;
    }
    // SAFETY: the chunk is marked, and the reader keeps it so.
    let record = unsafe { record_of(next, heap, base) }.0?;
    let chunk = Chunk { base, record, heap };
    Some(chunk).filter(|chunk| address < chunk.limit())
}

/// Whether any chunk begins from `begin` on and before `end`.
pub(crate) fn are_in(begin: usize, end: usize) -> bool {
    let mut words = heap::all().flat_map(|heap| heap.chunks.words(begin, end));
    words.any(|(first, word)| {
        let bits = word.load(Relaxed);
        (0..u64::BITS as usize)
            .filter(|bit| bits >> bit & 1 == 1)
            .any(|bit| (begin..end).contains(&first.wrapping_add(bit * GRAIN)))
    })
}

/// Shows `visit` the live chunks of `heap` that begin from `begin` on and before `end`, until it returns false. Whatever
/// lives all the while is shown once, what comes or goes meanwhile once or not at all; `visit` may do both.
/// Chunks are in the order of their addresses within 64 MiB. False if `visit` has ended it.
pub(crate) fn walk(
    heap: &'static Heap,
    begin: usize,
    end: usize,
    mut visit: impl FnMut(Chunk) -> bool,
) -> bool {
    let mut visit = |chunk: Chunk| !(begin..end).contains(&chunk.base) || visit(chunk);
    let mut words = heap.chunks.words(begin, end);
    words.all(|(first, word)| chunks_in(heap, first, word, &mut visit))
}

/// Shows `visit` the chunks of one word of marks; `first` is the address of its first mark. They are noted
/// down first, since `visit` may free them, and take its time.
fn chunks_in(
    heap: &'static Heap,
    first: usize,
    word: &'static AtomicU64,
    visit: &mut impl FnMut(Chunk) -> bool,
) -> bool {
    let mut noted = [const { MaybeUninit::<Chunk>::uninit() }; u64::BITS as usize];
    let mut free = noted.iter_mut();
    let holder = Holder::new();
    if let (Some(_reader), Some(next)) = (Reader::hold(&holder, word), heap.next()) {
        let mut marks = word.load(SeqCst);
        while marks != 0 {
            let base = first.wrapping_add((marks.trailing_zeros() as usize) << 4);
            marks &= marks.wrapping_sub(1);
            // SAFETY: the chunk is marked, and the reader keeps it so.
            let (record, _) = unsafe { record_of(next, heap, base) };
            // A place is taken only for what is written there.
            if let Some(record) = record
                && let Some(place) = free.next()
            {
                place.write(Chunk { base, record, heap });
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
