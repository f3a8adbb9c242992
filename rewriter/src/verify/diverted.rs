//! The check of what leads the program's own allocator to the runtime: from each function's jump to the
//! slot, the table and the continuation, as a decoder reads the result.

use goblin::elf::program_header as pt;
use goblin::elf::reloc::{R_X86_64_64, Reloc};
use goblin::elf::sym::{STB_GLOBAL, st_bind};
use iced_x86::{Code, Decoder, DecoderOptions, Instruction, Register};

use super::view::View;
use super::{Check, Relro, end};
use crate::divert::code::{CONTINUATION, ENDBR64, JUMP, TRAP, is_branch};
use crate::divert::names::{Kind, NAMES};
use crate::divert::{Diverted, ENTRY, keeps_r11};
use crate::elf::FileOffset;
use crate::error::Result;

/// What was found behind the jumps.
#[derive(Debug, Default)]
pub(super) struct Found {
    /// Address of each slot, and what the loader has to fill it with.
    slots: Vec<(u64, Kind)>,
    /// Addresses of the first and the last entry, table and continuation.
    range: Option<(u64, u64)>,
    /// Addresses of the entries.
    pub(super) entries: Vec<u64>,
    /// Addresses of the continuations, each with the number of its function.
    pub(super) continuations: Vec<(usize, u64)>,
}

impl Check<'_> {
    /// Follows each jump.
    pub(super) fn follow_jumps(&mut self) -> Result<()> {
        let mut found = Found::default();
        let mut tables = Vec::new();
        let mut continuations = Vec::new();
        for (number, function) in self.request.diversion.functions.iter().enumerate() {
            let (table, slot) = self.jump(function, &mut found)?;
            self.require(slot % 8 == 0, "a slot is not aligned")?;
            if found.slots.iter().all(|&(other, _)| other != slot) {
                found.slots.push((slot, function.kind));
            }
            let kind = (slot, function.kind);
            self.require(
                found.slots.contains(&kind),
                "a slot is used for two functions",
            )?;
            tables.push(table);
            if function.called {
                let word = 1 + function.kind.0 as u64;
                let at = self.word(table, word)?.unwrap_or(0);
                self.continuation(function, at)?;
                found.note(at, CONTINUATION);
                found.continuations.push((number, at));
                continuations.push(at);
            }
        }
        for table in tables {
            self.table(table, &continuations)?;
            found.note(table, 8 * (1 + NAMES.len() as u64));
        }
        self.diverted = found;
        Ok(())
    }

    /// From a function to its entry; the addresses of table and slot there.
    fn jump(&self, function: &Diverted, found: &mut Found) -> Result<(u64, u64)> {
        let prologue = &function.prologue;
        let code = self.code(&self.after, prologue.at.0, prologue.len)?;
        let jumps = decode(&code, prologue.at.0);
        let jump = jumps
            .first()
            .filter(|first| first.code() == Code::Jmp_rel32_64);
        let entry = jump.map(Instruction::near_branch_target);
        let jump = usize::try_from(JUMP).unwrap_or(0);
        let trapped = code.iter().skip(jump).all(|&byte| byte == TRAP);
        let entry = entry.filter(|_| trapped);
        let entry = entry.ok_or_else(|| self.broken("a function does not begin with its jump"))?;
        found.note(entry, ENTRY);
        found.entries.push(entry);
        let code = self.code(&self.after, entry, ENTRY)?;
        let [keep, lea, jmp, ..] = decode(&code, entry)[..] else {
            return Err(self.broken("a function's entry is too short"));
        };
        let leads = keeps_r11(&keep)
            && lea.code() == Code::Lea_r64_m
            && lea.op0_register() == Register::R11
            && lea.is_ip_rel_memory_operand()
            && jmp.code() == Code::Jmp_rm64
            && jmp.is_ip_rel_memory_operand();
        self.require(leads, "a function's entry does not lead to the runtime")?;
        Ok((lea.ip_rel_memory_address(), jmp.ip_rel_memory_address()))
    }

    /// The continuation has the instructions that the jump replaces, and goes back behind them.
    fn continuation(&self, function: &Diverted, at: u64) -> Result<()> {
        let code = self.code(&self.after, at, ENDBR64.len() as u64)?;
        let (old, new) = self.moved(function, at)?;
        let pairs = old.iter().zip(&new);
        let mut same = code == ENDBR64;
        for (instruction, moved) in pairs {
            same &= alike(instruction, moved, &old, &new);
        }
        let back = new.get(old.len());
        let returns = back.is_some_and(|jump| {
            jump.code() == Code::Jmp_rel32_64
                && jump.near_branch_target() == function.prologue.end().0
        });
        self.require(
            same && returns,
            "a continuation is not what it was in its function",
        )
    }

    /// The instructions that the function's jump replaces, and those of its continuation at `at`.
    pub(super) fn moved(
        &self,
        function: &Diverted,
        at: u64,
    ) -> Result<(Vec<Instruction>, Vec<Instruction>)> {
        let prologue = &function.prologue;
        let code = self.code(&self.before, prologue.at.0, prologue.len)?;
        let mut old = decode(&code, prologue.at.0);
        let code = self.code(&self.after, at, CONTINUATION)?;
        let new = decode(&code[ENDBR64.len()..], at + ENDBR64.len() as u64);
        let padding = |instruction: &Instruction| {
            use iced_x86::Mnemonic::{Int3, Nop};
            matches!(instruction.mnemonic(), Nop | Int3)
        };
        // Behind a function that is shorter than the jump.
        let behind = old.iter().zip(&new).position(|(instruction, moved)| {
            padding(instruction) && !alike(instruction, moved, &old, &new)
        });
        old.truncate(behind.unwrap_or(old.len()));
        Ok((old, new))
    }

    /// A table leads to continuations and to functions of the program, and its first one to itself.
    fn table(&self, table: u64, continuations: &[u64]) -> Result<()> {
        let first = self.word(table, 0)?.unwrap_or(table);
        self.require(
            self.word(first, 0)?.is_none(),
            "a table does not lead to its allocator's first",
        )?;
        for word in 1..=NAMES.len() as u64 {
            let Some(target) = self.word(table, word)? else {
                continue;
            };
            let mut loads = self.before.loads();
            let code = loads.any(|load| {
                load.p_flags & pt::PF_X != 0 && (load.p_vaddr..end(load)).contains(&target)
            });
            self.require(
                code || continuations.contains(&target),
                "a table leads nowhere",
            )?;
        }
        Ok(())
    }

    /// Where a word of a table leads; `None` if it is 0.
    fn word(&self, table: u64, word: u64) -> Result<Option<u64>> {
        let at = self.after.locate(table + 8 * word, 8)?;
        let distance = self.after.numbers(at, 1, 8)?.first().copied().unwrap_or(0);
        Ok((distance != 0).then(|| table.wrapping_add(distance)))
    }

    fn code(&self, view: &View<'_>, vaddr: u64, size: u64) -> Result<Vec<u8>> {
        let at = FileOffset(view.locate(vaddr, size)?);
        view.source.bytes(at, size, "code")
    }

    /// True if the segment is there for the program's own allocator alone.
    pub(super) fn is_diverted(&self, segment: &pt::ProgramHeader) -> bool {
        self.diverted.range.is_some_and(|(start, last)| {
            segment.p_type == pt::PT_LOAD && segment.p_vaddr == start && last <= end(segment)
        })
    }

    /// Address of the new segment, if there is to be one.
    pub(super) fn diverted_start(&self) -> Option<u64> {
        self.diverted.range.map(|(start, _)| start)
    }

    /// The slots are as protected as .dynamic is, or in a new segment.
    pub(super) fn slots_protected(&self, relro: Relro, apart: impl Fn(u64) -> bool) -> bool {
        let covered = |slot: u64| {
            relro.is_some_and(|(start, end)| slot >= start && slot.saturating_add(8) <= end)
        };
        let mut slots = self.diverted.slots.iter();
        slots.all(|&(slot, _)| covered(slot) || apart(slot))
    }

    /// True if the relocation fills a slot with what belongs there; an error if with something else.
    pub(super) fn fills_slot(&self, new: &Reloc) -> Result<bool> {
        let slots = &self.diverted.slots;
        let Some(&(_, kind)) = slots.iter().find(|(slot, _)| *slot == new.r_offset) else {
            return Ok(false);
        };
        let symbol = self.after.symbol(new.r_sym as u64)?;
        let name = self.after.string(symbol.st_name as u64)?;
        let filled = new.r_type == R_X86_64_64
            && new.r_addend == Some(0)
            && name == kind.symbol().as_bytes()
            && symbol.st_shndx == 0
            && st_bind(symbol.st_info) == STB_GLOBAL;
        self.require(filled, "a slot is filled by something else")?;
        Ok(true)
    }

    /// Addresses of the slots.
    pub(super) fn slots(&self) -> impl Iterator<Item = u64> {
        self.diverted.slots.iter().map(|&(slot, _)| slot)
    }

    /// File ranges of the jumps and of the slots, in the result.
    pub(super) fn allow_diverted(&self, ranges: &mut Vec<(u64, u64)>) -> Result<()> {
        for function in &self.request.diversion.functions {
            let prologue = &function.prologue;
            let at = self.before.locate(prologue.at.0, prologue.len)?;
            ranges.push((self.gap.moved(FileOffset(at)).0, prologue.len));
        }
        for &(slot, _) in &self.diverted.slots {
            ranges.push((self.after.locate(slot, 8)?, 8));
        }
        Ok(())
    }
}

impl Found {
    fn note(&mut self, start: u64, size: u64) {
        let end = start.saturating_add(size);
        let (first, last) = self.range.unwrap_or((start, end));
        self.range = Some((first.min(start), last.max(end)));
    }
}

fn decode(code: &[u8], at: u64) -> Vec<Instruction> {
    Decoder::with_ip(64, code, at, DecoderOptions::NONE)
        .into_iter()
        .collect()
}

/// True if one does what the other does. Of branches, the length may differ; one to another of the
/// `old` instructions leads to the same of the `new`.
fn alike(
    instruction: &Instruction,
    moved: &Instruction,
    old: &[Instruction],
    new: &[Instruction],
) -> bool {
    if !is_branch(instruction) {
        return instruction == moved;
    }
    let target = instruction.near_branch_target();
    let inside = old.iter().position(|other| other.ip() == target);
    let target = match inside.and_then(|position| new.get(position)) {
        Some(other) => other.ip(),
        None => target,
    };
    is_branch(moved)
        && moved.mnemonic() == instruction.mnemonic()
        && moved.near_branch_target() == target
}
