//! Section headers that the result has more, and where the table of them is.

use object::elf::{SHF_ALLOC, SHT_DYNSYM, SHT_REL, SHT_RELA, SectionFlags};

use super::Builder;
use crate::elf::{Addends, Entry, FileOffset, Rela, Section, align_up};
use crate::error::Result;
use crate::spans::Content;

impl Builder<'_> {
    /// Gives a section to relocations that are the first which the program has outside its PLT: strip keeps of the file
    /// what is in a section.
    pub(super) fn describe_new_relocations(&mut self) -> Result<()> {
        let tags = self.image.format.relocations.addends.tags();
        let mut moved = self.moved.iter();
        let new = moved.find(|(table, _)| table.name == tags.section && table.from.size == 0);
        let Some((table, vaddr)) = new.cloned() else {
            return Ok(());
        };
        let symbols = self.image.sections.iter().zip(0..);
        let symbols = symbols.filter(|(section, _)| section.kind == SHT_DYNSYM);
        let Some((_, link)) = symbols.last() else {
            return Ok(());
        };
        let offset = self.file_offset(vaddr, table.extra)?;
        let Some(name) = self.section_name(tags.section)? else {
            return Ok(());
        };
        if self.header.add_section() {
            self.sections.push(Section {
                name,
                kind: match self.image.format.relocations.addends {
                    Addends::Explicit => SHT_RELA,
                    Addends::Implicit => SHT_REL,
                },
                flags: SectionFlags(SHF_ALLOC.0),
                vaddr,
                offset,
                size: table.extra,
                link,
                info: 0,
                align: self.image.format.word(),
                entsize: Rela::size(self.image.format),
            });
        }
        Ok(())
    }

    /// Offset of `name` among the section names, which move to the insertion to have it at their end.
    fn section_name(&mut self, name: &str) -> Result<Option<u32>> {
        let index = self
            .image
            .header
            .section_name_index(self.image.sections.first());
        let index = usize::try_from(index).ok();
        let names = index.and_then(|index| self.image.sections.get(index));
        let Some((names, offset)) = names.and_then(|s| Some((s, u32::try_from(s.size).ok()?)))
        else {
            return Ok(None);
        };
        let mut added = name.as_bytes().to_vec();
        added.push(0);
        let at = FileOffset(self.end);
        let size = added.len() as u64;
        self.insert(at, names.size, Content::Input(names.offset))?;
        self.insert(FileOffset(at.0 + names.size), size, Content::Bytes(added))?;
        if let Some(names) = index.and_then(|index| self.sections.get_mut(index)) {
            names.offset = at;
            names.size += size;
        }
        Ok(Some(offset))
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
