//! The ELF structures that are read and written, in host form.
//!
//! A file offset, a virtual address and a table index are different types here, so that none can
//! be taken for another. Decoding and encoding go through `object`'s typed structures; everything
//! after this module works with plain integers and never with byte order.

use std::fmt;

use object::LittleEndian as LE;
use object::elf::{
    Dyn64, DynamicTag, FileHeader64, ProgramFlags, ProgramHeader64, ProgramType, Rela64,
    RelocationType, SectionFlags, SectionHeader64, SectionType, Sym64, SymbolInfo, SymbolOther,
    SymbolSection,
};
use object::pod::{Pod, bytes_of, from_bytes};
use object::{I64, U16, U32, U64};

/// Smallest unit in which x86-64 kernels map and protect memory, in bytes.
pub(crate) const PAGE: u64 = 4096;

/// A position in a file, in bytes from its start.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct FileOffset(pub(crate) u64);

/// An address as the file's program headers count them, before any load bias.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub(crate) struct Vaddr(pub(crate) u64);

macro_rules! offset_arithmetic {
    ($type:ident) => {
        impl $type {
            /// `self + bytes`, or `None` where that leaves 64 bits.
            pub(crate) fn checked_add(self, bytes: u64) -> Option<Self> {
                self.0.checked_add(bytes).map(Self)
            }

            /// `self - bytes`, or `None` below zero.
            pub(crate) fn checked_sub(self, bytes: u64) -> Option<Self> {
                self.0.checked_sub(bytes).map(Self)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:#x}", self.0)
            }
        }
    };
}

offset_arithmetic!(FileOffset);
offset_arithmetic!(Vaddr);

impl Vaddr {
    /// Bytes from `start` to `self`, or `None` where `start` lies behind.
    pub(crate) fn since(self, start: Self) -> Option<u64> {
        self.0.checked_sub(start.0)
    }
}

/// `value` rounded down to a multiple of `unit`; a unit of 0 or 1 leaves it as it is.
pub(crate) fn align_down(value: u64, unit: u64) -> u64 {
    value - value.checked_rem(unit).unwrap_or(0)
}

/// `value` rounded up to a multiple of `unit`, or `None` where that leaves 64 bits.
pub(crate) fn align_up(value: u64, unit: u64) -> Option<u64> {
    match value.checked_rem(unit).unwrap_or(0) {
        0 => Some(value),
        rest => value.checked_add(unit - rest),
    }
}

/// True if `[a, a+a_len)` and `[b, b+b_len)` share a byte; an empty range shares none.
pub(crate) fn overlap(a: u64, a_len: u64, b: u64, b_len: u64) -> bool {
    a_len > 0 && b_len > 0 && a < b.saturating_add(b_len) && b < a.saturating_add(a_len)
}

/// One fixed-size entry of an ELF table.
pub(crate) trait Entry: Sized {
    /// Size in the file, in bytes.
    const SIZE: u64;
    /// The entry at the start of `bytes`; `None` if `bytes` is too short.
    fn decode(bytes: &[u8]) -> Option<Self>;
    /// The entry as it stands in the file: `SIZE` bytes.
    fn encode(&self) -> Vec<u8>;
}

fn raw<T: Pod>(bytes: &[u8]) -> Option<&T> {
    from_bytes::<T>(bytes).ok().map(|(value, _)| value)
}

/// The ELF header: what identifies the file, and where its two tables are.
#[derive(Clone, Debug)]
pub(crate) struct Header(FileHeader64<LE>);

impl Header {
    pub(crate) fn file_type(&self) -> object::elf::FileType {
        self.0.e_type.get(LE)
    }

    pub(crate) fn program_headers(&self) -> (FileOffset, u16, u16) {
        let header = &self.0;
        (
            FileOffset(header.e_phoff.get(LE)),
            header.e_phnum.get(LE),
            header.e_phentsize.get(LE),
        )
    }

    pub(crate) fn section_headers(&self) -> (FileOffset, u16, u16) {
        let header = &self.0;
        (
            FileOffset(header.e_shoff.get(LE)),
            header.e_shnum.get(LE),
            header.e_shentsize.get(LE),
        )
    }

    /// Index of the section that holds the section names; where it does not fit its field, it is
    /// in the first section's sh_link (gABI, "ELF Header").
    pub(crate) fn section_name_index(&self, first: Option<&Section>) -> u32 {
        match self.0.e_shstrndx.get(LE) {
            object::elf::SHN_XINDEX => first.map_or(0, |section| section.link),
            index => u32::from(index.0),
        }
    }

    /// Address of the entry point.
    pub(crate) fn entry(&self) -> Vaddr {
        Vaddr(self.0.e_entry.get(LE))
    }

    pub(crate) fn set_entry(&mut self, entry: Vaddr) {
        self.0.e_entry = U64::new(LE, entry.0);
    }

    /// Says that there is one section more; `false` if the field has no room for that.
    pub(crate) fn add_section(&mut self) -> bool {
        // From 0xff00 on, the count is elsewhere (gABI, "ELF Header").
        let count = self.0.e_shnum.get(LE);
        let fits = (1..0xfeff).contains(&count);
        if fits {
            self.0.e_shnum = U16::new(LE, count + 1);
        }
        fits
    }

    pub(crate) fn set_program_headers(&mut self, at: FileOffset, count: u16) {
        self.0.e_phoff = U64::new(LE, at.0);
        self.0.e_phnum = U16::new(LE, count);
    }

    pub(crate) fn set_section_headers(&mut self, at: FileOffset) {
        self.0.e_shoff = U64::new(LE, at.0);
    }
}

impl Entry for Header {
    const SIZE: u64 = 64;

    fn decode(bytes: &[u8]) -> Option<Self> {
        raw::<FileHeader64<LE>>(bytes).map(|header| Self(*header))
    }

    fn encode(&self) -> Vec<u8> {
        bytes_of(&self.0).to_vec()
    }
}

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

impl Entry for Segment {
    const SIZE: u64 = 56;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let header = raw::<ProgramHeader64<LE>>(bytes)?;
        Some(Self {
            kind: header.p_type.get(LE),
            flags: header.p_flags.get(LE),
            offset: FileOffset(header.p_offset.get(LE)),
            vaddr: Vaddr(header.p_vaddr.get(LE)),
            paddr: header.p_paddr.get(LE),
            filesz: header.p_filesz.get(LE),
            memsz: header.p_memsz.get(LE),
            align: header.p_align.get(LE),
        })
    }

    fn encode(&self) -> Vec<u8> {
        bytes_of(&ProgramHeader64::<LE> {
            p_type: U32::new(LE, self.kind),
            p_flags: U32::new(LE, self.flags),
            p_offset: U64::new(LE, self.offset.0),
            p_vaddr: U64::new(LE, self.vaddr.0),
            p_paddr: U64::new(LE, self.paddr),
            p_filesz: U64::new(LE, self.filesz),
            p_memsz: U64::new(LE, self.memsz),
            p_align: U64::new(LE, self.align),
        })
        .to_vec()
    }
}

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

impl Entry for Section {
    const SIZE: u64 = 64;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let header = raw::<SectionHeader64<LE>>(bytes)?;
        Some(Self {
            name: header.sh_name.get(LE),
            kind: header.sh_type.get(LE),
            flags: header.sh_flags.get(LE),
            vaddr: Vaddr(header.sh_addr.get(LE)),
            offset: FileOffset(header.sh_offset.get(LE)),
            size: header.sh_size.get(LE),
            link: header.sh_link.get(LE),
            info: header.sh_info.get(LE),
            align: header.sh_addralign.get(LE),
            entsize: header.sh_entsize.get(LE),
        })
    }

    fn encode(&self) -> Vec<u8> {
        bytes_of(&SectionHeader64::<LE> {
            sh_name: U32::new(LE, self.name),
            sh_type: U32::new(LE, self.kind),
            sh_flags: U64::new(LE, self.flags),
            sh_addr: U64::new(LE, self.vaddr.0),
            sh_offset: U64::new(LE, self.offset.0),
            sh_size: U64::new(LE, self.size),
            sh_link: U32::new(LE, self.link),
            sh_info: U32::new(LE, self.info),
            sh_addralign: U64::new(LE, self.align),
            sh_entsize: U64::new(LE, self.entsize),
        })
        .to_vec()
    }
}

/// An entry of .dynamic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dyn {
    pub(crate) tag: DynamicTag,
    pub(crate) value: u64,
}

impl Entry for Dyn {
    const SIZE: u64 = 16;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let entry = raw::<Dyn64<LE>>(bytes)?;
        Some(Self {
            tag: entry.d_tag.get(LE),
            value: entry.d_val.get(LE),
        })
    }

    fn encode(&self) -> Vec<u8> {
        bytes_of(&Dyn64::<LE> {
            d_tag: I64::new(LE, self.tag),
            d_val: U64::new(LE, self.value),
        })
        .to_vec()
    }
}

/// A dynamic symbol.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Symbol {
    pub(crate) name: u32,
    pub(crate) info: SymbolInfo,
    pub(crate) other: SymbolOther,
    pub(crate) section: SymbolSection,
    pub(crate) value: u64,
    pub(crate) size: u64,
}

impl Symbol {
    /// An undefined global symbol of no type, named by its offset in the string table.
    pub(crate) fn undefined_global(name: u32) -> Self {
        Self {
            name,
            info: SymbolInfo::new(object::elf::STB_GLOBAL, object::elf::STT_NOTYPE),
            other: SymbolOther(0),
            section: object::elf::SHN_UNDEF,
            value: 0,
            size: 0,
        }
    }

    pub(crate) fn is_undefined(&self) -> bool {
        self.section == object::elf::SHN_UNDEF
    }
}

impl Entry for Symbol {
    const SIZE: u64 = 24;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let symbol = raw::<Sym64<LE>>(bytes)?;
        Some(Self {
            name: symbol.st_name.get(LE),
            info: symbol.st_info,
            other: symbol.st_other,
            section: symbol.st_shndx.get(LE),
            value: symbol.st_value.get(LE),
            size: symbol.st_size.get(LE),
        })
    }

    fn encode(&self) -> Vec<u8> {
        bytes_of(&Sym64::<LE> {
            st_name: U32::new(LE, self.name),
            st_info: self.info,
            st_other: self.other,
            st_shndx: U16::new(LE, self.section),
            st_value: U64::new(LE, self.value),
            st_size: U64::new(LE, self.size),
        })
        .to_vec()
    }
}

/// A relocation with an explicit addend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rela {
    pub(crate) place: Vaddr,
    pub(crate) symbol: u32,
    pub(crate) kind: RelocationType,
    pub(crate) addend: i64,
}

impl Entry for Rela {
    const SIZE: u64 = 24;

    fn decode(bytes: &[u8]) -> Option<Self> {
        let rela = raw::<Rela64<LE>>(bytes)?;
        Some(Self {
            place: Vaddr(rela.r_offset.get(LE)),
            symbol: rela.r_sym(LE, false),
            kind: rela.r_type(LE, false),
            addend: rela.r_addend.get(LE),
        })
    }

    fn encode(&self) -> Vec<u8> {
        bytes_of(&Rela64::<LE> {
            r_offset: U64::new(LE, self.place.0),
            r_info: Rela64::r_info(LE, false, self.symbol, self.kind),
            r_addend: I64::new(LE, self.addend),
        })
        .to_vec()
    }
}
