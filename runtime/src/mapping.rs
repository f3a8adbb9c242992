//! What is mapped at an address: as the kernel tells (`maps`) and, where the program asked for it itself, as it
//! asked (`noted`). Without /proc, loaded objects and such calls are all that is known.

pub mod hooks;
mod maps;
mod noted;
mod stacks;

use crate::file;
use crate::mapping::maps::{Name, Region};
pub(crate) use crate::mapping::noted::{Noted, of as noted};
pub(crate) use crate::mapping::stacks::note_main;

const PROT_READ_WRITE: u32 = 3;

/// The kind of a mapping; `enum alloc_mapping_kind` of allocs.h.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(i32)]
pub(crate) enum Kind {
    Other = 0,
    Object = 1,
    /// For those who know the heap; never said here.
    Heap = 2,
    MainStack = 3,
    ThreadStack = 4,
    Kernel = 5,
}

/// One mapping.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MappingInfo {
    pub(crate) kind: Kind,
    pub(crate) base: usize,
    pub(crate) limit: usize,
    /// PROT_READ and so on.
    pub(crate) protection: u32,
    /// Return address of the call of mmap; 0 if none was seen.
    pub(crate) site: usize,
}

/// What is mapped at `address`. `None` if nothing is, as far as is known.
pub(crate) fn of(address: usize) -> Option<MappingInfo> {
    match maps::region_of(address) {
        Ok(region) => region.map(|region| known_by_kernel(address, &region)),
        Err(()) => noted(address)
            .map(|noted| known_by_call(&noted, noted.protection))
            .or_else(|| known_by_loader(address)),
    }
}

fn known_by_kernel(address: usize, region: &Region) -> MappingInfo {
    let info = |kind| MappingInfo {
        kind,
        base: region.begin,
        limit: region.end,
        protection: region.protection,
        site: 0,
    };
    match region.name {
        Name::MainStack => return info(Kind::MainStack),
        Name::Kernel => return info(Kind::Kernel),
        _ if file::is_in_object(address) => return info(Kind::Object),
        Name::File | Name::Anonymous => {}
    }
    let may_be_stack = region.protection & PROT_READ_WRITE == PROT_READ_WRITE;
    let stack = Some(region)
        .filter(|_| may_be_stack)
        .and_then(|region| stacks::limit(address, region));
    let kind = stack.map_or(Kind::Other, |_| Kind::ThreadStack);
    match noted(address) {
        // A program may give its threads stacks that it has mapped itself.
        Some(noted) => MappingInfo {
            kind,
            ..known_by_call(&noted, region.protection)
        },
        None => MappingInfo {
            limit: stack.unwrap_or(region.end),
            ..info(kind)
        },
    }
}

fn known_by_call(noted: &Noted, protection: u32) -> MappingInfo {
    MappingInfo {
        kind: Kind::Other,
        base: noted.base,
        limit: noted.limit(),
        protection,
        site: noted.site,
    }
}

fn known_by_loader(address: usize) -> Option<MappingInfo> {
    let pages = file::pages(address)?;
    Some(MappingInfo {
        kind: Kind::Object,
        base: pages.base,
        limit: pages.limit,
        protection: pages.protection,
        site: 0,
    })
}

#[cfg(test)]
mod tests;
