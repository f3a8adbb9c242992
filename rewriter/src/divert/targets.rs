//! What leads into a function's first instructions: where anything does, they cannot be moved.
//!
//! Looked at are names, the function's own branches and jump tables, every branch of 32 bits in code
//! anywhere, and every address in data and in relocations.

use std::collections::BTreeMap;

use iced_x86::{Decoder, DecoderOptions, Register};
use object::elf::{ET_EXEC, PF_W, PF_X, R_X86_64_RELATIVE};

use super::code::{Prologue, is_branch, is_short_only};
use super::instructions::Instructions;
use super::symbols::Symbols;
use crate::elf::{Entry, Rela, Segment, Vaddr, overlap};
use crate::error::Result;
use crate::parse::Image;
use crate::source::Source;
use crate::unwind::Read;

/// A function's own code is looked at as far as this, in bytes, where nothing says where it ends.
const MOST: u64 = 64 << 10;
/// The same for a jump table.
const MOST_ENTRIES: usize = 4096;

/// What may lead into some functions' first instructions.
pub(super) struct Targets<'a> {
    pub(super) source: &'a Source,
    pub(super) image: &'a Image,
    pub(super) symbols: &'a Symbols,
}

impl Targets<'_> {
    /// Why the function at `start` of `size` bytes (0: not known) cannot lose `prologue`, if anything in its
    /// own code or names says so.
    pub(super) fn own(
        &self,
        start: Vaddr,
        size: u64,
        prologue: &Prologue,
    ) -> Result<Option<String>> {
        let (first, end) = prologue.interior();
        if let Some(name) = self.symbols.next(prologue.at).filter(|name| name.0 < end) {
            return Ok(Some(format!(
                "something has a name at {name}, inside the jump"
            )));
        }
        let known = self.symbols.next(start).map(|next| next.0 - start.0);
        let size = match size {
            0 => known.unwrap_or(MOST).min(MOST),
            size => size.min(MOST),
        };
        let Some(code) = self.code(start, size)? else {
            return Ok(Some("it is not in the file".to_owned()));
        };
        let skip = usize::try_from(prologue.end().0 - start.0).unwrap_or(usize::MAX);
        let rest = code.get(skip..).unwrap_or(&[]);
        let whole = start.0..start.0 + code.len() as u64;
        let mut tables = Vec::new();
        for instruction in Decoder::with_ip(64, rest, prologue.end().0, DecoderOptions::NONE) {
            let here = instruction.ip();
            if is_branch(&instruction) || is_short_only(&instruction) {
                let target = instruction.near_branch_target();
                if (first..end).contains(&target) || (start.0..=prologue.at.0).contains(&target) {
                    let what = format!("its branch at {here:#x} leads back to its beginning");
                    return Ok(Some(what));
                }
            }
            let lea = instruction.is_ip_rel_memory_operand()
                && instruction.memory_base() == Register::RIP
                && instruction.mnemonic() == iced_x86::Mnemonic::Lea;
            if lea {
                tables.push(instruction.ip_rel_memory_address());
            }
        }
        for table in tables {
            if self
                .jump_table(table, &whole)?
                .iter()
                .any(|at| (first..end).contains(at))
            {
                let what = format!("its jump table at {table:#x} leads to its beginning");
                return Ok(Some(what));
            }
        }
        Ok(None)
    }

    /// Where a table of distances at `table` leads, as far as that is inside `function`.
    fn jump_table(&self, table: u64, function: &std::ops::Range<u64>) -> Result<Vec<u64>> {
        let data = self.image.loads().find_map(|(_, load)| {
            let left = load.file_backed_end().since(Vaddr(table))?;
            let readable = load.flags.0 & PF_X.0 == 0 && load.covers(Vaddr(table), 4);
            readable.then_some((load, left.min(4 * MOST_ENTRIES as u64)))
        });
        let Some((load, left)) = data else {
            return Ok(Vec::new());
        };
        let Some(at) = load.locate(Vaddr(table), left) else {
            return Ok(Vec::new());
        };
        let bytes = self.source.bytes(at, left, "a jump table")?;
        let words = self.image.format.words(&bytes);
        let targets = words.iter().map(|&word| {
            let distance = i64::from(word.cast_signed());
            table.wrapping_add(distance.cast_unsigned())
        });
        Ok(targets
            .take_while(|target| function.contains(target))
            .collect())
    }

    /// `size` bytes of code, or as many as the file has.
    pub(super) fn code(&self, start: Vaddr, size: u64) -> Result<Option<Vec<u8>>> {
        let load = self
            .image
            .loads()
            .find(|(_, load)| load.flags.0 & PF_X.0 != 0 && load.locate(start, 1).is_some());
        let Some((_, load)) = load else {
            return Ok(None);
        };
        let left = load.file_backed_end().since(start).unwrap_or(0).min(size);
        let Some(at) = load.locate(start, left) else {
            return Ok(None);
        };
        self.source.bytes(at, left, "a function").map(Some)
    }

    /// Why some of `prologues` cannot be moved, by their number, for what is anywhere else.
    pub(super) fn elsewhere(
        &self,
        prologues: &[&Prologue],
        frames: &mut Option<Read>,
    ) -> Result<Reasons> {
        let mut ranges: Vec<Interior> = (prologues.iter().enumerate())
            .map(|(number, prologue)| Interior {
                range: prologue.interior(),
                number,
            })
            .collect();
        ranges.sort_by_key(|interior| interior.range);
        let mut found = Reasons::new();
        for (_, load) in self.image.loads() {
            match load.flags.0 & PF_X.0 != 0 {
                true => self.branches(load, &ranges, frames, &mut found)?,
                false => self.addresses(load, &ranges, &mut found)?,
            }
        }
        self.relocations(&ranges, &mut found)?;
        Ok(found)
    }

    /// Branches and calls of 32 bits, at whatever byte they begin.
    fn branches(
        &self,
        load: &Segment,
        ranges: &[Interior],
        frames: &mut Option<Read>,
        found: &mut Reasons,
    ) -> Result<()> {
        let mut instructions = Instructions::default();
        let mut carried: Vec<u8> = Vec::new();
        self.source
            .for_each_window(load.offset, load.filesz, "code", |position, window| {
                // The last bytes of the window before, so that none is missed.
                let start = (load.vaddr.0 + position).wrapping_sub(carried.len() as u64);
                carried.extend(window);
                for (place, bytes) in (start..).zip(carried.windows(6)) {
                    let (first, distance) = match *bytes {
                        [0xe8 | 0xe9, a, b, c, d, _] => (5, [a, b, c, d]),
                        [0x0f, 0x80..=0x8f, a, b, c, d] => (6, [a, b, c, d]),
                        _ => continue,
                    };
                    let distance = i64::from(i32::from_le_bytes(distance));
                    let target = place.wrapping_add(first).wrapping_add_signed(distance);
                    if let Some(number) = hit(ranges, target)
                        && !found.contains_key(&number)
                        && instructions.may_branch(self, frames, place, target)?
                    {
                        found.insert(number, format!("the branch at {place:#x} leads into it"));
                    }
                }
                carried.drain(..carried.len().saturating_sub(5));
                Ok(())
            })
    }

    /// Words of data. In a PIE, only what can be written has addresses.
    fn addresses(&self, load: &Segment, ranges: &[Interior], found: &mut Reasons) -> Result<()> {
        if load.flags.0 & PF_W.0 == 0 && self.image.header.file_type() != ET_EXEC {
            return Ok(());
        }
        let skip = load.vaddr.0.wrapping_neg() % 8;
        let size = load.filesz.saturating_sub(skip);
        let Some(at) = load.offset.checked_add(skip) else {
            return Ok(());
        };
        self.source
            .for_each_window(at, size - size % 8, "data", |_, window| {
                for word in self.image.format.addresses(window) {
                    if let Some(number) = hit(ranges, word) {
                        let what = format!("data has the address {word:#x}, inside it");
                        found.insert(number, what);
                    }
                }
                Ok(())
            })
    }

    fn relocations(&self, ranges: &[Interior], found: &mut Reasons) -> Result<()> {
        let tables = [self.image.rela, self.image.jmprel];
        for table in tables.into_iter().flatten() {
            let count = table.size / Rela::size(self.image.format);
            let what = "the relocation table";
            self.source
                .for_each(table.at, count, what, |_, rela: Rela| {
                    let target = match rela.kind {
                        R_X86_64_RELATIVE => hit(ranges, rela.addend.cast_unsigned()),
                        _ => None,
                    };
                    let changed = ranges.iter().find(|interior| {
                        let (start, end) = interior.range;
                        overlap(rela.place.0, 8, start - 1, end + 1 - start)
                    });
                    let number = target.or(changed.map(|interior| interior.number));
                    if let Some(number) = number {
                        found.insert(number, "a relocation is about its first bytes".to_owned());
                    }
                    Ok(())
                })?;
        }
        Ok(())
    }
}

/// Why functions cannot be moved, by their numbers: the last that was found.
type Reasons = BTreeMap<usize, String>;

/// Addresses that nothing may lead to, and whose they are.
struct Interior {
    range: (u64, u64),
    number: usize,
}

/// The one of `ranges`, in order, that `address` is in.
fn hit(ranges: &[Interior], address: u64) -> Option<usize> {
    let behind = ranges.partition_point(|interior| interior.range.0 <= address);
    let interior = ranges.get(behind.checked_sub(1)?)?;
    (address < interior.range.1).then_some(interior.number)
}
