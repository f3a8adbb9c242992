//! System calls: their numbers (Linux, include/uapi/asm-generic/unistd.h), and how they are made.

use core::arch::{asm, naked_asm};

pub(crate) const FCNTL: usize = 25;
pub(crate) const UNLINKAT: usize = 35;
pub(crate) const RENAMEAT: usize = 38;
pub(crate) const OPENAT: usize = 56;
pub(crate) const CLOSE: usize = 57;
pub(crate) const READ: usize = 63;
pub(crate) const WRITE: usize = 64;
pub(crate) const PREAD64: usize = 67;
pub(crate) const PPOLL: usize = 73;
pub(crate) const READLINKAT: usize = 78;
pub(crate) const FSTATAT: usize = 79;
pub(crate) const FSTAT: usize = 80;
pub(crate) const FUTEX: usize = 98;
pub(crate) const NANOSLEEP: usize = 101;
pub(crate) const CLOCK_GETTIME: usize = 113;
pub(crate) const SIGALTSTACK: usize = 132;
pub(crate) const RT_SIGACTION: usize = 134;
pub(crate) const RT_SIGPROCMASK: usize = 135;
pub(crate) const RT_SIGPENDING: usize = 136;
pub(crate) const RT_SIGTIMEDWAIT: usize = 137;
pub(crate) const PRCTL: usize = 167;
pub(crate) const GETPID: usize = 172;
pub(crate) const GETTID: usize = 178;
pub(crate) const MUNMAP: usize = 215;
pub(crate) const MMAP: usize = 222;
pub(crate) const PROCESS_VM_READV: usize = 270;
pub(crate) const SECCOMP: usize = 277;

/// The word of `struct stat` with st_mode in its lower half.
pub(crate) const STAT_MODE: usize = 2;
/// O_NOFOLLOW of open(2).
pub(crate) const O_NOFOLLOW: usize = 0o100_000;

/// One system call: what it returns, negative for an error.
///
/// # Safety
/// As the system call with that number.
pub(crate) unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result: isize;
    // SAFETY: the caller answers for what the call does; the kernel keeps all registers but the result's.
    unsafe {
        asm!(
            "svc #0",
            in("x8") number,
            inlateout("x0") first => result,
            in("x1") second,
            in("x2") third,
            in("x3") fourth,
            in("x4") fifth,
            in("x5") sixth,
            options(nostack),
        );
    }
    result
}

/// Where a handler of a signal returns to.
pub(crate) fn restorer() -> usize {
    let address: usize;
    // SAFETY: computes an address relative to the instruction.
    unsafe {
        asm!(
            "adrp {address}, {function}",
            "add {address}, {address}, :lo12:{function}",
            address = out(reg) address,
            function = sym return_from_signal,
            options(nostack, nomem, preserves_flags),
        );
    }
    address
}

/// rt_sigreturn, in the very instructions by which debuggers and unwinders know a signal's frame.
#[unsafe(naked)]
extern "C" fn return_from_signal() {
    naked_asm!("mov x8, #139", "svc #0")
}

/// A client request of valgrind's (valgrind.h); 0 where there is no valgrind to answer it.
pub(crate) fn ask_valgrind(request: &[usize; 6]) -> usize {
    let answer: usize;
    // SAFETY: rotates a register by twice its width and combines another with itself. valgrind,
    // which knows that sequence, reads the request and writes x3.
    unsafe {
        asm!(
            "ror x12, x12, #3",
            "ror x12, x12, #13",
            "ror x12, x12, #51",
            "ror x12, x12, #61",
            "orr x10, x10, x10",
            inout("x3") 0_usize => answer,
            in("x4") request.as_ptr(),
            options(nostack),
        );
    }
    answer
}
