//! Where a report is written to while it is made: a buffer that goes to the file whenever it is full, as
//! it is or as gzip. There is one buffer, so there is one report at a time.
//!
//! A thread that wants to report while another one does waits for it, but not for long: the other may be
//! writing to a pipe that this one would have to read. A signal handler that interrupted the very report
//! gives up at once. The one report that goes ahead then is that at exit: what it interrupted never goes on. One
//! that was left by a longjmp disturbs nobody.

use crate::digits::Digits;
use crate::holder::Holder;
use crate::memory::Mapped;
use crate::pair::Pair;
use crate::report::gzip::{self, Gzip};
use crate::sync::{AtomicU8, Ordering};
use crate::sys::signal::Blocked;
use crate::sys::{self, File};

/// Not on the stack: the report may have to be made on a small signal stack. Less than 64 KiB, which
/// is what a block of a gzip file may hold.
const SIZE: usize = 16 << 10;
static BUFFER: [AtomicU8; SIZE] = [const { AtomicU8::new(0) }; SIZE];

/// Process and thread that are making a report, 0 if none is; and where its [`Holder`] lies.
static WRITER: Pair = Pair::new();
/// How often a report that waits for another one looks whether it is made: for five seconds or more.
const LOOKS: usize = 50_000;

/// The right to make a report, and to use everything in memory that there is for one report only.
pub(crate) struct Turn<'a> {
    _blocked: Blocked,
    holder: &'a Holder,
}

impl<'a> Turn<'a> {
    /// Waits for it. `signal` is the one that asks for reports; it waits until this one is made.
    pub(crate) fn wait(holder: &'a Holder, signal: usize, at_exit: bool) -> Option<Self> {
        let blocked = Blocked::new(signal);
        let process = sys::process_id();
        let own = process << 32 | sys::thread_id();
        for _ in 0..LOOKS {
            let [writer, its_holder] = WRITER.load();
            let is_left = || {
                !Holder::is_there(its_holder, writer)
                    || writer == own && (at_exit || holder.has_left(its_holder))
            };
            // In a child that was forked meanwhile, nobody is writing any more.
            if writer == 0 || writer >> 32 != process || is_left() {
                holder.set(own);
                if WRITER.change([writer, its_holder], [own, holder.address()]) {
                    return Some(Self {
                        _blocked: blocked,
                        holder,
                    });
                }
                holder.set(0);
            } else if writer == own {
                return None;
            } else {
                sys::sleep_briefly();
            }
        }
        None
    }
}

impl Drop for Turn<'_> {
    fn drop(&mut self) {
        let [writer, its_holder] = WRITER.load();
        // Unless the report at exit has taken it.
        if its_holder == self.holder.address() {
            WRITER.change([writer, its_holder], [0; 2]);
        }
        self.holder.set(0);
    }
}

/// A report in the making.
pub(crate) struct Output<'a> {
    turn: &'a Turn<'a>,
    file: &'a File,
    length: usize,
    gzip: Option<Gzip>,
    complete: bool,
}

impl<'a> Output<'a> {
    /// Begins one; the turn proves that the buffer is free.
    pub(crate) fn new(turn: &'a Turn<'a>, file: &'a File, compressed: bool) -> Self {
        let mut output = Self {
            turn,
            file,
            length: 0,
            gzip: None,
            complete: true,
        };
        if compressed {
            output.put(&gzip::HEADER).flush();
            output.gzip = Some(Gzip::new());
            output.begin_block();
        }
        output
    }

    /// The turn that it was begun in.
    pub(crate) fn turn(&self) -> &'a Turn<'a> {
        self.turn
    }

    #[inline(never)]
    pub(crate) fn put(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.byte(*byte);
        }
        self
    }

    pub(crate) fn byte(&mut self, byte: u8) -> &mut Self {
        if self.length == SIZE {
            self.flush();
            self.begin_block();
        }
        if let Some(place) = BUFFER.get(self.length) {
            place.store(byte, Ordering::Relaxed);
            self.length = self.length.wrapping_add(1);
        }
        self
    }

    /// Strings end there. Those of a library that is just being unloaded may have lost their end.
    pub(crate) const LONGEST_STRING: usize = 4096;

    /// The NUL-terminated string there.
    pub(crate) fn string(&mut self, string: Mapped) -> &mut Self {
        for byte in string.bytes().take(Self::LONGEST_STRING) {
            self.byte(byte);
        }
        self
    }

    /// In decimal.
    pub(crate) fn number(&mut self, number: usize) -> &mut Self {
        self.put(Digits::of(number, 10).get())
    }

    /// In hexadecimal.
    pub(crate) fn hexadecimal(&mut self, number: usize) -> &mut Self {
        self.put(Digits::of(number, 16).get())
    }

    /// A byte as two hexadecimal digits.
    pub(crate) fn two_digits(&mut self, byte: u8) -> &mut Self {
        // What is left of three digits without the first.
        let digits = Digits::of(usize::from(byte) | 0x100, 16);
        self.put(digits.get().get(1..).unwrap_or_default())
    }

    /// Writes what the buffer holds. After a failure nothing more is written: a report with a hole in
    /// it would look like a whole one.
    fn flush(&mut self) {
        let filled = BUFFER.get(..self.length).unwrap_or_default();
        if let Some(gzip) = &mut self.gzip {
            gzip.end_block(filled);
        }
        self.complete = self.complete && self.file.write(filled);
        self.length = 0;
    }

    /// Leaves room for a block's header, which says how long it is.
    fn begin_block(&mut self) {
        if self.gzip.is_some() {
            self.length = gzip::BLOCK_HEADER;
        }
    }

    /// Writes the rest. Whether all of the report is in the file.
    pub(crate) fn end(mut self) -> bool {
        self.flush();
        if let Some(gzip) = self.gzip.take() {
            self.put(&gzip.end()).flush();
        }
        self.complete
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::{TURN, written};

    #[test]
    fn bytes_have_two_digits() {
        let bytes = written(false, |output| {
            output.two_digits(0).two_digits(0xa).two_digits(0xff);
        });
        assert_eq!(bytes, b"000aff");
    }

    #[test]
    fn what_is_longer_than_the_buffer_is_written_whole() {
        let line = b"ten bytes.";
        let bytes = written(false, |output| {
            for _ in 0..SIZE {
                output.put(line);
            }
        });
        assert_eq!(bytes, line.repeat(SIZE));
    }

    #[test]
    fn one_thread_makes_one_report_at_a_time() {
        let _alone = TURN.lock();
        let [deeper, holder] = &[Holder::new(), Holder::new()];
        let turn = Turn::wait(holder, 0, false);
        assert!(turn.is_some());
        assert!(Turn::wait(deeper, 0, false).is_none(), "from a handler");
        let other = std::thread::spawn(|| Turn::wait(&Holder::new(), 0, false).is_some());
        std::thread::sleep(std::time::Duration::from_millis(50));
        drop(turn);
        assert!(other.join().is_ok_and(|had_it| had_it), "another thread");
    }
}
