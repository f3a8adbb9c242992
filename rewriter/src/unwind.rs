//! Unwinding out of code in a new segment: backtraces, also from signals at any instruction, and exceptions.
//!
//! The instructions of a function that were moved get a record in .eh_frame with the rules that they had in
//! their function, and the entries one with those of a function's first instruction. .eh_frame and the table by
//! which it is searched move, for they grow; what was there before is the same, at the distances that hold now.
//!
//! `read` reads both, with each `pointer`, and `rules` knows the rules.

mod pointer;
mod read;
mod rules;

use self::pointer::{PC_RELATIVE, SDATA4};
use self::read::{Cie, ENTRY, SEARCHED, Tables};
pub(crate) use self::read::{Frames, Read};
use self::rules::Step;
use crate::divert::code::Prologue;
use crate::elf::Vaddr;
use crate::parse::Table;

/// What a program has for unwinding, with what is added to it.
#[derive(Clone, Debug)]
pub(crate) struct Unwinding {
    tables: Tables,
    /// Of new records, what functions have in common.
    cies: Vec<Vec<u8>>,
    fdes: Vec<New>,
}

/// The record of a piece of new code.
#[derive(Clone, Debug)]
struct New {
    cie: usize,
    /// The number of the function, of which this is the continuation; `None` for the entries.
    function: Option<usize>,
    steps: Vec<Step>,
}

/// A function whose rules cannot be moved.
#[derive(Debug)]
pub(crate) struct Odd {
    pub(crate) number: usize,
    pub(crate) reason: String,
}

/// Where a piece of new code is.
pub(crate) struct Place {
    pub(crate) start: Vaddr,
    /// In bytes.
    pub(crate) size: u64,
    /// Distances from its start to its instructions.
    pub(crate) instructions: Vec<u8>,
}

/// A table that grows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Grown {
    pub(crate) name: &'static str,
    pub(crate) table: Table,
    /// Bytes that it gains.
    pub(crate) extra: u64,
}

/// What new records have in common that say what holds at the first instruction of a function: the CFA is
/// rsp + 8, with the return address below it (psABI, "DWARF Definition").
const AT_ENTRY: &[u8] = b"\x01zR\0\x01\x78\x10\x01\x1b\x0c\x07\x08\x90\x01";

impl Unwinding {
    /// What to add to `frames` for entries and for continuations with these instructions, and those that have to do
    /// without.
    pub(crate) fn make<'a>(
        frames: Frames,
        prologues: impl Iterator<Item = &'a Prologue>,
    ) -> (Self, Vec<Odd>) {
        let mut odd = Vec::new();
        let mut cies = vec![AT_ENTRY.to_vec()];
        let mut fdes = vec![New {
            cie: 0,
            function: None,
            steps: Vec::new(),
        }];
        for (number, prologue) in prologues.enumerate() {
            let (steps, cie) = match frames.rules_of(prologue) {
                Ok(Some((steps, cie))) => (steps, cie.encode()),
                Ok(None) => continue,
                Err(reason) => {
                    odd.push(Odd { number, reason });
                    continue;
                }
            };
            let same = cies.iter().position(|other| *other == cie);
            let number_of_cie = same.unwrap_or(cies.len());
            if same.is_none() {
                cies.push(cie);
            }
            fdes.push(New {
                cie: number_of_cie,
                function: Some(number),
                steps,
            });
        }
        let unwinding = Self {
            tables: frames.tables,
            cies,
            fdes,
        };
        (unwinding, odd)
    }

    /// The numbers of the functions whose continuations have a record, in order.
    pub(crate) fn functions(&self) -> impl Iterator<Item = usize> {
        self.fdes.iter().filter_map(|fde| fde.function)
    }

    /// .eh_frame and its search table.
    pub(crate) fn grown(&self) -> [Grown; 2] {
        let cies = self.cies.iter().map(|cie| record_size(4 + cie.len()));
        let fdes = self.fdes.iter().map(|fde| record_size(fde.size()));
        [
            Grown {
                name: ".eh_frame",
                table: self.tables.records,
                extra: cies.chain(fdes).sum::<usize>() as u64,
            },
            Grown {
                name: ".eh_frame_hdr",
                table: self.tables.search,
                extra: ENTRY * self.fdes.len() as u64,
            },
        ]
    }

    /// Both, for these addresses. `place` says where the continuation of the function with that number is, and
    /// where the entries are. `None` if something is out of reach.
    pub(crate) fn assemble(
        &self,
        records: Vaddr,
        search: Vaddr,
        place: impl Fn(Option<usize>) -> Option<Place>,
    ) -> Option<[Vec<u8>; 2]> {
        let tables = &self.tables;
        let shift = distance(tables.records.vaddr, records)?;
        let mut bytes = tables.moved(shift)?;
        let mut new = Vec::new();
        let mut cies = Vec::new();
        for cie in &self.cies {
            cies.push(new.len());
            record(&mut new, &[&[0; 4], cie.as_slice()].concat())?;
        }
        let first = Vaddr(records.0.checked_add(tables.end as u64)?);
        let mut entries = tables.entries_at(shift, search)?;
        for fde in &self.fdes {
            let place = place(fde.function)?;
            let at = Vaddr(first.0.checked_add(new.len() as u64)?);
            let here = new.len().checked_add(4)?;
            let back = u32::try_from(here.checked_sub(*cies.get(fde.cie)?)?).ok()?;
            let pointer = distance(Vaddr(at.0.checked_add(8)?), place.start)?;
            let mut body = back.to_le_bytes().to_vec();
            body.extend(i32::try_from(pointer).ok()?.to_le_bytes());
            body.extend(u32::try_from(place.size).ok()?.to_le_bytes());
            body.push(0);
            body.extend(fde.rules(&place.instructions)?);
            record(&mut new, &body)?;
            for target in [place.start, at] {
                entries.push(i32::try_from(distance(search, target)?).ok()?);
            }
        }
        bytes.splice(tables.end..tables.end, new);
        let count = u32::try_from(entries.len() / 2).ok()?;
        let pointer = i32::try_from(distance(Vaddr(search.0.checked_add(4)?), records)?).ok()?;
        let mut table = SEARCHED.to_vec();
        table.extend(pointer.to_le_bytes());
        table.extend(count.to_le_bytes());
        table.extend(entries.into_iter().flat_map(i32::to_le_bytes));
        let [_, grown] = self.grown();
        table.resize(
            usize::try_from(grown.table.size.checked_add(grown.extra)?).ok()?,
            0,
        );
        Some([bytes, table])
    }
}

impl Frames {
    /// Why the call among `prologue`'s instructions cannot be moved, if it cannot: an exception that comes out
    /// of it would no longer find its handler.
    pub(crate) fn keeps_call(&self, prologue: &Prologue) -> Option<String> {
        match self.rules_of(prologue) {
            Err(reason) => Some(reason),
            Ok(None) => None, // nothing unwinds there as it is
            Ok(Some(_)) => {
                let handles = self.of(prologue.at).is_some_and(|(fde, _)| fde.handles);
                handles.then(|| "the function handles exceptions".to_owned())
            }
        }
    }

    /// The rules of the function whose `prologue` this is, if there are any; an error says why they cannot be
    /// moved.
    fn rules_of(&self, prologue: &Prologue) -> Result<Option<(Vec<Step>, &Cie)>, String> {
        let Some((fde, cie)) = self.of(prologue.at) else {
            return Ok(None);
        };
        let rules = self.tables.bytes.get(fde.rules.clone()).unwrap_or(&[]);
        let steps = rules::steps(rules, fde.start, cie.code_factor, &prologue.places());
        let known = cie.code_factor == 1 && rules::hold_at_once(&cie.rules);
        match steps.filter(|_| known) {
            Some(steps) => Ok(Some((steps, cie))),
            None => Err(format!("its rules at {} are of no usual kind", prologue.at)),
        }
    }
}

impl Tables {
    /// .eh_frame `shift` bytes further on.
    fn moved(&self, shift: i64) -> Option<Vec<u8>> {
        let mut bytes = self.bytes.clone();
        for &(at, size) in &self.pointers {
            let pointer = bytes.get_mut(at..at.checked_add(size)?)?;
            let mut value = [0; 8];
            value.get_mut(..size)?.copy_from_slice(pointer);
            let unused = 64 - 8 * size;
            let value = i64::from_le_bytes(value) << unused >> unused;
            let moved = value.checked_sub(shift)?;
            let fits = moved << unused >> unused == moved;
            pointer.copy_from_slice(moved.to_le_bytes().get(..size).filter(|_| fits)?);
        }
        Some(bytes)
    }

    /// The search table's entries at `search`, with .eh_frame `shift` bytes further on.
    fn entries_at(&self, shift: i64, search: Vaddr) -> Option<Vec<i32>> {
        let back = distance(search, self.search.vaddr)?;
        let mut entries = Vec::new();
        for &[function, fde] in &self.entries {
            let fde = i64::from(fde).checked_add(shift)?;
            for distance in [i64::from(function), fde] {
                entries.push(i32::try_from(distance.checked_add(back)?).ok()?);
            }
        }
        Some(entries)
    }
}

impl New {
    /// Bytes of the record behind its length.
    fn size(&self) -> usize {
        let steps = self.steps.iter();
        let rules = steps.map(|step| usize::from(step.from > 0) + step.rules.len());
        4 + 4 + 4 + 1 + rules.sum::<usize>()
    }

    /// The rules of code with these `instructions`.
    fn rules(&self, instructions: &[u8]) -> Option<Vec<u8>> {
        let mut rules = Vec::new();
        let mut place = 0;
        for step in &self.steps {
            if step.from > 0 {
                let next = *instructions.get(step.from)?;
                rules.push(rules::advanced(next.checked_sub(place)?)?);
                place = next;
            }
            rules.extend(&step.rules);
        }
        Some(rules)
    }
}

impl Cie {
    /// As a record for new code has it: addresses count from their own place, and nothing handles exceptions.
    fn encode(&self) -> Vec<u8> {
        let mut body = vec![self.version];
        body.extend(if self.signal { &b"zRS\0"[..] } else { b"zR\0" });
        body.extend(&self.factors);
        body.extend([1, PC_RELATIVE | SDATA4]);
        body.extend(&self.rules);
        body
    }
}

/// Bytes of a record with a body of `len`.
fn record_size(len: usize) -> usize {
    (4 + len).next_multiple_of(8)
}

/// Appends a record with this body, and DW_CFA_nop behind it.
fn record(records: &mut Vec<u8>, body: &[u8]) -> Option<()> {
    let size = record_size(body.len());
    let end = records.len().checked_add(size)?;
    records.extend(u32::try_from(size - 4).ok()?.to_le_bytes());
    records.extend(body);
    records.resize(end, 0);
    Some(())
}

fn distance(from: Vaddr, to: Vaddr) -> Option<i64> {
    let distance = i128::from(to.0) - i128::from(from.0);
    i64::try_from(distance).ok()
}
