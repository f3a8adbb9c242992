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
}
