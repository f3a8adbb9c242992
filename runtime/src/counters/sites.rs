//! What is counted by site: while counters run, the allocations and their bytes, and the live bytes at the
//! site's peak; and what a census finds alive.

use core::ptr;

use crate::counters::level::Level;
use crate::site::{self, Site};
use crate::sync::{
    AtomicPtr, AtomicUsize,
    Ordering::{AcqRel, Acquire, Relaxed},
};
use crate::sys;

/// The counts of one site. Zeros are those of a site where nothing was counted.
#[repr(C, align(64))]
pub(crate) struct Counts {
    pub(crate) calls: AtomicUsize,
    pub(crate) bytes: AtomicUsize,
    pub(crate) live: Level,
    /// What a census finds alive.
    pub(crate) found_chunks: AtomicUsize,
    pub(crate) found_bytes: AtomicUsize,
}

/// Sites in one part of the table.
const PART: usize = 1 << 12;
/// Parts; enough for all sites.
const PARTS: usize = 1 << 12;

/// The table, part by part, each mapped when the first of its sites is counted.
static TABLE: [AtomicPtr<[Counts; PART]>; PARTS] =
    [const { AtomicPtr::new(ptr::null_mut()) }; PARTS];

/// Notes `size` bytes that came to life at `site`.
pub(crate) fn born(site: Site, size: usize) {
    if let Some(counts) = counts(site) {
        counts.calls.fetch_add(1, Relaxed);
        counts.bytes.fetch_add(size, Relaxed);
        counts.live.take(size.cast_signed(), size.cast_signed());
    }
}

/// Notes `size` bytes that were made at `site` and are given back.
pub(crate) fn died(site: Site, size: usize) {
    if let Some(counts) = counts(site) {
        counts.live.take(size.cast_signed().wrapping_neg(), 0);
    }
}

/// Takes back what [`born`] has noted.
#[cfg(target_arch = "x86_64")] // for operators new of allocators in the executable
pub(crate) fn unborn(site: Site, size: usize) {
    if let Some(counts) = counts(site) {
        counts.calls.fetch_sub(1, Relaxed);
        counts.bytes.fetch_sub(size, Relaxed);
        counts.live.take(size.cast_signed().wrapping_neg(), 0);
    }
}

/// All sites whose counts have a place, and their counts.
pub(crate) fn all() -> impl Iterator<Item = (Site, &'static Counts)> {
    [Site::UNKNOWN]
        .into_iter()
        .chain(site::all())
        .filter_map(|site| {
            let (index, offset) = place(site);
            Some((site, part(TABLE.get(index)?)?.get(offset)?))
        })
}

fn place(site: Site) -> (usize, usize) {
    let number = site.number() as usize;
    (number / PART, number % PART)
}

/// The counts of `site`. `None` if there is no memory for them.
#[inline]
pub(crate) fn counts(site: Site) -> Option<&'static Counts> {
    let (index, offset) = place(site);
    let slot = TABLE.get(index)?;
    part(slot).or_else(|| make(slot))?.get(offset)
}

#[inline]
fn part(slot: &AtomicPtr<[Counts; PART]>) -> Option<&'static [Counts; PART]> {
    // SAFETY: null, or a part that stays.
    unsafe { slot.load(Acquire).as_ref() }
}

#[cold]
#[inline(never)]
fn make(slot: &AtomicPtr<[Counts; PART]>) -> Option<&'static [Counts; PART]> {
    let size = size_of::<[Counts; PART]>();
    let made = sys::map_zeros(size)?;
    let pointer = ptr::with_exposed_provenance_mut(made);
    if slot
        .compare_exchange(ptr::null_mut(), pointer, AcqRel, Acquire)
        .is_err()
    {
        // SAFETY: another thread's part is there; nobody has seen this one.
        unsafe { sys::unmap(made, size) };
    }
    part(slot)
}
