//! Whether bytes in code that look like a branch are one, or the middle of another instruction: the immediate of
//! a mov, say. In a large program some always look like a branch to any given address.
//!
//! Where .eh_frame knows the function's bounds, that they are none is taken only from one that is nothing but code:
//! decoded from its first byte, all of it is instructions, the last ends where it ends, and its branches lead to
//! beginnings of instructions. A table in the midst of it, or code that is entered between its instructions,
//! would not be like that.
//!
//! Where it does not, one of any 15 bytes in a row begins an instruction, for none is longer. If code that is decoded
//! from each of many such bytes on comes to the same instruction, so does the program.

use iced_x86::{Decoder, DecoderOptions, Instruction};

use super::code::{LONGEST, is_branch, is_short_only};
use super::targets::Targets;
use crate::elf::Vaddr;
use crate::error::Result;
use crate::unwind::{Frames, Read};

/// Larger functions are not looked at, in bytes.
const MOST: u64 = 1 << 20;
/// Where code of no known function is decoded from, in bytes in front of what looks like a branch: far enough for the
/// ways to meet.
const NEAREST: u64 = 32;
const FARTHEST: u64 = 128;

/// Where an instruction is, and where it leads if it branches or calls.
type Decoded = (u64, Option<u64>);

/// The instructions of the function that was asked about last. Who asks in the order of addresses has each
/// function decoded once.
#[derive(Debug, Default)]
pub(super) struct Instructions {
    start: u64,
    /// First address behind it.
    end: u64,
    /// Empty if not all of it is known to be code.
    all: Vec<Decoded>,
}

impl Instructions {
    /// False if the bytes at `place` are known not to be part of an instruction that branches to `target`.
    /// `frames` are read if they were not yet.
    pub(super) fn may_branch(
        &mut self,
        targets: &Targets<'_>,
        frames: &mut Option<Read>,
        place: u64,
        target: u64,
    ) -> Result<bool> {
        if !(self.start..self.end).contains(&place) {
            let Ok(frames) = Frames::once(frames, targets.source, targets.image)? else {
                return Ok(true);
            };
            let Some((start, end)) = frames.bounds(Vaddr(place)) else {
                return Ok(all_ways_to(targets, place)? != Some(false));
            };
            *self = Self {
                start,
                end,
                all: decode(targets, start, end)?.unwrap_or_default(),
            };
        }
        let behind = self.all.partition_point(|&(at, _)| at <= place);
        let instruction = behind.checked_sub(1).and_then(|last| self.all.get(last));
        // Prefixes may come first: it need not begin at `place`.
        Ok(instruction.is_none_or(|&(_, leads)| leads == Some(target)))
    }
}

/// Whether the instruction that the byte at `place` is in branches anywhere, if that is the same one on all ways from
/// the bytes in front of it, and none of them leads into its middle. A way that comes to what is no instruction is none.
fn all_ways_to(targets: &Targets<'_>, place: u64) -> Result<Option<bool>> {
    let Some(start) = place.checked_sub(FARTHEST) else {
        return Ok(None);
    };
    let code = targets.code(Vaddr(start), FARTHEST + LONGEST)?;
    let code = code.unwrap_or_default();
    let mut found: Option<(u64, u64, bool)> = None;
    let mut leads = Vec::new();
    for (from, code) in (start..=place - NEAREST).zip((0..).map_while(|skip| code.get(skip..))) {
        let decoder = Decoder::with_ip(64, code, from, DecoderOptions::NONE);
        let mut way = Vec::new();
        let last = decoder.into_iter().find_map(|instruction| {
            let branches = branches(&instruction);
            way.extend(branches.then(|| instruction.near_branch_target()));
            let at = (instruction.ip(), instruction.next_ip(), branches);
            let ends = instruction.is_invalid() || at.1 > place;
            ends.then(|| (!instruction.is_invalid()).then_some(at))
        });
        let Some(Some(last)) = last else {
            continue;
        };
        if *found.get_or_insert(last) != last {
            return Ok(None);
        }
        leads.extend(way);
    }
    Ok(found.and_then(|(at, next, branches)| {
        let middle = leads.iter().any(|&target| at < target && target < next);
        (!middle).then_some(branches)
    }))
}

/// Whether the instruction has the distance to where it leads.
fn branches(instruction: &Instruction) -> bool {
    is_branch(instruction) || is_short_only(instruction) || instruction.is_call_near()
}

/// The instructions from `start` to `end`; `None` if not all of it is known to be code.
fn decode(targets: &Targets<'_>, start: u64, end: u64) -> Result<Option<Vec<Decoded>>> {
    let size = end.saturating_sub(start);
    if size > MOST {
        return Ok(None);
    }
    let code = targets.code(Vaddr(start), size)?.unwrap_or_default();
    let mut decoder = Decoder::with_ip(64, &code, start, DecoderOptions::NONE);
    let mut all = Vec::new();
    while decoder.can_decode() {
        let instruction = decoder.decode();
        if instruction.is_invalid() {
            return Ok(None);
        }
        let leads = branches(&instruction).then(|| instruction.near_branch_target());
        all.push((instruction.ip(), leads));
    }
    let begins = |at: u64| all.binary_search_by_key(&at, |&(place, _)| place).is_ok();
    let mut inside = (all.iter())
        .filter_map(|&(_, leads)| leads)
        .filter(|target| (start..end).contains(target));
    let in_step = code.len() as u64 == size && inside.all(begins);
    Ok(in_step.then_some(all))
}
