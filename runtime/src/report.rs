//! The reports: what `ALLOCS_REPORT=FILE` asks for when the process exits, the snapshots that
//! `ALLOCS_SIGNAL=SIGNAL` asks for while it runs, and what the program asks for with alloc_report. Without
//! the variables, and in a program that has more rights than whoever started it, there are none but
//! the last.
//!
//! ```text
//!  at exit ────────┐                                        ┌─▶ text
//!  signal ─────────┼─▶ Turn ──▶ Target ──▶ Output ◀── Format ┼─▶ json
//!  alloc_report ───┘            (FILE)     (gzip)           └─▶ pprof
//! ```
//!
//! A forked child has inherited the counts together with the heap that they are about, goes on
//! counting, and writes its own report at its own exit. A FILE that several processes share holds
//! what the last one wrote. Processes that end by `_exit`, a signal or exec write none.

use crate::auxv::InitialStack;
use crate::holder::Holder;
use crate::memory::Mapped;
use crate::state::{self, State};
use crate::sync::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use crate::sys::File;
use crate::sys::signal::Stack;

mod gzip;
mod json;
mod output;
mod pprof;
mod signal;
mod target;
mod text;

use output::Output;
pub(crate) use output::Turn;
use target::Target;

/// How many snapshots there were.
static SNAPSHOTS: AtomicUsize = AtomicUsize::new(0);

/// Notes what the environment asks for.
pub(crate) fn configure(stack: &InitialStack) {
    let auxv = stack.auxv();
    if auxv.secure {
        return;
    }
    if let Some(file) = stack.variable(b"ALLOCS_REPORT=") {
        // SAFETY: the kernel says that a string is there.
        let program = (auxv.path != 0).then(|| unsafe { Mapped::new(auxv.path) });
        target::configure(file, program);
        if let Some(signal) = stack.variable(b"ALLOCS_SIGNAL=") {
            signal::configure(signal);
        }
    }
}

/// Whether there will be a report when the process exits.
pub(crate) fn is_asked_for() -> bool {
    target::file().is_some()
}

/// Has signals ask for snapshots from now on.
pub(crate) fn start() {
    signal::install();
}

/// Writes the report at exit, if one is asked for.
pub(crate) fn write() {
    let holder = Holder::new();
    if is_asked_for()
        && let Some(turn) = Turn::wait(&holder, signal::number(), true)
    {
        write_file(&turn, None);
    }
}

/// Writes a snapshot. In a signal handler.
fn snapshot() {
    static STACK: Stack = Stack::new();
    let holder = Holder::new();
    if let Some(turn) = Turn::wait(&holder, signal::number(), false) {
        // SAFETY: the turn is one at a time, and the handler has all signals wait.
        unsafe { STACK.call(write_snapshot, &turn) };
    }
}

extern "C" fn write_snapshot(turn: &Turn<'_>) {
    let number = SNAPSHOTS.fetch_add(1, Relaxed).wrapping_add(1);
    write_file(turn, Some(number));
}

fn write_file(turn: &Turn<'_>, snapshot: Option<usize>) {
    if let Some(name) = target::file()
        && let Some(target) = Target::open(turn, snapshot)
    {
        let complete = Format::of_name(name).write(turn, &target.file);
        target.close(complete);
    }
}

/// Writes a report to a descriptor of the program's. Whether all of it was written; `None` inside of a report
/// that this thread is making already (in a signal handler, that is), or while another thread's takes too
/// long.
pub(crate) fn write_to(descriptor: usize, format: Format) -> Option<bool> {
    let holder = Holder::new();
    let turn = Turn::wait(&holder, signal::number(), false)?;
    Some(format.write(&turn, &File::from_number(descriptor)))
}

/// How a report is written down.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Format {
    Text,
    Json,
    Pprof,
    PprofGzip,
}

impl Format {
    /// That of a file with this name.
    fn of_name(name: &[AtomicU8]) -> Self {
        if target::ends_with(name, b".json") {
            Self::Json
        } else if target::ends_with(name, b".pb") {
            Self::Pprof
        } else if target::ends_with(name, b".pb.gz") {
            Self::PprofGzip
        } else {
            Self::Text
        }
    }

    /// As `alloc_report` is told.
    pub(crate) fn of_text(text: Mapped) -> Option<Self> {
        if text.is(b"txt") {
            Some(Self::Text)
        } else if text.is(b"json") {
            Some(Self::Json)
        } else if text.is(b"pb") {
            Some(Self::Pprof)
        } else if text.is(b"pb.gz") {
            Some(Self::PprofGzip)
        } else {
            None
        }
    }

    /// Writes a report. Whether all of it was written.
    fn write(self, turn: &Turn<'_>, file: &File) -> bool {
        let mut output = Output::new(turn, file, self == Self::PprofGzip);
        match self {
            Self::Text => text::write(&mut output),
            Self::Json => json::write(&mut output),
            Self::Pprof | Self::PprofGzip => pprof::write(&mut output),
        }
        output.end()
    }
}

/// The first life-cycle call that reached the runtime, by name.
fn phase() -> &'static [u8] {
    let state = state::first();
    if state == State::Relocation {
        b"relocation"
    } else if state == State::Preinit {
        b"preinit"
    } else if state == State::Entry {
        b"entry"
    } else {
        b"constructor"
    }
}

#[cfg(test)]
#[allow(
    clippy::expect_used,
    reason = "a test says that something is wrong by panicking"
)]
mod tests {
    use std::io::{Read, Seek};
    use std::os::fd::AsRawFd;
    use std::sync::Mutex;

    use super::*;

    /// Tests in one process take turns.
    pub(crate) static TURN: Mutex<()> = Mutex::new(());

    /// What `work` writes to its output.
    pub(crate) fn written(compressed: bool, work: impl FnOnce(&mut Output<'_>)) -> Vec<u8> {
        let _alone = TURN.lock();
        let holder = Holder::new();
        let turn = Turn::wait(&holder, 0, false).expect("no other report");
        let path = std::env::temp_dir().join(format!("allocs-output-{}", std::process::id()));
        let mut file = std::fs::File::create_new(&path).expect("a new file");
        let descriptor = File::from_number(file.as_raw_fd() as usize);
        let mut output = Output::new(&turn, &descriptor, compressed);
        work(&mut output);
        assert!(output.end());
        let mut bytes = Vec::new();
        let mut reader = std::fs::File::open(&path).expect("the file");
        reader.read_to_end(&mut bytes).expect("its content");
        file.rewind().expect("still open");
        std::fs::remove_file(path).expect("removed");
        bytes
    }
}
