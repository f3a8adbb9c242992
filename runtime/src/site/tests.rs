//! The unit tests' own process is the data: gimli reads the same .eh_frame, libgcc walks the same stack.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "a test says that something is wrong by panicking"
)]
#![allow(unreachable_pub, reason = "stubs are made to be exported")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::fs;
use std::hint::black_box;

use gimli::{
    BaseAddresses, CfaRule, CieOrFde, EhFrame, LittleEndian, Register, RegisterRule, UnwindContext,
    UnwindSection, UnwindTableRow,
};
use object::read::elf::ElfFile64;
use object::{Object, ObjectSection};

use super::*;
use crate::call::called;
use crate::file::{LoadedObject, executable_path, objects};
use crate::machine::step::{FRAME_POINTER, RETURN_ADDRESS, STACK_POINTER, UNSAVED};
use crate::site::cfa::{Base, Row, Saved};

unsafe extern "C" {
    fn dlopen(path: *const c_char, flags: c_int) -> *mut c_void;
    fn _Unwind_Backtrace(
        each: extern "C" fn(*mut c_void, *mut c_void) -> c_int,
        all: *mut c_void,
    ) -> c_int;
    fn _Unwind_GetIP(context: *mut c_void) -> usize;
}

fn path(object: &LoadedObject) -> String {
    let path = object.path.or_else(executable_path).expect("a path");
    let path = std::ptr::with_exposed_provenance::<c_char>(path.address());
    // SAFETY: what the runtime gives out as strings are some.
    unsafe { CStr::from_ptr(path) }
        .to_string_lossy()
        .into_owned()
}

/// The row as this module has it, as far as it can tell.
fn row_of(row: &UnwindTableRow<usize>) -> Row {
    let saved = |register: usize| match row.register(Register(register as u16)) {
        Some(RegisterRule::Offset(offset)) => Saved::At(offset as isize),
        Some(RegisterRule::SameValue) => Saved::Same,
        // The callee-saved registers that no row speaks of are unchanged.
        None if register == FRAME_POINTER => Saved::Same,
        None if register == RETURN_ADDRESS => UNSAVED,
        _ => Saved::Other,
    };
    let (base, offset) = match row.cfa() {
        CfaRule::RegisterAndOffset { register, offset } => match usize::from(register.0) {
            STACK_POINTER => (Base::StackPointer, *offset),
            FRAME_POINTER => (Base::FramePointer, *offset),
            _ => (Base::Other, 0),
        },
        CfaRule::Expression(_) => (Base::Other, 0),
    };
    Row {
        base,
        offset: offset as usize,
        frame_pointer: saved(FRAME_POINTER),
        return_address: saved(RETURN_ADDRESS),
    }
}

/// Compares all rows of an object; how many there were.
fn compare(object: &LoadedObject) -> usize {
    let path = path(object);
    let Ok(bytes) = fs::read(&path) else {
        return 0;
    };
    let file: ElfFile64<'_> = ElfFile64::parse(&*bytes).expect(&path);
    let Some(section) = file.section_by_name(".eh_frame") else {
        return 0;
    };
    let base = object.object.base;
    let bases = BaseAddresses::default().set_eh_frame(section.address());
    let data = section.data().expect(&path);
    let frames = EhFrame::new(data, LittleEndian);
    let mut entries = frames.entries(&bases);
    let mut context = UnwindContext::new();
    let (table, size) = object.unwind_table().expect(&path);
    let mut rows = 0;
    while let Some(entry) = entries.next().expect(&path) {
        let CieOrFde::Fde(fde) = entry else {
            continue;
        };
        let fde = fde.parse(EhFrame::cie_from_offset).expect(&path);
        let begin = base + fde.initial_address() as usize;
        let mut table_rows = fde.rows(&frames, &bases, &mut context).expect(&path);
        while let Some(row) = table_rows.next_row().expect(&path) {
            let [first, end] =
                [row.start_address(), row.end_address()].map(|at| base + at as usize);
            for address in [first, end - 1] {
                let function = Function::find(table, size, address);
                if fde.cie().is_signal_trampoline() {
                    assert!(function.is_none(), "{path} {:x}", address - base);
                    continue;
                }
                let function = function.unwrap_or_else(|| panic!("{path} {:x}", address - base));
                assert_eq!(
                    (function.begin, function.size),
                    (begin, fde.len() as usize),
                    "{path}"
                );
                let mut own = function
                    .row(address)
                    .unwrap_or_else(|| panic!("{path} {:x}", address - base));
                if own.base == Base::Other {
                    own.offset = 0;
                }
                assert_eq!(own, row_of(row), "{path} {:x}", address - base);
            }
            rows += 1;
        }
    }
    rows
}

#[test]
fn rows_are_those_of_gimli() {
    // SAFETY: it has no constructors that harm.
    assert!(!unsafe { dlopen(c"libstdc++.so.6".as_ptr(), 2) }.is_null());
    let compared: Vec<_> = objects()
        .map(|object| (path(&object), compare(&object)))
        .collect();
    for name in [
        "allocs_rt-",
        "libc.so.6",
        "libstdc++.so.6",
        "ld-linux-x86-64.so.2",
    ] {
        let of_name = compared
            .iter()
            .find(|(path, _)| path.contains(name))
            .expect(name);
        assert!(of_name.1 > 1000, "{of_name:?}");
    }
}

called!(check_stack() -> usize, call => compare_stacks(call.frame()));
called!(site_number() -> u32, call => call.site().number());
called!(take_sample(), call => call.sample());

fn compare_stacks(innermost: Frame) -> usize {
    extern "C" fn each(context: *mut c_void, all: *mut c_void) -> c_int {
        // SAFETY: libgcc's context.
        let address = unsafe { _Unwind_GetIP(context) };
        // SAFETY: the vector that `compare_stacks` passes.
        unsafe { &mut *all.cast::<Vec<usize>>() }.push(address);
        0
    }
    let mut expected = Vec::<usize>::new();
    // SAFETY: as declared.
    unsafe { _Unwind_Backtrace(each, (&raw mut expected).cast()) };
    let from = expected
        .iter()
        .position(|frame| *frame == innermost.caller)
        .expect("the caller");
    expected.retain(|frame| *frame != 0);
    let own: Vec<_> = stack::callers(innermost).collect();
    assert_eq!(own, expected[from..], "{:x}", innermost.caller);
    own.len()
}

/// A frame outside of facades; how deep it is.
#[inline(never)]
fn depth() -> usize {
    // SAFETY: it may be called from anywhere.
    black_box(unsafe { check_stack() })
}

#[test]
fn stacks_are_those_of_libgcc() {
    assert!(depth() > 8);
    let mut numbers = [3, 1, 2];
    // From inside the standard library, which has frame pointers.
    numbers.sort_by(|first: &i32, second| {
        assert!(depth() > 9);
        first.cmp(second)
    });
    assert!(std::thread::spawn(depth).join().expect("no panic") > 4);
}

#[inline(never)]
fn tiny() -> u32 {
    // SAFETY: they may be called from anywhere.
    unsafe { take_sample() };
    // SAFETY: as above.
    black_box(unsafe { site_number() })
}

#[inline(never)]
fn first_caller() -> u32 {
    black_box(tiny())
}

#[inline(never)]
fn second_caller() -> u32 {
    black_box(tiny())
}

#[test]
fn a_function_that_only_hands_on_is_found() {
    let number = first_caller();
    let site = Site::from_number(number);
    assert_eq!(site.frames().collect::<Vec<_>>(), [site.address()]);
    assert!(in_function(site, tiny as *const ()));
    assert_eq!(second_caller(), number, "one call");
    for _ in 0..20 {
        first_caller();
        second_caller();
    }
    let sites = [first_caller(), second_caller()].map(Site::from_number);
    assert!(in_function(sites[0], first_caller as *const ()));
    assert!(in_function(sites[1], second_caller as *const ()));
    assert!(
        in_function(site, tiny as *const ()),
        "what was recorded stays"
    );
}

#[test]
fn a_site_that_was_met_is_at_hand() {
    let caller = (a_site_that_was_met_is_at_hand as fn() as *const ()).addr() + 1;
    let frame = Frame {
        caller,
        stack: 0,
        frame_pointer: 0,
    };
    // Other tests may take its place in the cache, but not each time.
    let is_at_hand = (0..100).any(|_| {
        // SAFETY: no facade is stepped out of, so the stack is not read.
        let site = unsafe { Site::of(frame) };
        Site::at_hand(caller).is_ok_and(|at_hand| at_hand == site) && site != Site::UNKNOWN
    });
    assert!(is_at_hand);
}

fn in_function(site: Site, function: *const ()) -> bool {
    let kind = kind(site.address()).expect("a function");
    kind.function.0 == function.expose_provenance()
}
