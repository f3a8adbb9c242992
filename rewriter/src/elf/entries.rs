//! Entries of the tables that the loader reads: .dynamic, dynamic symbols, and relocations.

use object::elf::{
    Dyn32, Dyn64, DynamicTag, Rel32, Rel64, Rela32, Rela64, RelocationType, Sym32, Sym64,
    SymbolInfo, SymbolOther, SymbolSection,
};
use object::pod::bytes_of;
use object::read::elf;
use object::{Endianness, I32, I64, U16, U32, U64};

use super::{Addends, Class, Entry, Format, Vaddr, low, raw};

/// An entry of .dynamic.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Dyn {
    pub(crate) tag: DynamicTag,
    pub(crate) value: u64,
}

impl Entry for Dyn {
    fn size(format: Format) -> u64 {
        2 * format.word()
    }

    fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        fn read<T: elf::Dyn<Endian = Endianness>>(entry: &T, endian: Endianness) -> Dyn {
            Dyn {
                tag: entry.d_tag(endian),
                value: entry.d_val(endian).into(),
            }
        }
        let endian = format.endian;
        Some(match format.class {
            Class::Elf32 => read(raw::<Dyn32<Endianness>>(bytes)?, endian),
            Class::Elf64 => read(raw::<Dyn64<Endianness>>(bytes)?, endian),
        })
    }

    fn encode(&self, format: Format) -> Vec<u8> {
        let endian = format.endian;
        match format.class {
            Class::Elf32 => bytes_of(&Dyn32::<Endianness> {
                d_tag: I32::new_i64_truncate(endian, self.tag),
                d_val: U32::new(endian, low(self.value)),
            })
            .to_vec(),
            Class::Elf64 => bytes_of(&Dyn64::<Endianness> {
                d_tag: I64::new(endian, self.tag),
                d_val: U64::new(endian, self.value),
            })
            .to_vec(),
        }
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
    fn size(format: Format) -> u64 {
        match format.class {
            Class::Elf32 => 16,
            Class::Elf64 => 24,
        }
    }

    fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        fn read<T: elf::Sym<Endian = Endianness>>(symbol: &T, endian: Endianness) -> Symbol {
            Symbol {
                name: symbol.st_name(endian),
                info: symbol.st_info(),
                other: symbol.st_other(),
                section: symbol.st_shndx(endian),
                value: symbol.st_value(endian).into(),
                size: symbol.st_size(endian).into(),
            }
        }
        let endian = format.endian;
        Some(match format.class {
            Class::Elf32 => read(raw::<Sym32<Endianness>>(bytes)?, endian),
            Class::Elf64 => read(raw::<Sym64<Endianness>>(bytes)?, endian),
        })
    }

    fn encode(&self, format: Format) -> Vec<u8> {
        let endian = format.endian;
        match format.class {
            Class::Elf32 => bytes_of(&Sym32::<Endianness> {
                st_name: U32::new(endian, self.name),
                st_value: U32::new(endian, low(self.value)),
                st_size: U32::new(endian, low(self.size)),
                st_info: self.info,
                st_other: self.other,
                st_shndx: U16::new(endian, self.section),
            })
            .to_vec(),
            Class::Elf64 => bytes_of(&Sym64::<Endianness> {
                st_name: U32::new(endian, self.name),
                st_info: self.info,
                st_other: self.other,
                st_shndx: U16::new(endian, self.section),
                st_value: U64::new(endian, self.value),
                st_size: U64::new(endian, self.size),
            })
            .to_vec(),
        }
    }
}

/// A relocation. Where the place that it fills has the addend, there is none here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Rela {
    pub(crate) place: Vaddr,
    pub(crate) symbol: u32,
    pub(crate) kind: RelocationType,
    pub(crate) addend: i64,
}

impl Entry for Rela {
    fn size(format: Format) -> u64 {
        match format.relocations.addends {
            Addends::Explicit => 3 * format.word(),
            Addends::Implicit => 2 * format.word(),
        }
    }

    fn decode(bytes: &[u8], format: Format) -> Option<Self> {
        fn read<T: elf::Rela<Endian = Endianness>>(rela: &T, format: Format) -> Rela {
            let (endian, is_mips64el) = (format.endian, format.is_mips64el());
            Rela {
                place: Vaddr(rela.r_offset(endian).into()),
                symbol: rela.r_sym(endian, is_mips64el),
                kind: rela.r_type(endian, is_mips64el),
                addend: rela.r_addend(endian).into(),
            }
        }
        Some(match (format.class, format.relocations.addends) {
            (Class::Elf32, Addends::Explicit) => read(raw::<Rela32<Endianness>>(bytes)?, format),
            (Class::Elf32, Addends::Implicit) => {
                read(&Rela32::from(*raw::<Rel32<Endianness>>(bytes)?), format)
            }
            (Class::Elf64, Addends::Explicit) => read(raw::<Rela64<Endianness>>(bytes)?, format),
            (Class::Elf64, Addends::Implicit) => {
                read(&Rela64::from(*raw::<Rel64<Endianness>>(bytes)?), format)
            }
        })
    }

    fn encode(&self, format: Format) -> Vec<u8> {
        let endian = format.endian;
        let mut bytes = match format.class {
            Class::Elf32 => bytes_of(&Rela32::<Endianness> {
                r_offset: U32::new(endian, low(self.place.0)),
                r_info: Rela32::r_info(endian, self.symbol, self.kind),
                r_addend: I32::new(endian, low(self.addend.cast_unsigned()).cast_signed()),
            })
            .to_vec(),
            Class::Elf64 => bytes_of(&Rela64::<Endianness> {
                r_offset: U64::new(endian, self.place.0),
                r_info: Rela64::r_info(endian, format.is_mips64el(), self.symbol, self.kind),
                r_addend: I64::new(endian, self.addend),
            })
            .to_vec(),
        };
        // The addend comes last; where there is none, the rest is all.
        bytes.truncate(usize::try_from(Self::size(format)).unwrap_or(usize::MAX));
        bytes
    }
}
