//! The runtime's life-cycle and the five ways in which it is called.
//!
//! ```text
//!  loaded ─▶ relocation ─▶ preinit ──────────▶ entry ─────────▶ running ─▶ exiting
//!            IFUNC         DT_PREINIT_ARRAY    e_entry (musl)   DT_INIT    DT_FINI
//!            resolver
//! ```
//!
//! On AArch64 DT_INIT_ARRAY and DT_FINI_ARRAY stand for DT_INIT and DT_FINI.
//!
//! A rewritten executable holds one relocation against [`allocs_preinit`]. Since that symbol is an
//! IFUNC, glibc calls its resolver while it relocates the executable: after the runtime's own
//! relocation, before any constructor and before its own malloc becomes the program's (elf/rtld.c,
//! `dl_main`). What the resolver returns is stored in the executable's DT_PREINIT_ARRAY and called
//! ahead of all constructors but those of one object with DF_1_INITFIRST (elf/dl-init.c,
//! `_dl_init`). musl does neither: there the executable's entry point calls [`allocs_entry`]. Under
//! LD_PRELOAD alone there is only the constructor; the runtime has that flag.

#[cfg(not(test))]
use core::arch::naked_asm;

use crate::auxv::InitialStack;
use crate::counters;
use crate::linkmap::LinkMap;
#[cfg(not(test))]
use crate::machine::stubs::{called_by_loader, jump};
use crate::mapping;
use crate::next;
use crate::report;
use crate::site;
use crate::state::{self, State};

/// One life-cycle call. Whichever comes first does the work: `ldd -r` makes the first one too and
/// never starts the program, so none of it can be seen from outside.
fn enter(state: State) {
    if !state::reached() {
        state.begin();
        next::look_up();
        mapping::hooks::look_up();
        mapping::note_main();
        if let Some(map) = LinkMap::find() {
            map.note(state != State::Running);
        }
        if let Some(stack) = InitialStack::find() {
            report::configure(&stack);
            site::configure(&stack);
        }
        if report::is_asked_for() {
            counters::start();
        } else {
            counters::stop();
            next::settle();
        }
    }
    state.reach();
    // Not earlier: nothing of what `ldd -r` calls can be seen from outside.
    if state == State::Running {
        report::start();
    }
}

/// The symbol that the relocation in a rewritten executable names; its address, resolved, is the
/// function that the loader calls as a preinit function. Has no effect when called again.
///
/// rustc knows no IFUNC; the directive overrides the symbol type that it gave.
#[cfg(not(test))]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn allocs_preinit() {
    naked_asm!(
        ".type allocs_preinit, @gnu_indirect_function",
        jump!("{resolver}"),
        resolver = sym resolve,
    )
}

#[cfg(not(test))]
extern "C" fn resolve() -> extern "C" fn() {
    enter(State::Relocation);
    preinit
}

/// Called with argc, argv and envp, and in need of none of them.
extern "C" fn preinit() {
    enter(State::Preinit);
    enter(State::Running);
}

/// The same for programs that were rewritten to call it as a preinit function only. (Two functions
/// with one body would be merged, and the hidden one reached through a dynamic relocation.)
#[cfg(not(test))]
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub extern "C" fn allocs_init() {
    naked_asm!(jump!("{preinit}"), preinit = sym preinit)
}

/// What the entry point of a program that was rewritten for musl calls, with argc, argv and envp:
/// everything is relocated, no constructor has run.
#[cfg(not(test))]
#[unsafe(no_mangle)]
pub extern "C" fn allocs_entry() {
    enter(State::Entry);
    enter(State::Running);
}

#[cfg(not(test))]
called_by_loader!(construct, destroy);

/// Called with argc, argv and envp by glibc, with nothing by musl.
extern "C" fn construct() {
    enter(State::Running);
}

/// Called after the exit handlers. The process may go on allocating: other destructors follow.
extern "C" fn destroy() {
    enter(State::Exiting);
    report::write();
}
