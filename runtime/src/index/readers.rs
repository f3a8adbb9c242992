//! Readers and those who give memory back. A reader looks at memory that is a live chunk only because its mark
//! is set: at its record, and at what the allocator keeps beside it. Another thread may give that chunk back
//! at any time, and then the memory may be unmapped. So a reader *holds* the word of marks: it writes down which
//! one, where everybody can see it, and looks at the marks again. Whoever clears a mark looks there
//! afterwards and waits. (Dekker's algorithm: each side writes, then reads what the other one writes, in one
//! order for all; or hazard pointers, without deferred reclamation, since nobody may keep a chunk from the
//! program's allocator.)
//!
//! Readers never wait, may be interrupted and may be signal handlers; what they do while they hold a word is
//! short and bounded. Until a program asks its first question, giving memory back costs one test.
//!
//! A handler may leave a reader by siglongjmp, at any instruction. Then the place stays taken, but who took it is no
//! longer there ([`Holder`]), or the next reader's holder lies where that one's lay: others take the place over, and
//! nobody waits for it. Who took a place and what for is therefore written in one instruction.

use core::hint;
use core::ptr;

use crate::holder::Holder;
use crate::pair::Pair;
use crate::sync::{
    AtomicU64, AtomicUsize,
    Ordering::{Release, SeqCst},
};
use crate::sys::{self, thread};
use crate::threads;

/// How many words can be held at the same time.
const PLACES: usize = 256;
/// How many places are used at first, and how many more when those are all taken. Few, and a power of two: whoever
/// gives memory back looks at all that are used.
const GROUP: usize = 16;
/// How often whoever waits looks before it asks whether the reader is there: longer than one that runs holds a word.
const SPINS: usize = 1024;
/// How often it asks and sleeps: a second in all, and then no longer believes in the reader.
const SLEEPS: usize = 10_000;

/// The thread pointer of who holds a word, and [`Held`]. Free places have what they had when they were given up.
static HELD: [Pair; PLACES] = [const { Pair::new() }; PLACES];
/// How many places are used; none before anybody has read.
static USED: AtomicUsize = AtomicUsize::new(0);
/// The process whose threads hold words.
static PROCESS: AtomicUsize = AtomicUsize::new(0);

/// That a word is held: where the holder lies, a few bits of the word's address, and a number that is another one
/// each time that the place is taken, so that nobody takes one reader for the next.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Held(usize);

impl Held {
    /// Bits of the number.
    const TIMES: u32 = 5;
    /// Bits of the word's address. If two words have the same, somebody waits in vain, for as long as a reader reads.
    const WORD: u32 = 6;
    /// Bits of the holder's address come behind, but for those that are 0: enough for addresses of 57 bits.
    const HOLDER: u32 = Self::TIMES + Self::WORD;

    /// The next one at the place that `self` is at.
    #[inline(always)]
    fn next(self, holder: &Holder, word: &AtomicU64) -> Self {
        let holder = (holder.address() >> Holder::SPARE) << Self::HOLDER;
        let times = self.0.wrapping_add(1) & ((1 << Self::TIMES) - 1);
        Self(holder | Self::of_word(word) << Self::TIMES | times)
    }

    #[inline(always)]
    fn of_word(word: &AtomicU64) -> usize {
        (ptr::from_ref(word).expose_provenance() >> 3) & ((1 << Self::WORD) - 1)
    }

    /// What stays when it is given up.
    #[inline(always)]
    fn given_up(self) -> Self {
        Self(self.0 & ((1 << Self::TIMES) - 1))
    }

    #[inline(always)]
    fn holder(self) -> usize {
        (self.0 >> Self::HOLDER) << Holder::SPARE
    }

    #[inline(always)]
    fn is_free(self) -> bool {
        self.0 >> Self::HOLDER == 0
    }

    /// Whether it may be about `word`.
    fn may_be(self, word: &AtomicU64) -> bool {
        !self.is_free() && (self.0 >> Self::TIMES) & ((1 << Self::WORD) - 1) == Self::of_word(word)
    }

    /// Whether its reader is there.
    fn is_believed(self) -> bool {
        Holder::is_there(self.holder(), self.0)
    }
}

/// A reader, with the place where everybody can see what it holds; without one where there is only one thread, so
/// that nobody can give anything back meanwhile.
pub(crate) struct Reader<'a>(Option<(&'a Holder, &'static Pair, Held)>);

impl<'a> Reader<'a> {
    /// Begins to hold `word`. `None` if all places are taken by other readers.
    #[inline]
    pub(crate) fn hold(holder: &'a Holder, word: &'static AtomicU64) -> Option<Self> {
        if threads::is_single() {
            return Some(Self(None));
        }
        let thread = sys::thread_pointer();
        let home = HELD.get((thread >> 12) & (GROUP - 1))?;
        if USED.load(SeqCst) != 0
            && let Some(held) = take(home, thread, holder, word, Held::is_free)
        {
            return Some(Self(Some((holder, home, held))));
        }
        Self::elsewhere(thread, holder, word)
    }

    /// The same where the first place is taken.
    #[cold]
    #[inline(never)]
    fn elsewhere(thread: usize, holder: &'a Holder, word: &'static AtomicU64) -> Option<Self> {
        let in_used = |can: fn(Held, usize) -> bool| {
            used().iter().find_map(|place| {
                let can = |held| can(held, holder.address());
                let held = take(place, thread, holder, word, can)?;
                Some(Self(Some((holder, place, held))))
            })
        };
        // No two holders lie in the same place.
        in_used(|held, here| held.is_free() || held.holder() == here)
            .or_else(|| {
                note_process();
                in_used(|held, _| held.is_free() || !held.is_believed())
            })
            .or_else(|| {
                USED.fetch_max(used().len().wrapping_add(GROUP).min(PLACES), SeqCst);
                in_used(|held, _| held.is_free())
            })
    }
}

/// Takes `place` to hold `word`, if it `can` be taken from whoever has it.
#[inline(always)]
fn take(
    place: &Pair,
    thread: usize,
    holder: &Holder,
    word: &AtomicU64,
    can: impl Fn(Held) -> bool,
) -> Option<Held> {
    let [owner, before] = place.load();
    let before = Held(before);
    if !can(before) {
        return None;
    }
    let held = before.next(holder, word);
    holder.set(held.0);
    place
        .change([owner, before.0], [thread, held.0])
        .then_some(held)
}

impl Drop for Reader<'_> {
    #[inline]
    fn drop(&mut self) {
        if let Some((holder, place, held)) = self.0 {
            // Unless others have given it up.
            if place.second.load(SeqCst) == held.0 {
                place.second.store(held.given_up().0, Release);
            }
            holder.set(0);
        }
    }
}

/// Whether anybody may be reading.
#[inline(always)]
pub(crate) fn are_there() -> bool {
    USED.load(SeqCst) != 0
}

fn used() -> &'static [Pair] {
    HELD.get(..USED.load(SeqCst)).unwrap_or_default()
}

/// Waits until no other thread holds `word`, in which a mark was just cleared.
pub(crate) fn wait_for(word: &'static AtomicU64) {
    for place in used() {
        let held = Held(place.second.load(SeqCst));
        if held.may_be(word) {
            wait_at(place, held);
        }
    }
}

#[cold]
#[inline(never)]
fn wait_at(place: &Pair, held: Held) {
    let owner = place.first.load(SeqCst);
    // A reader that this thread has interrupted goes on when this call is over.
    if owner == sys::thread_pointer() {
        return;
    }
    for _ in 0..SLEEPS {
        for _ in 0..SPINS {
            if place.second.load(SeqCst) != held.0 {
                return;
            }
            hint::spin_loop();
        }
        // The reader is there and does not run, or it is not there at all: it does not wait for anything.
        note_process();
        let waits_outside = |stack| stack > held.holder();
        if !held.is_believed() || thread::stack_pointer_of(owner).is_some_and(waits_outside) {
            break;
        }
        sys::sleep_briefly();
    }
    // No reader takes a second.
    give_up(place, [owner, held.0]);
}

fn give_up(place: &Pair, [owner, held]: [usize; 2]) {
    place.change([owner, held], [owner, Held(held).given_up().0]);
}

/// In the child of a fork, the readers that were other threads of the parent's are not there, although their
/// stacks are.
fn note_process() {
    let process = sys::process_id();
    if PROCESS.swap(process, SeqCst) == process {
        return;
    }
    for place in used() {
        let [owner, held] = place.load();
        if owner != sys::thread_pointer() {
            give_up(place, [owner, held]);
        }
    }
}

#[cfg(test)]
mod tests {
    use core::sync::atomic::AtomicBool;

    use super::*;
    use crate::index::Mark;
    use crate::sync;

    const RUNS: u64 = 1000;

    /// Two threads read a chunk, beginning with the first reader of all; one gives it back, and gets it again.
    #[test]
    fn nothing_is_given_back_while_somebody_reads_it() {
        static WORD: AtomicU64 = AtomicU64::new(1);
        static IS_THERE: AtomicBool = AtomicBool::new(true);
        let mark = Mark {
            word: &WORD,
            bit: 1,
        };
        let read = |seed: u64| {
            for _ in 0..2 {
                let holder = Holder::new();
                let reader = Reader::hold(&holder, &WORD);
                if reader.is_some() && mark.is_set() {
                    for _ in 0..10 {
                        sync::step();
                        assert!(IS_THERE.load(SeqCst), "seed {seed}");
                    }
                }
            }
        };
        let give_back = || {
            for _ in 0..2 {
                if !mark.clear() {
                    mark.wait();
                }
                IS_THERE.store(false, SeqCst);
                sync::step();
                IS_THERE.store(true, SeqCst);
                mark.set();
            }
        };
        for seed in 0..RUNS {
            USED.store(0, SeqCst);
            sync::interleave(seed, &[&|| read(seed), &give_back, &|| read(seed)]);
        }
    }
}
