//! Why there is no answer.

use core::ffi::c_int;
use core::fmt;

/// Why there is no answer: `enum alloc_error` of `allocs.h`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Error {
    /// The runtime is not in this process.
    NotAvailable,
    /// Nothing is mapped at this address.
    Unmapped,
    /// An allocator's own memory, in no live allocation of it: free, or its bookkeeping.
    Free,
    /// Mapped, by whom is not known.
    Unknown,
    /// An argument means nothing to the runtime, or it has no room for what it is to note.
    Invalid,
}

impl Error {
    /// What a function of `allocs.h` says with its result.
    pub(crate) fn check(code: c_int) -> Result<(), Self> {
        match code {
            0 => Ok(()),
            1 => Err(Self::NotAvailable),
            2 => Err(Self::Unmapped),
            3 => Err(Self::Free),
            5 => Err(Self::Invalid),
            // 4, and what a newer runtime may have to say.
            _ => Err(Self::Unknown),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotAvailable => "the allocs runtime is not in this process",
            Self::Unmapped => "nothing is mapped at this address",
            Self::Free => "free memory of an allocator",
            Self::Unknown => "it is not known whose memory this is",
            Self::Invalid => "the allocs runtime cannot do this",
        })
    }
}

impl core::error::Error for Error {}
