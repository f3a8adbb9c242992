//! What is this pointer? The answers, from the innermost allocation that contains an address up to the mapping.
//!
//! ```text
//!  nested   announced by the program          ──┐
//!  chunk    of the program's malloc, or others  ├─▶ Allocation
//!  static   an object's function or variable    │
//!  mmap     mapped by a call that was seen      │
//!  stack    a thread's, as a whole            ──┘
//!  mapping  as the kernel says
//! ```

use crate::allocator::Allocator;
use crate::chunks;
use crate::file::{self, FileInfo};
use crate::mapping::{self, Kind, MappingInfo};
use crate::nested::{self, Nested};
use crate::site::Site;

/// Why an address is in no allocation; `enum alloc_error`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum NoAllocation {
    Unmapped,
    Free,
    Unknown,
}

/// What an address is allocated as.
#[derive(Clone, Copy)]
pub(crate) struct Allocation {
    pub(crate) allocator: &'static Allocator,
    pub(crate) base: usize,
    pub(crate) size: usize,
    pub(crate) usable_size: usize,
    pub(crate) made: Made,
}

/// Where an allocation was made.
#[derive(Clone, Copy)]
pub(crate) enum Made {
    At(Site),
    /// By a call that returns to this address; 0 if that was not seen.
    ByCaller(usize),
}

impl Made {
    /// The return address; 0 if it is not known.
    pub(crate) fn address(self) -> usize {
        match self {
            Self::At(site) => site.address(),
            Self::ByCaller(address) => address,
        }
    }
}

/// Everything about an address.
pub(crate) struct Info {
    pub(crate) allocation: Result<Allocation, NoAllocation>,
    /// The chunk of the program's malloc.
    pub(crate) chunk: Option<Allocation>,
    pub(crate) file: Option<FileInfo>,
    pub(crate) mapping: Option<MappingInfo>,
}

/// Everything that is known about `address`.
pub(crate) fn info(address: usize) -> Info {
    let (inner, chunk) = in_heap(address);
    let mapping = mapping::of(address).map(|mapping| marked_as_heap(mapping, address));
    let file = mapping
        .filter(|mapping| mapping.kind == Kind::Object)
        .and_then(|_| file::of(address));
    let allocation = match inner.or(chunk) {
        Some(allocation) => Ok(allocation),
        None => outside_heap(address, mapping, file.as_ref()),
    };
    Info {
        allocation,
        chunk,
        file,
        mapping,
    }
}

/// The innermost allocation that contains `address`. What is in the heap is found without a look at what is mapped.
#[inline(always)]
pub(crate) fn allocation(address: usize) -> Option<Allocation> {
    if !nested::are_there()
        && let Some(chunk) = chunks::close_at_hand(address)
    {
        return Some(chunk.into());
    }
    allocation_anywhere(address)
}

#[inline(never)]
fn allocation_anywhere(address: usize) -> Option<Allocation> {
    if !nested::are_there()
        && let Some(chunk) = chunks::at_hand(address)
    {
        return Some(chunk.into());
    }
    let (inner, chunk) = in_heap(address);
    inner.or(chunk).or_else(|| info(address).allocation.ok())
}

/// The nested allocation and the chunk that contain `address`.
#[inline]
fn in_heap(address: usize) -> (Option<Allocation>, Option<Allocation>) {
    let chunk = chunks::at(address).map(Allocation::from);
    if !nested::are_there() {
        return (None, chunk);
    }
    let inner = nested::at(address).and_then(Allocation::of_nested);
    // One that its chunk no longer has room for was not taken back when that was.
    let fits = |inner: &Allocation| {
        chunk.is_none_or(|chunk| inner.base >= chunk.base && inner.limit() <= chunk.limit())
    };
    (inner.filter(fits), chunk)
}

/// What an address is that is in no chunk.
fn outside_heap(
    address: usize,
    mapping: Option<MappingInfo>,
    file: Option<&FileInfo>,
) -> Result<Allocation, NoAllocation> {
    let mapping = mapping.ok_or(NoAllocation::Unmapped)?;
    let all = |allocator| Allocation {
        allocator,
        base: mapping.base,
        size: mapping.limit.wrapping_sub(mapping.base),
        usable_size: mapping.limit.wrapping_sub(mapping.base),
        made: Made::ByCaller(mapping.site),
    };
    match mapping.kind {
        Kind::Heap => Err(NoAllocation::Free),
        Kind::MainStack | Kind::ThreadStack => Ok(all(Allocator::stack())),
        Kind::Object => file
            .and_then(|file| Allocation::of_symbol(address, file))
            .ok_or(NoAllocation::Unknown),
        Kind::Other if mapping.site != 0 => Ok(all(Allocator::mmap())),
        Kind::Other | Kind::Kernel => Err(NoAllocation::Unknown),
    }
}

/// `mapping`, which contains `address`, as one of the heap if the program's allocator has chunks in it.
fn marked_as_heap(mapping: MappingInfo, address: usize) -> MappingInfo {
    // An allocator that is no part of libc makes its mappings by a call that is seen.
    let is_heap = mapping.kind == Kind::Other
        && (chunks::at(address).is_some() || chunks::are_in(mapping.base, mapping.limit));
    let kind = if is_heap { Kind::Heap } else { mapping.kind };
    MappingInfo { kind, ..mapping }
}

impl Allocation {
    pub(crate) fn limit(&self) -> usize {
        self.base.wrapping_add(self.size)
    }

    pub(crate) fn of_nested(nested: Nested) -> Option<Self> {
        Some(Self {
            allocator: Allocator::registered(nested.allocator)?,
            base: nested.base,
            size: nested.size,
            usable_size: nested.size,
            made: Made::At(nested.site),
        })
    }

    fn of_symbol(address: usize, file: &FileInfo) -> Option<Self> {
        let symbol = file.place.symbol?;
        (address.wrapping_sub(symbol.base) < symbol.size).then_some(Self {
            allocator: Allocator::statics(),
            base: symbol.base,
            size: symbol.size,
            usable_size: symbol.size,
            made: Made::ByCaller(0),
        })
    }
}

impl From<chunks::Chunk> for Allocation {
    fn from(chunk: chunks::Chunk) -> Self {
        Self {
            allocator: chunk.heap.allocator(),
            base: chunk.base,
            size: chunk.record.size,
            usable_size: chunk.record.usable_size,
            made: Made::At(chunk.record.site),
        }
    }
}
