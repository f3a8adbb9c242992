//! AArch64.

#[cfg(not(test))]
mod builtins;
pub(crate) mod control_block;
pub(crate) mod registers;
pub(crate) mod shared;
pub(crate) mod step;
pub(crate) mod stubs;
pub(crate) mod system;

use crate::auxv::Auxv;

/// R_AARCH64_RELATIVE.
#[cfg(not(test))]
pub(crate) const RELATIVE: usize = 1027;
/// The lowest bits of an instruction's address that are always 0.
pub(crate) const CODE_ALIGNMENT: u32 = 2;

/// Ends the process, by an instruction that there is not.
#[cfg(not(test))]
pub(crate) fn trap() -> ! {
    // SAFETY: an undefined instruction ends the process.
    unsafe { core::arch::asm!("udf #0", options(noreturn, nostack, nomem)) }
}

/// What a resolver is told of the processor (glibc, sysdeps/aarch64/sys/ifunc.h).
#[repr(C)]
struct Processor {
    size: usize,
    hwcap: usize,
    hwcap2: usize,
}

/// Asks the resolver of an IFUNC at `address` which function it stands for.
pub(crate) fn resolve(address: usize) -> usize {
    /// _IFUNC_ARG_HWCAP: there is a second argument.
    const HAS_MORE: usize = 1 << 62;
    let auxv = Auxv::find().unwrap_or_default();
    let processor = Processor {
        size: size_of::<Processor>(),
        hwcap: auxv.hwcap,
        hwcap2: auxv.hwcap2,
    };
    // SAFETY: this is the type of a resolver; the symbol's type says that there is one.
    let resolver: extern "C" fn(usize, &Processor) -> usize =
        unsafe { core::mem::transmute(address) };
    resolver(processor.hwcap | HAS_MORE, &processor)
}
