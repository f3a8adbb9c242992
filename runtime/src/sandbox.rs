//! Whether the program has laid a filter over its system calls (seccomp(2)), which may end it for one that it does not make
//! itself. What hooks find out about call sites then comes from memory alone; mappings are made and given back as
//! the allocator makes them.
//!
//! prctl and syscall are hooked to see it: libseccomp, browsers and daemons lay their filters by one of them. Filters
//! that were there when the program began are not seen: under those the loader has opened files and mapped them.

#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is that of the libc function of that name"
)]

use core::ffi::{c_int, c_long};
use core::mem::offset_of;

use crate::definitions::Definitions;
use crate::linkmap::LinkMap;
use crate::machine::stubs;
use crate::machine::system;
use crate::sync::{AtomicU8, AtomicUsize, Ordering::Relaxed};

/// What prctl(2) is told.
const PR_SET_SECCOMP: usize = 22;

/// Not 0 once there is a filter, or was to be.
static ENTERED: AtomicU8 = AtomicU8::new(0);

/// What the hooks pass on to; 0 if that is not known yet.
struct Next {
    prctl: AtomicUsize,
    syscall: AtomicUsize,
}

#[unsafe(link_section = ".data")]
static NEXT: Next = Next {
    prctl: AtomicUsize::new(0),
    syscall: AtomicUsize::new(0),
};

/// Whether the program is in a sandbox of its own making.
pub(crate) fn is_entered() -> bool {
    ENTERED.load(Relaxed) != 0
}

/// Finds what the hooks pass on to.
#[cold]
extern "C" fn look_up() {
    let Some(map) = LinkMap::find() else {
        return;
    };
    let definitions = Definitions::<2>::find(map, b"prctl syscall");
    for (index, place) in [&NEXT.prctl, &NEXT.syscall].into_iter().enumerate() {
        // A runtime that came in by dlopen is behind libc.
        let behind = definitions.behind(index);
        let found = behind.or_else(|| definitions.ahead(index));
        let address = found.map_or(0, |definition| definition.symbol.function());
        place.store(address, Relaxed);
    }
}

stubs::noted!(
    /// prctl(2).
    prctl(c_int) -> c_int, ENTERED = PR_SET_SECCOMP, NEXT: offset_of!(Next, prctl), look_up
);
stubs::noted!(
    /// syscall(2).
    syscall(c_long) -> c_long, ENTERED = system::SECCOMP, NEXT: offset_of!(Next, syscall), look_up
);
