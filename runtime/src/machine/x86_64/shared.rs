//! Memory that others see: loads of what Rust knows nothing about, and changes of words that threads share.

use core::arch::asm;

use crate::sync::{AtomicU8, AtomicU64};

load!(
    /// The byte at `address`.
    byte: u8 = "movzx {:e}, byte ptr [{}]" as u32
);
load!(
    /// The two bytes at `address`.
    half: u16 = "movzx {:e}, word ptr [{}]" as u32
);
load!(
    /// The four bytes at `address`.
    int: u32 = "mov {:e}, dword ptr [{}]" as u32
);
load!(
    /// The word at `address`.
    word: usize = "mov {}, qword ptr [{}]" as usize
);
load!(
    /// The word before `address`.
    word_before: usize = "mov {}, qword ptr [{} - 8]" as usize
);

/// One instruction that changes a word, without a lock.
macro_rules! change {
    ($(#[$doc:meta])* $name:ident, $instruction:literal) => {
        $(#[$doc])*
        #[inline(always)]
        pub(crate) fn $name(word: &AtomicU64, bits: u64) {
            // SAFETY: the word is alive and may be changed by anybody; nobody else does it at the same time.
            unsafe {
                asm!(
                    concat!($instruction, " qword ptr [{}], {}"),
                    in(reg) word.as_ptr(),
                    in(reg) bits,
                    options(nostack),
                );
            }
        }
    };
}

change!(
    /// Sets `bits`, where no other thread can. A signal handler may come in before or after, not in between.
    set, "or"
);
change!(
    /// Clears all but `bits`, as above.
    keep, "and"
);

/// Whether the word before `address` has any of the bits of `BITS`, at most 32 and their sign. The compiler would go on with
/// what it has loaded, and make more of it.
///
/// # Safety
/// It must be readable.
#[inline(always)]
pub(crate) unsafe fn has_any_before<const BITS: isize>(address: usize) -> bool {
    // SAFETY: the caller answers for it.
    unsafe {
        asm!(
            "test qword ptr [{} - 8], {}",
            "jnz {}",
            in(reg) address,
            const BITS,
            label { return true },
            options(nostack, readonly),
        );
    }
    false
}

/// Whether the byte is 0: one instruction, which the compiler has two for.
#[inline(always)]
pub(crate) fn is_zero(byte: &AtomicU8) -> bool {
    // SAFETY: the byte may be read at any time.
    unsafe {
        asm!(
            "cmp byte ptr [{}], 0",
            "je {}",
            in(reg) byte.as_ptr(),
            label { return true },
            options(nostack, readonly),
        );
    }
    false
}

/// Takes one off a static number of 32 bits, which no other thread changes. Whether it is 0 then.
macro_rules! count_down {
    ($number:path) => {
        'counted: {
            // SAFETY: the number may be changed by anybody.
            unsafe {
                core::arch::asm!(
                    "dec dword ptr [rip + {}]",
                    "jz {}",
                    sym $number,
                    label { break 'counted true },
                    options(nostack),
                );
            }
            false
        }
    };
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
    let result: usize;
    // SAFETY: as the caller says. LLVM keeps rbx for itself. (All processors have had the instruction since 2006.)
    unsafe {
        asm!(
            "xchg rsi, rbx",
            "lock cmpxchg16b [rdi]",
            "mov rbx, rsi",
            "sete sil",
            in("rdi") pair,
            inout("rax") old[0] => _,
            inout("rdx") old[1] => _,
            inout("rsi") new[0] => result,
            in("rcx") new[1],
            options(nostack),
        );
    }
    result & 0xff != 0
}
