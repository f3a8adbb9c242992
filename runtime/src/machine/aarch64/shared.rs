//! Memory that others see: loads of what Rust knows nothing about, and changes of words that threads share.

use core::arch::asm;
use core::sync::atomic::compiler_fence;

use crate::sync::{
    AtomicU8, AtomicU64,
    Ordering::{Relaxed, SeqCst},
};

load!(
    /// The byte at `address`.
    byte: u8 = "ldrb {:w}, [{}]" as u32
);
load!(
    /// The two bytes at `address`.
    half: u16 = "ldrh {:w}, [{}]" as u32
);
load!(
    /// The four bytes at `address`.
    int: u32 = "ldr {:w}, [{}]" as u32
);
load!(
    /// The word at `address`.
    word: usize = "ldr {}, [{}]" as usize
);

/// Sets `bits`, where no other thread can. A signal handler that comes in between has the change begin again: there is no
/// single instruction for it on all processors, but without an order for others it costs little.
#[inline(always)]
pub(crate) fn set(word: &AtomicU64, bits: u64) {
    in_its_place(|| word.fetch_or(bits, Relaxed));
}

/// Clears all but `bits`, as above.
#[inline(always)]
pub(crate) fn keep(word: &AtomicU64, bits: u64) {
    in_its_place(|| word.fetch_and(bits, Relaxed));
}

/// Has the compiler move nothing across `change`: a signal handler finds done what comes before it, and nothing of what
/// comes behind it.
#[inline(always)]
fn in_its_place(change: impl FnOnce() -> u64) {
    compiler_fence(SeqCst);
    change();
    compiler_fence(SeqCst);
}

/// Whether the word before `address` has any of the bits of `BITS`.
///
/// # Safety
/// It must be readable.
#[inline(always)]
pub(crate) unsafe fn has_any_before<const BITS: isize>(address: usize) -> bool {
    // SAFETY: the caller answers for it.
    let word = unsafe { word(address.wrapping_sub(size_of::<usize>())) };
    word & BITS.cast_unsigned() != 0
}

/// Whether the byte is 0.
#[inline(always)]
pub(crate) fn is_zero(byte: &AtomicU8) -> bool {
    byte.load(Relaxed) == 0
}

/// Takes one off a static number of 32 bits, which no other thread changes. Whether it is 0 then.
macro_rules! count_down {
    ($number:path) => {{
        let left = $number.load(Relaxed).wrapping_sub(1);
        $number.store(left, Relaxed);
        left == 0
    }};
}
pub(crate) use count_down;

/// Makes the two words at `pair` `new` if they are `old`. What others do before or after that they do for all in that
/// order.
///
/// # Safety
/// The words must be aligned to their size together, and may be changed by anybody.
#[inline(always)]
pub(crate) unsafe fn change_pair(
    pair: *const [usize; 2],
    old: [usize; 2],
    new: [usize; 2],
) -> bool {
    let result: u32;
    // SAFETY: as the caller says. What is loaded is both words at one time if the store succeeds; if they are not equal,
    // somebody has changed them or is changing them. The barrier keeps what comes behind it there: the store alone would
    // let later loads pass it, and where nothing is stored, there is no release at all.
    unsafe {
        asm!(
            "2:",
            "ldaxp {first}, {second}, [{pair}]",
            "cmp {first}, {old_first}",
            "ccmp {second}, {old_second}, #0, eq",
            "b.ne 3f",
            "stlxp {failed:w}, {new_first}, {new_second}, [{pair}]",
            "cbnz {failed:w}, 2b",
            "b 4f",
            "3:",
            "clrex",
            "mov {failed:w}, #1",
            "4:",
            "dmb ish",
            pair = in(reg) pair,
            old_first = in(reg) old[0],
            old_second = in(reg) old[1],
            new_first = in(reg) new[0],
            new_second = in(reg) new[1],
            first = out(reg) _,
            second = out(reg) _,
            failed = out(reg) result,
            options(nostack),
        );
    }
    result == 0
}
