//! Going back where nothing grew: the result and some bits imply the original.
//!
//! A rewrite that keeps the file's size changes a known set of fields in a known way (see
//! docs/design.md). Read backwards from the tables of the result, they give the original's bytes,
//! but for what [`Implied`] holds. Nothing here depends on file offsets, so strip and objcopy may
//! have moved everything that the loader does not read.

mod overwritten;

use object::elf::{
    DF_1_INITFIRST, DT_FLAGS_1, DT_NEEDED, DT_NULL, DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ,
};

use self::overwritten::{Overwritten, hash, read_hash};
use super::{Word, short};
use crate::elf::{Class, Dyn, Entry, FileOffset, Rela, Vaddr};
use crate::error::Result;
use crate::layout::Layout;
use crate::names::FILLER;
use crate::parse::Image;
use crate::plan::{InitSymbol, Plan, Preinit};
use crate::recycle::{self, DeadSymbol, NAMES};
use crate::rewritten::Rewritten;
use crate::source::Source;
use crate::spans::{Content, Spans};

/// What the result does not say of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Implied {
    /// Which of [`NAMES`] the init symbol had.
    carrier: usize,
    /// Which of them, from the front, symbols had whose names were overwritten as well.
    renamed: [bool; 3],
    /// The last of those symbols comes first in .dynsym.
    swapped: bool,
    /// From the old place of the recycled relocation to the slot, in units of 8 bytes.
    distance: i32,
    /// The recycled relocation was an R_*_GLOB_DAT, not one like R_X86_64_64.
    glob_dat: bool,
    /// There was no DT_FLAGS_1.
    flags_are_new: bool,
    /// DF_1_INITFIRST was set.
    initfirst: bool,
    /// Which of the DT_NULLs had the value that the terminator has now: below 7, or none.
    spare: Option<u64>,
    /// Positions in their chains of DT_HASH, below 32, of the symbols that had these names.
    chain_positions: [u64; 3],
}

const DISTANCE_BITS: u32 = 20;

impl Implied {
    /// How many bits it takes.
    pub(super) const BITS: u32 = 2 + 3 + 4 + 3 + 3 * 5 + DISTANCE_BITS;

    pub(super) fn encode(self) -> u64 {
        let mut word = 0;
        let mut put = |bits: u32, field: u64| word = word << bits | field & ((1 << bits) - 1);
        put(2, self.carrier as u64);
        let flags = [
            self.swapped,
            self.glob_dat,
            self.flags_are_new,
            self.initfirst,
        ];
        for flag in self.renamed.into_iter().chain(flags) {
            put(1, u64::from(flag));
        }
        put(3, self.spare.unwrap_or(NO_SPARE));
        for position in self.chain_positions {
            put(5, position);
        }
        put(DISTANCE_BITS, u64::from(self.distance.cast_unsigned()));
        word
    }

    /// What the lowest [`Self::BITS`] of `word` say.
    pub(super) fn decode(word: u64) -> Self {
        let mut left = Self::BITS;
        let mut take = |bits: u32| {
            left -= bits;
            word >> left & ((1 << bits) - 1)
        };
        let carrier = take(2);
        let renamed = [(); 3].map(|()| take(1) == 1);
        let [swapped, glob_dat, flags_are_new, initfirst] = [(); 4].map(|()| take(1) == 1);
        let spare = Some(take(3)).filter(|&spare| spare != NO_SPARE);
        let chain_positions = [(); 3].map(|()| take(5));
        let distance = u32::try_from(take(DISTANCE_BITS)).unwrap_or(0);
        let unused = u32::BITS - DISTANCE_BITS;
        Self {
            carrier: usize::try_from(carrier).unwrap_or(0),
            renamed,
            swapped,
            distance: (distance << unused).cast_signed() >> unused,
            glob_dat,
            flags_are_new,
            initfirst,
            spare,
            chain_positions,
        }
    }
}

/// Stands for no DT_NULL.
const NO_SPARE: u64 = 7;

/// The word that leads back from `layout`, if it does: tried out before it is trusted.
pub(super) fn find(
    source: &Source,
    image: &Image,
    plan: &Plan,
    layout: &Layout,
) -> Result<Option<Word>> {
    if image.format.class == Class::Elf32 {
        return Ok(None); // there are no 64 bits that nobody reads
    }
    let Some((implied, hints)) = describe(source, image, plan, layout)? else {
        return Ok(None);
    };
    let result = source.through(&layout.spans);
    let Some(edits) = implied.edits(&result, &Image::parse(&result)?, &hints)? else {
        return Ok(None);
    };
    let word = Word::Implied(implied, short(edits.sum()));
    let back = edits.spans(&result).map(|back| back.over(&layout.spans));
    let Some(changed) = back.as_ref().and_then(|back| back.edits(source.len())) else {
        return Ok(None);
    };
    for (at, bytes) in changed {
        if source.bytes(at, bytes.len() as u64, "changed bytes")? != bytes {
            return Ok(None);
        }
    }
    Ok(Some(word))
}

/// Where the changes are in the result.
pub(super) struct Hints {
    slot: Vaddr,
    /// Index in .rela.dyn of the relocation that fills the slot.
    relocation: u64,
    /// Index in .dynsym of the init symbol.
    init: u32,
    /// Indices in .dynsym of the symbols that are called [`FILLER`], in order.
    renamed: Vec<u32>,
}

impl Hints {
    /// Looks for them in a rewritten file.
    pub(super) fn search(source: &Source, image: &Image, found: &Rewritten) -> Result<Self> {
        let mut renamed = Vec::new();
        recycle::for_each_weak_undefined(source, image, |index, symbol| {
            let filler = image.which(source, u64::from(symbol.name), &[FILLER])?;
            renamed.extend(filler.map(|_| index));
            Ok(())
        })?;
        Ok(Self {
            slot: found.slot,
            relocation: found.relocation,
            init: found.symbol,
            renamed,
        })
    }
}

/// What the plan recycled, if that is all that it did.
fn describe(
    source: &Source,
    image: &Image,
    plan: &Plan,
    layout: &Layout,
) -> Result<Option<(Implied, Hints)>> {
    let InitSymbol::Recycled { dead, relocation } = &plan.init_symbol else {
        return Ok(None);
    };
    if layout.spans.len() != source.len() || !matches!(plan.preinit, Preinit::Terminator) {
        return Ok(None);
    }
    let at = image
        .rela
        .and_then(|table| table.at.checked_add(Rela::size(image.format) * relocation));
    let old: Vec<Rela> = match at {
        Some(at) => source.table(at, 1, "the relocation table")?,
        None => Vec::new(),
    };
    let name = |dead: &DeadSymbol| NAMES.iter().position(|&other| other == dead.name);
    let (Some(old), Some(carrier)) = (old.first(), name(dead)) else {
        return Ok(None);
    };
    let Some(distance) = distance(layout.slot, old.place) else {
        return Ok(None);
    };
    let renamed: Vec<&DeadSymbol> = plan.names.renamed.iter().map(|(dead, _)| dead).collect();
    let flags = image.dynamic.get(DT_FLAGS_1);
    let taken = plan.dynamic.entries.len() - image.dynamic.entries.len();
    let spare = image
        .dynamic
        .spare
        .iter()
        .take(taken)
        .position(|&value| value != 0);
    let implied = Implied {
        carrier,
        renamed: NAMES.map(|name| renamed.iter().any(|dead| dead.name == name)),
        swapped: !renamed.is_sorted_by_key(|dead| dead.index),
        distance,
        glob_dat: old.kind == image.format.relocations.glob_dat,
        flags_are_new: flags.is_none(),
        initfirst: flags.unwrap_or(0) & DF_1_INITFIRST.0 != 0,
        spare: spare.map(|spare| spare as u64),
        chain_positions: chain_positions(source, image, dead, &renamed)?,
    };
    let mut renamed: Vec<u32> = renamed.iter().map(|dead| dead.index).collect();
    renamed.sort_unstable();
    let hints = Hints {
        slot: layout.slot,
        relocation: *relocation,
        init: dead.index,
        renamed,
    };
    // What does not fit its bits cannot be told.
    Ok((Implied::decode(implied.encode()) == implied).then_some((implied, hints)))
}

/// Where in DT_HASH the layout finds the symbols that it takes out, in its order.
fn chain_positions(
    source: &Source,
    image: &Image,
    carrier: &DeadSymbol,
    renamed: &[&DeadSymbol],
) -> Result<[u64; 3]> {
    let mut positions = [0; 3];
    let Some(table) = image.sysv_hash else {
        return Ok(positions);
    };
    let mut hash = read_hash(source, table)?;
    for dead in renamed.iter().copied().chain([carrier]) {
        for (position, name) in positions.iter_mut().zip(NAMES) {
            if name == dead.name {
                *position = hash.position(dead.index, name).unwrap_or(u64::MAX);
            }
        }
        hash.remove(dead.index);
        hash.insert(dead.index, FILLER, 0);
    }
    Ok(positions)
}

/// From `place` to `slot` in units of 8 bytes.
fn distance(slot: Vaddr, place: Vaddr) -> Option<i32> {
    let bytes = slot.0.wrapping_sub(place.0).cast_signed();
    let units = i32::try_from(bytes / 8).ok()?;
    (bytes % 8 == 0).then_some(units)
}

/// Bytes of the original, and where they go.
type Edit = (FileOffset, Vec<u8>);

/// The original's bytes, where they are others than the result's.
pub(super) struct Edits(Vec<Edit>);

impl Edits {
    /// A checksum of the original's bytes.
    pub(super) fn sum(&self) -> u32 {
        let mut sum = crc32fast::Hasher::new();
        for (_, bytes) in &self.0 {
            sum.update(bytes);
        }
        sum.finalize()
    }

    /// The original, made from the result.
    pub(super) fn spans(self, result: &Source) -> Option<Spans> {
        let mut spans = Spans::copy(result.len());
        for (at, bytes) in self.0 {
            spans.put(at, bytes.len() as u64, Content::Bytes(bytes))?;
        }
        Some(spans)
    }
}

impl Implied {
    /// What to change in the result to have the original; `None` if the result is not of the kind
    /// that a rewrite makes.
    pub(super) fn edits(
        &self,
        result: &Source,
        image: &Image,
        hints: &Hints,
    ) -> Result<Option<Edits>> {
        let Some(overwritten) = self.overwritten(result, image, hints)? else {
            return Ok(None);
        };
        let mut edits = Vec::new();
        for symbol in &overwritten {
            edits.extend(symbol.edits(result, image)?);
        }
        edits.extend(hash(result, image, &overwritten)?);
        edits.extend(self.relocation(image, hints));
        let dynamic = self.dynamic(image);
        Ok(dynamic.map(|dynamic| {
            edits.push(dynamic);
            Edits(edits)
        }))
    }

    /// The symbols that lost their names: the init symbol, and in the order of their names, those
    /// that have none now.
    fn overwritten(
        &self,
        result: &Source,
        image: &Image,
        hints: &Hints,
    ) -> Result<Option<Vec<Overwritten>>> {
        let symbol =
            |index: u32, name: usize, string: Option<u64>| -> Result<Option<Overwritten>> {
                let known = NAMES.get(name).zip(self.chain_positions.get(name));
                let found = image.symbol(result, index)?.zip(known);
                Ok(found.map(|(symbol, (&name, &position))| Overwritten {
                    index,
                    symbol,
                    name,
                    position,
                    string: string.unwrap_or(u64::from(symbol.name)),
                }))
            };
        // The init symbol's name is the first in the room of its own old one.
        let Some(carrier) = symbol(hints.init, self.carrier, None)? else {
            return Ok(None);
        };
        let mut indices = hints.renamed.clone();
        if self.swapped {
            indices.reverse();
        }
        // The strings that found no room there are the first in the others'.
        let mut entries = image.dynamic.entries.iter();
        let needed = entries.find(|entry| entry.tag == DT_NEEDED);
        let mut strings: Vec<u64> = needed.map(|entry| entry.value).into_iter().collect();
        if let Some(&index) = indices.first() {
            let filler = symbol(index, self.carrier, None)?;
            strings.extend(filler.map(|filler| filler.string));
        }
        strings.retain(|&string| !carrier.has_room_of(string));
        let names = (0..NAMES.len()).filter(|&name| self.renamed[name]);
        let others: Vec<(usize, u32)> = names.zip(indices).collect();
        if others.len() == 1 {
            strings.sort_unstable();
        }
        let mut all = vec![carrier];
        for ((name, index), string) in others.iter().zip(&strings) {
            all.extend(symbol(*index, *name, Some(*string))?);
        }
        Ok((all.len() == 1 + others.len()).then_some(all))
    }

    fn relocation(&self, image: &Image, hints: &Hints) -> Option<Edit> {
        let skip = Rela::size(image.format).checked_mul(hints.relocation)?;
        let at = image.rela?.at.checked_add(skip)?;
        let distance = 8 * i64::from(self.distance);
        let old = Rela {
            place: Vaddr(hints.slot.0.wrapping_sub(distance.cast_unsigned())),
            symbol: hints.init,
            kind: match self.glob_dat {
                true => image.format.relocations.glob_dat,
                false => image.format.relocations.symbolic,
            },
            addend: 0,
        };
        Some((at, old.encode(image.format)))
    }

    /// .dynamic without what was added at its end, DT_NEEDED without its first, and the slot, which
    /// is in the last DT_NULL.
    fn dynamic(&self, image: &Image) -> Option<Edit> {
        let dynamic = &image.dynamic;
        let mut entries = dynamic.entries.clone();
        let mut pop = |tag| entries.pop().filter(|entry: &Dyn| entry.tag == tag);
        pop(DT_PREINIT_ARRAYSZ)?;
        pop(DT_PREINIT_ARRAY)?;
        if self.flags_are_new {
            pop(DT_FLAGS_1)?;
        }
        pop(DT_NEEDED)?;
        let all = dynamic.entries.iter();
        let mut carried = all.filter(|entry| entry.tag == DT_NEEDED).skip(1);
        for entry in &mut entries {
            if entry.tag == DT_NEEDED {
                entry.value = carried.next()?.value;
            }
        }
        let flags = entries.iter_mut().rfind(|entry| entry.tag == DT_FLAGS_1);
        if let Some(flags) = flags.filter(|_| !self.initfirst) {
            flags.value &= !DF_1_INITFIRST.0;
        }
        let mut spare = dynamic.spare.clone();
        spare.splice(0..0, vec![0; dynamic.entries.len() - entries.len()]);
        *spare.last_mut()? = 0;
        if let Some(position) = self.spare {
            let kept = spare.get_mut(dynamic.entries.len() - entries.len());
            let value = std::mem::take(kept?);
            *spare.get_mut(usize::try_from(position).ok()?)? = value;
        }
        let null = |value| Dyn {
            tag: DT_NULL,
            value,
        };
        entries.extend(spare.into_iter().map(null));
        Some((dynamic.table.at, Dyn::encode_all(&entries, image.format)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_is_decoded() {
        let implied = Implied {
            carrier: 2,
            renamed: [true, true, false],
            swapped: true,
            distance: -5,
            glob_dat: false,
            flags_are_new: true,
            initfirst: false,
            spare: None,
            chain_positions: [31, 0, 7],
        };
        assert_eq!(Implied::decode(implied.encode()), implied);
        assert_eq!(implied.encode() >> Implied::BITS, 0);
        let far = Implied {
            distance: 1 << 19,
            ..implied
        };
        assert_ne!(Implied::decode(far.encode()), far);
    }
}
