//! Signals: a handler of the runtime's own, and signals that have to wait.

use core::arch::{asm, naked_asm};
use core::sync::atomic::AtomicU8;

use super::syscall;

const SYS_RT_SIGACTION: usize = 13;
const SYS_RT_SIGPROCMASK: usize = 14;
const SYS_RT_SIGPENDING: usize = 127;
const SYS_RT_SIGTIMEDWAIT: usize = 128;

/// Signals are numbered from 1 to this.
pub(crate) const MOST: usize = 64;
const SIGPIPE: usize = 13;
const SIGXFSZ: usize = 25;

/// Size of the kernel's signal sets, which the calls want to be told.
const SET: usize = size_of::<u64>();

const fn set_of(signal: usize) -> u64 {
    1 << (signal.wrapping_sub(1) % MOST)
}

/// Has `handler` called when `signal` comes, on the signal stack if the thread has one. All other signals
/// wait meanwhile, and system calls go on afterwards that can. Not if somebody else handles it already.
pub(crate) fn handle(signal: usize, handler: extern "C" fn(i32)) {
    const SA_RESTORER: usize = 0x0400_0000;
    const SA_ONSTACK: usize = 0x0800_0000;
    const SA_RESTART: usize = 0x1000_0000;
    /// The largest number that stands for no function: SIG_IGN.
    const SIG_IGN: usize = 1;
    // The kernel's `struct sigaction`: handler, flags, restorer, mask.
    let mut old = [0_usize; 4];
    let at = (&raw mut old).expose_provenance();
    // SAFETY: the kernel writes the present action and changes none.
    let known = unsafe { syscall(SYS_RT_SIGACTION, [signal, 0, at, SET, 0]) } == 0;
    if !known || old[0] > SIG_IGN {
        return;
    }
    let new = [
        handler as usize,
        SA_RESTORER | SA_ONSTACK | SA_RESTART,
        restorer(),
        usize::MAX,
    ];
    let at = (&raw const new).expose_provenance();
    // SAFETY: the handler is a function that may interrupt anything, and the restorer returns from it.
    unsafe { syscall(SYS_RT_SIGACTION, [signal, at, 0, SET, 0]) };
}

/// Where a handler returns to.
fn restorer() -> usize {
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

/// A stack. What the reports take of it, several times.
#[repr(C, align(16))]
pub(crate) struct Stack([AtomicU8; Self::SIZE]);

impl Stack {
    const SIZE: usize = 64 << 10;

    pub(crate) const fn new() -> Self {
        Self([const { AtomicU8::new(0) }; Self::SIZE])
    }

    /// Has `work` done on this stack. In a handler of [`handle`]: the handler's own may have little left.
    ///
    /// # Safety
    /// Nobody else must be on it, and all signals must wait: another handler would take the thread's
    /// signal stack for empty.
    pub(crate) unsafe fn call<T>(&'static self, work: extern "C" fn(&T), argument: &T) {
        let end = self.0.as_ptr_range().end.expose_provenance();
        // SAFETY: the caller answers for the stack. `work` keeps r12 as it was, and nothing unwinds.
        unsafe {
            asm!(
                "mov r12, rsp",
                "mov rsp, {end}",
                "call {work}",
                "mov rsp, r12",
                end = in(reg) end,
                work = in(reg) work,
                in("rdi") argument,
                out("r12") _,
                clobber_abi("C"),
            );
        }
    }
}

/// A thread's state in which writing raises no signal and the signal `other` waits. Ends when dropped.
pub(crate) struct Blocked {
    /// The mask as it was.
    mask: u64,
    /// Those of its signals that waited before.
    pending: u64,
}

impl Blocked {
    const BY_WRITING: u64 = set_of(SIGPIPE) | set_of(SIGXFSZ);

    /// Begins it; `other` may be 0 for none.
    pub(crate) fn new(other: usize) -> Self {
        const SIG_BLOCK: usize = 0;
        let other = if other == 0 { 0 } else { set_of(other) };
        let set = Self::BY_WRITING | other;
        let mut mask = u64::MAX;
        let (new, old) = ((&raw const set), (&raw mut mask));
        let arguments = [
            SIG_BLOCK,
            new.expose_provenance(),
            old.expose_provenance(),
            SET,
            0,
        ];
        // SAFETY: the kernel reads one set and writes the other.
        unsafe { syscall(SYS_RT_SIGPROCMASK, arguments) };
        Self {
            mask,
            pending: pending(),
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        const SIG_SETMASK: usize = 2;
        let raised = pending() & !self.pending & Self::BY_WRITING;
        if raised != 0 {
            // It would have ended the program, and it is about the report only.
            let no_time = [0_usize; 2];
            let at = (&raw const raised).expose_provenance();
            let timeout = (&raw const no_time).expose_provenance();
            // SAFETY: the kernel reads the set and the time.
            unsafe { syscall(SYS_RT_SIGTIMEDWAIT, [at, 0, timeout, SET, 0]) };
        }
        // No mask was had if the call failed; then none was set.
        if self.mask != u64::MAX {
            let at = (&raw const self.mask).expose_provenance();
            // SAFETY: the kernel reads the mask.
            unsafe { syscall(SYS_RT_SIGPROCMASK, [SIG_SETMASK, at, 0, SET, 0]) };
        }
    }
}

/// The signals that wait.
fn pending() -> u64 {
    let mut set = 0_u64;
    let at = (&raw mut set).expose_provenance();
    // SAFETY: the kernel writes the set.
    unsafe { syscall(SYS_RT_SIGPENDING, [at, SET, 0, 0, 0]) };
    set
}
