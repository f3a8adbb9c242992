//! Reading .eh_frame: numbers of variable length, encoded pointers, never beyond the record's end.

use std::ops::Range;

/// Formats of pointers, and what they count from (LSB 5.0 core, "DWARF Exception Header Encoding").
pub(super) const UDATA4: u8 = 3;
pub(super) const SDATA4: u8 = 0xb;
pub(super) const PC_RELATIVE: u8 = 0x10;
const FORMAT: u8 = 0xf;
const BASE: u8 = 0x70;

/// Somewhere in a record.
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    pub(super) at: usize,
    pub(super) end: usize,
}

/// An encoded pointer.
#[derive(Clone, Copy)]
pub(super) struct Pointer {
    pub(super) at: usize,
    /// In bytes.
    pub(super) size: usize,
    pub(super) value: i64,
    /// It counts from its own place.
    pub(super) relative: bool,
}

impl<'a> Cursor<'a> {
    /// At `at` of `bytes`, in a record that goes to `end`.
    pub(super) fn new(bytes: &'a [u8], at: usize, end: usize) -> Self {
        Self { bytes, at, end }
    }

    /// Bytes of the record.
    pub(super) fn slice(&self, range: Range<usize>) -> Option<&'a [u8]> {
        let inside = range.end <= self.end;
        self.bytes.get(range).filter(|_| inside)
    }

    pub(super) fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let end = self.at.checked_add(size)?;
        let bytes = self.slice(self.at..end)?;
        self.at = end;
        Some(bytes)
    }

    /// What is left of the record.
    pub(super) fn rest(&self) -> Option<&'a [u8]> {
        self.slice(self.at..self.end)
    }

    pub(super) fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    pub(super) fn u32(&mut self) -> Option<u32> {
        let (words, _) = self.take(4)?.as_chunks();
        words.first().map(|word| u32::from_le_bytes(*word))
    }

    /// A number of seven bits a byte; of a signed one, this is only its length.
    pub(super) fn uleb(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..u64::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// A string without its NUL.
    pub(super) fn string(&mut self) -> Option<&'a [u8]> {
        let rest = self.rest()?;
        let len = memchr::memchr(0, rest)?;
        self.take(len.checked_add(1)?)?.get(..len)
    }

    /// A number in the format of a pointer.
    pub(super) fn number(&mut self, encoding: u8) -> Option<i64> {
        let size = match encoding & FORMAT {
            0 | 4 | 0xc => 8,
            UDATA4 | SDATA4 => 4,
            2 | 0xa => 2,
            _ => return None,
        };
        let bytes = self.take(size)?;
        let number = (bytes.iter().rev()).fold(0_u64, |sum, byte| sum << 8 | u64::from(*byte));
        let unused = u64::BITS.checked_sub(8 * u32::try_from(size).ok()?)?;
        Some(match encoding & FORMAT >= 8 {
            true => (number << unused).cast_signed() >> unused,
            false => number.cast_signed(),
        })
    }

    /// A pointer that counts from nothing or from its own place.
    pub(super) fn pointer(&mut self, encoding: u8) -> Option<Pointer> {
        let at = self.at;
        if encoding == 0xff {
            return Some(Pointer {
                at,
                size: 0,
                value: 0,
                relative: false,
            });
        }
        let relative = match encoding & BASE {
            0 => false,
            PC_RELATIVE => true,
            _ => return None,
        };
        let value = self.number(encoding)?;
        Some(Pointer {
            at,
            size: self.at.checked_sub(at)?,
            value,
            relative,
        })
    }
}
