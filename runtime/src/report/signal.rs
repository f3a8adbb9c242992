//! `ALLOCS_SIGNAL=SIGNAL`: each time that this signal comes, a snapshot is written.

use crate::memory::Mapped;
use crate::sync::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use crate::sys::signal;

/// The names of the first signals, in their order: the number of the first is 1.
const NAMES: &[u8] =
    b"HUP INT QUIT ILL TRAP ABRT BUS FPE KILL USR1 SEGV USR2 PIPE ALRM TERM STKFLT \
CHLD CONT STOP TSTP TTIN TTOU URG XCPU XFSZ VTALRM PROF WINCH IO PWR SYS";

/// Signals that no snapshot answers. After a fault (ILL, TRAP, BUS, FPE, SEGV) the instruction would be
/// tried again for ever; KILL and STOP cannot be handled; 32 to 34 are the C libraries' own.
const REFUSED: [usize; 10] = [4, 5, 7, 8, 11, 9, 19, 32, 33, 34];

/// The signal; 0 if there is none.
#[unsafe(link_section = ".data")]
static SIGNAL: AtomicUsize = AtomicUsize::new(0);
static IS_HANDLED: AtomicBool = AtomicBool::new(false);

/// Notes the signal: its name, with SIG or without, or its number.
pub(crate) fn configure(text: Mapped) {
    if let Some(signal) = parse(text) {
        SIGNAL.store(signal, Relaxed);
    }
}

/// The signal; 0 if there is none.
pub(crate) fn number() -> usize {
    SIGNAL.load(Relaxed)
}

/// Has it ask for snapshots, unless the program handles it itself by now. Once: what the program does
/// about it afterwards counts.
pub(crate) fn install() {
    let signal = number();
    if signal != 0 && !IS_HANDLED.swap(true, Relaxed) {
        signal::handle(signal, handler);
    }
}

/// Whatever it interrupts finds everything as it was: it calls no function of any library, so it
/// does not touch `errno`, and the kernel restores the registers.
extern "C" fn handler(_: i32) {
    super::snapshot();
}

fn parse(text: Mapped) -> Option<usize> {
    let name = if text.starts_with(b"SIG") {
        text.add(3)
    } else {
        text
    };
    let of_name = NAMES.split(|byte| *byte == b' ').zip(1..);
    let number = of_name
        .filter(|(known, _)| name.is(known))
        .map(|(_, number)| number)
        .next()
        .or_else(|| parse_number(text))?;
    (1..=signal::MOST)
        .contains(&number)
        .then_some(number)
        .filter(|number| !REFUSED.contains(number))
}

fn parse_number(text: Mapped) -> Option<usize> {
    text.bytes().take(3).try_fold(0_usize, |number, byte| {
        let digit = usize::from(byte.wrapping_sub(b'0'));
        (digit < 10).then(|| number.wrapping_mul(10).wrapping_add(digit))
    })
}

#[cfg(test)]
mod tests {
    use core::ffi::CStr;

    use super::*;

    fn parsed(text: &CStr) -> Option<usize> {
        // SAFETY: a string.
        parse(unsafe { Mapped::new(text.as_ptr().expose_provenance()) })
    }

    #[test]
    fn signals_have_names_and_numbers() {
        for (text, number) in [
            (c"SIGUSR2", 12),
            (c"USR2", 12),
            (c"12", 12),
            (c"HUP", 1),
            (c"SYS", 31),
            (c"64", 64),
        ] {
            assert_eq!(parsed(text), Some(number), "{text:?}");
        }
        for text in [
            c"",
            c"SIG",
            c"0",
            c"65",
            c"USR",
            c"USR22",
            c"USR1 USR2",
            c"12x",
            c"4096",
            c"-1",
        ] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }

    #[test]
    fn what_a_snapshot_does_not_answer_is_refused() {
        for text in [c"SEGV", c"SIGBUS", c"KILL", c"STOP", c"33"] {
            assert_eq!(parsed(text), None, "{text:?}");
        }
    }
}
