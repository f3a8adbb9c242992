//! The runtime relocates itself when a hook is called before the loader has done it: another library's IFUNC
//! resolver may allocate, and the first in DT_NEEDED is the last but one to be relocated. There are relative
//! relocations only, which can be applied any number of times; a test sees to that.
//!
//! What runs before must do without them: no table of pointers, no call of memcpy and its like, no panic.

use core::ptr;

use crate::machine::RELATIVE;
use crate::memory::Mapped;
use crate::sys;

const DT_RELA: usize = 7;
const DT_RELASZ: usize = 8;
/// Size of an entry of DT_RELA: offset, type and symbol, addend.
const RELA: usize = 24;

/// Applies the relocations, if they are not applied yet.
#[inline(never)]
pub(crate) fn relocate() {
    let base = sys::own_base();
    // SAFETY: the linker put the dynamic table there.
    let dynamic = unsafe { Mapped::new(sys::own_dynamic()) };
    let mut table = 0;
    let mut size = 0;
    for entry in (0..64).map(|index| dynamic.nth(index, 16)) {
        let value = entry.add(8).word();
        match entry.word() {
            0 => break,
            DT_RELA => table = value,
            DT_RELASZ => size = value,
            _ => {}
        }
    }
    // glibc adds the base to the values of the dynamic table in place.
    let table = if table < base {
        base.wrapping_add(table)
    } else {
        table
    };
    // SAFETY: DT_RELA says where the table is.
    let table = unsafe { Mapped::new(table) };
    let mut at = 0;
    while at < size {
        let relocation = table.add(at);
        if relocation.add(8).word() == RELATIVE {
            let place = base.wrapping_add(relocation.word());
            let value = base.wrapping_add(relocation.add(16).word());
            let place = ptr::with_exposed_provenance_mut::<usize>(place);
            // SAFETY: the linker says that a word lies there. Once it has been relocated, by whomever, it may be
            // read-only, but is not written to either.
            if unsafe { place.read_volatile() } != value {
                // SAFETY: as above.
                unsafe { place.write_volatile(value) };
            }
        }
        at = at.wrapping_add(RELA);
    }
}
