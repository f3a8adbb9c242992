//! Allocates as programs in Rust do, and prints the function that the runtime takes for the one that did it.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::hint::black_box;
use std::mem::transmute;
use std::ptr;
use std::rc::Rc;

#[repr(C)]
struct Info {
    file: *const c_char,
    base: *const c_void,
    name: *const c_char,
    address: *const c_void,
}

unsafe extern "C" {
    fn dladdr(address: *const c_void, info: *mut Info) -> c_int;
    fn dlsym(library: *const c_void, name: *const c_char) -> *const c_void;
}

fn print<T>(how: &str, chunk: *const T) {
    let mut info = Info { file: ptr::null(), base: ptr::null(), name: ptr::null(), address: ptr::null() };
    let name = unsafe {
        let site = dlsym(ptr::null(), c"alloc_get_site".as_ptr());
        let site: extern "C" fn(*const c_void) -> *const c_void = transmute(site);
        dladdr(site(chunk.cast()).wrapping_byte_sub(1), &raw mut info);
        if info.name.is_null() { c"?" } else { CStr::from_ptr(info.name) }
    };
    println!("{how}: {}", name.to_string_lossy());
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_box() -> *const [u8; 100] {
    black_box(Box::into_raw(Box::new([7; 100])))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_vec() -> *const u32 {
    let mut numbers = Vec::new();
    for number in 0..1000 {
        numbers.push(black_box(number));
    }
    black_box(numbers.leak().as_ptr())
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_string() -> *const u8 {
    let mut text = String::new();
    for _ in 0..100 {
        text.push_str(black_box("some text"));
    }
    black_box(text.leak().as_ptr())
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_clone() -> *const u8 {
    black_box(black_box(String::from("text")).clone().leak().as_ptr())
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_format() -> *const u8 {
    black_box(format!("{} {}", black_box(7), black_box("text")).leak().as_ptr())
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_rc() -> *const u32 {
    black_box(Rc::into_raw(Rc::new(7)))
}

#[unsafe(no_mangle)]
#[inline(never)]
pub extern "C" fn by_map() -> *const u32 {
    let map: &mut BTreeMap<u32, u32> = Box::leak(Box::default());
    black_box(&raw const *map.entry(black_box(7)).or_insert(8))
}

fn main() {
    print("box", by_box());
    print("vec", by_vec());
    print("string", by_string());
    print("clone", by_clone());
    print("format", by_format());
    print("rc", by_rc());
    print("map", by_map());
}
