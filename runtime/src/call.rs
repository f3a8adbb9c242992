//! Where a function was called from: what is there to find a site by. Rust has no way to ask for it, so the exported
//! functions that want to know are stubs, which add it to the arguments.

use crate::memory::Mapped;
use crate::site::{self, Site};

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
    fn caller(self) -> usize {
        // SAFETY: the call has not returned: its return address lies below what it leaves.
        unsafe { Mapped::new(self.stack.wrapping_sub(size_of::<usize>())) }.word()
    }

    /// The site of the call.
    #[inline(always)]
    pub(crate) fn site(self) -> Site {
        // SAFETY: the stubs have read the registers at the call.
        unsafe { Site::of(self.caller(), self.stack, self.rbp) }
    }

    /// Has it taken for a sample of the program's calls.
    #[cold]
    #[inline(never)]
    pub(crate) fn sample(self) {
        // SAFETY: as above.
        unsafe { site::sample(self.caller(), self.stack, self.rbp) };
    }
}

/// Exports `$name` as a stub in front of `$body`, which takes the same arguments and a [`Call`]; `$rbp` and
/// `$stack` are the registers of the two arguments that follow (psABI, "Parameter Passing").
macro_rules! called {
    ($(#[$doc:meta])* $name:ident($($type:ty),*) $(-> $result:ty)?, $rbp:literal, $stack:literal => $body:path) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($(_: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                concat!("mov ", $rbp, ", rbp"),
                concat!("lea ", $stack, ", [rsp + 8]"),
                "jmp {}",
                sym $body,
            )
        }
    };
}
pub(crate) use called;

/// Exports `$name`, the function of the malloc family that the program calls, and `$entry`, which the function of that
/// name of an allocator in the executable is diverted to, with the address of its table in r11. Both are stubs in front
/// of `$body`, which takes the [`Origin`] of the call, the arguments and a [`Call`]; `$rbp`, `$stack` and `$table` are the
/// registers of three arguments that follow. Without `$rbp` and `$stack`, `$body` does not want to know of the call.
///
/// [`Origin`]: crate::next::Origin
macro_rules! hook {
    ($(#[$doc:meta])* $name:ident, $entry:ident($($argument:ident: $type:ty),*) -> $result:ty,
     $rbp:literal, $stack:literal, $table:literal => $body:ident) => {
        mod $name {
            use super::*;

            pub(super) unsafe extern "C" fn own($($argument: $type,)* call: Call) -> $result {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $body(Own, $($argument,)* call) }
            }

            pub(super) unsafe extern "C" fn diverted(
                $($argument: $type,)*
                call: Call,
                table: Table,
            ) -> $result {
                // SAFETY: as above.
                unsafe { $body(table, $($argument,)* call) }
            }
        }
        $crate::call::called!($(#[$doc])* $name($($type),*) -> $result, $rbp, $stack => $name::own);
        $crate::call::diverted!(
            /// The entry of an allocator's function of that name.
            $entry($($type),*) -> $result,
            $table => $name::diverted,
            concat!("mov ", $rbp, ", rbp"),
            concat!("lea ", $stack, ", [rsp + 8]")
        );
    };
    ($(#[$doc:meta])* $name:ident, $entry:ident($($argument:ident: $type:ty),*) $(-> $result:ty)?,
     $table:literal => $body:ident) => {
        mod $name {
            use super::*;

            pub(super) unsafe extern "C" fn diverted($($argument: $type,)* table: Table) $(-> $result)? {
                // SAFETY: the caller keeps to the function's contract.
                unsafe { $body(table, $($argument),*) }
            }
        }
        $(#[$doc])*
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($argument: $type),*) $(-> $result)? {
            // SAFETY: the caller keeps to the function's contract.
            unsafe { $body(Own, $($argument),*) }
        }
        $crate::call::diverted!(
            /// The entry of an allocator's function of that name.
            $entry($($type),*) $(-> $result)?, $table => $name::diverted
        );
    };
}
pub(crate) use hook;

/// Exports `$entry` as a stub in front of `$body`, which takes the same arguments, what `$more` adds to them, and in
/// register `$table` the table that r11 leads to.
macro_rules! diverted {
    ($(#[$doc:meta])* $entry:ident($($type:ty),*) $(-> $result:ty)?, $table:literal => $body:path $(, $more:expr)*) => {
        $(#[$doc])*
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $entry($(_: $type),*) $(-> $result)? {
            core::arch::naked_asm!(
                "endbr64",
                $($more,)*
                concat!("mov ", $table, ", r11"),
                "jmp {}",
                sym $body,
            )
        }
    };
}
pub(crate) use diverted;
