//! Who hands out memory, and what a program says about allocators of its own.

use core::arch::asm;
use core::ffi::CStr;
use core::fmt;
use core::ops::{ControlFlow, RangeBounds};
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

use crate::answers::Allocation;
use crate::error::Error;
use crate::{walk_over, weak};

/// Whoever hands out memory: "malloc", "mmap", "stack", "static", or one that the program registered.
///
/// A pool, slab or arena says which allocations it makes and takes back inside memory that it has got elsewhere.
/// The answers are then about these:
///
/// ```
/// use allocs::{Allocator, Error};
///
/// fn main() -> Result<(), Error> {
///     let memory = vec![0_u8; 4096];
///     let pool = match Allocator::register(c"pool") {
///         Err(Error::NotAvailable) => return Ok(()), // nobody will ask, either
///         registered => registered?,
///     };
///     pool.announce(&raw const memory[128], 64)?;
///     assert_eq!(allocs::at(&memory[150])?.allocator(), pool);
///     assert_eq!(allocs::at(&memory[150])?.size(), 64);
///     pool.retract(&raw const memory[128])?;
///     assert_eq!(allocs::at(&memory[150])?.size(), 4096);
///     Ok(())
/// }
/// ```
#[derive(Clone, Copy)]
pub struct Allocator(&'static weak::Allocator);

impl Allocator {
    pub(crate) fn of(allocator: &'static weak::Allocator) -> Self {
        Self(allocator)
    }

    /// Registers an allocator of the program's own, by a name. It stays registered.
    ///
    /// # Errors
    ///
    /// [`Error::NotAvailable`]; or [`Error::Invalid`] if too many are registered.
    pub fn register(name: &'static CStr) -> Result<Self, Error> {
        let register = weak::register_allocator().ok_or(Error::NotAvailable)?;
        // SAFETY: the name is there as long as the process.
        let allocator = unsafe { register(name.as_ptr()) };
        // SAFETY: null, or an allocator, which lives as long as the process.
        let allocator = unsafe { allocator.as_ref() };
        allocator.map(Self).ok_or(Error::Invalid)
    }

    /// Its name.
    #[must_use]
    pub fn name(self) -> &'static CStr {
        let name = self.0.name.load(Relaxed);
        if name.is_null() {
            return c"";
        }
        // SAFETY: allocs.h promises a string that is there as long as the process.
        unsafe { CStr::from_ptr(name) }
    }

    /// Says that the program has made an allocation of `size` bytes at `base`. Its site is the function that calls
    /// this, which is why this is inlined.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if this is none that the program registered, if an announced allocation begins in the same
    /// 16 bytes, or if there is no memory to note it.
    #[inline(always)]
    pub fn announce<T: ?Sized>(self, base: *const T, size: usize) -> Result<(), Error> {
        let announce = weak::announce().ok_or(Error::NotAvailable)?;
        // SAFETY: says something about memory, and does not touch it.
        let code = unsafe { announce(self.0, base.cast(), size) };
        // SAFETY: no instruction at all. A call that is followed by something is no tail call: it returns to here.
        unsafe { asm!("", options(nomem, nostack, preserves_flags)) };
        Error::check(code)
    }

    /// Says that the program has taken back the allocation at `base`.
    ///
    /// # Errors
    ///
    /// [`Error::Invalid`] if this allocator has announced none there.
    pub fn retract<T: ?Sized>(self, base: *const T) -> Result<(), Error> {
        let retract = weak::retract().ok_or(Error::NotAvailable)?;
        // SAFETY: says something about memory, and does not touch it.
        Error::check(unsafe { retract(self.0, base.cast()) })
    }

    /// Shows `visit` this allocator's live allocations, as [`walk`](crate::walk) does those of all.
    ///
    /// # Errors
    ///
    /// The runtime is not in this process.
    pub fn walk<B>(
        self,
        range: impl RangeBounds<usize>,
        visit: impl FnMut(&Allocation) -> ControlFlow<B>,
    ) -> Result<ControlFlow<B>, Error> {
        walk_over(range, self.0, visit)
    }
}

/// Two are the same if the runtime has them in the same place; names may be alike.
impl PartialEq for Allocator {
    fn eq(&self, other: &Self) -> bool {
        ptr::eq(self.0, other.0)
    }
}

impl Eq for Allocator {}

impl fmt::Debug for Allocator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Allocator").field(&self.name()).finish()
    }
}
