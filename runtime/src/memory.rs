//! Reading what the kernel and the loader left in memory: the initial stack, program headers,
//! dynamic tables. The one place where an address becomes a read: one instruction, because this is memory that Rust
//! knows nothing about, not aligned by its rules, on the initial stack even its own frames.

use core::mem::MaybeUninit;
use core::ptr;
use core::slice;

use crate::arena::Plain;
use crate::machine::shared;
use crate::pages;
use crate::sandbox;
use crate::sys::{self, Copied, File};

/// An address inside such a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapped(usize);

impl Mapped {
    /// # Safety
    /// `address` must lie in a table that the kernel or the loader made, that stays mapped, and
    /// whose contents are what its format says: the reads that follow the table rely on it.
    pub(crate) const unsafe fn new(address: usize) -> Self {
        Self(address)
    }

    /// The address itself.
    pub(crate) const fn address(self) -> usize {
        self.0
    }

    /// `bytes` further on.
    pub(crate) const fn add(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The `index`th of the values of `size` bytes that begin here.
    pub(crate) const fn nth(self, index: u32, size: usize) -> Self {
        self.add((index as usize).wrapping_mul(size))
    }

    pub(crate) fn byte(self) -> u8 {
        // SAFETY: whoever made the first `Mapped` of this table answered for it.
        unsafe { shared::byte(self.0) }
    }

    pub(crate) fn u16(self) -> u16 {
        // SAFETY: as above.
        unsafe { shared::half(self.0) }
    }

    pub(crate) fn u32(self) -> u32 {
        // SAFETY: as above.
        unsafe { shared::int(self.0) }
    }

    pub(crate) fn word(self) -> usize {
        // SAFETY: as above.
        unsafe { shared::word(self.0) }
    }

    /// The bytes of the NUL-terminated string here.
    pub(crate) fn bytes(self) -> impl Iterator<Item = u8> {
        (0..)
            .map(move |at| self.add(at).byte())
            .take_while(|byte| *byte != 0)
    }

    /// Whether the NUL-terminated string here is `text`.
    pub(crate) fn is(self, text: &[u8]) -> bool {
        self.starts_with(text) && self.add(text.len()).byte() == 0
    }

    /// Whether the NUL-terminated string here begins with `text`.
    pub(crate) fn starts_with(self, text: &[u8]) -> bool {
        text.iter()
            .enumerate()
            .all(|(at, expected)| self.add(at).byte() == *expected)
    }
}

/// How an object is read: where the loader put it, or in its file.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Access {
    /// As it is. The object is never unloaded.
    Direct,
    /// By the kernel, which says if there is nothing: another thread may unload the object at this moment. In a sandbox as it
    /// is, for there the kernel cannot be asked.
    Loaded,
    /// By the kernel, and in a sandbox not at all: it may be any memory.
    Guarded,
    /// Addresses are offsets in the open file with that descriptor.
    File(usize),
}

impl Access {
    /// The words at `address`. `None` if they are not there; with `Direct` they always are.
    pub(crate) fn words<const WORDS: usize>(self, address: usize) -> Option<[usize; WORDS]> {
        let mut words = [0; WORDS];
        self.fill(address, &mut words).then_some(words)
    }

    /// The four bytes at `address`, a multiple of four.
    pub(crate) fn u32(self, address: usize) -> Option<u32> {
        // A word that is aligned lies in one page.
        let [word] = self.words(address & !7)?;
        let half = if address & 4 == 0 { word } else { word >> 32 };
        u32::try_from(half & 0xffff_ffff).ok()
    }

    /// Copies what is at `address` into `buffer`, and says whether it could.
    pub(crate) fn fill<T: Plain>(self, address: usize, buffer: &mut [T]) -> bool {
        let to = buffer.as_mut_ptr().expose_provenance();
        // SAFETY: the buffer is that long, and its type has no invalid values.
        unsafe { self.copy(address, to, size_of_val(buffer)) }
    }

    /// The same with the first `count` values of a buffer that nothing was written to. (To write zeros to a long
    /// one the compiler calls memset, and rustc calls that through a relocation.)
    pub(crate) fn fill_new<T: Plain, const MOST: usize>(
        self,
        address: usize,
        count: usize,
        buffer: &mut MaybeUninit<[T; MOST]>,
    ) -> Option<&[T]> {
        let size = Some(count)
            .filter(|count| *count <= MOST)?
            .wrapping_mul(size_of::<T>());
        let at: *mut T = buffer.as_mut_ptr().cast();
        // SAFETY: the buffer is that long.
        let is_filled = unsafe { self.copy(address, at.expose_provenance(), size) };
        // SAFETY: so many values have been written, of a type without invalid ones.
        is_filled.then(|| unsafe { slice::from_raw_parts(at, count) })
    }

    /// # Safety
    /// The `size` bytes at `to` must be memory that may be overwritten with anything.
    unsafe fn copy(self, from: usize, to: usize, size: usize) -> bool {
        match self {
            Self::Direct => {}
            Self::File(number) => {
                let file = File::from_number(number);
                // SAFETY: the caller answers for it.
                return unsafe { file.read_at(from, to, size) };
            }
            Self::Loaded if sandbox::is_entered() => {}
            // SAFETY: the caller answers for it.
            Self::Loaded | Self::Guarded => match unsafe { sys::copy_own_memory(from, to, size) } {
                Copied::All => return true,
                Copied::Faulted => return false,
                // Between the question and the reads another thread could unmap it. Only a sandbox that
                // forbids the system call leaves that gap.
                Copied::Refused if !sandbox::is_entered() && is_mapped(from, size) => {}
                Copied::Refused => return false,
            },
        }
        // SAFETY: the loader made this, and it was just found mapped or always is.
        let here = unsafe { Mapped::new(from) };
        let words = size & !(size_of::<usize>() - 1);
        for at in (0..words).step_by(size_of::<usize>()) {
            let place = ptr::with_exposed_provenance_mut::<usize>(to.wrapping_add(at));
            // SAFETY: the caller answers for it.
            unsafe { place.write_unaligned(here.add(at).word()) };
        }
        for at in words..size {
            let place = ptr::with_exposed_provenance_mut::<u8>(to.wrapping_add(at));
            // SAFETY: the caller answers for it.
            unsafe { place.write(here.add(at).byte()) };
        }
        true
    }
}

/// Whether all pages of `size` bytes at `address` can be read.
fn is_mapped(address: usize, size: usize) -> bool {
    let Some(last) = address.checked_add(size.saturating_sub(1)) else {
        return false;
    };
    let first = address & !(pages::LEAST - 1);
    (first..=last).step_by(pages::LEAST).all(sys::is_readable)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_mapped_is_not_read() {
        let words = [7_usize, 8, 9];
        let address = (&raw const words).expose_provenance();
        for access in [Access::Direct, Access::Guarded] {
            assert_eq!(access.words(address), Some(words));
        }
        assert_eq!(Access::Guarded.words::<1>(pages::LEAST), None);
        assert_eq!(Access::Guarded.words::<1>(usize::MAX - 3), None);
        assert!(is_mapped(address, 24));
        assert!(!is_mapped(pages::LEAST, 1));
        assert!(!is_mapped(usize::MAX, 24));
    }
}
