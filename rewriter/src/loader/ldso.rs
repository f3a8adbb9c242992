//! Which loader PT_INTERP names, and what was built into it.
//!
//! glibc's ld.so has its default directories compiled in (`SYSTEM_DIRS`, in .rodata), and they differ
//! from one distribution to the next. They are read from there, as are its version and the path of
//! its cache, so that a sysroot is searched the way its own loader will search it.

use std::path::{Path, PathBuf};

use memchr::memmem;

use super::as_path;
use super::system::System;
use crate::elf::Format;
use crate::error::{ErrorKind, Result};
use crate::source::Source;

/// Larger than any loader.
const LARGEST: u64 = 64 << 20;

/// A dynamic loader.
#[derive(Clone, Debug)]
pub(crate) struct Loader {
    /// PT_INTERP.
    pub(crate) path: PathBuf,
    pub(crate) flavour: Flavour,
}

/// What kind of loader it is.
#[derive(Clone, Debug)]
pub(crate) enum Flavour {
    Glibc(Glibc),
    Musl,
}

/// What is built into a glibc loader.
#[derive(Clone, Debug)]
pub(crate) struct Glibc {
    /// `None` before 2.33, the first whose ld.so knows its version.
    pub(crate) version: Option<(u32, u32)>,
    /// `SYSTEM_DIRS`, each with a slash at its end.
    pub(crate) system_dirs: Vec<Vec<u8>>,
    /// What $LIB stands for.
    pub(crate) lib: Vec<u8>,
    pub(crate) cache: PathBuf,
    /// For the program's processor; each with a slash at its end, the last one empty.
    subdirectories: Vec<String>,
    /// Names of the glibc-hwcaps subdirectories among them, best first.
    pub(crate) hwcaps: Vec<String>,
}

impl Glibc {
    /// True from version 2.`minor` on.
    pub(crate) fn since(&self, minor: u32) -> bool {
        self.version.is_some_and(|version| version >= (2, minor))
    }
}

impl Loader {
    /// Reads the loader at `path`; `program` is who asks for it, on a processor that has the subdirectories `hwcaps`
    /// of glibc-hwcaps: best first, with colons between, and besides those that are known.
    pub(crate) fn read(
        system: &System,
        path: &Path,
        program: &Source,
        hwcaps: &str,
    ) -> Result<Self> {
        let unknown = |what: &'static str| {
            program.error(ErrorKind::Interpreter {
                interpreter: path.display().to_string(),
                what,
            })
        };
        let flavour = if is_musl(path) {
            Flavour::Musl
        } else {
            let bytes = system.read(path, LARGEST)?;
            let bytes = bytes.ok_or_else(|| unknown("does not exist there"))?;
            let glibc = Glibc::read(&bytes, program.format(), hwcaps);
            Flavour::Glibc(glibc.ok_or_else(|| unknown("is neither glibc's loader nor musl's"))?)
        };
        Ok(Self {
            path: path.to_owned(),
            flavour,
        })
    }

    /// Subdirectories of each directory that are tried before it, best first; the last one is the
    /// directory itself.
    pub(crate) fn subdirectories(&self) -> &[String] {
        match &self.flavour {
            Flavour::Glibc(glibc) => &glibc.subdirectories,
            Flavour::Musl => const { &[String::new()] },
        }
    }

    /// Its name and version, for people.
    pub(crate) fn describe(&self) -> String {
        match &self.flavour {
            Flavour::Musl => "musl".to_owned(),
            Flavour::Glibc(Glibc {
                version: Some((major, minor)),
                ..
            }) => format!("glibc {major}.{minor}"),
            Flavour::Glibc(_) => "glibc before 2.33".to_owned(),
        }
    }
}

/// True if that is the name of musl's loader.
pub(crate) fn is_musl(interpreter: &Path) -> bool {
    interpreter
        .file_name()
        .is_some_and(|name| name.as_encoded_bytes().starts_with(b"ld-musl-"))
}

impl Glibc {
    fn read(bytes: &[u8], format: Format, hwcaps: &str) -> Option<Self> {
        let system_dirs = system_dirs(bytes)?;
        let first = system_dirs.first()?;
        let lib = first.strip_prefix(b"/")?.strip_suffix(b"/")?;
        let lib = match lib.starts_with(b"lib") {
            true => lib.to_vec(),
            false => b"lib".to_vec(), // a prefix of its own, as in Nix and Guix
        };
        let cache = string_around(bytes, b"/ld.so.cache\0")?;
        let version = version(bytes);
        let mut glibc = Self {
            version,
            system_dirs,
            lib,
            cache: as_path(cache).to_owned(),
            subdirectories: Vec::new(),
            hwcaps: Vec::new(),
        };
        if glibc.since(33) {
            let named = hwcaps.split(':').filter(|name| !name.is_empty());
            let known = match format == Format::X86_64 {
                true => isa_levels(),
                false => Vec::new(),
            };
            for name in named.chain(known) {
                if !glibc.hwcaps.iter().any(|other| other == name) {
                    glibc.hwcaps.push(name.to_owned());
                }
            }
        }
        glibc.subdirectories = glibc.subdirectories(format);
        Some(glibc)
    }

    /// glibc-hwcaps came with 2.33; 2.37 dropped the older hardware subdirectories. Of those, only
    /// the two that every x86-64 processor has are known here (elf/dl-hwcaps.c,
    /// `_dl_important_hwcaps`), and of other machines' the one that all have.
    fn subdirectories(&self, format: Format) -> Vec<String> {
        let hwcaps = self.hwcaps.iter();
        let mut all: Vec<String> = hwcaps.map(|name| format!("glibc-hwcaps/{name}/")).collect();
        if !self.since(37) {
            let known: &[&str] = match format == Format::X86_64 {
                true => &["tls/x86_64/", "tls/", "x86_64/"],
                false => &["tls/"],
            };
            all.extend(known.iter().copied().map(str::to_owned));
        }
        all.push(String::new());
        all
    }
}

/// "stable release version 2.36", as `ld.so --version` prints it.
fn version(bytes: &[u8]) -> Option<(u32, u32)> {
    const BEFORE: &[u8] = b" release version ";
    let at = memmem::find(bytes, BEFORE)? + BEFORE.len();
    let text = bytes.get(at..)?.split(|&byte| !is_version(byte)).next()?;
    let mut parts = std::str::from_utf8(text).ok()?.split('.');
    Some((parts.next()?.parse().ok()?, parts.next()?.parse().ok()?))
}

fn is_version(byte: u8) -> bool {
    byte.is_ascii_digit() || byte == b'.'
}

/// The array of directories: strings side by side, each absolute and with a slash at its end, one
/// of them ending in lib/ or lib64/. The longest such run counts, of equal ones the last: the
/// configuration also has some of them for other uses.
fn system_dirs(bytes: &[u8]) -> Option<Vec<Vec<u8>>> {
    let is_dir = |text: &&[u8]| {
        text.len() > 2
            && text.starts_with(b"/")
            && text.ends_with(b"/")
            && text.iter().all(u8::is_ascii_graphic)
    };
    let run_around = |at: usize| {
        let (before, after) = bytes.split_at(at);
        let after = after.split(|&byte| byte == 0).take_while(is_dir);
        let before = before.strip_suffix(b"\0").unwrap_or(&[]);
        let mut run: Vec<&[u8]> = before
            .rsplit(|&byte| byte == 0)
            .take_while(is_dir)
            .collect();
        run.reverse();
        run.extend(after);
        run
    };
    let named = |end: &'static [u8]| {
        let ends = memmem::find_iter(bytes, end);
        ends.filter_map(|at| Some(memchr::memrchr(0, bytes.get(..at)?)? + 1))
    };
    let runs = named(b"/lib/\0").chain(named(b"/lib64/\0")).map(run_around);
    let best = runs.max_by_key(Vec::len).filter(|run| !run.is_empty())?;
    Some(best.into_iter().map(<[u8]>::to_vec).collect())
}

/// The NUL-terminated string that ends in `end` (with its NUL), without the NUL.
fn string_around<'a>(bytes: &'a [u8], end: &[u8]) -> Option<&'a [u8]> {
    let at = memmem::find(bytes, end)?;
    let start = memchr::memrchr(0, bytes.get(..at)?)? + 1;
    bytes.get(start..at + end.len() - 1)
}

/// The x86-64 levels beyond the baseline that this machine's processor has (x86-64 psABI,
/// "Micro-Architecture Levels"), best first.
fn isa_levels() -> Vec<&'static str> {
    #[cfg(target_arch = "x86_64")]
    {
        use std::arch::is_x86_feature_detected as has;
        let v2 = has!("cmpxchg16b")
            && has!("popcnt")
            && has!("sse3")
            && has!("sse4.1")
            && has!("sse4.2")
            && has!("ssse3");
        let v3 = v2
            && has!("avx")
            && has!("avx2")
            && has!("bmi1")
            && has!("bmi2")
            && has!("f16c")
            && has!("fma")
            && has!("lzcnt")
            && has!("movbe");
        let v4 = v3
            && has!("avx512f")
            && has!("avx512bw")
            && has!("avx512cd")
            && has!("avx512dq")
            && has!("avx512vl");
        let levels = [(v4, "x86-64-v4"), (v3, "x86-64-v3"), (v2, "x86-64-v2")];
        let levels = levels.into_iter().filter(|(has, _)| *has);
        levels.map(|(_, name)| name).collect()
    }
    #[cfg(not(target_arch = "x86_64"))]
    Vec::new()
}
