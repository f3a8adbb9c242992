//! Section headers that the result has more, and where the table of them is.

use object::elf::{SHF_ALLOC, SHT_DYNSYM, SHT_REL, SHT_RELA, SHT_STRTAB, SectionFlags};

use super::Builder;
use crate::elf::{Addends, Entry, FileOffset, Rela, Section, align_up};
use crate::error::Result;
use crate::source::Source;
use crate::spans::Content;

impl Builder<'_> {
    /// Gives a section to relocations that are the first which the program has outside its PLT: strip keeps of the file
    /// what is in a section. There is none where section names cannot grow, or without symbols to link it with.
    pub(super) fn describe_new_relocations(&mut self) -> Result<()> {
        let image = self.image;
        let tags = image.format.relocations.addends.tags();
        let mut moved = self.moved.iter();
        let new = moved.find(|(table, _)| table.name == tags.section && table.from.size == 0);
        let names = image.section_names().filter(|(_, names)| {
            let size = 1..=u64::from(u32::MAX);
            names.kind == SHT_STRTAB && !names.is_loaded() && size.contains(&names.size)
        });
        let sections = image.sections.iter().zip(0..);
        let symbols = sections.filter(|(section, _)| section.kind == SHT_DYNSYM);
        let (Some((table, vaddr)), Some(names), Some((_, link))) =
            (new.cloned(), names, symbols.last())
        else {
            return Ok(());
        };
        if !self.header.add_section() {
            return Ok(());
        }
        let section = Section {
            name: self.add_section_name(names, tags.section)?,
            kind: match image.format.relocations.addends {
                Addends::Explicit => SHT_RELA,
                Addends::Implicit => SHT_REL,
            },
            flags: SectionFlags(SHF_ALLOC.0),
            vaddr,
            offset: self.file_offset(vaddr, table.extra)?,
            size: table.extra,
            link,
            info: 0,
            align: image.format.word(),
            entsize: Rela::size(image.format),
        };
        self.sections.push(section);
        Ok(())
    }

    /// Offset of `name` among the section `names`, which move to the insertion to have it at their end.
    fn add_section_name(&mut self, (index, names): (usize, &Section), name: &str) -> Result<u32> {
        let offset = u32::try_from(names.size).map_err(|_| self.overflow())?;
        let added = [name.as_bytes(), b"\0"].concat();
        let size = added.len() as u64;
        let at = self.end;
        self.insert(FileOffset(at), names.size, Content::Input(names.offset))?;
        self.insert(FileOffset(at + names.size), size, Content::Bytes(added))?;
        if let Some(names) = self.sections.get_mut(index) {
            names.offset = FileOffset(at);
            names.size += size;
        }
        Ok(offset)
    }

    /// Moves the section header table to the insertion, if it grows or is in the way.
    pub(super) fn place_section_headers(&mut self) -> Result<()> {
        let grows = self.sections.len() > self.image.sections.len();
        if !grows && !self.plan.headers.sections_make_way {
            return Ok(());
        }
        let at = align_up(self.end, 8).ok_or_else(|| self.overflow())?;
        let size = self.sections.len() as u64 * Section::size(self.image.format);
        self.sections_at = FileOffset(at);
        self.insert(FileOffset(at), size, Content::Zero)
    }
}

/// Whether the name at `offset` of `names` is `name`, which ends with NUL.
pub(super) fn is_called(
    source: &Source,
    names: Option<&Section>,
    offset: u32,
    name: &[u8],
) -> Result<bool> {
    let (offset, size) = (u64::from(offset), name.len() as u64);
    let names = names.filter(|names| offset + size <= names.file_size());
    let Some(at) = names.and_then(|names| names.offset.checked_add(offset)) else {
        return Ok(false);
    };
    Ok(source.bytes(at, size, "a name")? == name)
}
