//! The tables that stand in the file where its header says, program headers and section headers, and .dynamic.

use object::elf::{DT_NULL, PT_DYNAMIC, PT_GNU_RELRO, PT_LOAD, PT_NULL};

use super::{Dynamic, Table, locate};
use crate::elf::{Dyn, Entry, FileOffset, Header, PAGE, Section, Segment};
use crate::error::Result;
use crate::source::Source;

pub(crate) fn read_segments(
    source: &Source,
    header: &Header,
) -> Result<(FileOffset, Vec<Segment>)> {
    let (at, count, entry_size) = header.program_headers();
    if count == 0 {
        return Err(source.malformed("it has no program headers"));
    }
    if u64::from(entry_size) != Segment::size(source.format()) {
        return Err(source.malformed(format!(
            "its program headers are {entry_size} bytes each, not {}",
            Segment::size(source.format())
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
    if segment.kind == PT_NULL {
        return Ok(());
    }
    // LLD's RELRO goes on to the end of a page, which the file need not have: only its addresses count.
    if segment.kind != PT_GNU_RELRO {
        source.check(segment.offset, segment.filesz, "a segment")?;
    }
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

pub(crate) fn read_sections(
    source: &Source,
    header: &Header,
) -> Result<(FileOffset, Vec<Section>)> {
    let (at, count, entry_size) = header.section_headers();
    if at == FileOffset(0) {
        return Ok((at, Vec::new()));
    }
    if u64::from(entry_size) != Section::size(source.format()) {
        return Err(source.malformed(format!(
            "its section headers are {entry_size} bytes each, not {}",
            Section::size(source.format())
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

pub(crate) fn read_dynamic(source: &Source, segments: &[Segment]) -> Result<Dynamic> {
    let segment = segments
        .iter()
        .rfind(|segment| segment.kind == PT_DYNAMIC)
        .ok_or_else(|| source.malformed("it has a PT_INTERP, but no PT_DYNAMIC"))?;
    let at = locate(segments, segment.vaddr, segment.filesz);
    if at != Some(segment.offset) || segment.vaddr.0 % source.format().word() != 0 {
        return Err(source.malformed("its PT_DYNAMIC lies in no PT_LOAD segment"));
    }
    let slots: Vec<Dyn> = source.table(
        segment.offset,
        segment.filesz / Dyn::size(source.format()),
        "the dynamic section",
    )?;
    let used = slots
        .iter()
        .position(|entry| entry.tag == DT_NULL)
        .unwrap_or(slots.len());
    let spare = slots[used..]
        .iter()
        .take_while(|entry| entry.tag == DT_NULL);
    let spare = spare.map(|entry| entry.value).collect();
    let mut entries = slots;
    entries.truncate(used);
    Ok(Dynamic {
        table: Table {
            vaddr: segment.vaddr,
            at: segment.offset,
            size: segment.filesz,
        },
        entries,
        spare,
    })
}
