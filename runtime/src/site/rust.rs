//! Names of functions of Rust's standard library, of which nobody thinks as of the cause of an allocation.

use crate::memory::Mapped;

/// Its crates.
const CRATES: [(&[u8], &[u8]); 4] = [
    (b"4core", b"core.."),
    (b"5alloc", b"alloc.."),
    (b"3std", b"std.."),
    (b"9hashbrown", b"hashbrown.."),
];

/// What a thread's closure and main are called by, and often inlined into.
const ROOT: &[u8] = b"__rust_begin_short_backtrace";

/// What is between a type and its trait in legacy names.
const AS: &[u8] = b"$u20$as$u20$";

/// Whether `name` is mangled, in either way, and that of a function of these crates.
pub(crate) fn is_of_library(name: Mapped) -> bool {
    let is_of_library = if name.starts_with(b"_ZN") {
        is_legacy(name.add(3))
    } else {
        name.starts_with(b"_R") && crate_of(name.add(2)).is_some_and(is_crate)
    };
    is_of_library && last_behind(name, ROOT).is_none()
}

/// What follows `text` where it occurs last.
fn last_behind(name: Mapped, text: &[u8]) -> Option<Mapped> {
    let places = (0..).map(|at| name.add(at)).take_while(|at| at.byte() != 0);
    let last = places.filter(|at| at.starts_with(text)).last()?;
    Some(last.add(text.len()))
}

fn is_crate(name: Mapped) -> bool {
    CRATES
        .iter()
        .any(|(component, _)| name.starts_with(component))
}

/// Whether it is the rest of a legacy name, in which the path of the module comes first or what is implemented:
/// `<alloc::vec::Vec<T> as core::clone::Clone>::clone`.
fn is_legacy(path: Mapped) -> bool {
    if !path.byte().is_ascii_digit() {
        return false;
    }
    let mut component = path;
    while component.byte().is_ascii_digit() {
        component = component.add(1);
    }
    let is_path = |at: Mapped| CRATES.iter().any(|(_, path)| at.starts_with(path));
    let implements = component.add(5);
    let is_implementation =
        component.starts_with(b"_$LT$") && (is_path(implements) || is_without_path(implements));
    if !is_implementation && !is_crate(path) {
        return false;
    }
    // A type of the library has traits of others, too.
    last_behind(component, AS).is_none_or(is_path) && ends_in_hash(component)
}

/// Whether the type that implements a trait belongs to no crate, but to the language or to any: `<T as
/// alloc::slice::ToVec>::to_vec`. Nobody else than the trait's crate can write that.
fn is_without_path(name: Mapped) -> bool {
    let mut rest = (0..)
        .map(|at| name.add(at))
        .take_while(|at| at.byte() != 0 && !at.starts_with(b".."));
    rest.any(|at| at.starts_with(AS))
}

/// A C++ namespace may have any name, but only names of Rust end so: 17h0123456789abcdefE.
fn ends_in_hash(name: Mapped) -> bool {
    const HASH: &[u8] = b"17h";
    const DIGITS: usize = 16;
    last_behind(name, HASH).is_some_and(|hash| {
        (0..DIGITS).all(|at| hash.add(at).byte().is_ascii_hexdigit())
            && hash.add(DIGITS).starts_with(b"E")
    })
}

/// The first crate in the rest of a v0 name: that of the item, of the implementation or of the type that it
/// belongs to. Its name, with its length in front.
fn crate_of(symbol: Mapped) -> Option<Mapped> {
    /// Deeper paths are not looked into.
    const DEEPEST: usize = 64;
    let disambiguated = |mut at: Mapped| {
        if at.byte() == b's' {
            while at.byte() != b'_' && at.byte() != 0 {
                at = at.add(1);
            }
            at = at.add(usize::from(at.byte() == b'_'));
        }
        at
    };
    let mut at = symbol;
    for _ in 0..DEEPEST {
        match at.byte() {
            b'C' => return Some(disambiguated(at.add(1))),
            // An instance; a type's own implementation, a trait's; a type's as a trait.
            b'I' | b'Y' => at = at.add(1),
            b'M' | b'X' => at = disambiguated(at.add(1)),
            // Nested, in a namespace.
            b'N' if at.add(1).byte().is_ascii_alphabetic() => at = at.add(2),
            _ => return None,
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use core::ffi::CStr;

    use super::*;

    fn is_of_library(text: &CStr) -> bool {
        // SAFETY: a string.
        super::is_of_library(unsafe { Mapped::new(text.as_ptr().expose_provenance()) })
    }

    #[test]
    fn functions_of_the_library() {
        for name in [
            c"_ZN5alloc7raw_vec11finish_grow17h0123456789abcdefE",
            c"_ZN60_$LT$alloc..string..String$u20$as$u20$core..clone..Clone$GT$5clone17h0123456789abcdefE",
            c"_ZN50_$LT$alloc..vec..Vec$LT$T$GT$$GT$4push17h0123456789abcdefE",
            c"_ZN52_$LT$T$u20$as$u20$alloc..slice..hack..ConvertVec$GT$6to_vec17h0123456789abcdefE",
            c"_ZN4core3fmt9Formatter9write_str17h0123456789abcdefE",
            c"_RNvNtCs8hVv1mBUjyl_5alloc7raw_vec11finish_grow",
            c"_RNvMs_NtCs8hVv1mBUjyl_5alloc7raw_vecINtB4_6RawVechE8grow_one",
            c"_RINvNtCs8hVv1mBUjyl_5alloc5slice6to_vechE",
            c"_RNvXsa_NtCs8hVv1mBUjyl_5alloc6stringNtB5_6StringNtNtC4core5clone5Clone5clone",
            c"_RNvXs9_NtNtNtCsgEmfK2I1SDS_4core3fmt3num3implNtB9_7Display3fmt",
        ] {
            assert!(is_of_library(name), "{name:?}");
        }
    }

    #[test]
    fn other_functions() {
        for name in [
            c"_ZN3app5alloc3new17h0123456789abcdefE",
            c"_ZN47_$LT$alloc..vec..Vec$u20$as$u20$app..Shape$GT$4area17h0123456789abcdefE",
            c"_ZN47_$LT$app..Point$u20$as$u20$core..fmt..Debug$GT$3fmt17h0123456789abcdefE",
            c"_ZN35_$LT$T$u20$as$u20$app..Shape$GT$4area17h0123456789abcdefE",
            c"_ZN4core6Vector9push_backEv",
            c"_ZN4core5shortE",
            c"_ZN4core",
            c"_RNvCs1_3app4main",
            c"_RINvCs1_3app3runNtNtCs2_5alloc6string6StringE",
            c"_RNvXCs1_3appINtNtCs2_5alloc3vec3VechENtB2_5Shape4area",
            c"_ZN3std3sys9backtrace28__rust_begin_short_backtrace17h0123456789abcdefE",
            c"_RINvNtNtCs1_3std3sys9backtrace28___rust_begin_short_backtraceNCNvCs2_3app4main0uE",
            c"_R",
            c"_ZN",
            c"malloc",
        ] {
            assert!(!is_of_library(name), "{name:?}");
        }
    }
}
