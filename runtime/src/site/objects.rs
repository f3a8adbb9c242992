//! The objects in which call sites were seen, with what is needed to tell about another one. To find an
//! object in the loader's list takes far longer.

use crate::file;
use crate::memory::{Access, Mapped};
use crate::site::names;
use crate::sync::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};

/// How many are remembered. Names of further ones are not read.
const OBJECTS: usize = 256;
/// Words of an object's beginning by which it is known again: ELF header and program headers.
const BEGINNING: usize = 64;

/// What is known of one object.
#[derive(Clone, Copy)]
pub(crate) struct Object {
    /// The table by which .eh_frame is searched, and its size.
    pub(crate) unwind_table: Mapped,
    pub(crate) unwind_table_size: usize,
    /// Whether all of its functions are facades.
    pub(crate) all_facades: bool,
}

/// One that is remembered.
struct Known {
    begin: AtomicUsize,
    /// 0 until all is set.
    end: AtomicUsize,
    unwind_table: AtomicUsize,
    unwind_table_size: AtomicUsize,
    all_facades: AtomicUsize,
    /// Of one that may be unloaded: what its beginning adds up to. Else 0.
    sum: AtomicUsize,
}

static KNOWN: [Known; OBJECTS] = [const {
    Known {
        begin: AtomicUsize::new(0),
        end: AtomicUsize::new(0),
        unwind_table: AtomicUsize::new(0),
        unwind_table_size: AtomicUsize::new(0),
        all_facades: AtomicUsize::new(0),
        sum: AtomicUsize::new(0),
    }
}; OBJECTS];
static COUNT: AtomicUsize = AtomicUsize::new(0);

/// The object that contains `address`. `None` if there is none, or if it cannot be unwound.
pub(crate) fn find(address: usize) -> Option<Object> {
    let known = KNOWN.iter().take(COUNT.load(Relaxed));
    let mut here = known.filter(|known| known.contains(address));
    here.find(|known| known.is_still_loaded())
        .map(Known::object)
        .or_else(|| look_for(address))
}

#[cold]
#[inline(never)]
fn look_for(address: usize) -> Option<Object> {
    let object = file::object_of(address)?;
    let (unwind_table, unwind_table_size) = object.unwind_table()?;
    let mut found = Object {
        unwind_table,
        unwind_table_size,
        all_facades: false,
    };
    let next = |count: usize| Some(count.wrapping_add(1)).filter(|next| *next <= OBJECTS);
    let index = COUNT.fetch_update(Relaxed, Relaxed, next).ok();
    if let Some(known) = index.and_then(|index| KNOWN.get(index)) {
        found.all_facades = names::are_all_facades(&object);
        let sum = if object.stays() {
            0
        } else {
            sum(object.begin)?
        };
        known.begin.store(object.begin, Relaxed);
        known.unwind_table.store(unwind_table.address(), Relaxed);
        known.unwind_table_size.store(unwind_table_size, Relaxed);
        known
            .all_facades
            .store(usize::from(found.all_facades), Relaxed);
        known.sum.store(sum, Relaxed);
        known.end.store(object.end, Release);
    }
    Some(found)
}

impl Known {
    fn contains(&self, address: usize) -> bool {
        address < self.end.load(Acquire) && address >= self.begin.load(Relaxed)
    }

    /// Whether the object is there, or one with the same segments.
    fn is_still_loaded(&self) -> bool {
        let sum = self.sum.load(Relaxed);
        sum == 0 || self::sum(self.begin.load(Relaxed)) == Some(sum)
    }

    fn object(&self) -> Object {
        Object {
            // SAFETY: the object that was loaded here has its table there.
            unwind_table: unsafe { Mapped::new(self.unwind_table.load(Relaxed)) },
            unwind_table_size: self.unwind_table_size.load(Relaxed),
            all_facades: self.all_facades.load(Relaxed) != 0,
        }
    }
}

/// What the words of an object's beginning add up to, never 0.
fn sum(begin: usize) -> Option<usize> {
    let words = Access::Loaded.words::<BEGINNING>(begin)?;
    let fold = |sum: usize, word: &usize| sum.rotate_left(7).wrapping_add(*word);
    Some(words.iter().fold(0, fold) | 1)
}
