//! Which tables move into a new read-only segment, and how its program header finds room.
//!
//! A table that grows is copied to the end of the file, where one new PT_LOAD maps it. That needs
//! one more program header, and linkers leave no slack behind the table: the small things that
//! follow it (.interp, notes, .gnu.hash, …) move to the new segment too, as few as will do. A note
//! with the build-id stays in the first page, because that page is all of an executable that a
//! core dump keeps (core(5), bit 4 of coredump_filter). Code gets a segment apart, so that no table
//! becomes executable. Where something follows that cannot move, the table itself goes to the new
//! segment.

use object::elf::{PT_GNU_RELRO, PT_INTERP, PT_LOAD, PT_NOTE, PT_PHDR};

use crate::elf::{Dyn, Entry, FileOffset, PAGE, Rela, Segment, Symbol, Vaddr, align_up, overlap};
use crate::error::Result;
use crate::parse::{Image, Table};
use crate::source::Source;
use crate::unwind::Grown;

/// By how much the tables that only the loader reads have to grow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Growing {
    /// Bytes of .dynstr.
    pub(crate) names: u64,
    /// Symbols in .dynsym.
    pub(crate) symbols: u64,
    /// Relocations in .rela.dyn.
    pub(crate) relocations: u64,
    /// Entries of .dynamic, where that is read-only.
    pub(crate) dynamic: u64,
    /// True if there is code to add, which gets an executable segment of its own.
    pub(crate) code: bool,
    /// True if the program's own allocator gets code that leads to the runtime, which is another.
    pub(crate) diverted: bool,
    /// What there is for unwinding, which grows with that code.
    pub(crate) unwinding: Option<[Grown; 2]>,
    /// True if what is written during relocation gets a writable segment of its own.
    pub(crate) apart: bool,
}

impl Growing {
    /// Number of new program headers but for that of the tables.
    fn segments(self) -> u64 {
        u64::from(self.code) + u64::from(self.diverted) + u64::from(self.apart)
    }
}

/// A range of the input that is mapped elsewhere in the result.
#[derive(Clone, Debug)]
pub(crate) struct Move {
    /// The section's usual name, for reports.
    pub(crate) name: &'static str,
    pub(crate) from: Table,
    /// Bytes that it gains at its end.
    pub(crate) extra: u64,
    /// In bytes.
    pub(crate) align: u64,
}

/// The new program header, and what has to move for it and into its segment.
#[derive(Clone, Debug, Default)]
pub(crate) struct Headers {
    /// Into the new segment.
    pub(crate) moves: Vec<Move>,
    /// Notes that only make way, to just behind the longer program header table.
    pub(crate) slides: Vec<Move>,
    /// Whether .dynamic grows with these tables, or stands in the way (behind the table is where patchelf puts it).
    pub(crate) dynamic: DynamicMove,
    /// True if the section headers do (Go's linker and wild put them there).
    pub(crate) sections_make_way: bool,
    /// True if there is an executable segment, too.
    pub(crate) code: bool,
    /// True if there is another one, for the program's own allocator.
    pub(crate) diverted: bool,
    /// True if there is a writable segment, too.
    pub(crate) apart: bool,
    /// True if nothing can make way: the program header table is in the new segment itself.
    pub(crate) table_moves: bool,
}

/// How .dynamic leaves its place.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum DynamicMove {
    /// Not at all.
    #[default]
    Stays,
    /// To where it can be written: see `room`.
    Room,
    /// Along with the tables that only the loader reads: it is one of them, where nobody writes to it.
    ReadOnly,
}

impl Headers {
    /// True if there is a new read-only segment.
    pub(crate) fn read_only(&self) -> bool {
        self.table_moves || !self.moves.is_empty()
    }

    /// Number of new program headers.
    pub(crate) fn added(&self) -> u64 {
        u64::from(self.read_only())
            + u64::from(self.code)
            + u64::from(self.diverted)
            + u64::from(self.apart)
    }
}

/// Decides what moves so that the tables can grow. What was at `left` is elsewhere in any case.
pub(crate) fn plan(
    source: &Source,
    image: &Image,
    growing: Growing,
    left: Option<Table>,
) -> Result<Headers> {
    let moves = grown_tables(image, growing);
    let dynamic = match growing.dynamic {
        0 => DynamicMove::Stays,
        _ => DynamicMove::ReadOnly,
    };
    if moves.is_empty() && growing.segments() == 0 {
        return Ok(Headers::default());
    }
    let way = make_way(source, image, growing, left, moves.clone(), dynamic)?;
    Ok(way.unwrap_or(Headers {
        moves,
        dynamic,
        code: growing.code,
        diverted: growing.diverted,
        apart: growing.apart,
        table_moves: true,
        ..Headers::default()
    }))
}

/// Finds room for program headers behind their table; `None` if something there cannot move.
fn make_way(
    source: &Source,
    image: &Image,
    growing: Growing,
    left: Option<Table>,
    mut moves: Vec<Move>,
    mut dynamic: DynamicMove,
) -> Result<Option<Headers>> {
    let mut slides = Vec::new();
    let mut sections_make_way = false;
    let mut free_end = image.segments_end();
    // What makes way for the others' headers needs a read-only segment to go to.
    let mut needed = Segment::size(image.format) * image.longer_by(1 + growing.segments());
    let mut blocks = movable_blocks(source, image)?;
    blocks.extend(left.map(|from| Move {
        name: LEFT,
        from,
        extra: 0,
        align: 1,
    }));
    blocks.retain(|block| block.from.size > 0); // others would be found again and again
    while free_end.0 - image.segments_end().0 < needed {
        let wanted_end = FileOffset(image.segments_end().0 + needed);
        let block = blocks
            .iter()
            .filter(|block| block.from.at >= free_end)
            .min_by_key(|block| block.from.at);
        let gap_end = block.map_or(wanted_end, |block| block.from.at.min(wanted_end));
        if !is_padding(source, image, free_end, gap_end)? {
            return Ok(None);
        }
        if gap_end == wanted_end {
            break; // what patchelf moves away leaves more than enough
        }
        let Some((block, end)) = block.and_then(|block| Some((block, block.from.end()?))) else {
            return Ok(None);
        };
        free_end = end;
        if [BUILD_ID, PACKAGE].contains(&block.name) && block.from.at.0 < PAGE {
            needed += block.from.size.saturating_add(2 * block.align);
            slides.push(block.clone());
        } else if block.name == DYNAMIC && !image.dynamic_is_read_only() {
            dynamic = DynamicMove::Room;
        } else if block.name == SECTIONS {
            sections_make_way = true; // they need not be mapped
        } else if block.name != LEFT && !moves.iter().any(|moved| moved.from == block.from) {
            if block.name == DYNAMIC {
                dynamic = DynamicMove::ReadOnly;
            }
            moves.push(block.clone());
        }
    }
    Ok(Some(Headers {
        moves,
        slides,
        dynamic,
        sections_make_way,
        code: growing.code,
        diverted: growing.diverted,
        apart: growing.apart,
        table_moves: false,
    }))
}

fn grown_tables(image: &Image, growing: Growing) -> Vec<Move> {
    let mut moves = Vec::new();
    let mut grow = |name, table: Option<Table>, extra, align| {
        if let Some(from) = table {
            moves.push(Move {
                name,
                from,
                extra,
                align,
            });
        }
    };
    if growing.names > 0 {
        grow(".dynstr", Some(image.strtab), growing.names, 1);
    }
    if growing.symbols > 0 {
        let (symbols, format) = (growing.symbols, image.format);
        let hash = symbols * format.hash_word();
        grow(
            ".dynsym",
            Some(image.symtab),
            symbols * Symbol::size(format),
            8,
        );
        grow(".gnu.version", image.versym, symbols * 2, 2);
        grow(".hash", image.sysv_hash, hash, 8);
    }
    if growing.relocations > 0 {
        let nothing = Table {
            vaddr: Vaddr(0),
            at: FileOffset(0),
            size: 0,
        };
        let from = image.rela.unwrap_or(nothing);
        grow(
            image.format.relocations.addends.tags().section,
            Some(from),
            growing.relocations * Rela::size(image.format),
            8,
        );
    }
    for grown in growing.unwinding.into_iter().flatten() {
        grow(grown.name, Some(grown.table), grown.extra, 8);
    }
    if growing.dynamic > 0 {
        let extra = growing.dynamic * Dyn::size(image.format);
        grow(DYNAMIC, Some(image.dynamic.table), extra, 8);
    }
    moves
}

const BUILD_ID: &str = ".note.gnu.build-id";
const PACKAGE: &str = ".note.package";
pub(crate) const DYNAMIC: &str = ".dynamic";
const LEFT: &str = ".preinit_array";
const SECTIONS: &str = "the section headers";

/// Everything that the ELF header, segments and dynamic entries let find again after a move.
fn movable_blocks(source: &Source, image: &Image) -> Result<Vec<Move>> {
    let mut blocks = Vec::new();
    for segment in &image.segments {
        let name = match segment.kind {
            PT_INTERP => ".interp",
            PT_NOTE => note_name(source, segment)?,
            _ => continue,
        };
        let mapped = crate::parse::locate(&image.segments, segment.vaddr, segment.filesz);
        if mapped == Some(segment.offset) {
            blocks.push(Move {
                name,
                from: Table {
                    vaddr: segment.vaddr,
                    at: segment.offset,
                    size: segment.filesz,
                },
                extra: 0,
                align: segment.align.clamp(1, PAGE),
            });
        }
    }
    let section_headers = Table {
        vaddr: Vaddr(0),
        at: image.sections_at,
        size: image.section_headers_size(),
    };
    let tables = [
        (SECTIONS, Some(section_headers), 8),
        (DYNAMIC, Some(image.dynamic.table), 8),
        (".gnu.hash", image.gnu_hash, 8),
        (".hash", image.sysv_hash, 8),
        (".dynsym", Some(image.symtab), 8),
        (".dynstr", Some(image.strtab), 1),
        (".gnu.version", image.versym, 2),
        (
            image.format.relocations.addends.tags().section,
            image.rela,
            8,
        ),
        (".rela.plt", image.jmprel, 8),
    ];
    for (name, table, align) in tables {
        blocks.extend(table.map(|from| Move {
            name,
            from,
            extra: 0,
            align,
        }));
    }
    Ok(blocks)
}

/// By the first note in the segment that core dumps have to keep: NT_GNU_BUILD_ID (3) by owner `GNU`, or
/// FDO_PACKAGING_METADATA by owner `FDO`.
fn note_name(source: &Source, segment: &Segment) -> Result<&'static str> {
    let bytes = source.bytes(segment.offset, segment.filesz.min(PAGE), "a note")?;
    let mut rest = bytes.as_slice();
    while let Some(head) = rest.get(..12) {
        let head = source.format().words(head);
        let (name_size, size, kind) = (u64::from(head[0]), u64::from(head[1]), head[2]);
        match (kind, rest.get(12..16)) {
            (3, Some(b"GNU\0")) => return Ok(BUILD_ID),
            (0xcafe_1a7e, Some(b"FDO\0")) => return Ok(PACKAGE),
            _ => {}
        }
        let align = if segment.align == 8 { 8 } else { 4 };
        let padded = |size| align_up(size, align).unwrap_or(u64::MAX);
        let step = padded(12 + name_size).saturating_add(padded(size));
        let step = usize::try_from(step).unwrap_or(usize::MAX);
        rest = rest.get(step..).unwrap_or(&[]);
    }
    Ok(".note")
}

/// True if `[from, to)` is a short run of zeros and the `X` or `Z` that patchelf writes over what it moves,
/// and no section or segment claims it. (PT_LOAD does, and mold has PT_GNU_RELRO begin at offset 0.)
fn is_padding(source: &Source, image: &Image, from: FileOffset, to: FileOffset) -> Result<bool> {
    let size = to.0 - from.0;
    let claimed = |at: FileOffset, len: u64| overlap(at.0, len, from.0, size);
    let by_segment = image.segments.iter().any(|segment| {
        let says_nothing = matches!(segment.kind, PT_LOAD | PT_PHDR | PT_GNU_RELRO);
        !says_nothing && claimed(segment.offset, segment.filesz)
    });
    let by_section = image
        .sections
        .iter()
        .any(|section| claimed(section.offset, section.file_size()));
    let by_section_headers = claimed(image.sections_at, image.section_headers_size());
    let beyond = to.0 > source.len(); // the table is the last thing in the file
    if beyond || size > PAGE || by_segment || by_section || by_section_headers {
        return Ok(false);
    }
    let bytes = source.bytes(from, size, "the padding behind the program headers")?;
    Ok(bytes.iter().all(|byte| [0, b'X', b'Z'].contains(byte)))
}
