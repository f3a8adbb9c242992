//! A step out of a frame: the return address lies right before the frame's end.

use crate::machine::shared;
use crate::memory::Mapped;
use crate::site::cfa::{Base, Row, Saved};
use crate::site::step::{Frame, Outer};

/// Numbers of registers (psABI, "DWARF Register Number Mapping").
pub(crate) const FRAME_POINTER: usize = 6;
pub(crate) const STACK_POINTER: usize = 7;
pub(crate) const RETURN_ADDRESS: usize = 16;
/// Where the return address is, if nothing is said.
pub(crate) const UNSAVED: Saved = Saved::Other;

/// From the frame of a call to that of its function's own call. 0 if there is none, else the bits are:
///
/// ```text
///  22    21 ........... 7   6 ............ 0
///  base  frame's end / 8    place of rbp / -8
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step(u32);

/// The place of rbp: nowhere, it is the same; or lost.
const SAME: u32 = 0;
const LOST: u32 = 0x7f;
const BY_RBP: u32 = 1 << 22;
const PLACE: u32 = 7;
const END_LIMIT: u32 = 1 << 15;
/// A frame pointer is not so far away from the stack pointer.
const FRAME_LIMIT: usize = 1 << 28;

impl Step {
    const LAST: Self = Self(0);

    /// The step that `row` tells, if the frame is like nearly all are: its end lies a multiple of eight
    /// bytes from rsp or rbp, and the return address right before it.
    pub(crate) fn of(row: Row) -> Option<Self> {
        if row.return_address == Saved::Other {
            return Some(Self::LAST);
        }
        let base = match row.base {
            Base::StackPointer => 0,
            Base::FramePointer => BY_RBP,
            Base::Other => return None,
        };
        if row.return_address != Saved::At(-8) || !row.offset.is_multiple_of(8) {
            return None;
        }
        let rbp = match row.frame_pointer {
            Saved::Same => SAME,
            Saved::At(offset) if offset < 0 && offset % 8 == 0 => {
                u32::try_from(offset.unsigned_abs() / 8).map_or(LOST, |place| place.min(LOST))
            }
            Saved::At(_) | Saved::Other => LOST,
        };
        let end = u32::try_from(row.offset / 8).ok()?;
        if !(1..END_LIMIT - 1).contains(&end) {
            return None;
        }
        Some(Self(base | end << PLACE | rbp))
    }

    pub(crate) const fn from_bits(bits: u32) -> Self {
        Self(bits)
    }

    /// Less than 2^23.
    pub(crate) const fn bits(self) -> u32 {
        self.0
    }

    /// Takes it.
    ///
    /// # Safety
    /// `frame` must be that of a call that has not returned, and its step must be this.
    #[inline(always)]
    pub(crate) unsafe fn take(self, frame: Frame) -> Outer {
        let base = if self.0 & BY_RBP == 0 {
            frame.stack
        } else if frame.frame_pointer.wrapping_sub(frame.stack) < FRAME_LIMIT {
            frame.frame_pointer
        } else {
            return Outer::Unknown;
        };
        let end = base.wrapping_add(((self.0 >> PLACE) % END_LIMIT) as usize * 8);
        // SAFETY: the stack of a call that has not returned.
        let caller = unsafe { shared::word_before(end) };
        if self == Self::LAST || caller == 0 {
            return Outer::Nothing;
        }
        let rbp = match self.0 % (1 << PLACE) {
            SAME => frame.frame_pointer,
            LOST => 0,
            place => {
                let place = end.wrapping_sub(place as usize * 8);
                // SAFETY: as above.
                unsafe { Mapped::new(place) }.word()
            }
        };
        Outer::Frame(Frame {
            caller,
            stack: end,
            frame_pointer: rbp,
        })
    }
}
