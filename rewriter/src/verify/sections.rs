//! The checks of section headers, which the loader does not read, and strip does.

use goblin::elf::SectionHeader;
use goblin::elf::section_header::{SHF_ALLOC, SHF_EXECINSTR, SHT_DYNSYM, SHT_NOBITS, SHT_PROGBITS};

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
            false => self.added_code() + usize::from(relocations.is_some()),
        };
        self.require(added == Some(expected), "sections were lost or added")?;
        for new in after.iter().skip(before.len()) {
            let covered = relocations.map(|table| (table.vaddr, table.at, table.size));
            if Some((new.sh_addr, new.sh_offset, new.sh_size)) == covered {
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
        for (index, (old, new)) in before.iter().zip(after).enumerate() {
            let mut expected = old.clone();
            expected.sh_addr = new.sh_addr;
            expected.sh_offset = new.sh_offset;
            expected.sh_size = new.sh_size;
            self.require(expected == *new, "a section header changed")?;
            let loaded = new.sh_flags & u64::from(SHF_ALLOC) != 0;
            let has_names = index == usize::from(self.after.header.e_shstrndx);
            if !loaded && has_names && relocations.is_some() {
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

    /// The relocations of the result, if the input has none but the PLT's and a section for them is to be expected.
    pub(super) fn new_relocations(&self) -> Result<Option<Range>> {
        let (before, after) = (
            Self::relocation_table(&self.before)?,
            Self::relocation_table(&self.after)?,
        );
        let sections = &self.before.sections;
        let symbols = sections.iter().any(|s| s.sh_type == SHT_DYNSYM);
        let none = before.is_none_or(|table| table.size == 0);
        Ok(after.filter(|table| none && symbols && table.size > 0))
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
