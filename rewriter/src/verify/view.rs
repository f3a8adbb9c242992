//! A file as `goblin` reads it: the second opinion that `verify` forms.
//!
//! Nothing here is shared with `parse`, which uses `object`: a mistake in one of them, or in our
//! use of it, shows as a disagreement. Tables are read piece by piece, like the input's.

use goblin::container::Ctx;
use goblin::elf::dynamic::{self, DT_NEEDED, DT_NULL, Dynamic};
use goblin::elf::header::{self, Header};
use goblin::elf::program_header::{PT_DYNAMIC, PT_LOAD, ProgramHeader};
use goblin::elf::reloc::{self, Reloc, RelocSection};
use goblin::elf::section_header::SectionHeader;
use goblin::elf::sym::{Sym, Symtab};

use crate::elf::FileOffset;
use crate::error::{ErrorKind, Result};
use crate::source::Source;

/// A range of a file that the dynamic section names.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Range {
    pub(crate) vaddr: u64,
    pub(crate) at: u64,
    pub(crate) size: u64,
}

/// Header, program headers, section headers and .dynamic of a file.
#[derive(Debug)]
pub(crate) struct View<'a> {
    pub(crate) source: &'a Source,
    /// Byte order and size of addresses.
    pub(crate) ctx: Ctx,
    pub(crate) header: Header,
    pub(crate) segments: Vec<ProgramHeader>,
    pub(crate) sections: Vec<SectionHeader>,
    /// Tags and values before DT_NULL.
    pub(crate) dynamic: Vec<(u64, u64)>,
}

/// An error that says which promise the result breaks.
pub(crate) fn broken(source: &Source, what: impl Into<String>) -> crate::error::Error {
    source.error(ErrorKind::Verify { what: what.into() })
}

impl<'a> View<'a> {
    pub(crate) fn read(source: &'a Source) -> Result<Self> {
        let failed = |error: goblin::error::Error| broken(source, format!("goblin says: {error}"));
        let bytes = |at, size, what| source.bytes(FileOffset(at), size, what);
        let start = bytes(0, source.len().min(64), "the ELF header")?;
        let header = goblin::elf::Elf::parse_header(&start).map_err(failed)?;
        let class = header.container().map_err(failed)?;
        let ctx = Ctx::new(class, header.endianness().map_err(failed)?);
        let count = usize::from(header.e_phnum);
        let size = count as u64 * ProgramHeader::size(ctx) as u64;
        let table = bytes(header.e_phoff, size, "the program headers")?;
        let segments = ProgramHeader::parse(&table, 0, count, ctx).map_err(failed)?;
        let sections = match header.e_shoff {
            0 => Vec::new(),
            at => {
                let entry = SectionHeader::size(ctx) as u64;
                let count = match header.e_shnum {
                    0 => {
                        let first = bytes(at, entry, "the section headers")?;
                        let first = SectionHeader::parse_from(&first, 0, 1, ctx).map_err(failed)?;
                        first.first().map_or(0, |first| first.sh_size)
                    }
                    count => u64::from(count),
                };
                let table = bytes(at, count.saturating_mul(entry), "the section headers")?;
                parse_sections(&table, ctx).map_err(failed)?
            }
        };
        let dynamic = read_dynamic(source, &segments, ctx)?;
        Ok(Self {
            source,
            ctx,
            header,
            segments,
            sections,
            dynamic,
        })
    }

    /// Size of an address, in bytes.
    pub(crate) fn word(&self) -> u64 {
        self.ctx.size() as u64
    }

    /// Address of the entry of .dynamic with this index.
    pub(crate) fn dynamic_entry(&self, index: u64) -> u64 {
        let segment = self.segments.iter().rfind(|s| s.p_type == PT_DYNAMIC);
        let start = segment.map_or(0, |segment| segment.p_vaddr);
        start.wrapping_add(index.wrapping_mul(2 * self.word()))
    }

    /// The highest address that there is.
    pub(crate) fn highest(&self) -> u64 {
        match self.ctx.is_big() {
            true => u64::MAX,
            false => u64::from(u32::MAX),
        }
    }

    /// Size of a dynamic symbol, in bytes.
    pub(crate) fn symbol_size(&self) -> u64 {
        Sym::size(self.ctx.container) as u64
    }

    /// Where in a symbol its value is, and how long that is, in bytes.
    pub(crate) fn symbol_value(&self) -> (u64, u64) {
        let at = if self.ctx.is_big() { 8 } else { 4 }; // gABI, "Symbol Table"
        (at, self.word())
    }

    /// Whether the machine's relocations have their addends with them.
    pub(crate) fn has_addends(&self) -> bool {
        let without = [header::EM_386, header::EM_ARM, header::EM_MIPS];
        !without.contains(&self.header.e_machine)
    }

    /// The tags of the table of relocations, and of its size.
    pub(crate) fn relocation_tags(&self) -> (u64, u64) {
        match self.has_addends() {
            true => (dynamic::DT_RELA, dynamic::DT_RELASZ),
            false => (dynamic::DT_REL, dynamic::DT_RELSZ),
        }
    }

    /// The tag of how many relocations come first that only add the load bias.
    pub(crate) fn relative_tag(&self) -> u64 {
        match self.has_addends() {
            true => dynamic::DT_RELACOUNT,
            false => dynamic::DT_RELCOUNT,
        }
    }

    /// Size of a relocation, in bytes.
    pub(crate) fn relocation_size(&self) -> u64 {
        Reloc::size(self.has_addends(), self.ctx) as u64
    }

    /// The relocations that `bytes` are.
    pub(crate) fn relocations(&self, bytes: &[u8]) -> Result<impl Iterator<Item = Reloc>> {
        let parsed = RelocSection::parse(bytes, 0, bytes.len(), self.has_addends(), self.ctx);
        let parsed = parsed.map_err(|error| broken(self.source, error.to_string()))?;
        let mips64el = self.header.e_machine == header::EM_MIPS
            && self.ctx.is_big()
            && self.ctx.is_little_endian();
        Ok(parsed.into_iter().map(move |entry| match mips64el {
            // MIPS's ELF-64, "Relocation": the symbol is first, then come three types, the last one first.
            true => Reloc {
                r_sym: usize::try_from(entry.r_type).unwrap_or(usize::MAX),
                r_type: u32::try_from(entry.r_sym).unwrap_or(u32::MAX).swap_bytes(),
                ..entry
            },
            false => entry,
        }))
    }

    /// The symbols that `bytes` are.
    pub(crate) fn symbols(&self, bytes: &'a [u8]) -> Result<Symtab<'a>> {
        let count = bytes.len() / Sym::size(self.ctx.container);
        let parsed = Symtab::parse(bytes, 0, count, self.ctx);
        parsed.map_err(|error| broken(self.source, error.to_string()))
    }

    /// Sizes of DT_HASH's entries, and of all of it, in bytes.
    pub(crate) fn hash_size(&self, at: u64) -> Result<(u64, u64)> {
        let entry = match (self.header.e_machine, self.ctx.is_big()) {
            (header::EM_S390, true) => 8, // S/390's ELF ABI, "Hash Table"
            _ => 4,
        };
        let head = self.numbers(at, 2, entry)?;
        let count = head
            .iter()
            .fold(2, |sum: u64, count| sum.saturating_add(*count));
        Ok((entry, entry.saturating_mul(count)))
    }

    /// `count` numbers of `size` bytes at the file offset `at`.
    pub(crate) fn numbers(&self, at: u64, count: u64, size: u64) -> Result<Vec<u64>> {
        let bytes = self
            .source
            .bytes(FileOffset(at), count.saturating_mul(size), "a table")?;
        let number = |bytes: &[u8]| {
            let add = |sum: u64, byte: &u8| sum << 8 | u64::from(*byte);
            match self.ctx.is_little_endian() {
                true => bytes.iter().rev().fold(0, add),
                false => bytes.iter().fold(0, add),
            }
        };
        let size = usize::try_from(size).unwrap_or(1);
        Ok(bytes.chunks_exact(size).map(number).collect())
    }

    /// The types of the relocations that add a symbol's address or the load bias to an addend.
    pub(crate) fn relocation_types(&self) -> Result<(u32, u32)> {
        match self.header.e_machine {
            header::EM_X86_64 if self.ctx.is_big() => {
                Ok((reloc::R_X86_64_64, reloc::R_X86_64_RELATIVE))
            }
            header::EM_X86_64 => Ok((reloc::R_X86_64_32, reloc::R_X86_64_RELATIVE)),
            header::EM_386 => Ok((reloc::R_386_32, reloc::R_386_RELATIVE)),
            header::EM_ARM => Ok((reloc::R_ARM_ABS32, reloc::R_ARM_RELATIVE)),
            header::EM_AARCH64 => Ok((reloc::R_AARCH64_ABS64, reloc::R_AARCH64_RELATIVE)),
            header::EM_RISCV => Ok((reloc::R_RISCV_64, reloc::R_RISCV_RELATIVE)),
            header::EM_PPC64 => Ok((reloc::R_PPC64_ADDR64, reloc::R_PPC64_RELATIVE)),
            header::EM_S390 => Ok((22, 12)), // R_390_64 and R_390_RELATIVE, which goblin does not have
            header::EM_MIPS if self.ctx.is_big() => {
                let of_64_bits = reloc::R_MIPS_64 << 8 | reloc::R_MIPS_REL32;
                Ok((reloc::R_MIPS_JUMP_SLOT, of_64_bits))
            }
            header::EM_MIPS => Ok((reloc::R_MIPS_JUMP_SLOT, reloc::R_MIPS_REL32)),
            header::EM_LOONGARCH => Ok((reloc::R_LARCH_64, reloc::R_LARCH_RELATIVE)),
            other => Err(broken(self.source, format!("it is for machine {other}"))),
        }
    }

    /// Offset and size of the program header table.
    pub(crate) fn program_headers(&self) -> (u64, u64) {
        (
            self.header.e_phoff,
            (ProgramHeader::size(self.ctx) * self.segments.len()) as u64,
        )
    }

    pub(crate) fn loads(&self) -> impl Iterator<Item = &ProgramHeader> {
        self.segments
            .iter()
            .filter(|segment| segment.p_type == PT_LOAD)
    }

    /// Value of the last dynamic entry with `tag`, the one that loaders keep.
    pub(crate) fn get(&self, tag: u64) -> Option<u64> {
        let entry = self
            .dynamic
            .iter()
            .rfind(|(candidate, _)| *candidate == tag);
        entry.map(|(_, value)| *value)
    }

    /// Offset in the file of `size` bytes at `address`.
    pub(crate) fn locate(&self, address: u64, size: u64) -> Result<u64> {
        let found = self.offset(address, size);
        found.ok_or_else(|| broken(self.source, format!("{address:#x} is not mapped")))
    }

    /// The same; a table may run on into segments that follow in memory and in the file.
    pub(crate) fn offset(&self, address: u64, size: u64) -> Option<u64> {
        let (mut first, mut done) = (None, 0);
        loop {
            let (at, left) = self.loads().find_map(|load| {
                let skip = address.checked_add(done)?.checked_sub(load.p_vaddr)?;
                let left = load.p_filesz.checked_sub(skip)?;
                (left > 0 || size == 0).then_some((load.p_offset + skip, left))
            })?;
            let first = *first.get_or_insert(at);
            if at.checked_sub(done) != Some(first) {
                return None;
            }
            done += left;
            if done >= size {
                return Some(first);
            }
        }
    }

    /// The table at the address in `tag`, if any, with `size` bytes.
    pub(crate) fn table(&self, tag: u64, size: u64) -> Result<Option<Range>> {
        let Some(vaddr) = self.get(tag) else {
            return Ok(None);
        };
        let at = self.locate(vaddr, size)?;
        Ok(Some(Range { vaddr, at, size }))
    }

    /// The string at `offset` of the dynamic string table.
    pub(crate) fn string(&self, offset: u64) -> Result<Vec<u8>> {
        use goblin::elf::dynamic::{DT_STRSZ, DT_STRTAB};
        let size = self.get(DT_STRSZ).unwrap_or(0);
        let rest = size.checked_sub(offset).filter(|&rest| rest > 0);
        let rest = rest.ok_or_else(|| broken(self.source, "a name lies outside DT_STRTAB"))?;
        let table = self.table(DT_STRTAB, size)?;
        let at = table.map_or(0, |table| table.at) + offset;
        for size in [1 << 8, 1 << 16] {
            let bytes = self
                .source
                .bytes(FileOffset(at), rest.min(size), "a name")?;
            if let Some(end) = bytes.iter().position(|&byte| byte == 0) {
                return Ok(bytes[..end].to_vec());
            }
        }
        Err(broken(self.source, "a name in DT_STRTAB has no end"))
    }

    /// The DT_NEEDED strings.
    pub(crate) fn needed(&self) -> Result<Vec<Vec<u8>>> {
        let needed = self.dynamic.iter().filter(|(tag, _)| *tag == DT_NEEDED);
        needed.map(|(_, offset)| self.string(*offset)).collect()
    }

    /// The dynamic symbol with this index.
    pub(crate) fn symbol(&self, index: u64) -> Result<Sym> {
        let size = index.saturating_add(1).saturating_mul(self.symbol_size());
        let table = self.table(dynamic::DT_SYMTAB, size)?;
        let at = table.map_or(0, |table| table.at + size - self.symbol_size());
        let bytes = self
            .source
            .bytes(FileOffset(at), self.symbol_size(), "a dynamic symbol")?;
        let symbols = Symtab::parse(&bytes, 0, 1, self.ctx).map_err(|error| {
            broken(
                self.source,
                format!("goblin cannot read symbol {index}: {error}"),
            )
        })?;
        let symbol = symbols.get(0);
        symbol.ok_or_else(|| broken(self.source, format!("symbol {index} is not there")))
    }
}

fn parse_sections(table: &[u8], ctx: Ctx) -> goblin::error::Result<Vec<SectionHeader>> {
    SectionHeader::parse_from(table, 0, table.len() / SectionHeader::size(ctx), ctx)
}

fn read_dynamic(source: &Source, segments: &[ProgramHeader], ctx: Ctx) -> Result<Vec<(u64, u64)>> {
    let segment = segments
        .iter()
        .rfind(|segment| segment.p_type == PT_DYNAMIC);
    let segment = segment.ok_or_else(|| broken(source, "there is no PT_DYNAMIC"))?;
    let bytes = source.bytes(
        FileOffset(segment.p_offset),
        segment.p_filesz,
        "the dynamic section",
    )?;
    let mut here = segment.clone();
    here.p_offset = 0;
    let parsed = Dynamic::parse(&bytes, &[here], ctx);
    let parsed = parsed.map_err(|error| broken(source, format!("goblin says: {error}")))?;
    let entries = parsed.map(|dynamic| dynamic.dyns).unwrap_or_default();
    let entries = entries.iter().map(|entry| (entry.d_tag, entry.d_val));
    Ok(entries.take_while(|(tag, _)| *tag != DT_NULL).collect())
}
