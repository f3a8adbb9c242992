//! A library with fields changed, for `explain`'s reader, under both loaders' rules.
#![no_main]

use std::path::PathBuf;
use std::sync::LazyLock;

use allocs_fuzz::{Edits, Place, seeds};
use allocs_rewrite::Conditions;
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| seeds("object"));
/// A program that needs `libseed.so`.
static PROGRAM: LazyLock<PathBuf> =
    LazyLock::new(|| PLACE.write("program", &seeds("program")[0]));

#[derive(Arbitrary, Debug)]
enum Library {
    Edited(Edits),
    Bytes(Vec<u8>),
}

fuzz_target!(|library: Library| {
    let bytes = match library {
        Library::Edited(edits) => edits.apply(&SEEDS),
        Library::Bytes(bytes) => bytes,
    };
    let path = PLACE.write("libseed.so", &bytes);
    let conditions = Conditions {
        library_path: path.parent().expect("a directory").display().to_string(),
        ..Conditions::default()
    };
    // Whatever the library is, the program can be explained.
    let explanation = allocs_rewrite::explain(&PROGRAM, &conditions).expect("an explanation");
    std::hint::black_box(explanation.report());
});
