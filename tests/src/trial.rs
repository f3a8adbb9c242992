//! Tests by name. A test is a function that panics when a promise is broken.

use std::any::Any;
use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};

use libtest_mimic::{Failed, Trial};

thread_local! {
    static PLACE: RefCell<String> = const { RefCell::new(String::new()) };
}

/// A test called `name`. Its panic message is printed once, with the place, in the list of
/// failures, and not between the results as well.
pub fn trial(name: impl Into<String>, test: impl FnOnce() + Send + 'static) -> Trial {
    Trial::test(name, move || {
        catch_unwind(AssertUnwindSafe(test)).map_err(|payload| {
            let place = PLACE.with(|place| place.take());
            Failed::from(format!("{place}: {}", message(&*payload)))
        })
    })
}

/// The seeds of generated tests: ALLOCS_SEEDS=FIRST..END, or those of `usual`.
pub fn seeds(usual: &str) -> std::ops::Range<u64> {
    let range = std::env::var("ALLOCS_SEEDS").unwrap_or_else(|_| usual.to_owned());
    let ends = range.split_once("..").expect("ALLOCS_SEEDS is FIRST..END");
    let [first, end] = [ends.0, ends.1].map(|end| end.parse().expect("a number"));
    first..end
}

/// Remembers where a panic happened, for [`trial`]; call once, before the tests run.
pub fn remember_places() {
    std::panic::set_hook(Box::new(|info| {
        let place = info.location().map(ToString::to_string).unwrap_or_default();
        PLACE.with(|last| last.replace(place));
    }));
}

/// The text of a panic.
pub fn message(payload: &(dyn Any + Send)) -> &str {
    match (
        payload.downcast_ref::<String>(),
        payload.downcast_ref::<&str>(),
    ) {
        (Some(text), _) => text,
        (None, Some(text)) => text,
        (None, None) => "a panic without a message",
    }
}

/// `trials!["layouts": gold, lld]`: tests called `layouts::gold` and `layouts::lld`, from functions
/// of those names.
#[macro_export]
macro_rules! trials {
    [$module:literal: $($name:ident),+ $(,)?] => {
        vec![$($crate::trial(concat!($module, "::", stringify!($name)), $name)),+]
    };
}
