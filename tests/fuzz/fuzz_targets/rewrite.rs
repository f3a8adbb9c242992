//! A real program with fields of its headers and tables changed, and any of the runtimes.
#![no_main]

use std::sync::LazyLock;

use allocs_fuzz::{Edits, Place, RUNTIMES, seeds};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| seeds("parse"));

fuzz_target!(|program: (Edits, u8)| {
    let (edits, runtime) = program;
    let runtime = RUNTIMES[usize::from(runtime) % RUNTIMES.len()];
    PLACE.rewrite(&edits.apply(&SEEDS), runtime);
});
