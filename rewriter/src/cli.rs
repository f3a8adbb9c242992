//! The command line: what can be typed, and what it means. It is public for the program and for
//! `examples/share.rs`, which makes man pages and completions of it; it promises nothing to others.

mod explain;
mod mistaken;
mod object;
mod report;
mod tree;

use std::path::PathBuf;

use clap::{Args, FromArgMatches, Subcommand, ValueEnum};

use crate::{Destination, Options};

pub use self::explain::Explain;
pub use self::object::Object;
pub use self::report::Report;
pub use self::tree::Tree;

const ABOUT: &str = "Make an allocation runtime start before everything else in a program.";

const LONG_ABOUT: &str = "\
Make an allocation runtime start before everything else in a program.

Writes a copy of PROG that loads the runtime before any other library and calls its init before any \
constructor: first in DT_NEEDED, DF_1_INITFIRST set, first entry of DT_PREINIT_ARRAY. No relinking, no \
environment variable; no code added, unless PROG brings a malloc of its own, which is led to the runtime.";

const AFTER_HELP: &str = "\
Exit status: 0 OUT was written, 1 it was not (one line on stderr says why), 2 usage, 3 it was not \
because of --require-first.

Example: allocs-rewrite prog -o prog.allocs && ALLOCS_REPORT=- ./prog.allocs";

/// What is to be done.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// What is done when no other command is named.
    #[command(skip)]
    Rewrite(Rewrite),
    Explain(Explain),
    Object(Object),
    Report(Report),
    Undo(Undo),
    /// Give a rewritten program another runtime, or a newer one
    ///
    /// The result is what a rewrite of the original would be: nothing is added to what was added
    /// before. What is not given stays as it is in PROG.
    #[command(after_help = "\
Exit status: 0 done, 1 not done (one line on stderr says why), 2 usage, 3 not done because of \
--require-first.

Example: allocs-rewrite refresh --in-place prog --runtime /usr/lib/x86_64-linux-gnu/liballocs_rt.so.1")]
    Refresh(Rewrite),
    Tree(Tree),
}

impl Command {
    /// All that can be typed.
    pub fn definition() -> clap::Command {
        let command = Rewrite::augment_args(clap::Command::new("allocs-rewrite"));
        Self::augment_subcommands(command)
            .version(env!("CARGO_PKG_VERSION"))
            .about(ABOUT)
            .long_about(LONG_ABOUT)
            .after_help(AFTER_HELP)
            .args_conflicts_with_subcommands(true)
            .subcommand_negates_reqs(true)
            .subcommand_required(false)
            .arg_required_else_help(false)
            .disable_help_subcommand(true)
    }

    /// What was typed. Ends the process if that cannot be done.
    pub fn parse() -> Self {
        let typed = Self::definition().try_get_matches().and_then(|matches| {
            match matches.subcommand_name() {
                Some(_) => Self::from_arg_matches(&matches),
                None => Rewrite::from_arg_matches(&matches).map(Self::Rewrite),
            }
        });
        let mistaken = match &typed {
            Ok(Self::Rewrite(rewrite)) => mistaken::close_to_a_command(&rewrite.program),
            Ok(_) => None,
            Err(error) => {
                let words: Vec<_> = std::env::args_os().skip(1).collect();
                mistaken::no_command(error, &words)
            }
        };
        if let Some(message) = mistaken {
            eprintln!("allocs-rewrite: {message}");
            std::process::exit(if typed.is_ok() { 1 } else { 2 });
        }
        typed.unwrap_or_else(|error| error.exit())
    }
}

/// `allocs-rewrite PROG -o OUT`, and `allocs-rewrite refresh PROG -o OUT`
#[derive(Debug, Args)]
pub struct Rewrite {
    /// The dynamically linked executable
    #[arg(value_name = "PROG")]
    program: PathBuf,

    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    runtime: Runtime,

    /// A function of an allocator in PROG itself that has another name than malloc, free and so on
    ///
    /// NAME does what FUNCTION does: je_malloc=malloc, my_get=malloc. Where NAME is FUNCTION with
    /// something in front, as je_ is, all of that allocator's functions with it in front are meant. The
    /// standard names need no option.
    #[arg(long, value_name = "NAME=FUNCTION")]
    malloc: Vec<String>,

    #[command(flatten)]
    first: First,

    #[command(flatten)]
    pub printing: Printing,

    /// Print what was done to each table
    #[arg(short, long, conflicts_with_all = ["quiet", "json"])]
    pub verbose: bool,
}

/// Give back the program that a rewritten one was made from, byte for byte
///
/// Also after strip or objcopy, if the rewrite kept the file's size: then it is what they make of the
/// original. The runtime's own file stays where it is, for other programs may need it.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 done, 1 not done (one line on stderr says why), 2 usage.

Example: allocs-rewrite undo --in-place prog")]
pub struct Undo {
    /// The rewritten executable
    #[arg(value_name = "FILE")]
    pub program: PathBuf,

    #[command(flatten)]
    place: Place,

    #[command(flatten)]
    pub printing: Printing,
}

/// Where the result goes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct Place {
    /// Where to write the result; may be the input itself
    #[arg(short, long, value_name = "OUT")]
    output: Option<PathBuf>,

    /// Put the result in the place of the input
    ///
    /// `replace` writes a new file and renames it, so that there is always one or the other. It has
    /// the owner, mode, ACLs and extended attributes of the old one, and a new modification time; other
    /// hard links keep the old content. `direct`, for build trees, edits the few bytes in the file
    /// itself if none have to move and it is not running; a run that was cut off is taken back by the
    /// next.
    #[arg(
        long,
        value_name = "HOW",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "replace"
    )]
    in_place: Option<InPlace>,
}

/// How a file is changed in its place.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum InPlace {
    Replace,
    Direct,
}

/// How much is printed.
#[derive(Clone, Copy, Debug, Args)]
pub struct Printing {
    /// Print what was done as JSON
    #[arg(long, conflicts_with = "quiet")]
    pub json: bool,

    /// Print nothing when all goes well
    #[arg(short, long)]
    pub quiet: bool,
}

/// Which runtime, and how it is called.
#[derive(Debug, Args)]
struct Runtime {
    /// A runtime of your own: a soname, an absolute path, or $ORIGIN/...
    ///
    /// It goes into DT_NEEDED as given. By default it is this project's own runtime, which is
    /// written beside the result and found there ($ORIGIN/liballocs_rt.so.1). The loader takes $ORIGIN
    /// from /proc, so packages and systems without /proc use an absolute path or a soname.
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,

    /// The runtime's init function
    ///
    /// Called with argc, argv and envp ahead of all constructors. If it is an IFUNC, its resolver
    /// runs even earlier, while the program is relocated. By default it is this project's own for the
    /// phase: allocs_preinit (an IFUNC), allocs_init or allocs_entry.
    #[arg(long, value_name = "SYMBOL")]
    init: Option<String>,

    /// When the init function is called
    #[arg(long, value_enum, default_value = "auto")]
    phase: Phase,

    /// Replace another version of the runtime beside the result
    #[arg(long)]
    force: bool,

    /// Accept a setuid or setgid program, or one with file capabilities
    ///
    /// The loader ignores $ORIGIN in such a program, and whoever can replace its runtime gets its
    /// rights: --runtime has to be an absolute path to a file that only root can replace.
    #[arg(long)]
    allow_setuid: bool,

    /// Go on where a function of a program's own allocator cannot be led to the runtime
    #[arg(long)]
    partial: bool,
}

/// Whether it has to be first, and where.
#[derive(Debug, Args)]
struct First {
    /// Write nothing unless the runtime will be first (exit status 3): see `explain`
    #[arg(long)]
    require_first: bool,

    /// The system that the result will run in, for --require-first, unless it is this one
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,
}

/// When the runtime's init function is called.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum Phase {
    /// As early as PROG's loader and the init function allow
    Auto,
    /// While PROG is relocated, ahead of everything: glibc, and an init function that is an IFUNC
    Relocation,
    /// As the first preinit entry: glibc; a library with DF_1_INITFIRST may come before it
    Preinit,
    /// At the entry point, through a trampoline: musl
    Entry,
}

impl Rewrite {
    /// What the library is asked to do.
    pub fn options(&self) -> Options {
        let runtime = &self.runtime;
        Options {
            input: self.program.clone(),
            output: self.place.destination(),
            runtime: runtime.runtime.clone(),
            init: runtime.init.clone(),
            phase: runtime.phase.phase(),
            require_first: self.first.require_first,
            sysroot: self.first.sysroot.clone(),
            force: runtime.force,
            allow_setuid: runtime.allow_setuid,
            malloc: self.malloc.clone(),
            partial: runtime.partial,
        }
    }
}

impl Phase {
    /// What the library calls it.
    fn phase(self) -> Option<crate::Phase> {
        match self {
            Self::Auto => None,
            Self::Relocation => Some(crate::Phase::Relocation),
            Self::Preinit => Some(crate::Phase::Preinit),
            Self::Entry => Some(crate::Phase::Entry),
        }
    }
}

impl Undo {
    /// Where the result goes.
    pub fn destination(&self) -> Destination {
        self.place.destination()
    }
}

impl Place {
    /// clap has seen to it that one of the two is there.
    fn destination(&self) -> Destination {
        match (&self.output, self.in_place) {
            (Some(output), _) => Destination::File(output.clone()),
            (None, Some(InPlace::Direct)) => Destination::Direct,
            (None, _) => Destination::InPlace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        Command::definition().debug_assert();
    }
}
