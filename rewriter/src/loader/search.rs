//! Where the loader finds a library, and by which rule.
//!
//! glibc: a name with a slash is a path. Otherwise DT_RPATH of the object that asks, of the one that
//! asked for that, and so on, and of the executable, unless the asking object has a DT_RUNPATH;
//! LD_LIBRARY_PATH; DT_RUNPATH of the asking object; ld.so.cache; the default directories. In each
//! directory the subdirectories for better processors come first.
//!
//! musl: a name with a slash is a path. Otherwise LD_LIBRARY_PATH; DT_RUNPATH or DT_RPATH of the object
//! that asks, of the one that asked for that, and so on; the directories of its path file.

mod glibc;
mod musl;

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use rustix::io::Errno;

use self::musl::musl_directories;
use super::cache::Cache;
use super::closure::{Asker, EXECUTABLE, Loaded};
use super::ldso::{Flavour, Loader};
use super::object::{Object, Rejected};
use super::system::System;
use super::{as_path, as_text};
use crate::elf::Format;
use crate::error::Result;

/// How a library was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It is the executable, or the loader that it names.
    Kernel,
    /// The name is a path.
    Path,
    /// DT_RPATH of the object at that place.
    Rpath(usize),
    /// LD_LIBRARY_PATH.
    LibraryPath,
    /// DT_RUNPATH of the object at that place.
    Runpath(usize),
    /// ld.so.cache.
    Cache,
    /// The loader's default directories.
    Default,
}

/// A library that was found.
#[derive(Debug)]
pub(crate) enum Found {
    /// The loader itself.
    Loader,
    /// The object at that place, which was there already.
    Known(usize),
    /// A file that is not loaded yet.
    New {
        path: Vec<u8>,
        rule: Rule,
        object: Box<Object>,
    },
}

/// The files that are loaded, by device and inode.
pub(crate) type Identities = HashMap<(u64, u64), usize>;

/// Directories to search, each with a slash at its end; an empty one is the working directory.
type Directories = Rc<Vec<Vec<u8>>>;

/// What a search knows beforehand, and what it has found out.
#[derive(Debug)]
pub(crate) struct Search<'a> {
    system: &'a System,
    loader: &'a Loader,
    /// What the loader does not pass over.
    format: Format,
    /// The executable has more rights than whoever starts it (AT_SECURE).
    secure: bool,
    cache: Cache,
    library_path: Directories,
    default: Directories,
    /// DT_RPATH or DT_RUNPATH of the objects, taken apart.
    own_paths: HashMap<usize, Directories>,
    /// Directories, and whether they are there.
    present: HashMap<Vec<u8>, bool>,
    working_directory: Vec<u8>,
}

/// How one attempt to open a library went.
enum Attempt {
    Found(Found),
    /// There is no such file, or none for this machine.
    Next(Option<String>),
    /// This list of directories is not searched any further.
    Stop,
}

impl<'a> Search<'a> {
    /// A search as `loader` makes it in `system` for `executable`. `library_path` is LD_LIBRARY_PATH.
    pub(crate) fn new(
        system: &'a System,
        loader: &'a Loader,
        secure: bool,
        library_path: &[u8],
        executable: &Loaded,
        format: Format,
    ) -> Result<Self> {
        let working_directory = std::env::current_dir().unwrap_or_default();
        let mut search = Self {
            system,
            loader,
            format,
            secure,
            cache: Cache::default(),
            library_path: Rc::default(),
            default: Rc::default(),
            own_paths: HashMap::new(),
            present: HashMap::new(),
            working_directory: working_directory.as_os_str().as_bytes().to_vec(),
        };
        let library_path = if secure { b"".as_slice() } else { library_path };
        let executable = std::slice::from_ref(executable);
        match &loader.flavour {
            Flavour::Glibc(glibc) => {
                const LARGEST: u64 = 256 << 20;
                let file = system.read(&glibc.cache, LARGEST)?.unwrap_or_default();
                search.cache = Cache::new(&file, &glibc.hwcaps, format, &loader.path);
                search.default = Rc::new(glibc.system_dirs.clone());
                if !library_path.is_empty() {
                    let parts = library_path.split(|byte| b":;".contains(byte));
                    search.library_path = search.directories(executable, EXECUTABLE, parts);
                }
            }
            Flavour::Musl => {
                search.library_path = musl_directories(library_path);
                search.default = search.musl_default()?;
            }
        }
        Ok(search)
    }

    /// Whether an object also goes by its DT_SONAME; musl does not look at that.
    pub(crate) fn knows_sonames(&self) -> bool {
        matches!(self.loader.flavour, Flavour::Glibc(_))
    }

    /// A DT_NEEDED string of the object at `place`, with its tokens replaced; musl does not.
    pub(crate) fn expand(&self, objects: &[Loaded], place: usize, name: &[u8]) -> Vec<u8> {
        match &self.loader.flavour {
            Flavour::Glibc(glibc) => self.tokens(glibc, objects, place, name),
            Flavour::Musl => name.to_vec(),
        }
    }

    /// Looks for `name`; an error says why it is not found.
    pub(crate) fn find(
        &mut self,
        objects: &[Loaded],
        known: &Identities,
        name: &[u8],
        asker: Asker,
    ) -> std::result::Result<Found, String> {
        if name.is_empty() {
            return Err("its name is empty, or has a token that is not replaced here".to_owned());
        }
        let musl = matches!(self.loader.flavour, Flavour::Musl);
        if musl && self.is_musl_itself(name) {
            return Ok(Found::Loader);
        }
        let mut foreign = None;
        let found = if name.contains(&b'/') {
            match self.attempt(known, name.to_vec(), Rule::Path)? {
                Attempt::Found(found) => Some(found),
                Attempt::Next(elsewhere) => {
                    foreign = elsewhere;
                    None
                }
                Attempt::Stop => None,
            }
        } else if musl {
            self.find_for_musl(objects, known, name, asker, &mut foreign)?
        } else {
            self.find_for_glibc(objects, known, name, asker, &mut foreign)?
        };
        found.ok_or_else(|| match foreign {
            Some(path) => format!("only {path} has that name, and is for another machine"),
            None => "not found".to_owned(),
        })
    }

    /// Tries `name` in each list of directories. `foreign` becomes the first file that was passed
    /// over because it is for another machine.
    fn in_lists(
        &mut self,
        known: &Identities,
        lists: &[(Directories, Rule)],
        name: &[u8],
        foreign: &mut Option<String>,
    ) -> std::result::Result<Option<Found>, String> {
        for (directories, rule) in lists {
            match self.in_directories(known, directories, name, *rule)? {
                Attempt::Found(found) => return Ok(Some(found)),
                Attempt::Next(elsewhere) => *foreign = foreign.take().or(elsewhere),
                Attempt::Stop => {}
            }
        }
        Ok(None)
    }

    /// Tries `name` in each directory, subdirectories for better processors first.
    fn in_directories(
        &mut self,
        known: &Identities,
        directories: &Directories,
        name: &[u8],
        rule: Rule,
    ) -> std::result::Result<Attempt, String> {
        let mut foreign = None;
        for directory in directories.iter() {
            for subdirectory in self.loader.subdirectories() {
                let directory = [directory, subdirectory.as_bytes()].concat();
                if !self.is_present(&directory) {
                    continue;
                }
                match self.attempt(known, [&directory, name].concat(), rule)? {
                    Attempt::Next(elsewhere) => foreign = foreign.or(elsewhere),
                    other => return Ok(other),
                }
            }
        }
        Ok(Attempt::Next(foreign))
    }

    fn is_present(&mut self, directory: &[u8]) -> bool {
        if !directory.starts_with(b"/") {
            return true;
        }
        if let Some(&present) = self.present.get(directory) {
            return present;
        }
        let present = self.system.is_directory(as_path(directory));
        self.present.insert(directory.to_vec(), present);
        present
    }

    fn attempt(
        &self,
        known: &Identities,
        path: Vec<u8>,
        rule: Rule,
    ) -> std::result::Result<Attempt, String> {
        let shown = || as_text(&path);
        let opened = match self.system.open(as_path(&path)) {
            Ok(opened) => opened,
            Err(error) => return next_after(&error).ok_or_else(|| format!("{}: {error}", shown())),
        };
        if let Some(&place) = known.get(&opened.identity) {
            return Ok(Attempt::Found(Found::Known(place)));
        }
        match Object::read(opened, as_path(&path), self.format) {
            Ok(object) if self.is_musl_libc(&object) => Ok(Attempt::Found(Found::Loader)),
            Ok(object) => Ok(Attempt::Found(Found::New {
                path,
                rule,
                object: Box::new(object),
            })),
            Err(Rejected::Foreign) => match self.loader.flavour {
                Flavour::Glibc(_) => Ok(Attempt::Next(Some(shown()))),
                // musl does not look at the machine before it maps a file.
                Flavour::Musl => Err(format!("{} is for another machine", shown())),
            },
            Err(Rejected::Damaged(reason)) => Err(format!("{} {reason}", shown())),
        }
    }

    /// The directories of the object's own DT_RUNPATH or DT_RPATH.
    fn own_path(&mut self, objects: &[Loaded], place: usize) -> Directories {
        if let Some(known) = self.own_paths.get(&place) {
            return Rc::clone(known);
        }
        let object = &objects[place].object;
        let text = object.runpath.as_ref().or(object.rpath.as_ref());
        let directories = match (text, &self.loader.flavour) {
            (None, _) => Rc::default(),
            (Some(text), _) if text.is_empty() => Rc::default(),
            (Some(text), Flavour::Glibc(_)) => {
                self.directories(objects, place, text.split(|&byte| byte == b':'))
            }
            (Some(text), Flavour::Musl) => self.musl_own_path(objects, place, text),
        };
        self.own_paths.insert(place, Rc::clone(&directories));
        directories
    }

    /// The directory of an object.
    fn origin(&self, path: &[u8]) -> Vec<u8> {
        let absolute = match path.starts_with(b"/") {
            true => path.to_vec(),
            false => [&self.working_directory, b"/".as_slice(), path].concat(),
        };
        let end = memchr::memrchr(b'/', &absolute).unwrap_or(0);
        absolute[..end.max(1)].to_vec()
    }
}

/// The object at `place`, the one that asked for it, and so on to the executable, which glibc says
/// asked for what is preloaded, too.
fn chain(objects: &[Loaded], place: usize, preloads: bool) -> impl Iterator<Item = usize> {
    let mut next = Some(place);
    let upwards = std::iter::from_fn(move || {
        let place = next?;
        next = match objects[place].asker {
            Asker::Object(above) => Some(above),
            Asker::Preload | Asker::PreloadFile if preloads => Some(EXECUTABLE),
            _ => None,
        };
        Some(place)
    });
    // An object asks only for objects behind it, so this ends.
    upwards.take(objects.len())
}

/// What the loader does after it could not open a file; `None` is to give up.
fn next_after(error: &io::Error) -> Option<Attempt> {
    match Errno::from_io_error(error) {
        Some(Errno::NOENT | Errno::ACCESS | Errno::NOTDIR) => Some(Attempt::Next(None)),
        Some(_) => Some(Attempt::Stop),
        None => None, // not a regular file
    }
}
