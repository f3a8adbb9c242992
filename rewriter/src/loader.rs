//! What the dynamic loader will do with a program: which objects it loads, from where, and in which
//! order it relocates and initialises them. Nothing is run; the files alone tell.
//!
//! | file | question | source |
//! | --- | --- | --- |
//! | `ldso` | which loader is it, and what is built into it? | the interpreter's own bytes |
//! | `system` | which file is at that path, in this tree? | |
//! | `tokens` | what do $ORIGIN, $LIB and $PLATFORM stand for? | glibc elf/dl-load.c, `_dl_dst_substitute` |
//! | `cache` | what does ld.so.cache say? | glibc elf/dl-cache.c, `search_cache` |
//! | `search` | where is a library found, by which rule? | glibc elf/dl-load.c, musl ldso/dynlink.c |
//! | `preload` | what comes ahead of the program's own libraries? | glibc elf/rtld.c |
//! | `object`, `symbols` | what does a shared object ask for and define? | gABI |
//! | `closure` | what is loaded, in which order? | glibc elf/dl-deps.c, `_dl_map_object_deps` |
//! | `order` | in which order is it relocated and initialised? | glibc elf/dl-sort-maps.c, elf/dl-init.c |
//! | `binding` | which definition does a reference get? | glibc elf/dl-lookup.c |

pub(crate) mod binding;
pub(crate) mod cache;
pub(crate) mod closure;
pub(crate) mod ldso;
pub(crate) mod object;
pub(crate) mod order;
pub(crate) mod preload;
pub(crate) mod search;
pub(crate) mod symbols;
pub(crate) mod system;
pub(crate) mod tokens;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

/// Bytes of an ELF string as the path that the loader takes them for.
pub(crate) fn as_path(bytes: &[u8]) -> &Path {
    Path::new(OsStr::from_bytes(bytes))
}

/// Bytes of an ELF string for people: a name that somebody else chose does not move their cursor.
pub(crate) fn as_text(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let shown = |c: char| {
        if c.is_control() {
            char::REPLACEMENT_CHARACTER
        } else {
            c
        }
    };
    text.chars().map(shown).collect()
}
