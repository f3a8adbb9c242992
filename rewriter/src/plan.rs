//! [`Image`] + [`Request`] → [`Plan`]: what changes, table by table, and which way.
//!
//! Each table is decided on its own: what the start files left unused is recycled where that is
//! possible, and only what has to grow moves. There are no file offsets or addresses of anything
//! new here; `layout` gives them.

use object::elf::{
    DF_1_INITFIRST, DT_FLAGS_1, DT_NEEDED, DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, DynamicTag,
    STB_GLOBAL, STT_NOTYPE, SymbolInfo,
};

use crate::elf::{Addends, Dyn, Entry, Rela, Segment, Symbol};
use crate::error::Result;
use crate::headers::{self, DynamicMove, Growing, Headers};
use crate::names::{self, Names, Needed, Strings};
use crate::parse::Image;
use crate::phase::Phase;
use crate::recycle::{DeadSymbol, Findings};
use crate::room::{self, Room, Wanted};
use crate::runtime::Request;
use crate::source::Source;
use crate::unwind::{Grown, Unwinding};

/// Where the init symbol goes in .dynsym.
#[derive(Clone, Debug)]
pub(crate) enum InitSymbol {
    /// In the place of a dead one, whose only relocation is at `relocation` in .rela.dyn.
    Recycled { dead: DeadSymbol, relocation: u64 },
    /// At the end, which makes .dynsym and .rela.dyn grow.
    Appended,
}

/// Where the preinit array of the result is.
#[derive(Clone, Debug)]
pub(crate) enum Preinit {
    /// In the d_un of the last DT_NULL, which no reader of .dynamic looks at (gABI, "Dynamic
    /// Section"): a word under RELRO that every executable has, and enough for one entry.
    Terminator,
    /// The program's own entries stay, and the new one goes in front of them.
    Extended,
    /// The program's own entries move to stand behind the new one.
    Moved(MovedEntries),
}

/// Preinit entries of the program's own that move.
#[derive(Clone, Debug, Default)]
pub(crate) struct MovedEntries {
    /// Their values in the file.
    pub(crate) values: Vec<u64>,
    /// Those (by number) that move away from a DT_RELR relocation and need one of their own.
    pub(crate) unpacked: Vec<u64>,
}

impl Preinit {
    /// Bytes of room that the array needs, with entries of `word` bytes.
    pub(crate) fn wanted(&self, word: u64) -> u64 {
        match self {
            Self::Terminator => 0,
            Self::Extended => word,
            Self::Moved(entries) => word * (entries.values.len() as u64 + 1),
        }
    }

    /// True if the program's own entries leave their place.
    fn moves(&self) -> bool {
        matches!(self, Self::Moved(_))
    }

    /// Number of relocations that moved entries need.
    fn relocations(&self) -> u64 {
        match self {
            Self::Moved(entries) => entries.unpacked.len() as u64,
            _ => 0,
        }
    }
}

/// .dynamic of the result, DT_PREINIT_ARRAY and all addresses of moved tables still as before.
#[derive(Clone, Debug)]
pub(crate) struct DynamicPlan {
    pub(crate) entries: Vec<Dyn>,
    pub(crate) moves: DynamicMove,
    /// How many DT_NULLs it ends with at least.
    pub(crate) nulls: usize,
}

/// Everything that changes.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) names: Names,
    pub(crate) init_symbol: InitSymbol,
    pub(crate) preinit: Preinit,
    pub(crate) dynamic: DynamicPlan,
    /// Room for the array's new entries and .dynamic, where they need any.
    pub(crate) room: Option<Room>,
    /// The tables that move into a new read-only segment, and room for program headers.
    pub(crate) headers: Headers,
}

impl Plan {
    pub(crate) fn make(
        source: &Source,
        image: &Image,
        findings: &Findings,
        request: Request<'_>,
    ) -> Result<Self> {
        let diverting = request.diversion.kinds();
        let init_symbol = match diverting.is_empty() && !image.format.is_got_ordered() {
            true => plan_init_symbol(&findings.dead),
            // The tables grow in any case; or the start files would find the init symbol in the GOT, and call it.
            false => InitSymbol::Appended,
        };
        let listed = position_of(source, image, request.needed)?;
        let carrier = match &init_symbol {
            InitSymbol::Recycled { dead, .. } => Some(dead),
            InitSymbol::Appended => None,
        };
        let wanted = Strings {
            init: request.init,
            needed: match listed {
                Some(position) => Needed::Present(needed_value(image, position)),
                None => Needed::New(request.needed),
            },
            diverting: diverting.iter().map(|kind| kind.symbol()).collect(),
        };
        let names = names::plan(image, findings, carrier, &wanted);
        let fixed = Fixed {
            names,
            init_symbol,
            listed,
            phase: request.phase,
            slots: request.diversion.slots_size(),
            unwinding: request.diversion.unwinding.as_ref().map(Unwinding::grown),
        };
        let plan = fixed.plan(source, image, findings, Segments::AsTheyAre)?;
        match plan {
            Some(plan) => Ok(plan),
            None => fixed
                .plan(source, image, findings, Segments::OneMore)?
                .ok_or_else(|| source.malformed("its segments have no room")),
        }
    }
}

/// Whether what is written during relocation gets a segment of its own.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Segments {
    AsTheyAre,
    OneMore,
}

/// What is decided before it is known where there is room.
#[derive(Clone)]
struct Fixed {
    names: Names,
    init_symbol: InitSymbol,
    /// Position of the runtime among the DT_NEEDED entries, if it is there.
    listed: Option<usize>,
    phase: Phase,
    /// Bytes of the slots that lead to the runtime's functions for the program's own allocator.
    slots: u64,
    /// What has to grow for unwinding out of the code in front of those.
    unwinding: Option<[Grown; 2]>,
}

impl Fixed {
    /// The rest; `None` if there is no room in the segments as they are.
    fn plan(
        &self,
        source: &Source,
        image: &Image,
        findings: &Findings,
        segments: Segments,
    ) -> Result<Option<Plan>> {
        let apart = segments == Segments::OneMore;
        let preinit = plan_preinit(source, image, findings, apart)?;
        let appended = matches!(self.init_symbol, InitSymbol::Appended);
        let grows = appended || preinit.relocations() > 0;
        let entries = dynamic_entries(image, &self.names, self.listed, grows, self.phase);
        let nulls = nulls(image, &preinit);
        let short = (entries.len() + nulls).saturating_sub(image.dynamic.capacity());
        let read_only = image.dynamic_is_read_only();
        let growing = Growing {
            names: self.names.appended_size(),
            symbols: u64::from(appended) + self.slots / 8,
            relocations: u64::from(appended) + preinit.relocations() + self.slots / 8,
            dynamic: if read_only { short as u64 } else { 0 },
            code: self.phase == Phase::Entry,
            diverted: self.slots > 0,
            unwinding: self.unwinding,
            apart,
        };
        let left = image.preinit.filter(|_| preinit.moves());
        let headers = headers::plan(source, image, growing, left)?;
        let dynamic = DynamicPlan {
            moves: match headers.dynamic {
                DynamicMove::Stays if short > 0 => DynamicMove::Room,
                moves => moves,
            },
            entries,
            nulls,
        };
        let preinit = match dynamic.moves {
            DynamicMove::Room => preinit,
            _ => protect(preinit, source, image, findings)?,
        };
        let wanted = Wanted {
            dynamic: match dynamic.moves {
                DynamicMove::Room => {
                    (dynamic.entries.len() + nulls) as u64 * Dyn::size(image.format)
                }
                _ => 0,
            },
            slots: self.slots,
            array: preinit.wanted(image.format.word()),
            in_front: matches!(preinit, Preinit::Extended),
        };
        let room = match (wanted.total(), segments) {
            (0, _) => None,
            (_, Segments::OneMore) => Some(room::apart(source, image, wanted)?),
            (_, Segments::AsTheyAre) => match room::find(source, image, findings, wanted)? {
                None => return Ok(None),
                room => room,
            },
        };
        let fixed = self.clone();
        Ok(Some(Plan {
            names: fixed.names,
            init_symbol: fixed.init_symbol,
            preinit,
            dynamic,
            room,
            headers,
        }))
    }
}

/// How many DT_NULLs the result's .dynamic needs at its end: one. Where addends are implicit, the value of the first
/// leads back (see `undo`), and that of the last may be the slot.
fn nulls(image: &Image, preinit: &Preinit) -> usize {
    match (image.format.relocations.addends, preinit) {
        (Addends::Implicit, Preinit::Terminator) => 2,
        _ => 1,
    }
}

fn plan_init_symbol(dead: &[DeadSymbol]) -> InitSymbol {
    let usable = dead
        .iter()
        .find_map(|dead| dead.relocation.map(|relocation| (dead.clone(), relocation)));
    match usable {
        Some((dead, relocation)) => InitSymbol::Recycled { dead, relocation },
        None => InitSymbol::Appended,
    }
}

/// The init symbol as it stands in .dynsym, undefined and global: a start without the runtime
/// fails with the loader's own message instead of going on without it.
pub(crate) fn init_symbol_entry(init_symbol: &InitSymbol, name: u32) -> Symbol {
    match init_symbol {
        InitSymbol::Recycled { dead, .. } => Symbol {
            name,
            info: SymbolInfo::new(STB_GLOBAL, STT_NOTYPE),
            ..dead.symbol
        },
        InitSymbol::Appended => Symbol::undefined_global(name),
    }
}

/// Position among the DT_NEEDED entries of a runtime that the program was linked to.
fn position_of(source: &Source, image: &Image, needed: &str) -> Result<Option<usize>> {
    let names = image.needed(source)?;
    Ok(names.iter().position(|name| name == needed.as_bytes()))
}

/// Value of the DT_NEEDED entry at `position` among them.
fn needed_value(image: &Image, position: usize) -> u64 {
    let entries = image.dynamic.entries.iter();
    let mut needed = entries.filter(|entry| entry.tag == DT_NEEDED);
    needed.nth(position).map_or(0, |entry| entry.value)
}

/// Where the array goes; `apart`, if it cannot stay where it is.
fn plan_preinit(
    source: &Source,
    image: &Image,
    findings: &Findings,
    apart: bool,
) -> Result<Preinit> {
    let Some(array) = image.preinit else {
        return Ok(match image.dynamic_is_read_only() {
            true => Preinit::Moved(MovedEntries::default()),
            false => Preinit::Terminator,
        });
    };
    let word = image.format.word();
    if array.size % word != 0 {
        return Err(source.malformed("its preinit array has an impossible size"));
    }
    let (_, load) = room::writable_load(source, image)?;
    // An array at the start of the segment grows downwards, and its entries stay. (That of RISC-V's crt1.o is not
    // aligned.)
    if load.vaddr == array.vaddr && array.vaddr.0 % word == 0 && !apart {
        return Ok(Preinit::Extended);
    }
    let aligned = |rela: &Rela| rela.place.0.wrapping_sub(array.vaddr.0) % word == 0;
    if !findings.preinit.iter().all(|(_, rela)| aligned(rela)) {
        return Err(source.malformed("a relocation straddles two preinit entries"));
    }
    let bytes = source.bytes(array.at, array.size, "the preinit array")?;
    Ok(Preinit::Moved(MovedEntries {
        values: image.format.addresses(&bytes),
        unpacked: crate::relr::covered(source, image, array)?,
    }))
}

/// Puts the new entry under RELRO even where .dynamic is not (patchelf moves it away), if there is
/// room.
fn protect(
    preinit: Preinit,
    source: &Source,
    image: &Image,
    findings: &Findings,
) -> Result<Preinit> {
    let dynamic = image.dynamic.table;
    let outside = |relro: &Segment| !relro.covers(dynamic.vaddr, dynamic.size);
    let alone = Preinit::Moved(MovedEntries::default());
    let wanted = Wanted {
        dynamic: 0,
        slots: 0,
        array: alone.wanted(image.format.word()),
        in_front: false,
    };
    let exposed = matches!(preinit, Preinit::Terminator) && image.relro().is_some_and(outside);
    match exposed && room::find(source, image, findings, wanted)?.is_some() {
        true => Ok(alone),
        false => Ok(preinit),
    }
}

/// The new .dynamic without its DT_NULL. What is there keeps its place: DT_NEEDED entries pass
/// their strings on to the next one, so that few bytes change.
fn dynamic_entries(
    image: &Image,
    names: &Names,
    listed: Option<usize>,
    rela_grows: bool,
    phase: Phase,
) -> Vec<Dyn> {
    let mut entries = image.dynamic.entries.clone();
    let mut carried = Some(names.needed);
    let needed = entries.iter_mut().filter(|entry| entry.tag == DT_NEEDED);
    for (position, entry) in needed.enumerate() {
        if let Some(value) = carried {
            carried = Some(std::mem::replace(&mut entry.value, value));
        }
        if Some(position) == listed {
            carried = None; // the program's own entry for the runtime has moved to the front
        }
    }
    if let Some(value) = carried {
        entries.push(Dyn {
            tag: DT_NEEDED,
            value,
        });
    }
    let flags = image.dynamic.get(DT_FLAGS_1).unwrap_or(0) | DF_1_INITFIRST.0;
    set(&mut entries, DT_FLAGS_1, flags);
    if phase != Phase::Entry {
        let array_size = image.preinit.map_or(0, |array| array.size) + image.format.word();
        set(&mut entries, DT_PREINIT_ARRAY, 0);
        set(&mut entries, DT_PREINIT_ARRAYSZ, array_size);
    }
    if rela_grows && image.rela.is_none() {
        let tags = image.format.relocations.addends.tags();
        set(&mut entries, tags.table, 0);
        set(&mut entries, tags.size, 0);
        set(&mut entries, tags.entry, Rela::size(image.format));
    }
    entries
}

/// Gives `tag` the value, in the entry that counts or at the end.
pub(crate) fn set(entries: &mut Vec<Dyn>, tag: DynamicTag, value: u64) {
    match entries.iter_mut().rfind(|entry| entry.tag == tag) {
        Some(entry) => entry.value = value,
        None => entries.push(Dyn { tag, value }),
    }
}
