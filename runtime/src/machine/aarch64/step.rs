//! A step out of a frame: return address and frame pointer lie side by side, at either end of the frame.

use core::arch::asm;

use crate::memory::Mapped;
use crate::site::cfa::{Base, Row, Saved};
use crate::site::step::{Frame, Outer};

/// Numbers of registers (DWARF for the Arm 64-bit Architecture, "DWARF register names").
pub(crate) const FRAME_POINTER: usize = 29;
pub(crate) const STACK_POINTER: usize = 31;
pub(crate) const RETURN_ADDRESS: usize = 30;
/// Where the return address is, if nothing is said: in its register.
pub(crate) const UNSAVED: Saved = Saved::Same;

/// From the frame of a call to that of its function's own call. 0 if there is none, else the bits are:
///
/// ```text
///  22    21 ......... 8   7 ...... 3               2        1 .......... 0
///  base  frame's end / 16  return address's place  from end  frame pointer
/// ```
///
/// GCC puts the registers at the lower end of the frame, clang at the upper one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Step(u32);

/// The frame pointer: is the same, lies right below the return address, or is lost.
const SAME: u32 = 0;
const BELOW: u32 = 1;
const LOST: u32 = 2;
/// The return address's place is counted in words, down from the frame's end; else up from what that is counted from.
const FROM_END: u32 = 1 << 2;
const PLACE: u32 = 3;
const PLACES: u32 = 1 << 5;
const END: u32 = 8;
const END_LIMIT: u32 = 1 << 14;
const BY_FRAME_POINTER: u32 = 1 << 22;
/// A frame pointer is not so far away from the stack pointer.
const FRAME_LIMIT: usize = 1 << 28;

impl Step {
    const LAST: Self = Self(0);

    /// The step that `row` tells, if the frame is like nearly all are.
    pub(crate) fn of(row: Row) -> Option<Self> {
        let saved = match row.return_address {
            // So it is in the first function of a thread.
            Saved::Other => return Some(Self::LAST),
            Saved::Same => return None,
            Saved::At(offset) => offset,
        };
        let base = match row.base {
            Base::StackPointer => 0,
            Base::FramePointer => BY_FRAME_POINTER,
            Base::Other => return None,
        };
        let frame_pointer = match row.frame_pointer {
            Saved::Same => SAME,
            Saved::At(offset) if offset == saved.wrapping_sub(8) => BELOW,
            Saved::At(_) | Saved::Other => LOST,
        };
        let in_words = |distance: isize| {
            let words = u32::try_from(distance / 8).ok()?;
            (distance % 8 == 0 && words < PLACES).then_some(words << PLACE)
        };
        let end = row.offset.cast_signed();
        let down = in_words(saved.wrapping_neg()).map(|place| place | FROM_END);
        let place = down.or_else(|| in_words(end.wrapping_add(saved)))?;
        let end = u32::try_from(end / 16).ok()?;
        if !row.offset.is_multiple_of(16) || end >= END_LIMIT - 1 {
            return None;
        }
        let step = Self(base | end << END | place | frame_pointer);
        (step != Self::LAST).then_some(step)
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
        if self == Self::LAST {
            return Outer::Nothing;
        }
        let base = if self.0 & BY_FRAME_POINTER == 0 {
            frame.stack
        } else if frame.frame_pointer.wrapping_sub(frame.stack) < FRAME_LIMIT {
            frame.frame_pointer
        } else {
            return Outer::Unknown;
        };
        let end = base.wrapping_add(((self.0 >> END) % END_LIMIT) as usize * 16);
        let place = ((self.0 >> PLACE) % PLACES) as usize * 8;
        let place = if self.0 & FROM_END == 0 {
            base.wrapping_add(place)
        } else {
            end.wrapping_sub(place)
        };
        // SAFETY: the stack of a call that has not returned.
        let place = unsafe { Mapped::new(place) };
        let caller = unsigned(place.word());
        if caller == 0 {
            return Outer::Nothing;
        }
        let frame_pointer = match self.0 & (LOST | BELOW) {
            SAME => frame.frame_pointer,
            BELOW => place.add(8_usize.wrapping_neg()).word(),
            _ => 0,
        };
        Outer::Frame(Frame {
            caller,
            stack: end,
            frame_pointer,
        })
    }
}

/// The address without the signature that functions may save it with. Processors that sign none have no such
/// instruction, and do nothing.
#[inline(always)]
fn unsigned(address: usize) -> usize {
    let plain: usize;
    // SAFETY: XPACLRI, in the encoding that all processors take, changes x30 only.
    unsafe {
        asm!(
            "hint #7",
            inout("x30") address => plain,
            options(nostack, nomem, preserves_flags, pure),
        );
    }
    plain
}
