//! Encoded pointers (LSB 5.0 core, "DWARF Exception Header Encoding").

use gimli::{EndianSlice, LittleEndian, Reader};

/// A part of .eh_frame; nothing is read beyond its end.
pub(super) type Slice<'a> = EndianSlice<'a, LittleEndian>;

/// Formats of pointers, and what they count from.
pub(super) const UDATA4: u8 = 3;
pub(super) const SDATA4: u8 = 0xb;
pub(super) const PC_RELATIVE: u8 = 0x10;
const UDATA2: u8 = 2;
const FORMAT: u8 = 0xf;
const BASE: u8 = 0x70;

/// A pointer that counts from nothing or from its own place.
#[derive(Clone, Copy)]
pub(super) struct Pointer {
    /// Where in .eh_frame it is, and how long, in bytes.
    pub(super) at: usize,
    pub(super) size: usize,
    pub(super) value: i64,
    /// It counts from its own place.
    pub(super) relative: bool,
}

impl Pointer {
    /// The one that `input`, a part of `frame`, begins with.
    pub(super) fn read(frame: Slice<'_>, input: &mut Slice<'_>, encoding: u8) -> Option<Self> {
        let relative = match encoding & BASE {
            0 => false,
            PC_RELATIVE => true,
            _ => return None,
        };
        // Where the record moves, the distance to what is in front of it may be less than 0.
        if relative && [UDATA2, UDATA4].contains(&(encoding & FORMAT)) {
            return None;
        }
        let at = input.offset_from(frame);
        let value = number(input, encoding)?;
        Some(Self {
            at,
            size: input.offset_from(frame).checked_sub(at)?,
            value,
            relative,
        })
    }
}

/// A number in the format of a pointer.
pub(super) fn number(input: &mut Slice<'_>, encoding: u8) -> Option<i64> {
    let number = match encoding & FORMAT {
        0 | 4 | 0xc => input.read_i64(),
        UDATA2 => input.read_u16().map(i64::from),
        UDATA4 => input.read_u32().map(i64::from),
        0xa => input.read_i16().map(i64::from),
        SDATA4 => input.read_i32().map(i64::from),
        _ => return None,
    };
    number.ok()
}
