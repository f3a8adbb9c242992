//! Readers and those who give memory back. A reader looks at memory that is a live chunk only because its mark
//! is set: at its record, and at what the allocator keeps beside it. Another thread may give that chunk back
//! at any time, and then the memory may be unmapped. So a reader *holds* the word of marks: it writes the word's
//! address where everybody can see it, and looks at the marks again. Whoever clears a mark looks there
//! afterwards and waits. (Dekker's algorithm: each side writes, then reads what the other one writes, in one
//! order for all; or hazard pointers, without deferred reclamation, since nobody may keep a chunk from the
//! program's allocator.)
//!
//! Readers never wait, may be interrupted and may be signal handlers; what they do while they hold a word is
//! short and bounded. Until a program asks its first question, giving memory back costs one test.

use core::hint;
use core::ptr;
use core::sync::atomic::{
    AtomicBool, AtomicU64, AtomicUsize,
    Ordering::{Relaxed, Release, SeqCst},
};

use crate::sys;
use crate::threads;

/// How many words can be held at the same time. Few: whoever gives memory back looks at all of them.
const PLACES: usize = 16;
/// How often whoever waits looks before it sleeps: longer than a reader that runs holds a word.
const SPINS: usize = 1024;
/// How often it sleeps: a second in all, and then no longer believes in the reader.
const SLEEPS: usize = 10_000;

struct Place {
    /// Address of the word that is held; 0 if none is.
    word: AtomicUsize,
    /// Thread pointer of the one who holds it, and where its stack was then.
    thread: AtomicUsize,
    stack: AtomicUsize,
}

static PLACES_HELD: [Place; PLACES] = [const {
    Place {
        word: AtomicUsize::new(0),
        thread: AtomicUsize::new(0),
        stack: AtomicUsize::new(0),
    }
}; PLACES];
/// Whether anybody has ever read.
static USED: AtomicBool = AtomicBool::new(false);
/// The process whose threads hold words.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// A reader, with the place where everybody can see what it holds; without one where there is only one thread, so
/// that nobody can give anything back meanwhile.
pub(crate) struct Reader(Option<&'static Place>);

impl Reader {
    /// Begins to hold `word`. `None` if all places are taken by other readers.
    #[inline]
    pub(crate) fn hold(word: &'static AtomicU64) -> Option<Self> {
        if threads::is_single() {
            return Some(Self(None));
        }
        if !USED.load(SeqCst) {
            PROCESS.store(sys::process_id(), SeqCst);
            USED.store(true, SeqCst);
        }
        let (thread, stack) = (sys::thread_pointer(), sys::stack_pointer());
        let word = ptr::from_ref(word).expose_provenance();
        let home = thread >> 12;
        let place = (0..PLACES)
            .filter_map(|step| PLACES_HELD.get(home.wrapping_add(step) & (PLACES - 1)))
            .find(|place| place.is_taken(word))
            .or_else(|| Self::left_behind(word, thread, stack))?;
        place.thread.store(thread, Relaxed);
        place.stack.store(stack, Relaxed);
        Some(Self(Some(place)))
    }

    /// A place that a handler left taken, and the stack that it was on, by siglongjmp.
    #[cold]
    fn left_behind(word: usize, thread: usize, stack: usize) -> Option<&'static Place> {
        let is_left = |place: &&Place| {
            place.thread.load(SeqCst) == thread && place.stack.load(SeqCst) < stack
        };
        let place = PLACES_HELD.iter().find(is_left)?;
        place.word.store(word, SeqCst);
        Some(place)
    }
}

impl Place {
    /// Takes it for `word`, if it is free.
    #[inline]
    fn is_taken(&self, word: usize) -> bool {
        self.word.load(Relaxed) == 0 && self.word.compare_exchange(0, word, SeqCst, SeqCst).is_ok()
    }
}

impl Drop for Reader {
    #[inline]
    fn drop(&mut self) {
        if let Some(place) = self.0 {
            // The thread first: whoever takes the place next has not said yet who it is.
            place.thread.store(0, Relaxed);
            place.word.store(0, Release);
        }
    }
}

/// Whether anybody may be reading.
#[inline(always)]
pub(crate) fn are_there() -> bool {
    USED.load(SeqCst)
}

/// Waits until no other thread holds `word`, in which a mark was just cleared.
pub(crate) fn wait_for(word: &'static AtomicU64) {
    let word = ptr::from_ref(word).expose_provenance();
    for place in &PLACES_HELD {
        if place.word.load(SeqCst) == word {
            wait_at(place, word);
        }
    }
}

#[cold]
#[inline(never)]
fn wait_at(place: &Place, word: usize) {
    // A reader that this thread has interrupted goes on when this call is over.
    if place.thread.load(SeqCst) == sys::thread_pointer() {
        return;
    }
    for _ in 0..SLEEPS {
        for _ in 0..SPINS {
            if place.word.load(SeqCst) != word {
                return;
            }
            hint::spin_loop();
        }
        // The reader is there and does not run, or it is not there at all.
        let process = sys::process_id();
        if PROCESS.swap(process, SeqCst) != process {
            forget_other_threads();
        }
        sys::sleep_briefly();
    }
    // A handler has left it behind by siglongjmp: no reader takes a microsecond.
    place.word.store(0, SeqCst);
}

/// In the child of a fork, the readers that were other threads of the parent's are not there.
fn forget_other_threads() {
    for place in &PLACES_HELD {
        if place.thread.load(SeqCst) != sys::thread_pointer() {
            place.word.store(0, SeqCst);
        }
    }
}
