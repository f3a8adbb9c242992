//! The unit tests' own process is the data: its loaded objects, as the C library and the files say.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    reason = "a test says that something is wrong by panicking"
)]

use std::ffi::{CStr, c_char, c_int, c_long, c_void};
use std::fs;
use std::iter;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::sync::{Mutex, MutexGuard, Once, PoisonError};
use std::thread;
use std::time::Instant;

use super::*;

fn symbol(address: usize) -> Option<Symbol> {
    place(address)?.symbol
}

/// `Dl_info`.
#[repr(C)]
struct DlInfo {
    file: *const c_char,
    base: *const c_void,
    name: *const c_char,
    symbol: *const c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut DlInfo) -> c_int;
    fn dlopen(name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlmopen(namespace: c_long, name: *const c_char, flags: c_int) -> *mut c_void;
    fn dlsym(library: *mut c_void, name: *const c_char) -> *mut c_void;
    fn dlclose(library: *mut c_void) -> c_int;
}

const RTLD_NOW: c_int = 2;
const LM_ID_NEWLM: c_long = -1;
/// A library that is on every system with glibc and that the tests do not need.
const LIBRARY: &CStr = c"libresolv.so.2";
const FUNCTION: &CStr = c"__dn_count_labels";

/// Begins a test: as init does, before any calls dlopen, and one at a time, for they all load libraries.
fn start() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    static START: Once = Once::new();
    START.call_once(|| LinkMap::find().expect("a list").note(true));
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The string at `at`.
fn text(at: Mapped) -> String {
    let string = ptr::with_exposed_provenance::<c_char>(at.address());
    // SAFETY: what the runtime gives out as strings are some.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_string_lossy().into_owned()
}

fn path(object: &LoadedObject) -> String {
    object.path().map(text).expect("a path")
}

fn address_of<T>(place: *const T) -> usize {
    place.expose_provenance()
}

/// Where a library that was loaded again has its function.
fn load() -> (*mut c_void, usize) {
    // SAFETY: libresolv has no constructors that matter.
    let library = unsafe { dlopen(LIBRARY.as_ptr(), RTLD_NOW) };
    assert!(!library.is_null(), "{LIBRARY:?}");
    // SAFETY: it was just loaded.
    let function = unsafe { dlsym(library, FUNCTION.as_ptr()) };
    assert!(!function.is_null(), "{FUNCTION:?}");
    (library, address_of(function))
}

fn unload(library: *mut c_void) {
    // SAFETY: nothing of it is in use.
    assert_eq!(unsafe { dlclose(library) }, 0);
}

#[test]
fn objects_are_those_of_proc() {
    let _alone = start();
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let objects: Vec<_> = objects()
        .filter(|object| !path(object).contains("resolv"))
        .collect();
    assert!(objects.len() >= 4, "executable, libc, loader, vdso");
    let executable = fs::read_link("/proc/self/exe").unwrap();
    assert_eq!(path(&objects[0]), executable.to_str().unwrap());
    for object in &objects {
        let path = path(object);
        let file = if path == "linux-vdso.so.1" {
            "[vdso]".to_owned()
        } else {
            fs::canonicalize(&path)
                .unwrap()
                .to_str()
                .unwrap()
                .to_owned()
        };
        let line = |address: usize| {
            let begins = format!("{:x}-", pages::begin(address));
            let line = maps
                .lines()
                .find(|line| line.starts_with(&begins))
                .unwrap_or_default();
            assert!(line.ends_with(&file), "{path}: {line}");
            line
        };
        line(object.begin);
        let (text, _, offset) = object.executable_segments().next().expect("code");
        let fields: Vec<_> = line(text).split_whitespace().collect();
        assert_eq!(fields[1], "r-xp");
        assert_eq!(
            usize::from_str_radix(fields[2], 16),
            Ok(pages::begin(offset))
        );
        assert!(of(object.end).is_none_or(|next| next.place.load_base != object.object.base));
    }
}

#[test]
fn build_ids_are_in_the_files() {
    let _alone = start();
    let with_id = objects().filter_map(|object| Some((path(&object), object.build_id()?)));
    let with_id: Vec<_> = with_id.collect();
    assert!(with_id.iter().any(|(path, _)| path.contains("libc.so")));
    for (path, (id, size)) in with_id.iter().filter(|(path, _)| path.starts_with('/')) {
        assert_eq!(*size, 20, "{path}");
        let id: Vec<_> = (0..*size).map(|at| id.add(at).byte()).collect();
        let file = fs::read(path).unwrap();
        let note = [&[4, 0, 0, 0, 20, 0, 0, 0, 3, 0, 0, 0], &b"GNU\0"[..], &id].concat();
        assert!(file.windows(note.len()).any(|part| part == note), "{path}");
    }
}

/// Every function that dladdr knows in libc has that address and a name that is defined there.
#[test]
fn symbols_are_those_of_dladdr() {
    let _alone = start();
    let libc = objects()
        .find(|object| path(object).contains("libc.so"))
        .unwrap();
    let (begin, end, _) = libc.executable_segments().next().unwrap();
    let mut seen = 0;
    for address in (begin..end).step_by(99) {
        let mut info = DlInfo {
            file: ptr::null(),
            base: ptr::null(),
            name: ptr::null(),
            symbol: ptr::null(),
        };
        let place = ptr::with_exposed_provenance(address);
        // SAFETY: fills `info` in.
        assert_ne!(unsafe { dladdr(place, &raw mut info) }, 0);
        let found = of(address).unwrap();
        assert_eq!(found.place.load_base, address_of(info.base));
        // SAFETY: dladdr says that it is a string.
        let file = unsafe { CStr::from_ptr(info.file) };
        assert_eq!(text(found.place.file.unwrap()), file.to_str().unwrap());
        if !info.symbol.is_null() {
            let symbol = symbol(address).unwrap();
            assert_eq!(
                symbol.base,
                address_of(info.symbol),
                "{}",
                text(symbol.name)
            );
            assert!((symbol.base..symbol.base + symbol.size.max(1)).contains(&address));
            seen += 1;
        }
    }
    assert!(seen > 1000, "{seen}");
    assert_eq!(
        text(symbol(address_of(dlsym as *const u8)).unwrap().name),
        "dlsym"
    );
}

#[test]
fn places_in_the_executable() {
    static CONSTANT: [u8; 3] = *b"abc";
    static mut ZEROS: [u8; 1000] = [0; 1000];
    fn function_with_a_name() {}
    let _alone = start();
    let function = address_of(function_with_a_name as *const u8);
    let section = |address: usize| of(address).and_then(|info| info.section).map(text);
    assert_eq!(section(function).as_deref(), Some(".text"));
    assert_eq!(
        section(address_of(&raw const CONSTANT)).as_deref(),
        Some(".rodata")
    );
    let zeros = address_of(&raw const ZEROS);
    assert_eq!(section(zeros + 999).as_deref(), Some(".bss"));
    let symbol = symbol(zeros + 999).unwrap();
    assert!(text(symbol.name).contains("ZEROS"), "{}", text(symbol.name));
    assert_eq!((symbol.base, symbol.size), (zeros, 1000));
    let name = text(place(function).unwrap().symbol.unwrap().name);
    assert!(name.contains("function_with_a_name"), "{name}");
    let local = 0_u8;
    assert!(of(address_of(&raw const local)).is_none());
    assert!(of(0).is_none());
    assert!(of(usize::MAX).is_none());
}

/// It has no file, so these are the symbols in memory.
#[test]
fn symbols_of_the_vdso() {
    let _alone = start();
    let vdso = objects()
        .find(|object| path(object).contains("vdso"))
        .unwrap();
    let (begin, end, _) = vdso.executable_segments().next().unwrap();
    let names: Vec<_> = (begin..end)
        .filter_map(symbol)
        .map(|symbol| text(symbol.name))
        .collect();
    assert!(
        names.iter().any(|name| name.ends_with("clock_gettime")),
        "{names:?}"
    );
}

#[test]
fn libraries_come_and_go() {
    let _alone = start();
    for _ in 0..3 {
        let (library, function) = load();
        let info = of(function).expect("a loaded object");
        let file = text(info.place.file.unwrap());
        assert!(file.ends_with("libresolv.so.2"), "{file}");
        assert_eq!(info.section.map(text).as_deref(), Some(".text"));
        let symbol = info.place.symbol.unwrap();
        assert_eq!(symbol.base, function);
        unload(library);
        assert!(of(function).is_none());
        assert_eq!(text(symbol.name), "__dn_count_labels", "kept");
    }
}

#[test]
fn other_namespaces() {
    let _alone = start();
    // SAFETY: libresolv and libc have no constructors that matter.
    let library = unsafe { dlmopen(LM_ID_NEWLM, LIBRARY.as_ptr(), RTLD_NOW) };
    assert!(!library.is_null());
    // SAFETY: it was just loaded.
    let function = address_of(unsafe { dlsym(library, FUNCTION.as_ptr()) });
    let known = of(function);
    let count = |name: &str| {
        objects()
            .filter(|object| path(object).contains(name))
            .count()
    };
    let (libcs, loaders) = (count("libc.so"), count("ld-linux"));
    unload(library);
    assert_eq!(known.unwrap().place.symbol.unwrap().base, function);
    assert_eq!((libcs, loaders), (2, 1));
}

/// No fault, and no answer that could not have been right, while other threads load and unload what is asked
/// about.
#[test]
fn while_other_threads_unload() {
    let _alone = start();
    let stop = AtomicBool::new(false);
    let place = AtomicUsize::new(0);
    let ask = || {
        let address = place.load(Relaxed);
        let symbol = symbol(address)?;
        let is_right = (symbol.base..symbol.base + symbol.size.max(1)).contains(&address);
        Some(is_right && !text(symbol.name).is_empty())
    };
    let (answers, least) = thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| {
                while !stop.load(Relaxed) {
                    let (library, function) = load();
                    place.store(function, Relaxed);
                    unload(library);
                }
            });
        }
        let seconds = Instant::now();
        let asked = iter::repeat_with(ask).take_while(|_| seconds.elapsed().as_secs() < 10);
        let answers: Vec<_> = asked.flatten().take(500).collect();
        let least = (0..1000).map(|_| objects().count()).min();
        stop.store(true, Relaxed);
        (answers, least)
    });
    assert_eq!(answers.len(), 500);
    assert!(answers.iter().all(|is_right| *is_right), "{answers:?}");
    assert!(least >= Some(4), "{least:?}");
}
