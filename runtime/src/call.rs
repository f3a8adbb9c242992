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

    /// The same, if the direct caller is the site and is known.
    #[inline(always)]
    pub(crate) fn site_at_hand(self) -> Option<Site> {
        Site::at_hand(self.caller())
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
    ($(#[$doc:meta])* $name:ident($($type:ty),*) $(-> $result:ty)?, $rbp:literal, $stack:literal => $body:ident) => {
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
