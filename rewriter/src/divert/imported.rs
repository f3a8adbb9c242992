//! Whether a function calls libc's malloc before it calls any other function of a library, whichever way it takes.
//!
//! That is what `operator new` does in libstdc++, libc++ and most programs that replace it: what it returns is a
//! chunk of malloc's, and is seen there. One that looks elsewhere first (an arena) takes another way.

use iced_x86::{Decoder, DecoderOptions, FlowControl, Instruction};

use super::code::{ENDBR64, LONGEST};
use super::names::Kind;
use super::targets::Targets;
use crate::elf::{Entry, FileOffset, Rela, Symbol, Vaddr};
use crate::error::Result;

/// Instructions in front of the call, on all ways together: libstdc++'s has five.
const MOST: usize = 32;

/// True if every way from `start` on, into the functions that it calls, comes to a call of an imported malloc, and to no
/// return and no call of anything else that is imported before.
pub(super) fn calls_malloc_first(targets: &Targets<'_>, start: Vaddr) -> Result<bool> {
    let mut seen: Vec<Vaddr> = Vec::new();
    let mut ways = vec![start];
    while let Some(at) = ways.pop() {
        if seen.contains(&at) {
            continue;
        }
        seen.push(at);
        let Some(instruction) = instruction(targets, at)?.filter(|_| seen.len() <= MOST) else {
            return Ok(false);
        };
        let target = Vaddr(instruction.near_branch_target());
        match instruction.flow_control() {
            FlowControl::Next => ways.push(Vaddr(instruction.next_ip())),
            FlowControl::ConditionalBranch => ways.extend([Vaddr(instruction.next_ip()), target]),
            FlowControl::UnconditionalBranch | FlowControl::Call => {
                if !is_malloc_by(targets, target)? {
                    ways.push(target); // what the program's own function there does first
                }
            }
            FlowControl::IndirectBranch | FlowControl::IndirectCall => {
                if !is_malloc(targets, &instruction)? {
                    return Ok(false);
                }
            }
            _ => return Ok(false),
        }
    }
    Ok(true)
}

fn instruction(targets: &Targets<'_>, at: Vaddr) -> Result<Option<Instruction>> {
    let code = targets.code(at, LONGEST)?.unwrap_or_default();
    let instruction = Decoder::with_ip(64, &code, at.0, DecoderOptions::NONE).decode();
    Ok((!instruction.is_invalid()).then_some(instruction))
}

/// True if there is an entry of the procedure linkage table for malloc at `entry`: a jump to what the slot holds.
fn is_malloc_by(targets: &Targets<'_>, entry: Vaddr) -> Result<bool> {
    let size = ENDBR64.len() as u64;
    let endbr64 = targets.code(entry, size)?.as_deref() == Some(&ENDBR64);
    let at = Vaddr(entry.0.wrapping_add(if endbr64 { size } else { 0 }));
    let jump = instruction(targets, at)?;
    let jump = jump.filter(|jump| jump.flow_control() == FlowControl::IndirectBranch);
    jump.map_or(Ok(false), |jump| is_malloc(targets, &jump))
}

/// True if the call or jump goes where a slot says that malloc's relocation fills.
fn is_malloc(targets: &Targets<'_>, branch: &Instruction) -> Result<bool> {
    if !branch.is_ip_rel_memory_operand() {
        return Ok(false);
    }
    let (image, source) = (targets.image, targets.source);
    let slot = Vaddr(branch.ip_rel_memory_address());
    let mut symbol = None;
    // Relative ones have no symbol, and are nearly all.
    let relative = image.dynamic.relative_count(image.format, image.rela);
    for (table, skip) in [(image.rela, relative), (image.jmprel, 0)] {
        let Some(table) = table else { continue };
        let size = Rela::size(image.format);
        let (at, count) = (table.at.0 + skip * size, table.size / size - skip);
        source.for_each(
            FileOffset(at),
            count,
            "a relocation table",
            |_, rela: Rela| {
                if rela.place == slot {
                    symbol = Some(rela.symbol);
                }
                Ok(())
            },
        )?;
    }
    let symbol = match symbol {
        Some(index) => image.symbol(source, index)?,
        None => None,
    };
    match symbol.filter(Symbol::is_undefined) {
        Some(symbol) => {
            let name = image.which(source, u64::from(symbol.name), &[Kind::MALLOC.name()])?;
            Ok(name.is_some())
        }
        None => Ok(false),
    }
}
