//! Pages: what the kernel maps and gives rights by. 4 KiB on x86-64; on AArch64 what the kernel was built with, 4, 16 or
//! 64 KiB, which it tells in the auxiliary vector.

use crate::auxv::Auxv;
use crate::sync::{AtomicUsize, Ordering::Relaxed};

/// No kernel has smaller ones: whoever looks at one address in each of these looks into every page.
pub(crate) const LEAST: usize = 4096;

/// Their size, a power of two.
pub(crate) fn size() -> usize {
    static SIZE: AtomicUsize = AtomicUsize::new(0);
    if SIZE.load(Relaxed) == 0 {
        let told = Auxv::find().map(|auxv| auxv.page);
        let told = told.filter(|size| size.is_power_of_two() && *size > LEAST);
        SIZE.store(told.unwrap_or(LEAST), Relaxed);
    }
    SIZE.load(Relaxed)
}

/// Where the page of `address` begins.
pub(crate) fn begin(address: usize) -> usize {
    address & size().wrapping_neg()
}

/// The end of the last page of what ends at `end`; of the last page that there is, at most.
pub(crate) fn end(end: usize) -> usize {
    begin(end.saturating_add(size().wrapping_sub(1)))
}
