//! Reading what the kernel and the loader left in memory: the initial stack, program headers,
//! dynamic tables. The one place where an address becomes a read.

use core::arch::asm;

/// One load, as an instruction: this is memory that Rust knows nothing about, not aligned by its rules,
/// on the initial stack even its own frames.
macro_rules! load {
    ($instruction:literal, $address:expr, $value:ty) => {{
        let value: $value;
        // SAFETY: whoever made the first `Mapped` of this table answered for it.
        unsafe {
            asm!(
                $instruction,
                out(reg) value,
                in(reg) $address,
                options(nostack, readonly, preserves_flags),
            );
        }
        value
    }};
}

/// An address inside such a table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Mapped(usize);

impl Mapped {
    /// # Safety
    /// `address` must lie in a table that the kernel or the loader made, that stays mapped, and
    /// whose contents are what its format says: the reads that follow the table rely on it.
    pub(crate) const unsafe fn new(address: usize) -> Self {
        Self(address)
    }

    /// The address itself.
    pub(crate) const fn address(self) -> usize {
        self.0
    }

    /// `bytes` further on.
    pub(crate) const fn add(self, bytes: usize) -> Self {
        Self(self.0.wrapping_add(bytes))
    }

    /// The `index`th of the values of `size` bytes that begin here.
    pub(crate) const fn nth(self, index: u32, size: usize) -> Self {
        self.add((index as usize).wrapping_mul(size))
    }

    pub(crate) fn byte(self) -> u8 {
        load!("movzx {:e}, byte ptr [{}]", self.0, u32).to_le_bytes()[0]
    }

    pub(crate) fn u16(self) -> u16 {
        let [first, second, ..] = load!("movzx {:e}, word ptr [{}]", self.0, u32).to_le_bytes();
        u16::from_le_bytes([first, second])
    }

    pub(crate) fn u32(self) -> u32 {
        load!("mov {:e}, dword ptr [{}]", self.0, u32)
    }

    pub(crate) fn word(self) -> usize {
        load!("mov {}, qword ptr [{}]", self.0, usize)
    }

    /// Whether the NUL-terminated string here is `text`.
    pub(crate) fn is(self, text: &[u8]) -> bool {
        self.starts_with(text) && self.add(text.len()).byte() == 0
    }

    /// Whether the NUL-terminated string here begins with `text`.
    pub(crate) fn starts_with(self, text: &[u8]) -> bool {
        text.iter()
            .enumerate()
            .all(|(at, expected)| self.add(at).byte() == *expected)
    }
}
