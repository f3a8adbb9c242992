//! Will the runtime be first in this program, on that system, and if not, who is ahead of it?
//!
//! [`explain`] asks the `loader` model what the dynamic loader will do and puts it in the order of
//! time: what is loaded, which code runs while it is relocated, which constructors are called, where
//! among them the runtime's init stands. Nothing is run.

mod examine;
mod text;
mod verdict;

use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::divert::OwnAllocator;
use crate::error::{Error, Result};
use crate::input;
use crate::loader::system::System;
use crate::phase::Phase;
use crate::source::Source;

use self::examine::examine;

/// What to explain, and under which conditions.
#[derive(Clone, Debug, Default)]
pub struct Conditions {
    /// The directory that holds the system the program will run in; `None` is this machine.
    pub sysroot: Option<PathBuf>,
    /// LD_LIBRARY_PATH of its environment.
    pub library_path: String,
    /// LD_PRELOAD of its environment.
    pub preload: String,
    /// Subdirectories of glibc-hwcaps that its processor has beside those that are known: best first, with colons
    /// between.
    pub hwcaps: String,
}

/// What the loader will do with a program. Its JSON form is what `--json` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Explanation {
    /// The program's path, as given.
    pub program: String,
    /// PT_INTERP.
    pub interpreter: String,
    /// Which loader that is, with its version.
    pub loader: String,
    /// The runtime that the program was rewritten for.
    pub runtime: Option<Runtime>,
    /// What is loaded, in the order in which symbols are looked up. The program is first.
    pub load_order: Vec<Object>,
    /// Names that the loader looked for, in order, but for those that an object went by already.
    pub requests: Vec<Request>,
    /// Paths of the objects in the order in which they are relocated.
    pub relocation_order: Vec<String>,
    /// IFUNC resolvers that run before the runtime's init, by the object whose relocation runs them.
    pub ifunc_resolvers: Vec<Resolvers>,
    /// Data of libraries that is copied into the program before its constructors run.
    pub copy_relocations: Vec<Binding>,
    /// Paths of the objects in the order in which they are initialised, with constructors or without;
    /// the program's start code does that for the program itself.
    pub initialised: Vec<String>,
    /// Functions that the loader and the start code call before main, in order.
    pub init_order: Vec<Call>,
    /// Objects besides the runtime that ask to be first (DF_1_INITFIRST), in the order in which
    /// they are mapped: the last one has it.
    pub rivals: Vec<String>,
    /// Who defines malloc, and which definition each object that refers to it gets.
    pub malloc: Malloc,
    /// What the user should know besides.
    pub notes: Vec<String>,
    /// The answer.
    pub verdict: Verdict,
}

/// The runtime that a program was rewritten for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Runtime {
    /// Its init symbol.
    pub init: String,
    /// The object that the symbol is bound to; `None` if nobody defines it.
    pub object: Option<String>,
    /// When init is called.
    pub phase: Phase,
}

/// An object of the process.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Object {
    /// Its path, as the loader calls it.
    pub path: String,
    /// The name that it was first asked for by.
    pub name: String,
    /// Who asked for it first: a path, "LD_PRELOAD", "/etc/ld.so.preload", or nobody.
    pub needed_by: Option<String>,
    /// The rule by which it was found.
    pub found_by: String,
    /// Paths of the objects that it needs, in order.
    pub needs: Vec<String>,
    /// It has DF_1_INITFIRST.
    pub initfirst: bool,
}

/// A name that the loader looked for.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Request {
    /// The name, tokens replaced.
    pub name: String,
    /// Who asked for it.
    pub needed_by: String,
    /// The object that it led to; `None` if it was not found.
    pub object: Option<String>,
    /// The object was not there before.
    pub new: bool,
    /// Why it was not found.
    pub problem: Option<String>,
    /// It was not found, and the program does not start without it.
    pub required: bool,
}

/// IFUNC resolvers that run while one object is relocated.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Resolvers {
    /// The object that is relocated.
    pub object: String,
    /// Number of its own resolvers (R_X86_64_IRELATIVE).
    pub own: u64,
    /// IFUNCs of dynamic symbol tables that it is bound to.
    pub bound: Vec<Binding>,
}

/// A symbol and the object whose definition a reference gets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Binding {
    /// The symbol.
    pub symbol: String,
    /// The object that defines it.
    pub object: String,
}

/// A function that is called before main.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Call {
    /// The object that it is called for.
    pub object: String,
    /// What makes it be called: `DT_INIT`, `DT_INIT_ARRAY[2]`, "IFUNC resolver" and so on.
    pub entry: String,
    /// Its address in the object, where the object's file says it.
    pub address: Option<String>,
    /// Its name, where there is one.
    pub symbol: Option<String>,
    /// It is the runtime's init.
    pub runtime: bool,
}

/// Who defines malloc.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Malloc {
    /// Objects that define it, in load order: the first one is what most references get.
    pub definitions: Vec<String>,
    /// For each object that refers to malloc, the one whose definition it gets.
    pub bindings: Vec<MallocBinding>,
    /// The allocators in the program's own file.
    pub own: Vec<OwnAllocator>,
}

/// Which malloc an object calls.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct MallocBinding {
    /// The object that refers to malloc.
    pub object: String,
    /// The object whose definition it gets; `None` if there is none.
    pub definition: Option<String>,
}

/// Whether the runtime is first.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Verdict {
    /// The runtime's init runs before every constructor.
    pub first: bool,
    /// The answer in one sentence.
    pub text: String,
    /// What would make it first, where it is not.
    pub remedy: Option<String>,
}

/// Explains what the loader will do with the program at `program`.
///
/// # Errors
/// Those of a file that is no dynamically linked executable, and of a loader that is not known. What
/// is wrong with a library is part of the explanation.
pub fn explain(program: &Path, conditions: &Conditions) -> Result<Explanation> {
    let input = input::open(program)?;
    let real = program.canonicalize();
    let real = real.map_err(|source| Error::io(program, "find", source))?;
    let secure = input.privileges.any();
    explain_at(&input.source, &real, secure, conditions)
}

/// The same for the file in `source`, which is or will be at the path `real` (without symbolic
/// links). `secure` says that the program has more rights than whoever starts it.
pub(crate) fn explain_at(
    source: &Source,
    real: &Path,
    secure: bool,
    conditions: &Conditions,
) -> Result<Explanation> {
    let mut system = System::needed(conditions.sysroot.as_deref())?;
    let place = system.place(real);
    examine(&system, source, &place, secure, conditions)
}
