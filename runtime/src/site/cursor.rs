//! Reading .eh_frame: numbers of variable length, encoded pointers, never beyond the entry's end.

use crate::memory::Mapped;

/// DW_EH_PE_*: how a pointer is encoded, and what it is relative to.
pub(crate) mod encoding {
    pub(crate) const ABSOLUTE: u8 = 0x00;
    pub(crate) const UDATA4: u8 = 0x03;
    pub(crate) const UDATA8: u8 = 0x04;
    pub(crate) const SDATA4: u8 = 0x0b;
    pub(crate) const SDATA8: u8 = 0x0c;
    pub(crate) const PC_RELATIVE: u8 = 0x10;
    pub(crate) const DATA_RELATIVE: u8 = 0x30;
    /// Size and sign.
    pub(crate) const FORMAT: u8 = 0x0f;
}

/// The rest of one entry.
#[derive(Clone, Copy)]
pub(crate) struct Cursor {
    place: Mapped,
    rest: usize,
}

impl Cursor {
    pub(crate) const fn new(place: Mapped, rest: usize) -> Self {
        Self { place, rest }
    }

    /// The entry of .eh_frame at `place`, without its length.
    pub(crate) fn of_entry(place: Mapped) -> Option<Self> {
        // 0 ends the section; all ones announce a length of eight bytes, which nobody needs.
        let length = place.u32();
        (1..u32::MAX)
            .contains(&length)
            .then(|| Self::new(place.add(4), length as usize))
    }

    pub(crate) fn place(&self) -> Mapped {
        self.place
    }

    pub(crate) fn is_at_end(&self) -> bool {
        self.rest == 0
    }

    pub(crate) fn skip(&mut self, bytes: usize) -> Option<()> {
        self.rest = self.rest.checked_sub(bytes)?;
        self.place = self.place.add(bytes);
        Some(())
    }

    /// The next `bytes`, and goes on behind them.
    fn take(&mut self, bytes: usize) -> Option<Mapped> {
        let place = self.place;
        self.skip(bytes)?;
        Some(place)
    }

    pub(crate) fn byte(&mut self) -> Option<u8> {
        Some(self.take(1)?.byte())
    }

    pub(crate) fn u16(&mut self) -> Option<u16> {
        Some(self.take(2)?.u16())
    }

    pub(crate) fn u32(&mut self) -> Option<u32> {
        Some(self.take(4)?.u32())
    }

    /// ULEB128, as far as it fits into a word.
    pub(crate) fn unsigned(&mut self) -> Option<usize> {
        let mut value = 0_usize;
        for shift in (0..usize::BITS).step_by(7) {
            let byte = self.byte()?;
            value |= usize::from(byte & 0x7f) << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    /// SLEB128, as far as it fits into a word.
    pub(crate) fn signed(&mut self) -> Option<isize> {
        let before = self.rest;
        let value = self.unsigned()?;
        let bits = u32::try_from(before.wrapping_sub(self.rest))
            .ok()?
            .wrapping_mul(7);
        // The highest bit that was written is the sign.
        let unused = usize::BITS.saturating_sub(bits);
        Some(value.wrapping_shl(unused).cast_signed() >> unused)
    }

    /// A pointer, encoded as `encoding` says.
    pub(crate) fn pointer(&mut self, encoding: u8) -> Option<usize> {
        let place = self.place;
        let value = match encoding & encoding::FORMAT {
            encoding::UDATA4 => self.u32()? as usize,
            encoding::SDATA4 => (self.u32()?.cast_signed() as isize).cast_unsigned(),
            encoding::ABSOLUTE | encoding::UDATA8 | encoding::SDATA8 => self.take(8)?.word(),
            _ => return None,
        };
        match encoding & !encoding::FORMAT {
            encoding::ABSOLUTE => Some(value),
            encoding::PC_RELATIVE => Some(value.wrapping_add(place.address())),
            _ => None,
        }
    }
}
