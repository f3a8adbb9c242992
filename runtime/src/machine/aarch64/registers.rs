//! Registers, and addresses relative to the instruction.

use core::arch::asm;

/// The thread pointer: different for any two threads that live at the same time.
#[inline(always)]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register. libc sets it once, before any hook of that thread.
    unsafe {
        asm!("mrs {}, tpidr_el0", out(reg) pointer, options(nostack, preserves_flags, nomem, pure));
    }
    pointer
}

/// The stack pointer of the calling function.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, sp", out(reg) pointer, options(nostack, nomem, preserves_flags)) };
    pointer
}

/// The address of a hidden symbol of the linker's own, relative to the instruction: a Rust `static` for it could be
/// reached through a relocated table.
#[cfg(not(test))]
macro_rules! linkers {
    ($symbol:literal) => {{
        let address: usize;
        // SAFETY: computes an address.
        unsafe {
            asm!(
                concat!("adrp {address}, ", $symbol),
                concat!("add {address}, {address}, :lo12:", $symbol),
                address = out(reg) address,
                options(nostack, nomem, preserves_flags),
            );
        }
        address
    }};
}

/// Where this object's own dynamic table lies: what the link map knows it by.
#[cfg(not(test))]
pub(crate) fn own_dynamic() -> usize {
    linkers!("_DYNAMIC")
}

/// Where this object itself is loaded: what is added to the addresses in its file.
#[cfg(not(test))]
pub(crate) fn own_base() -> usize {
    linkers!("__ehdr_start")
}

/// Has `work` done on the stack that ends at `end`.
///
/// # Safety
/// Nobody else must be on it, and nothing must unwind.
pub(crate) unsafe fn call_on_stack<T>(end: usize, work: extern "C" fn(&T), argument: &T) {
    // SAFETY: the caller answers for the stack. `work` keeps x20 as it was.
    unsafe {
        asm!(
            "mov x20, sp",
            "mov sp, {end}",
            "blr {work}",
            "mov sp, x20",
            end = in(reg) end,
            work = in(reg) work,
            in("x0") argument,
            out("x20") _,
            clobber_abi("C"),
        );
    }
}
