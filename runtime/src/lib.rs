//! The runtime: a shared object without dependencies that an executable loads first. It takes the
//! malloc family over, notes what is allocated and where, and passes every call on to the allocator that
//! the program would have used without it.
//!
//! ```text
//!  loader ──▶ init ─── allocs_preinit (IFUNC resolver, preinit), constructor, destructor
//!               │         relocation ─▶ preinit ─▶ running ─▶ exiting
//!               │
//!  program ─▶ hooks ──▶ next ──▶ linkmap ──▶ auxv      who would have been called?
//!    │          │         │        └──────▶ symbol ──▶ object
//!    │          │         └─────────────────────────▶ the program's own allocator
//!    │          ├────▶ site                            who asked, outside of facades?
//!    │          ├────▶ chunks ──▶ heap, index, record  what is alive, by whom?
//!    │          └────▶ counters                        how much since the start? (for a report only)
//!    │
//!    ├─▶ diverted ─▶ hooks, operators ─▶ the executable's own allocators
//!    │
//!    └─▶ api ─▶ query ─▶ nested, chunks, file, mapping      what is this pointer?
//!
//!  report ──▶ census ──▶ chunks, counters, site, file ──▶ $ALLOCS_REPORT
//! ```
//!
//! Exported are the hooks (`hooks`), the entries for diverted functions (`hooks`, `operators`; on x86-64 only), the
//! functions of `allocs.h` (`api`), and [`allocs_preinit`], [`allocs_init`] and [`allocs_entry`]. What differs from
//! machine to machine is in `machine`.
//!
//! Three rules hold everywhere, because a hook may be entered before the loader has relocated this
//! object (another library's IFUNC resolver may allocate), before init, after the exit handlers, in
//! a fork child and in any thread:
//! - relative relocations only: no symbol is looked up, no exported function called. Up to `relocate` there are
//!   none at all: no table of pointers, no formatting, no panic with a location.
//! - no allocation, no lock, no thread-local storage, no call into another library except *next*;
//! - the memory that the program gets is always its own allocator's.
//!
//! What is written at the start of every program lies in .data, not among the tables of .bss: on one page, for each page
//! that is touched costs as much as thousands of instructions.

#![cfg_attr(not(test), no_std)]
#![cfg_attr(
    test,
    allow(
        dead_code,
        reason = "no loader calls a unit test's hooks and life-cycle"
    )
)]

mod allocator;
#[cfg(not(test))]
mod api;
mod arena;
mod auxv;
mod call;
mod census;
mod chunks;
mod counters;
mod definitions;
mod digits;
mod diverted;
mod elf;
mod file;
mod heap;
mod holder;
mod hook;
pub mod hooks;
mod index;
mod init;
mod linkmap;
mod machine;
pub mod mapping;
mod memory;
mod nested;
mod next;
mod object;
mod pages;
mod pair;
mod query;
mod record;
#[cfg(not(test))]
mod relocate;
mod report;
pub mod sandbox;
mod site;
mod state;
mod symbol;
mod sync;
mod sys;
mod threads;

#[cfg(not(test))]
pub use init::{allocs_entry, allocs_init, allocs_preinit};

/// Nothing in a release build panics: arithmetic wraps and indices are checked. Should a build with
/// debug assertions find one of them broken, the process stops there.
#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    machine::trap()
}
