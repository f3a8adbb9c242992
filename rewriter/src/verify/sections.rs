//! The checks of section headers, which the loader does not read, and strip does.

use goblin::elf::SectionHeader;
use goblin::elf::section_header::{
    SHF_ALLOC, SHF_EXECINSTR, SHN_XINDEX, SHT_DYNSYM, SHT_NOBITS, SHT_PROGBITS, SHT_REL, SHT_RELA,
    SHT_STRTAB,
};

use super::Check;
use super::view::{Range, View};
use crate::elf::FileOffset;
use crate::error::Result;
use crate::trampoline;

impl Check<'_> {
    /// Sections keep name, kind and order, and say where their bytes are.
    pub(super) fn sections(&self) -> Result<()> {
        let (before, after) = (&self.before.sections, &self.after.sections);
        let added = after.len().checked_sub(before.len());
        let relocations = self.new_relocations()?;
        let expected = match before.is_empty() {
            true => 0,
            false => {
                // From 0xff00 on, their number is elsewhere, and the field 0 (gABI, "ELF Header").
                let count = usize::from(self.before.header.e_shnum);
                let room = match count {
                    0 => 0,
                    count => 0xfeff_usize.saturating_sub(count),
                };
                self.added_code().min(room) + usize::from(relocations.is_some())
            }
        };
        self.require(added == Some(expected), "sections were lost or added")?;
        let covered = relocations.map(|table| (table.vaddr, table.at, table.size));
        let mut tables = 0;
        for new in after.iter().skip(before.len()) {
            if Some((new.sh_addr, new.sh_offset, new.sh_size)) == covered {
                self.relocation_section(new)?;
                tables += 1;
                continue;
            }
            let flags = u64::from(SHF_ALLOC | SHF_EXECINSTR);
            let entry = self.code.is_some() && new.sh_addr == self.after.header.e_entry;
            let covers = match entry {
                true => new.sh_size == trampoline::SIZE,
                false => self.diverted_start() == Some(new.sh_addr),
            };
            let loaded = new.sh_type == SHT_PROGBITS && new.sh_flags == flags;
            self.require(covers && loaded, "the new section is not of the new code")?;
        }
        let described = tables == usize::from(covered.is_some());
        self.require(described, "the new relocations have no section")?;
        let names = names_of(&self.before).map(|(index, _)| index);
        for (index, (old, new)) in before.iter().zip(after).enumerate() {
            let mut expected = old.clone();
            expected.sh_addr = new.sh_addr;
            expected.sh_offset = new.sh_offset;
            expected.sh_size = new.sh_size;
            self.require(expected == *new, "a section header changed")?;
            let loaded = new.sh_flags & u64::from(SHF_ALLOC) != 0;
            if !loaded && names == Some(index) && relocations.is_some() {
                self.kept_at_front(old, new)?;
            } else if !loaded {
                let at = self.gap.moved(FileOffset(old.sh_offset));
                let stays = (at.0, old.sh_size) == (new.sh_offset, new.sh_size);
                self.require(stays, "a section that is not loaded moved")?;
            } else if new.sh_type != SHT_NOBITS && new.sh_size > 0 && *old != *new {
                self.tells_the_truth(&self.before, old)?;
                self.tells_the_truth(&self.after, new)?;
            }
        }
        Ok(())
    }

    /// The relocations of the result, if the input has none but the PLT's and a section for them is to be expected:
    /// where there are section names that can grow, symbols to link it with, and room in the count of sections.
    pub(super) fn new_relocations(&self) -> Result<Option<Range>> {
        let (before, after) = (
            Self::relocation_table(&self.before)?,
            Self::relocation_table(&self.after)?,
        );
        let symbols = self.before.sections.iter();
        let symbols = symbols.filter(|s| s.sh_type == SHT_DYNSYM).count();
        let names = names_of(&self.before).is_some_and(|(_, names)| {
            let loaded = names.sh_flags & u64::from(SHF_ALLOC) != 0;
            let size = 1..=u64::from(u32::MAX);
            names.sh_type == SHT_STRTAB && !loaded && size.contains(&names.sh_size)
        });
        let room = (1..0xfeff).contains(&self.before.header.e_shnum);
        let none = before.is_none_or(|table| table.size == 0);
        let expected = none && symbols > 0 && names && room;
        Ok(after.filter(|table| expected && table.size > 0))
    }

    /// The section says all that strip goes by.
    fn relocation_section(&self, section: &SectionHeader) -> Result<()> {
        let (kind, name) = match self.after.has_addends() {
            true => (SHT_RELA, &b".rela.dyn\0"[..]),
            false => (SHT_REL, &b".rel.dyn\0"[..]),
        };
        let link = usize::try_from(section.sh_link).ok();
        let link = link.and_then(|link| self.after.sections.get(link));
        let called = match names_of(&self.after) {
            Some((_, names)) => {
                let at = names.sh_offset.saturating_add(section.sh_name as u64);
                let size = name.len() as u64;
                let source = self.after.source;
                source.bytes(FileOffset(at), size, "a section's name")? == name
            }
            None => false,
        };
        let holds = section.sh_type == kind
            && section.sh_flags == u64::from(SHF_ALLOC)
            && section.sh_entsize == self.after.relocation_size()
            && link.is_some_and(|symbols| symbols.sh_type == SHT_DYNSYM)
            && called;
        self.require(holds, "the section of the new relocations is none")
    }

    /// The new section begins with all that the old one has.
    fn kept_at_front(&self, old: &SectionHeader, new: &SectionHeader) -> Result<()> {
        let whole = |section: &SectionHeader| Range {
            vaddr: 0,
            at: section.sh_offset,
            size: old.sh_size,
        };
        self.require(new.sh_size > old.sh_size, "the section names were lost")?;
        self.pairs(whole(old), whole(new), 1, |_, old, new| {
            self.require(old == new, "a section name changed")
        })
    }

    /// The section's bytes are in the file where its segment has them. What is wrong in the input already is
    /// not a broken promise.
    fn tells_the_truth(&self, view: &View<'_>, section: &SectionHeader) -> Result<()> {
        let what = "a section header does not tell the truth";
        match view.offset(section.sh_addr, section.sh_size) == Some(section.sh_offset) {
            true => Ok(()),
            false if std::ptr::eq(view, &self.before) => Err(view.source.malformed(what)),
            false => Err(self.broken(what)),
        }
    }
}

/// The section that has the section names, and its index (gABI, "Special Sections").
fn names_of<'v>(view: &'v View<'_>) -> Option<(usize, &'v SectionHeader)> {
    let index = match u32::from(view.header.e_shstrndx) {
        SHN_XINDEX => view.sections.first()?.sh_link,
        index => index,
    };
    let index = usize::try_from(index).ok().filter(|&index| index > 0)?;
    Some((index, view.sections.get(index)?))
}
