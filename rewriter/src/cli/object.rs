//! `allocs-rewrite object`: what can be typed, and what it means.

use std::path::PathBuf;

use clap::Args;

use super::Printing;
use crate::ObjectOptions;

/// Write an object file that does the same when a program is linked with it
///
/// For programs that can be linked again: the runtime's init is their first preinit entry, without a
/// rewrite. Ahead of all else on the link line go the object file and the runtime; what is printed says
/// how they are written there. For glibc alone: musl ignores preinit entries.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 OUT was written, 1 it was not (one line on stderr says why), 2 usage.

Example: allocs-rewrite object -o allocs_init.o && gcc allocs_init.o liballocs_rt.so.1 \
-Wl,-rpath,'$ORIGIN' prog.c -o prog")]
pub struct Object {
    /// Where to write the object file
    #[arg(short, long, value_name = "OUT")]
    output: PathBuf,

    /// A runtime of your own: its file, or its soname
    ///
    /// By default it is this project's own runtime, which is written beside the object file.
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,

    /// The runtime's init function
    ///
    /// Called with argc, argv and envp ahead of all constructors. If it is an IFUNC, its resolver
    /// runs even earlier, while the program is relocated. By default it is allocs_preinit, which is one.
    #[arg(long, value_name = "SYMBOL")]
    init: Option<String>,

    /// Replace another version of the runtime beside the object file
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    pub printing: Printing,
}

impl Object {
    /// What the library is asked to do.
    pub fn options(&self) -> ObjectOptions {
        ObjectOptions {
            output: self.output.clone(),
            runtime: self.runtime.clone(),
            init: self.init.clone(),
            force: self.force,
        }
    }
}
