//! A file of any bytes as the program.
#![no_main]

use std::sync::LazyLock;

use allocs_fuzz::{Place, RUNTIMES};
use libfuzzer_sys::fuzz_target;

static PLACE: LazyLock<Place> = LazyLock::new(Place::new);

fuzz_target!(|bytes: &[u8]| PLACE.rewrite(bytes, RUNTIMES[0]));
