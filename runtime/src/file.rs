//! Loaded objects and what is in them, for any address in code or data. Which objects there are is read from the
//! loader's list at the moment of the question (`linkmap`): dlopen and dlclose need no hook. What lies in the
//! objects comes from their program headers in memory (`headers`) and from their files (`tables`).

pub(crate) mod dynamic;
mod functions;
mod headers;
mod symbols;
mod tables;

use crate::file::headers::{Header, Headers};
use crate::file::tables::Tables;
use crate::linkmap::{Entries, Entry, LinkMap};
use crate::memory::Mapped;
use crate::object::Object;
use crate::pages;
use crate::sync::{AtomicU8, Ordering::Relaxed};
use crate::sys::{self, File};

/// One loaded object.
#[derive(Clone, Copy)]
pub(crate) struct LoadedObject {
    pub(crate) object: Object,
    /// Path by which the loader found it, a string. `None` for the executable.
    pub(crate) path: Option<Mapped>,
    /// The lowest address of its segments and one past the highest.
    pub(crate) begin: usize,
    pub(crate) end: usize,
    headers: Headers,
    build_id: usize,
    build_id_size: usize,
    fingerprint: usize,
}

impl LoadedObject {
    fn of(entry: &Entry) -> Option<Self> {
        let headers = Headers::of(entry)?;
        let dynamic = entry.object.dynamic.address();
        let summary = headers.summary(|begin| begin == dynamic)?;
        Some(Self {
            object: entry.object,
            path: entry.path(),
            begin: summary.begin,
            end: summary.end,
            headers,
            build_id: summary.build_id,
            build_id_size: summary.build_id_size,
            fingerprint: summary.fingerprint,
        })
    }

    /// Its build-id: where it is in memory and its size.
    pub(crate) fn build_id(&self) -> Option<(Mapped, usize)> {
        // SAFETY: a note of the object's, inside of its segments.
        let build_id = || unsafe { Mapped::new(self.build_id) };
        (self.build_id_size != 0).then(|| (build_id(), self.build_id_size))
    }

    /// The segments with its code: where each begins and ends, and its offset in the file.
    pub(crate) fn executable_segments(&self) -> impl Iterator<Item = (usize, usize, usize)> {
        self.headers.executable()
    }

    /// Whether it is never unloaded.
    pub(crate) fn stays(&self) -> bool {
        self.headers.stays()
    }

    /// The table by which .eh_frame is searched, and its size.
    pub(crate) fn unwind_table(&self) -> Option<(Mapped, usize)> {
        self.headers.unwind_table()
    }

    /// Its path; the executable's, too.
    pub(crate) fn path(&self) -> Option<Mapped> {
        self.path.or_else(executable_path)
    }

    /// What `read` makes of its file, which is open meanwhile; the next one that it could be if that is nothing.
    fn with_file<T>(&self, read: impl Fn(&File) -> Option<T>) -> Option<T> {
        let attempt = |file: File| {
            let result = read(&file);
            file.close();
            result
        };
        match self.path {
            Some(path) => File::open_string(path).and_then(attempt),
            // Right even if the program's file was moved or removed; wrong if the loader was executed.
            None => File::open(c"/proc/self/exe").and_then(attempt).or_else(|| {
                let path = LinkMap::find()?.executed()?;
                File::open_string(path).and_then(attempt)
            }),
        }
    }

    /// The symbol that contains `address`.
    fn symbol(&self, address: usize) -> Option<Symbol> {
        let in_file = address.wrapping_sub(self.object.base);
        let (symbol, name) = Tables::of(self)?.symbol(in_file)?;
        Some(Symbol {
            name,
            base: symbol.value.wrapping_add(self.object.base),
            size: symbol.size,
        })
    }

    /// What is at `address`.
    fn place(&self, address: usize) -> Place {
        Place {
            file: self.path(),
            load_base: self.object.base,
            symbol: self.symbol(address),
        }
    }

    /// Whether one of its segments contains `address`.
    fn contains(&self, address: usize) -> bool {
        (self.begin..self.end).contains(&address) && self.segment(address).is_some()
    }

    /// The segment that contains `address`.
    fn segment(&self, address: usize) -> Option<Header> {
        self.headers.segment(address)
    }
}

/// A function or variable.
#[derive(Clone, Copy)]
pub(crate) struct Symbol {
    /// Its name, a string.
    pub(crate) name: Mapped,
    /// Where it begins.
    pub(crate) base: usize,
    /// Its size; 0 if the file does not say.
    pub(crate) size: usize,
}

/// What an address in code or data belongs to.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    /// Path of the object, a string.
    pub(crate) file: Option<Mapped>,
    /// What is added to the addresses in the file.
    pub(crate) load_base: usize,
    pub(crate) symbol: Option<Symbol>,
}

/// The same, and where in the object that is.
#[derive(Clone, Copy)]
pub(crate) struct FileInfo {
    pub(crate) place: Place,
    /// Where the build-id is and its size.
    pub(crate) build_id: Option<(Mapped, usize)>,
    /// The index of the segment's program header.
    pub(crate) segment: usize,
    /// Name of the section, a string.
    pub(crate) section: Option<Mapped>,
}

/// What is known about `address` if an object's segment contains it.
pub(crate) fn of(address: usize) -> Option<FileInfo> {
    let object = object_of(address)?;
    let in_file = address.wrapping_sub(object.object.base);
    Some(FileInfo {
        place: object.place(address),
        build_id: object.build_id(),
        segment: object.segment(address)?.index,
        section: Tables::of(&object).and_then(|tables| tables.section(in_file)),
    })
}

/// The object and symbol that contain `address`.
pub(crate) fn place(address: usize) -> Option<Place> {
    Some(object_of(address)?.place(address))
}

/// All loaded objects in load order, the executable first, then those of dlmopen. One that is being unloaded
/// while the list is read may be missing, and so may those behind it.
pub(crate) fn objects() -> impl Iterator<Item = LoadedObject> {
    entries().filter_map(|entry| LoadedObject::of(&entry))
}

/// The executable's path, a string: absolute as /proc has it, else the one that it was executed by.
pub(crate) fn executable_path() -> Option<Mapped> {
    /// Longest path that the kernel gives, with a NUL.
    const PATH_MAX: usize = 4096;
    static PATH: [AtomicU8; PATH_MAX] = [const { AtomicU8::new(0) }; PATH_MAX];
    let map = LinkMap::find()?;
    if map.is_loader_executed() {
        return map.executed();
    }
    let (_, text) = PATH.split_last()?;
    let is_known = || text.first().is_some_and(|first| first.load(Relaxed) != 0);
    if !is_known() {
        sys::read_link(c"/proc/self/exe", text);
    }
    // SAFETY: a string of the runtime's own: its last byte stays NUL.
    let own = || unsafe { Mapped::new(text.as_ptr().expose_provenance()) };
    is_known().then(own).or_else(|| map.executed())
}

fn entries() -> Entries {
    LinkMap::find().map_or(Entries::NONE, LinkMap::all_entries)
}

/// The object that contains `address`.
pub(crate) fn object_of(address: usize) -> Option<LoadedObject> {
    object_that(address, |object| object.contains(address))
}

/// The object around `address` that `fits`.
fn object_that(address: usize, fits: impl Fn(&LoadedObject) -> bool) -> Option<LoadedObject> {
    // Only a non-PIE executable has no base; it may be above or below of everything.
    let executable = entries().next().and_then(|first| LoadedObject::of(&first));
    if let Some(executable) = executable.filter(&fits) {
        return Some(executable);
    }
    // The others lie in ranges that the kernel chose, which do not overlap and begin at their base.
    let nearest = entries()
        .filter(|entry| entry.object.base <= address)
        .max_by_key(|entry| entry.object.base)?;
    LoadedObject::of(&nearest).filter(fits)
}

/// Whether `address` lies in the pages of an object, be it between its segments.
pub(crate) fn is_in_object(address: usize) -> bool {
    let surrounds = |object: &LoadedObject| {
        (pages::begin(object.begin)..pages::end(object.end)).contains(&address)
    };
    object_that(address, surrounds).is_some()
}

/// The pages of a segment.
#[derive(Clone, Copy)]
pub(crate) struct Pages {
    pub(crate) base: usize,
    pub(crate) limit: usize,
    /// PROT_READ and so on, as the program header says.
    pub(crate) protection: u32,
}

/// The pages of the segment that contains `address`.
pub(crate) fn pages(address: usize) -> Option<Pages> {
    let object = object_of(address)?;
    let segment = object.segment(address)?;
    Some(Pages {
        base: pages::begin(segment.begin),
        limit: pages::end(segment.end()),
        protection: segment.protection(),
    })
}

#[cfg(test)]
mod tests;
