//! Signals: a handler of the runtime's own, and signals that have to wait.

use core::ops::Range;

use super::syscall;
use crate::machine::{registers, system};
use crate::sync::AtomicU8;

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
    let known = unsafe { syscall(system::RT_SIGACTION, [signal, 0, at, SET, 0]) } == 0;
    if !known || old[0] > SIG_IGN {
        return;
    }
    let new = [
        handler as usize,
        SA_RESTORER | SA_ONSTACK | SA_RESTART,
        system::restorer(),
        usize::MAX,
    ];
    let at = (&raw const new).expose_provenance();
    // SAFETY: the handler is a function that may interrupt anything, and the restorer returns from it.
    unsafe { syscall(system::RT_SIGACTION, [signal, at, 0, SET, 0]) };
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
        // SAFETY: the caller answers for the stack, and nothing unwinds.
        unsafe { registers::call_on_stack(end, work, argument) }
    }
}

/// Does `work` while no signal is handled on this thread but those that say that an instruction cannot be done: so no
/// handler leaves `work` by siglongjmp, with what it has opened and mapped. For what takes long beside two system
/// calls and does not wait.
pub(crate) fn uninterrupted<T>(work: impl FnOnce() -> T) -> T {
    /// ILL, TRAP, BUS, FPE, SEGV and SYS.
    const BY_INSTRUCTIONS: [usize; 6] = [4, 5, 7, 8, 11, 31];
    let of_instructions = BY_INSTRUCTIONS.into_iter().map(set_of);
    let mask = change_mask(SIG_BLOCK, !of_instructions.fold(0, |set, one| set | one));
    let result = work();
    if let Some(mask) = mask {
        change_mask(SIG_SETMASK, mask);
    }
    result
}

/// The signal stack that the thread is on, if it is on one.
pub(crate) fn stack() -> Option<Range<usize>> {
    const SS_ONSTACK: usize = 1;
    // `stack_t`: address, flags in half a word, size.
    let mut stack = [0_usize; 3];
    let at = (&raw mut stack).expose_provenance();
    // SAFETY: the kernel writes the structure and changes nothing.
    let result = unsafe { syscall(system::SIGALTSTACK, [0, at, 0, 0, 0]) };
    let [begin, flags, size] = stack;
    let is_on = result == 0 && flags & SS_ONSTACK != 0;
    is_on.then(|| begin..begin.wrapping_add(size))
}

const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;

/// Changes the thread's mask of signals, and says what it was. `None` if the call failed.
fn change_mask(how: usize, set: u64) -> Option<u64> {
    let mut mask = 0_u64;
    let (new, old) = ((&raw const set), (&raw mut mask));
    let (new, old) = (new.expose_provenance(), old.expose_provenance());
    // SAFETY: the kernel reads one set and writes the other.
    let result = unsafe { syscall(system::RT_SIGPROCMASK, [how, new, old, SET, 0]) };
    (result == 0).then_some(mask)
}

/// A thread's state in which writing raises no signal and the signal `other` waits. Ends when dropped.
pub(crate) struct Blocked {
    /// The mask as it was; none if it was not changed.
    mask: Option<u64>,
    /// Those of its signals that waited before.
    pending: u64,
}

impl Blocked {
    const BY_WRITING: u64 = set_of(SIGPIPE) | set_of(SIGXFSZ);

    /// Begins it; `other` may be 0 for none.
    pub(crate) fn new(other: usize) -> Self {
        let other = if other == 0 { 0 } else { set_of(other) };
        let mask = change_mask(SIG_BLOCK, Self::BY_WRITING | other);
        Self {
            mask,
            pending: pending(),
        }
    }
}

impl Drop for Blocked {
    fn drop(&mut self) {
        let raised = pending() & !self.pending & Self::BY_WRITING;
        if raised != 0 {
            // It would have ended the program, and it is about the report only.
            let no_time = [0_usize; 2];
            let at = (&raw const raised).expose_provenance();
            let timeout = (&raw const no_time).expose_provenance();
            // SAFETY: the kernel reads the set and the time.
            unsafe { syscall(system::RT_SIGTIMEDWAIT, [at, 0, timeout, SET, 0]) };
        }
        if let Some(mask) = self.mask {
            change_mask(SIG_SETMASK, mask);
        }
    }
}

/// The signals that wait.
fn pending() -> u64 {
    let mut set = 0_u64;
    let at = (&raw mut set).expose_provenance();
    // SAFETY: the kernel writes the set.
    unsafe { syscall(system::RT_SIGPENDING, [at, SET, 0, 0, 0]) };
    set
}
