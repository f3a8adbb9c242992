//! What each table holds in the result, put where the layout has placed it.

use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_JMPREL, DT_MIPS_RLD_MAP_REL, DT_PREINIT_ARRAY, DT_STRSZ, DT_STRTAB,
    DT_SYMTAB, DT_VERSYM, DynamicTag, SHN_ABS, SHT_DYNAMIC, SHT_PREINIT_ARRAY, SHT_SYMTAB,
};

use super::Builder;
use super::sections::is_called;
use crate::divert::Diversion;
use crate::elf::{Addends, Dyn, Entry, FileOffset, Format, Rela, Section, Segment, Symbol, Vaddr};
use crate::error::{ErrorKind, Result};
use crate::headers::DynamicMove;
use crate::parse::locate;
use crate::plan::{InitSymbol, Preinit, init_symbol_entry, set};
use crate::runtime::Request;
use crate::sysv_hash::SysvHash;
use crate::trampoline::Trampoline;

impl Builder<'_> {
    /// Puts the entries of `new` at `address` that differ from `old`.
    fn put_changed(&mut self, address: Vaddr, old: &[u8], new: &[u8], size: usize) -> Result<()> {
        for (offset, bytes) in changed_entries(old, new, size) {
            self.put_at(Vaddr(address.0 + offset), bytes)?;
        }
        Ok(())
    }

    pub(super) fn put_names(&mut self) -> Result<()> {
        let names = &self.plan.names;
        for (offset, bytes) in &names.overwritten {
            let address = self.new_address(Vaddr(self.image.strtab.vaddr.0 + offset));
            self.put_at(address, bytes.clone())?;
        }
        if let Some(address) = self.gained(".dynstr") {
            self.put_at(address, names.appended.clone())?;
        }
        Ok(())
    }

    pub(super) fn put_symbols(&mut self) -> Result<()> {
        let symtab = self.image.symtab.vaddr.0;
        let address =
            |index: u32| Vaddr(symtab + Symbol::size(self.image.format) * u64::from(index));
        let symbol = init_symbol_entry(&self.plan.init_symbol, self.plan.names.init);
        if let InitSymbol::Recycled { dead, .. } = &self.plan.init_symbol {
            self.put_at(
                self.new_address(address(dead.index)),
                symbol.encode(self.image.format),
            )?;
        }
        if let Some(end) = self.gained(".dynsym") {
            let format = self.image.format;
            let others = self.plan.names.diverting.iter();
            let others = others.map(|&name| Symbol::undefined_global(name));
            let all: Vec<_> = [symbol].into_iter().chain(others).collect();
            self.put_at(end, Symbol::encode_all(&all, format))?;
        }
        if let Some(end) = self.gained(".gnu.version") {
            // VER_NDX_GLOBAL: unversioned, as the linker marks undefined symbols without one.
            let global = self.image.format.half_bytes(1);
            self.put_at(end, global.repeat(1 + self.plan.names.diverting.len()))?;
        }
        for (dead, name) in &self.plan.names.renamed {
            let symbol = Symbol {
                name: *name,
                ..dead.symbol
            };
            self.put_at(
                self.new_address(address(dead.index)),
                symbol.encode(self.image.format),
            )?;
        }
        Ok(())
    }

    /// Number of the init symbol in .dynsym.
    pub(super) fn init_index(&self) -> u32 {
        match &self.plan.init_symbol {
            InitSymbol::Recycled { dead, .. } => dead.index,
            InitSymbol::Appended => u32::try_from(self.image.symbol_count()).unwrap_or(u32::MAX),
        }
    }

    pub(super) fn put_hash(&mut self, request: Request<'_>) -> Result<()> {
        let Some(table) = self.image.sysv_hash else {
            return Ok(());
        };
        let bytes = self
            .source
            .bytes(table.at, table.size, "the DT_HASH table")?;
        let mut hash = SysvHash::decode(&bytes, self.image.format)
            .ok_or_else(|| self.source.malformed("its DT_HASH table has no buckets"))?;
        for (dead, _) in &self.plan.names.renamed {
            hash.remove(dead.index);
            hash.insert(dead.index, crate::names::FILLER, 0);
        }
        hash.remove(self.init_index());
        hash.insert(self.init_index(), request.init, 0);
        for (index, kind) in (self.init_index() + 1..).zip(request.diversion.kinds()) {
            hash.insert(index, &kind.symbol(), 0);
        }
        let address = self.new_address(table.vaddr);
        self.put_changed(
            address,
            &bytes,
            &hash.encode(self.image.format),
            size_of(self.image.format.hash_word()),
        )
    }

    /// The new entry's relocation, and those of the entries that moved along with it.
    pub(super) fn put_relocations(&mut self, diversion: &Diversion) -> Result<()> {
        let slot = Rela {
            place: self.array(),
            symbol: self.init_index(),
            kind: self.image.format.relocations.symbolic,
            addend: 0,
        };
        let mut gained = self.gained(self.image.format.relocations.addends.tags().section);
        if let InitSymbol::Recycled { relocation, .. } = self.plan.init_symbol {
            self.put_relocation(relocation, slot)?;
        } else {
            self.append_relocation(&mut gained, slot)?;
        }
        for slot in self.diverting_slots(diversion) {
            self.append_relocation(&mut gained, slot)?;
        }
        let (Some(array), Preinit::Moved(entries)) = (self.image.preinit, &self.plan.preinit)
        else {
            return Ok(());
        };
        let word = self.image.format.word();
        let first = self.array().0 + word;
        for &(index, rela) in &self.findings.preinit {
            let place = Vaddr(first + (rela.place.0 - array.vaddr.0));
            self.put_relocation(index, Rela { place, ..rela })?;
        }
        for &entry in &entries.unpacked {
            let value = usize::try_from(entry).ok();
            let value = value.and_then(|entry| entries.values.get(entry));
            let rela = Rela {
                place: Vaddr(first + word * entry),
                symbol: 0,
                kind: self.image.format.relocations.relative,
                addend: value.copied().unwrap_or(0).cast_signed(),
            };
            self.append_relocation(&mut gained, rela)?;
        }
        Ok(())
    }

    fn put_relocation(&mut self, index: u64, rela: Rela) -> Result<()> {
        let table = self.image.rela.map_or(0, |table| table.vaddr.0);
        let address = self.new_address(Vaddr(table + Rela::size(self.image.format) * index));
        self.put_at(address, rela.encode(self.image.format))
    }

    fn append_relocation(&mut self, end: &mut Option<Vaddr>, rela: Rela) -> Result<()> {
        let address =
            end.ok_or_else(|| self.source.malformed("it has no room for a relocation"))?;
        *end = address.checked_add(Rela::size(self.image.format));
        self.put_at(address, rela.encode(self.image.format))
    }

    /// The values that the program's own entries have in the file, behind the new entry, and where
    /// the array is now.
    pub(super) fn put_preinit_values(&mut self) -> Result<()> {
        self.describe_preinit_section();
        let Preinit::Moved(entries) = &self.plan.preinit else {
            return Ok(());
        };
        let values = [0].iter().chain(&entries.values);
        let format = self.image.format;
        let bytes = values.flat_map(|value| format.address(*value)).collect();
        self.put_at(self.array(), bytes)
    }

    pub(super) fn put_dynamic(&mut self) -> Result<()> {
        let entries = self.dynamic_entries();
        let encode = |entries: &[Dyn]| Dyn::encode_all(entries, self.image.format);
        let entry = size_of(Dyn::size(self.image.format));
        let old = self.image.dynamic.table;
        if self.plan.dynamic.moves == DynamicMove::Stays {
            let before = encode(&self.image.dynamic.entries);
            self.put_changed(old.vaddr, &before, &encode(&entries), entry)?;
            return self.keep_spare_value(old.vaddr, entries.len());
        }
        let (start, count) = self.dynamic_place();
        let size = count * Dyn::size(self.image.format);
        let mut bytes = encode(&entries);
        bytes.resize(size_of(size), 0);
        let at = self.file_offset(start, size)?;
        self.put_bytes(at, bytes)?;
        for segment in &mut self.segments {
            if segment.kind == object::elf::PT_DYNAMIC {
                segment.offset = at;
                segment.vaddr = start;
                segment.paddr = start.0;
                segment.filesz = size;
                segment.memsz = size;
            }
        }
        for section in &mut self.sections {
            if section.kind == SHT_DYNAMIC && section.vaddr == old.vaddr {
                section.offset = at;
                section.vaddr = start;
                section.size = size;
            }
        }
        Ok(())
    }

    /// Puts a value that a spare DT_NULL had into the new terminator, for `undo`: nobody reads either.
    fn keep_spare_value(&mut self, table: Vaddr, used: usize) -> Result<()> {
        let dynamic = &self.image.dynamic;
        // Elsewhere it is the way back itself that stands there.
        if self.image.format.relocations.addends == Addends::Implicit {
            return Ok(());
        }
        let taken = dynamic.spare.iter().take(used - dynamic.entries.len());
        match taken.copied().find(|&value| value != 0) {
            Some(value) if used + 1 < dynamic.capacity() => {
                let at = Vaddr(
                    table.0 + Dyn::size(self.image.format) * used as u64 + self.image.format.word(),
                );
                self.put_at(at, self.image.format.address(value))
            }
            _ => Ok(()),
        }
    }

    /// The planned entries with the addresses and sizes that this layout gave.
    fn dynamic_entries(&self) -> Vec<Dyn> {
        let mut entries = self.plan.dynamic.entries.clone();
        if self.code.is_none() {
            set(&mut entries, DT_PREINIT_ARRAY, self.array().0);
        }
        for (table, to) in &self.moved {
            let (address_tag, size_tag) = tags(table.name, self.image.format);
            let Some(tag) = address_tag else { continue };
            set(&mut entries, tag, to.0);
            if let Some(tag) = size_tag {
                set(&mut entries, tag, table.from.size + table.extra);
            }
        }
        // It counts from its own address (glibc sysdeps/mips/dl-debug.h).
        let (place, _) = self.dynamic_place();
        let moved = place.0.wrapping_sub(self.image.dynamic.table.vaddr.0);
        let debug = |entry: &&mut Dyn| entry.tag == DT_MIPS_RLD_MAP_REL;
        for entry in entries.iter_mut().filter(debug) {
            if self.image.format.is_got_ordered() {
                entry.value = entry.value.wrapping_sub(moved);
            }
        }
        entries
    }

    /// The program headers, section headers and ELF header, where they changed.
    pub(super) fn put_headers(&mut self) -> Result<()> {
        let format = self.image.format;
        let (old, new) = (
            Segment::encode_all(&self.image.segments, format),
            Segment::encode_all(&self.segments, format),
        );
        let changed = match self.segments_at == self.image.segments_at {
            true => changed_entries(&old, &new, size_of(Segment::size(self.image.format))),
            false => vec![(0, new)], // the whole table is new at its new place
        };
        for (offset, bytes) in changed {
            self.put_bytes(FileOffset(self.segments_at.0 + offset), bytes)?;
        }
        let (old, new) = (
            Section::encode_all(&self.image.sections, format),
            Section::encode_all(&self.sections, format),
        );
        let changed = match self.sections_at == self.gap.moved(self.image.sections_at) {
            true => changed_entries(&old, &new, size_of(Section::size(self.image.format))),
            false => vec![(0, new)], // the whole table is new at its new place
        };
        for (offset, bytes) in changed {
            self.put_bytes(FileOffset(self.sections_at.0 + offset), bytes)?;
        }
        let mut header = self.header.clone();
        if let Some(code) = self.code {
            header.set_entry(code);
        }
        let count = u16::try_from(self.segments.len());
        header.set_program_headers(self.segments_at, count.map_err(|_| self.overflow())?);
        header.set_section_headers(self.sections_at);
        let (old, new) = (
            self.image.header.encode(self.image.format),
            header.encode(self.image.format),
        );
        for (offset, bytes) in changed_entries(&old, &new, 8) {
            self.put_bytes(FileOffset(offset), bytes)?;
        }
        Ok(())
    }

    /// The trampoline from the new entry point to the old one.
    pub(super) fn put_code(&mut self) -> Result<()> {
        let Some(at) = self.code else {
            return Ok(());
        };
        let trampoline = Trampoline {
            slot: self.array(),
            entry: self.image.header.entry(),
        };
        let code = trampoline.assemble(at).ok_or_else(|| {
            self.source.error(ErrorKind::NoRoom {
                what: "has more than 2 GiB between its code and the end of its data".to_owned(),
                advice: "link it with less zero-initialised data, or allocate that at run time",
            })
        })?;
        self.put_at(at, code)
    }

    /// Symbols of debuggers' .symtab that lie in a section which moved, `_DYNAMIC` among them, move
    /// along.
    pub(super) fn put_debugger_symbols(&mut self) -> Result<()> {
        // The program's own entries stand behind the new one in their section.
        let grown = |old: &Section| match old.kind == SHT_PREINIT_ARRAY {
            true => self.image.format.word(),
            false => 0,
        };
        let moved = |(old, new): (&Section, &Section)| {
            let shift = new.vaddr.0.wrapping_sub(old.vaddr.0);
            (shift != 0).then(|| shift.wrapping_add(grown(old)))
        };
        let shifts: Vec<u64> = (self.image.sections.iter().zip(&self.sections))
            .map(|pair| moved(pair).unwrap_or(0))
            .collect();
        if shifts.iter().all(|&shift| shift == 0) {
            return Ok(());
        }
        // Most linkers have `_DYNAMIC` in no section.
        let dynamic = self.image.dynamic.table.vaddr;
        let dynamic_shift = self.dynamic_place().0.0.wrapping_sub(dynamic.0);
        let mut changed = Vec::new();
        for table in self
            .image
            .sections
            .iter()
            .filter(|section| section.kind == SHT_SYMTAB)
        {
            let count = table.size / Symbol::size(self.image.format);
            let link = usize::try_from(table.link).ok();
            let names = link.and_then(|link| self.image.sections.get(link));
            let source = self.source;
            let visit = |index, symbol: Symbol| {
                let shift = match symbol.section {
                    SHN_ABS
                        if symbol.value == dynamic.0
                            && is_called(source, names, symbol.name, b"_DYNAMIC\0")? =>
                    {
                        dynamic_shift
                    }
                    section => shifts.get(usize::from(section.0)).copied().unwrap_or(0),
                };
                if shift != 0 {
                    let value = symbol.value.wrapping_add(shift);
                    let at = FileOffset(table.offset.0 + Symbol::size(self.image.format) * index);
                    let moved = Symbol { value, ..symbol };
                    changed.push((self.gap.moved(at), moved.encode(self.image.format)));
                }
                Ok(())
            };
            self.source
                .for_each(table.offset, count, "the symbol table", visit)?;
        }
        changed
            .into_iter()
            .try_for_each(|(at, bytes)| self.put_bytes(at, bytes))
    }

    /// Keeps the section header of a preinit array that grew or moved true.
    fn describe_preinit_section(&mut self) {
        let Some(old) = self.image.preinit else {
            return;
        };
        let array = self.array();
        let size = old.size + self.image.format.word();
        let at = locate(&self.segments, array, size);
        for section in &mut self.sections {
            if let (SHT_PREINIT_ARRAY, Some(at)) = (section.kind, at)
                && section.vaddr == old.vaddr
            {
                section.offset = at;
                section.vaddr = array;
                section.size = size;
            }
        }
    }
}

/// A table entry's size, as memory counts.
fn size_of(entry: u64) -> usize {
    usize::try_from(entry).unwrap_or(usize::MAX)
}

/// The entries of `new` that differ from `old`, with their offset; all that lie behind it do.
fn changed_entries(old: &[u8], new: &[u8], size: usize) -> Vec<(u64, Vec<u8>)> {
    let old = old.chunks(size).map(Some).chain(std::iter::repeat(None));
    let pairs = new.chunks(size).zip(old).enumerate();
    pairs
        .filter(|(_, (new, old))| *old != Some(*new))
        .map(|(index, (new, _))| ((index * size) as u64, new.to_vec()))
        .collect()
}

/// The dynamic entries that say where a table is, and how many bytes it has.
fn tags(name: &str, format: Format) -> (Option<DynamicTag>, Option<DynamicTag>) {
    let relocations = format.relocations.addends.tags();
    match name {
        name if name == relocations.section => (Some(relocations.table), Some(relocations.size)),
        ".dynstr" => (Some(DT_STRTAB), Some(DT_STRSZ)),
        ".dynsym" => (Some(DT_SYMTAB), None),
        ".gnu.version" => (Some(DT_VERSYM), None),
        ".gnu.hash" => (Some(DT_GNU_HASH), None),
        ".hash" => (Some(DT_HASH), None),
        ".rela.plt" => (Some(DT_JMPREL), None),
        _ => (None, None),
    }
}
