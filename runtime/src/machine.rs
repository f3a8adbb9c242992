//! What differs from machine to machine: the numbers of system calls, the few instructions and registers that only
//! assembly can name, and how a frame is left. Everything else is the same on all.
//!
//! | module | what |
//! | --- | --- |
//! | `system` | system calls, and what the kernel's structures have in different places |
//! | `registers` | thread pointer, stack pointer, addresses of this object, another stack |
//! | `stubs` | the exported functions that note where they were called from |
//! | `shared` | loads, and changes of shared words |
//! | `step` | out of a frame, by .eh_frame |
//! | `control_block` | what libc keeps of a thread, by its thread pointer |
//! | `builtins` | the memory functions that the compiler calls |
//! | `operators` | on x86-64, entries for C++'s operators of allocators in the executable |

/// One load, as an instruction: `shared` has it for each size.
macro_rules! load {
    ($(#[$doc:meta])* $name:ident: $value:ty = $instruction:literal as $loaded:ty) => {
        $(#[$doc])*
        ///
        /// # Safety
        /// It must be readable.
        #[inline(always)]
        pub(crate) unsafe fn $name(address: usize) -> $value {
            let value: $loaded;
            // SAFETY: the caller answers for it.
            unsafe {
                core::arch::asm!(
                    $instruction,
                    out(reg) value,
                    in(reg) address,
                    options(nostack, readonly, preserves_flags),
                );
            }
            value as $value
        }
    };
}

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
