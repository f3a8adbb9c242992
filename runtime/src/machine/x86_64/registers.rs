//! Registers, and addresses relative to the instruction.

use core::arch::asm;

/// The thread pointer: different for any two threads that live at the same time. The x86-64 ABI has
/// the first word of the thread control block point to itself; both loaders set it up before they
/// relocate anything (glibc, elf/rtld.c, `init_tls`).
#[inline(always)]
pub(crate) fn thread_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads one word that every thread has.
    unsafe {
        asm!("mov {}, fs:0", out(reg) pointer, options(nostack, preserves_flags, readonly, pure));
    }
    pointer
}

/// The stack pointer of the calling function.
#[inline(always)]
pub(crate) fn stack_pointer() -> usize {
    let pointer: usize;
    // SAFETY: reads a register.
    unsafe { asm!("mov {}, rsp", out(reg) pointer, options(nostack, nomem, preserves_flags)) };
    pointer
}

/// Where this object's own dynamic table lies: what the link map knows it by.
#[cfg(not(test))]
pub(crate) fn own_dynamic() -> usize {
    let address: usize;
    // SAFETY: computes an address relative to the instruction. `_DYNAMIC` is the linker's own hidden
    // symbol; a Rust `static` for it could be reached through a relocated table.
    unsafe {
        asm!("lea {}, [rip + _DYNAMIC]", out(reg) address, options(nostack, nomem, preserves_flags));
    }
    address
}

/// Where this object itself is loaded: what is added to the addresses in its file.
#[cfg(not(test))]
pub(crate) fn own_base() -> usize {
    let address: usize;
    // SAFETY: computes an address relative to the instruction. `__ehdr_start` is the linker's own hidden symbol.
    unsafe {
        asm!("lea {}, [rip + __ehdr_start]", out(reg) address, options(nostack, nomem, preserves_flags));
    }
    address
}

/// Has `work` done on the stack that ends at `end`.
///
/// # Safety
/// Nobody else must be on it, and nothing must unwind.
pub(crate) unsafe fn call_on_stack<T>(end: usize, work: extern "C" fn(&T), argument: &T) {
    // SAFETY: the caller answers for the stack. `work` keeps r12 as it was.
    unsafe {
        asm!(
            "mov r12, rsp",
            "mov rsp, {end}",
            "call {work}",
            "mov rsp, r12",
            end = in(reg) end,
            work = in(reg) work,
            in("rdi") argument,
            out("r12") _,
            clobber_abi("C"),
        );
    }
}
