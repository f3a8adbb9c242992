//! The command line: what can be typed, and what it means.

use std::path::PathBuf;

use clap::Parser;

use allocs_rewrite::{INIT_SYMBOL, Options};

/// Make an allocation runtime start before everything else in a program.
///
/// Writes a copy of PROG that loads the runtime before any other library and calls its init
/// before any constructor: first in DT_NEEDED, DF_1_INITFIRST set, first entry of
/// DT_PREINIT_ARRAY. No relinking, no environment variable, no code added.
#[derive(Debug, Parser)]
#[command(
    name = "allocs-rewrite",
    version,
    after_help = "Exit status: 0 OUT was written, 1 it was not (one line on stderr says why), 2 usage.\n\n\
                  Example: allocs-rewrite prog -o prog.allocs && ALLOCS_REPORT=- ./prog.allocs"
)]
pub(crate) struct Arguments {
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
    /// runs even earlier, while PROG is relocated.
    #[arg(long, value_name = "SYMBOL", default_value = INIT_SYMBOL)]
    init: String,

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

impl Arguments {
    /// What the library is asked to do.
    pub(crate) fn options(&self) -> Options {
        Options {
            input: self.program.clone(),
            output: self.output.clone(),
            runtime: self.runtime.clone(),
            init: self.init.clone(),
            force: self.force,
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
