//! The symbols of one object, sorted by address, so that a report with thousands of sites need not read a
//! symbol table from one end to the other for each.

use crate::arena::Plain;
use crate::elf::{SHN_UNDEF, STB_GLOBAL, STB_WEAK, STT_TLS};

const STT_SECTION: u8 = 3;
const STT_FILE: u8 = 4;
const SHN_ABS: u16 = 0xfff1;
const SHN_COMMON: u16 = 0xfff2;

/// How many symbols that begin at or below an address may end below it, ahead of the one that contains it.
const SEARCHED: usize = 64;

/// A symbol as the file has it (Elf64_Sym).
#[derive(Clone, Copy)]
#[repr(C)]
pub(crate) struct Symbol {
    pub(crate) name: u32,
    info: u8,
    /// Its visibility in the file; then which of several with the same address is preferred.
    rank: u8,
    pub(crate) section: u16,
    /// An address in the file.
    pub(crate) value: usize,
    pub(crate) size: usize,
}

// SAFETY: numbers, and no padding: 4 + 1 + 1 + 2 + 8 + 8.
unsafe impl Plain for Symbol {}

impl Symbol {
    /// Whether it names something in memory.
    fn is_in_memory(&self) -> bool {
        !matches!(self.info & 15, STT_TLS | STT_SECTION | STT_FILE)
            && !matches!(self.section, SHN_UNDEF | SHN_ABS | SHN_COMMON)
            && self.name != 0
    }

    /// `malloc` rather than `__libc_malloc`; what others can see rather than what they cannot.
    fn ranked(self, names: &[u8]) -> Self {
        let binding = match self.info >> 4 {
            STB_GLOBAL => 4,
            STB_WEAK => 2,
            _ => 0,
        };
        let plain = names.get(self.name as usize) != Some(&b'_');
        Self {
            rank: binding | u8::from(plain),
            ..self
        }
    }

    fn order(&self) -> (usize, u8) {
        (self.value, self.rank)
    }
}

/// Leaves those of `symbols` that name something in memory, by address.
pub(crate) fn sorted(symbols: &'static mut [Symbol], names: &[u8]) -> &'static [Symbol] {
    let mut kept = 0_usize;
    for index in 0..symbols.len() {
        if let Some(symbol) = symbols.get(index).copied()
            && symbol.is_in_memory()
            && let Some(place) = symbols.get_mut(kept)
        {
            *place = symbol.ranked(names);
            kept = kept.wrapping_add(1);
        }
    }
    let symbols = symbols.get_mut(..kept).unwrap_or_default();
    sort(symbols);
    symbols
}

/// Heapsort: core's own sorts can panic, with a location, over an order that is none.
fn sort(symbols: &mut [Symbol]) {
    let count = symbols.len();
    for root in (0..count / 2).rev() {
        sift_down(symbols, root, count);
    }
    for end in (1..count).rev() {
        exchange(symbols, 0, end);
        sift_down(symbols, 0, end);
    }
}

fn sift_down(symbols: &mut [Symbol], mut root: usize, end: usize) {
    loop {
        let order = |index: usize| {
            let symbol = symbols.get(index).filter(|_| index < end);
            symbol.map(Symbol::order)
        };
        let left = root.wrapping_mul(2).wrapping_add(1);
        let right = left.wrapping_add(1);
        // `None` is less than any.
        let larger = if order(right) > order(left) {
            right
        } else {
            left
        };
        if order(larger) <= order(root) {
            return;
        }
        exchange(symbols, root, larger);
        root = larger;
    }
}

fn exchange(symbols: &mut [Symbol], one: usize, other: usize) {
    if let Ok([one, other]) = symbols.get_disjoint_mut([one, other]) {
        (*one, *other) = (*other, *one);
    }
}

/// The symbol of `symbols` that contains `address`. If none does that has a size, the nearest one below that has
/// none, as long as `is_section` says that its section reaches that far.
pub(crate) fn containing(
    symbols: &[Symbol],
    address: usize,
    is_section: impl FnOnce(u16) -> bool,
) -> Option<&Symbol> {
    let begun = symbols.partition_point(|symbol| symbol.value <= address);
    let below = || symbols.get(..begun).unwrap_or_default().iter().rev();
    below()
        .take(SEARCHED)
        .find(|symbol| address.wrapping_sub(symbol.value) < symbol.size)
        .or_else(|| {
            below()
                .next()
                .filter(|symbol| symbol.size == 0)
                .filter(|symbol| symbol.value == address || is_section(symbol.section))
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAMES: &[u8] = b"\0_a\0a\0b\0c\0";

    fn symbol(name: u32, info: u8, value: usize, size: usize) -> Symbol {
        Symbol {
            name,
            info,
            rank: 0,
            section: 1,
            value,
            size,
        }
    }

    fn table(symbols: &[Symbol]) -> &'static [Symbol] {
        sorted(Box::leak(symbols.to_vec().into_boxed_slice()), NAMES)
    }

    #[test]
    fn symbols_are_sorted() {
        for count in 0..300_usize {
            let scattered = |index: usize| index.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 50;
            let symbols: Vec<_> = (0..count)
                .map(|index| symbol(4, 0x12, scattered(index), 1))
                .collect();
            let sorted = table(&symbols);
            assert!(sorted.is_sorted_by_key(|symbol| symbol.value));
            assert_eq!(sorted.len(), count);
        }
    }

    #[test]
    fn the_innermost_of_the_preferred_names() {
        let function = 0x12;
        let table = table(&[
            symbol(8, function, 0x300, 0),
            symbol(6, function, 0x120, 0x10),
            symbol(1, function, 0x100, 0x100),
            symbol(4, function, 0x100, 0x100),
            symbol(1, 2, 0x100, 0x100),
            symbol(4, 0x16, 0x110, 8),
            symbol(0, function, 0x110, 8),
        ]);
        let name =
            |address| containing(table, address, |_| address < 0x400).map(|symbol| symbol.name);
        assert_eq!(name(0xff), None);
        assert_eq!(name(0x100), Some(4));
        assert_eq!(
            name(0x111),
            Some(4),
            "neither thread-local nor without a name"
        );
        assert_eq!(name(0x120), Some(6));
        assert_eq!(name(0x130), Some(4));
        assert_eq!(name(0x200), None);
        assert_eq!(name(0x300), Some(8));
        assert_eq!(name(0x3ff), Some(8));
        assert_eq!(name(0x400), None);
    }
}
