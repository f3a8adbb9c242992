//! Changes of shared words that lock the bus only where there are threads to share them with. A locked
//! instruction takes 20 cycles and more, as much as all the rest of a hook, and most programs have one thread.
//!
//! glibc (from 2.32 on) says so in `__libc_single_threaded`, as its own malloc goes by. It says "no" before the
//! second thread starts. Elsewhere all changes are locked.
//!
//! A signal handler may come in at any time: it finds even an unlocked change done or not begun.

use core::ptr;

use crate::machine::shared;
use crate::sync::{AtomicPtr, AtomicU8, AtomicU64, Ordering};

/// Stands for a libc that does not say.
static UNKNOWN: AtomicU8 = AtomicU8::new(0);
/// Where libc says that there is one thread.
#[unsafe(link_section = ".data")]
static SINGLE: AtomicPtr<AtomicU8> = AtomicPtr::new((&raw const UNKNOWN).cast_mut());

/// Takes note of the address of `__libc_single_threaded`, if there is one.
pub(crate) fn note_variable(address: Option<usize>) {
    if let Some(address) = address {
        SINGLE.store(ptr::with_exposed_provenance_mut(address), Ordering::Relaxed);
    }
}

/// Whether no other thread can run now.
#[inline(always)]
pub(crate) fn is_single() -> bool {
    // SAFETY: a variable of libc's, or one of our own; hooks look their next functions up first, and that relocates.
    !shared::is_zero(unsafe { &*SINGLE.load(Ordering::Relaxed) })
}

/// Sets `bits`. Whether there is no other thread.
#[inline(always)]
pub(crate) fn set(word: &AtomicU64, bits: u64) -> bool {
    let is_single = is_single();
    if is_single {
        shared::set(word, bits);
    } else {
        word.fetch_or(bits, Ordering::SeqCst);
    }
    is_single
}

/// Clears `bits`; whatever another thread does afterwards it does after that. Whether there is no other thread.
#[inline(always)]
pub(crate) fn clear(word: &AtomicU64, bits: u64) -> bool {
    let is_single = is_single();
    if is_single {
        shared::keep(word, !bits);
    } else {
        word.fetch_and(!bits, Ordering::SeqCst);
    }
    is_single
}
