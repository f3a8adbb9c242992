//! What a file's first bytes say of all others: 32 or 64 bits, byte order, and machine; and what the ABI of that
//! machine calls the few relocations that matter here.

use object::Endianness;
use object::elf::{
    self, DataEncoding, DynamicTag, ELFCLASS32, ELFCLASS64, ELFDATA2LSB, ELFDATA2MSB, ELFMAG,
    FileClass, Machine, RelocationType,
};

use super::low;

/// binutils include/elf/mips.h; glibc does not apply it.
const R_MIPS_IRELATIVE: RelocationType = RelocationType(128);

/// Size of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Class {
    Elf32,
    Elf64,
}

/// How a file's structures are laid out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Format {
    pub(crate) class: Class,
    pub(crate) endian: Endianness,
    pub(crate) machine: Machine,
    pub(crate) relocations: Relocations,
}

/// A machine's types of relocations that the loader applies: all fill a word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Relocations {
    /// A symbol's address and the addend.
    pub(crate) symbolic: RelocationType,
    /// The load bias and the addend.
    pub(crate) relative: RelocationType,
    /// A symbol's address, in the GOT; machines without one use `symbolic`.
    pub(crate) glob_dat: RelocationType,
    /// A symbol's bytes.
    pub(crate) copy: RelocationType,
    /// A function's address, in the PLT's part of the GOT.
    pub(crate) jump_slot: RelocationType,
    /// What the resolver at the load bias and the addend returns.
    pub(crate) irelative: RelocationType,
    /// Where addends are.
    pub(crate) addends: Addends,
}

/// Where a relocation's addend is. glibc is built for one of the two (`ELF_MACHINE_NO_REL`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Addends {
    /// In the relocation: DT_RELA.
    Explicit,
    /// In the word that it fills: DT_REL.
    Implicit,
}

/// The dynamic entries for a table of relocations, and its usual name.
#[derive(Clone, Copy, Debug)]
pub(crate) struct RelocationTags {
    pub(crate) table: DynamicTag,
    pub(crate) size: DynamicTag,
    pub(crate) entry: DynamicTag,
    /// How many relative ones it begins with.
    pub(crate) count: DynamicTag,
    pub(crate) section: &'static str,
}

impl Addends {
    pub(crate) fn tags(self) -> RelocationTags {
        match self {
            Self::Explicit => RelocationTags {
                table: elf::DT_RELA,
                size: elf::DT_RELASZ,
                entry: elf::DT_RELAENT,
                count: elf::DT_RELACOUNT,
                section: ".rela.dyn",
            },
            Self::Implicit => RelocationTags {
                table: elf::DT_REL,
                size: elf::DT_RELSZ,
                entry: elf::DT_RELENT,
                count: elf::DT_RELCOUNT,
                section: ".rel.dyn",
            },
        }
    }
}

impl Format {
    /// That of this project's own runtime.
    pub(crate) const X86_64: Self = Self {
        class: Class::Elf64,
        endian: Endianness::Little,
        machine: elf::EM_X86_64,
        relocations: Relocations::X86_64,
    };

    /// Number of bytes that it takes to know.
    pub(crate) const IDENTIFIED_BY: u64 = 20;

    /// What the bytes at a file's start say. `None` if they are no ELF header's, or that of another machine.
    pub(crate) fn identify(start: &[u8]) -> Option<Self> {
        let (magic, rest) = start.split_at_checked(4)?;
        let class = match FileClass(*rest.first()?) {
            ELFCLASS32 => Class::Elf32,
            ELFCLASS64 => Class::Elf64,
            _ => return None,
        };
        let endian = match DataEncoding(*rest.get(1)?) {
            ELFDATA2LSB => Endianness::Little,
            ELFDATA2MSB => Endianness::Big,
            _ => return None,
        };
        let machine = *start.get(18..)?.first_chunk()?;
        let machine = match endian {
            Endianness::Little => u16::from_le_bytes(machine),
            Endianness::Big => u16::from_be_bytes(machine),
        };
        let machine = Machine(machine);
        let relocations = Relocations::of(machine, class)?;
        (magic == ELFMAG).then_some(Self {
            class,
            endian,
            machine,
            relocations,
        })
    }

    /// The machine's name, for people.
    pub(crate) fn name(self) -> String {
        Self::machine_name(self.machine, self.endian == Endianness::Big)
    }

    /// The name of a machine, for people.
    pub(crate) fn machine_name(machine: Machine, big_endian: bool) -> String {
        use object::elf as e;
        let name = match machine {
            e::EM_386 => "i386",
            e::EM_X86_64 => "x86-64",
            e::EM_AARCH64 => "AArch64",
            e::EM_ARM => "ARM",
            e::EM_RISCV => "RISC-V",
            e::EM_PPC64 => "64-bit PowerPC",
            e::EM_PPC => "PowerPC",
            e::EM_S390 => "S/390",
            e::EM_MIPS => "MIPS",
            e::EM_LOONGARCH => "LoongArch",
            e::EM_SPARCV9 => "SPARC V9",
            _ => return format!("machine number {}", machine.0),
        };
        match big_endian {
            true => format!("big-endian {name}"),
            false => name.to_owned(),
        }
    }

    /// The directory of the machine's libraries, as multiarch calls it, where this project has a runtime for it.
    pub(crate) fn multiarch(self) -> Option<&'static str> {
        match (self.machine, self.class, self.endian) {
            (elf::EM_X86_64, Class::Elf64, Endianness::Little) => Some("x86_64-linux-gnu"),
            (elf::EM_AARCH64, Class::Elf64, Endianness::Little) => Some("aarch64-linux-gnu"),
            _ => None,
        }
    }

    /// Size of an address, in bytes.
    pub(crate) fn word(self) -> u64 {
        match self.class {
            Class::Elf32 => 4,
            Class::Elf64 => 8,
        }
    }

    /// The 16-bit number at the start of `bytes`.
    pub(crate) fn half(self, bytes: &[u8]) -> Option<u16> {
        let bytes = *bytes.first_chunk()?;
        Some(match self.endian {
            Endianness::Little => u16::from_le_bytes(bytes),
            Endianness::Big => u16::from_be_bytes(bytes),
        })
    }

    /// A 16-bit number as it stands in a file.
    pub(crate) fn half_bytes(self, number: u16) -> Vec<u8> {
        match self.endian {
            Endianness::Little => number.to_le_bytes().to_vec(),
            Endianness::Big => number.to_be_bytes().to_vec(),
        }
    }

    /// The 32-bit number that `bytes` begin with.
    pub(crate) fn first_word(self, bytes: &[u8]) -> Option<u32> {
        let bytes = *bytes.first_chunk()?;
        Some(match self.endian {
            Endianness::Little => u32::from_le_bytes(bytes),
            Endianness::Big => u32::from_be_bytes(bytes),
        })
    }

    /// The 32-bit numbers in `bytes`.
    pub(crate) fn words(self, bytes: &[u8]) -> Vec<u32> {
        let words = bytes.chunks_exact(4);
        words.filter_map(|word| self.first_word(word)).collect()
    }

    /// The numbers in a part of DT_HASH.
    pub(crate) fn hash_words(self, bytes: &[u8]) -> Vec<u64> {
        match self.hash_word() {
            8 => self.addresses(bytes),
            _ => self.words(bytes).into_iter().map(u64::from).collect(),
        }
    }

    /// A number as it stands in DT_HASH.
    pub(crate) fn hash_entry(self, number: u32) -> Vec<u8> {
        match (self.hash_word(), self.endian) {
            (8, _) => self.address(u64::from(number)),
            (_, Endianness::Little) => number.to_le_bytes().to_vec(),
            (_, Endianness::Big) => number.to_be_bytes().to_vec(),
        }
    }

    /// The addresses in `bytes`, or what else is as long.
    pub(crate) fn addresses(self, bytes: &[u8]) -> Vec<u64> {
        if self.class == Class::Elf32 {
            return self.words(bytes).into_iter().map(u64::from).collect();
        }
        let (longs, _) = bytes.as_chunks();
        let read = |long: &[u8; 8]| match self.endian {
            Endianness::Little => u64::from_le_bytes(*long),
            Endianness::Big => u64::from_be_bytes(*long),
        };
        longs.iter().map(read).collect()
    }

    /// An address as it stands in a file.
    pub(crate) fn address(self, value: u64) -> Vec<u8> {
        match (self.class, self.endian) {
            (Class::Elf32, Endianness::Little) => low(value).to_le_bytes().to_vec(),
            (Class::Elf32, Endianness::Big) => low(value).to_be_bytes().to_vec(),
            (Class::Elf64, Endianness::Little) => value.to_le_bytes().to_vec(),
            (Class::Elf64, Endianness::Big) => value.to_be_bytes().to_vec(),
        }
    }

    /// True if each dynamic symbol from DT_MIPS_GOTSYM on has an entry of the GOT, in the same order (MIPS psABI,
    /// "Global Offset Table"). The loader fills those of the symbols below DT_MIPS_SYMTABNO without being told.
    pub(crate) fn is_got_ordered(self) -> bool {
        self.machine == elf::EM_MIPS
    }

    /// True if glibc applies IFUNCs.
    pub(crate) fn has_ifuncs(self) -> bool {
        self.machine != elf::EM_MIPS
    }

    /// True if the symbol of a relocation comes first in its 64 bits whatever their byte order, and its types after it,
    /// the first one last ("64-bit ELF Object File Specification" of MIPS, "Relocation").
    pub(super) fn is_mips64el(self) -> bool {
        (self.machine, self.class, self.endian) == (elf::EM_MIPS, Class::Elf64, Endianness::Little)
    }

    /// Size of an entry of DT_HASH, in bytes: a word of its own on S/390 (its ELF ABI, "Hash Table").
    pub(crate) fn hash_word(self) -> u64 {
        match (self.machine, self.class) {
            (elf::EM_S390, Class::Elf64) => 8,
            _ => 4,
        }
    }
}

impl Relocations {
    const X86_64: Self = Self {
        symbolic: elf::R_X86_64_64,
        relative: elf::R_X86_64_RELATIVE,
        glob_dat: elf::R_X86_64_GLOB_DAT,
        copy: elf::R_X86_64_COPY,
        jump_slot: elf::R_X86_64_JUMP_SLOT,
        irelative: elf::R_X86_64_IRELATIVE,
        addends: Addends::Explicit,
    };

    /// Those of a machine. `None` if it is none of those that are known.
    fn of(machine: Machine, class: Class) -> Option<Self> {
        use object::elf as e;
        let types = match (machine, class) {
            (e::EM_X86_64, Class::Elf64) => return Some(Self::X86_64),
            (e::EM_X86_64, Class::Elf32) => {
                return Some(Self {
                    symbolic: e::R_X86_64_32, // x32
                    ..Self::X86_64
                });
            }
            (e::EM_386, Class::Elf32) => [
                e::R_386_32,
                e::R_386_RELATIVE,
                e::R_386_GLOB_DAT,
                e::R_386_COPY,
                e::R_386_JMP_SLOT,
                e::R_386_IRELATIVE,
            ],
            (e::EM_ARM, Class::Elf32) => [
                e::R_ARM_ABS32,
                e::R_ARM_RELATIVE,
                e::R_ARM_GLOB_DAT,
                e::R_ARM_COPY,
                e::R_ARM_JUMP_SLOT,
                e::R_ARM_IRELATIVE,
            ],
            (e::EM_AARCH64, Class::Elf64) => [
                e::R_AARCH64_ABS64,
                e::R_AARCH64_RELATIVE,
                e::R_AARCH64_GLOB_DAT,
                e::R_AARCH64_COPY,
                e::R_AARCH64_JUMP_SLOT,
                e::R_AARCH64_IRELATIVE,
            ],
            (e::EM_RISCV, Class::Elf64) => [
                e::R_RISCV_64,
                e::R_RISCV_RELATIVE,
                e::R_RISCV_64,
                e::R_RISCV_COPY,
                e::R_RISCV_JUMP_SLOT,
                e::R_RISCV_IRELATIVE,
            ],
            (e::EM_PPC64, Class::Elf64) => [
                e::R_PPC64_ADDR64,
                e::R_PPC64_RELATIVE,
                e::R_PPC64_GLOB_DAT,
                e::R_PPC64_COPY,
                e::R_PPC64_JMP_SLOT,
                e::R_PPC64_IRELATIVE,
            ],
            (e::EM_S390, Class::Elf64) => [
                e::R_390_64,
                e::R_390_RELATIVE,
                e::R_390_GLOB_DAT,
                e::R_390_COPY,
                e::R_390_JMP_SLOT,
                e::R_390_IRELATIVE,
            ],
            // glibc finds the symbols of R_MIPS_REL32 and R_MIPS_GLOB_DAT through the GOT, where a new one has no
            // entry; that of R_MIPS_JUMP_SLOT it looks up (sysdeps/mips/dl-machine.h, `elf_machine_reloc`).
            (e::EM_MIPS, _) => [
                e::R_MIPS_JUMP_SLOT,
                match class {
                    Class::Elf32 => e::R_MIPS_REL32,
                    // Two in one: the second, in bits 8 to 15, says of how many bits the word is.
                    Class::Elf64 => RelocationType(e::R_MIPS_64.0 << 8 | e::R_MIPS_REL32.0),
                },
                e::R_MIPS_JUMP_SLOT,
                e::R_MIPS_COPY,
                e::R_MIPS_JUMP_SLOT,
                R_MIPS_IRELATIVE,
            ],
            (e::EM_LOONGARCH, Class::Elf64) => [
                e::R_LARCH_64,
                e::R_LARCH_RELATIVE,
                e::R_LARCH_64,
                e::R_LARCH_COPY,
                e::R_LARCH_JUMP_SLOT,
                e::R_LARCH_IRELATIVE,
            ],
            _ => return None,
        };
        let [symbolic, relative, glob_dat, copy, jump_slot, irelative] = types;
        Some(Self {
            symbolic,
            relative,
            glob_dat,
            copy,
            jump_slot,
            irelative,
            addends: match machine {
                e::EM_386 | e::EM_ARM | e::EM_MIPS => Addends::Implicit,
                _ => Addends::Explicit,
            },
        })
    }
}

impl Default for Format {
    fn default() -> Self {
        Self::X86_64
    }
}
