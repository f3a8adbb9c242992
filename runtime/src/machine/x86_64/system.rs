//! System calls: their numbers (Linux, arch/x86/entry/syscalls/syscall_64.tbl), and how they are made.

use core::arch::{asm, naked_asm};

pub(crate) const READ: usize = 0;
pub(crate) const WRITE: usize = 1;
pub(crate) const CLOSE: usize = 3;
pub(crate) const FSTAT: usize = 5;
pub(crate) const MMAP: usize = 9;
pub(crate) const MUNMAP: usize = 11;
pub(crate) const RT_SIGACTION: usize = 13;
pub(crate) const RT_SIGPROCMASK: usize = 14;
pub(crate) const PREAD64: usize = 17;
pub(crate) const NANOSLEEP: usize = 35;
pub(crate) const GETPID: usize = 39;
pub(crate) const FCNTL: usize = 72;
pub(crate) const RT_SIGPENDING: usize = 127;
pub(crate) const RT_SIGTIMEDWAIT: usize = 128;
pub(crate) const SIGALTSTACK: usize = 131;
pub(crate) const PRCTL: usize = 157;
pub(crate) const GETTID: usize = 186;
pub(crate) const FUTEX: usize = 202;
pub(crate) const CLOCK_GETTIME: usize = 228;
pub(crate) const OPENAT: usize = 257;
pub(crate) const FSTATAT: usize = 262;
pub(crate) const UNLINKAT: usize = 263;
pub(crate) const RENAMEAT: usize = 264;
pub(crate) const READLINKAT: usize = 267;
pub(crate) const PPOLL: usize = 271;
pub(crate) const PROCESS_VM_READV: usize = 310;
pub(crate) const SECCOMP: usize = 317;

/// The word of `struct stat` with st_mode in its lower half.
pub(crate) const STAT_MODE: usize = 3;
/// O_NOFOLLOW of open(2).
pub(crate) const O_NOFOLLOW: usize = 0o400_000;

/// One system call: what it returns, negative for an error.
///
/// # Safety
/// As the system call with that number.
pub(crate) unsafe fn call(number: usize, arguments: [usize; 6]) -> isize {
    let [first, second, third, fourth, fifth, sixth] = arguments;
    let result: isize;
    // SAFETY: the caller answers for what the call does; the kernel clobbers rcx and r11 only.
    unsafe {
        asm!(
            "syscall",
            inlateout("rax") number => result,
            in("rdi") first,
            in("rsi") second,
            in("rdx") third,
            in("r10") fourth,
            in("r8") fifth,
            in("r9") sixth,
            lateout("rcx") _,
            lateout("r11") _,
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
            "lea {}, [rip + {function}]",
            out(reg) address,
            function = sym return_from_signal,
            options(nostack, nomem, preserves_flags),
        );
    }
    address
}

/// rt_sigreturn, in the very instructions by which debuggers and unwinders know a signal's frame.
#[unsafe(naked)]
extern "C" fn return_from_signal() {
    naked_asm!("mov rax, 15", "syscall")
}

/// A client request of valgrind's (valgrind.h); 0 where there is no valgrind to answer it.
pub(crate) fn ask_valgrind(request: &[usize; 6]) -> usize {
    let answer: usize;
    // SAFETY: rotates a register by twice its width and exchanges another with itself. valgrind,
    // which knows that sequence, reads the request and writes rdx.
    unsafe {
        asm!(
            "rol rdi, 3",
            "rol rdi, 13",
            "rol rdi, 61",
            "rol rdi, 51",
            "xchg rbx, rbx",
            inout("rdx") 0_usize => answer,
            in("rax") request.as_ptr(),
            inout("rdi") 0_usize => _,
            options(nostack),
        );
    }
    answer
}
