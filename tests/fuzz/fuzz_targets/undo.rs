//! A rewritten program with fields, or the journal that leads back, changed.
#![no_main]

use std::sync::LazyLock;

use allocs_fuzz::{Edits, Place, correct_checksum, rewritten_seeds};
use libfuzzer_sys::arbitrary::{self, Arbitrary};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);
static SEEDS: LazyLock<Vec<Vec<u8>>> = LazyLock::new(|| rewritten_seeds(&PLACE));

#[derive(Arbitrary, Debug)]
struct Changes {
    edits: Edits,
    /// Bytes of the file's end, where a journal is: distance from there, and value.
    end: Vec<(u16, u8)>,
    /// Whoever changed it has corrected the journal's checksum.
    knowing: bool,
}

fuzz_target!(|changes: Changes| {
    let mut bytes = changes.edits.apply(&SEEDS);
    for (distance, value) in changes.end.iter().take(16) {
        let at = bytes.len().checked_sub(usize::from(*distance) + 1);
        if let Some(byte) = at.and_then(|at| bytes.get_mut(at)) {
            *byte = *value;
        }
    }
    if changes.knowing {
        correct_checksum(&mut bytes);
    }
    PLACE.undo(&bytes);
});
