//! The checks of the tables that the loader reads: .dynamic, symbols, strings, relocations.

use goblin::elf::dynamic as tag;
use goblin::elf::header::EM_MIPS;
use goblin::elf::program_header as pt;
use goblin::elf::reloc::Reloc;
use goblin::elf::sym::{STB_GLOBAL, STB_WEAK, st_bind};

use super::view::{Range, View};
use super::{Check, Dead};
use crate::elf::{FileOffset, overlap};
use crate::error::Result;

/// Not among goblin's constants; gABI, "Relative Relocation Table".
const DT_RELR: u64 = 36;
/// Nor this; binutils include/elf/mips.h.
const DT_MIPS_RLD_MAP_REL: u64 = 0x7000_0035;

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
            tag::DT_REL,
            tag::DT_RELSZ,
            tag::DT_RELENT,
            tag::DT_JMPREL,
        ];
        let fixed = |view: &View<'_>| -> Vec<(u64, u64)> {
            let entries = (0_u64..).zip(&view.dynamic);
            entries
                .filter(|(_, (tag, _))| !may_change.contains(tag))
                .map(|(index, &(tag, value))| match tag {
                    // What counts from its own address leads to the same one as before.
                    DT_MIPS_RLD_MAP_REL if view.header.e_machine == EM_MIPS => (
                        tag,
                        view.dynamic_entry(index).wrapping_add(value) & view.highest(),
                    ),
                    _ => (tag, value),
                })
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

    /// Number of dynamic symbols that section headers, DT_HASH or relocations give, whichever is most, or
    /// without the first two, the distance to what is next: only to know how far to compare.
    fn symbol_count(&self) -> Result<u64> {
        let before = &self.before;
        let symtab = before.get(tag::DT_SYMTAB).unwrap_or(0);
        let mut sections = before.sections.iter();
        let section = sections.find(|section| section.sh_addr == symtab);
        let of_section = section.map(|section| section.sh_size / before.symbol_size());
        let of_hash = match before.table(tag::DT_HASH, 1)? {
            Some(hash) => {
                let (entry, _) = before.hash_size(hash.at)?;
                Some(before.numbers(hash.at, 2, entry)?[1])
            }
            None => None,
        };
        match of_section.max(of_hash) {
            Some(count) => Ok(count.max(self.related_symbols()?)),
            None => Ok(self.symbols_before_next(symtab)),
        }
    }

    /// Number of symbols up to the last one that a relocation of the input names. Those that glibc takes for
    /// relative are nearly all, and name none.
    fn related_symbols(&self) -> Result<u64> {
        let before = &self.before;
        let table = Self::relocation_table(before)?;
        let plt = before.table(tag::DT_JMPREL, self.plt_size())?;
        let relative = before.get(before.relative_tag()).unwrap_or(0);
        let size = before.relocation_size();
        let mut count = 0;
        for (table, skip) in [(table, relative), (plt, 0)] {
            let Some(table) = table else { continue };
            let skip = skip.saturating_mul(size).min(table.size);
            let (at, left) = (FileOffset(table.at + skip), table.size - skip);
            let source = before.source;
            source.for_each_window(at, left, "a relocation table", |_, window| {
                let symbols = before.relocations(window)?.map(|entry| entry.r_sym);
                count = count.max(symbols.max().map_or(0, |last| last as u64 + 1));
                Ok(())
            })?;
        }
        Ok(count)
    }

    /// Number of symbols that fit between DT_SYMTAB and what is next.
    fn symbols_before_next(&self, symtab: u64) -> u64 {
        let before = &self.before;
        let tables = [
            tag::DT_STRTAB,
            tag::DT_GNU_HASH,
            tag::DT_VERSYM,
            tag::DT_VERNEED,
            before.relocation_tags().0,
            tag::DT_JMPREL,
            DT_RELR,
        ];
        let behind = |tag| before.get(tag)?.checked_sub(symtab);
        let in_load = |load: &pt::ProgramHeader| {
            let skip = symtab.checked_sub(load.p_vaddr)?;
            load.p_filesz.checked_sub(skip)
        };
        let distances = tables
            .into_iter()
            .filter_map(behind)
            .chain(before.loads().filter_map(in_load));
        distances.filter(|&size| size > 0).min().unwrap_or(0) / before.symbol_size()
    }

    /// All symbols are what they were, but for those that never resolved: one of them, or a new
    /// one at the end, is the init symbol. Returns those that changed.
    pub(super) fn symbols(&self) -> Result<Vec<Dead>> {
        let size = self.symbol_count()? * self.before.symbol_size();
        let tables = (
            self.before.table(tag::DT_SYMTAB, size)?,
            self.after.table(tag::DT_SYMTAB, size)?,
        );
        let (Some(before), Some(after)) = tables else {
            return Err(self.broken("DT_SYMTAB was lost"));
        };
        let mut changed = Vec::new();
        self.pairs(
            before,
            after,
            self.before.symbol_size(),
            |index, old, new| {
                if old == new {
                    return Ok(());
                }
                let was_dead = self.dead_symbol(index)?;
                let was_dead = was_dead
                    .ok_or_else(|| self.broken("a symbol changed that the program uses"))?;
                changed.push(was_dead);
                let new = self.after.symbol(index)?;
                let name = self.after.string(new.st_name as u64)?;
                let init = name == self.request.init.as_bytes();
                let bind = if init { STB_GLOBAL } else { STB_WEAK };
                let expected =
                    new.st_shndx == 0 && st_bind(new.st_info) == bind && new.st_value == 0;
                self.require(expected, "a recycled symbol is not an undefined one")
            },
        )?;
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
        let Some(table) = self.before.table(tag::DT_SYMTAB, 1)?.filter(|_| !whole) else {
            return Ok(());
        };
        let size = self.symbol_count()? * self.before.symbol_size();
        let source = self.before.source;
        let what = "the dynamic symbol table";
        source.for_each_window(FileOffset(table.at), size, what, |start, window| {
            let symbols = self.before.symbols(window)?;
            for (index, symbol) in (start / self.before.symbol_size()..).zip(symbols.iter()) {
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
        let word = self.before.word();
        let (before, after) = (self.array(&self.before)?, self.array(&self.after)?);
        self.require(
            after.size == before.size + word,
            "DT_PREINIT_ARRAY has not one more entry",
        )?;
        self.require(after.vaddr % word == 0, "DT_PREINIT_ARRAY is not aligned")?;
        for entry in 0..before.size / word {
            let old = before.vaddr + word * entry;
            let new = after.vaddr + word * (entry + 1);
            if old != new {
                let value = |view: &View<'_>, at: u64| -> Result<Vec<u8>> {
                    let at = FileOffset(view.locate(at, word)?);
                    view.source.bytes(at, word, "a preinit entry")
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
        let after = after.ok_or_else(|| self.broken("there are no relocations"))?;
        let empty = Range { size: 0, ..after };
        let before = Self::relocation_table(&self.before)?.unwrap_or(empty);
        let common = before.size.min(after.size);
        self.require(common == before.size, "relocations were lost")?;
        let mut init = 0;
        let shared = Range {
            size: common,
            ..after
        };
        self.pairs(
            before,
            shared,
            self.before.relocation_size(),
            |_, old, new| {
                if old != new {
                    let (old, new) = (self.before.relocations(old)?, self.after.relocations(new)?);
                    for (old, new) in old.zip(new) {
                        init += u32::from(self.changed_relocation(&old, &new)?);
                    }
                }
                Ok(())
            },
        )?;
        let added = after.size - common;
        let bytes =
            self.after
                .source
                .bytes(FileOffset(after.at + common), added, "the new relocations")?;
        let mut slots = 0;
        for new in self.after.relocations(&bytes)? {
            match self.fills_slot(&new)? {
                true => slots += 1,
                false => init += u32::from(self.new_relocation(&new)?),
            }
        }
        self.require(
            slots == self.slots().count(),
            "a slot is not filled by exactly one relocation",
        )?;
        self.require(
            init == 1,
            "the new preinit entry is not filled by exactly one relocation",
        )
    }

    /// No other relocation, of whatever kind, touches the new entry or a slot; and those that fill them are not
    /// among the first, which glibc takes for relative.
    pub(super) fn fill_alone(&self) -> Result<()> {
        let table = Self::relocation_table(&self.after)?;
        let word = self.after.word();
        let new = self.array(&self.after)?.vaddr;
        let (first, last) = self.slots().fold((new, new), |(first, last), slot| {
            (first.min(slot), last.max(slot))
        });
        let span = (last - first).saturating_add(word);
        let mut filled: Vec<(u64, usize)> = self.slots().chain([new]).map(|at| (at, 0)).collect();
        let relative = self.after.get(self.after.relative_tag()).unwrap_or(0);
        let plt = self.after.table(tag::DT_JMPREL, self.plt_size())?;
        let mut misread = false;
        for (table, relative) in [(table, relative), (plt, 0)] {
            let Some(table) = table else { continue };
            let at = FileOffset(table.at);
            let source = self.after.source;
            source.for_each_window(at, table.size, "a relocation table", |start, window| {
                let index = start / self.after.relocation_size();
                let entries = (index..).zip(self.after.relocations(window)?);
                // There may be millions, and nearly all are elsewhere.
                let near = |entry: &Reloc| overlap(entry.r_offset, word, first, span);
                for (index, entry) in entries.filter(|(_, entry)| near(entry)) {
                    for (place, count) in &mut filled {
                        if overlap(entry.r_offset, word, *place, word) {
                            *count += 1;
                            misread |= index < relative;
                        }
                    }
                }
                Ok(())
            })?;
        }
        for (place, count) in filled {
            let what = match place == new {
                true => "another relocation fills the new preinit entry",
                false => "another relocation fills a slot",
            };
            self.require(count == 1, what)?;
        }
        self.require(
            !misread,
            "the loader takes the new relocation for a relative one",
        )
    }

    /// True if `new` fills the new entry; an error if it is neither that nor an old preinit
    /// entry's.
    fn changed_relocation(&self, old: &Reloc, new: &Reloc) -> Result<bool> {
        let (before, after) = (self.array(&self.before)?, self.array(&self.after)?);
        if self.fills_new_entry(new)? {
            return Ok(true);
        }
        let skip = old.r_offset.wrapping_sub(before.vaddr);
        let follows = skip < before.size && new.r_offset == after.vaddr + self.after.word() + skip;
        let same = (old.r_sym, old.r_type, old.r_addend) == (new.r_sym, new.r_type, new.r_addend);
        self.require(
            follows && same,
            "a relocation changed that had no reason to",
        )?;
        Ok(false)
    }

    /// The same for a relocation that was not there before: a packed one of an old entry.
    fn new_relocation(&self, new: &Reloc) -> Result<bool> {
        if self.fills_new_entry(new)? {
            return Ok(true);
        }
        let array = self.array(&self.after)?;
        let inside = new.r_offset > array.vaddr && new.r_offset < array.vaddr + array.size;
        let word = self.after.word();
        let at = self.after.locate(new.r_offset, word)?;
        let value = self.after.numbers(at, 1, word)?;
        let addend = new.r_addend.map(i64::cast_unsigned);
        let (_, kind) = self.after.relocation_types()?;
        let relative = (new.r_sym, new.r_type) == (0, kind)
            && (addend == value.first().copied() || !self.after.has_addends());
        self.require(
            inside && relative,
            "a relocation was added without a reason",
        )?;
        Ok(false)
    }

    fn fills_new_entry(&self, new: &Reloc) -> Result<bool> {
        if new.r_offset != self.array(&self.after)?.vaddr {
            return Ok(false);
        }
        let symbol = self.after.symbol(new.r_sym as u64)?;
        let name = self.after.string(symbol.st_name as u64)?;
        let (kind, _) = self.after.relocation_types()?;
        let addend = match new.r_addend {
            Some(addend) => Some(addend.cast_unsigned()),
            None => {
                let word = self.after.word();
                let at = self.after.locate(new.r_offset, word)?;
                self.after.numbers(at, 1, word)?.first().copied()
            }
        };
        let filled = new.r_type == kind
            && addend == Some(0)
            && name == self.request.init.as_bytes()
            && symbol.st_shndx == 0
            && st_bind(symbol.st_info) == STB_GLOBAL;
        self.require(filled, "the new preinit entry is filled by something else")?;
        Ok(true)
    }
}
