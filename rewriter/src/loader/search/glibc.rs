//! glibc's search (elf/dl-load.c, `_dl_map_new_object`), and what it makes of a search path.

use std::rc::Rc;

use object::elf::DF_1_NODEFLIB;

use super::{Attempt, Directories, Found, Identities, Rule, Search, chain};
use crate::loader::closure::{Asker, EXECUTABLE, Loaded};
use crate::loader::ldso::{Flavour, Glibc};
use crate::loader::tokens::Tokens;

impl Search<'_> {
    pub(super) fn find_for_glibc(
        &mut self,
        objects: &[Loaded],
        known: &Identities,
        name: &[u8],
        asker: Asker,
        foreign: &mut Option<String>,
    ) -> Result<Option<Found>, String> {
        let loader = match asker {
            Asker::Object(place) => place,
            _ => EXECUTABLE,
        };
        let lists = self.lists_before_cache(objects, loader);
        if let Some(found) = self.in_lists(known, &lists, name, foreign)? {
            return Ok(Some(found));
        }
        let no_default = objects[loader].object.has(DF_1_NODEFLIB);
        let cached = self.cache.find(name).map(<[u8]>::to_vec);
        let in_default = |path: &[u8]| self.default.iter().any(|dir| path.starts_with(dir));
        if let Some(path) = cached.filter(|path| !(no_default && in_default(path))) {
            match self.attempt(known, path, Rule::Cache)? {
                Attempt::Found(found) => return Ok(Some(found)),
                Attempt::Next(elsewhere) => *foreign = foreign.take().or(elsewhere),
                Attempt::Stop => {}
            }
        }
        if no_default {
            return Ok(None);
        }
        let default = [(Rc::clone(&self.default), Rule::Default)];
        self.in_lists(known, &default, name, foreign)
    }

    fn lists_before_cache(
        &mut self,
        objects: &[Loaded],
        loader: usize,
    ) -> Vec<(Directories, Rule)> {
        let mut lists = Vec::new();
        let runpath = objects[loader].object.runpath.is_some();
        if !runpath {
            for place in chain(objects, loader, true) {
                if objects[place].object.rpath.is_some() {
                    lists.push((self.own_path(objects, place), Rule::Rpath(place)));
                }
            }
        }
        lists.push((Rc::clone(&self.library_path), Rule::LibraryPath));
        if runpath {
            lists.push((self.own_path(objects, loader), Rule::Runpath(loader)));
        }
        lists
    }

    /// `fillin_rpath`: tokens replaced, one slash at the end, each directory once.
    pub(super) fn directories<'t>(
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
    pub(super) fn tokens(
        &self,
        glibc: &Glibc,
        objects: &[Loaded],
        place: usize,
        text: &[u8],
    ) -> Vec<u8> {
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
