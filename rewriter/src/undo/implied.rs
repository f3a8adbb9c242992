//! Going back where nothing grew: the result and 43 bits imply the original.
//!
//! A rewrite that keeps the file's size changes a known set of fields in a known way (see
//! docs/design.md). Read backwards from the tables of the result, they give the original's bytes,
//! but for what [`Implied`] holds. Nothing here depends on file offsets, so strip and objcopy may
//! have moved everything that the loader does not read.

use object::elf::{
    DF_1_INITFIRST, DT_FLAGS_1, DT_NEEDED, DT_NULL, DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ,
    R_X86_64_64, R_X86_64_GLOB_DAT, STB_WEAK, STT_NOTYPE, SymbolInfo,
};

use super::{Word, short};
use crate::elf::{Dyn, Entry, FileOffset, Rela, Symbol, Vaddr};
use crate::error::Result;
use crate::layout::Layout;
use crate::names::FILLER;
use crate::parse::{Image, Table};
use crate::plan::{InitSymbol, Plan, Preinit};
use crate::recycle::{self, NAMES};
use crate::rewritten::Rewritten;
use crate::source::Source;
use crate::spans::{Content, Spans};
use crate::sysv_hash::SysvHash;

/// What the result does not say of the original.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Implied {
    /// Which of [`NAMES`] the init symbol had.
    carrier: usize,
    /// Which of them the symbol had whose name was overwritten as well, if there is one.
    renamed: Option<usize>,
    /// From the old place of the recycled relocation to the slot, in units of 8 bytes.
    distance: i32,
    /// The recycled relocation was an R_X86_64_GLOB_DAT, not an R_X86_64_64.
    glob_dat: bool,
    /// There was no DT_FLAGS_1.
    flags_are_new: bool,
    /// DF_1_INITFIRST was set.
    initfirst: bool,
    /// Positions of the two symbols in their chains of DT_HASH: below 32.
    chain_positions: [u64; 2],
}

const DISTANCE_BITS: u32 = 26;

impl Implied {
    pub(super) fn encode(self) -> u64 {
        let renamed = self.renamed.map_or(3, |name| name as u64);
        let distance = u64::from(self.distance.cast_unsigned()) & ((1 << DISTANCE_BITS) - 1);
        let flags = [self.glob_dat, self.flags_are_new, self.initfirst];
        let flags = flags
            .iter()
            .fold(0, |sum, &flag| sum << 1 | u64::from(flag));
        let [first, second] = self.chain_positions;
        let fields = [
            (self.carrier as u64, 2),
            (renamed, 2),
            (flags, 3),
            (first, 5),
            (second, 5),
            (distance, DISTANCE_BITS),
        ];
        fields
            .iter()
            .fold(0, |word, &(field, bits)| word << bits | field)
    }

    /// The lowest 43 bits of `word`.
    pub(super) fn decode(word: u64) -> Self {
        let mut word = word;
        let mut take = |bits: u32| {
            let field = word & ((1 << bits) - 1);
            word >>= bits;
            field
        };
        let distance = take(DISTANCE_BITS);
        let (second, first) = (take(5), take(5));
        let flags = take(3);
        let index = |name: u64| NAMES.iter().zip(0..).position(|(_, index)| index == name);
        let (renamed, carrier) = (index(take(2)), index(take(2)));
        let unused = u32::BITS - DISTANCE_BITS;
        let distance = u32::try_from(distance).unwrap_or(0);
        Self {
            carrier: carrier.unwrap_or(0),
            renamed,
            distance: (distance << unused).cast_signed() >> unused,
            glob_dat: flags & 4 != 0,
            flags_are_new: flags & 2 != 0,
            initfirst: flags & 1 != 0,
            chain_positions: [first, second],
        }
    }
}

/// The word that leads back from `layout`, if it does: tried out before it is trusted.
pub(super) fn find(
    source: &Source,
    image: &Image,
    plan: &Plan,
    layout: &Layout,
) -> Result<Option<Word>> {
    let Some((implied, hints)) = describe(source, image, plan, layout)? else {
        return Ok(None);
    };
    let result = source.through(&layout.spans)?;
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
    /// Index in .dynsym of the symbol that is called [`FILLER`].
    renamed: Option<u32>,
}

impl Hints {
    /// Looks for them in a rewritten file.
    pub(super) fn search(source: &Source, image: &Image, found: &Rewritten) -> Result<Self> {
        let mut renamed = None;
        recycle::for_each_weak_undefined(source, image, |index, symbol| {
            if image.string(source, u64::from(symbol.name))? == FILLER.as_bytes() {
                renamed = Some(index);
            }
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
    let name = |name: &str| NAMES.iter().position(|&other| other == name);
    let renamed = match &*plan.names.renamed {
        [] => None,
        [(other, _)] => Some(other),
        _ => return Ok(None),
    };
    let Some(table) = image.rela else {
        return Ok(None);
    };
    let at = FileOffset(table.at.0 + Rela::SIZE * relocation);
    let old: Vec<Rela> = source.table(at, 1, "the relocation table")?;
    let (Some(old), Some(carrier)) = (old.first(), name(dead.name)) else {
        return Ok(None);
    };
    let Some(distance) = distance(layout.slot, old.place) else {
        return Ok(None);
    };
    let flags = image.dynamic.get(DT_FLAGS_1);
    let mut chain_positions = [0; 2];
    if let Some(hash) = image.sysv_hash {
        let mut hash = read_hash(source, hash)?;
        // In the order in which the layout takes them out.
        let far = u64::MAX; // does not fit, so that it is noticed
        if let Some(other) = renamed {
            chain_positions[1] = hash.position(other.index, other.name).unwrap_or(far);
            hash.remove(other.index);
            hash.insert(other.index, FILLER, 0);
        }
        chain_positions[0] = hash.position(dead.index, dead.name).unwrap_or(far);
    }
    let implied = Implied {
        carrier,
        renamed: renamed.and_then(|other| name(other.name)),
        distance,
        glob_dat: old.kind == R_X86_64_GLOB_DAT,
        flags_are_new: flags.is_none(),
        initfirst: flags.unwrap_or(0) & DF_1_INITFIRST.0 != 0,
        chain_positions,
    };
    let hints = Hints {
        slot: layout.slot,
        relocation: *relocation,
        init: dead.index,
        renamed: renamed.map(|other| other.index),
    };
    // What does not fit its bits cannot be told.
    Ok((Implied::decode(implied.encode()) == implied).then_some((implied, hints)))
}

/// From `place` to `slot` in units of 8 bytes.
fn distance(slot: Vaddr, place: Vaddr) -> Option<i32> {
    let bytes = slot.0.wrapping_sub(place.0).cast_signed();
    let units = i32::try_from(bytes / 8).ok()?;
    (bytes % 8 == 0).then_some(units)
}

fn read_hash(source: &Source, table: Table) -> Result<SysvHash> {
    let bytes = source.bytes(table.at, table.size, "the DT_HASH table")?;
    SysvHash::decode(&bytes).ok_or_else(|| source.malformed("its DT_HASH table has no buckets"))
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
        let Some(names) = Names::find(self, result, image, hints)? else {
            return Ok(None);
        };
        let mut edits = names.edits(image);
        edits.extend(self.symbols(result, image, hints, &names)?);
        edits.extend(self.hash(result, image, hints)?);
        edits.extend(self.relocation(image, hints));
        let dynamic = self.dynamic(image);
        Ok(dynamic.map(|entries| {
            edits.push((image.dynamic.table.at, entries));
            Edits(edits)
        }))
    }

    fn symbols(
        &self,
        result: &Source,
        image: &Image,
        hints: &Hints,
        names: &Names,
    ) -> Result<Vec<Edit>> {
        let mut edits = Vec::new();
        let mut edit = |index: u32, name: u64| -> Result<()> {
            let at = FileOffset(image.symtab.at.0 + Symbol::SIZE * u64::from(index));
            let symbols: Vec<Symbol> = result.table(at, 1, "the dynamic symbol table")?;
            edits.extend(symbols.into_iter().map(|symbol| {
                let info = SymbolInfo::new(STB_WEAK, STT_NOTYPE);
                let name = u32::try_from(name).unwrap_or(u32::MAX);
                (
                    at,
                    Symbol {
                        name,
                        info,
                        ..symbol
                    }
                    .encode(),
                )
            }));
            Ok(())
        };
        edit(hints.init, names.carrier.0)?;
        if let (Some(index), Some((name, _))) = (hints.renamed, names.renamed) {
            edit(index, name)?;
        }
        Ok(edits)
    }

    fn hash(&self, result: &Source, image: &Image, hints: &Hints) -> Result<Option<Edit>> {
        let Some(table) = image.sysv_hash else {
            return Ok(None);
        };
        let mut hash = read_hash(result, table)?;
        let [first, second] = self.chain_positions;
        hash.remove(hints.init);
        hash.insert(hints.init, NAMES[self.carrier], first);
        if let (Some(index), Some(name)) = (hints.renamed, self.renamed) {
            hash.remove(index);
            hash.insert(index, NAMES[name], second);
        }
        Ok(Some((table.at, hash.encode())))
    }

    fn relocation(&self, image: &Image, hints: &Hints) -> Option<Edit> {
        let at = image
            .rela?
            .at
            .checked_add(Rela::SIZE.checked_mul(hints.relocation)?)?;
        let distance = 8 * i64::from(self.distance);
        let old = Rela {
            place: Vaddr(hints.slot.0.wrapping_sub(distance.cast_unsigned())),
            symbol: hints.init,
            kind: match self.glob_dat {
                true => R_X86_64_GLOB_DAT,
                false => R_X86_64_64,
            },
            addend: 0,
        };
        Some((at, old.encode()))
    }

    /// .dynamic without what was added at its end, and DT_NEEDED without its first.
    fn dynamic(&self, image: &Image) -> Option<Vec<u8>> {
        let mut entries = image.dynamic.entries.clone();
        let capacity = image.dynamic.capacity;
        let mut pop = |tag| entries.pop().filter(|entry: &Dyn| entry.tag == tag);
        pop(DT_PREINIT_ARRAYSZ)?;
        pop(DT_PREINIT_ARRAY)?;
        if self.flags_are_new {
            pop(DT_FLAGS_1)?;
        }
        pop(DT_NEEDED)?;
        let mut carried = image
            .dynamic
            .entries
            .iter()
            .filter(|entry| entry.tag == DT_NEEDED);
        carried.next();
        for entry in &mut entries {
            if entry.tag == DT_NEEDED {
                entry.value = carried.next()?.value;
            } else if entry.tag == DT_FLAGS_1 && !self.initfirst {
                entry.value &= !DF_1_INITFIRST.0;
            }
        }
        let null = Dyn {
            tag: DT_NULL,
            value: 0,
        };
        entries.resize(capacity, null);
        Some(entries.iter().flat_map(|entry| entry.encode()).collect())
    }
}

/// The overwritten names: offset in .dynstr, and which of [`NAMES`] it was.
struct Names {
    carrier: (u64, usize),
    renamed: Option<(u64, usize)>,
}

impl Names {
    fn find(
        implied: &Implied,
        result: &Source,
        image: &Image,
        hints: &Hints,
    ) -> Result<Option<Self>> {
        let name_of = |index: u32| -> Result<u64> {
            let at = FileOffset(image.symtab.at.0 + Symbol::SIZE * u64::from(index));
            let symbols: Vec<Symbol> = result.table(at, 1, "the dynamic symbol table")?;
            Ok(symbols.first().map_or(0, |symbol| u64::from(symbol.name)))
        };
        // The init symbol's name is the first in the room of its carrier's.
        let carrier = (name_of(hints.init)?, implied.carrier);
        let inside = |at: u64| {
            at.checked_sub(carrier.0)
                .is_some_and(|skip| skip < size_of(carrier.1))
        };
        let renamed = match (implied.renamed, hints.renamed) {
            (None, _) => None,
            (Some(name), Some(index)) => {
                // Its room is that of the strings which found none there.
                let needed = image.dynamic.get(DT_NEEDED).unwrap_or(0);
                let strings = [needed, name_of(index)?];
                let start = strings.into_iter().filter(|&at| !inside(at)).min();
                let Some(start) = start else { return Ok(None) };
                Some((start, name))
            }
            (Some(_), None) => return Ok(None),
        };
        Ok(Some(Self { carrier, renamed }))
    }

    fn edits(&self, image: &Image) -> Vec<Edit> {
        let names = [Some(self.carrier), self.renamed].into_iter().flatten();
        let edit = |(offset, name): (u64, usize)| {
            let mut bytes = NAMES[name].as_bytes().to_vec();
            bytes.push(0);
            (FileOffset(image.strtab.at.0.saturating_add(offset)), bytes)
        };
        names.map(edit).collect()
    }
}

/// Bytes of a name with its NUL.
fn size_of(name: usize) -> u64 {
    NAMES[name].len() as u64 + 1
}
