//! The check of what leads out of functions, as `gimli` reads it: .eh_frame's search table says of every function
//! what it said, and of each instruction that was moved what it said of it in its function.

use gimli::{
    BaseAddresses, CfaRule, EhFrame, EhFrameHdr, EndianSlice, FrameDescriptionEntry, LittleEndian,
    ParsedEhFrameHdr, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection,
};
use goblin::elf::program_header as pt;
use iced_x86::Instruction;

use super::view::View;
use super::{Check, broken, end};
use crate::divert::Diverted;
use crate::divert::code::is_call;
use crate::elf::FileOffset;
use crate::error::{Error, Result};

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Fde<'a> = FrameDescriptionEntry<Slice<'a>>;

/// The bytes of .eh_frame_hdr and of .eh_frame, and where they are.
struct Bytes<'a> {
    view: &'a View<'a>,
    search: Vec<u8>,
    frame: Vec<u8>,
    bases: BaseAddresses,
}

/// Both, parsed.
struct Frames<'a> {
    view: &'a View<'a>,
    search: ParsedEhFrameHdr<Slice<'a>>,
    frame: EhFrame<Slice<'a>>,
    bases: &'a BaseAddresses,
}

impl<'a> Bytes<'a> {
    fn read(view: &'a View<'a>) -> Result<Self> {
        let mut segments = view.segments.iter();
        let segment = segments.rfind(|segment| segment.p_type == pt::PT_GNU_EH_FRAME);
        let segment = segment.ok_or_else(|| broken(view.source, "PT_GNU_EH_FRAME was lost"))?;
        let at = view.locate(segment.p_vaddr, segment.p_filesz)?;
        let search = (view.source).bytes(FileOffset(at), segment.p_filesz, ".eh_frame_hdr")?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(segment.p_vaddr);
        let parsed = EhFrameHdr::new(&search, LittleEndian).parse(&bases, 8);
        let start = parsed.map_err(|error| view.cannot_unwind(error))?;
        let start = start.eh_frame_ptr().direct();
        let start = start.map_err(|error| view.cannot_unwind(error))?;
        let mut loads = view.loads();
        let load = loads.find(|load| (load.p_vaddr..end(load)).contains(&start));
        let left = load.map_or(0, |load| {
            load.p_filesz
                .saturating_sub(start.wrapping_sub(load.p_vaddr))
        });
        let mut sections = view.sections.iter();
        let section = sections.find(|section| section.sh_addr == start && section.sh_size > 0);
        let size = section.map_or(left, |section| section.sh_size);
        let at = view.locate(start, size)?;
        Ok(Self {
            view,
            search,
            frame: view.source.bytes(FileOffset(at), size, ".eh_frame")?,
            bases: bases.set_eh_frame(start),
        })
    }

    fn parse(&self) -> Result<Frames<'_>> {
        let search = EhFrameHdr::new(&self.search, LittleEndian).parse(&self.bases, 8);
        Ok(Frames {
            view: self.view,
            search: search.map_err(|error| self.view.cannot_unwind(error))?,
            frame: EhFrame::new(&self.frame, LittleEndian),
            bases: &self.bases,
        })
    }
}

impl View<'_> {
    fn cannot_unwind(&self, error: gimli::Error) -> Error {
        broken(self.source, format!("of .eh_frame, gimli says: {error}"))
    }
}

impl<'a> Frames<'a> {
    /// All functions of the search table, in its order: their addresses and FDEs.
    fn all(&self) -> Result<Vec<(u64, Fde<'a>)>> {
        let mut all = Vec::new();
        let read = || -> gimli::Result<_> {
            let Some(table) = self.search.table() else {
                return Ok(());
            };
            let mut entries = table.iter(self.bases);
            while let Some((function, fde)) = entries.next()? {
                let fde = table.pointer_to_offset(fde)?;
                let fde =
                    (self.frame).fde_from_offset(self.bases, fde, EhFrame::cie_from_offset)?;
                all.push((function.direct()?, fde));
            }
            Ok(())
        };
        let mut read = read;
        read().map_err(|error| self.view.cannot_unwind(error))?;
        Ok(all)
    }

    /// What the search table leads to for the code at `address`, if that is a function.
    fn of(&self, address: u64) -> Option<Fde<'a>> {
        let table = self.search.table()?;
        let found =
            table.fde_for_address(&self.frame, self.bases, address, EhFrame::cie_from_offset);
        found.ok().filter(|fde| fde.contains(address))
    }

    /// The rules at `address`: of the CFA, and of registers. What an expression is, is in its bytes.
    fn rules(&self, fde: &Fde<'a>, address: u64) -> Result<Rules> {
        let read = || -> gimli::Result<_> {
            let mut context = UnwindContext::new();
            let row =
                fde.unwind_info_for_address(&self.frame, self.bases, &mut context, address)?;
            let expression = |at: &UnwindExpression<usize>| -> gimli::Result<Vec<u8>> {
                Ok(at.get(&self.frame)?.0.slice().to_vec())
            };
            let zero = UnwindExpression {
                offset: 0,
                length: 0,
            };
            let cfa = match row.cfa() {
                CfaRule::Expression(at) => (CfaRule::Expression(zero), expression(at)?),
                other => (other.clone(), Vec::new()),
            };
            let mut registers = Vec::new();
            for (register, rule) in row.registers() {
                registers.push(match rule {
                    RegisterRule::Expression(at) => {
                        (*register, RegisterRule::Expression(zero), expression(at)?)
                    }
                    RegisterRule::ValExpression(at) => (
                        *register,
                        RegisterRule::ValExpression(zero),
                        expression(at)?,
                    ),
                    other => (*register, other.clone(), Vec::new()),
                });
            }
            registers.sort_by_key(|rule| rule.0.0);
            Ok((cfa, registers))
        };
        read().map_err(|error| self.view.cannot_unwind(error))
    }

    /// What an FDE says, but for where it is.
    fn says(&self, fde: &Fde<'a>) -> Result<impl PartialEq + use<'a>> {
        let read = || -> gimli::Result<_> {
            let mut instructions = Vec::new();
            let cie = fde.cie();
            let mut of_cie = cie.instructions(&self.frame, self.bases);
            while let Some(instruction) = of_cie.next()? {
                instructions.push(instruction);
            }
            let mut of_fde = fde.instructions(&self.frame, self.bases);
            while let Some(instruction) = of_fde.next()? {
                instructions.push(instruction);
            }
            let factors = (cie.code_alignment_factor(), cie.data_alignment_factor());
            let register = cie.return_address_register();
            let handlers = (fde.personality(), fde.lsda(), fde.is_signal_trampoline());
            let code = (fde.initial_address(), fde.len());
            Ok((code, handlers, factors, register, instructions))
        };
        read().map_err(|error| self.view.cannot_unwind(error))
    }
}

type Rules = (
    (CfaRule<usize>, Vec<u8>),
    Vec<(Register, RegisterRule<usize>, Vec<u8>)>,
);

impl Check<'_> {
    /// Compares both tables. `continuations` are those that were found, each with the function whose it is.
    pub(super) fn unwinding(&self) -> Result<()> {
        let Some(unwinding) = &self.request.diversion.unwinding else {
            return self.no_call_moved();
        };
        let (before, after) = (Bytes::read(&self.before)?, Bytes::read(&self.after)?);
        let (before, after) = (before.parse()?, after.parse()?);
        let (old, new) = (before.all()?, after.all()?);
        let added = new.get(old.len()..).unwrap_or(&[]);
        let enough = added.len() == 1 + unwinding.functions().count();
        self.require(enough, ".eh_frame_hdr lost entries, or has too many")?;
        for ((place, old), (moved, new)) in old.iter().zip(&new) {
            let same = place == moved && before.says(old)? == after.says(new)?;
            self.require(same, "unwinding out of a function changed")?;
        }
        let highest = old.iter().map(|(place, _)| *place).max().unwrap_or(0);
        let places = [highest].into_iter().chain(added.iter().map(|one| one.0));
        self.require(places.is_sorted(), ".eh_frame_hdr is not in order")?;
        for (place, fde) in added {
            let same = *place == fde.initial_address();
            self.require(same, ".eh_frame_hdr leads to another function")?;
        }
        for &entry in &self.diverted.entries {
            let fde = after.of(entry);
            let fde = fde.ok_or_else(|| self.broken("nothing unwinds out of an entry"))?;
            let ((cfa, _), _) = after.rules(&fde, entry)?;
            let at_entry = CfaRule::RegisterAndOffset {
                register: gimli::X86_64::RSP,
                offset: 8,
            };
            self.require(cfa == at_entry, "an entry unwinds wrongly")?;
        }
        for (function, at) in &self.diverted.continuations {
            let has_rules = unwinding.functions().any(|other| other == *function);
            let function = &self.request.diversion.functions[*function];
            self.unwinds_alike((function, has_rules), *at, &before, &after)?;
        }
        Ok(())
    }

    /// Where nothing is added to .eh_frame, each call is where it was.
    fn no_call_moved(&self) -> Result<()> {
        for (function, at) in &self.diverted.continuations {
            let function = &self.request.diversion.functions[*function];
            let (was, _) = self.moved(function, *at)?;
            let stays = !was.iter().any(is_call);
            self.require(stays, "nothing unwinds out of a call that was moved")?;
        }
        Ok(())
    }

    /// Each instruction of the continuation at `at` has the rules that it had in its function.
    fn unwinds_alike<'a>(
        &self,
        (function, has_rules): (&Diverted, bool),
        at: u64,
        before: &Frames<'a>,
        after: &Frames<'a>,
    ) -> Result<()> {
        let prologue = &function.prologue;
        let Some(old) = before.of(prologue.at.0) else {
            return Ok(());
        };
        let (was, is) = self.moved(function, at)?;
        let Some(new) = after.of(at) else {
            let has = has_rules || was.iter().any(is_call);
            return self.require(!has, "nothing unwinds out of a continuation");
        };
        let places = was.iter().map(Instruction::ip).chain([prologue.end().0]);
        let moved = is.iter().map(Instruction::ip);
        let pairs = places.zip(moved).chain([(prologue.at.0, at)]);
        for (place, moved) in pairs.filter(|(place, _)| old.contains(*place)) {
            let same = before.rules(&old, place)? == after.rules(&new, moved)?;
            self.require(same, "a moved instruction unwinds otherwise")?;
        }
        Ok(())
    }
}
