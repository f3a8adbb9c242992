//! One loaded object: where it is, and what its program headers and its dynamic table say.

use crate::elf::{DT_NULL, PT_DYNAMIC, PT_LOAD};
use crate::memory::Mapped;
use crate::sys;

const PT_PHDR: u32 = 6;

/// More objects than a loader ever has, and more entries than a dynamic table: a bound for lists
/// that somebody else wrote.
pub(crate) const MANY: usize = 1 << 16;

/// One loaded object.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Object {
    /// What is added to the addresses in its file.
    pub(crate) base: usize,
    /// Its dynamic table.
    pub(crate) dynamic: Mapped,
}

impl Object {
    /// The object whose program headers lie at `phdr`.
    pub(crate) fn of_headers(phdr: Mapped, count: usize) -> Option<Self> {
        let headers = || {
            (0_u32..)
                .take(count.min(MANY))
                .map(|index| phdr.nth(index, 56))
        };
        let vaddr = |header: Mapped| header.add(16).word();
        let own = headers().find(|header| header.u32() == PT_PHDR).map(vaddr);
        // ld.so has no PT_PHDR. There the table follows the ELF header, which is what the segment
        // with offset 0 begins with.
        let behind_header = || {
            let first = |header: &Mapped| header.u32() == PT_LOAD && header.add(8).word() == 0;
            headers()
                .find(first)
                .map(|header| vaddr(header).wrapping_add(64))
        };
        let base = phdr.address().wrapping_sub(own.or_else(behind_header)?);
        let dynamic = headers().find(|header| header.u32() == PT_DYNAMIC)?;
        // SAFETY: the program headers of a loaded object say where its dynamic table is.
        let dynamic = unsafe { Mapped::new(base.wrapping_add(vaddr(dynamic))) };
        Some(Self { base, dynamic })
    }

    /// The entries of the dynamic table: tag and value.
    pub(crate) fn entries(self) -> impl Iterator<Item = (usize, usize)> {
        (0_u32..)
            .take(MANY)
            .map(move |index| self.dynamic.nth(index, 16))
            .map(|entry| (entry.word(), entry.add(8).word()))
            .take_while(|(tag, _)| *tag != DT_NULL)
    }

    /// The address of a table that an entry of the dynamic table has the value `value` for.
    pub(crate) fn table(self, value: usize) -> usize {
        // glibc adds the base to most of these values in place unless the dynamic table is read-only
        // (elf/get-dynamic-info.h), musl to none. A value without the base is smaller than the base:
        // it is an offset into one object.
        if value < self.base {
            value.wrapping_add(self.base)
        } else {
            value
        }
    }

    /// Whether it is this library itself.
    pub(crate) fn is_runtime(&self) -> bool {
        self.dynamic.address() == sys::own_dynamic()
    }
}
