//! What relocation calls, binds and copies, and what it stores where functions are called from.

use object::elf::{DT_INIT_ARRAY, DT_JMPREL, DT_PLTRELSZ, DT_PREINIT_ARRAY, DynamicTag};

use super::{Function, Object, Reader};
use crate::elf::{self, Entry, FileOffset, Header, Rela, Vaddr};
use crate::error::Result;
use crate::parse::{self, Table};

/// What relocation does besides storing addresses.
#[derive(Debug, Default)]
pub(crate) struct Relocations {
    /// R_*_IRELATIVE: resolvers of the object's own that run when it is relocated.
    pub(crate) irelative: u64,
    /// Symbols that are bound when it is relocated, by index, each once, in that order.
    pub(crate) bound: Vec<u32>,
    /// Symbols of copy relocations.
    pub(crate) copies: Vec<u32>,
}

impl Reader<'_> {
    pub(super) fn relocation_tables(&self) -> Result<[Table; 2]> {
        let table = |tag, size_tag, what| -> Result<Table> {
            let size = self.dynamic.get(size_tag).unwrap_or(0);
            let address = self.dynamic.get(tag).filter(|_| size > 0);
            let (vaddr, at, size) = match address {
                Some(address) => (Vaddr(address), self.at(address, size, what)?, size),
                None => (Vaddr(0), FileOffset(0), 0),
            };
            Ok(Table { vaddr, at, size })
        };
        let jmprel = table(DT_JMPREL, DT_PLTRELSZ, "the PLT relocation table")?;
        let tags = self.source.format().relocations.addends.tags();
        let rela = table(tags.table, tags.size, "the relocation table")?;
        Ok([parse::without_plt(rela, Some(jmprel)), jmprel])
    }

    /// Takes down what relocation calls, binds and copies, and what it stores in the arrays.
    pub(super) fn relocate(&self, header: &Header, object: &mut Object) -> Result<()> {
        let trampoline = parse::trampoline(self.source, header, self.segments)?;
        let arrays = [
            self.entries(DT_INIT_ARRAY, object.init_array.len()),
            self.entries(DT_PREINIT_ARRAY, object.preinit_array.len()),
            trampoline.map_or(0..0, |code| code.slot.0..code.slot.0.saturating_add(8)),
        ];
        let word = self.source.format().word();
        let types = self.source.format().relocations;
        let mut seen = vec![false; object.symbols.len() as usize];
        for table in self.relocation_tables()? {
            let count = table.size / Rela::size(self.source.format());
            const WHAT: &str = "a relocation table";
            self.source
                .for_each(table.at, count, WHAT, |_, rela: Rela| {
                    let place = rela.place.0;
                    let [init, preinit, slot] = &arrays;
                    if init.contains(&place) {
                        let entry = entry_of(&mut object.init_array, (place - init.start) / word);
                        store(entry, &rela, types);
                    } else if preinit.contains(&place) {
                        let entry =
                            entry_of(&mut object.preinit_array, (place - preinit.start) / word);
                        store(entry, &rela, types);
                    } else if slot.contains(&place) {
                        let function = object.trampoline.insert(Function::default());
                        store(Some(function), &rela, types);
                    }
                    match rela.kind {
                        kind if kind == types.relative => {}
                        kind if kind == types.irelative => object.relocations.irelative += 1,
                        kind if kind == types.copy => object.relocations.copies.push(rela.symbol),
                        kind if kind == types.jump_slot && !object.now => {}
                        _ => {
                            let seen = seen.get_mut(rela.symbol as usize);
                            if seen.is_some_and(|seen| !std::mem::replace(seen, true)) {
                                object.relocations.bound.push(rela.symbol);
                            }
                        }
                    }
                    Ok(())
                })?;
        }
        // Without a relocation, a linker may have put in the PLT entry that it made the function's address.
        if let Some(first) = object.preinit_array.first_mut()
            && let Some(address) = first.address
        {
            first.reference = object.symbols.undefined_at(address.0);
        }
        Ok(())
    }

    /// The addresses of an array's entries.
    fn entries(&self, tag: DynamicTag, count: usize) -> std::ops::Range<u64> {
        let start = self.dynamic.get(tag).unwrap_or(0);
        start..start.saturating_add(self.source.format().word() * count as u64)
    }
}

fn entry_of(array: &mut [Function], index: u64) -> Option<&mut Function> {
    array.get_mut(usize::try_from(index).ok()?)
}

fn store(entry: Option<&mut Function>, rela: &Rela, types: elf::Relocations) {
    let Some(entry) = entry else { return };
    let adds = rela.kind == types.relative || rela.kind == types.irelative;
    if rela.kind == types.symbolic {
        entry.address = None;
        entry.reference = Some(rela.symbol);
    } else if adds && types.addends == elf::Addends::Explicit {
        // An implicit addend is the entry's value in the file.
        entry.address = Some(Vaddr(rela.addend.cast_unsigned()));
    }
}
