//! Recognises an executable that is rewritten already.
//!
//! Its first preinit entry is filled by a relocation against an undefined symbol, and
//! DF_1_INITFIRST is set; of the two, shared sanitizer runtimes have the first, and no linker sets
//! the second by itself. What was linked with the twin of a rewrite (`object_file`) lacks the second: bfd and
//! gold do not set it in executables even if they are asked to. There the own runtime's init symbol tells.
//! One for musl has a trampoline at its entry point instead of the entry.

use object::elf::{DF_1_INITFIRST, DT_FLAGS_1};

use crate::elf::{Entry, Rela, Symbol, Vaddr};
use crate::error::Result;
use crate::parse::Image;
use crate::phase::Phase;
use crate::source::Source;

/// What a rewritten executable starts with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Rewritten {
    /// Address of the entry that the loader fills.
    pub(crate) slot: Vaddr,
    /// Index in .rela.dyn of the relocation that says with what.
    pub(crate) relocation: u64,
    /// Index in .dynsym of the init symbol.
    pub(crate) symbol: u32,
    /// The init symbol's name.
    pub(crate) init: String,
    /// The runtime's DT_NEEDED string.
    pub(crate) needed: String,
    /// It was not rewritten but linked with the twin of a rewrite.
    pub(crate) linked: bool,
}

/// What the program starts with, if it is rewritten. `preinit` are the relocations of its preinit
/// entries, with their index in .rela.dyn, if they are known already.
pub(crate) fn recognise(
    source: &Source,
    image: &Image,
    preinit: Option<&[(u64, Rela)]>,
) -> Result<Option<Rewritten>> {
    let flags = image.dynamic.get(DT_FLAGS_1).unwrap_or(0);
    let of_array = image.preinit.map(|array| array.vaddr);
    let slot = of_array.or(image.trampoline.map(|trampoline| trampoline.slot));
    let Some(slot) = slot else {
        return Ok(None);
    };
    let found = match (of_array, preinit) {
        (Some(_), Some(known)) => known
            .iter()
            .find(|(_, rela)| fills(image, rela, slot))
            .copied(),
        _ => search(source, image, slot)?,
    };
    let Some((relocation, rela)) = found else {
        return Ok(None);
    };
    let symbol = image.symbol(source, rela.symbol)?;
    let Some(symbol) = symbol.filter(Symbol::is_undefined) else {
        return Ok(None);
    };
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    let init = text(image.string(source, u64::from(symbol.name))?);
    let linked = flags & DF_1_INITFIRST.0 == 0;
    if linked && !Phase::is_own_init(&init) {
        return Ok(None);
    }
    let needed = image.needed(source)?.into_iter().next();
    Ok(Some(Rewritten {
        slot,
        relocation,
        symbol: rela.symbol,
        init,
        needed: text(needed.unwrap_or_default()),
        linked,
    }))
}

fn fills(image: &Image, rela: &Rela, slot: Vaddr) -> bool {
    rela.place == slot && rela.kind == image.format.relocations.symbolic
}

/// Looks for the relocation that fills `slot`.
fn search(source: &Source, image: &Image, slot: Vaddr) -> Result<Option<(u64, Rela)>> {
    let mut found = None;
    if let Some(table) = image.rela {
        let count = table.size / Rela::size(image.format);
        source.for_each(table.at, count, "the relocation table", |index, rela| {
            found = found.or(Some((index, rela)).filter(|(_, rela)| fills(image, rela, slot)));
            Ok(())
        })?;
    }
    Ok(found)
}
