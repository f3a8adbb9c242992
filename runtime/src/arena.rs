//! Memory of the runtime's own for tables that are made once and kept for ever.

use core::ptr;
use core::slice;

use crate::sys;

/// Types of which every pattern of bits, as a file or the kernel may have it, is a value.
///
/// # Safety
/// That must be so, and there must be no padding.
pub(crate) unsafe trait Plain: Copy {}

// SAFETY: a number.
unsafe impl Plain for u8 {}
// SAFETY: a number.
unsafe impl Plain for usize {}

/// Memory that is handed out piece by piece.
pub(crate) struct Arena {
    begin: usize,
    size: usize,
    used: usize,
}

impl Arena {
    /// Of `size` bytes. `None` if the kernel gives none.
    pub(crate) fn of(size: usize) -> Option<Self> {
        let begin = sys::map_zeros(size)?;
        Some(Self {
            begin,
            size,
            used: 0,
        })
    }

    /// Bytes of an arena that [`Self::slice`] takes for `count` values.
    pub(crate) fn room<T>(count: usize) -> Option<usize> {
        let size = count.checked_mul(size_of::<T>())?;
        size.checked_next_multiple_of(size_of::<usize>())
    }

    /// Zeros for `count` values.
    pub(crate) fn slice<T: Plain>(&mut self, count: usize) -> Option<&'static mut [T]> {
        let at = self.take::<T>(count)?;
        // SAFETY: this part is handed out once, is aligned, and zeros are a value of the type.
        Some(unsafe { slice::from_raw_parts_mut(at, count) })
    }

    /// Keeps `value`.
    pub(crate) fn keep<T>(&mut self, value: T) -> Option<&'static T> {
        let at = self.take::<T>(1)?;
        // SAFETY: this part is handed out once and is aligned.
        unsafe { at.write(value) };
        // SAFETY: as above, and now there is a value.
        Some(unsafe { &*at })
    }

    fn take<T>(&mut self, count: usize) -> Option<*mut T> {
        const { assert!(align_of::<T>() <= size_of::<usize>()) };
        let at = self.begin.wrapping_add(self.used);
        let used = self.used.checked_add(Self::room::<T>(count)?)?;
        self.used = Some(used).filter(|used| *used <= self.size)?;
        Some(ptr::with_exposed_provenance_mut(at))
    }

    /// Gives all of it back.
    ///
    /// # Safety
    /// Nothing may refer to it any more.
    pub(crate) unsafe fn give_back(self) {
        // SAFETY: the caller answers for it.
        unsafe { sys::unmap(self.begin, self.size) };
    }
}
