//! The report that `ALLOCS_REPORT=FILE` asks for, written when the process exits: JSON if FILE ends in
//! `.json`, else text; to standard error if FILE is `-`. Without the variable, and in a program that
//! has more rights than whoever started it, there is none.
//!
//! A forked child has inherited the counts together with the heap that they are about, goes on
//! counting, and writes its own report at its own exit. A FILE that several processes share holds
//! what the last one wrote. Processes that end by `_exit`, a signal or exec write none.

use core::sync::atomic::{AtomicU8, AtomicUsize, Ordering::Relaxed};

use crate::auxv::InitialStack;
use crate::counters::{self, Totals};
use crate::hook::Hook;
use crate::next;
use crate::state::{self, State};
use crate::sys::{self, File};

const VARIABLE: &[u8] = b"ALLOCS_REPORT=";
/// Longest path that the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;

/// FILE, ending in NUL; empty for no report. A copy: programs overwrite their initial environment to
/// change their title.
static FILE: [AtomicU8; PATH_MAX] = [const { AtomicU8::new(0) }; PATH_MAX];

/// Notes what the environment asks for.
pub(crate) fn configure(stack: &InitialStack) {
    if stack.auxv().secure {
        return;
    }
    // Last first; the first of several is the one that getenv would give.
    let Some(value) = stack
        .environment()
        .filter(|string| string.starts_with(VARIABLE))
        .last()
        .map(|string| string.add(VARIABLE.len()))
    else {
        return;
    };
    if (0..PATH_MAX).all(|at| value.add(at).byte() != 0) {
        return;
    }
    for (at, kept) in FILE.iter().enumerate() {
        let byte = value.add(at).byte();
        kept.store(byte, Relaxed);
        if byte == 0 {
            break;
        }
    }
    if is_stderr() {
        keep_stderr();
    }
}

/// Whether there will be a report.
pub(crate) fn is_asked_for() -> bool {
    FILE.first().is_some_and(|byte| byte.load(Relaxed) != 0)
}

/// Whether FILE is `-`.
fn is_stderr() -> bool {
    let bytes = FILE.iter().map(|byte| byte.load(Relaxed));
    bytes.take(2).eq([b'-', 0])
}

/// Many programs close standard error at exit to see whether all was written, and they do so before
/// the report is. The second descriptor is trusted as long as it leads to the same file: a program
/// that closes all descriptors may have got its number again for another one.
fn keep_stderr() {
    if let Some(kept) = File::STDERR.duplicate()
        && let Some((device, inode)) = kept.identity()
    {
        STDERR.device.store(device, Relaxed);
        STDERR.inode.store(inode, Relaxed);
        STDERR.number.store(kept.number(), Relaxed);
    }
}

/// Standard error as it was at the start.
struct Stderr {
    number: AtomicUsize,
    device: AtomicUsize,
    inode: AtomicUsize,
}

static STDERR: Stderr = Stderr {
    number: AtomicUsize::new(0),
    device: AtomicUsize::new(0),
    inode: AtomicUsize::new(0),
};

/// Standard error as far as it can be had now.
fn stderr() -> File {
    let kept = File::from_number(STDERR.number.load(Relaxed));
    let identity = (STDERR.device.load(Relaxed), STDERR.inode.load(Relaxed));
    if kept.identity() == Some(identity) {
        kept
    } else {
        File::STDERR
    }
}

/// Writes the report, if one is asked for.
pub(crate) fn write() {
    let length = FILE
        .iter()
        .take_while(|byte| byte.load(Relaxed) != 0)
        .count();
    let Some(path) = FILE.get(..length).filter(|path| !path.is_empty()) else {
        return;
    };
    TEXT.length.store(0, Relaxed);
    if ends_with(path, b".json") {
        json(&TEXT);
    } else {
        table(&TEXT);
    }
    if is_stderr() {
        stderr().write(TEXT.bytes());
    } else if let Some(file) = File::create(&FILE) {
        file.write(TEXT.bytes());
        file.close();
    }
}

fn ends_with(path: &[AtomicU8], end: &[u8]) -> bool {
    path.len() >= end.len()
        && path
            .iter()
            .rev()
            .zip(end.iter().rev())
            .all(|(byte, end)| byte.load(Relaxed) == *end)
}

/// One object, one line.
fn json(text: &Text) {
    let totals = Totals::now();
    text.put(b"{\"pid\":").number(sys::process_id());
    text.put(b",\"init\":{\"phase\":\"")
        .put(phase())
        .put(b"\",\"hooks_before_init\":");
    text.number(totals.before_init)
        .put(b"},\"live\":{\"chunks\":")
        .number(totals.live_chunks);
    text.put(b",\"bytes\":").size(totals.live_bytes, b"null");
    text.put(b",\"peak_bytes\":")
        .size(totals.peak_bytes, b"null");
    text.put(b"},\"hooks\":{");
    for hook in Hook::ALL {
        let (calls, bytes) = counters::of(hook);
        if hook != Hook::Malloc {
            text.put(b",");
        }
        text.put(b"\"")
            .put(hook.name())
            .put(b"\":{\"calls\":")
            .number(calls);
        text.put(b",\"bytes\":").number(bytes).put(b"}");
    }
    text.put(b"}}\n");
}

/// A few lines and a table of the hooks that were called.
fn table(text: &Text) {
    let totals = Totals::now();
    text.put(b"allocations of process ")
        .number(sys::process_id());
    text.put(b"\nstarted: ")
        .put(phase())
        .put(b"; hook calls before that: ")
        .number(totals.before_init);
    text.put(b"\nlive: ")
        .number(totals.live_chunks)
        .put(b" chunks, ");
    text.size(totals.live_bytes, b"unknown")
        .put(b" bytes; peak: ");
    text.size(totals.peak_bytes, b"unknown").put(b" bytes\n");
    text.left(b"hook").right(b"calls").right(b"bytes\n");
    for hook in Hook::ALL {
        let (calls, bytes) = counters::of(hook);
        if calls != 0 {
            text.left(hook.name());
            text.right(Decimal::of(calls).digits());
            text.right(Decimal::of(bytes).digits()).put(b"\n");
        }
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

/// Text in a fixed buffer. What does not fit is left out; the largest report takes half of it.
struct Text {
    buffer: [AtomicU8; PATH_MAX],
    length: AtomicUsize,
}

/// The report's text. On the stack it would have to be cleared first, by a call of memset, which the
/// compiler makes through a relocated table.
static TEXT: Text = Text::new();

impl Text {
    const fn new() -> Self {
        Self {
            buffer: [const { AtomicU8::new(0) }; PATH_MAX],
            length: AtomicUsize::new(0),
        }
    }

    fn bytes(&self) -> &[AtomicU8] {
        self.buffer
            .get(..self.length.load(Relaxed))
            .unwrap_or_default()
    }

    #[inline(never)]
    fn put(&self, bytes: &[u8]) -> &Self {
        for byte in bytes {
            let length = self.length.load(Relaxed);
            if let Some(place) = self.buffer.get(length) {
                place.store(*byte, Relaxed);
                self.length.store(length.wrapping_add(1), Relaxed);
            }
        }
        self
    }

    /// `bytes`, filled up to the width of the longest hook's name and a space.
    fn left(&self, bytes: &[u8]) -> &Self {
        self.put(bytes).spaces(19, bytes)
    }

    /// A space, and `bytes` at the right of a column that holds numbers up to 15 digits.
    fn right(&self, bytes: &[u8]) -> &Self {
        self.put(b" ").spaces(15, bytes).put(bytes)
    }

    /// What `bytes` lack to fill `width`; the end of the line takes none.
    fn spaces(&self, width: usize, bytes: &[u8]) -> &Self {
        let shown = bytes.iter().filter(|byte| **byte != b'\n').count();
        for _ in shown..width {
            self.put(b" ");
        }
        self
    }

    fn number(&self, number: usize) -> &Self {
        self.put(Decimal::of(number).digits())
    }

    /// A number of bytes that only the program's allocator can tell.
    fn size(&self, bytes: usize, otherwise: &[u8]) -> &Self {
        if next::knows_sizes() {
            self.number(bytes)
        } else {
            self.put(otherwise)
        }
    }
}

/// A number in decimal; the largest has twenty digits.
struct Decimal {
    digits: [u8; 20],
    leading: usize,
}

impl Decimal {
    #[inline(never)]
    fn of(number: usize) -> Self {
        let mut digits = [b'0'; 20];
        let mut rest = number;
        let mut leading = digits.len();
        for digit in digits.iter_mut().rev() {
            *digit = b"0123456789".get(rest % 10).copied().unwrap_or_default();
            leading = leading.wrapping_sub(1);
            rest /= 10;
            if rest == 0 {
                break;
            }
        }
        Self { digits, leading }
    }

    fn digits(&self) -> &[u8] {
        self.digits.get(self.leading..).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_decimal() {
        for number in [0, 7, 10, 10_002, usize::MAX] {
            let text = Text::new();
            text.number(number);
            let bytes: Vec<u8> = text.bytes().iter().map(|byte| byte.load(Relaxed)).collect();
            assert_eq!(bytes, number.to_string().as_bytes());
        }
    }

    #[test]
    fn text_that_does_not_fit_is_cut() {
        let text = Text::new();
        for _ in 0..PATH_MAX {
            text.put(b"ab");
        }
        assert_eq!(text.bytes().len(), PATH_MAX);
    }

    #[test]
    fn the_largest_report_fits() {
        let text = Text::new();
        for hook in Hook::ALL {
            text.put(br#"{"":{"calls":,"bytes":},"#).put(hook.name());
            text.number(usize::MAX).number(usize::MAX);
        }
        assert!(text.bytes().len() < PATH_MAX / 2);
    }
}
