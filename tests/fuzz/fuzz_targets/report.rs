//! A file of any bytes as a report of the runtime, read and shown in every way.
#![no_main]

use std::sync::LazyLock;

use allocs_fuzz::Place;
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

fuzz_target!(|bytes: &[u8]| PLACE.report(bytes));
