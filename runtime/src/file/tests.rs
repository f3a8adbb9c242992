//! The unit tests' own process is the data: its loaded objects, as the C library and the files say.

use std::ffi::{CStr, c_char};
use std::fs;

use super::*;

/// The string at `at`.
pub(crate) fn text(at: Mapped) -> String {
    let string = std::ptr::with_exposed_provenance::<c_char>(at.address());
    // SAFETY: what the runtime gives out as strings are some.
    let string = unsafe { CStr::from_ptr(string) };
    string.to_string_lossy().into_owned()
}

fn path(object: &LoadedObject) -> String {
    object
        .path
        .or_else(executable_path)
        .map(text)
        .expect("a path")
}

#[test]
fn objects_are_those_of_proc() {
    let maps = fs::read_to_string("/proc/self/maps").expect("maps");
    let objects: Vec<_> = objects().collect();
    assert!(objects.len() >= 4, "executable, libc, loader, vdso");
    assert_eq!(
        path(&objects[0]),
        fs::read_link("/proc/self/exe").unwrap().to_str().unwrap()
    );
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
        let first = maps
            .lines()
            .find(|line| line.ends_with(&file))
            .expect(&file);
        let begin = usize::from_str_radix(first.split_once('-').unwrap().0, 16).unwrap();
        assert_eq!(object.begin & !(sys::PAGE - 1), begin, "{path}");
        let (text, _, offset) = object.executable_segment().expect("code");
        let text = text & !(sys::PAGE - 1);
        let line = maps
            .lines()
            .find(|line| line.starts_with(&format!("{text:x}-")))
            .expect(&maps);
        assert!(line.contains(" r-xp ") && line.ends_with(&file), "{line}");
        let fields: Vec<_> = line.split_whitespace().collect();
        assert_eq!(
            usize::from_str_radix(fields[2], 16).unwrap(),
            offset & !(sys::PAGE - 1)
        );
    }
}
