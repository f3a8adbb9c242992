//! The check of what leads out of functions, as `gimli` reads it: .eh_frame's search table says of every function
//! what it said, and of each instruction that was moved what it said of it in its function.

use std::collections::HashSet;

use gimli::{
    BaseAddresses, CallFrameInstructionIter, CfaRule, CommonInformationEntry, EhFrame, EhFrameHdr,
    EhHdrTableIter, EndianSlice, FrameDescriptionEntry, LittleEndian, Operation, ParsedEhFrameHdr,
    Pointer, Register, RegisterRule, UnwindContext, UnwindExpression, UnwindSection, X86_64,
};
use goblin::elf::program_header as pt;
use goblin::elf::section_header::SHT_NOBITS;
use iced_x86::Instruction;

use super::view::View;
use super::{Check, broken, end};
use crate::divert::code::is_call;
use crate::divert::{Diverted, ENTRY};
use crate::elf::FileOffset;
use crate::error::{Error, Result};

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Cie<'a> = CommonInformationEntry<Slice<'a>>;
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
        let section = sections.find(|section| {
            let loaded = section.is_alloc() && section.sh_type != SHT_NOBITS;
            loaded && section.sh_addr == start
        });
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
    /// The next function of the search table: its address, and its FDE.
    fn next(
        &self,
        entries: &mut EhHdrTableIter<'_, '_, Slice<'a>>,
    ) -> Result<Option<(u64, Fde<'a>)>> {
        let mut read = || -> gimli::Result<_> {
            let Some((function, fde)) = entries.next()? else {
                return Ok(None);
            };
            let fde = self
                .search
                .table()
                .map(|table| table.pointer_to_offset(fde));
            let fde = fde.ok_or(gimli::Error::NoUnwindInfoForAddress)??;
            let fde = (self.frame).fde_from_offset(self.bases, fde, EhFrame::cie_from_offset)?;
            Ok(Some((function.direct()?, fde)))
        };
        read().map_err(|error| self.view.cannot_unwind(error))
    }

    /// What the search table leads to for the code at `address`, if that is a function.
    fn of(&self, address: u64) -> Option<Fde<'a>> {
        let table = self.search.table()?;
        let found =
            table.fde_for_address(&self.frame, self.bases, address, EhFrame::cie_from_offset);
        found.ok().filter(|fde| fde.contains(address))
    }

    /// The rules at `address`; `None` if that is none in the function, or the rules contradict each other.
    fn rules(&self, fde: &Fde<'a>, address: u64) -> Option<Rules> {
        self.read_rules(fde, address).ok()
    }

    fn read_rules(&self, fde: &Fde<'a>, address: u64) -> gimli::Result<Rules> {
        let mut context = UnwindContext::new();
        let row = fde.unwind_info_for_address(&self.frame, self.bases, &mut context, address)?;
        let mut uses_place = false;
        let mut expression = |at: &UnwindExpression<usize>| -> gimli::Result<Vec<u8>> {
            let expression = at.get(&self.frame)?;
            uses_place |= uses_rip(expression.operations(fde.cie().encoding()))?;
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
            let (rule, bytes) = match rule {
                RegisterRule::Expression(at) => (RegisterRule::Expression(zero), expression(at)?),
                RegisterRule::ValExpression(at) => {
                    (RegisterRule::ValExpression(zero), expression(at)?)
                }
                other => (other.clone(), Vec::new()),
            };
            registers.push((*register, rule, bytes));
        }
        registers.sort_by_key(|rule| rule.0.0);
        Ok(Rules {
            cfa,
            registers,
            arguments: row.saved_args_size(),
            uses_place,
        })
    }

    /// Where a pointer in the record at `record` leads. `gimli` does not know that 0 stands for nowhere: one that
    /// counts from its own place leads there then.
    fn leads(&self, pointer: Option<Pointer>, record: usize, len: usize) -> Option<Pointer> {
        let start = self.bases.eh_frame.section.unwrap_or(0);
        let start = start.wrapping_add(record as u64);
        pointer.filter(|pointer| {
            let address = pointer.pointer();
            address != 0 && address.wrapping_sub(start) >= 4 + len as u64
        })
    }

    /// The table of the function's exceptions.
    fn exceptions(&self, fde: &Fde<'a>) -> Option<Pointer> {
        self.leads(fde.lsda(), fde.offset(), fde.entry_len())
    }

    /// True if `new`, in `after`, says the same of a function as `old` does, but for what is in their CIEs.
    fn same_function(&self, old: &Fde<'a>, after: &Self, new: &Fde<'a>) -> bool {
        let code = |fde: &Fde<'a>| {
            (
                fde.initial_address(),
                fde.len(),
                fde.offset(),
                fde.entry_len(),
            )
        };
        code(old) == code(new)
            && self.exceptions(old) == after.exceptions(new)
            && same_rules(
                old.instructions(&self.frame, self.bases),
                new.instructions(&after.frame, after.bases),
            )
    }

    /// The same of what functions have in common.
    fn same_cie(&self, old: &Cie<'a>, after: &Self, new: &Cie<'a>) -> bool {
        let numbers = |cie: &Cie<'a>| {
            let factors = (cie.code_alignment_factor(), cie.data_alignment_factor());
            let handlers = (cie.lsda_encoding(), cie.is_signal_trampoline());
            let place = (cie.offset(), cie.entry_len());
            (
                cie.version(),
                place,
                factors,
                cie.return_address_register(),
                handlers,
            )
        };
        let personality = |frames: &Self, cie: &Cie<'a>| {
            frames.leads(cie.personality(), cie.offset(), cie.entry_len())
        };
        numbers(old) == numbers(new)
            && personality(self, old) == personality(after, new)
            && same_rules(
                old.instructions(&self.frame, self.bases),
                new.instructions(&after.frame, after.bases),
            )
    }
}

/// What holds at an instruction.
#[derive(Debug, PartialEq)]
struct Rules {
    /// With the bytes of its expression, if it is one.
    cfa: (CfaRule<usize>, Vec<u8>),
    registers: Vec<(Register, RegisterRule<usize>, Vec<u8>)>,
    /// Bytes of arguments on the stack.
    arguments: u64,
    /// An expression looks at where the instruction is.
    uses_place: bool,
}

/// What holds at a function's first instruction (psABI, "DWARF Definition").
fn at_entry() -> Rules {
    let cfa = CfaRule::RegisterAndOffset {
        register: X86_64::RSP,
        offset: 8,
    };
    Rules {
        cfa: (cfa, Vec::new()),
        registers: vec![(X86_64::RA, RegisterRule::Offset(-8), Vec::new())],
        arguments: 0,
        uses_place: false,
    }
}

/// True if both have the same rules, as far as the first that `gimli` does not know.
fn same_rules<'a>(
    mut old: CallFrameInstructionIter<'_, Slice<'a>>,
    mut new: CallFrameInstructionIter<'_, Slice<'a>>,
) -> bool {
    // An error says where in memory it was.
    let old = std::iter::from_fn(|| old.next().map_err(drop).transpose());
    old.eq(std::iter::from_fn(|| new.next().map_err(drop).transpose()))
}

fn uses_rip(mut operations: gimli::OperationIter<Slice<'_>>) -> gimli::Result<bool> {
    while let Some(operation) = operations.next()? {
        if matches!(
            operation,
            Operation::RegisterOffset {
                register: X86_64::RA,
                ..
            }
        ) {
            return Ok(true);
        }
    }
    Ok(false)
}

impl Check<'_> {
    /// Compares both tables, and looks at what was added to them.
    pub(super) fn unwinding(&self) -> Result<()> {
        let Some(unwinding) = &self.request.diversion.unwinding else {
            return self.no_call_moved();
        };
        let (before, after) = (Bytes::read(&self.before)?, Bytes::read(&self.after)?);
        let (before, after) = (before.parse()?, after.parse()?);
        let added = self.compare(&before, &after)?;
        let exactly = added == 1 + unwinding.functions().count();
        self.require(exactly, ".eh_frame_hdr lost entries, or has too many")?;
        for &entry in &self.diverted.entries {
            let fde = after.of(entry);
            let fde = fde.ok_or_else(|| self.broken("nothing unwinds out of an entry"))?;
            for place in [entry, entry.saturating_add(ENTRY - 1)] {
                let holds = after.rules(&fde, place) == Some(at_entry());
                self.require(holds, "an entry unwinds wrongly")?;
            }
        }
        for (function, at) in &self.diverted.continuations {
            let has_rules = unwinding.functions().any(|other| other == *function);
            let function = &self.request.diversion.functions[*function];
            self.unwinds_alike((function, has_rules), *at, &before, &after)?;
        }
        Ok(())
    }

    /// Each function has what it had. Returns how many there are behind those.
    fn compare(&self, before: &Frames<'_>, after: &Frames<'_>) -> Result<usize> {
        let (old, new) = (before.search.table(), after.search.table());
        let mut old = old.as_ref().map(|table| table.iter(before.bases));
        let new = new.ok_or_else(|| self.broken(".eh_frame_hdr has no entries"))?;
        let mut new = new.iter(after.bases);
        let (mut last, mut added) = (None, 0);
        let mut compared = HashSet::new();
        while let Some((place, new)) = after.next(&mut new)? {
            let ascends = last.is_none_or(|last| last < place);
            self.require(ascends, ".eh_frame_hdr is not in order")?;
            last = Some(place);
            let itself = place == new.initial_address();
            self.require(itself, ".eh_frame_hdr leads to another function")?;
            let old = match &mut old {
                Some(old) => before.next(old)?,
                None => None,
            };
            let Some((was, old)) = old else {
                added += 1;
                let handlers = new.lsda().is_some() || new.personality().is_some();
                self.require(!handlers, "new code handles exceptions")?;
                continue;
            };
            let cies = (old.cie().offset(), new.cie().offset());
            let same = was == place
                && before.same_function(&old, after, &new)
                && (!compared.insert(cies) || before.same_cie(old.cie(), after, new.cie()));
            self.require(same, "unwinding out of a function changed")?;
        }
        let rest = match &mut old {
            Some(old) => before.next(old)?,
            None => None,
        };
        self.require(rest.is_none(), ".eh_frame_hdr lost entries")?;
        Ok(added)
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
            return self.require(!has_rules, "a continuation has rules of no function");
        };
        let (was, is) = self.moved(function, at)?;
        let calls = was.iter().any(is_call);
        let Some(new) = after.of(at) else {
            return self.require(
                !has_rules && !calls,
                "nothing unwinds out of a continuation",
            );
        };
        let handles = calls && before.exceptions(&old).is_some();
        self.require(!handles, "a call was moved, and its exceptions are handled")?;
        let returns = |fde: &Fde<'a>| {
            (
                fde.cie().return_address_register(),
                fde.is_signal_trampoline(),
            )
        };
        self.require(
            returns(&old) == returns(&new),
            "a continuation returns otherwise",
        )?;
        let places = was.iter().map(Instruction::ip).chain([prologue.end().0]);
        let moved = is.iter().map(Instruction::ip);
        let pairs = places.zip(moved).chain([(prologue.at.0, at)]);
        for (place, moved) in pairs.filter(|(place, _)| old.contains(*place)) {
            let rules = after.rules(&new, moved);
            let uses_place = rules.as_ref().is_some_and(|rules| rules.uses_place);
            let same = before.rules(&old, place) == rules && !uses_place;
            self.require(same, "a moved instruction unwinds otherwise")?;
        }
        Ok(())
    }
}
