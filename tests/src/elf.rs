//! Facts about an ELF file, read from its program headers and dynamic section.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use object::Endianness;
use object::elf;
use object::read::elf::{FileHeader, ProgramHeader};

type Header = elf::FileHeader64<Endianness>;

/// A 64-bit little-endian ELF file.
#[derive(Debug)]
pub struct Elf {
    path: PathBuf,
    bytes: Vec<u8>,
    /// Its program headers.
    pub segments: Vec<Segment>,
    dynamic: Vec<(u64, u64)>,
}

/// A program header.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Segment {
    /// `p_type`.
    pub kind: u32,
    /// `p_flags`.
    pub flags: u32,
    /// Where in the file.
    pub file: Range<u64>,
    /// Where in memory.
    pub memory: Range<u64>,
}

/// What the loader will store in a slot of the preinit array.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Slot {
    /// The address of a symbol (R_X86_64_64).
    Symbol(String),
    /// An address in this file (R_X86_64_RELATIVE, RELR, or none in a non-PIE).
    Address(u64),
}

/// One dynamic relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Relocation {
    /// The address that it changes.
    pub at: u64,
    /// R_X86_64_*.
    pub kind: u32,
    /// The index of its symbol.
    pub symbol: usize,
    /// What is added.
    pub addend: u64,
}

impl Elf {
    /// `e_entry`.
    pub fn header_entry(&self) -> u64 {
        let entry = self.bytes[24..32].try_into().expect("eight bytes");
        u64::from_le_bytes(entry)
    }

    /// Reads a file.
    pub fn read(path: impl AsRef<Path>) -> Self {
        let path = path.as_ref().to_owned();
        let bytes = fs::read(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let header = Header::parse(&*bytes).expect("an ELF header");
        let endian = header.endian().expect("an endianness");
        let segments: Vec<Segment> = header
            .program_headers(endian, &*bytes)
            .expect("program headers")
            .iter()
            .map(|p| {
                let (offset, vaddr) = (p.p_offset(endian), p.p_vaddr(endian));
                Segment {
                    kind: p.p_type(endian).0,
                    flags: p.p_flags(endian).0,
                    file: offset..offset + p.p_filesz(endian),
                    memory: vaddr..vaddr + p.p_memsz(endian),
                }
            })
            .collect();
        let mut elf = Self {
            path,
            bytes,
            segments,
            dynamic: Vec::new(),
        };
        if let Some(memory) = elf.segment(elf::PT_DYNAMIC.0).map(|s| s.memory.clone()) {
            elf.dynamic = memory
                .step_by(16)
                .map(|at| (elf.word(at), elf.word(at + 8)))
                .take_while(|(tag, _)| *tag != 0)
                .collect();
        }
        elf
    }

    /// The file's bytes.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// `e_type`.
    pub fn is_pie(&self) -> bool {
        self.bytes[16] == 3
    }

    /// The first segment of a kind.
    pub fn segment(&self, kind: u32) -> Option<&Segment> {
        self.segments.iter().find(|s| s.kind == kind)
    }

    /// PT_GNU_RELRO in memory.
    pub fn relro(&self) -> Option<Range<u64>> {
        self.segment(elf::PT_GNU_RELRO.0).map(|s| s.memory.clone())
    }

    /// PT_DYNAMIC in memory.
    pub fn dynamic_range(&self) -> Range<u64> {
        let segment = self.segment(elf::PT_DYNAMIC.0).expect("PT_DYNAMIC");
        segment.memory.clone()
    }

    /// The values of all dynamic entries with `tag`, in order.
    pub fn entries(&self, tag: elf::DynamicTag) -> Vec<u64> {
        let tag = tag.0.cast_unsigned();
        let entries = self.dynamic.iter();
        entries
            .filter(|(t, _)| *t == tag)
            .map(|(_, v)| *v)
            .collect()
    }

    /// The value of the one dynamic entry with `tag`.
    pub fn entry(&self, tag: elf::DynamicTag) -> Option<u64> {
        let found = self.entries(tag);
        let path = self.path.display();
        assert!(
            found.len() <= 1,
            "{path}: {} entries of {tag:?}",
            found.len()
        );
        found.first().copied()
    }

    /// The DT_NEEDED strings, in order.
    pub fn needed(&self) -> Vec<String> {
        let offsets = self.entries(elf::DT_NEEDED);
        offsets.into_iter().map(|at| self.string(at)).collect()
    }

    /// DT_SONAME.
    pub fn soname(&self) -> Option<String> {
        self.entry(elf::DT_SONAME).map(|at| self.string(at))
    }

    /// DT_FLAGS_1.
    pub fn flags_1(&self) -> u64 {
        self.entry(elf::DT_FLAGS_1).unwrap_or(0)
    }

    /// File range of the program header table.
    pub fn program_headers(&self) -> Range<u64> {
        let word: [u8; 8] = self.bytes()[32..40].try_into().expect("e_phoff");
        let start = u64::from_le_bytes(word);
        start..start + 56 * self.segments.len() as u64
    }

    /// Address range of the preinit array.
    pub fn preinit_range(&self) -> Range<u64> {
        let start = self.entry(elf::DT_PREINIT_ARRAY).unwrap_or(0);
        start..start + self.entry(elf::DT_PREINIT_ARRAYSZ).unwrap_or(0)
    }

    /// What each slot of the preinit array will hold.
    pub fn preinit(&self) -> Vec<Slot> {
        let relocations = self.relocations();
        let slot = |at| {
            let here: Vec<_> = relocations.iter().filter(|r| r.at == at).collect();
            let path = self.path.display();
            assert!(
                here.len() <= 1,
                "{path}: {} relocations at {at:#x}",
                here.len()
            );
            match here.first() {
                Some(r) if r.kind == elf::R_X86_64_64.0 => {
                    assert_eq!(r.addend, 0, "{path}: addend of the slot at {at:#x}");
                    Slot::Symbol(self.symbol_name(r.symbol))
                }
                Some(r) => {
                    assert_eq!(r.kind, elf::R_X86_64_RELATIVE.0, "{path}: slot at {at:#x}");
                    Slot::Address(r.addend)
                }
                None => Slot::Address(self.word(at)),
            }
        };
        self.preinit_range().step_by(8).map(slot).collect()
    }

    /// Every relocation of DT_RELA and DT_JMPREL.
    pub fn relocations(&self) -> Vec<Relocation> {
        let tables = [
            (elf::DT_RELA, elf::DT_RELASZ),
            (elf::DT_JMPREL, elf::DT_PLTRELSZ),
        ];
        let ranges = tables.map(|(at, size)| {
            let start = self.entry(at).unwrap_or(0);
            start..start + self.entry(size).unwrap_or(0)
        });
        let read = |at| {
            let info = self.word(at + 8);
            Relocation {
                at: self.word(at),
                kind: low(info),
                symbol: usize::try_from(info >> 32).expect("an index"),
                addend: self.word(at + 16),
            }
        };
        ranges
            .into_iter()
            .flat_map(|r| r.step_by(24))
            .map(read)
            .collect()
    }

    /// The name of dynamic symbol `index`.
    pub fn symbol_name(&self, index: usize) -> String {
        let table = self.entry(elf::DT_SYMTAB).expect("DT_SYMTAB");
        let at = table + 24 * u64::try_from(index).expect("an index");
        self.string(u64::from(low(self.word(at))))
    }

    fn string(&self, offset: u64) -> String {
        let at = self.entry(elf::DT_STRTAB).expect("DT_STRTAB") + offset;
        let bytes = &self.bytes[self.offset(at)..];
        let end = bytes.iter().position(|b| *b == 0).expect("a NUL");
        String::from_utf8(bytes[..end].to_vec()).expect("a string in ASCII")
    }

    /// The eight bytes at an address.
    fn word(&self, at: u64) -> u64 {
        let offset = self.offset(at);
        let bytes = self.bytes[offset..offset + 8].try_into().expect("8 bytes");
        u64::from_le_bytes(bytes)
    }

    fn offset(&self, at: u64) -> usize {
        let mut loaded = self.segments.iter().filter(|s| s.kind == elf::PT_LOAD.0);
        let segment = loaded
            .find(|s| s.memory.contains(&at) && at - s.memory.start < s.file.end - s.file.start)
            .unwrap_or_else(|| panic!("{}: {at:#x} is not in the file", self.path.display()));
        usize::try_from(at - segment.memory.start + segment.file.start).expect("an offset")
    }
}

/// The lower half.
fn low(word: u64) -> u32 {
    u32::try_from(word & 0xffff_ffff).expect("32 bits")
}

/// Whether a file is what `allocs-rewrite` is for, and why not; for choosing test programs.
pub fn is_dynamic_executable(path: &Path) -> bool {
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    let Ok(header) = Header::parse(&*bytes) else {
        return false;
    };
    let Ok(endian) = header.endian() else {
        return false;
    };
    header.e_machine(endian) == elf::EM_X86_64
        && header
            .program_headers(endian, &*bytes)
            .is_ok_and(|all| all.iter().any(|p| p.p_type(endian) == elf::PT_INTERP))
}

/// Whether the file is an ELF file, of any machine, that a loader runs.
pub fn has_interpreter(path: &Path) -> bool {
    fn has<H: FileHeader>(bytes: &[u8]) -> Option<bool> {
        let header = H::parse(bytes).ok()?;
        let endian = header.endian().ok()?;
        let all = header.program_headers(endian, bytes).ok()?;
        Some(
            all.iter()
                .any(|segment| segment.p_type(endian) == elf::PT_INTERP),
        )
    }
    let Ok(bytes) = fs::read(path) else {
        return false;
    };
    let found = has::<elf::FileHeader64<Endianness>>(&bytes);
    found.or_else(|| has::<elf::FileHeader32<Endianness>>(&bytes)) == Some(true)
}
