//! How far the process has come, as the life-cycle calls tell it.

use crate::sync::{AtomicU8, Ordering::Relaxed};

/// The states, in the order in which a process goes through them. None is left for an earlier one.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub(crate) enum State {
    Loaded,
    Relocation,
    Preinit,
    Entry,
    Running,
    Exiting,
}

#[unsafe(link_section = ".data")]
static STATE: AtomicU8 = AtomicU8::new(State::Loaded as u8);
/// The state that came after [`State::Loaded`].
#[unsafe(link_section = ".data")]
static FIRST: AtomicU8 = AtomicU8::new(State::Loaded as u8);

/// Whether init has been called at all.
pub(crate) fn reached() -> bool {
    STATE.load(Relaxed) != State::Loaded as u8
}

/// The state that the first life-cycle call brought the runtime to; by the constructor it is running.
pub(crate) fn first() -> State {
    let is_first = |state: &State| *state as u8 == FIRST.load(Relaxed);
    let states = [
        State::Relocation,
        State::Preinit,
        State::Entry,
        State::Running,
        State::Exiting,
    ];
    states.into_iter().find(is_first).unwrap_or(State::Loaded)
}

impl State {
    /// Begins the work of init, on the way to this state: hooks still come before it.
    pub(crate) fn begin(self) {
        FIRST.store(self as u8, Relaxed);
    }

    /// Goes on to this state.
    pub(crate) fn reach(self) {
        STATE.fetch_max(self as u8, Relaxed);
    }
}
