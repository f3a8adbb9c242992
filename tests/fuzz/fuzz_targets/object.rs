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
/// Programs for glibc and for musl that need `libseed.so`.
static PROGRAMS: LazyLock<Vec<PathBuf>> = LazyLock::new(|| {
    let programs = seeds("program").into_iter().enumerate();
    programs
        .map(|(index, program)| PLACE.write(&format!("program-{index}"), &program))
        .collect()
});

#[derive(Arbitrary, Debug)]
enum Library {
    Edited(Edits),
    Bytes(Vec<u8>),
}

fuzz_target!(|library: (Library, u8)| {
    let (library, program) = library;
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
    let program = &PROGRAMS[usize::from(program) % PROGRAMS.len()];
    let explanation = allocs_rewrite::explain(program, &conditions).expect("an explanation");
    std::hint::black_box(explanation.report());
});
