//! Asks the runtime by the crate `allocs`, and checks what it says. Without the runtime it says that nothing can be
//! asked. With an argument it panics in a walk.

use std::collections::HashMap;
use std::ffi::CStr;
use std::hint::black_box;
use std::ops::ControlFlow;

use allocs::{Allocator, Error, Format, MappingKind, Site};

static TABLE: [u32; 1001] = [7; 1001];

/// The name of the function that made an allocation.
fn function(site: Option<Site>) -> String {
    let place = site.expect("a site").place().expect("a place");
    // SAFETY: this program unloads no library.
    let name = unsafe { place.symbol() }.map(CStr::to_string_lossy);
    name.unwrap_or_default().into_owned()
}

fn made_by<T: ?Sized>(address: *const T) -> String {
    function(allocs::at(address).expect("an allocation").site())
}

// What each of these makes is used once more, for a call at a function's end is often a jump.

#[inline(never)]
#[unsafe(no_mangle)]
fn make_box() -> Box<[u8; 10_002]> {
    Box::new(black_box([1; 10_002]))
}

#[inline(never)]
#[unsafe(no_mangle)]
fn make_vec() -> Vec<u32> {
    black_box(Vec::with_capacity(5_001))
}

#[inline(never)]
#[unsafe(no_mangle)]
fn make_text(number: usize) -> String {
    black_box(format!("{number} is the number of a text"))
}

#[inline(never)]
#[unsafe(no_mangle)]
fn make_copy(text: &str) -> String {
    black_box(text.to_owned())
}

#[inline(never)]
#[unsafe(no_mangle)]
fn grow(numbers: &mut Vec<u64>) {
    for number in 0..1_000 {
        numbers.push(number);
    }
}

#[inline(never)]
#[unsafe(no_mangle)]
fn make_map() -> HashMap<u32, [u64; 4]> {
    black_box((0..100).map(|number| (number, [1; 4])).collect())
}

fn heap() {
    let boxed = make_box();
    let allocation = allocs::at(&boxed[5_000]).expect("an allocation");
    assert_eq!(allocation.base().cast_const(), boxed.as_ptr());
    assert_eq!(allocation.size(), 10_002);
    assert!(allocation.usable_size() >= 10_002);
    assert_eq!(allocation.allocator().name(), c"malloc");
    assert_eq!(function(allocation.site()), "make_box");
    let base = allocs::base(&boxed[1]).expect("a base");
    assert_eq!(base.as_ptr(), allocation.base());
    assert_eq!(allocs::size(&boxed[1]), Some(10_002));
    assert_eq!(allocs::site(&boxed[1]), allocation.site());
    assert_eq!(allocs::allocator(&boxed[1]), Some(allocation.allocator()));
    let frames = &mut [None; 4];
    assert_eq!(allocs::stack(&boxed[1], frames).first(), Some(&allocation.site()));
    let info = allocs::info(&boxed[1]);
    assert_eq!(info.chunk(), Some((allocation.base(), 10_002)));
    assert!(info.arena().expect("an arena").contains(&boxed.as_ptr().addr()));
    assert_eq!(info.mapping().expect("a mapping").kind(), MappingKind::Heap);
    assert!(info.file().is_none());
    let behind = Box::new([0; 100]);
    let base = boxed.as_ptr();
    drop(boxed);
    assert_eq!(allocs::at(base.wrapping_add(5_000)), Err(Error::Free));
    assert_eq!(allocs::at(behind.as_ptr()).expect("one").size(), 400);

    let numbers = make_vec();
    assert_eq!(allocs::at(numbers.as_ptr()).expect("one").size(), 20_004);
    assert_eq!(made_by(numbers.as_ptr()), "make_vec");
    assert_eq!(made_by(make_text(12).as_str()), "make_text");
    assert_eq!(made_by(make_copy("twelve").as_str()), "make_copy");
    let mut numbers = Vec::new();
    grow(&mut numbers);
    assert_eq!(made_by(&numbers[500]), "grow");
    assert_eq!(made_by(&make_map()[&50]), "make_map");
}

fn objects() {
    let info = allocs::info(&TABLE[500]);
    assert_eq!(info.mapping().expect("a mapping").kind(), MappingKind::Object);
    let file = info.file().expect("a file");
    assert!(file.segment().is_some());
    // SAFETY: this program unloads no library.
    let section = unsafe { file.section() };
    assert_eq!(section, Some(c".rodata"));
    let place = file.place();
    // SAFETY: as above.
    let path = unsafe { place.file() }.expect("a path");
    assert!(path.to_string_lossy().contains("questions"));
    let table = allocs::at(&TABLE[500]).expect("an allocation");
    assert_eq!((table.base().addr(), table.size()), (TABLE.as_ptr().addr(), 4_004));
    assert_eq!(table.allocator().name(), c"static");
    let local = 7;
    assert_eq!(allocs::at(&local).expect("one").allocator().name(), c"stack");
    assert_eq!(allocs::at(std::ptr::null::<u8>()), Err(Error::Unmapped));
}

#[inline(never)]
#[unsafe(no_mangle)]
fn give(pool: Allocator, memory: &[u8]) {
    let _ = pool.announce(memory, memory.len());
}

fn nested() {
    let pool = Allocator::register(c"pool").expect("registered");
    assert_eq!(pool.name(), c"pool");
    let memory = vec![0_u8; 4_096];
    give(pool, &memory[100..150]);
    give(pool, &memory[200..260]);
    let allocation = allocs::at(&memory[149]).expect("an allocation");
    assert_eq!(allocation.allocator(), pool);
    assert_eq!(allocation.base().addr(), memory.as_ptr().addr() + 100);
    assert_eq!(allocation.size(), 50);
    assert_eq!(function(allocation.site()), "give");
    assert_eq!(pool.announce(&raw const memory[101], 3), Err(Error::Invalid));

    let mut seen = 0;
    let walked = pool.walk(.., |allocation| {
        seen += allocation.size();
        ControlFlow::<()>::Continue(())
    });
    assert_eq!((walked, seen), (Ok(ControlFlow::Continue(())), 110));
    let range = memory.as_ptr_range();
    let range = range.start.addr()..range.end.addr();
    let mut seen = Vec::with_capacity(8);
    let walked = allocs::walk(range, |allocation| {
        seen.push(allocation.size());
        match seen.len() {
            2 => ControlFlow::Break(allocation.allocator()),
            _ => ControlFlow::Continue(()),
        }
    });
    assert_eq!(walked, Ok(ControlFlow::Break(pool)));
    assert_eq!(seen, [4_096, 50]);

    assert_eq!(pool.retract(&raw const memory[100]), Ok(()));
    assert_eq!(pool.retract(&raw const memory[100]), Err(Error::Invalid));
    assert_eq!(allocs::at(&memory[120]).expect("one").size(), 4_096);
}

fn main() {
    if !allocs::is_available() {
        assert_eq!(allocs::at(&TABLE), Err(Error::NotAvailable));
        println!("nothing can be asked");
        return;
    }
    if std::env::args().count() > 1 {
        let walked = allocs::walk(.., |_| -> ControlFlow<()> { panic!("in a walk") });
        println!("not reached: {walked:?}");
        return;
    }
    heap();
    objects();
    nested();
    println!("all answers are right");
    // SAFETY: standard output is open.
    unsafe { allocs::report(1, Format::Text) }.expect("a report");
}
