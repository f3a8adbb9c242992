//! What is known about an address.
//!
//! Strings that tell about an object (the executable, a library) are valid for as long as it stays loaded, which only
//! the program can know: the methods that give them are unsafe.

use core::ffi::{CStr, c_char, c_int, c_void};
use core::fmt;
use core::num::NonZeroUsize;
use core::ops::Range;
use core::ptr;
use core::slice;

use crate::allocator::Allocator;
use crate::error::Error;
use crate::weak;

/// Everything about one address, from the allocation that it lies in up to the mapping.
#[derive(Clone, Copy)]
pub struct Info {
    known: weak::Info,
    answer: Result<(), Error>,
}

impl Info {
    pub(crate) fn new(known: weak::Info, answer: Result<(), Error>) -> Self {
        Self { known, answer }
    }

    pub(crate) fn without(why: Error) -> Self {
        Self::new(weak::Info::NOTHING, Err(why))
    }

    /// The innermost allocation that contains the address.
    ///
    /// # Errors
    ///
    /// Why there is none.
    pub fn allocation(&self) -> Result<Allocation, Error> {
        self.answer?;
        let chunk = weak::Chunk {
            base: self.known.base,
            size: self.known.size,
            usable_size: self.known.usable_size,
            site: self.known.site,
            allocator: self.known.allocator,
        };
        // SAFETY: the answer was an allocation.
        Ok(unsafe { Allocation::of_chunk(&chunk) })
    }

    /// The function that made the allocation.
    #[must_use]
    pub fn site_place(&self) -> Option<Place> {
        Place::of(self.known.site_place)
    }

    /// Base and size of the malloc chunk that the address lies in: that around a nested allocation of a registered
    /// allocator, else the allocation itself.
    #[must_use]
    pub fn chunk(&self) -> Option<(*mut u8, usize)> {
        let base = self.known.chunk_base.cast::<u8>();
        (!base.is_null()).then_some((base, self.known.chunk_size))
    }

    /// The addresses of the arena of the program's allocator.
    #[must_use]
    pub fn arena(&self) -> Option<Range<usize>> {
        let range = self.known.arena_base..self.known.arena_limit;
        (!range.is_empty()).then_some(range)
    }

    /// What contains the address in the executable or a library.
    #[must_use]
    pub fn file(&self) -> Option<File> {
        Place::of(self.known.file)?;
        Some(File(self.known))
    }

    /// The mapping.
    #[must_use]
    pub fn mapping(&self) -> Option<Mapping> {
        let is_known = self.known.mapping_base != self.known.mapping_limit;
        is_known.then_some(Mapping(self.known))
    }
}

impl fmt::Debug for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Info")
            .field("allocation", &self.allocation())
            .field("chunk", &self.chunk())
            .field("file", &self.file())
            .field("mapping", &self.mapping())
            .finish()
    }
}

/// One live allocation.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Allocation {
    base: *mut u8,
    size: usize,
    usable_size: usize,
    site: Option<Site>,
    allocator: Allocator,
}

impl Allocation {
    /// # Safety
    ///
    /// The runtime has filled it in.
    pub(crate) unsafe fn of_chunk(chunk: &weak::Chunk) -> Self {
        Self {
            base: chunk.base.cast(),
            size: chunk.size,
            usable_size: chunk.usable_size,
            site: Site::new(chunk.site),
            // SAFETY: every allocation of the runtime's has one, which lives as long as the process.
            allocator: Allocator::of(unsafe { &*chunk.allocator }),
        }
    }

    /// Where it begins.
    #[must_use]
    pub fn base(&self) -> *mut u8 {
        self.base
    }

    /// How many bytes were asked for.
    #[must_use]
    pub fn size(&self) -> usize {
        self.size
    }

    /// How many bytes the program may use, from the base on.
    #[must_use]
    pub fn usable_size(&self) -> usize {
        self.usable_size
    }

    /// Where it was made, if that is known.
    #[must_use]
    pub fn site(&self) -> Option<Site> {
        self.site
    }

    /// Who made it.
    #[must_use]
    pub fn allocator(&self) -> Allocator {
        self.allocator
    }
}

/// Where an allocation was made: the return address of the call that made it, outside of facades, the functions that
/// only hand on what malloc gave them.
///
/// ```
/// let boxed = Box::new(7);
/// let site = allocs::at(&raw const *boxed).ok().and_then(|allocation| allocation.site());
/// if let Some(place) = site.and_then(|site| site.place().ok()) {
///     // SAFETY: this program unloads no library.
///     println!("{:?} of {:?}", unsafe { place.symbol() }, unsafe { place.file() });
/// }
/// ```
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(transparent)]
pub struct Site(NonZeroUsize);

impl Site {
    pub(crate) fn new(address: *const c_void) -> Option<Self> {
        NonZeroUsize::new(address.addr()).map(Self)
    }

    /// The return address.
    #[must_use]
    pub fn address(self) -> usize {
        self.0.get()
    }

    /// The function that contains the call.
    ///
    /// # Errors
    ///
    /// [`Error::Unknown`] if it is in no loaded object.
    pub fn place(self) -> Result<Place, Error> {
        let get_place = weak::get_place().ok_or(Error::NotAvailable)?;
        let mut place = weak::Place::NOWHERE;
        // The call is before the address that it returns to.
        let call = ptr::without_provenance(self.address().wrapping_sub(1));
        // SAFETY: any address may be asked about, and there is room for the answer.
        Error::check(unsafe { get_place(call, &raw mut place) })?;
        Place::of(place).ok_or(Error::Unknown)
    }
}

impl fmt::Debug for Site {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Site({:#x})", self.address())
    }
}

/// A place in code or data: an object and what is in it.
#[derive(Clone, Copy)]
pub struct Place(weak::Place);

impl Place {
    fn of(place: weak::Place) -> Option<Self> {
        (!place.file.is_null()).then_some(Self(place))
    }

    /// What is added to the addresses in the file.
    #[must_use]
    pub fn load_base(&self) -> usize {
        self.0.load_base
    }

    /// The addresses of the function or variable that contains the place. Empty if the file does not say how large
    /// that is.
    #[must_use]
    pub fn symbol_addresses(&self) -> Option<Range<usize>> {
        let base = self.0.symbol_base;
        (base != 0).then(|| base..base.wrapping_add(self.0.symbol_size))
    }

    /// Path of the object that was loaded.
    ///
    /// # Safety
    ///
    /// The object is still loaded, and stays so while the string is used.
    #[must_use]
    pub unsafe fn file(&self) -> Option<&CStr> {
        // SAFETY: the caller knows that the object is loaded.
        unsafe { string(self.0.file) }
    }

    /// Name of the function or variable that contains the place.
    ///
    /// # Safety
    ///
    /// The object is still loaded, and stays so while the string is used.
    #[must_use]
    pub unsafe fn symbol(&self) -> Option<&CStr> {
        // SAFETY: the caller knows that the object is loaded.
        unsafe { string(self.0.symbol) }
    }
}

impl fmt::Debug for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Place")
            .field("load_base", &self.load_base())
            .field("symbol_addresses", &self.symbol_addresses())
            .finish()
    }
}

/// The part of a loaded object that contains an address.
#[derive(Clone, Copy)]
pub struct File(weak::Info);

impl File {
    /// The object, and the function or variable.
    #[must_use]
    pub fn place(&self) -> Place {
        Place(self.0.file)
    }

    /// Index of its program header.
    #[must_use]
    pub fn segment(&self) -> Option<usize> {
        usize::try_from(self.0.segment).ok()
    }

    /// Name of the section; `None` if the file has no section headers.
    ///
    /// # Safety
    ///
    /// The object is still loaded, and stays so while the string is used.
    #[must_use]
    pub unsafe fn section(&self) -> Option<&CStr> {
        // SAFETY: the caller knows that the object is loaded.
        unsafe { string(self.0.section) }
    }

    /// The object's build-id.
    ///
    /// # Safety
    ///
    /// The object is still loaded, and stays so while the bytes are used.
    #[must_use]
    pub unsafe fn build_id(&self) -> Option<&[u8]> {
        let (bytes, size) = (self.0.build_id, self.0.build_id_size);
        // SAFETY: the caller knows that the object is loaded, whose note has that many bytes.
        (!bytes.is_null()).then(|| unsafe { slice::from_raw_parts(bytes, size) })
    }
}

impl fmt::Debug for File {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("File")
            .field("place", &self.place())
            .field("segment", &self.segment())
            .finish()
    }
}

/// A string that is null if it is not known.
///
/// # Safety
///
/// If it is not null, it is a string, and stays one while the result is used.
unsafe fn string<'a>(string: *const c_char) -> Option<&'a CStr> {
    // SAFETY: as the caller knows.
    (!string.is_null()).then(|| unsafe { CStr::from_ptr(string) })
}

/// A mapping.
#[derive(Clone, Copy)]
pub struct Mapping(weak::Info);

impl Mapping {
    /// What kind of mapping it is.
    #[must_use]
    pub fn kind(&self) -> MappingKind {
        match self.0.mapping_kind {
            1 => MappingKind::Object,
            2 => MappingKind::Heap,
            3 => MappingKind::MainStack,
            4 => MappingKind::ThreadStack,
            5 => MappingKind::Kernel,
            _ => MappingKind::Other,
        }
    }

    /// Its addresses.
    #[must_use]
    pub fn addresses(&self) -> Range<usize> {
        self.0.mapping_base..self.0.mapping_limit
    }

    /// PROT_READ and so on, of `sys/mman.h`.
    #[must_use]
    pub fn protection(&self) -> c_int {
        self.0.mapping_protection
    }

    /// The call of mmap, if the runtime saw it.
    #[must_use]
    pub fn site(&self) -> Option<Site> {
        Site::new(self.0.mapping_site)
    }
}

impl fmt::Debug for Mapping {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mapping")
            .field("kind", &self.kind())
            .field("addresses", &self.addresses())
            .field("protection", &self.protection())
            .field("site", &self.site())
            .finish()
    }
}

/// What kind of mapping an address lies in.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum MappingKind {
    /// Anonymous, or a file that is no loaded object.
    Other,
    /// The executable or a library.
    Object,
    /// An arena of the program's allocator.
    Heap,
    /// The main thread's stack, with argv, environ and auxv at its end.
    MainStack,
    /// Another thread's stack.
    ThreadStack,
    /// What the kernel maps: vdso, vvar, vsyscall.
    Kernel,
}
