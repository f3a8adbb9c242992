//! What can go wrong, in the words that the user reads.
//!
//! Every error names a file, says what is wrong with it, and says what to do. The kinds are for
//! programs that use the library; the texts are for people.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

/// A refusal or failure, with the file that it is about.
#[derive(Debug)]
pub struct Error {
    file: PathBuf,
    kind: ErrorKind,
}

/// A result with this crate's [`Error`].
pub type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(file: &Path, kind: ErrorKind) -> Self {
        Self {
            file: file.to_owned(),
            kind,
        }
    }

    /// An error of the operating system, met while doing `action` ("read", "rename", …).
    pub(crate) fn io(file: &Path, action: &'static str, source: io::Error) -> Self {
        Self::new(file, ErrorKind::Io { action, source })
    }

    /// The file that the error is about.
    pub fn file(&self) -> &Path {
        &self.file
    }

    /// What is wrong with it.
    pub fn kind(&self) -> &ErrorKind {
        &self.kind
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.file.display(), self.kind)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match &self.kind {
            ErrorKind::Io { source, .. } => Some(source),
            _ => None,
        }
    }
}

/// Every way in which a rewrite is refused or fails. Sizes and offsets are in bytes.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The operating system said no.
    #[error("cannot {action}: {source}{}", hint(.source))]
    Io {
        /// What was being done.
        action: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// PROG is a directory.
    #[error("is a directory; name an executable in it")]
    Directory,
    /// PROG is a device, FIFO or socket.
    #[error("is not a regular file; copy the executable to a file first")]
    NotAFile,
    /// PROG has no bytes.
    #[error("is empty; nothing to rewrite (did the build that makes it fail?)")]
    Empty,
    /// PROG starts with `#!`.
    #[error(
        "is a script run by {interpreter}; rewrite a copy of the interpreter and name that in the script"
    )]
    Script {
        /// The interpreter named on its first line.
        interpreter: String,
    },
    /// PROG has no ELF magic.
    #[error("is not an ELF file; name a dynamically linked Linux executable")]
    NotElf,
    /// A 32-bit file.
    #[error("is a 32-bit ELF file ({machine}), which is not supported yet; use a 64-bit build")]
    Class32 {
        /// The machine's name.
        machine: String,
    },
    /// A file for another machine.
    #[error("is for {machine}, which is not supported yet; use a build for another machine")]
    Machine {
        /// The machine's name.
        machine: String,
    },
    /// The own runtime does not exist for that machine.
    #[error("is for {machine}, and allocs-rewrite has no runtime for that; {advice}")]
    NoOwnRuntime {
        /// The machine's name.
        machine: String,
        /// How there can be one.
        advice: String,
    },
    /// Programs for two machines would start the same file.
    #[error(
        "is the runtime of programs for {machine}, which would not start with another; write to another directory, or name a runtime by its path with --runtime"
    )]
    RuntimeOfAnotherMachine {
        /// The machine's name.
        machine: String,
    },
    /// The kernel has no openat2(2).
    #[error(
        "cannot be a sysroot here: this kernel cannot look up paths as if a directory were the root (openat2, Linux 5.6); use a newer one, or chroot"
    )]
    NoSysroots,
    /// A `.o` file.
    #[error("is a relocatable object file; link it first and rewrite the executable")]
    Relocatable,
    /// A core dump.
    #[error("is a core dump; rewrite the executable that it came from")]
    Core,
    /// A shared object.
    #[error(
        "is a shared object, where the loader ignores DT_PREINIT_ARRAY; rewrite the executable that loads it"
    )]
    SharedObject,
    /// An executable without PT_INTERP.
    #[error(
        "is statically linked{what}: no loader runs, so nothing can be loaded before it; link it dynamically"
    )]
    Static {
        /// Says more about the kind of static program.
        what: &'static str,
    },
    /// An executable that UPX made.
    #[error("is packed by UPX, and unpacks itself when it runs; unpack it with `upx -d` first")]
    Packed,
    /// PT_INTERP names no loader that this tool knows.
    #[error(
        "is run by {interpreter}, which {what}; name the tree that has it with --sysroot, or rebuild the program for glibc or musl"
    )]
    Interpreter {
        /// The PT_INTERP path.
        interpreter: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// The file ends before something that its tables name.
    #[error("is cut short: {what} ends at byte {end}, the file at {size}; fetch or build it again")]
    Truncated {
        /// What does not fit.
        what: &'static str,
        /// Where it would end.
        end: u64,
        /// Where the file ends.
        size: u64,
    },
    /// The file contradicts itself.
    #[error("is damaged or not a loadable executable: {what}; build it again")]
    Malformed {
        /// The contradiction.
        what: String,
    },
    /// PROG has relocations of the kind that its machine has not.
    #[error(
        "has relocations {what}, which glibc does not apply on {machine}; link it with {advice}"
    )]
    OtherRelocations {
        /// Of which kind they are.
        what: &'static str,
        /// The machine's name.
        machine: String,
        /// The linker's option for the others.
        advice: &'static str,
    },
    /// The change needs room that cannot be made.
    #[error("{what}; {advice}")]
    NoRoom {
        /// What needs room, and why there is none.
        what: String,
        /// What would make room.
        advice: &'static str,
    },
    /// A runtime is in place already.
    #[error(
        "is already rewritten: its first preinit entry is `{init}`, its first library {needed}{advice}"
    )]
    AlreadyRewritten {
        /// The DT_NEEDED string of the runtime in place.
        needed: String,
        /// Its init symbol.
        init: String,
        /// What to do.
        advice: &'static str,
    },
    /// The program was linked with an object file of `allocs-rewrite object`.
    #[error(
        "starts a runtime first already: it was linked so that its first preinit entry is `{init}`, its first library {needed}; nothing is left to do"
    )]
    LinkedWithRuntime {
        /// The runtime's DT_NEEDED string.
        needed: String,
        /// Its init symbol.
        init: String,
    },
    /// There is nothing to undo or refresh.
    #[error("is not rewritten; name a file that allocs-rewrite made")]
    NotRewritten,
    /// What led back to the original is gone.
    #[error(
        "does not lead back to its original: it has changed since it was rewritten (strip and objcopy leave the way back only where the rewrite kept the file's size); use the original file"
    )]
    NoUndo,
    /// PROG needs AddressSanitizer's runtime as a shared object.
    #[error(
        "needs {needed}, which stops the program unless it is the first library itself; link with -static-libasan (gcc) or -static-libsan (clang)"
    )]
    SharedSanitizer {
        /// Its DT_NEEDED string.
        needed: String,
    },
    /// PROG runs with privileges that its caller lacks.
    #[error(
        "is {privilege}, and {flaw}: who can replace the runtime gets these rights, and $ORIGIN is ignored there; pass --allow-setuid and --runtime with an absolute path in a directory that only root can write"
    )]
    Privileged {
        /// "setuid", "setgid" or "given file capabilities".
        privilege: &'static str,
        /// What stands against it.
        flaw: String,
    },
    /// Another run has not ended.
    #[error("belongs to a run of allocs-rewrite that is editing the program now; wait for its end")]
    Busy,
    /// What would take back a run that was cut off cannot be read.
    #[error(
        "was left by a run of --in-place=direct that was cut off, and cannot be read; build the program again and delete this file"
    )]
    DamagedRecord,
    /// `--runtime` cannot go into DT_NEEDED.
    #[error(
        "cannot be a DT_NEEDED entry: {what}; give a bare soname, an absolute path, or $ORIGIN/..."
    )]
    RuntimeName {
        /// What is wrong with it.
        what: &'static str,
    },
    /// `--init` cannot be a symbol.
    #[error(
        "is the runtime to use, but `{symbol}` is no symbol name; pass --init with the name of its init function"
    )]
    InitName {
        /// What was given.
        symbol: String,
    },
    /// The runtime does not define the init symbol.
    #[error("does not define `{symbol}`; pass --init with the name of its init function")]
    RuntimeLacksInit {
        /// The symbol that was looked for.
        symbol: String,
    },
    /// Functions of PROG's own allocator cannot be led to the runtime.
    #[error("cannot have all of its own allocator led to the runtime: {functions}; {advice}")]
    CannotDivert {
        /// Which, and why.
        functions: String,
        /// What to do.
        advice: &'static str,
    },
    /// `--malloc` is not to be understood, or names nothing.
    #[error("has no allocator `{given}`: {what}")]
    MallocName {
        /// What was given.
        given: String,
        /// What is wrong with it.
        what: &'static str,
    },
    /// `--phase` is not possible for this program.
    #[error("cannot have the runtime called in phase {phase}: {reason}; {advice}")]
    Phase {
        /// What was asked for.
        phase: &'static str,
        /// Why it is not possible.
        reason: &'static str,
        /// What is.
        advice: &'static str,
    },
    /// The init symbol is of the wrong kind for the phase.
    #[error(
        "defines `{symbol}`, which {what}: it cannot be called in phase {phase}; name another symbol with --init, or leave --phase out"
    )]
    InitKind {
        /// The init symbol.
        symbol: String,
        /// What kind it is.
        what: &'static str,
        /// The phase that was asked for.
        phase: &'static str,
    },
    /// The runtime is not a shared object for the program's machine.
    #[error(
        "cannot be loaded as the runtime: {what}; name a shared object for the machine of the program"
    )]
    RuntimeUnfit {
        /// What is wrong with it.
        what: String,
    },
    /// Another file stands where the runtime goes.
    #[error(
        "exists and is another version of the runtime; move it away, or pass --force to replace it"
    )]
    RuntimeDiffers,
    /// OUT is PROG under another name.
    #[error("is {prog} under another name; write to a new file, or pass -o {prog} to replace it")]
    SameFile {
        /// PROG as given.
        prog: String,
    },
    /// OUT exists and is no regular file.
    #[error("is {what}; name a file to write")]
    OutputKind {
        /// What it is.
        what: &'static str,
    },
    /// PROG changed while it was read.
    #[error("changed while it was being copied; try again when nothing writes to it")]
    Changed,
    /// PROG was to be replaced, and was by somebody else.
    #[error("was replaced by another file meanwhile, which stays; try again")]
    Replaced,
    /// The caller ended the run.
    #[error("was not written: the run was stopped")]
    Stopped,
    /// What was to be a tree is no directory.
    #[error("is not a directory; name the directory that has the executables in it")]
    NoTree,
    /// One of the two trees contains the other.
    #[error(
        "cannot be the copy of {other}: one is in the other; choose another place, or rewrite with --in-place"
    )]
    TreeOverlap {
        /// The tree that is read.
        other: String,
    },
    /// Another run on this tree has not ended.
    #[error("is being written by another run of allocs-rewrite tree; wait for its end")]
    TreeBusy,
    /// Where a directory should be is something else.
    #[error("is in the way of a directory; move it away")]
    InTheWay,
    /// A glob that means nothing.
    #[error("is no glob: {what}; `*`, `?`, `[...]` and `**/` stand for something in it")]
    Glob {
        /// What is wrong with it.
        what: &'static str,
    },
    /// Something else stands where the manifest goes.
    #[error("exists and is no manifest of a tree; move it away, or name another with --manifest")]
    NoManifest,
    /// The caller ended a run on a tree.
    #[error(
        "was not finished: the run was stopped; what was written is whole, and another run goes on from there"
    )]
    TreeStopped,
    /// `--require-first`, and the runtime would not be first.
    #[error("was not written: {verdict}; {remedy}")]
    NotFirst {
        /// Why.
        verdict: String,
        /// What would make it first.
        remedy: String,
    },
    /// A file is no report that the runtime wrote.
    #[error(
        "is no report that can be read: {what}; name a file that ALLOCS_REPORT=FILE wrote, where FILE ends in .json, .pb or .pb.gz"
    )]
    NoReport {
        /// What is wrong with it.
        what: String,
    },
    /// The result did not pass the checks that read it back.
    #[error(
        "was not written: reading the result back, {what}; this is a bug in allocs-rewrite, please report it with the input"
    )]
    Verify {
        /// The promise that was broken.
        what: String,
    },
}

/// What to do about an operating system error, where that is not plain from its text.
fn hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => "; check the path",
        io::ErrorKind::PermissionDenied => "; check the permissions, or choose another place",
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "; free some space, or choose another place"
        }
        io::ErrorKind::FileTooLarge => "; raise the limit (ulimit -f), or choose another place",
        io::ErrorKind::ReadOnlyFilesystem => "; choose a place that can be written",
        io::ErrorKind::NotADirectory => "; a part of the path is not a directory",
        _ => "",
    }
}
