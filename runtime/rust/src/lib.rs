//! Questions about memory: which allocation does this address lie in, how large is it, where was it made?
//!
//! A program that uses this crate needs no library when it is linked and runs unchanged without the runtime; the
//! answer is then [`Error::NotAvailable`]. With the runtime (a program that allocs-rewrite has rewritten, or
//! LD_PRELOAD) the answers cover every allocation of the malloc family since the first one. Linkers need no flag for
//! that, but for mold: `-C link-arg=-Wl,-z,dynamic-undefined-weak`, from 2.37 on.
//!
//! ```
//! let boxed = Box::new([0_u8; 10_000]);
//! match allocs::at(&boxed[5_000]) {
//!     Ok(allocation) => {
//!         assert_eq!(allocation.base(), boxed.as_ptr().cast_mut());
//!         assert_eq!(allocation.size(), 10_000);
//!     }
//!     Err(error) => assert_eq!(error, allocs::Error::NotAvailable),
//! }
//! ```
//!
//! All functions may be called by any thread at any time, in signal handlers too. None allocates, and none but
//! those of [`Allocator`] changes anything. What they say about memory that another thread is just giving back is
//! what was true at some moment during the call.
//!
//! | module | what |
//! | --- | --- |
//! | `answers` | [`Info`] and what is in it |
//! | `allocator` | [`Allocator`]: those of the runtime, and the program's own |
//! | `error` | [`Error`] |
//! | `weak` | the functions of `allocs.h`, which are there or not |
#![no_std]

#[cfg(not(all(
    target_arch = "x86_64",
    target_os = "linux",
    target_pointer_width = "64"
)))]
compile_error!("the crate `allocs` is for x86-64 Linux, as the runtime is");

mod allocator;
mod answers;
mod error;
mod weak;

use core::ffi::{c_int, c_void};
use core::ops::{Bound, ControlFlow, RangeBounds};
use core::ptr::{self, NonNull};

pub use allocator::Allocator;
pub use answers::{Allocation, File, Info, Mapping, MappingKind, Place, Site};
pub use error::Error;

/// Whether the runtime is in this process.
///
/// ```
/// if !allocs::is_available() {
///     eprintln!("rewrite this program with allocs-rewrite to see where its memory goes");
/// }
/// ```
#[must_use]
pub fn is_available() -> bool {
    weak::get_info().is_some()
}

/// The innermost allocation that contains the address.
///
/// ```
/// let text = String::from("as long as it is");
/// if let Ok(allocation) = allocs::at(text.as_ptr()) {
///     println!("{} bytes, {} to use", allocation.size(), allocation.usable_size());
/// }
/// ```
///
/// # Errors
///
/// Why there is none.
pub fn at<T: ?Sized>(address: *const T) -> Result<Allocation, Error> {
    info(address).allocation()
}

/// Everything about an address, from the allocation that it lies in up to the mapping, as far as it is known.
///
/// ```
/// static TABLE: [u32; 1_001] = [7; 1_001];
/// if let Some(mapping) = allocs::info(&TABLE[500]).mapping() {
///     assert_eq!(mapping.kind(), allocs::MappingKind::Object);
/// }
/// ```
#[must_use]
pub fn info<T: ?Sized>(address: *const T) -> Info {
    let Some(get_info) = weak::get_info() else {
        return Info::without(Error::NotAvailable);
    };
    let mut known = weak::Info::NOTHING;
    // SAFETY: any address may be asked about, and there is room for the answer.
    let code = unsafe { get_info(address.cast(), &raw mut known) };
    Info::new(known, Error::check(code))
}

/// Where the innermost allocation that contains the address begins. What is in the heap is found without a look at
/// what is mapped, so this, [`size`], [`site`] and [`allocator`] are much quicker than [`at`].
///
/// ```
/// let numbers = vec![1_u64, 2, 3];
/// if let Some(base) = allocs::base(&numbers[2]) {
///     assert_eq!(base.as_ptr().cast_const(), numbers.as_ptr().cast());
/// }
/// ```
pub fn base<T: ?Sized>(address: *const T) -> Option<NonNull<u8>> {
    let get_base = weak::get_base()?;
    // SAFETY: any address may be asked about.
    NonNull::new(unsafe { get_base(address.cast()) }.cast())
}

/// How many bytes were asked for, for the innermost allocation that contains the address.
pub fn size<T: ?Sized>(address: *const T) -> Option<usize> {
    let get_size = weak::get_size()?;
    base(address)?;
    // SAFETY: any address may be asked about.
    Some(unsafe { get_size(address.cast()) })
}

/// Where the innermost allocation that contains the address was made.
pub fn site<T: ?Sized>(address: *const T) -> Option<Site> {
    let get_site = weak::get_site()?;
    // SAFETY: any address may be asked about.
    Site::new(unsafe { get_site(address.cast()) })
}

/// Who made the innermost allocation that contains the address.
pub fn allocator<T: ?Sized>(address: *const T) -> Option<Allocator> {
    let get_allocator = weak::get_allocator()?;
    // SAFETY: any address may be asked about.
    let allocator = unsafe { get_allocator(address.cast()) };
    // SAFETY: null, or an allocator, which lives as long as the process.
    unsafe { allocator.as_ref() }.map(Allocator::of)
}

/// The return addresses of the stack that made the allocation, the innermost first: as many as were recorded
/// (`ALLOCS_STACK=N`) and as there is room for in `frames`.
///
/// ```
/// let boxed = Box::new(7);
/// for site in allocs::stack(&raw const *boxed, &mut [None; 16]).iter().flatten() {
///     println!("{:#x}", site.address());
/// }
/// ```
pub fn stack<T: ?Sized>(address: *const T, frames: &mut [Option<Site>]) -> &[Option<Site>] {
    let count = weak::get_stack().map_or(0, |get_stack| {
        let room: *mut *const c_void = frames.as_mut_ptr().cast();
        // SAFETY: a site is an address, and `None` is null; there is room for that many.
        unsafe { get_stack(address.cast(), room, frames.len()) }
    });
    frames.get(..count).unwrap_or_default()
}

/// Shows `visit` every live allocation in a range of addresses, until it breaks. Other threads may go on allocating,
/// and `visit` may allocate and free: what lives during the whole walk is shown once, what comes or goes meanwhile
/// once or not at all. [`Allocator::walk`] shows those of one allocator.
///
/// If `visit` panics, the process is aborted: what called it is no Rust that could be unwound.
///
/// ```
/// use std::ops::ControlFlow;
///
/// let mut bytes = 0;
/// let walked = allocs::walk(.., |allocation| {
///     bytes += allocation.size();
///     ControlFlow::<()>::Continue(())
/// });
/// match walked {
///     Ok(_) => println!("{bytes} bytes are alive"),
///     Err(error) => println!("{error}"),
/// }
/// ```
///
/// # Errors
///
/// The runtime is not in this process.
pub fn walk<B>(
    range: impl RangeBounds<usize>,
    visit: impl FnMut(&Allocation) -> ControlFlow<B>,
) -> Result<ControlFlow<B>, Error> {
    walk_over(range, ptr::null(), visit)
}

/// The same for one allocator, if it is not null.
fn walk_over<B, F: FnMut(&Allocation) -> ControlFlow<B>>(
    range: impl RangeBounds<usize>,
    allocator: *const weak::Allocator,
    visit: F,
) -> Result<ControlFlow<B>, Error> {
    let walk = weak::walk().ok_or(Error::NotAvailable)?;
    let Some(range) = addresses(range, allocator) else {
        return Ok(ControlFlow::Continue(()));
    };
    let mut walking = Walking {
        visit,
        result: ControlFlow::Continue(()),
    };
    let argument: *mut Walking<B, F> = &raw mut walking;
    // SAFETY: `show` gets the argument that it is for.
    unsafe { walk(&raw const range, show::<B, F>, argument.cast()) };
    Ok(walking.result)
}

/// What a walk carries along.
struct Walking<B, F> {
    visit: F,
    result: ControlFlow<B>,
}

/// Shows one allocation; 0 to go on. A panic does not leave it: an `extern "C"` function aborts.
unsafe extern "C" fn show<B, F: FnMut(&Allocation) -> ControlFlow<B>>(
    chunk: *const weak::Chunk,
    argument: *mut c_void,
) -> c_int {
    // SAFETY: `walk_over` passes it, and uses it again only when the walk is over.
    let walking = unsafe { &mut *argument.cast::<Walking<B, F>>() };
    // SAFETY: valid until this returns.
    let chunk = unsafe { &*chunk };
    // SAFETY: the walk has filled it in.
    let allocation = unsafe { Allocation::of_chunk(chunk) };
    walking.result = (walking.visit)(&allocation);
    c_int::from(walking.result.is_break())
}

/// A range as C has it, where null does not restrict. `None` if no address is in it.
fn addresses(
    range: impl RangeBounds<usize>,
    allocator: *const weak::Allocator,
) -> Option<weak::Range> {
    let begin = match range.start_bound() {
        Bound::Included(first) => *first,
        Bound::Excluded(before) => before.checked_add(1)?,
        Bound::Unbounded => 0,
    };
    let end = match range.end_bound() {
        Bound::Included(last) => last.checked_add(1),
        Bound::Excluded(end) => Some(*end),
        Bound::Unbounded => None,
    };
    end.is_none_or(|end| begin < end).then_some(weak::Range {
        begin,
        end: end.unwrap_or(0),
        allocator,
    })
}

/// The formats of reports.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Format {
    /// Text, of the hundred sites that have most memory alive.
    Text,
    /// JSON, one object on one line.
    Json,
    /// A profile for pprof.
    Pprof,
    /// The same with gzip's header, as pprof's own files have it.
    PprofGz,
}

/// Writes a census by site to a file descriptor.
///
/// ```
/// // SAFETY: standard error is open as long as the process lives.
/// if let Err(error) = unsafe { allocs::report(2, allocs::Format::Text) } {
///     eprintln!("no report: {error}");
/// }
/// ```
///
/// # Errors
///
/// [`Error::NotAvailable`] without the runtime, or if another report is under way; [`Error::Invalid`] if the
/// descriptor did not take all of it.
///
/// # Safety
///
/// The descriptor is open, and the caller's to write to, until the function returns (`std::io`, "I/O Safety").
pub unsafe fn report(descriptor: c_int, format: Format) -> Result<(), Error> {
    let report = weak::report().ok_or(Error::NotAvailable)?;
    let format = match format {
        Format::Text => c"txt",
        Format::Json => c"json",
        Format::Pprof => c"pb",
        Format::PprofGz => c"pb.gz",
    };
    // SAFETY: the descriptor is the caller's, and the format is a string.
    Error::check(unsafe { report(descriptor, format.as_ptr()) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// As C has it.
    fn ends(range: impl RangeBounds<usize>) -> Option<(usize, usize)> {
        addresses(range, ptr::null()).map(|range| (range.begin, range.end))
    }

    #[test]
    fn ranges_of_rust_are_ranges_of_c() {
        assert_eq!(ends(..), Some((0, 0)));
        assert_eq!(ends(5..9), Some((5, 9)));
        assert_eq!(ends(5..=9), Some((5, 10)));
        assert_eq!(ends(5..=usize::MAX), Some((5, 0)));
        assert_eq!(ends((Bound::Excluded(5), Bound::Unbounded)), Some((6, 0)));
        assert_eq!(ends(..0), None);
        assert_eq!(ends(9..9), None);
        assert_eq!(ends((Bound::Excluded(usize::MAX), Bound::Unbounded)), None);
    }

    #[test]
    fn nothing_is_known_without_the_runtime() {
        let address = ptr::from_ref(&7);
        assert!(!is_available());
        assert_eq!(at(address).err(), Some(Error::NotAvailable));
        assert!(info(address).mapping().is_none());
        assert!(info(address).file().is_none());
        assert_eq!(base(address), None);
        assert_eq!(size(address), None);
        assert_eq!(site(address), None);
        assert_eq!(allocator(address), None);
        assert!(stack(address, &mut [None; 4]).is_empty());
        let walked = walk(.., |_| ControlFlow::Break(()));
        assert_eq!(walked, Err(Error::NotAvailable));
        assert_eq!(Allocator::register(c"pool"), Err(Error::NotAvailable));
        // SAFETY: standard output is open.
        let reported = unsafe { report(1, Format::Text) };
        assert_eq!(reported, Err(Error::NotAvailable));
    }
}
