//! The unit tests' own process is the data.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says that something is wrong by panicking"
)]

use std::fs;
use std::sync::mpsc;
use std::thread;

use super::*;
use crate::{pages, sys};

fn address_of<T>(place: *const T) -> usize {
    place.expose_provenance()
}

/// Every region of /proc/self/maps is found by its first and its last address, with its rights.
#[test]
fn regions_are_those_of_proc() {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let mut seen = 0;
    for line in maps.lines() {
        let fields: Vec<_> = line.split_whitespace().collect();
        let (begin, end) = fields[0].split_once('-').unwrap();
        let [begin, end] = [begin, end].map(|number| usize::from_str_radix(number, 16).unwrap());
        let name = fields.get(5).copied().unwrap_or_default();
        let expected = match name {
            "[stack]" => Kind::MainStack,
            "[vdso]" | "[vvar]" | "[vsyscall]" | "[vvar_vclock]" => Kind::Kernel,
            _ if name.starts_with('/') => Kind::Object,
            // Other tests' threads come and go.
            _ => continue,
        };
        for address in [begin, end - 1] {
            let info = of(address).expect(line);
            assert_eq!(info.kind, expected, "{line}");
            assert_eq!((info.base, info.limit), (begin, end), "{line}");
            let rights = fields[1].as_bytes()[..3].iter().zip([b'r', b'w', b'x']);
            let rights: Vec<_> = rights.map(|(has, right)| *has == right).collect();
            let has = [1, 2, 4].map(|bit| info.protection & bit != 0);
            assert_eq!(rights, has, "{line}");
        }
        seen += 1;
    }
    assert!(seen >= 10, "{maps}");
    assert_eq!(of(0), None);
    assert_eq!(of(pages::LEAST), None);
    assert_eq!(of(usize::MAX), None);
}

/// One's own and that of a thread that never calls a hook.
#[test]
fn stacks_of_threads() {
    let (to_us, from_thread) = mpsc::channel();
    let (to_thread, from_us) = mpsc::channel::<()>();
    let thread = thread::Builder::new().stack_size(300_000).spawn(move || {
        let local = 0_u64;
        let address = address_of(&raw const local);
        let own = of(address).unwrap();
        to_us.send((address, own, sys::thread_pointer())).unwrap();
        from_us.recv().unwrap();
    });
    let (address, own, pointer) = from_thread.recv().unwrap();
    let info = of(address).unwrap();
    to_thread.send(()).unwrap();
    thread.unwrap().join().unwrap();
    assert_eq!(own.kind, Kind::ThreadStack, "{own:x?}");
    assert!(own.base <= address && pointer < own.limit && own.limit - pointer <= pages::LEAST);
    assert!(
        (295_000..310_000).contains(&(own.limit - own.base)),
        "{own:x?}"
    );
    assert!(
        matches!(info.kind, Kind::ThreadStack | Kind::Other),
        "{info:x?}"
    );
}

/// Without the kernel's word.
#[test]
fn without_proc() {
    static CONSTANT: [u8; 3] = *b"abc";
    let constant = known_by_loader(address_of(&raw const CONSTANT)).unwrap();
    assert_eq!((constant.kind, constant.protection), (Kind::Object, 1));
    let function = known_by_loader(address_of(without_proc as *const u8)).unwrap();
    assert_eq!((function.kind, function.protection), (Kind::Object, 5));
    assert!(function.base < function.limit);
}
