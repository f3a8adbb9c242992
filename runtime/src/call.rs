//! Where a function was called from: what is there to find a site by. The exported functions that want to know are
//! stubs (`machine::stubs`), which add it to the arguments.

pub(crate) use crate::machine::stubs::{Call, called};
use crate::site::{self, Known, Site};

impl Call {
    /// The site of the call.
    #[inline(always)]
    pub(crate) fn site(self) -> Site {
        // SAFETY: the stubs have read the registers at the call.
        unsafe { Site::of(self.frame()) }
    }

    /// The same, if the direct caller is the site and is known; else what is known of that.
    #[inline(always)]
    pub(crate) fn site_at_hand(self) -> Result<Site, Known> {
        Site::at_hand(self.caller())
    }

    /// The same, if the direct caller is `known` to be a facade, and all others on the way to the site are, too.
    #[inline(always)]
    pub(crate) fn site_behind(self, known: Known) -> Option<Site> {
        // SAFETY: as above.
        unsafe { Site::behind(known, self.frame()) }
    }

    /// The site of a call of which not all is known.
    #[cold]
    pub(crate) fn learn_site(self) -> Site {
        // SAFETY: as above.
        unsafe { Site::learn(self.frame()) }
    }

    /// Has it taken for a sample of the program's calls.
    #[cold]
    #[inline(never)]
    pub(crate) fn sample(self) {
        // SAFETY: as above.
        unsafe { site::sample(self.frame()) };
    }
}

/// Exports `$name`, the function of the malloc family that the program calls, and `$entry`, which the function of that
/// name of an allocator in the executable is diverted to. Both are stubs in front of `$body`, which takes the
/// [`Origin`] of the call, the arguments and a [`Call`], if it wants to know of it.
///
/// [`Origin`]: crate::next::Origin
macro_rules! hook {
    ($(#[$doc:meta])* $name:ident, $entry:ident($($argument:ident: $type:ty),*) -> $result:ty => $body:ident(call)) => {
        $crate::call::called!($(#[$doc])* $name($($argument: $type),*) -> $result, call => $body(Own, $($argument,)* call));
        $crate::machine::stubs::entry!(
            /// The entry of an allocator's function of that name.
            $entry($($argument: $type),*) -> $result, table, call => $body(table, $($argument,)* call)
        );
    };
    ($(#[$doc:meta])* $name:ident, $entry:ident($($argument:ident: $type:ty),*) -> $result:ty => $body:ident) => {
        $(#[$doc])*
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> $result {
            // SAFETY: the caller keeps to the function's contract.
            unsafe { $body(Own, $($argument),*) }
        }
        $crate::machine::stubs::entry!(
            /// The entry of an allocator's function of that name.
            $entry($($argument: $type),*) -> $result, table => $body(table, $($argument),*)
        );
    };
}
pub(crate) use hook;
