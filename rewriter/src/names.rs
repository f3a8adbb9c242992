//! Where the new strings go in .dynstr: over names that are no longer needed, or at its end.

use crate::parse::Image;
use crate::recycle::{DeadSymbol, Findings};

/// The name of a symbol that has lost its own: reserved like those of libitm, and never defined.
pub(crate) const FILLER: &str = "_ITM_unused";

/// The new strings' offsets in .dynstr, and what it takes to have them there.
#[derive(Clone, Debug)]
pub(crate) struct Names {
    /// The init symbol's name.
    pub(crate) init: u32,
    /// The runtime's DT_NEEDED string.
    pub(crate) needed: u64,
    /// Strings that overwrite others: offset in .dynstr, and bytes with their NUL.
    pub(crate) overwritten: Vec<(u64, Vec<u8>)>,
    /// Strings behind the present end of .dynstr.
    pub(crate) appended: Vec<u8>,
    /// Symbols that lost their name, and the offset of the one they get.
    pub(crate) renamed: Vec<(DeadSymbol, u32)>,
    /// The names of the runtime's functions that the program's own allocator is led to.
    pub(crate) diverting: Vec<u32>,
}

impl Names {
    /// Bytes by which .dynstr grows.
    pub(crate) fn appended_size(&self) -> u64 {
        self.appended.len() as u64
    }
}

/// The strings that a rewrite needs.
#[derive(Clone, Debug)]
pub(crate) struct Strings<'a> {
    /// The init symbol's name.
    pub(crate) init: &'a str,
    /// The runtime's DT_NEEDED string.
    pub(crate) needed: Needed<'a>,
    /// The runtime's functions for the program's own allocator.
    pub(crate) diverting: Vec<String>,
}

/// The runtime's DT_NEEDED string.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Needed<'a> {
    /// In .dynstr already, at this offset: the program was linked to the runtime.
    Present(u64),
    /// To be put there.
    New(&'a str),
}

/// Decides where the strings go. `carrier` is the dead symbol that becomes the init symbol.
pub(crate) fn plan(
    image: &Image,
    findings: &Findings,
    carrier: Option<&DeadSymbol>,
    wanted: &Strings<'_>,
) -> Names {
    let recycled = carrier.and_then(|carrier| recycle(findings, carrier, wanted));
    recycled.unwrap_or_else(|| append(image, wanted))
}

/// A dead symbol's name, as room for others.
struct Space {
    start: u64,
    free: u64,
}

/// Puts the strings over as few dead names as will do.
fn recycle(findings: &Findings, carrier: &DeadSymbol, wanted: &Strings<'_>) -> Option<Names> {
    let mut donors: Vec<&DeadSymbol> = findings.dead.iter().filter(|dead| dead.owns_name).collect();
    donors.sort_by_key(|dead| dead.index != carrier.index);
    (1..=donors.len()).find_map(|count| pack(&donors[..count], carrier, wanted))
}

/// First fit of all strings, and of a name for each donor but the carrier, into the donors' names.
fn pack(donors: &[&DeadSymbol], carrier: &DeadSymbol, wanted: &Strings<'_>) -> Option<Names> {
    let mut spaces: Vec<Space> = donors
        .iter()
        .map(|dead| Space {
            start: u64::from(dead.symbol.name),
            free: dead.name.len() as u64 + 1,
        })
        .collect();
    let mut overwritten = Vec::new();
    let mut put = |string: &str| -> Option<u64> {
        let bytes = nul_terminated(string);
        let size = bytes.len() as u64;
        let space = spaces.iter_mut().find(|space| space.free >= size)?;
        let at = space.start;
        space.start += size;
        space.free -= size;
        overwritten.push((at, bytes));
        Some(at)
    };
    let init = u32::try_from(put(wanted.init)?).ok()?;
    let needed = match wanted.needed {
        Needed::New(needed) => put(needed)?,
        Needed::Present(offset) => offset,
    };
    let nameless: Vec<&DeadSymbol> = donors
        .iter()
        .filter(|dead| dead.index != carrier.index)
        .copied()
        .collect();
    let renamed = match nameless.is_empty() {
        true => Vec::new(),
        false => {
            let filler = u32::try_from(put(FILLER)?).ok()?;
            nameless
                .into_iter()
                .map(|dead| (dead.clone(), filler))
                .collect()
        }
    };
    Some(Names {
        init,
        needed,
        overwritten,
        appended: Vec::new(),
        renamed,
        diverting: Vec::new(),
    })
}

/// Puts all strings behind the present end of .dynstr.
fn append(image: &Image, wanted: &Strings<'_>) -> Names {
    let end = image.strtab.size;
    let mut appended = nul_terminated(wanted.init);
    let needed = match wanted.needed {
        Needed::Present(offset) => offset,
        Needed::New(needed) => {
            let at = end + appended.len() as u64;
            appended.extend(nul_terminated(needed));
            at
        }
    };
    let diverting = wanted.diverting.iter().map(|name| {
        let at = end + appended.len() as u64;
        appended.extend(nul_terminated(name));
        u32::try_from(at).unwrap_or(u32::MAX)
    });
    let diverting = diverting.collect();
    Names {
        init: u32::try_from(end).unwrap_or(u32::MAX),
        needed,
        overwritten: Vec::new(),
        appended,
        renamed: Vec::new(),
        diverting,
    }
}

fn nul_terminated(string: &str) -> Vec<u8> {
    let mut bytes = string.as_bytes().to_vec();
    bytes.push(0);
    bytes
}
