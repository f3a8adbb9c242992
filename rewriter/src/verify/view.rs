//! A file as `goblin` reads it: the second opinion that `verify` forms.
//!
//! Nothing here is shared with `parse`, which uses `object`: a mistake in one of them, or in our
//! use of it, shows as a disagreement. Tables are read piece by piece, like the input's.

use goblin::container::{Container, Ctx, Endian};
use goblin::elf::dynamic::{DT_NEEDED, DT_NULL, Dynamic};
use goblin::elf::header::Header;
use goblin::elf::program_header::{PT_DYNAMIC, PT_LOAD, ProgramHeader};
use goblin::elf::section_header::SectionHeader;
use goblin::elf::sym::{Sym, Symtab};

use crate::elf::FileOffset;
use crate::error::{ErrorKind, Result};
use crate::source::Source;

/// A 64-bit little-endian file.
pub(crate) const CTX: Ctx = Ctx {
    container: Container::Big,
    le: Endian::Little,
};

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
        let start = bytes(0, 64, "the ELF header")?;
        let header = goblin::elf::Elf::parse_header(&start).map_err(failed)?;
        let count = usize::from(header.e_phnum);
        let table = bytes(header.e_phoff, count as u64 * 56, "the program headers")?;
        let segments = ProgramHeader::parse(&table, 0, count, CTX).map_err(failed)?;
        let sections = match header.e_shoff {
            0 => Vec::new(),
            at => {
                let count = match header.e_shnum {
                    0 => {
                        let first = bytes(at, 64, "the section headers")?;
                        let first = SectionHeader::parse_from(&first, 0, 1, CTX).map_err(failed)?;
                        first.first().map_or(0, |first| first.sh_size)
                    }
                    count => u64::from(count),
                };
                let table = bytes(at, count.saturating_mul(64), "the section headers")?;
                parse_sections(&table).map_err(failed)?
            }
        };
        let dynamic = read_dynamic(source, &segments)?;
        Ok(Self {
            source,
            header,
            segments,
            sections,
            dynamic,
        })
    }

    /// Offset and size of the program header table.
    pub(crate) fn program_headers(&self) -> (u64, u64) {
        (self.header.e_phoff, 56 * self.segments.len() as u64)
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

    /// The same; a table may run on into a segment that follows in memory and in the file.
    fn offset(&self, address: u64, size: u64) -> Option<u64> {
        self.loads().find_map(|load| {
            let skip = address.checked_sub(load.p_vaddr)?;
            let left = load.p_filesz.checked_sub(skip)?;
            let at = load.p_offset + skip;
            match size.checked_sub(left) {
                None | Some(0) => Some(at),
                Some(rest) if left > 0 => {
                    (self.offset(address + left, rest)? == at + left).then_some(at)
                }
                Some(_) => None,
            }
        })
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
        let size = index.saturating_add(1).saturating_mul(24);
        let table = self.table(goblin::elf::dynamic::DT_SYMTAB, size)?;
        let at = table.map_or(0, |table| table.at + size - 24);
        let bytes = self.source.bytes(FileOffset(at), 24, "a dynamic symbol")?;
        let symbols = Symtab::parse(&bytes, 0, 1, CTX).map_err(|error| {
            broken(
                self.source,
                format!("goblin cannot read symbol {index}: {error}"),
            )
        })?;
        let symbol = symbols.get(0);
        symbol.ok_or_else(|| broken(self.source, format!("symbol {index} is not there")))
    }
}

fn parse_sections(table: &[u8]) -> goblin::error::Result<Vec<SectionHeader>> {
    SectionHeader::parse_from(table, 0, table.len() / 64, CTX)
}

fn read_dynamic(source: &Source, segments: &[ProgramHeader]) -> Result<Vec<(u64, u64)>> {
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
    let parsed = Dynamic::parse(&bytes, &[here], CTX);
    let parsed = parsed.map_err(|error| broken(source, format!("goblin says: {error}")))?;
    let entries = parsed.map(|dynamic| dynamic.dyns).unwrap_or_default();
    let entries = entries.iter().map(|entry| (entry.d_tag, entry.d_val));
    Ok(entries.take_while(|(tag, _)| *tag != DT_NULL).collect())
}
