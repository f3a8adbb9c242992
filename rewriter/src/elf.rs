//! The ELF structures that are read and written, in host form.
//!
//! A file offset, a virtual address and a table index are different types here, so that none can
//! be taken for another. Decoding and encoding go through `object`'s typed structures; everything
//! after this module works with plain integers and never with byte order.

pub(crate) use self::entries::{Dyn, Rela, Symbol};
pub(crate) use self::format::{Addends, Class, Format, Relocations};
pub(crate) use self::gnu_hash::GnuHash;
pub(crate) use self::header::Header;
pub(crate) use self::section::Section;
pub(crate) use self::segment::Segment;

mod entries;
mod format;
mod gnu_hash;
mod header;
mod section;
mod segment;

use std::fmt;

use object::pod::{Pod, from_bytes};

/// Smallest unit in which any kernel maps and protects memory, in bytes. What has to be in one page has to be in one
/// of these; segments are aligned for larger pages as those that the linker made are.
pub(crate) const PAGE: u64 = 4096;

/// A position in a file, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct FileOffset(pub(crate) u64);

/// An address as the file's program headers count them, before any load bias.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Vaddr(pub(crate) u64);

macro_rules! offset_arithmetic {
    ($type:ident) => {
        impl $type {
            /// `self + bytes`, or `None` where that leaves 64 bits.
            pub(crate) fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// `self - bytes`, or `None` below zero.
            pub(crate) fn checked_sub(self, bytes: u64) -> Option<Self> {
                self.0.checked_sub(bytes).map(Self)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

offset_arithmetic!(FileOffset);
offset_arithmetic!(Vaddr);

impl Vaddr {
    /// Bytes from `start` to `self`, or `None` where `start` lies behind.
    pub(crate) fn since(self, start: Self) -> Option<u64> {
        self.0.checked_sub(start.0)
    }
}

/// `value` rounded down to a multiple of `unit`; a unit of 0 or 1 leaves it as it is.
pub(crate) fn align_down(value: u64, unit: u64) -> u64 {
    value - value.checked_rem(unit).unwrap_or(0)
}

/// `value` rounded up to a multiple of `unit`, or `None` where that leaves 64 bits.
pub(crate) fn align_up(value: u64, unit: u64) -> Option<u64> {
    match value.checked_rem(unit).unwrap_or(0) {
        0 => Some(value),
        rest => value.checked_add(unit - rest),
    }
}

/// True if `[a, a+a_len)` and `[b, b+b_len)` share a byte; an empty range shares none.
pub(crate) fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a_len > 0 && b_len > 0 && a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

/// One fixed-size entry of an ELF table.
pub(crate) trait Entry: Sized {
    /// Size in a file of that format, in bytes.
    fn size(format: Format) -> u64;
    /// The entry at the start of `bytes`; `None` if `bytes` is too short.
    fn decode(bytes: &[u8], format: Format) -> Option<Self>;
    /// The entry as it stands in a file of that format.
    fn encode(&self, format: Format) -> Vec<u8>;
    /// A table of them.
    fn encode_all(entries: &[Self], format: Format) -> Vec<u8> {
        let mut bytes = Vec::new();
        for entry in entries {
            bytes.extend_from_slice(&entry.encode(format));
        }
        bytes
    }
}

fn raw<T: Pod>(bytes: &[u8]) -> Option<&T> {
    from_bytes::<T>(bytes).ok().map(|(value, _)| value)
}

/// What is written of `value` where the file has 32 bits for it. Addresses that are calculated wrap around, and
/// everything else was read from such a file, or is less than its size.
fn low(value: u64) -> u32 {
    u32::try_from(value & u64::from(u32::MAX)).unwrap_or(u32::MAX)
}
