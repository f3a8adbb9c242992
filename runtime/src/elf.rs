//! Numbers of the ELF format (System V ABI, chapters 4 and 5) that more than one module knows.

pub(crate) const DT_NULL: usize = 0;
pub(crate) const DT_HASH: usize = 4;
pub(crate) const DT_STRTAB: usize = 5;
pub(crate) const DT_SYMTAB: usize = 6;
pub(crate) const DT_GNU_HASH: usize = 0x6fff_fef5;

pub(crate) const PT_LOAD: u32 = 1;
pub(crate) const PT_DYNAMIC: u32 = 2;

pub(crate) const SHN_UNDEF: u16 = 0;

pub(crate) const STB_GLOBAL: u8 = 1;
pub(crate) const STB_WEAK: u8 = 2;

pub(crate) const STT_TLS: u8 = 6;

/// Size of a symbol.
pub(crate) const SYMBOL: usize = 24;
