//! musl's search (ldso/dynlink.c, `load_library`), and what it makes of a search path.

use std::os::unix::ffi::OsStrExt;
use std::rc::Rc;

use super::{Directories, Found, Identities, Rule, Search, chain};
use crate::error::Result;
use crate::loader::as_path;
use crate::loader::closure::{Asker, EXECUTABLE, Loaded};
use crate::loader::ldso::Flavour;
use crate::loader::object::Object;

impl Search<'_> {
    pub(super) fn find_for_musl(
        &mut self,
        objects: &[Loaded],
        known: &Identities,
        name: &[u8],
        asker: Asker,
        foreign: &mut Option<String>,
    ) -> std::result::Result<Option<Found>, String> {
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
        self.in_lists(known, &lists, name, foreign)
    }

    pub(super) fn musl_own_path(
        &self,
        objects: &[Loaded],
        place: usize,
        text: &[u8],
    ) -> Directories {
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
    pub(super) fn musl_default(&self) -> Result<Directories> {
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
    pub(super) fn is_musl_itself(&self, name: &[u8]) -> bool {
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
    pub(super) fn is_musl_libc(&self, object: &Object) -> bool {
        matches!(self.loader.flavour, Flavour::Musl)
            && object.symbols.find(b"__libc_start_main", None).is_some()
            && object.symbols.find(b"stdin", None).is_some()
    }
}

/// `path_open`: parts between colons and newlines; empty ones do not count.
pub(super) fn musl_directories(text: &[u8]) -> Directories {
    let parts = text.split(|byte| b":\n".contains(byte));
    let parts = parts.filter(|part| !part.is_empty());
    Rc::new(parts.map(|part| [part, b"/"].concat()).collect())
}
