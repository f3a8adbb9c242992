//! Sites: where allocations are made. A site is a number, small enough to be kept in each chunk's record,
//! that stands for a return address.

use core::sync::atomic::{AtomicUsize, Ordering::Relaxed};

/// Where an allocation was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Site(u32);

/// How many sites there can be; a power of two.
const SITES: usize = 1 << 16;
/// How far from its home a return address is looked for.
const PROBES: usize = 64;

/// Return addresses; the index is the site's number. The first stays empty.
static ADDRESSES: [AtomicUsize; SITES] = [const { AtomicUsize::new(0) }; SITES];

impl Site {
    /// Nobody knows where.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// The site of the call of a hook that returns to `caller`; `_stack` is the stack pointer as the
    /// caller has it when the hook has returned.
    #[inline(always)]
    pub(crate) fn of(caller: usize, _stack: usize) -> Self {
        let home = caller.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 48;
        match ADDRESSES.get(home) {
            Some(address) if address.load(Relaxed) == caller && home != 0 => {
                Self(u32::try_from(home).unwrap_or_default())
            }
            _ => Self::enter(caller, home),
        }
    }

    #[cold]
    #[inline(never)]
    fn enter(caller: usize, home: usize) -> Self {
        for index in (home..home.wrapping_add(PROBES)).map(|index| index & (SITES - 1)) {
            let Some(address) = ADDRESSES.get(index).filter(|_| index != 0) else {
                continue;
            };
            let found = address.compare_exchange(0, caller, Relaxed, Relaxed);
            if found.is_ok() || found == Err(caller) {
                return Self(u32::try_from(index).unwrap_or_default());
            }
        }
        Self::UNKNOWN
    }

    /// The site with that number, as a record holds it. Any number may be asked for.
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Its number, less than 2^24.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The return address; 0 if the site is unknown.
    pub(crate) fn address(self) -> usize {
        ADDRESSES
            .get(self.0 as usize)
            .map_or(0, |address| address.load(Relaxed))
    }

    /// The return addresses of its stack, innermost first.
    pub(crate) fn frames(self) -> impl Iterator<Item = usize> {
        Some(self.address())
            .filter(|address| *address != 0)
            .into_iter()
    }
}
