//! What the kernel says of another thread. It knows a thread by a number, which libc keeps in the thread's control
//! block.

use core::ffi::CStr;
use core::mem::MaybeUninit;

use super::{File, signal};
use crate::digits::Digits;
use crate::machine::control_block;
use crate::sandbox;

/// Longest path here, with a NUL.
const PATH: usize = 48;
/// Longest line: nine numbers.
const LINE: usize = 256;

/// The stack pointer of the thread with that thread pointer, if it waits in a system call; above all frames if it has
/// ended. `None` if it runs or may run, and if that is not known.
pub(crate) fn stack_pointer_of(thread: usize) -> Option<usize> {
    let number = control_block::number(thread)?;
    // 0 when it has ended; -1 in glibc when it was joined.
    match usize::try_from(number) {
        Ok(0) | Err(_) => Some(usize::MAX),
        Ok(_) if sandbox::is_entered() => None,
        Ok(number) => signal::uninterrupted(|| stack_pointer_in(number)),
    }
}

fn stack_pointer_in(number: usize) -> Option<usize> {
    let mut path = [0; PATH];
    let number = Digits::of(number, 10);
    let parts: [&[u8]; 3] = [b"/proc/self/task/", number.get(), b"/syscall"];
    for (place, byte) in path.iter_mut().zip(parts.into_iter().flatten()) {
        *place = *byte;
    }
    let file = File::open(CStr::from_bytes_until_nul(&path).ok()?)?;
    let mut buffer = MaybeUninit::<[u8; LINE]>::uninit();
    let stack = parse(file.read(&mut buffer));
    file.close();
    stack
}

/// The last number but one, the last one being the program counter. "running" if the thread does not wait.
fn parse(line: &[u8]) -> Option<usize> {
    let number = line.rsplit(|byte| *byte == b' ').nth(1)?;
    let digits = number.strip_prefix(b"0x")?.iter();
    digits.copied().try_fold(0_usize, |value, byte| {
        let digit = char::from(byte).to_digit(16)?;
        Some(value << 4 | digit as usize)
    })
}

#[cfg(test)]
#[allow(
    clippy::unwrap_used,
    reason = "a test says that something is wrong by panicking"
)]
mod tests {
    use std::sync::mpsc;
    use std::thread;
    use std::time::Duration;

    use super::*;
    use crate::sys::thread_pointer;

    #[test]
    fn lines() {
        let line =
            b"0 0x3 0x7f3bcc307000 0x20000 0x0 0xffffffff 0x0 0x7ffdad0455e8 0x7f3bcc4802ad\n";
        assert_eq!(parse(line), Some(0x7ffd_ad04_55e8));
        assert_eq!(
            parse(b"-1 0x7ffdad0455e8 0x7f3bcc4802ad\n"),
            Some(0x7ffd_ad04_55e8)
        );
        assert_eq!(parse(b"running\n"), None);
        assert_eq!(parse(b""), None);
    }

    #[test]
    fn a_thread_that_waits_has_its_stack_pointer_below_its_frames() {
        let (tell, told) = mpsc::channel();
        let (end, ended) = mpsc::channel::<()>();
        let waiting = thread::spawn(move || {
            let frame = 0_u8;
            tell.send((thread_pointer(), (&raw const frame).expose_provenance()))
                .unwrap();
            ended.recv().unwrap_err();
        });
        let (thread, frame) = told.recv().unwrap();
        let stack = (0..1000).find_map(|_| {
            thread::sleep(Duration::from_millis(1));
            stack_pointer_of(thread)
        });
        assert!((1..1 << 16).contains(&frame.wrapping_sub(stack.unwrap())));
        drop(end);
        waiting.join().unwrap();
    }
}
