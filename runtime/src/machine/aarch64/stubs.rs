//! Stubs: exported functions that add to their arguments where they were called from, which Rust has no way to ask for.
//! Registers are those of the Procedure Call Standard ("Parameter passing").
//!
//! There are no entries for the functions of allocators in the executable: the rewriter diverts none here.

use crate::site::step::Frame;

/// Where a function was called from.
#[derive(Clone, Copy)]
pub(crate) struct Call {
    frame: Frame,
}

impl Call {
    /// With the registers at the call: x30, sp and x29.
    #[inline(always)]
    pub(crate) fn new(caller: usize, stack: usize, frame_pointer: usize) -> Self {
        let frame = Frame {
            caller,
            stack,
            frame_pointer,
        };
        Self { frame }
    }

    /// The return address.
    #[inline(always)]
    pub(crate) fn caller(self) -> usize {
        self.frame.caller
    }

    /// What the stack tells about the call.
    #[inline(always)]
    pub(crate) fn frame(self) -> Frame {
        self.frame
    }
}

/// The register of the argument that follows so many others.
macro_rules! register {
    () => {
        "x0"
    };
    ($a:tt) => {
        "x1"
    };
    ($a:tt $b:tt) => {
        "x2"
    };
    ($a:tt $b:tt $c:tt) => {
        "x3"
    };
    ($a:tt $b:tt $c:tt $d:tt) => {
        "x4"
    };
    ($a:tt $b:tt $c:tt $d:tt $e:tt) => {
        "x5"
    };
}
pub(crate) use register;

/// Exports `$name` as a stub in front of what it `$does`, with the [`Call`] as `$call`.
macro_rules! called {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $call:ident => $does:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "not all need it")]
            use super::*;

            pub(super) unsafe extern "C" fn called(
                $($argument: $type,)*
                caller: usize,
                stack: usize,
                frame_pointer: usize,
            ) $(-> $result)? {
                let $call = $crate::machine::stubs::Call::new(caller, stack, frame_pointer);
                // SAFETY: the caller keeps to the function's contract.
                #[allow(unused_unsafe, reason = "not all that is done is unsafe")]
                unsafe { $does }
            }
        }
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($(_: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                concat!("mov ", $crate::machine::stubs::register!($($argument)*), ", x30"),
                concat!("mov ", $crate::machine::stubs::register!(_ $($argument)*), ", sp"),
                concat!("mov ", $crate::machine::stubs::register!(_ _ $($argument)*), ", x29"),
                "b {}",
                sym $name::called,
            )
        }
    };
}
pub(crate) use called;

/// The same for a function that makes chunks of a size, and goes the short way by itself: where next's function for it can
/// be called `$direct`ly, and `$size` is not too large, it calls that for room for a record, too, and `$enters` the
/// `$chunk`, if there is one. So nothing has to be kept across the call but the size.
macro_rules! called_directly {
    (
        $(#[$doc:meta])* $name:ident($size:ident: usize) -> $result:ty, $call:ident => $does:expr,
        $direct:expr, $chunk:ident => $enters:expr
    ) => {
        mod $name {
            use super::*;

            pub(super) unsafe extern "C" fn called(
                $size: usize,
                caller: usize,
                stack: usize,
                frame_pointer: usize,
            ) -> $result {
                let $call = $crate::machine::stubs::Call::new(caller, stack, frame_pointer);
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $does }
            }

            pub(super) unsafe extern "C" fn made(
                $chunk: $result,
                $size: usize,
                caller: usize,
                stack: usize,
                frame_pointer: usize,
            ) -> $result {
                let $call = $crate::machine::stubs::Call::new(caller, stack, frame_pointer);
                // SAFETY: the stub has compared them.
                unsafe { core::hint::assert_unchecked($size < $crate::index::LARGE) };
                $enters
            }
        }
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(_: usize) -> $result {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "lsr x9, x0, {large}",
                "cbnz x9, 2f",
                "adrp x9, {found} + {direct}",
                "ldr x9, [x9, :lo12:{found} + {direct}]",
                "cbz x9, 2f",
                "stp x0, x30, [sp, #-16]!",
                ".cfi_adjust_cfa_offset 16",
                ".cfi_rel_offset x30, 8",
                "add x0, x0, {record}",
                "blr x9",
                "ldp x1, x30, [sp], #16",
                ".cfi_adjust_cfa_offset -16",
                ".cfi_restore x30",
                "cbz x0, 3f",
                "mov x2, x30",
                "mov x3, sp",
                "mov x4, x29",
                "b {made}",
                "2:",
                "mov x1, x30",
                "mov x2, sp",
                "mov x3, x29",
                "b {called}",
                "3:",
                "ret",
                ".cfi_endproc",
                large = const $crate::index::LARGE.trailing_zeros(),
                record = const $crate::record::RECORD,
                found = sym $crate::next::FOUND,
                direct = const $direct,
                made = sym $name::made,
                called = sym $name::called,
            )
        }
    };
}
pub(crate) use called_directly;

/// Exports `$name`, whose first argument is a number, as a stub that sets the byte `$noted` if it is `$number`, and goes on to
/// the function whose address is in `$next`, wherever the other arguments are. `$look_up` is to store that.
macro_rules! noted {
    (
        $(#[$doc:meta])* $name:ident($type:ty) -> $result:ty,
        $noted:path = $number:path, $next:path: $at:expr, $look_up:path
    ) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name(_: $type) -> $result {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "cmp w0, {number}",
                "b.ne 2f",
                "mov w10, #1",
                "adrp x9, {noted}",
                "strb w10, [x9, :lo12:{noted}]",
                "2:",
                "adrp x9, {next} + {at}",
                "ldr x9, [x9, :lo12:{next} + {at}]",
                "cbz x9, 3f",
                "br x9",
                "3:",
                "stp x29, x30, [sp, #-80]!",
                ".cfi_adjust_cfa_offset 80",
                ".cfi_rel_offset x29, 0",
                ".cfi_rel_offset x30, 8",
                "stp x0, x1, [sp, #16]",
                "stp x2, x3, [sp, #32]",
                "stp x4, x5, [sp, #48]",
                "str x6, [sp, #64]",
                "bl {look_up}",
                "ldp x0, x1, [sp, #16]",
                "ldp x2, x3, [sp, #32]",
                "ldp x4, x5, [sp, #48]",
                "ldr x6, [sp, #64]",
                "ldp x29, x30, [sp], #80",
                ".cfi_adjust_cfa_offset -80",
                ".cfi_restore x29",
                ".cfi_restore x30",
                "adrp x9, {next} + {at}",
                "ldr x9, [x9, :lo12:{next} + {at}]",
                "cbz x9, 4f",
                "br x9",
                "4:",
                "mov x0, #-1",
                "ret",
                ".cfi_endproc",
                number = const $number,
                noted = sym $noted,
                next = sym $next,
                at = const $at,
                look_up = sym $look_up,
            )
        }
    };
}
pub(crate) use noted;

/// Nothing, see above.
macro_rules! entry {
    ($($any:tt)*) => {};
}
pub(crate) use entry;

/// Has the loader call one function at the start and one at the end. musl does not call DT_INIT and DT_FINI there
/// (arch/aarch64/reloc.h, NO_LEGACY_INITFINI).
#[cfg(not(test))]
macro_rules! called_by_loader {
    ($constructor:path, $destructor:path) => {
        #[used]
        #[unsafe(link_section = ".init_array")]
        static CONSTRUCTOR: extern "C" fn() = $constructor;
        #[used]
        #[unsafe(link_section = ".fini_array")]
        static DESTRUCTOR: extern "C" fn() = $destructor;
    };
}
#[cfg(not(test))]
pub(crate) use called_by_loader;

/// Goes on with another function.
#[cfg(not(test))]
macro_rules! jump {
    ($to:literal) => {
        concat!("b ", $to)
    };
}
#[cfg(not(test))]
pub(crate) use jump;

/// Of mmap's arguments: prot and flags, an int each, go together into the register of the latter; into that of the
/// former, the return address.
#[cfg(not(test))]
macro_rules! add_caller_to_mmap {
    () => {
        "mov w3, w3\norr x3, x3, x2, lsl #32\nmov x2, x30"
    };
}
#[cfg(not(test))]
pub(crate) use add_caller_to_mmap;

/// Adds the return address to mremap's arguments.
#[cfg(not(test))]
macro_rules! add_caller_to_mremap {
    () => {
        "mov x5, x30"
    };
}
#[cfg(not(test))]
pub(crate) use add_caller_to_mremap;
