//! What a site's number stands for: one return address, or a list of them.

use core::iter;
use core::ptr;

use crate::sync::{AtomicUsize, Ordering::Acquire, Ordering::Relaxed, Ordering::Release};
use crate::sys;

/// Numbers are smaller.
pub(crate) const LIMIT: usize = 1 << 23;
/// How many numbers the first segment has; each further one has as many as all before it.
const FIRST: usize = 1 << 9;
const SEGMENTS: usize = 14;
const WORD: usize = size_of::<usize>();
/// Marks the address of a list.
const LIST: usize = 1 << 63;
/// Room for lists that is got at once.
const BLOCK: usize = 1 << 18;

static TAKEN: AtomicUsize = AtomicUsize::new(0);
/// What the first numbers stand for.
static MEANINGS: [AtomicUsize; FIRST] = [const { AtomicUsize::new(0) }; FIRST];
/// Where the further segments lie.
static FURTHER: [AtomicUsize; SEGMENTS] = [const { AtomicUsize::new(0) }; SEGMENTS];
/// Where lists are written: the block. Its first word is the number of bytes taken.
static LISTS: AtomicUsize = AtomicUsize::new(0);

/// How many numbers were given out; they begin with 1. One or the other may stand for nothing.
pub(crate) fn taken() -> u32 {
    u32::try_from(TAKEN.load(Relaxed)).unwrap_or_default()
}

/// A number for `meaning`.
fn take(meaning: usize) -> Option<u32> {
    let next = |taken: usize| Some(taken.wrapping_add(1)).filter(|next| *next < LIMIT);
    let number = TAKEN
        .fetch_update(Acquire, Relaxed, next)
        .ok()?
        .wrapping_add(1);
    let Some(place) = place(number, true) else {
        give_back(number as u32);
        return None;
    };
    place.store(meaning, Release);
    u32::try_from(number).ok()
}

/// A number for the return address.
pub(crate) fn of_address(address: usize) -> Option<u32> {
    take(address)
}

/// A number for the return addresses.
pub(crate) fn of_list(frames: &[usize]) -> Option<u32> {
    let list = room(frames.len().wrapping_add(1))?;
    for (at, word) in iter::once(&frames.len()).chain(frames).enumerate() {
        nth(list, at).store(*word, Relaxed);
    }
    take(list | LIST)
}

/// Whether `number` stands for these return addresses.
pub(crate) fn is_list(number: u32, frames: &[usize]) -> bool {
    let list = meaning(number);
    let word = |at: usize| nth(list & !LIST, at).load(Relaxed);
    list & LIST != 0
        && word(0) == frames.len()
        && frames.iter().zip(1..).all(|(frame, at)| word(at) == *frame)
}

/// Gives a number back that nobody has seen. If others have been taken since, it is lost.
pub(crate) fn give_back(number: u32) {
    let number = number as usize;
    if let Some(place) = place(number, false) {
        place.store(0, Relaxed);
    }
    // No matter if not. Whoever takes it next writes after that.
    let _ = TAKEN.compare_exchange(number, number.wrapping_sub(1), Release, Relaxed);
}

/// How many return addresses `number` stands for.
pub(crate) fn length(number: u32) -> usize {
    match meaning(number) {
        0 => 0,
        list if list & LIST != 0 => nth(list & !LIST, 0).load(Relaxed),
        _ => 1,
    }
}

/// The `index`th return address of `number`; 0 if there is none.
pub(crate) fn frame(number: u32, index: usize) -> usize {
    match meaning(number) {
        list if list & LIST != 0 && index < length(number) => {
            nth(list & !LIST, index.wrapping_add(1)).load(Relaxed)
        }
        address if address & LIST == 0 && index == 0 => address,
        _ => 0,
    }
}

fn meaning(number: u32) -> usize {
    place(number as usize, false).map_or(0, |place| place.load(Acquire))
}

/// Where the meaning of `number` is kept. Gets the memory for it, if it has to and is told to.
fn place(number: usize, get: bool) -> Option<&'static AtomicUsize> {
    if number < FIRST {
        return MEANINGS.get(number);
    }
    let segment = number.ilog2().wrapping_sub(FIRST.ilog2());
    let size = FIRST.wrapping_shl(segment);
    let pointer = FURTHER.get(segment as usize)?;
    let mut base = pointer.load(Acquire);
    if base == 0 && get {
        base = map_once(pointer, 0, size.wrapping_mul(WORD))?;
    }
    (base != 0).then(|| nth(base, number.wrapping_sub(size)))
}

/// Maps `bytes` for `pointer`, which was `old`, unless somebody else does.
fn map_once(pointer: &AtomicUsize, old: usize, bytes: usize) -> Option<usize> {
    let mapped = sys::map_zeros(bytes)?;
    match pointer.compare_exchange(old, mapped, Release, Acquire) {
        Ok(_) => Some(mapped),
        Err(others) => {
            // SAFETY: nobody else has seen it.
            unsafe { sys::unmap(mapped, bytes) };
            Some(others)
        }
    }
}

/// The address of `words` words that nobody else writes to.
fn room(words: usize) -> Option<usize> {
    let bytes = words.wrapping_mul(WORD);
    let mut block = LISTS.load(Acquire);
    loop {
        if block != 0 {
            let taken = nth(block, 0).fetch_add(bytes, Relaxed).wrapping_add(WORD);
            if taken.wrapping_add(bytes) <= BLOCK {
                return Some(block.wrapping_add(taken));
            }
        }
        block = map_once(&LISTS, block, BLOCK)?;
    }
}

/// The `index`th word of memory that `sys::map_zeros` gave.
fn nth(address: usize, index: usize) -> &'static AtomicUsize {
    let word = address.wrapping_add(index.wrapping_mul(WORD));
    // SAFETY: whoever calls got the address from there, aligned, and keeps within; it is never given back.
    unsafe { &*ptr::with_exposed_provenance::<AtomicUsize>(word) }
}

#[cfg(test)]
mod tests {
    #![allow(
        clippy::unwrap_used,
        clippy::expect_used,
        clippy::panic,
        reason = "a test says that something is wrong by panicking"
    )]

    use std::thread;

    use super::*;

    #[test]
    fn a_number_stands_for_what_it_was_taken_for() {
        let lists: Vec<Vec<usize>> = (0..3000)
            .map(|list| (1..list % 65).map(|at| at * list).collect())
            .collect();
        let take = |list: &Vec<usize>| of_list(list).unwrap();
        let check = |(number, list): (&u32, &Vec<usize>)| {
            assert_eq!(length(*number), list.len());
            assert!(is_list(*number, list) && !is_list(*number, &[1]));
            assert!((0..list.len()).all(|index| frame(*number, index) == list[index]));
            assert_eq!(frame(*number, list.len()), 0);
        };
        thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    let numbers: Vec<_> = lists.iter().map(take).collect();
                    numbers.iter().zip(&lists).for_each(check);
                });
            }
        });
        let address = of_address(4711).unwrap();
        assert_eq!(
            (length(address), frame(address, 0), frame(address, 1)),
            (1, 4711, 0)
        );
        assert!(taken() >= address);
        assert_eq!((length(0), length(u32::MAX), frame(u32::MAX, 0)), (0, 0, 0));
    }
}
