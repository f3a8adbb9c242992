//! What leads into a function's first instructions: where anything does, they cannot be moved.
//!
//! Looked at are names, the function's own branches and jump tables, every branch of 32 bits in code
//! anywhere, and every address in data and in relocations.

use std::collections::BTreeMap;
use std::ops::Range;

use iced_x86::{Decoder, DecoderOptions, Register};
use object::elf::{ET_EXEC, PF_W, PF_X, R_X86_64_RELATIVE};

use super::code::{Prologue, is_branch, is_short_only};
use super::instructions::Instructions;
use super::symbols::Symbols;
use crate::elf::{Entry, FileOffset, Rela, Segment, Vaddr, align_down, overlap};
use crate::error::Result;
use crate::parse::Image;
use crate::processors::on_all;
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
    fn jump_table(&self, table: u64, function: &Range<u64>) -> Result<Vec<u64>> {
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
        let all = prologues
            .iter()
            .zip(0..)
            .map(|(prologue, number)| Interior {
                range: prologue.interior(),
                number,
            });
        let Some(interiors) = Interiors::new(all.collect()) else {
            return Ok(Reasons::new());
        };
        let mut found = Reasons::new();
        for (_, load) in self.image.loads() {
            match load.flags.0 & PF_X.0 != 0 {
                true => self.branches(load, &interiors, frames, &mut found)?,
                false => self.addresses(load, &interiors, &mut found)?,
            }
        }
        self.relocations(&interiors, &mut found)?;
        Ok(found)
    }

    /// Branches and calls of 32 bits, at whatever byte they begin.
    fn branches(
        &self,
        load: &Segment,
        interiors: &Interiors,
        frames: &mut Option<Read>,
        found: &mut Reasons,
    ) -> Result<()> {
        let mut instructions = Instructions::default();
        for first in (0..load.filesz).step_by(PIECE * AT_ONCE) {
            let pieces = (first..load.filesz).step_by(PIECE).take(AT_ONCE);
            let pieces: Vec<u64> = pieces.collect();
            let scan = |&piece: &u64| self.in_piece(load, interiors, piece);
            let scanned = match pieces.as_slice() {
                [only] => vec![scan(only)],
                pieces => on_all(1, pieces, scan, || ()),
            };
            for piece in scanned {
                for (place, target, number) in piece? {
                    if !found.contains_key(&number)
                        && instructions.may_branch(self, frames, place, target)?
                    {
                        found.insert(number, format!("the branch at {place:#x} leads into it"));
                    }
                }
            }
        }
        Ok(())
    }

    /// What looks like one in the piece of `load` that begins `piece` bytes behind its beginning.
    fn in_piece(
        &self,
        load: &Segment,
        interiors: &Interiors,
        piece: u64,
    ) -> Result<Vec<LikeBranch>> {
        let left = load.filesz - piece;
        // With so much of the next that none is missed.
        let size = left.min((PIECE + LONGEST_BRANCH - 1) as u64);
        let at = FileOffset(load.offset.0.saturating_add(piece));
        let mut code = self.source.bytes(at, size, "code")?;
        if size == left {
            code.push(NOP); // a call of five bytes may be the last
        }
        let start = load.vaddr.0.wrapping_add(piece);
        Ok(interiors.branches(&code, start).collect())
    }

    /// Words of data. In a PIE, only what can be written has addresses.
    fn addresses(&self, load: &Segment, interiors: &Interiors, found: &mut Reasons) -> Result<()> {
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
                    if let Some(number) = interiors.hit(word) {
                        let what = format!("data has the address {word:#x}, inside it");
                        found.insert(number, what);
                    }
                }
                Ok(())
            })
    }

    fn relocations(&self, interiors: &Interiors, found: &mut Reasons) -> Result<()> {
        let tables = [self.image.rela, self.image.jmprel];
        for table in tables.into_iter().flatten() {
            let count = table.size / Rela::size(self.image.format);
            let what = "the relocation table";
            self.source
                .for_each(table.at, count, what, |_, rela: Rela| {
                    let target = match rela.kind {
                        R_X86_64_RELATIVE => interiors.hit(rela.addend.cast_unsigned()),
                        _ => None,
                    };
                    let number = target.or_else(|| interiors.changed(rela.place.0));
                    if let Some(number) = number {
                        found.insert(number, "a relocation is about its first bytes".to_owned());
                    }
                    Ok(())
                })?;
        }
        Ok(())
    }
}

/// What looks like a branch: its address, where it leads, and whose that is.
type LikeBranch = (u64, u64, usize);

/// Why functions cannot be moved, by their numbers: the last that was found.
type Reasons = BTreeMap<usize, String>;

/// Addresses that nothing may lead to, and whose they are.
struct Interior {
    range: (u64, u64),
    number: usize,
}

/// All of them.
struct Interiors {
    /// In order; at least one.
    all: Vec<Interior>,
    /// From the first to behind the last.
    span: Range<u64>,
    /// None is a multiple of [`ALIGNMENT`]: what leads to such an address, as nearly all calls of an allocator
    /// do, leads to none of them.
    aligned: bool,
}

impl Interiors {
    /// `None` if there are none.
    fn new(mut all: Vec<Interior>) -> Option<Self> {
        all.sort_by_key(|interior| interior.range);
        let start = all.first()?.range.0;
        let end = all.iter().map(|interior| interior.range.1).max()?;
        let span = start..end;
        let mut ranges = all.iter().map(|interior| interior.range);
        let aligned = ranges.all(|(first, end)| align_down(end - 1, ALIGNMENT) < first);
        Some(Self { all, span, aligned })
    }

    /// Whose the `address` is.
    fn hit(&self, address: u64) -> Option<usize> {
        if !self.span.contains(&address) {
            return None;
        }
        let behind = self
            .all
            .partition_point(|interior| interior.range.0 <= address);
        let interior = self.all.get(behind.checked_sub(1)?)?;
        (address < interior.range.1).then_some(interior.number)
    }

    /// Whose first bytes a relocation of eight bytes at `place` changes.
    fn changed(&self, place: u64) -> Option<usize> {
        if place.saturating_add(8) < self.span.start || place >= self.span.end {
            return None;
        }
        let changed = self.all.iter().find(|interior| {
            let (start, end) = interior.range;
            overlap(place, 8, start - 1, end + 1 - start)
        });
        changed.map(|interior| interior.number)
    }

    /// What looks like a branch of 32 bits to one of them in the `code` at `start`, wherever it begins.
    fn branches(&self, code: &[u8], start: u64) -> impl Iterator<Item = LikeBranch> {
        let starts = (0..code.len()).step_by(BLOCK);
        let blocks = starts.map(move |skip| {
            let end = code.len().min(skip + BLOCK + LONGEST_BRANCH - 1);
            let block = code.get(skip..end).unwrap_or_default();
            (start.wrapping_add(skip as u64), block)
        });
        blocks
            .filter(|&(start, block)| self.may_be_led_to(block, start))
            .flat_map(|(start, block)| like_branches(block, start))
            .filter_map(|(place, target)| Some((place, target, self.hit(target)?)))
    }

    /// Whether any four bytes of the `code` at `start` may be a distance to one of them. (In a form that the
    /// compiler makes vector instructions of: this looks at each byte of hundreds of MB.)
    fn may_be_led_to(&self, code: &[u8], start: u64) -> bool {
        self.may_be_near(code, start) && self.may_be_hit(code, start)
    }

    /// The same by the upper halves of distances alone, of which few are possible in so little code: this takes a third
    /// of the time, and leaves most code out. (As a part of its caller, it is less of a loop.)
    #[inline(never)]
    fn may_be_near(&self, code: &[u8], start: u64) -> bool {
        let behind = start.wrapping_add(code.len() as u64);
        let half = |distance: u64| (distance >> 16 & u64::from(u16::MAX)) as u16;
        let least = half(self.span.start.wrapping_sub(behind));
        // The longest distance is as much longer than the shortest as both the span and the code are long.
        let span = self.span.end - self.span.start;
        let width = span.saturating_add(code.len() as u64);
        let width = u16::try_from((width >> 16) + 1).unwrap_or(u16::MAX);
        [2, 3].into_iter().any(|skip| {
            let (halves, _) = code.get(skip..).unwrap_or_default().as_chunks::<2>();
            let near = halves
                .iter()
                .map(|half| u16::from_le_bytes(*half).wrapping_sub(least) <= width);
            near.fold(false, |any, near| any | near)
        })
    }

    /// The same for all of a distance.
    fn may_be_hit(&self, code: &[u8], start: u64) -> bool {
        // Addresses modulo 4 GiB are enough to leave most code out.
        let low = |address: u64| (address & u64::from(u32::MAX)) as u32;
        let first = align_down(self.span.start, ALIGNMENT);
        let last = u32::try_from(self.span.end - 1 - first).unwrap_or(u32::MAX);
        let (mask, any) = match self.aligned {
            true => (low(ALIGNMENT - 1), 0),
            false => (0, 1),
        };
        (0..4_u64).zip(0..).any(|(phase, skip)| {
            let (words, _) = code.get(skip..).unwrap_or_default().as_chunks::<4>();
            // A distance counts from behind itself.
            let behind = low(start.wrapping_add(phase + 4).wrapping_sub(first));
            let places = (0..).map(|number: u32| behind.wrapping_add(number.wrapping_mul(4)));
            let leads = words.iter().zip(places).map(|(word, behind)| {
                let target = u32::from_le_bytes(*word).wrapping_add(behind);
                (target <= last) & ((target & mask) | any != 0)
            });
            leads.fold(false, |any, leads| any | leads)
        })
    }
}

/// What functions begin at a multiple of.
const ALIGNMENT: u64 = 16;
/// How many bytes of code are read together, and how many times that before what looks like a branch is looked into: a
/// file full of such takes five times the memory of these.
const PIECE: usize = 256 << 10;
const AT_ONCE: usize = 64;
/// How many bytes of code are looked at together.
const BLOCK: usize = 512;
/// What may stand behind code.
const NOP: u8 = 0x90;
/// Bytes of the longest branch of 32 bits.
const LONGEST_BRANCH: usize = 6;

/// What looks like a branch of 32 bits in the `code` at `start`, wherever it begins: its address, and where it leads.
fn like_branches(code: &[u8], start: u64) -> impl Iterator<Item = (u64, u64)> {
    let windows = code.windows(LONGEST_BRANCH);
    (start..).zip(windows).filter_map(|(place, bytes)| {
        let (size, distance) = match *bytes {
            [0xe8 | 0xe9, a, b, c, d, _] => (5, [a, b, c, d]),
            [0x0f, 0x80..=0x8f, a, b, c, d] => (6, [a, b, c, d]),
            _ => return None,
        };
        let distance = i64::from(i32::from_le_bytes(distance));
        let behind = place.wrapping_add(size);
        Some((place, behind.wrapping_add_signed(distance)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A branch is found wherever in a block it is, and over the end of one; and only if it leads inside.
    #[test]
    fn branches_anywhere() -> std::result::Result<(), &'static str> {
        for (start, ranges) in [
            (0x7000_0000_u64, &[(0x1001, 0x1008)][..]),
            (0x7000_0000, &[(0x1001, 0x1008), (0x200d, 0x2012)]),
            (0x6fff_fd00, &[(0xfffd, 0x1_0003)]),
            (0x20_0000, &[(0x28_fff1, 0x29_0002)]),
            (
                0xb000_0000,
                &[(0x1001, 0x1008), (0x1_0000_0ff9, 0x1_0000_1000)],
            ),
        ] {
            let all = ranges.iter().zip(7..);
            let all = all.map(|(&range, number)| Interior { range, number });
            let interiors = Interiors::new(all.collect()).ok_or("none")?;
            for at in 0..3 * BLOCK {
                for opcode in [&[0xe8][..], &[0xe9], &[0x0f, 0x84]] {
                    for (&(first, end), number) in ranges.iter().zip(7..) {
                        for target in [first - 1, first, end - 1, end] {
                            let place = start + at as u64;
                            let behind = place + opcode.len() as u64 + 4;
                            let Ok(distance) =
                                i32::try_from(target.cast_signed() - behind.cast_signed())
                            else {
                                continue;
                            };
                            let branch = [opcode, &distance.to_le_bytes()].concat();
                            let mut code = vec![NOP; 3 * BLOCK + 8];
                            code.splice(at..at + branch.len(), branch);
                            let found: Vec<_> = interiors.branches(&code, start).collect();
                            let inside = (first..end).contains(&target);
                            let expected = inside.then_some((place, target, number));
                            assert_eq!(found, Vec::from_iter(expected));
                        }
                    }
                }
            }
        }
        Ok(())
    }
}
