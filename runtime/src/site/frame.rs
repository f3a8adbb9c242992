//! How to get out of a frame: what .eh_frame says about one return address.
//!
//! The table that PT_GNU_EH_FRAME leads to gives the function's FDE by binary search; the FDE and its
//! CIE hold a small program, which is run up to the call (LSB 5.0 core, chapter 10; DWARF 5, section
//! 6.4). Whatever is not what compilers emit for ordinary functions ends in `None`: then the stack is
//! followed no further.

use crate::machine::step::RETURN_ADDRESS;
use crate::memory::Mapped;
use crate::site::cfa::{Program, Row};
use crate::site::cursor::{Cursor, encoding};

/// One function as .eh_frame describes it.
pub(crate) struct Function {
    /// Its first address.
    pub(crate) begin: usize,
    pub(crate) size: usize,
    cie: Cie,
    instructions: Cursor,
}

/// What functions have in common.
#[derive(Clone, Copy)]
struct Cie {
    code_alignment: usize,
    data_alignment: isize,
    /// How the FDE's addresses are encoded.
    encoding: u8,
    has_augmentation: bool,
    instructions: Cursor,
}

impl Function {
    /// The function that contains `address`, by the table of `size` bytes at `header`.
    pub(crate) fn find(header: Mapped, size: usize, address: usize) -> Option<Self> {
        const TABLE: u8 = encoding::DATA_RELATIVE | encoding::SDATA4;
        let mut start = Cursor::new(header, size);
        let (version, frame) = (start.byte()?, start.byte()?);
        let (count, table) = (start.byte()?, start.byte()?);
        let frame = frame & encoding::FORMAT;
        if version != 1 || count != encoding::UDATA4 || table != TABLE {
            return None;
        }
        if frame != encoding::SDATA4 && frame != encoding::UDATA4 {
            return None;
        }
        start.skip(4)?;
        let count = start.u32()?;
        let entries = start.place();
        start.skip((count as usize).checked_mul(8)?)?;

        let offset = |at: Mapped| {
            header
                .address()
                .wrapping_add_signed(at.u32().cast_signed() as isize)
        };
        // The last entry that begins at the address or before it.
        let (mut low, mut high) = (0, count);
        while low < high {
            let middle = low.wrapping_add(high.wrapping_sub(low) / 2);
            if offset(entries.nth(middle, 8)) <= address {
                low = middle.wrapping_add(1);
            } else {
                high = middle;
            }
        }
        let entry = entries.nth(low.checked_sub(1)?, 8);
        // SAFETY: the table of a loaded object leads to its FDEs.
        let function = Self::read(unsafe { Mapped::new(offset(entry.add(4))) })?;
        (address.wrapping_sub(function.begin) < function.size).then_some(function)
    }

    /// Reads the FDE.
    fn read(fde: Mapped) -> Option<Self> {
        let mut cursor = Cursor::of_entry(fde)?;
        let cie = cursor.place().address();
        let cie = cie.wrapping_sub(cursor.u32()? as usize);
        // SAFETY: an FDE says where its CIE is.
        let cie = Cie::read(unsafe { Mapped::new(cie) })?;
        let begin = cursor.pointer(cie.encoding)?;
        let size = cursor.pointer(cie.encoding & encoding::FORMAT)?;
        if cie.has_augmentation {
            let length = cursor.unsigned()?;
            cursor.skip(length)?;
        }
        Some(Self {
            begin,
            size,
            cie,
            instructions: cursor,
        })
    }

    /// What holds at `address`.
    pub(crate) fn row(&self, address: usize) -> Option<Row> {
        let mut program = Program::new(self.cie.code_alignment, self.cie.data_alignment);
        let within = address.wrapping_sub(self.begin);
        program.run(self.cie.instructions, usize::MAX)?;
        program.begin();
        program.run(self.instructions, within)?;
        Some(program.row())
    }
}

impl Cie {
    fn read(at: Mapped) -> Option<Self> {
        let mut cursor = Cursor::of_entry(at)?;
        if cursor.u32()? != 0 {
            return None;
        }
        let version = cursor.byte()?;
        let mut augmentation = cursor;
        while cursor.byte()? != 0 {}
        let code_alignment = cursor.unsigned()?;
        let data_alignment = cursor.signed()?;
        let return_address = match version {
            1 => usize::from(cursor.byte()?),
            3 => cursor.unsigned()?,
            _ => return None,
        };
        if return_address != RETURN_ADDRESS {
            return None;
        }
        let mut cie = Self {
            code_alignment,
            data_alignment,
            encoding: encoding::ABSOLUTE,
            has_augmentation: false,
            instructions: cursor,
        };
        match augmentation.byte()? {
            0 => return Some(cie),
            b'z' => {}
            _ => return None,
        }
        cie.has_augmentation = true;
        let length = cursor.unsigned()?;
        let mut data = cursor;
        cursor.skip(length)?;
        cie.instructions = cursor;
        loop {
            match augmentation.byte()? {
                0 => return Some(cie),
                b'R' => cie.encoding = data.byte()?,
                b'L' => data.skip(1)?,
                b'P' => {
                    let format = data.byte()? & encoding::FORMAT;
                    data.pointer(format)?;
                }
                // AArch64: return addresses are signed with the other key; memory is tagged.
                b'B' | b'G' => {}
                // 'S' is a signal handler's frame, which no call made.
                _ => return None,
            }
        }
    }
}
