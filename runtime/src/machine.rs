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

#[cfg(target_arch = "x86_64")]
mod x86_64;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86_64::*;

#[cfg(target_arch = "aarch64")]
mod aarch64;
#[cfg(target_arch = "aarch64")]
pub(crate) use aarch64::*;
