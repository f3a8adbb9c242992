//! Section headers: what tools read, and the loader does not.

use object::elf::{SectionFlags, SectionHeader32, SectionHeader64, SectionType};
use object::pod::bytes_of;
use object::read::elf::SectionHeader;
use object::{Endianness, U32, U64};

use super::{Class, Entry, FileOffset, Format, Vaddr, low, raw};

/// A section header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Section {
    pub(crate) name: u32,
    pub(crate) kind: SectionType,
    pub(crate) flags: SectionFlags,
    pub(crate) vaddr: Vaddr,
    pub(crate) offset: FileOffset,
    pub(crate) size: u64,
    pub(crate) link: u32,
    pub(crate) info: u32,
    pub(crate) align: u64,
    pub(crate) entsize: u64,
}

impl Section {
    /// True if the section lies in memory at run time.
    pub(crate) fn is_loaded(&self) -> bool {
        self.flags.0 & object::elf::SHF_ALLOC.0 != 0
    }

    /// Bytes that the section takes in the file.
    pub(crate) fn file_size(&self) -> u64 {
        match self.kind {
            object::elf::SHT_NOBITS | object::elf::SHT_NULL => 0,
            _ => self.size,
        }
    }

    /// Bytes that the section takes in the process image: .tbss takes none.
    pub(crate) fn memory_size(&self) -> u64 {
        let thread_local_bss =
            self.kind == object::elf::SHT_NOBITS && self.flags.0 & object::elf::SHF_TLS.0 != 0;
        if self.is_loaded() && !thread_local_bss {
            self.size
        } else {
            0
        }
    }
}

impl Section {
    fn read<T: SectionHeader<Endian = Endianness>>(header: &T, endian: Endianness) -> Self {
        Self {
            name: header.sh_name(endian),
            kind: header.sh_type(endian),
            flags: header.sh_flags(endian),
            vaddr: Vaddr(header.sh_addr(endian).into()),
            offset: FileOffset(header.sh_offset(endian).into()),
            size: header.sh_size(endian).into(),
            link: header.sh_link(endian),
            info: header.sh_info(endian),
            align: header.sh_addralign(endian).into(),
            entsize: header.sh_entsize(endian).into(),
        }
    }
}

impl Entry for Section {
    fn size(format: Format) -> u64 {
        match format.class {
            Class::Elf32 => 40,
            Class::Elf64 => 64,
        }
    }

    fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        let endian = format.endian;
        Some(match format.class {
            Class::Elf32 => Self::read(raw::<SectionHeader32<Endianness>>(bytes)?, endian),
            Class::Elf64 => Self::read(raw::<SectionHeader64<Endianness>>(bytes)?, endian),
        })
    }

    fn encode(&self, format: Format) -> Vec<u8> {
        let endian = format.endian;
        let word = |value| U32::new(endian, low(value));
        let long = |value| U64::new(endian, value);
        match format.class {
            Class::Elf32 => bytes_of(&SectionHeader32::<Endianness> {
                sh_name: U32::new(endian, self.name),
                sh_type: U32::new(endian, self.kind),
                sh_flags: U32::new_u64_truncate(endian, self.flags),
                sh_addr: word(self.vaddr.0),
                sh_offset: word(self.offset.0),
                sh_size: word(self.size),
                sh_link: U32::new(endian, self.link),
                sh_info: U32::new(endian, self.info),
                sh_addralign: word(self.align),
                sh_entsize: word(self.entsize),
            })
            .to_vec(),
            Class::Elf64 => bytes_of(&SectionHeader64::<Endianness> {
                sh_name: U32::new(endian, self.name),
                sh_type: U32::new(endian, self.kind),
                sh_flags: U64::new(endian, self.flags),
                sh_addr: long(self.vaddr.0),
                sh_offset: long(self.offset.0),
                sh_size: long(self.size),
                sh_link: U32::new(endian, self.link),
                sh_info: U32::new(endian, self.info),
                sh_addralign: long(self.align),
                sh_entsize: long(self.entsize),
            })
            .to_vec(),
        }
    }
}
