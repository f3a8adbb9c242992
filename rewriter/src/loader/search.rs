//! Where the loader finds a library, and by which rule.
//!
//! glibc (elf/dl-load.c, `_dl_map_new_object`): a name with a slash is a path. Otherwise DT_RPATH of
//! the object that asks, of the one that asked for that, and so on, and of the executable, unless
//! the asking object has a DT_RUNPATH; LD_LIBRARY_PATH; DT_RUNPATH of the asking object; ld.so.cache;
//! the default directories. In each directory the subdirectories for better processors come first.
//!
//! musl (ldso/dynlink.c, `load_library`): LD_LIBRARY_PATH; DT_RUNPATH or DT_RPATH of the object that
//! asks, of the one that asked for that, and so on; the directories of its path file.

use std::collections::HashMap;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use object::elf::DF_1_NODEFLIB;
use rustix::io::Errno;

use super::as_path;
use super::cache::Cache;
use super::closure::{Asker, EXECUTABLE, Loaded};
use super::ldso::{Flavour, Glibc, Loader};
use super::object::{Object, Rejected};
use super::system::System;
use super::tokens::Tokens;
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

/// What came of a list of directories, if it was found there.
type Tried = std::result::Result<Option<Attempt>, String>;

/// How one attempt to open a library went.
enum Attempt {
    Found(Found),
    /// There is no such file, or none for this machine.
    Next(Option<String>),
    /// This list of directories is not searched any further.
    Stop,
}

impl<'a> Search<'a> {
    /// A search as `loader` makes it in `system`. `library_path` is LD_LIBRARY_PATH, `origin` the
    /// executable's path in the system.
    pub(crate) fn new(
        system: &'a System,
        loader: &'a Loader,
        secure: bool,
        library_path: &[u8],
        executable: &Loaded,
    ) -> Result<Self> {
        let working_directory = std::env::current_dir().unwrap_or_default();
        let mut search = Self {
            system,
            loader,
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
                search.cache = Cache::new(&file, &glibc.hwcaps);
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
        let found = if name.contains(&b'/') {
            self.attempt(known, name.to_vec(), Rule::Path)
        } else if musl {
            self.find_for_musl(objects, known, name, asker)
        } else {
            self.find_for_glibc(objects, known, name, asker)
        };
        match found {
            Ok(Attempt::Found(found)) => Ok(found),
            Ok(Attempt::Next(Some(elsewhere))) => Err(format!(
                "only {elsewhere} has that name, and is for another machine"
            )),
            Ok(_) => Err("not found".to_owned()),
            Err(reason) => Err(reason),
        }
    }

    fn find_for_glibc(
        &mut self,
        objects: &[Loaded],
        known: &Identities,
        name: &[u8],
        asker: Asker,
    ) -> std::result::Result<Attempt, String> {
        let loader = match asker {
            Asker::Object(place) => place,
            _ => EXECUTABLE,
        };
        let asking = &objects[loader].object;
        let mut foreign = None;
        let mut try_list = |search: &mut Self, directories: &Directories, rule| -> Tried {
            let attempt = search.in_directories(known, directories, name, rule)?;
            Ok(match attempt {
                Attempt::Next(elsewhere) => {
                    foreign = foreign.take().or(elsewhere);
                    None
                }
                Attempt::Stop => None,
                found @ Attempt::Found(_) => Some(found),
            })
        };
        if asking.runpath.is_none() {
            for place in chain(objects, loader, true) {
                if objects[place].object.rpath.is_some() {
                    let directories = self.own_path(objects, place);
                    if let Some(found) = try_list(self, &directories, Rule::Rpath(place))? {
                        return Ok(found);
                    }
                }
            }
        }
        let directories = Rc::clone(&self.library_path);
        if let Some(found) = try_list(self, &directories, Rule::LibraryPath)? {
            return Ok(found);
        }
        if asking.runpath.is_some() {
            let directories = self.own_path(objects, loader);
            if let Some(found) = try_list(self, &directories, Rule::Runpath(loader))? {
                return Ok(found);
            }
        }
        let no_default = asking.has(DF_1_NODEFLIB);
        let cached = self.cache.find(name).map(<[u8]>::to_vec);
        let in_default = |path: &[u8]| self.default.iter().any(|dir| path.starts_with(dir));
        if let Some(path) = cached.filter(|path| !(no_default && in_default(path))) {
            match self.attempt(known, path, Rule::Cache)? {
                found @ Attempt::Found(_) => return Ok(found),
                Attempt::Next(elsewhere) => foreign = foreign.or(elsewhere),
                Attempt::Stop => {}
            }
        }
        if no_default {
            return Ok(Attempt::Next(foreign));
        }
        let directories = Rc::clone(&self.default);
        match self.in_directories(known, &directories, name, Rule::Default)? {
            found @ Attempt::Found(_) => Ok(found),
            Attempt::Next(elsewhere) => Ok(Attempt::Next(foreign.or(elsewhere))),
            Attempt::Stop => Ok(Attempt::Next(foreign)),
        }
    }

    fn find_for_musl(
        &mut self,
        objects: &[Loaded],
        known: &Identities,
        name: &[u8],
        asker: Asker,
    ) -> std::result::Result<Attempt, String> {
        let mut lists = vec![(Rc::clone(&self.library_path), Rule::LibraryPath)];
        if let Asker::Object(place) = asker {
            for place in chain(objects, place, false) {
                let rule = match objects[place].object.runpath {
                    Some(_) => Rule::Runpath(place),
                    None => Rule::Rpath(place),
                };
                lists.push((self.own_path(objects, place), rule));
            }
        }
        lists.push((Rc::clone(&self.default), Rule::Default));
        for (directories, rule) in lists {
            match self.in_directories(known, &directories, name, rule)? {
                Attempt::Next(None) => {}
                // musl does not look at the machine before it maps a file.
                Attempt::Next(Some(path)) => return Err(format!("{path} is for another machine")),
                other => return Ok(other),
            }
        }
        Ok(Attempt::Next(None))
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
            let (subdirectories, only_one) = match &self.loader.flavour {
                Flavour::Glibc(glibc) => (glibc.subdirectories.as_slice(), false),
                Flavour::Musl => ([].as_slice(), true),
            };
            let subdirectories = subdirectories.iter().map(|name| name.as_bytes());
            let none = only_one.then_some(b"".as_slice());
            for subdirectory in subdirectories.chain(none) {
                let directory = [directory, subdirectory].concat();
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
        let shown = || String::from_utf8_lossy(&path).into_owned();
        let opened = match self.system.open(as_path(&path)) {
            Ok(opened) => opened,
            Err(error) => return next_after(&error).ok_or_else(|| format!("{}: {error}", shown())),
        };
        if let Some(&place) = known.get(&opened.identity) {
            return Ok(Attempt::Found(Found::Known(place)));
        }
        match Object::read(opened, as_path(&path)) {
            Ok(object) if self.is_musl_libc(&object) => Ok(Attempt::Found(Found::Loader)),
            Ok(object) => Ok(Attempt::Found(Found::New {
                path,
                rule,
                object: Box::new(object),
            })),
            Err(Rejected::Foreign) => Ok(Attempt::Next(Some(shown()))),
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

    /// `fillin_rpath`: tokens replaced, one slash at the end, each directory once.
    fn directories<'t>(
        &self,
        objects: &[Loaded],
        place: usize,
        parts: impl Iterator<Item = &'t [u8]>,
    ) -> Directories {
        let mut all: Vec<Vec<u8>> = Vec::new();
        for part in parts {
            let mut directory = match &self.loader.flavour {
                Flavour::Glibc(glibc) => self.tokens(glibc, objects, place, part),
                Flavour::Musl => part.to_vec(),
            };
            if directory.is_empty() && !part.is_empty() {
                continue;
            }
            while directory.len() > 1 && directory.ends_with(b"/") {
                directory.pop();
            }
            if !directory.is_empty() && directory != b"/" {
                directory.push(b'/');
            }
            if !all.contains(&directory) {
                all.push(directory);
            }
        }
        Rc::new(all)
    }

    /// `_dl_dst_substitute`. Where more rights are at stake, $ORIGIN of the executable has to come
    /// first and lead to a default directory; otherwise nothing is left.
    fn tokens(&self, glibc: &Glibc, objects: &[Loaded], place: usize, text: &[u8]) -> Vec<u8> {
        if !text.contains(&b'$') {
            return text.to_vec();
        }
        let origin = self.origin(&objects[place].path);
        let expand = |origin| {
            let tokens = Tokens {
                origin,
                lib: &glibc.lib,
                platform: b"x86_64",
            };
            tokens.expand(text)
        };
        let expanded = expand(&origin);
        let uses_origin = expanded != expand(b"\0");
        if self.secure && place == EXECUTABLE && uses_origin {
            let normal = normalised(&expanded);
            let trusted = glibc.system_dirs.iter().any(|dir| normal.starts_with(dir));
            let in_front = text.starts_with(b"$ORIGIN") || text.starts_with(b"${ORIGIN}");
            return if trusted && in_front {
                expanded
            } else {
                Vec::new()
            };
        }
        expanded
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

    fn musl_own_path(&self, objects: &[Loaded], place: usize, text: &[u8]) -> Directories {
        let others = text.split(|&byte| byte == b'$').skip(1);
        let known = |rest: &[u8]| rest.starts_with(b"ORIGIN") || rest.starts_with(b"{ORIGIN}");
        let uses_origin = text.contains(&b'$');
        let refused = self.secure && place == EXECUTABLE;
        if uses_origin && (refused || !{ others }.all(known)) {
            return Rc::default();
        }
        let origin = self.origin(&objects[place].path);
        let mut expanded = Vec::new();
        for (index, part) in text.split(|&byte| byte == b'$').enumerate() {
            let rest = match index {
                0 => part,
                _ => {
                    expanded.extend_from_slice(&origin);
                    let braced = part.strip_prefix(b"{ORIGIN}");
                    braced.or(part.strip_prefix(b"ORIGIN")).unwrap_or(part)
                }
            };
            expanded.extend_from_slice(rest);
        }
        musl_directories(&expanded)
    }

    /// /etc/ld-musl-ARCH.path two levels above the loader, or three directories.
    fn musl_default(&self) -> Result<Directories> {
        const LARGEST: u64 = 1 << 20;
        let loader = self.loader.path.as_os_str().as_bytes();
        let name = loader.rsplit(|&byte| byte == b'/').next().unwrap_or(loader);
        let arch = name.strip_prefix(b"ld-musl-").unwrap_or(name);
        let arch = arch.split(|&byte| byte == b'.').next().unwrap_or(arch);
        let mut slashes = memchr::memrchr_iter(b'/', loader).skip(1);
        let prefix = &loader[..slashes.next().unwrap_or(0)];
        let file = [prefix, b"/etc/ld-musl-", arch, b".path"].concat();
        let text = self.system.read(as_path(&file), LARGEST)?;
        let built_in = || b"/lib:/usr/local/lib:/usr/lib".to_vec();
        Ok(musl_directories(&text.unwrap_or_else(built_in)))
    }

    /// Names that musl takes for itself, whatever the file system has.
    fn is_musl_itself(&self, name: &[u8]) -> bool {
        const RESERVED: [&[u8]; 7] = [
            b"libc.",
            b"libpthread.",
            b"librt.",
            b"libm.",
            b"libdl.",
            b"libutil.",
            b"libxnet.",
        ];
        let reserved = RESERVED.iter().any(|start| name.starts_with(start));
        reserved || as_path(name) == self.loader.path
    }

    /// A library that musl takes for a C library, and itself instead.
    fn is_musl_libc(&self, object: &Object) -> bool {
        matches!(self.loader.flavour, Flavour::Musl)
            && object.symbols.find(b"__libc_start_main", None).is_some()
            && object.symbols.find(b"stdin", None).is_some()
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

/// `path_open`: parts between colons and newlines; empty ones do not count.
fn musl_directories(text: &[u8]) -> Directories {
    let parts = text.split(|byte| b":\n".contains(byte));
    let parts = parts.filter(|part| !part.is_empty());
    Rc::new(parts.map(|part| [part, b"/"].concat()).collect())
}

/// The path without `.`, `..` and doubled slashes, and with a slash at its end.
fn normalised(path: &[u8]) -> Vec<u8> {
    let mut parts: Vec<&[u8]> = Vec::new();
    for part in path.split(|&byte| byte == b'/') {
        match part {
            b"" | b"." => {}
            b".." => {
                parts.pop();
            }
            _ => parts.push(part),
        }
    }
    let mut all = vec![b'/'];
    for part in parts {
        all.extend_from_slice(part);
        all.push(b'/');
    }
    all
}
