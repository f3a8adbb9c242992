//! What leads the program's own allocator to the runtime: a segment of code, the slots that the loader
//! fills, and the jumps.

use object::elf::{PT_GNU_EH_FRAME, R_X86_64_64};

use super::Builder;
use crate::divert::Diversion;
use crate::elf::{FileOffset, Rela, Vaddr};
use crate::error::{Error, ErrorKind, Result};
use crate::spans::Content;
use crate::unwind::Grown;

impl Builder<'_> {
    /// Maps the entries, continuations and tables: executable, and never writable.
    pub(super) fn place_diverted(&mut self, diversion: &Diversion) -> Result<()> {
        if !self.plan.headers.diverted {
            return Ok(());
        }
        let (start, base) = self.next_place()?;
        self.insert(FileOffset(start), diversion.size(), Content::Zero)?;
        self.diverted = Some(Vaddr(base));
        self.add_code(FileOffset(start), Vaddr(base), diversion.size())
    }

    /// Address of the slots, one for each function of the runtime.
    fn slots(&self, diversion: &Diversion) -> Vaddr {
        let end = self.room.as_ref().map_or(0, |room| room.end.0);
        let behind = self.plan.preinit.wanted(self.image.format.word()) + diversion.slots_size();
        Vaddr(end.saturating_sub(behind))
    }

    /// The relocations that fill the slots.
    pub(super) fn diverting_slots(&self, diversion: &Diversion) -> Vec<Rela> {
        let slots = self.slots(diversion).0;
        let first = self.init_index().saturating_add(1);
        let places = (slots..).step_by(8).zip(first..);
        let slots = places.take(self.plan.names.diverting.len());
        let slots = slots.map(|(place, symbol)| Rela {
            place: Vaddr(place),
            symbol,
            kind: R_X86_64_64,
            addend: 0,
        });
        slots.collect()
    }

    /// Puts the code in its place, and the jumps into the functions.
    pub(super) fn put_diverted(&mut self, diversion: &Diversion) -> Result<()> {
        let Some(base) = self.diverted else {
            return Ok(());
        };
        let too_far = || self.too_far();
        let slots = self.slots(diversion);
        let code = diversion.assemble(base, slots).ok_or_else(too_far)?;
        let mut jumps = Vec::new();
        for (number, function) in diversion.functions.iter().enumerate() {
            let entry = diversion.entry_at(base, number);
            let jump = function.prologue.jump(entry).ok_or_else(too_far)?;
            jumps.push((function.prologue.at, jump));
        }
        self.put_at(base, code)?;
        let size = usize::try_from(diversion.slots_size()).map_err(|_| self.overflow())?;
        self.put_at(slots, vec![0; size])?;
        jumps
            .into_iter()
            .try_for_each(|(at, jump)| self.put_at(at, jump))
    }

    /// Puts .eh_frame and its search table in their places, with what they gained.
    pub(super) fn put_unwinding(&mut self, diversion: &Diversion) -> Result<()> {
        let (Some(base), Some(unwinding)) = (self.diverted, &diversion.unwinding) else {
            return Ok(());
        };
        let grown = unwinding.grown();
        let places = grown.map(|grown| self.new_address(grown.table.vaddr));
        let [records, search] = places;
        let tables = unwinding.assemble(records, search, |number| diversion.place(base, number));
        let tables = tables.ok_or_else(|| self.too_far())?;
        for (place, bytes) in places.into_iter().zip(tables) {
            self.put_at(place, bytes)?;
        }
        let [_, Grown { table, extra, .. }] = grown;
        for segment in &mut self.segments {
            if segment.kind == PT_GNU_EH_FRAME && segment.vaddr == search {
                segment.filesz = table.size + extra;
                segment.memsz = segment.filesz;
            }
        }
        Ok(())
    }

    fn too_far(&self) -> Error {
        self.source.error(ErrorKind::NoRoom {
            what: "has more than 2 GiB between its allocator and the end of its data".to_owned(),
            advice: "link it with less zero-initialised data, or allocate that at run time",
        })
    }
}
