//! The command line: what can be typed, and what it means.

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use allocs_rewrite::{Conditions, Options};

/// Make an allocation runtime start before everything else in a program.
///
/// Writes a copy of PROG that loads the runtime before any other library and calls its init
/// before any constructor: first in DT_NEEDED, DF_1_INITFIRST set, first entry of
/// DT_PREINIT_ARRAY. No relinking, no environment variable, no code added.
#[derive(Debug, Parser)]
#[command(
    name = "allocs-rewrite",
    version,
    args_conflicts_with_subcommands = true,
    subcommand_negates_reqs = true,
    disable_help_subcommand = true,
    after_help = "Exit status: 0 OUT was written, 1 it was not (one line on stderr says why), 2 usage, 3 it was not because of --require-first.\n\n\
                  Example: allocs-rewrite prog -o prog.allocs && ALLOCS_REPORT=- ./prog.allocs"
)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    command: Option<Subcommands>,

    #[command(flatten)]
    rewrite: Option<Rewrite>,
}

#[derive(Debug, Subcommand)]
enum Subcommands {
    Explain(Explain),
}

/// What is to be done.
#[derive(Debug)]
pub(crate) enum Command {
    Rewrite(Rewrite),
    Explain(Explain),
}

/// `allocs-rewrite PROG -o OUT`
#[derive(Debug, Args)]
pub(crate) struct Rewrite {
    /// The dynamically linked executable to rewrite
    #[arg(value_name = "PROG")]
    program: PathBuf,

    /// Where to write the result; may be PROG itself
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// A runtime of your own: a soname, an absolute path, or $ORIGIN/...
    ///
    /// It goes into DT_NEEDED as given. By default it is this project's own runtime, which is
    /// written beside OUT and found there ($ORIGIN/liballocs_rt.so.1). The loader takes $ORIGIN
    /// from /proc, so packages and systems without /proc use an absolute path or a soname.
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,

    /// The runtime's init function
    ///
    /// Called with argc, argv and envp ahead of all constructors. If it is an IFUNC, its resolver
    /// runs even earlier, while PROG is relocated. By default it is this project's own for the phase:
    /// allocs_preinit (an IFUNC), allocs_init or allocs_entry.
    #[arg(long, value_name = "SYMBOL")]
    init: Option<String>,

    /// When the init function is called
    #[arg(long, value_enum, default_value = "auto")]
    phase: Phase,

    /// Write nothing unless the runtime will be first (exit status 3): see `explain`
    #[arg(long)]
    require_first: bool,

    /// The system that OUT will run in, for --require-first, unless it is this one
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,

    /// Replace another version of the runtime beside OUT
    #[arg(long)]
    force: bool,

    /// Print what was done as JSON
    #[arg(long, conflicts_with_all = ["quiet", "verbose"])]
    pub(crate) json: bool,

    /// Print nothing when all goes well
    #[arg(short, long, conflicts_with = "verbose")]
    pub(crate) quiet: bool,

    /// Print what was done to each table
    #[arg(short, long)]
    pub(crate) verbose: bool,
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

/// Say what the loader will do with PROG, and whether the runtime is first
///
/// Works on any dynamically linked executable, rewritten or not, and runs nothing. Prints what is
/// loaded, from where and by which rule; what runs while it is relocated; the constructors in
/// order; who defines malloc; and the verdict.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 the runtime is first, 3 it is not (the last lines say why), 1 PROG cannot be explained, 2 usage."
)]
pub(crate) struct Explain {
    /// The executable
    #[arg(value_name = "PROG")]
    pub(crate) program: PathBuf,

    /// The system that PROG will run in, unless it is this one
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,

    /// LD_LIBRARY_PATH as PROG will find it (this program's own is not looked at)
    #[arg(
        long,
        value_name = "PATHS",
        default_value = "",
        hide_default_value = true
    )]
    ld_library_path: String,

    /// LD_PRELOAD as PROG will find it
    #[arg(
        long,
        value_name = "LIBRARIES",
        default_value = "",
        hide_default_value = true
    )]
    ld_preload: String,

    /// Print what needs what as a tree, and the verdict
    #[arg(long, conflicts_with = "json")]
    pub(crate) tree: bool,

    /// Print everything as JSON
    #[arg(long)]
    pub(crate) json: bool,
}

impl Arguments {
    /// What is to be done. clap has seen to it that there is one thing to do.
    pub(crate) fn into_command(self) -> Option<Command> {
        match (self.command, self.rewrite) {
            (Some(Subcommands::Explain(explain)), _) => Some(Command::Explain(explain)),
            (None, rewrite) => rewrite.map(Command::Rewrite),
        }
    }
}

impl Rewrite {
    /// What the library is asked to do.
    pub(crate) fn options(&self) -> Options {
        Options {
            input: self.program.clone(),
            output: self.output.clone(),
            runtime: self.runtime.clone(),
            init: self.init.clone(),
            phase: match self.phase {
                Phase::Auto => None,
                Phase::Relocation => Some(allocs_rewrite::Phase::Relocation),
                Phase::Preinit => Some(allocs_rewrite::Phase::Preinit),
                Phase::Entry => Some(allocs_rewrite::Phase::Entry),
            },
            require_first: self.require_first,
            sysroot: self.sysroot.clone(),
            force: self.force,
        }
    }
}

impl Explain {
    /// What the library is to assume.
    pub(crate) fn conditions(&self) -> Conditions {
        Conditions {
            sysroot: self.sysroot.clone(),
            library_path: self.ld_library_path.clone(),
            preload: self.ld_preload.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_consistent() {
        <Arguments as clap::CommandFactory>::command().debug_assert();
    }
}
