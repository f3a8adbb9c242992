//! x86-64.

#[cfg(not(test))]
mod builtins;
pub(crate) mod control_block;
mod operators;
pub(crate) mod registers;
pub(crate) mod shared;
pub(crate) mod step;
pub(crate) mod stubs;
pub(crate) mod system;

/// R_X86_64_RELATIVE.
#[cfg(not(test))]
pub(crate) const RELATIVE: usize = 8;
/// The lowest bits of an instruction's address that are always 0.
pub(crate) const CODE_ALIGNMENT: u32 = 0;

/// Ends the process, by an instruction that there is not.
#[cfg(not(test))]
pub(crate) fn trap() -> ! {
    // SAFETY: an undefined instruction ends the process.
    unsafe { core::arch::asm!("ud2", options(noreturn, nostack, nomem)) }
}

/// Asks the resolver of an IFUNC at `address` which function it stands for.
pub(crate) fn resolve(address: usize) -> usize {
    // SAFETY: on x86-64 a resolver takes no arguments and returns an address; the symbol's type
    // says that there is one.
    let resolver: extern "C" fn() -> usize = unsafe { core::mem::transmute(address) };
    resolver()
}
