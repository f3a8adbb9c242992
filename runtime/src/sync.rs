//! The atomics that threads share. In unit tests each operation on one is a step of the checker, [`checked`]; everywhere
//! else they are the language's own. (What lies on a thread's own stack has those of `core` in tests, too.)

#[cfg(test)]
mod checked;

#[cfg(test)]
pub(crate) use checked::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence, interleave, locked,
    step,
};
#[cfg(not(test))]
pub(crate) use core::sync::atomic::{
    AtomicBool, AtomicPtr, AtomicU8, AtomicU32, AtomicU64, AtomicUsize, fence,
};

pub(crate) use core::sync::atomic::Ordering;
