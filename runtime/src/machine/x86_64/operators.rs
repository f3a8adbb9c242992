//! Entries for the diverted functions that are not of the malloc family: C++'s operators new and delete, and those of
//! jemalloc and mimalloc that take a size first, or resize.
//!
//! An operator new may throw, or call a handler that does. Exceptions do not get through a function in Rust, so
//! what calls the continuation is a stub with unwind information, and the chunk is entered when it has returned.
//! It may have called malloc, which was seen then; now the chunk is entered again, as the program asked for it.
#![allow(
    clippy::missing_safety_doc,
    reason = "the contract is that of the operator or function of that name"
)]
#![allow(
    unreachable_pub,
    reason = "called by the executable, whatever the module's own visibility"
)]
#![allow(non_snake_case, reason = "operators' names are mangled")]

use core::arch::naked_asm;
use core::ffi::c_int;

use crate::call::Call;
use crate::chunks;
use crate::counters;
use crate::diverted::Table;
use crate::heap::{self, Heap};
use crate::holder::Holder;
use crate::hook::Hook;
use crate::hooks::{Chunk, common};
use crate::index::Index;
use crate::machine::stubs::{add_call, call_and_put_back, diverted, keep};
use crate::next::{Next, Origin};
use crate::record::{RECORD, request};
use crate::threads;

/// The entry `$entry` of a function whose first argument is a size and that returns a chunk, or does not return; the
/// other arguments are passed on. Its continuation has number `$slot`.
macro_rules! sized_first {
    ($entry:ident, $slot:literal) => {
        #[unsafe(naked)]
        #[cfg_attr(not(test), unsafe(no_mangle))]
        pub unsafe extern "C-unwind" fn $entry(_: usize) -> Chunk {
            naked_asm!(
                ".cfi_startproc",
                "endbr64",
                keep!(),
                "mov [rsp + 320], r11",
                "mov rax, [r11 + 8 * {slot} + 8]",
                "add rax, r11",
                // As `request` does.
                "xor r10d, r10d",
                "cmp [r11 + 8 * {sizes} + 8], r10",
                "setne r10b",
                "shl r10d, 3",
                "add rdi, r10",
                "sbb r10, r10",
                "or rdi, r10",
                "mov r10d, {least}",
                "cmp rdi, r10",
                "cmovb rdi, r10",
                "call rax",
                "mov rdi, rax",
                "mov rsi, [rsp + 24]",
                add_call!(344: _ _),
                "mov r8, [rsp + 320]",
                "mov r9d, {slot}",
                call_and_put_back!("made" -> Chunk),
                ".cfi_endproc",
                slot = const $slot,
                sizes = const Hook::MallocUsableSize as usize,
                least = const request(0, false),
                made = sym made,
            )
        }
    };
}

sized_first!(allocs_divert__Znwm, 14);
sized_first!(allocs_divert__Znam, 15);
sized_first!(allocs_divert__ZnwmRKSt9nothrow_t, 16);
sized_first!(allocs_divert__ZnamRKSt9nothrow_t, 17);
sized_first!(allocs_divert__ZnwmSt11align_val_t, 18);
sized_first!(allocs_divert__ZnamSt11align_val_t, 19);
sized_first!(allocs_divert__ZnwmSt11align_val_tRKSt9nothrow_t, 20);
sized_first!(allocs_divert__ZnamSt11align_val_tRKSt9nothrow_t, 21);
sized_first!(allocs_divert_mallocx, 34);

/// Enters `chunk`, which a function that was diverted has just returned, and returns it. It may have got it from
/// malloc: then it was entered, and counted, with the size that includes the room for the record.
unsafe extern "C" fn made(
    chunk: Chunk,
    size: usize,
    call: Call,
    table: Table,
    slot: usize,
) -> Chunk {
    let address = chunk.expose_provenance();
    if address == 0 {
        return chunk;
    }
    if table.only_direct_at(slot, address).is_some() {
        return common::enter(Continuation { table, slot }, chunk, size, call);
    }
    made_and_count(chunk, size, call, table, slot)
}

/// The same where something is counted, or the allocator is not known so well.
#[inline(never)]
fn made_and_count(chunk: Chunk, size: usize, call: Call, table: Table, slot: usize) -> Chunk {
    let address = chunk.expose_provenance();
    let site = call.site();
    if common::is_sample(address, threads::is_single()) {
        call.sample();
    }
    let holder = Holder::new();
    let entry = counters::enter(&holder);
    if let Some(next) = heap::all()
        .find(|heap| heap.has(address))
        .and_then(Heap::next)
    {
        let before = chunks::leave(next, address);
        let entered = chunks::enter(next, address, size, site);
        if let Some(entry) = entry {
            // Or it was given back past the hooks, and written to since: then nobody has noted this one.
            match before.filter(|before| before.site.is_taken()) {
                Some(before) => entry.unborn(before.site, before.size),
                None => entry.called(Hook::Malloc, size),
            }
            if entered {
                entry.born(site, size);
            }
        }
        return chunk;
    }
    let entered = table
        .next_at(slot)
        .is_some_and(|next| chunks::enter(next, address, size, site));
    if let Some(entry) = entry {
        entry.called(Hook::Malloc, size);
        if entered {
            entry.born(site, size);
        }
    }
    chunk
}

/// The continuation with number `slot` of `table`, whatever the hook that it is counted as.
#[derive(Clone, Copy)]
struct Continuation {
    table: Table,
    slot: usize,
}

impl Origin for Continuation {
    #[inline(always)]
    fn next(self, _: Hook) -> Option<Next> {
        self.table.next_at(self.slot)
    }

    #[inline(always)]
    fn direct(self, _: Hook) -> Option<Next> {
        self.table.direct_at(self.slot)
    }

    #[inline(always)]
    fn index(self) -> Option<&'static Index> {
        self.table.index()
    }

    #[inline(always)]
    fn request_at_hand(self, size: usize) -> Option<usize> {
        self.table.request_at_hand(size)
    }

    #[inline(always)]
    fn usable_size_at_hand(self, chunk: usize) -> Option<usize> {
        self.table.usable_size_at_hand(chunk)
    }
}

/// A continuation that gives a chunk back: its number, and the arguments behind the chunk.
type Way = (usize, usize, usize);

const FREE: Way = (Hook::Free as usize, 0, 0);

/// The ways to give back what an operator delete is told the size of: the operator `itself` comes first if nothing else
/// says how large chunks are, and may be all that works; but last if chunks are larger than the program knows.
fn sized<const N: usize>(table: Table, itself: Way, others: [Way; N]) -> impl Iterator<Item = Way> {
    let sizes = table
        .continuation(Hook::MallocUsableSize as usize)
        .is_some();
    let (first, last) = if sizes {
        (None, Some(itself))
    } else {
        (Some(itself), None)
    };
    first.into_iter().chain(others).chain(last)
}

/// Gives `chunk` back by the first of `ways` that there is.
#[inline(never)]
fn give_back(table: Table, hook: Hook, chunk: Chunk, ways: impl IntoIterator<Item = Way>) {
    type Function = unsafe extern "C" fn(Chunk, usize, usize);
    let there_is = |way: &Way| table.continuation(way.0).is_some();
    if let Some((slot, second, third)) = ways.into_iter().find(there_is) {
        let origin = Continuation { table, slot };
        common::release(origin, hook, chunk, move |next: Function, chunk| {
            // SAFETY: the caller keeps to the function's contract.
            unsafe { next(chunk, second, third) };
        });
    }
}

/// Entries of functions that give a chunk back: the hook that they are counted as, the numbers of the continuations that
/// do it, and what is passed to those. What takes a size is the last, with the size that the allocator was asked for.
macro_rules! give_back {
    ($($entry:ident: $hook:ident, $body:ident($table:ident, $second:ident, $third:ident) => $ways:expr;)*) => {$(
        unsafe extern "C" fn $body(chunk: Chunk, $second: usize, $third: usize, $table: Table) {
            give_back($table, Hook::$hook, chunk, $ways);
        }
        diverted!($entry(Chunk, usize, usize), "rcx" => $body);
    )*};
}

diverted!(
    /// free(3), and what takes more arguments.
    allocs_divert_free(Chunk, usize, usize), "rcx" => free
);

unsafe extern "C" fn free(chunk: Chunk, second: usize, third: usize, table: Table) {
    type Function = unsafe extern "C" fn(Chunk, usize, usize);
    common::release(table, Hook::Free, chunk, move |next: Function, chunk| {
        // SAFETY: the caller keeps to free's contract.
        unsafe { next(chunk, second, third) };
    });
}

give_back!(
    allocs_divert_cfree: Cfree, cfree(table, a, b) => [(5, a, b), FREE];
    allocs_divert_free_sized: FreeSized, free_sized(table, size, b) => [FREE, (12, table.request(size), b)];
    allocs_divert_free_aligned_sized: FreeAlignedSized, free_aligned_sized(table, alignment, size) =>
        [FREE, (13, alignment, table.request(size))];
    allocs_divert__ZdlPv: Free, delete(table, a, b) => [(22, a, b)];
    allocs_divert__ZdaPv: Free, delete_array(table, a, b) => [(23, a, b)];
    allocs_divert__ZdlPvm: Free, delete_sized(table, size, b) =>
        sized(table, (24, table.request(size), b), [(22, 0, 0), FREE]);
    allocs_divert__ZdaPvm: Free, delete_array_sized(table, size, b) =>
        sized(table, (25, table.request(size), b), [(23, 0, 0), FREE]);
    allocs_divert__ZdlPvRKSt9nothrow_t: Free, delete_nothrow(table, a, b) => [(26, a, b)];
    allocs_divert__ZdaPvRKSt9nothrow_t: Free, delete_array_nothrow(table, a, b) => [(27, a, b)];
    allocs_divert__ZdlPvSt11align_val_t: Free, delete_aligned(table, a, b) => [(28, a, b)];
    allocs_divert__ZdaPvSt11align_val_t: Free, delete_array_aligned(table, a, b) => [(29, a, b)];
    allocs_divert__ZdlPvmSt11align_val_t: Free, delete_sized_aligned(table, size, alignment) =>
        sized(table, (30, table.request(size), alignment), [(28, alignment, 0)]);
    allocs_divert__ZdaPvmSt11align_val_t: Free, delete_array_sized_aligned(table, size, alignment) =>
        sized(table, (31, table.request(size), alignment), [(29, alignment, 0)]);
    allocs_divert__ZdlPvSt11align_val_tRKSt9nothrow_t: Free, delete_aligned_nothrow(table, a, b) =>
        [(32, a, b)];
    allocs_divert__ZdaPvSt11align_val_tRKSt9nothrow_t: Free, delete_array_aligned_nothrow(table, a, b) =>
        [(33, a, b)];
);

diverted!(
    /// jemalloc's rallocx, and what else resizes a chunk and takes one more argument.
    allocs_divert_rallocx(Chunk, usize, usize) -> Chunk,
    "r9" => resize,
    add_call!(344: _ _ _)
);

unsafe extern "C" fn resize(
    chunk: Chunk,
    size: usize,
    third: usize,
    call: Call,
    table: Table,
) -> Chunk {
    type Function = unsafe extern "C" fn(Chunk, usize, usize) -> Chunk;
    let origin = Continuation { table, slot: 35 };
    let ask = |next: Function, size| {
        // SAFETY: the caller keeps to the function's contract.
        unsafe { next(chunk, size, third) }
    };
    common::reallocate(origin, Hook::Realloc, chunk, size, call, ask)
}

diverted!(
    /// jemalloc's xallocx, which resizes a chunk where it is and says how large it is then. Its site stays.
    allocs_divert_xallocx(Chunk, usize, usize, c_int) -> usize,
    "r8" => resize_in_place
);

unsafe extern "C" fn resize_in_place(
    chunk: Chunk,
    size: usize,
    extra: usize,
    flags: c_int,
    table: Table,
) -> usize {
    type Function = unsafe extern "C" fn(Chunk, usize, usize, c_int) -> usize;
    let Some(next) = table.next_at(36) else {
        return 0;
    };
    // SAFETY: this is the function's type.
    let function: Function = unsafe { next.function() };
    let address = chunk.expose_provenance();
    let holder = Holder::new();
    let entry = counters::enter(&holder);
    let Some(before) = chunks::leave(next, address) else {
        // SAFETY: the caller keeps to the function's contract.
        return unsafe { function(chunk, size, extra, flags) };
    };
    // SAFETY: as above.
    let capacity = unsafe { function(chunk, next.request(size), extra, flags) };
    let record = if next.has_records() { RECORD } else { 0 };
    let usable_size = capacity.saturating_sub(record);
    let now = if usable_size < size {
        before.size.min(usable_size)
    } else {
        size
    };
    let entered = chunks::enter(next, address, now, before.site);
    if let Some(entry) = entry {
        entry.called(Hook::Realloc, now);
        entry.died(before.site, before.size);
        if entered {
            entry.born(before.site, now);
        }
    }
    usable_size
}
