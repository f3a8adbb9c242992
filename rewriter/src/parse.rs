//! Bytes → [`Image`]: what the loader will see of the input.
//!
//! Segments come first: PT_DYNAMIC is the source of truth for every table, so that a file without
//! section headers works. Sections are read where they exist, only to keep them true. What the
//! loader could not load is refused here; everything after can rely on what the fields say.

mod headers;
mod identify;
mod tables;

use std::path::PathBuf;

use object::elf::{
    DT_JMPREL, DT_PLTRELSZ, DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, DT_STRSZ, DT_STRTAB, DT_SYMTAB,
    DT_VERSYM, DynamicTag, PF_W, PT_GNU_RELRO, PT_LOAD, PT_NULL,
};

pub(crate) use self::headers::{read_dynamic, read_sections, read_segments};
pub(crate) use self::identify::read_header;
use self::identify::{interpreter, refuse_overlap, refuse_shared_object, refuse_stray};
pub(crate) use self::tables::{Tables, without_plt};
use crate::elf::{
    Dyn, Entry, FileOffset, Format, Header, PAGE, Rela, Section, Segment, Symbol, Vaddr,
};
use crate::error::Result;
use crate::loader::ldso;
use crate::loader::object::Object;
use crate::source::Source;
use crate::trampoline::{self, Trampoline};

/// What is wrong where the names that are asked for are a way to fill the memory.
pub(crate) const NEEDED_TOO_LONG: &str = "its DT_NEEDED names are longer than the file";

/// A table that the dynamic section names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) vaddr: Vaddr,
    pub(crate) at: FileOffset,
    /// In bytes.
    pub(crate) size: u64,
}

impl Table {
    /// First file offset behind it.
    pub(crate) fn end(&self) -> Option<FileOffset> {
        self.at.checked_add(self.size)
    }
}

/// .dynamic, up to its DT_NULL.
#[derive(Debug)]
pub(crate) struct Dynamic {
    pub(crate) table: Table,
    /// The entries before the first DT_NULL.
    pub(crate) entries: Vec<Dyn>,
    /// Values of the DT_NULLs that follow, the terminator among them. They mean nothing: chrpath and
    /// meson leave one behind when they drop an entry.
    pub(crate) spare: Vec<u64>,
}

impl Dynamic {
    /// Entries that fit where the table is, terminator included.
    pub(crate) fn capacity(&self) -> usize {
        self.entries.len() + self.spare.len()
    }

    /// Address of the first DT_NULL's value, if the table has one.
    pub(crate) fn first_null(&self, format: Format) -> Vaddr {
        let before = self.entries.len() as u64 * Dyn::size(format);
        Vaddr(self.table.vaddr.0 + before + format.word())
    }

    /// Value of the last entry with `tag`: that is the one which a loader keeps (glibc
    /// elf/get-dynamic-info.h; musl ldso/dynlink.c, `decode_dyn`).
    pub(crate) fn get(&self, tag: DynamicTag) -> Option<u64> {
        self.entries
            .iter()
            .rfind(|entry| entry.tag == tag)
            .map(|entry| entry.value)
    }

    /// Number of relocations at the beginning of .rela.dyn that need not be looked at. glibc takes the first
    /// DT_RELACOUNT for R_*_RELATIVE without asking (elf/do-rel.h, `elf_dynamic_do_Rela`): they have no
    /// symbol, and are nearly all of a large program's.
    pub(crate) fn relative_count(&self, format: Format, rela: Option<Table>) -> u64 {
        let all = rela.map_or(0, |table| table.size / Rela::size(format));
        let tag = format.relocations.addends.tags().count;
        self.get(tag).unwrap_or(0).min(all)
    }
}

/// Path of the loader that runs the executable in `source`, and the executable as an object of its
/// process. Refuses what [`Image::parse`] refuses because no loader runs it.
pub(crate) fn executable(source: &Source) -> Result<(PathBuf, Object)> {
    let header = read_header(source)?;
    let (_, segments) = read_segments(source, &header)?;
    let interpreter = interpreter(source, &header, &segments)?;
    refuse_shared_object(source, &header, &read_dynamic(source, &segments)?)?;
    Ok((interpreter, Object::parse(source, &header)?))
}

/// The trampoline at the entry point, if that is one.
pub(crate) fn trampoline(
    source: &Source,
    header: &Header,
    segments: &[Segment],
) -> Result<Option<Trampoline>> {
    let Some(at) = locate(segments, header.entry(), trampoline::SIZE) else {
        return Ok(None);
    };
    let code = source.bytes(at, trampoline::SIZE, "the code at the entry point")?;
    Ok(Trampoline::recognise(&code, header.entry()))
}

/// The input as the loader sees it.
#[derive(Debug)]
pub(crate) struct Image {
    pub(crate) format: Format,
    pub(crate) header: Header,
    /// The program headers, in table order.
    pub(crate) segments: Vec<Segment>,
    pub(crate) segments_at: FileOffset,
    /// The section headers, in table order; empty where there are none.
    pub(crate) sections: Vec<Section>,
    pub(crate) sections_at: FileOffset,
    pub(crate) dynamic: Dynamic,
    pub(crate) strtab: Table,
    pub(crate) symtab: Table,
    pub(crate) versym: Option<Table>,
    pub(crate) gnu_hash: Option<Table>,
    pub(crate) sysv_hash: Option<Table>,
    /// .rela.dyn without any PLT relocations that DT_RELASZ may include.
    pub(crate) rela: Option<Table>,
    /// .rela.plt
    pub(crate) jmprel: Option<Table>,
    /// The preinit array, if there is one with entries; musl ignores it.
    pub(crate) preinit: Option<Table>,
    /// The loader is musl's.
    pub(crate) musl: bool,
    /// What is at the entry point of a program that is rewritten for musl already.
    pub(crate) trampoline: Option<Trampoline>,
    /// First byte behind everything that the ELF structures describe; appended data starts here.
    pub(crate) elf_end: FileOffset,
}

impl Image {
    /// Reads and checks everything that a rewrite depends on.
    pub(crate) fn parse(source: &Source) -> Result<Self> {
        let header = read_header(source)?;
        let (segments_at, segments) = read_segments(source, &header)?;
        refuse_overlap(source, &segments)?;
        let musl = ldso::is_musl(&interpreter(source, &header, &segments)?);
        refuse_stray(source, &segments)?;
        let (sections_at, sections) = read_sections(source, &header)?;
        let dynamic = read_dynamic(source, &segments)?;
        refuse_shared_object(source, &header, &dynamic)?;
        let tables = Tables {
            source,
            segments: &segments,
            dynamic: &dynamic,
        };
        tables.refuse_other_relocations()?;
        let strtab = tables.sized(DT_STRTAB, DT_STRSZ, "the dynamic string table")?;
        let strtab = strtab.ok_or_else(|| source.malformed("it has no DT_STRTAB"))?;
        if strtab.size > u64::from(u32::MAX / 2) {
            return Err(source.malformed("its dynamic string table is larger than 2 GiB"));
        }
        let jmprel = tables.sized(DT_JMPREL, DT_PLTRELSZ, "the PLT relocation table")?;
        let tags = source.format().relocations.addends.tags();
        let rela = tables.sized(tags.table, tags.size, "the relocation table")?;
        let rela = rela.map(|rela| without_plt(rela, jmprel));
        // The loader goes on to the end of the last one that begins inside.
        if [rela, jmprel]
            .iter()
            .flatten()
            .any(|table| table.size % Rela::size(source.format()) != 0)
        {
            return Err(source.malformed("a relocation table ends in the middle of a relocation"));
        }
        // What is appended would be among those that glibc takes for relative. musl does not count, and no linker
        // makes this for it either.
        let relocations = rela.map_or(0, |table| table.size / Rela::size(source.format()));
        if dynamic.get(tags.count).unwrap_or(0) > relocations {
            return Err(
                source.malformed("it counts more relative relocations than it has relocations")
            );
        }
        let preinit = tables.sized(DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, "the preinit array")?;
        let gnu_hash = tables.gnu_hash()?;
        let sysv_hash = tables.sysv_hash()?;
        let symbols = tables.symbol_count(sysv_hash, gnu_hash, [rela, jmprel], &sections)?;
        let symbol_size = Symbol::size(source.format());
        let symtab = tables
            .counted(DT_SYMTAB, symbols, symbol_size, "the dynamic symbol table")?
            .ok_or_else(|| source.malformed("it has no DT_SYMTAB"))?;
        let versym = tables.counted(DT_VERSYM, symbols, 2, "the symbol version table")?;
        let trampoline = trampoline(source, &header, &segments)?.filter(|_| musl);
        let elf_end = elf_end(source.format(), &header, &segments, &sections);
        Ok(Self {
            format: source.format(),
            header,
            segments,
            segments_at,
            sections,
            sections_at,
            dynamic,
            strtab,
            symtab,
            versym,
            gnu_hash,
            sysv_hash,
            rela,
            jmprel,
            preinit: preinit.filter(|array| array.size > 0 && !musl),
            musl,
            trampoline,
            elf_end,
        })
    }

    /// The PT_LOAD segments with their index in the program header table.
    pub(crate) fn loads(&self) -> impl Iterator<Item = (usize, &Segment)> {
        self.segments
            .iter()
            .enumerate()
            .filter(|(_, segment)| segment.kind == PT_LOAD)
    }

    /// The range that the loader makes read-only after relocation: whole pages only
    /// (glibc `_dl_protect_relro`). The last PT_GNU_RELRO counts, as in `_dl_map_object_from_fd`.
    pub(crate) fn relro(&self) -> Option<&Segment> {
        self.segments
            .iter()
            .rfind(|segment| segment.kind == PT_GNU_RELRO)
    }

    /// True if .dynamic is in no writable segment: MIPS's and RISC-V's ABI have it so, and `-z rodynamic`.
    pub(crate) fn dynamic_is_read_only(&self) -> bool {
        let table = self.dynamic.table.vaddr;
        let has = |(_, load): &(usize, &Segment)| load.covers(table, 1);
        let load = self.loads().find(has);
        load.is_some_and(|(_, load)| load.flags.0 & PF_W.0 == 0)
    }

    /// By how many program headers so many new segments make the table longer: those that say nothing (GNU ld
    /// leaves one on MIPS) are taken first.
    pub(crate) fn longer_by(&self, segments: u64) -> u64 {
        let spare = |segment: &&Segment| segment.kind == PT_NULL;
        segments.saturating_sub(self.segments.iter().filter(spare).count() as u64)
    }

    /// First file offset behind the program header table.
    pub(crate) fn segments_end(&self) -> FileOffset {
        let count = self.segments.len() as u64;
        FileOffset(self.segments_at.0 + count * Segment::size(self.format))
    }

    /// Size of the section header table, in bytes.
    pub(crate) fn section_headers_size(&self) -> u64 {
        self.sections.len() as u64 * Section::size(self.format)
    }

    /// The section that holds the section names, and its index; `None` for SHN_UNDEF.
    pub(crate) fn section_names(&self) -> Option<(usize, &Section)> {
        let index = self.header.section_name_index(self.sections.first());
        let index = usize::try_from(index).ok().filter(|&index| index > 0)?;
        Some((index, self.sections.get(index)?))
    }

    /// The string at `offset` of the dynamic string table, without its NUL.
    pub(crate) fn string(&self, source: &Source, offset: u64) -> Result<Vec<u8>> {
        /// As long as most; and longer than any that a loader or a linker takes in practice.
        const SIZES: [u64; 2] = [1 << 8, 1 << 16];
        for size in SIZES {
            let mut bytes = self.string_start(source, offset, size)?;
            if let Some(end) = memchr::memchr(0, &bytes) {
                bytes.truncate(end);
                return Ok(bytes);
            }
        }
        Err(source.malformed("a name in DT_STRTAB has no end"))
    }

    /// Which of `names` the string at `offset` of the dynamic string table is. No more is read than it
    /// takes to tell: a hundred thousand symbols may share one long name.
    pub(crate) fn which<'n>(
        &self,
        source: &Source,
        offset: u64,
        names: &[&'n str],
    ) -> Result<Option<&'n str>> {
        let longest = names.iter().map(|name| name.len() as u64 + 1).max();
        let start = self.string_start(source, offset, longest.unwrap_or(0))?;
        let is = |name: &&&str| {
            let rest = start.strip_prefix(name.as_bytes());
            rest.is_some_and(|rest| rest.first() == Some(&0))
        };
        Ok(names.iter().find(is).copied())
    }

    /// Up to `size` bytes from `offset` of the dynamic string table.
    fn string_start(&self, source: &Source, offset: u64, size: u64) -> Result<Vec<u8>> {
        let rest = self.strtab.size.checked_sub(offset);
        let rest = rest.ok_or_else(|| source.malformed("a name lies outside DT_STRTAB"))?;
        let at = FileOffset(self.strtab.at.0 + offset);
        source.bytes(at, rest.min(size), "the dynamic string table")
    }

    /// The DT_NEEDED strings, in order.
    pub(crate) fn needed(&self, source: &Source) -> Result<Vec<Vec<u8>>> {
        let mut allowance = source.allowance();
        let entries = self.dynamic.entries.iter();
        entries
            .filter(|entry| entry.tag == object::elf::DT_NEEDED)
            .map(|entry| {
                let name = allowance.take(self.string(source, entry.value)?);
                name.ok_or_else(|| source.malformed(NEEDED_TOO_LONG))
            })
            .collect()
    }

    /// Where the dynamic symbol `index` is, one of [`Self::symbol_count`].
    pub(crate) fn symbol_offset(&self, index: u32) -> FileOffset {
        FileOffset(self.symtab.at.0 + Symbol::size(self.format) * u64::from(index))
    }

    /// The dynamic symbol `index`, if there is one.
    pub(crate) fn symbol(&self, source: &Source, index: u32) -> Result<Option<Symbol>> {
        if u64::from(index) >= self.symbol_count() {
            return Ok(None);
        }
        let at = self.symbol_offset(index);
        let symbols: Vec<Symbol> = source.table(at, 1, "the dynamic symbol table")?;
        Ok(symbols.first().copied())
    }

    /// Number of dynamic symbols.
    pub(crate) fn symbol_count(&self) -> u64 {
        self.symtab.size / Symbol::size(self.format)
    }

    /// The largest alignment of any PT_LOAD, at least a page: an address that has the same
    /// remainder as its file offset by this can be mapped wherever the input can.
    pub(crate) fn load_align(&self) -> u64 {
        self.loads()
            .map(|(_, load)| load.align)
            .max()
            .unwrap_or(PAGE)
            .max(PAGE)
    }
}

/// File offset of `size` bytes at `address`, in the segment that maps them, or in several that follow
/// each other in memory and in the file (patchelf lets tables run on into the next).
pub(crate) fn locate(segments: &[Segment], address: Vaddr, size: u64) -> Option<FileOffset> {
    let loads = || segments.iter().filter(|segment| segment.kind == PT_LOAD);
    if let Some(at) = loads().find_map(|load| load.locate(address, size)) {
        return Some(at);
    }
    let distance = |load: &Segment| load.vaddr.0.wrapping_sub(load.offset.0);
    let end = address.checked_add(size)?;
    let mut load = loads().find(|load| load.locate(address, 1).is_some())?;
    let at = load.locate(address, 1)?;
    while load.file_backed_end() < end {
        let next = load.file_backed_end();
        let follows = |other: &&Segment| {
            other.vaddr == next && distance(other) == distance(load) && other.filesz > 0
        };
        load = loads().find(follows)?;
    }
    Some(at)
}

fn elf_end(
    format: Format,
    header: &Header,
    segments: &[Segment],
    sections: &[Section],
) -> FileOffset {
    let (segments_at, _, _) = header.program_headers();
    let (sections_at, _, _) = header.section_headers();
    let of_segments = segments
        .iter()
        .filter(|segment| {
            // PT_GNU_RELRO is part of a PT_LOAD, and may end beyond the file.
            segment.filesz > 0 && !matches!(segment.kind, PT_NULL | PT_GNU_RELRO)
        })
        .map(Segment::offset_end);
    let of_sections = sections
        .iter()
        .filter(|section| section.file_size() > 0)
        .map(|section| FileOffset(section.offset.0.saturating_add(section.size)));
    let tables = [
        FileOffset(Header::size(format)),
        FileOffset(segments_at.0 + segments.len() as u64 * Segment::size(format)),
        FileOffset(sections_at.0 + sections.len() as u64 * Section::size(format)),
    ];
    of_segments
        .chain(of_sections)
        .chain(tables)
        .max()
        .unwrap_or_default()
}
