//! Bytes → [`Image`]: what the loader will see of the input.
//!
//! Segments come first: PT_DYNAMIC is the source of truth for every table, so that a file without
//! section headers works. Sections are read where they exist, only to keep them true. What the
//! loader could not load is refused here; everything after can rely on what the fields say.

use object::elf::{
    DF_1_PIE, DT_FLAGS_1, DT_GNU_HASH, DT_HASH, DT_JMPREL, DT_NULL, DT_PLTRELSZ, DT_PREINIT_ARRAY,
    DT_PREINIT_ARRAYSZ, DT_RELA, DT_RELASZ, DT_SONAME, DT_STRSZ, DT_STRTAB, DT_SYMTAB, DT_VERSYM,
    DynamicTag, ET_CORE, ET_DYN, ET_EXEC, ET_REL, Machine, PT_DYNAMIC, PT_GNU_RELRO, PT_INTERP,
    PT_LOAD, PT_NOTE,
};

use crate::elf::{Dyn, Entry, FileOffset, Header, PAGE, Rela, Section, Segment, Vaddr};
use crate::error::{ErrorKind, Result};
use crate::source::Source;

/// A table that the dynamic section names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    pub(crate) vaddr: Vaddr,
    pub(crate) at: FileOffset,
    /// In bytes.
    pub(crate) size: u64,
}

/// .dynamic, up to its DT_NULL.
#[derive(Debug)]
pub(crate) struct Dynamic {
    pub(crate) table: Table,
    /// The entries before the first DT_NULL.
    pub(crate) entries: Vec<Dyn>,
    /// Entries that fit where the table is, terminator included.
    pub(crate) capacity: usize,
}

impl Dynamic {
    /// Value of the first entry with `tag`.
    pub(crate) fn get(&self, tag: DynamicTag) -> Option<u64> {
        self.entries
            .iter()
            .find(|entry| entry.tag == tag)
            .map(|entry| entry.value)
    }
}

/// The input as the loader sees it.
#[derive(Debug)]
pub(crate) struct Image {
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
    /// The preinit array, if there is one with entries.
    pub(crate) preinit: Option<Table>,
    /// First byte behind everything that the ELF structures describe; appended data starts here.
    pub(crate) elf_end: FileOffset,
}

impl Image {
    /// Reads and checks everything that a rewrite depends on.
    pub(crate) fn parse(source: &Source) -> Result<Self> {
        let header = read_header(source)?;
        let (segments_at, segments) = read_segments(source, &header)?;
        refuse_what_no_loader_runs(source, &header, &segments)?;
        let (sections_at, sections) = read_sections(source, &header)?;
        let dynamic = read_dynamic(source, &segments)?;
        refuse_shared_object(source, &header, &dynamic)?;
        let tables = Tables {
            source,
            segments: &segments,
            dynamic: &dynamic,
        };
        let strtab = tables.sized(DT_STRTAB, DT_STRSZ, "the dynamic string table")?;
        let strtab = strtab.ok_or_else(|| source.malformed("it has no DT_STRTAB"))?;
        if strtab.size > u64::from(u32::MAX / 2) {
            return Err(source.malformed("its dynamic string table is larger than 2 GiB"));
        }
        let jmprel = tables.sized(DT_JMPREL, DT_PLTRELSZ, "the PLT relocation table")?;
        let rela = tables.sized(DT_RELA, DT_RELASZ, "the relocation table")?;
        let rela = rela.map(|rela| without_plt(rela, jmprel));
        let preinit = tables.sized(DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, "the preinit array")?;
        let gnu_hash = tables.gnu_hash()?;
        let sysv_hash = tables.sysv_hash()?;
        let symbols = tables.symbol_count(sysv_hash, gnu_hash, [rela, jmprel], &sections)?;
        let symtab = tables
            .counted(DT_SYMTAB, symbols, 24, "the dynamic symbol table")?
            .ok_or_else(|| source.malformed("it has no DT_SYMTAB"))?;
        let versym = tables.counted(DT_VERSYM, symbols, 2, "the symbol version table")?;
        let elf_end = elf_end(&header, &segments, &sections);
        Ok(Self {
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
            preinit: preinit.filter(|array| array.size > 0),
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

    /// First file offset behind the program header table.
    pub(crate) fn segments_end(&self) -> FileOffset {
        let count = self.segments.len() as u64;
        FileOffset(self.segments_at.0 + count * Segment::SIZE)
    }

    /// The section that holds the section names.
    pub(crate) fn section_names(&self) -> Option<&Section> {
        let index = self.header.section_name_index(self.sections.first());
        self.sections.get(usize::try_from(index).ok()?)
    }

    /// The string at `offset` of the dynamic string table, without its NUL.
    pub(crate) fn string(&self, source: &Source, offset: u64) -> Result<Vec<u8>> {
        /// Longer than any path or symbol that a loader or a linker takes in practice.
        const LONGEST: u64 = 1 << 16;
        let rest = self.strtab.size.checked_sub(offset);
        let rest = rest.ok_or_else(|| source.malformed("a name lies outside DT_STRTAB"))?;
        let at = FileOffset(self.strtab.at.0 + offset);
        let bytes = source.bytes(at, rest.min(LONGEST), "the dynamic string table")?;
        match memchr::memchr(0, &bytes) {
            Some(end) => Ok(bytes[..end].to_vec()),
            None => Err(source.malformed("a name in DT_STRTAB has no end")),
        }
    }

    /// The DT_NEEDED strings, in order.
    pub(crate) fn needed(&self, source: &Source) -> Result<Vec<Vec<u8>>> {
        let entries = self.dynamic.entries.iter();
        entries
            .filter(|entry| entry.tag == object::elf::DT_NEEDED)
            .map(|entry| self.string(source, entry.value))
            .collect()
    }

    /// Number of dynamic symbols.
    pub(crate) fn symbol_count(&self) -> u64 {
        self.symtab.size / 24
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

fn read_header(source: &Source) -> Result<Header> {
    let len = source.len();
    let start = source.bytes(FileOffset(0), len.min(Header::SIZE), "the ELF header")?;
    if start.is_empty() {
        return Err(source.error(ErrorKind::Empty));
    }
    if start.starts_with(b"#!") {
        return Err(source.error(script(source)?));
    }
    if !start.starts_with(&object::elf::ELFMAG) {
        return Err(source.error(ErrorKind::NotElf));
    }
    let word = |at: usize| -> Option<u16> {
        let bytes = [*start.get(at)?, *start.get(at + 1)?];
        Some(match start.get(5) {
            Some(2) => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        })
    };
    if let (Some(&class), Some(&data), Some(machine)) = (start.get(4), start.get(5), word(18)) {
        let name = machine_name(Machine(machine), data == 2);
        if class == 1 {
            return Err(source.error(ErrorKind::Class32 { machine: name }));
        }
        if class == 2 && (machine != object::elf::EM_X86_64.0 || data != 1) {
            return Err(source.error(ErrorKind::Machine { machine: name }));
        }
        if class != 2 {
            return Err(source.malformed(format!("its ELF class is {class}")));
        }
    }
    source.check(FileOffset(0), Header::SIZE, "the ELF header")?;
    let header = Header::decode(&start).ok_or_else(|| source.error(ErrorKind::NotElf))?;
    match header.file_type() {
        ET_EXEC | ET_DYN => Ok(header),
        ET_REL => Err(source.error(ErrorKind::Relocatable)),
        ET_CORE => Err(source.error(ErrorKind::Core)),
        other => Err(source.malformed(format!("its ELF type is {}", other.0))),
    }
}

fn script(source: &Source) -> Result<ErrorKind> {
    let line = source.bytes(FileOffset(2), (source.len() - 2).min(256), "the first line")?;
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or(&[]);
    Ok(ErrorKind::Script {
        interpreter: String::from_utf8_lossy(line).trim().to_owned(),
    })
}

fn machine_name(machine: Machine, big_endian: bool) -> String {
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

fn read_segments(source: &Source, header: &Header) -> Result<(FileOffset, Vec<Segment>)> {
    let (at, count, entry_size) = header.program_headers();
    if count == 0 {
        return Err(source.malformed("it has no program headers"));
    }
    if u64::from(entry_size) != Segment::SIZE {
        return Err(source.malformed(format!(
            "its program headers are {entry_size} bytes each, not 56"
        )));
    }
    if count == u16::MAX {
        return Err(source.malformed("it has more than 65,534 program headers"));
    }
    let segments: Vec<Segment> = source.table(at, u64::from(count), "the program header table")?;
    for segment in &segments {
        check_segment(source, segment)?;
    }
    Ok((at, segments))
}

fn check_segment(source: &Source, segment: &Segment) -> Result<()> {
    if segment.kind == object::elf::PT_NULL {
        return Ok(());
    }
    source.check(segment.offset, segment.filesz, "a segment")?;
    let ends = [
        segment.vaddr.checked_add(segment.memsz),
        segment.vaddr.checked_add(segment.filesz),
    ];
    if ends.iter().any(Option::is_none) {
        return Err(source.malformed("a segment ends beyond the address space"));
    }
    if segment.kind != PT_LOAD {
        return Ok(());
    }
    if segment.filesz > segment.memsz {
        return Err(source.malformed("a segment is larger in the file than in memory"));
    }
    let align = segment.align.max(1);
    if !align.is_power_of_two() {
        return Err(source.malformed("a segment's alignment is no power of two"));
    }
    let align = align.max(PAGE);
    if segment.filesz > 0 && segment.vaddr.0 % align != segment.offset.0 % align {
        return Err(
            source.malformed("a segment's file offset and address differ modulo its alignment")
        );
    }
    Ok(())
}

/// Static programs, and those of a loader that this tool does not serve yet.
fn refuse_what_no_loader_runs(
    source: &Source,
    header: &Header,
    segments: &[Segment],
) -> Result<()> {
    let find = |kind| segments.iter().find(|segment| segment.kind == kind);
    if find(PT_LOAD).is_none() {
        return Err(source.malformed("it has no PT_LOAD segment"));
    }
    if let Some(interpreter) = find(PT_INTERP) {
        let path = source.bytes(
            interpreter.offset,
            interpreter.filesz.min(4096),
            "the interpreter path",
        )?;
        let path = path.split(|&byte| byte == 0).next().unwrap_or(&[]);
        let path = String::from_utf8_lossy(path).into_owned();
        if path.is_empty() {
            return Err(source.malformed("its PT_INTERP names no loader"));
        }
        let name = path.rsplit('/').next().unwrap_or(&path);
        if name.starts_with("ld-musl-") {
            return Err(source.error(ErrorKind::Musl { interpreter: path }));
        }
        return Ok(());
    }
    let what = if header.file_type() == ET_EXEC {
        match is_go(source, segments)? {
            true => " (a Go program; build it with -linkmode=external to have a loader)",
            false => "",
        }
    } else if is_static_pie(source, segments) {
        " (static-pie)"
    } else {
        return Err(source.error(ErrorKind::SharedObject));
    };
    Err(source.error(ErrorKind::Static { what }))
}

/// True if a note says that Go's linker made the file (owner `Go`, cmd/link `ELF_NOTE_GO_NAME`).
fn is_go(source: &Source, segments: &[Segment]) -> Result<bool> {
    for note in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        let bytes = source.bytes(note.offset, note.filesz.min(PAGE), "a note")?;
        if bytes.get(12..16) == Some(b"Go\0\0") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_static_pie(source: &Source, segments: &[Segment]) -> bool {
    read_dynamic(source, segments)
        .is_ok_and(|dynamic| dynamic.get(DT_FLAGS_1).unwrap_or(0) & DF_1_PIE.0 != 0)
}

/// A library with a PT_INTERP (libc.so.6 is one) is loaded by others, not run.
fn refuse_shared_object(source: &Source, header: &Header, dynamic: &Dynamic) -> Result<()> {
    let flags = dynamic.get(DT_FLAGS_1).unwrap_or(0);
    let pie = flags & DF_1_PIE.0 != 0;
    if header.file_type() == ET_DYN && !pie && dynamic.get(DT_SONAME).is_some() {
        return Err(source.error(ErrorKind::SharedObject));
    }
    Ok(())
}

fn read_sections(source: &Source, header: &Header) -> Result<(FileOffset, Vec<Section>)> {
    let (at, count, entry_size) = header.section_headers();
    if at == FileOffset(0) {
        return Ok((at, Vec::new()));
    }
    if u64::from(entry_size) != Section::SIZE {
        return Err(source.malformed(format!(
            "its section headers are {entry_size} bytes each, not 64"
        )));
    }
    // gABI, "ELF Header": with 0xff00 sections and more, the count is in the first one's sh_size.
    let first: Vec<Section> = source.table(at, 1, "the section header table")?;
    let count = match (count, first.first()) {
        (0, Some(first)) => first.size,
        _ => u64::from(count),
    };
    let sections: Vec<Section> = source.table(at, count, "the section header table")?;
    for section in &sections {
        source.check(section.offset, section.file_size(), "a section")?;
        if section.vaddr.checked_add(section.size).is_none() {
            return Err(source.malformed("a section ends beyond the address space"));
        }
    }
    Ok((at, sections))
}

fn read_dynamic(source: &Source, segments: &[Segment]) -> Result<Dynamic> {
    let segment = segments
        .iter()
        .rfind(|segment| segment.kind == PT_DYNAMIC)
        .ok_or_else(|| source.malformed("it has a PT_INTERP, but no PT_DYNAMIC"))?;
    let at = locate(segments, segment.vaddr, segment.filesz);
    if at != Some(segment.offset) || segment.vaddr.0 % 8 != 0 {
        return Err(source.malformed("its PT_DYNAMIC lies in no PT_LOAD segment"));
    }
    let slots: Vec<Dyn> = source.table(
        segment.offset,
        segment.filesz / Dyn::SIZE,
        "the dynamic section",
    )?;
    let used = slots
        .iter()
        .position(|entry| entry.tag == DT_NULL)
        .unwrap_or(slots.len());
    // A DT_NULL's value means nothing: chrpath and meson leave one behind when they drop an entry.
    let spare = slots[used..]
        .iter()
        .take_while(|entry| entry.tag == DT_NULL);
    let capacity = used + spare.count();
    let mut entries = slots;
    entries.truncate(used);
    Ok(Dynamic {
        table: Table {
            vaddr: segment.vaddr,
            at: segment.offset,
            size: segment.filesz,
        },
        entries,
        capacity,
    })
}

/// File offset of `size` bytes at `address`, in the segment that maps them.
pub(crate) fn locate(segments: &[Segment], address: Vaddr, size: u64) -> Option<FileOffset> {
    segments
        .iter()
        .filter(|segment| segment.kind == PT_LOAD)
        .find_map(|load| load.locate(address, size))
}

/// Some linkers let DT_RELASZ include the PLT relocations that follow; the loader takes them off
/// (glibc elf/dynamic-link.h, `_ELF_DYNAMIC_DO_RELOC`).
fn without_plt(rela: Table, jmprel: Option<Table>) -> Table {
    let Some(plt) = jmprel else { return rela };
    let ends_together = rela.vaddr.0.checked_add(rela.size) == plt.vaddr.0.checked_add(plt.size);
    match plt.vaddr.since(rela.vaddr) {
        Some(size) if ends_together && plt.size > 0 => Table { size, ..rela },
        _ => rela,
    }
}

fn elf_end(header: &Header, segments: &[Segment], sections: &[Section]) -> FileOffset {
    let (segments_at, _, _) = header.program_headers();
    let (sections_at, _, _) = header.section_headers();
    let of_segments = segments
        .iter()
        .filter(|segment| segment.filesz > 0 && segment.kind != object::elf::PT_NULL)
        .map(Segment::offset_end);
    let of_sections = sections
        .iter()
        .filter(|section| section.file_size() > 0)
        .map(|section| FileOffset(section.offset.0.saturating_add(section.size)));
    let tables = [
        FileOffset(Header::SIZE),
        FileOffset(segments_at.0 + segments.len() as u64 * Segment::SIZE),
        FileOffset(sections_at.0 + sections.len() as u64 * Section::SIZE),
    ];
    of_segments
        .chain(of_sections)
        .chain(tables)
        .max()
        .unwrap_or_default()
}

/// Finds the tables that .dynamic names.
struct Tables<'a> {
    source: &'a Source,
    segments: &'a [Segment],
    dynamic: &'a Dynamic,
}

impl Tables<'_> {
    fn table(&self, address: Vaddr, size: u64, what: &'static str) -> Result<Table> {
        let at = locate(self.segments, address, size).ok_or_else(|| {
            self.source
                .malformed(format!("{what} lies in no PT_LOAD segment"))
        })?;
        Ok(Table {
            vaddr: address,
            at,
            size,
        })
    }

    /// The table at the address in `tag`, whose size in bytes is in `size_tag`.
    fn sized(
        &self,
        tag: DynamicTag,
        size_tag: DynamicTag,
        what: &'static str,
    ) -> Result<Option<Table>> {
        let Some(address) = self.dynamic.get(tag) else {
            return Ok(None);
        };
        let size = self.dynamic.get(size_tag).unwrap_or(0);
        self.table(Vaddr(address), size, what).map(Some)
    }

    /// The table at the address in `tag`, with `count` entries of `entry_size` bytes.
    fn counted(
        &self,
        tag: DynamicTag,
        count: u64,
        entry_size: u64,
        what: &'static str,
    ) -> Result<Option<Table>> {
        let Some(address) = self.dynamic.get(tag) else {
            return Ok(None);
        };
        let size = count.checked_mul(entry_size).ok_or_else(|| {
            self.source
                .malformed(format!("{what} has an impossible size"))
        })?;
        self.table(Vaddr(address), size, what).map(Some)
    }

    /// DT_HASH: nbucket, nchain, buckets, chains (gABI, "Hash Table").
    fn sysv_hash(&self) -> Result<Option<Table>> {
        const WHAT: &str = "the DT_HASH table";
        let Some(address) = self.dynamic.get(DT_HASH).map(Vaddr) else {
            return Ok(None);
        };
        let head = self.table(address, 8, WHAT)?;
        let head = words(&self.source.bytes(head.at, 8, WHAT)?);
        let size = 4 * (2 + u64::from(head[0]) + u64::from(head[1]));
        self.table(address, size, WHAT).map(Some)
    }

    /// DT_GNU_HASH: four words, the Bloom filter, buckets, and one chain word for each symbol from
    /// `symoffset` on; a chain ends at a word whose lowest bit is set (glibc elf/dl-lookup.c).
    fn gnu_hash(&self) -> Result<Option<Table>> {
        const WHAT: &str = "the DT_GNU_HASH table";
        let Some(address) = self.dynamic.get(DT_GNU_HASH).map(Vaddr) else {
            return Ok(None);
        };
        let head = self.table(address, 16, WHAT)?;
        let head = words(&self.source.bytes(head.at, 16, WHAT)?);
        let (buckets, first_symbol, bloom) = (u64::from(head[0]), u64::from(head[1]), head[2]);
        let before_chains = 16 + 8 * u64::from(bloom) + 4 * buckets;
        let fixed = self.table(address, before_chains, WHAT)?;
        let buckets_at = FileOffset(fixed.at.0 + before_chains - 4 * buckets);
        let mut last = 0;
        self.source
            .for_each_window(buckets_at, 4 * buckets, WHAT, |_, window| {
                last = words(window)
                    .into_iter()
                    .fold(last, |last, word| last.max(u64::from(word)));
                Ok(())
            })?;
        let Some(mut index) = last.checked_sub(first_symbol).filter(|_| last > 0) else {
            return Ok(Some(fixed));
        };
        loop {
            // The rest of the segment, a page at a time: the chain must end in it.
            let chain = self.table(Vaddr(address.0 + before_chains + 4 * index), 4, WHAT)?;
            let rest = self.source.len() - chain.at.0;
            let page = words(&self.source.bytes(chain.at, rest.min(PAGE), WHAT)?);
            let steps = page.len() as u64;
            if let Some(end) = page.iter().position(|word| word & 1 == 1) {
                let size = before_chains + 4 * (index + end as u64 + 1);
                return self.table(address, size, WHAT).map(Some);
            }
            index += steps;
        }
    }

    /// No tag gives the number of dynamic symbols: it is what the hash tables and the section
    /// headers know of, whichever is more, or without section headers, the relocations.
    fn symbol_count(
        &self,
        sysv_hash: Option<Table>,
        gnu_hash: Option<Table>,
        relocations: [Option<Table>; 2],
        sections: &[Section],
    ) -> Result<u64> {
        let mut count = 1;
        if let Some(hash) = sysv_hash {
            count = count.max(u64::from(
                words(&self.source.bytes(hash.at, 8, "DT_HASH")?)[1],
            ));
        }
        if let Some(hash) = gnu_hash {
            let head = words(&self.source.bytes(hash.at, 16, "DT_GNU_HASH")?);
            let before_chains = 16 + 8 * u64::from(head[2]) + 4 * u64::from(head[0]);
            let chains = (hash.size - before_chains) / 4;
            if chains > 0 {
                count = count.max(u64::from(head[1]) + chains);
            }
        }
        let symtab = self.dynamic.get(DT_SYMTAB).map(Vaddr);
        let of_section = sections.iter().find(|section| {
            section.kind == object::elf::SHT_DYNSYM && Some(section.vaddr) == symtab
        });
        if let Some(section) = of_section {
            return Ok(count.max(section.size / 24));
        }
        for table in relocations.into_iter().flatten() {
            let entries = table.size / Rela::SIZE;
            const WHAT: &str = "a relocation table";
            self.source
                .for_each(table.at, entries, WHAT, |_, rela: Rela| {
                    count = count.max(u64::from(rela.symbol) + 1);
                    Ok(())
                })?;
        }
        Ok(count)
    }
}

/// The little-endian words of `bytes`.
pub(crate) fn words(bytes: &[u8]) -> Vec<u32> {
    bytes
        .chunks_exact(4)
        .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
        .collect()
}
