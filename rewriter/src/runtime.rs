//! The runtime that goes first: the embedded one, or one that the user names.

use std::borrow::Cow;
use std::collections::HashSet;
use std::env;
use std::fs;
use std::io::{self, Read, Seek};
use std::path::{Path, PathBuf};

use goblin::elf::Elf;
use goblin::elf::header::ET_DYN;
use goblin::elf::sym::STT_GNU_IFUNC;

use crate::divert::{self, Diversion};
use crate::elf::{Class, Format};
use crate::error::{Error, ErrorKind, Result};
use crate::loader::system::System;
use crate::parse::Image;
use crate::phase::Phase;
use crate::source::Source;
use crate::trusted;
use crate::write;

/// The project's own runtime for the machine that this program is for, as built with it.
const EMBEDDED: &[u8] = include_bytes!(env!("ALLOCS_RUNTIME"));

/// File name and soname of the own runtime.
pub const SONAME: &str = "liballocs_rt.so.1";

/// Directories in which the loader looks for a bare soname, whatever its configuration
/// (glibc `sysdeps/unix/sysv/linux/x86_64`: lib64 first; Debian's multiarch directories).
const DEFAULT_DIRECTORIES: [&str; 5] = [
    "/lib/x86_64-linux-gnu",
    "/usr/lib/x86_64-linux-gnu",
    "/lib64",
    "/usr/lib64",
    "/usr/local/lib",
];

/// The runtime that an executable is to load first.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Request<'a> {
    /// The runtime's DT_NEEDED string.
    pub(crate) needed: &'a str,
    /// The symbol of the runtime's init function.
    pub(crate) init: &'a str,
    /// When init is called.
    pub(crate) phase: Phase,
    /// What of the program's own allocator is led to the runtime.
    pub(crate) diversion: &'a Diversion,
}

/// What kind of symbol the init function is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// STT_GNU_IFUNC: its resolver runs while the program is relocated.
    Ifunc,
    Function,
}

/// Libraries that have D's runtime, of gdc, dmd and ldc.
const D_RUNTIMES: [&str; 5] = [
    "libgphobos.so",
    "libgdruntime.so",
    "libphobos2.so",
    "libphobos2-ldc-shared.so",
    "libdruntime-ldc-shared.so",
];

/// Why $ORIGIN does not do in DT_NEEDED of a program, if it does not: musl replaces it in search paths
/// only, and D's runtime, where that is a shared object, passes each DT_NEEDED of the program to
/// dlopen(3), which takes $ORIGIN for the directory of its caller (libdruntime gcc/sections/elf.d,
/// `getDependencies`).
pub(crate) fn no_origin(source: &Source, image: &Image) -> Result<Option<&'static str>> {
    if image.musl {
        return Ok(Some("musl does not replace $ORIGIN there"));
    }
    let is_d = |name: &Vec<u8>| D_RUNTIMES.iter().any(|d| name.starts_with(d.as_bytes()));
    let needs_d = image.needed(source)?.iter().any(is_d);
    Ok(needs_d.then_some("the D runtime would look for $ORIGIN in its own directory, and abort"))
}

/// The own runtime's DT_NEEDED string: found beside the executable, wherever that is moved to; or if
/// $ORIGIN does not do there, the path in `directory`.
pub(crate) fn own_needed(origin: bool, directory: &Path) -> Result<String> {
    if origin {
        return Ok(format!("$ORIGIN/{SONAME}"));
    }
    let path = directory.canonicalize().map(|path| path.join(SONAME));
    let path = path.map_err(|source| Error::io(directory, "find", source))?;
    let text = path.to_str().map(str::to_owned);
    text.ok_or_else(|| {
        let what = "it is not UTF-8";
        Error::new(&path, ErrorKind::RuntimeName { what })
    })
}

/// The own runtime for programs of `format`: what this program was built with, or for another machine a file that is
/// installed with it, among the libraries of that machine as multiarch has them (PREFIX/lib/TRIPLET, where this
/// program is in PREFIX/bin). An error says what to do.
pub(crate) fn own(format: Format) -> std::result::Result<Cow<'static, [u8]>, String> {
    if is_embedded(format) {
        return Ok(Cow::Borrowed(EMBEDDED));
    }
    const NAME_ONE: &str = "name one with --runtime";
    let this = env::current_exe().ok();
    let prefix = this
        .as_deref()
        .and_then(Path::parent)
        .and_then(Path::parent);
    let (Some(libraries), Some(prefix)) = (format.multiarch(), prefix) else {
        return Err(NAME_ONE.to_owned());
    };
    let path = prefix.join("lib").join(libraries).join(SONAME);
    let unfit = |why: String| {
        let path = path.display();
        format!(
            "install the one that rewriter/dist/runtime builds as {path} ({why}), or {NAME_ONE}"
        )
    };
    let bytes = read_shared_object(&path).map_err(|error| unfit(error.to_string()))?;
    for phase in Phase::ALL {
        let symbol = phase.init_symbol();
        match defines(&bytes, symbol, format) {
            Ok(Some(_)) => {}
            Ok(None) => return Err(unfit(format!("what is there has no {symbol}"))),
            Err(why) => return Err(unfit(why.to_owned())),
        }
    }
    Ok(Cow::Owned(bytes))
}

/// Whether the own runtime for programs of `format` is in this program.
pub(crate) fn is_embedded(format: Format) -> bool {
    Format::identify(EMBEDDED) == Some(format)
}

/// True if `needed` is what [`own_needed`] gives, wherever the program is.
pub(crate) fn is_own(needed: &str) -> bool {
    needed.strip_prefix("$ORIGIN/") == Some(SONAME)
}

/// What kind of symbol `init` is in the own runtime in `directory`: it has one for each phase.
pub(crate) fn check_own(init: &str, directory: &Path) -> Result<(Kind, PathBuf)> {
    let path = directory.join(SONAME);
    let phase = Phase::ALL.iter().find(|phase| phase.init_symbol() == init);
    match phase {
        Some(Phase::Relocation) => Ok((Kind::Ifunc, path)),
        Some(_) => Ok((Kind::Function, path)),
        None => {
            let symbol = init.to_owned();
            Err(Error::new(&path, ErrorKind::RuntimeLacksInit { symbol }))
        }
    }
}

/// Refuses what the loader would look up in an unexpected place; `no_origin` says why $ORIGIN is that.
pub(crate) fn check_needed(needed: &str, no_origin: Option<&'static str>) -> Result<()> {
    let what = if needed.is_empty() {
        "it is empty"
    } else if needed.contains('\0') {
        "it contains a NUL"
    } else if let Some(reason) = no_origin.filter(|_| needed.starts_with('$')) {
        reason
    } else if needed.contains('/')
        && !needed.starts_with('/')
        && !needed.starts_with("$ORIGIN/")
        && !needed.starts_with("${ORIGIN}/")
    {
        "it is relative to whatever directory the program is started in"
    } else {
        return Ok(());
    };
    Err(Error::new(
        Path::new(needed),
        ErrorKind::RuntimeName { what },
    ))
}

/// Refuses what no linker would take as a symbol.
pub(crate) fn check_init(needed: &str, init: &str) -> Result<()> {
    let graphic = !init.is_empty() && init.chars().all(|c| c.is_ascii_graphic());
    if graphic && !init.contains('@') {
        return Ok(());
    }
    Err(Error::new(
        Path::new(needed),
        ErrorKind::InitName {
            symbol: init.to_owned(),
        },
    ))
}

/// The runtime's init symbol, and the file that defines it, where that can be found.
pub(crate) type Found = Option<(Kind, PathBuf)>;

/// What a rewrite asks of the place of its result.
pub(crate) trait Surroundings {
    /// Checks the runtime that `needed` names for an executable in `origin`, of that format.
    fn check(&self, needed: &str, init: &str, origin: &Path, format: Format) -> Result<Found>;

    /// Says what is wrong with that runtime as a library of a privileged program, if anything is.
    fn flaw(&self, needed: &str) -> Option<String>;

    /// Sees to it that the own runtime for programs of that format is in `directory`.
    fn install(&self, directory: &Path, force: bool, format: Format) -> Result<Option<Installed>>;
}

/// One program on this machine.
pub(crate) struct ThisMachine;

impl Surroundings for ThisMachine {
    fn check(&self, needed: &str, init: &str, origin: &Path, format: Format) -> Result<Found> {
        check(needed, init, &[origin], &[], format)
    }

    fn flaw(&self, needed: &str) -> Option<String> {
        trusted::flaw(needed, &[])
    }

    fn install(&self, directory: &Path, force: bool, format: Format) -> Result<Option<Installed>> {
        install(directory, force, format).map(Some)
    }
}

/// Checks the runtime that `needed` names, if it is to be found in one of the `trees`, or else on this
/// machine; $ORIGIN is any of `origins`.
pub(crate) fn check(
    needed: &str,
    init: &str,
    origins: &[&Path],
    trees: &[System],
    format: Format,
) -> Result<Found> {
    let Some(path) = find(needed, origins, trees, format) else {
        return Ok(None);
    };
    let read = read_shared_object(&path);
    let bytes = read.map_err(|source| Error::io(&path, "read", source))?;
    let unfit = |what: &str| {
        Error::new(
            &path,
            ErrorKind::RuntimeUnfit {
                what: what.to_owned(),
            },
        )
    };
    match defines(&bytes, init, format) {
        Ok(Some(kind)) => Ok(Some((kind, path))),
        Ok(None) => Err(Error::new(
            &path,
            ErrorKind::RuntimeLacksInit {
                symbol: init.to_owned(),
            },
        )),
        Err(what) => Err(unfit(what)),
    }
}

/// The functions that the runtime defines for what is diverted to it; none if it cannot be found. `file` is that
/// of a runtime that the user names; without a name, it is the `own` one.
pub(crate) fn diverting(is_own: bool, file: Option<&Path>) -> HashSet<String> {
    let bytes = match is_own {
        true => Some(Cow::Borrowed(EMBEDDED)),
        false => file
            .and_then(|file| read_shared_object(file).ok())
            .map(Cow::Owned),
    };
    let elf = bytes.as_ref().and_then(|bytes| Elf::parse(bytes).ok());
    let Some(elf) = elf else {
        return HashSet::new();
    };
    let defined = elf.dynsyms.iter().filter(|symbol| symbol.st_shndx != 0); // SHN_UNDEF
    let names = defined.filter_map(|symbol| elf.dynstrtab.get_at(symbol.st_name));
    let ours = names.filter(|name| name.starts_with(divert::PREFIX));
    ours.map(str::to_owned).collect()
}

/// The file that `needed` names, where it is at hand: what runs on another machine is on that one, unless it comes
/// with the executable or its tree.
fn find(needed: &str, origins: &[&Path], trees: &[System], format: Format) -> Option<PathBuf> {
    let relative = needed
        .strip_prefix("$ORIGIN/")
        .or_else(|| needed.strip_prefix("${ORIGIN}/"));
    if let Some(relative) = relative {
        let candidates = origins.iter().map(|origin| origin.join(relative));
        return candidates.into_iter().find(|path| path.exists());
    }
    let candidates: Vec<PathBuf> = match needed.starts_with('/') {
        true => vec![PathBuf::from(needed)],
        false => (DEFAULT_DIRECTORIES.iter())
            .map(|directory| Path::new(directory).join(needed))
            .collect(),
    };
    let in_tree = |tree: &System| candidates.iter().find_map(|path| tree.real_path(path).ok());
    let found = trees.iter().find_map(in_tree);
    let here = candidates.iter().find(|path| path.exists());
    found.or_else(|| here.filter(|_| format == Format::X86_64).cloned())
}

/// How much of a file says which machine it is for, in bytes.
const HEAD: u64 = 64;

fn read_shared_object(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::other("it is not a regular file"));
    }
    // A runtime is small; whatever is larger than this is read as far as it matters.
    fs::File::open(path)?
        .take(256 << 20)
        .read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// What kind of `symbol` the shared object defines; an error says why it is no such thing.
fn defines(
    bytes: &[u8],
    symbol: &str,
    format: Format,
) -> std::result::Result<Option<Kind>, &'static str> {
    let header = Elf::parse_header(bytes).map_err(|_| "it is not an ELF file")?;
    match Format::identify(bytes) {
        None => return Err("it is for a machine that is not supported"),
        Some(found) if found.class != format.class => {
            return Err(match found.class {
                Class::Elf32 => "it is a 32-bit file",
                Class::Elf64 => "it is a 64-bit file",
            });
        }
        Some(found) if found != format => return Err("it is for another machine"),
        Some(_) => {}
    }
    if header.e_type != ET_DYN {
        return Err("it is not a shared object");
    }
    // Through the dynamic segment, as the loader finds them: section headers may be stripped.
    let elf = Elf::parse(bytes).map_err(|_| "its dynamic symbols cannot be read")?;
    let found = elf.dynsyms.iter().find(|candidate| {
        let name = elf.dynstrtab.get_at(candidate.st_name);
        let defined = candidate.st_shndx != 0; // SHN_UNDEF
        defined && name == Some(symbol)
    });
    Ok(found.map(|symbol| match symbol.st_type() {
        STT_GNU_IFUNC => Kind::Ifunc,
        _ => Kind::Function,
    }))
}

/// The own runtime's file beside `output`; gone again if it was new and is not kept.
#[derive(Debug)]
pub(crate) struct Installed {
    path: PathBuf,
    remove: bool,
}

impl Installed {
    /// Leaves the file in place.
    pub(crate) fn keep(mut self) -> PathBuf {
        self.remove = false;
        std::mem::take(&mut self.path)
    }
}

impl Drop for Installed {
    fn drop(&mut self) {
        if self.remove {
            // The rewrite failed with an error of its own, which is the one to report.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Writes the own runtime into `directory`. An identical file is left alone; another one is
/// replaced only if `force` says so.
pub(crate) fn install(directory: &Path, force: bool, format: Format) -> Result<Installed> {
    let path = directory.join(SONAME);
    let own = own_beside(&path, format)?;
    let present = present(&path, &own).map_err(|source| Error::io(&path, "read", source))?;
    let remove = match present {
        Present::Same => {
            return Ok(Installed {
                path,
                remove: false,
            });
        }
        Present::Foreign(other) => return Err(for_another_machine(&path, other)),
        Present::Other if !force => return Err(Error::new(&path, ErrorKind::RuntimeDiffers)),
        Present::Other => false,
        Present::Nothing => true,
    };
    write::whole_file(&path, &own, 0o755).map_err(|source| Error::io(&path, "write", source))?;
    Ok(Installed { path, remove })
}

fn own_beside(path: &Path, format: Format) -> Result<Cow<'static, [u8]>> {
    own(format).map_err(|advice| {
        let machine = format.name();
        Error::new(path, ErrorKind::NoOwnRuntime { machine, advice })
    })
}

/// The file at `path` is for programs of the machine that `other` is of: with another they would not start.
pub(crate) fn for_another_machine(path: &Path, other: Format) -> Error {
    let machine = other.name();
    Error::new(path, ErrorKind::RuntimeOfAnotherMachine { machine })
}

/// What is where the own runtime goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Present {
    Nothing,
    Same,
    Other,
    /// A runtime for programs of another machine.
    Foreign(Format),
}

/// True if `directory` has a file with the own runtime's name that is not the own runtime for programs of that format.
pub(crate) fn is_another(directory: &Path, format: Format) -> Result<bool> {
    let path = directory.join(SONAME);
    let own = own_beside(&path, format)?;
    match present(&path, &own).map_err(|source| Error::io(&path, "read", source))? {
        Present::Foreign(other) => Err(for_another_machine(&path, other)),
        present => Ok(present == Present::Other),
    }
}

fn present(path: &Path, own: &[u8]) -> io::Result<Present> {
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Present::Nothing),
        Err(error) => return Err(error),
        // Nothing else is opened: reading a FIFO would wait for a writer.
        Ok(found) if !found.is_file() => return Ok(Present::Other),
        Ok(_) => {}
    }
    let mut file = fs::File::open(path)?;
    if file.metadata()?.len() == own.len() as u64 && is_same(&mut file, own)? {
        return Ok(Present::Same);
    }
    let mut head = Vec::new();
    file.rewind()?;
    file.take(HEAD).read_to_end(&mut head)?;
    Ok(match Format::identify(&head) {
        Some(format) if Format::identify(own) != Some(format) => Present::Foreign(format),
        _ => Present::Other,
    })
}

/// Whether `file` has just these `bytes`: a piece of it at a time, which is cheaper than to make room for all of it.
fn is_same(file: &mut fs::File, bytes: &[u8]) -> io::Result<bool> {
    let mut piece = [0; 32 << 10];
    for expected in bytes.chunks(piece.len()) {
        let piece = &mut piece[..expected.len()];
        match file.read_exact(piece) {
            Ok(()) if piece == expected => {}
            Ok(()) => return Ok(false),
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(false),
            Err(error) => return Err(error),
        }
    }
    Ok(true)
}
