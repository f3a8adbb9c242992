//! Signals that ask the program to end: what was begun is taken away first, then the program ends by that
//! signal, and whoever waits for it sees why. A second one ends it at once.

use std::fs;
use std::io;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM, SIGXFSZ};
use signal_hook::{flag, low_level};

/// Takes note of signals.
pub(crate) struct Signals {
    /// The number of the last one; 0 if there was none.
    received: Arc<AtomicUsize>,
}

impl Signals {
    pub(crate) fn watch() -> Self {
        let received = Arc::default();
        // Where that is not possible, they do what they do in any program.
        let _ = register(&received);
        Self { received }
    }

    /// Whether there is time for more.
    pub(crate) fn go_on(&self) -> ControlFlow<()> {
        match self.received.load(Ordering::Relaxed) {
            0 => ControlFlow::Continue(()),
            _ => ControlFlow::Break(()),
        }
    }

    /// Ends by the signal that was received, if any.
    pub(crate) fn obey(&self) {
        for signal in [SIGHUP, SIGINT, SIGTERM] {
            if self.received.load(Ordering::Relaxed) == number(signal) {
                let _ = low_level::emulate_default_handler(signal);
            }
        }
    }
}

fn register(received: &Arc<AtomicUsize>) -> io::Result<()> {
    // Then a file beyond the size limit is an error of write(2), which has a message.
    flag::register(SIGXFSZ, Arc::default())?;
    let ignored = ignored()?;
    let before = Arc::new(AtomicBool::new(false));
    for signal in [SIGHUP, SIGINT, SIGTERM] {
        // nohup(1), for one, is to be obeyed.
        if ignored >> (number(signal) - 1) & 1 == 0 {
            flag::register_conditional_default(signal, Arc::clone(&before))?;
            flag::register(signal, Arc::clone(&before))?;
            flag::register_usize(signal, Arc::clone(received), number(signal))?;
        }
    }
    Ok(())
}

/// The signals that are ignored from the start, as a mask (proc(5), SigIgn).
fn ignored() -> io::Result<u64> {
    let status = fs::read_to_string("/proc/self/status")?;
    let mut lines = status.lines();
    let mask = lines.find_map(|line| line.strip_prefix("SigIgn:"));
    u64::from_str_radix(mask.unwrap_or_default().trim(), 16).map_err(io::Error::other)
}

fn number(signal: i32) -> usize {
    usize::try_from(signal).unwrap_or_default()
}
