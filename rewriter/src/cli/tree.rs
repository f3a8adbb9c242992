//! `allocs-rewrite tree`

use std::path::PathBuf;

use clap::Args;

use crate::TreeOptions;

use super::{Printing, Runtime};

/// Rewrite every executable of a tree, into a copy of it or in place
///
/// What else is there is copied as `cp -a` does. An executable is a dynamically linked one with an
/// execute permission. Whenever a run is ended, each file is the old one or the new one, and the next run
/// goes on from there; where nothing changed, it does nothing.
#[derive(Debug, Args)]
#[command(
    after_help = "Exit status: 0 all were rewritten, 1 some were not (stderr says which and why), 2 usage.

Example: allocs-rewrite tree staged -o traced --runtime /usr/lib/x86_64-linux-gnu/liballocs_rt.so.1"
)]
pub struct Tree {
    /// The tree
    #[arg(value_name = "DIR")]
    source: PathBuf,

    #[command(flatten)]
    place: TreePlace,

    #[command(flatten)]
    runtime: Runtime,

    /// Rewrite only executables that this glob matches; may be given again
    ///
    /// A glob with a slash is of a path from the top of the tree, any other of a name; `**` stands for
    /// directories. Where it matches a directory, all below it is meant.
    #[arg(long, value_name = "GLOB")]
    include: Vec<String>,

    /// Leave executables that this glob matches as they are; may be given again
    #[arg(long, value_name = "GLOB")]
    exclude: Vec<String>,

    /// Stop at the first executable that cannot be rewritten
    #[arg(long)]
    strict: bool,

    /// Where to write what was done, with digests [default: DST.allocs-tree.json; none with --in-place]
    #[arg(long, value_name = "FILE")]
    manifest: Option<PathBuf>,

    #[command(flatten)]
    pub printing: Printing,

    /// Print a line about each executable
    #[arg(short, long, conflicts_with_all = ["quiet", "json"])]
    pub verbose: bool,
}

/// Where the rewritten tree goes.
#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
struct TreePlace {
    /// The directory that becomes the copy; what it has beside that stays
    #[arg(short, long, value_name = "DST")]
    output: Option<PathBuf>,

    /// Replace the executables in the tree itself
    #[arg(long)]
    in_place: bool,
}

impl Tree {
    /// What the library is asked to do.
    pub fn options(&self) -> TreeOptions {
        let runtime = &self.runtime;
        TreeOptions {
            source: self.source.clone(),
            output: self.place.output.clone(),
            runtime: runtime.runtime.clone(),
            init: runtime.init.clone(),
            phase: runtime.phase.phase(),
            force: runtime.force,
            allow_setuid: runtime.allow_setuid,
            partial: runtime.partial,
            include: self.include.clone(),
            exclude: self.exclude.clone(),
            manifest: self.manifest.clone(),
            strict: self.strict,
        }
    }
}
