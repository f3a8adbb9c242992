//! The checks of the tables that the loader reads: .dynamic, symbols, strings, relocations.

use goblin::elf::dynamic as tag;
use goblin::elf::reloc::{R_X86_64_64, R_X86_64_RELATIVE};
use goblin::elf::sym::{STB_GLOBAL, STB_WEAK, Symtab, st_bind};

use super::view::{CTX, Range, View};
use super::{Check, Dead};
use crate::elf::{FileOffset, overlap};
use crate::error::Result;

impl Check<'_> {
    pub(super) fn dynamic(&self) -> Result<()> {
        let mut needed = self.before.needed()?;
        needed.retain(|name| name != self.request.needed.as_bytes());
        needed.insert(0, self.request.needed.as_bytes().to_vec());
        let in_order = self.after.needed()? == needed;
        self.require(
            in_order,
            "DT_NEEDED is not the runtime and then what it was",
        )?;
        let flags = self.before.get(tag::DT_FLAGS_1).unwrap_or(0) | tag::DF_1_INITFIRST;
        let kept = self.after.get(tag::DT_FLAGS_1) == Some(flags);
        self.require(
            kept,
            "DT_FLAGS_1 is not what it was with DF_1_INITFIRST added",
        )?;
        let may_change = [
            tag::DT_NEEDED,
            tag::DT_FLAGS_1,
            tag::DT_PREINIT_ARRAY,
            tag::DT_PREINIT_ARRAYSZ,
            tag::DT_STRTAB,
            tag::DT_STRSZ,
            tag::DT_SYMTAB,
            tag::DT_VERSYM,
            tag::DT_HASH,
            tag::DT_GNU_HASH,
            tag::DT_RELA,
            tag::DT_RELASZ,
            tag::DT_RELAENT,
            tag::DT_JMPREL,
        ];
        let fixed = |view: &View<'_>| -> Vec<(u64, u64)> {
            let entries = view.dynamic.iter();
            entries
                .filter(|(tag, _)| !may_change.contains(tag))
                .copied()
                .collect()
        };
        let same = fixed(&self.before) == fixed(&self.after);
        self.require(same, "a dynamic entry changed that had no reason to")?;
        for (tag, size) in [(tag::DT_GNU_HASH, 16), (tag::DT_JMPREL, self.plt_size())] {
            let tables = (self.before.table(tag, size)?, self.after.table(tag, size)?);
            if let (Some(before), Some(after)) = tables {
                self.pairs(before, after, 1, |_, old, new| {
                    self.require(old == new, "a table changed that only moved")
                })?;
            }
        }
        Ok(())
    }

    fn plt_size(&self) -> u64 {
        self.before.get(tag::DT_PLTRELSZ).unwrap_or(0)
    }

    /// All symbols are what they were, but for those that never resolved: one of them, or a new
    /// one at the end, is the init symbol. Returns those that changed.
    pub(super) fn symbols(&self) -> Result<Vec<Dead>> {
        let size = self.symbol_count()? * 24;
        let tables = (
            self.before.table(tag::DT_SYMTAB, size)?,
            self.after.table(tag::DT_SYMTAB, size)?,
        );
        let (Some(before), Some(after)) = tables else {
            return Err(self.broken("DT_SYMTAB was lost"));
        };
        let mut changed = Vec::new();
        self.pairs(before, after, 24, |index, old, new| {
            if old == new {
                return Ok(());
            }
            let was_dead = self.dead_symbol(index)?;
            let was_dead =
                was_dead.ok_or_else(|| self.broken("a symbol changed that the program uses"))?;
            changed.push(was_dead);
            let new = self.after.symbol(index)?;
            let name = self.after.string(new.st_name as u64)?;
            let init = name == self.request.init.as_bytes();
            let bind = if init { STB_GLOBAL } else { STB_WEAK };
            let expected = new.st_shndx == 0 && st_bind(new.st_info) == bind && new.st_value == 0;
            self.require(expected, "a recycled symbol is not an undefined one")
        })?;
        self.add_renamed_in_place(&mut changed)?;
        Ok(changed)
    }

    /// Adds the symbols whose names were overwritten while their offset stayed; they are looked for
    /// only if bytes of .dynstr changed that belong to no other.
    fn add_renamed_in_place(&self, changed: &mut Vec<Dead>) -> Result<()> {
        let strings = self
            .before
            .table(tag::DT_STRTAB, 1)?
            .map_or(0, |table| table.at);
        let size = self.before.get(tag::DT_STRSZ).unwrap_or(0);
        let owned = |at: u64, len: u64| {
            let mut names = changed.iter().map(|dead| (strings + dead.name, dead.len));
            names.any(|(start, size)| start <= at && at + len <= start + size)
        };
        let mut ours = self.written.iter();
        let whole = ours.all(|&(at, len)| !overlap(strings, size, at, len) || owned(at, len));
        let Some(table) = self.before.table(tag::DT_SYMTAB, 24)?.filter(|_| !whole) else {
            return Ok(());
        };
        let size = self.symbol_count()? * 24;
        let source = self.before.source;
        let what = "the dynamic symbol table";
        source.for_each_window(FileOffset(table.at), size, what, |start, window| {
            let symbols = Symtab::parse(window, 0, window.len() / 24, CTX);
            let symbols = symbols.map_err(|error| self.broken(error.to_string()))?;
            for (index, symbol) in (start / 24..).zip(symbols.iter()) {
                let weak = symbol.st_shndx == 0 && st_bind(symbol.st_info) == STB_WEAK;
                if weak && changed.iter().all(|dead| dead.index != index) {
                    changed.extend(self.dead_symbol(index)?);
                }
            }
            Ok(())
        })
    }

    /// The symbol, if only the C runtime's start files refer to it and nobody defines it.
    fn dead_symbol(&self, index: u64) -> Result<Option<Dead>> {
        let start_files = [
            b"_ITM_deregisterTMCloneTable".as_slice(),
            b"_ITM_registerTMCloneTable",
            b"__gmon_start__",
        ];
        let symbol = self.before.symbol(index)?;
        let name = symbol.st_name as u64;
        let string = self.before.string(name)?;
        let undefined = symbol.st_shndx == 0 && st_bind(symbol.st_info) == STB_WEAK;
        Ok(
            (undefined && start_files.contains(&string.as_slice())).then(|| Dead {
                index,
                name,
                len: string.len() as u64 + 1,
            }),
        )
    }

    /// .dynstr has every byte that it had, but for names of symbols that were given another.
    pub(super) fn strings(&self, dead: &[Dead]) -> Result<()> {
        let size = self.before.get(tag::DT_STRSZ).unwrap_or(0);
        let tables = (
            self.before.table(tag::DT_STRTAB, size)?,
            self.after.table(tag::DT_STRTAB, size)?,
        );
        let (Some(before), Some(after)) = tables else {
            return Err(self.broken("DT_STRTAB was lost"));
        };
        self.pairs(before, after, 1, |at, old, new| {
            let free = |at| {
                dead.iter()
                    .any(|symbol| overlap(symbol.name, symbol.len, at, 1))
            };

            let bytes = old.iter().zip(new).zip(at..);
            let stray = bytes
                .filter(|((old, new), at)| old != new && !free(*at))
                .count();
            self.require(stray == 0, "a string changed that the program uses")
        })
    }

    /// One new entry, first, filled by one relocation against the init symbol; then the old ones.
    pub(super) fn preinit_array(&self) -> Result<()> {
        let (before, after) = (self.array(&self.before)?, self.array(&self.after)?);
        self.require(
            after.size == before.size + 8,
            "DT_PREINIT_ARRAY has not one more entry",
        )?;
        self.require(after.vaddr % 8 == 0, "DT_PREINIT_ARRAY is not aligned")?;
        for entry in 0..before.size / 8 {
            let old = before.vaddr + 8 * entry;
            let new = after.vaddr + 8 * (entry + 1);
            if old != new {
                let value = |view: &View<'_>, at: u64| -> Result<Vec<u8>> {
                    let at = FileOffset(view.locate(at, 8)?);
                    view.source.bytes(at, 8, "a preinit entry")
                };
                let kept = value(&self.before, old)? == value(&self.after, new)?;
                self.require(kept, "an entry of the preinit array lost its value")?;
            }
        }
        Ok(())
    }

    /// Every relocation is what it was; those of preinit entries follow their entry; exactly one
    /// fills the new entry, either a new one or one that filled a slot for nothing.
    pub(super) fn relocations(&self) -> Result<()> {
        let after = Self::relocation_table(&self.after)?;
        let after = after.ok_or_else(|| self.broken("there is no DT_RELA"))?;
        let empty = Range { size: 0, ..after };
        let before = Self::relocation_table(&self.before)?.unwrap_or(empty);
        let common = before.size.min(after.size);
        self.require(common == before.size, "relocations were lost")?;
        let mut init = 0;
        let shared = Range {
            size: common,
            ..after
        };
        self.pairs(before, shared, 24, |_, old, new| {
            if old != new {
                init += u32::from(
                    self.changed_relocation(&Relocation::read(old), &Relocation::read(new))?,
                );
            }
            Ok(())
        })?;
        let added = after.size - common;
        let bytes =
            self.after
                .source
                .bytes(FileOffset(after.at + common), added, "the new relocations")?;
        let mut slots = 0;
        for new in bytes.chunks_exact(24).map(Relocation::read) {
            match self.fills_slot(&new)? {
                true => slots += 1,
                false => init += u32::from(self.new_relocation(&new)?),
            }
        }
        self.slots_filled(slots)?;
        self.require(
            init == 1,
            "the new preinit entry is not filled by exactly one relocation",
        )?;
        self.fills_alone(after)
    }

    /// No relocation that was there before, of whatever kind, touches the new entry.
    fn fills_alone(&self, table: Range) -> Result<()> {
        let slot = self.array(&self.after)?.vaddr;
        let mut count = 0;
        let plt = self.after.table(tag::DT_JMPREL, self.plt_size())?;
        for table in [Some(table), plt].into_iter().flatten() {
            let at = FileOffset(table.at);
            let source = self.after.source;
            source.for_each_window(at, table.size, "a relocation table", |_, window| {
                let entries = window.chunks_exact(24).map(Relocation::read);
                count += entries
                    .filter(|entry| overlap(entry.place, 8, slot, 8))
                    .count();
                Ok(())
            })?;
        }
        self.require(count == 1, "another relocation fills the new preinit entry")
    }

    /// True if `new` fills the new entry; an error if it is neither that nor an old preinit
    /// entry's.
    fn changed_relocation(&self, old: &Relocation, new: &Relocation) -> Result<bool> {
        let (before, after) = (self.array(&self.before)?, self.array(&self.after)?);
        if self.fills_new_entry(new)? {
            return Ok(true);
        }
        let skip = old.place.wrapping_sub(before.vaddr);
        let follows = skip < before.size && new.place == after.vaddr + 8 + skip;
        let same = (old.info, old.addend) == (new.info, new.addend);
        self.require(
            follows && same,
            "a relocation changed that had no reason to",
        )?;
        Ok(false)
    }

    /// The same for a relocation that was not there before: a packed one of an old entry.
    fn new_relocation(&self, new: &Relocation) -> Result<bool> {
        if self.fills_new_entry(new)? {
            return Ok(true);
        }
        let array = self.array(&self.after)?;
        let inside = new.place > array.vaddr && new.place < array.vaddr + array.size;
        let value = self.after.source.bytes(
            FileOffset(self.after.locate(new.place, 8)?),
            8,
            "a preinit entry",
        )?;
        let relative = new.info == u64::from(R_X86_64_RELATIVE) && new.addend == value[..];
        self.require(
            inside && relative,
            "a relocation was added without a reason",
        )?;
        Ok(false)
    }

    fn fills_new_entry(&self, new: &Relocation) -> Result<bool> {
        if new.place != self.array(&self.after)?.vaddr {
            return Ok(false);
        }
        let symbol = self.after.symbol(new.info >> 32)?;
        let name = self.after.string(symbol.st_name as u64)?;
        let kind = new.info & u64::from(u32::MAX);
        let filled = kind == u64::from(R_X86_64_64)
            && new.addend == [0; 8]
            && name == self.request.init.as_bytes()
            && symbol.st_shndx == 0
            && st_bind(symbol.st_info) == STB_GLOBAL;
        self.require(filled, "the new preinit entry is filled by something else")?;
        Ok(true)
    }
}

/// A relocation as it stands in the file.
pub(super) struct Relocation {
    pub(super) place: u64,
    pub(super) info: u64,
    pub(super) addend: [u8; 8],
}

impl Relocation {
    /// `bytes` are the 24 of one entry.
    pub(super) fn read(bytes: &[u8]) -> Self {
        let word = |at: usize| -> [u8; 8] {
            let mut word = [0; 8];
            word.copy_from_slice(&bytes[at..at + 8]);
            word
        };
        Self {
            place: u64::from_le_bytes(word(0)),
            info: u64::from_le_bytes(word(8)),
            addend: word(16),
        }
    }
}
