//! Names and patterns of names.

use crate::memory::Mapped;

/// Whether `name` is what `pattern` says: `*` stands for any characters, `?` for one. What compilers hang on
/// to a name (`.cold`, `.part.0`, `.constprop.1`) is not part of it.
pub(crate) fn matches(pattern: &[u8], name: Mapped) -> bool {
    let (mut at, mut from) = (0_usize, 0_usize);
    // Behind the last star: its place in the pattern, and where the rest of the name is tried.
    let mut star: Option<(usize, usize)> = None;
    loop {
        let byte = name.add(from).byte();
        let ends = byte == 0 || (byte == b'.' && !pattern.contains(&b'.'));
        match pattern.get(at).copied() {
            None if ends => return true,
            Some(b'*') => {
                at = at.wrapping_add(1);
                star = Some((at, from));
                continue;
            }
            Some(expected) if byte != 0 && (expected == b'?' || expected == byte) => {
                at = at.wrapping_add(1);
                from = from.wrapping_add(1);
                continue;
            }
            _ => {}
        }
        let Some((behind, tried)) = star else {
            return false;
        };
        if name.add(tried).byte() == 0 {
            return false;
        }
        at = behind;
        from = tried.wrapping_add(1);
        star = Some((behind, from));
    }
}

/// Whether it is the mangled name of a function of Rust's crate alloc.
pub(crate) fn is_of_rust_alloc(name: Mapped) -> bool {
    if name.starts_with(b"_ZN") {
        // Legacy: the module's path, or what is implemented: `<alloc::vec::Vec<..> as ..>::..`.
        let mut behind = name.add(3);
        while behind.byte().is_ascii_digit() {
            behind = behind.add(1);
        }
        return behind.starts_with(b"_$LT$alloc..") || name.add(3).starts_with(b"5alloc");
    }
    name.starts_with(b"_R") && crate_of(name.add(2)).is_some_and(|root| root.starts_with(b"5alloc"))
}

/// The first crate in the rest of a v0 symbol: that of the item, of the implementation or of the type that it
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

    fn name(text: &CStr) -> Mapped {
        // SAFETY: a string.
        unsafe { Mapped::new(text.as_ptr().expose_provenance()) }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("xmalloc", c"xmalloc", true),
            ("xmalloc", c"xmalloc.cold", true),
            ("xmalloc", c"xmalloc_failed", false),
            ("xmalloc", c"xmallo", false),
            ("g_memdup*", c"g_memdup2", true),
            ("*alloc", c"jv_mem_alloc", true),
            ("*alloc", c"jv_mem_alloc.part.0", true),
            ("*alloc", c"jv_mem_allocate", false),
            ("*", c"", true),
            ("?", c"", false),
            (
                "_ZNSt*allocate*",
                c"_ZNSt16allocator_traitsISaIcEE8allocateERS0_m",
                true,
            ),
            ("a*b*c", c"a.b.b.d", false),
            ("libc.so.*", c"libc.so.6", true),
        ] {
            assert_eq!(
                matches(pattern.as_bytes(), name(text)),
                expected,
                "{pattern} {text:?}"
            );
        }
    }

    #[test]
    fn functions_of_crate_alloc() {
        for text in [
            c"_ZN5alloc7raw_vec11finish_grow17h0123456789abcdefE",
            c"_ZN60_$LT$alloc..string..String$u20$as$u20$core..clone..Clone$GT$5clone17hE",
            c"_RNvNtCs8hVv1mBUjyl_5alloc7raw_vec11finish_grow",
            c"_RNvMs_NtCs8hVv1mBUjyl_5alloc7raw_vecINtB4_6RawVechE8grow_one",
            c"_RINvNtCs8hVv1mBUjyl_5alloc5slice6to_vechE",
            c"_RNvXsa_NtCs8hVv1mBUjyl_5alloc6stringNtB5_6StringNtNtC4core5clone5Clone5clone",
        ] {
            assert!(is_of_rust_alloc(name(text)), "{text:?}");
        }
        for text in [
            c"_ZN3app5alloc3new17h0123456789abcdefE",
            c"_ZN6vector3newEv",
            c"_RNvCs1_3app4main",
            c"_RINvCs1_3app3runNtNtCs2_5alloc6string6StringE",
            c"_R",
            c"malloc",
        ] {
            assert!(!is_of_rust_alloc(name(text)), "{text:?}");
        }
    }
}
