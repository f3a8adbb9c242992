//! Who hands out memory: `struct allocator` of `allocs.h`. There is one for each heap and each level that the
//! runtime knows by itself, and those that the program registers.

use core::ffi::c_char;
use core::ptr;

use crate::sync::{
    AtomicPtr,
    Ordering::{AcqRel, Acquire, Relaxed},
};

/// `struct allocator`.
#[repr(C)]
pub(crate) struct Allocator {
    name: AtomicPtr<c_char>,
}

/// How many the program can register.
pub(crate) const REGISTERED: usize = 63;

static MMAP: Allocator = Allocator::unnamed();
static STACK: Allocator = Allocator::unnamed();
static STATIC: Allocator = Allocator::unnamed();
static PROGRAMS: [Allocator; REGISTERED] = [const { Allocator::unnamed() }; REGISTERED];

impl Allocator {
    pub(crate) const fn unnamed() -> Self {
        Self {
            name: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// Names are filled in when they are asked for: an address in data would be a dynamic relocation.
    pub(crate) fn named(&'static self, name: *const c_char) -> &'static Self {
        // Not again each time: other threads read what is beside it.
        if self.name.load(Relaxed).is_null() {
            self.name.store(name.cast_mut(), Relaxed);
        }
        self
    }

    /// The kernel, by mmap(2).
    pub(crate) fn mmap() -> &'static Self {
        MMAP.named(c"mmap".as_ptr())
    }

    /// Threads' stacks.
    pub(crate) fn stack() -> &'static Self {
        STACK.named(c"stack".as_ptr())
    }

    /// Objects of the executable and of libraries.
    pub(crate) fn statics() -> &'static Self {
        STATIC.named(c"static".as_ptr())
    }

    /// Registers one of the program's. `None` if there are too many.
    pub(crate) fn register(name: *const c_char) -> Option<&'static Self> {
        let name = name.cast_mut();
        PROGRAMS.iter().find(|allocator| {
            let before = allocator
                .name
                .compare_exchange(ptr::null_mut(), name, AcqRel, Acquire);
            before.is_ok()
        })
    }

    /// The number of a registered one.
    pub(crate) fn number(registered: *const Self) -> Option<usize> {
        PROGRAMS
            .iter()
            .position(|allocator| ptr::eq(allocator, registered))
    }

    /// The registered one with that number.
    pub(crate) fn registered(number: usize) -> Option<&'static Self> {
        PROGRAMS.get(number)
    }
}
