//! The ELF header: what identifies the file, and where its two tables are.

use object::elf::{FileHeader32, FileHeader64, FileType, SHN_XINDEX};
use object::{Endianness, U16, U32, U64};

use super::{Class, Entry, FileOffset, Format, Section, Vaddr, low, raw};

/// The header, as it stands in the file.
#[derive(Clone, Debug)]
pub(crate) struct Header {
    endian: Endianness,
    fields: Fields,
}

#[derive(Clone, Debug)]
enum Fields {
    Elf32(FileHeader32<Endianness>),
    Elf64(FileHeader64<Endianness>),
}

/// The value of a field, whichever class the header has.
macro_rules! get {
    ($header:ident.$field:ident) => {
        match &$header.fields {
            Fields::Elf32(fields) => fields.$field.get($header.endian).into(),
            Fields::Elf64(fields) => fields.$field.get($header.endian).into(),
        }
    };
}

/// Gives a field of 16 bits a value.
macro_rules! set_half {
    ($header:ident.$field:ident, $value:expr) => {
        match &mut $header.fields {
            Fields::Elf32(fields) => fields.$field = U16::new($header.endian, $value),
            Fields::Elf64(fields) => fields.$field = U16::new($header.endian, $value),
        }
    };
}

/// Gives a field that is as long as an address a value.
macro_rules! set_word {
    ($header:ident.$field:ident, $value:expr) => {
        match &mut $header.fields {
            Fields::Elf32(fields) => fields.$field = U32::new($header.endian, low($value)),
            Fields::Elf64(fields) => fields.$field = U64::new($header.endian, $value),
        }
    };
}

impl Header {
    pub(crate) fn file_type(&self) -> FileType {
        get!(self.e_type)
    }

    pub(crate) fn program_headers(&self) -> (FileOffset, u16, u16) {
        (
            FileOffset(get!(self.e_phoff)),
            get!(self.e_phnum),
            get!(self.e_phentsize),
        )
    }

    pub(crate) fn section_headers(&self) -> (FileOffset, u16, u16) {
        (
            FileOffset(get!(self.e_shoff)),
            get!(self.e_shnum),
            get!(self.e_shentsize),
        )
    }

    /// Index of the section that holds the section names; where it does not fit its field, it is
    /// in the first section's sh_link (gABI, "ELF Header").
    pub(crate) fn section_name_index(&self, first: Option<&Section>) -> u32 {
        match get!(self.e_shstrndx) {
            SHN_XINDEX => first.map_or(0, |section| section.link),
            index => u32::from(index.0),
        }
    }

    /// Address of the entry point.
    pub(crate) fn entry(&self) -> Vaddr {
        Vaddr(get!(self.e_entry))
    }

    pub(crate) fn set_entry(&mut self, entry: Vaddr) {
        set_word!(self.e_entry, entry.0);
    }

    /// Says that there is one section more; `false` if the field has no room for that.
    pub(crate) fn add_section(&mut self) -> bool {
        // From 0xff00 on, the count is elsewhere (gABI, "ELF Header").
        let count: u16 = get!(self.e_shnum);
        let fits = (1..0xfeff).contains(&count);
        if fits {
            set_half!(self.e_shnum, count + 1);
        }
        fits
    }

    pub(crate) fn set_program_headers(&mut self, at: FileOffset, count: u16) {
        set_word!(self.e_phoff, at.0);
        set_half!(self.e_phnum, count);
    }

    pub(crate) fn set_section_headers(&mut self, at: FileOffset) {
        set_word!(self.e_shoff, at.0);
    }
}

impl Entry for Header {
    fn size(format: Format) -> u64 {
        match format.class {
            Class::Elf32 => 52,
            Class::Elf64 => 64,
        }
    }

    fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        let fields = match format.class {
            Class::Elf32 => raw(bytes).copied().map(Fields::Elf32),
            Class::Elf64 => raw(bytes).copied().map(Fields::Elf64),
        };
        Some(Self {
            endian: format.endian,
            fields: fields?,
        })
    }

    fn encode(&self, _: Format) -> Vec<u8> {
        match &self.fields {
            Fields::Elf32(fields) => object::pod::bytes_of(fields).to_vec(),
            Fields::Elf64(fields) => object::pod::bytes_of(fields).to_vec(),
        }
    }
}
