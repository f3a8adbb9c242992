//! The hooked functions as values: what counters are kept by, and how the symbols are called.

/// One hooked function.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(usize)]
pub(crate) enum Hook {
    Malloc,
    Calloc,
    Realloc,
    Reallocarray,
    Free,
    Cfree,
    Memalign,
    PosixMemalign,
    AlignedAlloc,
    Valloc,
    Pvalloc,
    MallocUsableSize,
    FreeSized,
    FreeAlignedSized,
}

/// How many there are.
pub(crate) const HOOKS: usize = 14;

/// Their names in the order of [`Hook`]. One string, not an array of them: an array would hold
/// addresses, and an address in data is a dynamic relocation.
pub(crate) const NAMES: &[u8] =
    b"malloc calloc realloc reallocarray free cfree memalign posix_memalign \
aligned_alloc valloc pvalloc malloc_usable_size free_sized free_aligned_sized";

impl Hook {
    /// All of them, in order.
    pub(crate) const ALL: [Self; HOOKS] = [
        Self::Malloc,
        Self::Calloc,
        Self::Realloc,
        Self::Reallocarray,
        Self::Free,
        Self::Cfree,
        Self::Memalign,
        Self::PosixMemalign,
        Self::AlignedAlloc,
        Self::Valloc,
        Self::Pvalloc,
        Self::MallocUsableSize,
        Self::FreeSized,
        Self::FreeAlignedSized,
    ];

    /// The name of the symbol.
    pub(crate) fn name(self) -> &'static [u8] {
        NAMES
            .split(|byte| *byte == b' ')
            .nth(self as usize)
            .unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_order_of_the_hooks() {
        for (hook, index) in Hook::ALL.into_iter().zip(0..) {
            assert_eq!(hook as usize, index);
            // `PosixMemalign` and `posix_memalign` are the same letters.
            let name = String::from_utf8_lossy(hook.name()).replace('_', "");
            assert_eq!(name, format!("{hook:?}").to_lowercase());
        }
    }
}
