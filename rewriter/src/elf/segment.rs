//! Program headers: which bytes of the file go where in memory.

use object::elf::{ProgramFlags, ProgramHeader32, ProgramHeader64, ProgramType};
use object::pod::bytes_of;
use object::read::elf::ProgramHeader;
use object::{Endianness, U32, U64};

use super::{Class, Entry, FileOffset, Format, Vaddr, low, raw};

/// A program header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) kind: ProgramType,
    pub(crate) flags: ProgramFlags,
    pub(crate) offset: FileOffset,
    pub(crate) vaddr: Vaddr,
    pub(crate) paddr: u64,
    pub(crate) filesz: u64,
    pub(crate) memsz: u64,
    pub(crate) align: u64,
}

impl Segment {
    /// First address behind the segment's memory. `parse` has checked that it fits 64 bits.
    pub(crate) fn end(&self) -> Vaddr {
        Vaddr(self.vaddr.0.saturating_add(self.memsz))
    }

    /// First address behind the part that comes from the file.
    pub(crate) fn file_backed_end(&self) -> Vaddr {
        Vaddr(self.vaddr.0.saturating_add(self.filesz))
    }

    /// First file offset behind the segment's bytes.
    pub(crate) fn offset_end(&self) -> FileOffset {
        FileOffset(self.offset.0.saturating_add(self.filesz))
    }

    /// True if `size` bytes at `address` lie in the segment's memory.
    pub(crate) fn covers(&self, address: Vaddr, size: u64) -> bool {
        address >= self.vaddr
            && address
                .checked_add(size)
                .is_some_and(|end| end <= self.end())
    }

    /// File offset of `size` bytes at `address`, if they come from the file.
    pub(crate) fn locate(&self, address: Vaddr, size: u64) -> Option<FileOffset> {
        let start = address.since(self.vaddr)?;
        let end = start.checked_add(size)?;
        (end <= self.filesz)
            .then(|| self.offset.checked_add(start))
            .flatten()
    }
}

impl Segment {
    fn read<T: ProgramHeader<Endian = Endianness>>(header: &T, endian: Endianness) -> Self {
        Self {
            kind: header.p_type(endian),
            flags: header.p_flags(endian),
            offset: FileOffset(header.p_offset(endian).into()),
            vaddr: Vaddr(header.p_vaddr(endian).into()),
            paddr: header.p_paddr(endian).into(),
            filesz: header.p_filesz(endian).into(),
            memsz: header.p_memsz(endian).into(),
            align: header.p_align(endian).into(),
        }
    }
}

impl Entry for Segment {
    fn size(format: Format) -> u64 {
        match format.class {
            Class::Elf32 => 32,
            Class::Elf64 => 56,
        }
    }

    fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        let endian = format.endian;
        Some(match format.class {
            Class::Elf32 => Self::read(raw::<ProgramHeader32<Endianness>>(bytes)?, endian),
            Class::Elf64 => Self::read(raw::<ProgramHeader64<Endianness>>(bytes)?, endian),
        })
    }

    fn encode(&self, format: Format) -> Vec<u8> {
        let endian = format.endian;
        let word = |value| U32::new(endian, low(value));
        let long = |value| U64::new(endian, value);
        match format.class {
            Class::Elf32 => bytes_of(&ProgramHeader32::<Endianness> {
                p_type: U32::new(endian, self.kind),
                p_offset: word(self.offset.0),
                p_vaddr: word(self.vaddr.0),
                p_paddr: word(self.paddr),
                p_filesz: word(self.filesz),
                p_memsz: word(self.memsz),
                p_flags: U32::new(endian, self.flags),
                p_align: word(self.align),
            })
            .to_vec(),
            Class::Elf64 => bytes_of(&ProgramHeader64::<Endianness> {
                p_type: U32::new(endian, self.kind),
                p_flags: U32::new(endian, self.flags),
                p_offset: long(self.offset.0),
                p_vaddr: long(self.vaddr.0),
                p_paddr: long(self.paddr),
                p_filesz: long(self.filesz),
                p_memsz: long(self.memsz),
                p_align: long(self.align),
            })
            .to_vec(),
        }
    }
}
