//! One step out of a frame, small enough to be the value of a table's entry.

pub(crate) use crate::machine::step::Step;

/// What the stack tells about one call that has not returned.
#[derive(Clone, Copy)]
pub(crate) struct Frame {
    /// Where the call returns to.
    pub(crate) caller: usize,
    /// The stack pointer when it has.
    pub(crate) stack: usize,
    /// The frame pointer then; 0 if that is not known.
    pub(crate) frame_pointer: usize,
}

/// Where a step leads.
pub(crate) enum Outer {
    Frame(Frame),
    /// This was the first function of its thread.
    Nothing,
    /// The frame begins at a frame pointer that is not known.
    Unknown,
}
