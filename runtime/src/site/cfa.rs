//! The programs of .eh_frame: from which register the frame's end (CFA) is counted, and where the
//! return address and frame pointer were saved.

use crate::machine::step::{FRAME_POINTER, RETURN_ADDRESS, STACK_POINTER, UNSAVED};
use crate::site::cursor::Cursor;

/// How many states compilers ever want remembered at once.
const REMEMBERED: usize = 8;

/// What the frame's end is counted from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Base {
    StackPointer,
    FramePointer,
    /// Another register, or an expression.
    Other,
}

/// Where a register's value of before the call is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Saved {
    /// It is still in the register.
    Same,
    /// In memory, so many bytes from the frame's end.
    At(isize),
    /// Elsewhere, or lost.
    Other,
}

/// What holds at one address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Row {
    pub(crate) base: Base,
    pub(crate) offset: usize,
    pub(crate) frame_pointer: Saved,
    pub(crate) return_address: Saved,
}

impl Row {
    const START: Self = Self {
        base: Base::Other,
        offset: 0,
        frame_pointer: Saved::Same,
        return_address: UNSAVED,
    };

    fn set_base(&mut self, register: usize) {
        self.base = match register {
            STACK_POINTER => Base::StackPointer,
            FRAME_POINTER => Base::FramePointer,
            _ => Base::Other,
        };
    }

    fn set(&mut self, register: usize, saved: Saved) {
        match register {
            FRAME_POINTER => self.frame_pointer = saved,
            RETURN_ADDRESS => self.return_address = saved,
            _ => {}
        }
    }
}

/// A program that is being run.
pub(crate) struct Program {
    code_alignment: usize,
    data_alignment: isize,
    row: Row,
    /// What the CIE says, for DW_CFA_restore.
    initial: Row,
    remembered: [Row; REMEMBERED],
    depth: usize,
}

impl Program {
    pub(crate) fn new(code_alignment: usize, data_alignment: isize) -> Self {
        Self {
            code_alignment,
            data_alignment,
            row: Row::START,
            initial: Row::START,
            remembered: [Row::START; REMEMBERED],
            depth: 0,
        }
    }

    /// What has been run was the CIE's.
    pub(crate) fn begin(&mut self) {
        self.initial = self.row;
    }

    pub(crate) fn row(&self) -> Row {
        self.row
    }

    /// Runs `instructions` as far as they are about the code up to `within` bytes from the function's
    /// beginning, including that byte.
    pub(crate) fn run(&mut self, mut instructions: Cursor, within: usize) -> Option<()> {
        let mut reached = 0_usize;
        let from = &mut instructions;
        while !from.is_at_end() {
            let instruction = from.byte()?;
            let low = usize::from(instruction & 0x3f);
            let advance = match (instruction >> 6, low) {
                (1, _) => low,
                (0, 0x02) => usize::from(from.byte()?),
                (0, 0x03) => usize::from(from.u16()?),
                (0, 0x04) => from.u32()? as usize,
                (2, _) => {
                    let offset = from.unsigned()?;
                    self.saved_at(low, offset.cast_signed());
                    continue;
                }
                (3, _) => {
                    self.restore(low);
                    continue;
                }
                _ => {
                    self.extended(instruction, from)?;
                    continue;
                }
            };
            reached = reached.wrapping_add(advance.wrapping_mul(self.code_alignment));
            if reached > within {
                break;
            }
        }
        Some(())
    }

    /// One of the instructions that are a whole byte.
    fn extended(&mut self, instruction: u8, from: &mut Cursor) -> Option<()> {
        match instruction {
            // nop
            0x00 => {}
            // offset_extended, offset_extended_sf, GNU_negative_offset_extended
            0x05 => {
                let (register, offset) = (from.unsigned()?, from.unsigned()?);
                self.saved_at(register, offset.cast_signed());
            }
            0x11 => {
                let (register, offset) = (from.unsigned()?, from.signed()?);
                self.saved_at(register, offset);
            }
            0x2f => {
                let (register, offset) = (from.unsigned()?, from.unsigned()?);
                self.saved_at(register, offset.cast_signed().wrapping_neg());
            }
            // restore_extended
            0x06 => self.restore(from.unsigned()?),
            // undefined; same_value
            0x07 => self.row.set(from.unsigned()?, Saved::Other),
            0x08 => self.row.set(from.unsigned()?, Saved::Same),
            // register; val_offset, val_offset_sf
            0x09 | 0x14 | 0x15 => {
                let register = from.unsigned()?;
                from.unsigned()?;
                self.row.set(register, Saved::Other);
            }
            // remember_state; restore_state
            0x0a => {
                *self.remembered.get_mut(self.depth)? = self.row;
                self.depth = self.depth.wrapping_add(1);
            }
            0x0b => {
                self.depth = self.depth.checked_sub(1)?;
                self.row = *self.remembered.get(self.depth)?;
            }
            // def_cfa, def_cfa_sf
            0x0c => {
                self.row.set_base(from.unsigned()?);
                self.row.offset = from.unsigned()?;
            }
            0x12 => {
                self.row.set_base(from.unsigned()?);
                self.row.offset = self.factored(from.signed()?).cast_unsigned();
            }
            // def_cfa_register
            0x0d => self.row.set_base(from.unsigned()?),
            // def_cfa_offset, def_cfa_offset_sf
            0x0e => self.row.offset = from.unsigned()?,
            0x13 => self.row.offset = self.factored(from.signed()?).cast_unsigned(),
            // def_cfa_expression
            0x0f => {
                let length = from.unsigned()?;
                from.skip(length)?;
                self.row.base = Base::Other;
            }
            // expression; val_expression
            0x10 | 0x16 => {
                let register = from.unsigned()?;
                let length = from.unsigned()?;
                from.skip(length)?;
                self.row.set(register, Saved::Other);
            }
            // AARCH64_negate_ra_state: what is saved has a signature, or no longer.
            0x2d => {}
            // GNU_args_size: of no matter to where the frame ends
            0x2e => {
                from.unsigned()?;
            }
            _ => return None,
        }
        Some(())
    }

    fn factored(&self, offset: isize) -> isize {
        offset.wrapping_mul(self.data_alignment)
    }

    fn saved_at(&mut self, register: usize, offset: isize) {
        let offset = self.factored(offset);
        self.row.set(register, Saved::At(offset));
    }

    fn restore(&mut self, register: usize) {
        match register {
            FRAME_POINTER => self.row.frame_pointer = self.initial.frame_pointer,
            RETURN_ADDRESS => self.row.return_address = self.initial.return_address,
            _ => {}
        }
    }
}
