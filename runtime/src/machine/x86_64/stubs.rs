//! Stubs: exported functions that add to their arguments where they were called from, which Rust has no way to ask for.
//! Registers are those of the System V ABI ("Parameter Passing").

use crate::memory::Mapped;
use crate::site::step::Frame;

/// Where a function was called from.
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Call {
    /// rbp, which the caller may reach its frame by.
    rbp: usize,
    /// The stack pointer that the caller has when the function has returned.
    stack: usize,
}

impl Call {
    /// The return address.
    #[inline(always)]
    pub(crate) fn caller(self) -> usize {
        // SAFETY: the call has not returned: its return address lies below what it leaves.
        unsafe { Mapped::new(self.stack.wrapping_sub(size_of::<usize>())) }.word()
    }

    /// What the stack tells about the call.
    #[inline(always)]
    pub(crate) fn frame(self) -> Frame {
        Frame {
            caller: self.caller(),
            stack: self.stack,
            frame_pointer: self.rbp,
        }
    }
}

/// The register of the argument that follows so many others.
macro_rules! register {
    () => {
        "rdi"
    };
    ($a:tt) => {
        "rsi"
    };
    ($a:tt $b:tt) => {
        "rdx"
    };
    ($a:tt $b:tt $c:tt) => {
        "rcx"
    };
    ($a:tt $b:tt $c:tt $d:tt) => {
        "r8"
    };
    ($a:tt $b:tt $c:tt $d:tt $e:tt) => {
        "r9"
    };
}
pub(crate) use register;

/// Adds a [`Call`] to so many arguments.
macro_rules! add_call {
    ($($argument:tt)*) => {
        concat!(
            "mov ", $crate::machine::stubs::register!($($argument)*), ", rbp\n",
            "lea ", $crate::machine::stubs::register!(_ $($argument)*), ", [rsp + 8]",
        )
    };
}
pub(crate) use add_call;

/// Exports `$name` as a stub in front of what it `$does`, with the [`Call`] as `$call`.
macro_rules! called {
    ($(#[$doc:meta])* $name:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $call:ident => $does:expr) => {
        mod $name {
            #[allow(unused_imports, reason = "not all need it")]
            use super::*;

            pub(super) unsafe extern "C" fn called($($argument: $type,)* $call: $crate::machine::stubs::Call) $(-> $result)? {
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
                $crate::machine::stubs::add_call!($($argument)*),
                "jmp {}",
                sym $name::called,
            )
        }
    };
}
pub(crate) use called;

/// Exports `$entry`, which the function of that name of an allocator in the executable is diverted to, with the address
/// of its table in r11. It `$does` the same with that as `$table`, and the [`Call`] as `$call` if it is asked for.
macro_rules! entry {
    ($(#[$doc:meta])* $entry:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $table:ident, $call:ident => $does:expr) => {
        mod $entry {
            use super::*;

            pub(super) unsafe extern "C" fn diverted(
                $($argument: $type,)*
                $call: $crate::machine::stubs::Call,
                $table: $crate::diverted::Table,
            ) $(-> $result)? {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $does }
            }
        }
        $crate::machine::stubs::diverted!(
            $(#[$doc])*
            $entry($($type),*) $(-> $result)?,
            $crate::machine::stubs::register!(_ _ $($argument)*) => $entry::diverted,
            $crate::machine::stubs::add_call!($($argument)*)
        );
    };
    ($(#[$doc:meta])* $entry:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?, $table:ident => $does:expr) => {
        mod $entry {
            use super::*;

            pub(super) unsafe extern "C" fn diverted(
                $($argument: $type,)*
                $table: $crate::diverted::Table,
            ) $(-> $result)? {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $does }
            }
        }
        $crate::machine::stubs::diverted!(
            $(#[$doc])*
            $entry($($type),*) $(-> $result)?,
            $crate::machine::stubs::register!($($argument)*) => $entry::diverted
        );
    };
}
pub(crate) use entry;

/// Goes on with function `{$to}`, which returns to the caller. A function of the executable may have been called with a
/// stack that is not aligned (System V ABI, "The Stack Frame"): within a program, GCC leaves out what a callee that it
/// can see does not need. Then another return address aligns it.
macro_rules! go_on {
    ($to:literal) => {
        concat!(
            "test spl, 8\n",
            "jz 2f\n",
            "jmp {",
            $to,
            "}\n",
            "2:\n",
            "call {",
            $to,
            "}\n",
            "ret",
        )
    };
}
pub(crate) use go_on;

/// Exports `$entry` as a stub in front of `$body`, which takes the same arguments, what `$more` adds to them, and in
/// register `$table` the table that r11 leads to.
macro_rules! diverted {
    ($(#[$doc:meta])* $entry:ident($($type:ty),*) $(-> $result:ty)?, $table:expr => $body:path $(, $more:expr)*) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $entry($(_: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "endbr64",
                $($more,)*
                concat!("mov ", $table, ", r11"),
                $crate::machine::stubs::go_on!("body"),
                ".cfi_endproc",
                body = sym $body,
            )
        }
    };
}
pub(crate) use diverted;

/// Has the loader call one function at the start and one at the end. DT_INIT and DT_FINI hold offsets; DT_INIT_ARRAY would
/// hold addresses, that is, relocations. They name symbols to the linker (build.rs), and one that Rust gives a name to is
/// exported.
#[cfg(not(test))]
macro_rules! called_by_loader {
    ($constructor:path, $destructor:path) => {
        core::arch::global_asm!(
            ".text",
            ".hidden allocs_constructor",
            ".globl allocs_constructor",
            ".type allocs_constructor, @function",
            "allocs_constructor:",
            "jmp {}",
            ".hidden allocs_destructor",
            ".globl allocs_destructor",
            ".type allocs_destructor, @function",
            "allocs_destructor:",
            "jmp {}",
            sym $constructor,
            sym $destructor,
        );
    };
}
#[cfg(not(test))]
pub(crate) use called_by_loader;

/// Goes on with another function.
#[cfg(not(test))]
macro_rules! jump {
    ($to:literal) => {
        concat!("jmp ", $to)
    };
}
#[cfg(not(test))]
pub(crate) use jump;

/// Of mmap's arguments: prot and flags, an int each, go together into the register of the latter; into that of the
/// former, the return address.
#[cfg(not(test))]
macro_rules! add_caller_to_mmap {
    () => {
        "shl rdx, 32\nmov ecx, ecx\nor rcx, rdx\nmov rdx, [rsp]"
    };
}
#[cfg(not(test))]
pub(crate) use add_caller_to_mmap;

/// Adds the return address to mremap's arguments.
#[cfg(not(test))]
macro_rules! add_caller_to_mremap {
    () => {
        "mov r9, [rsp]"
    };
}
#[cfg(not(test))]
pub(crate) use add_caller_to_mremap;
