//! `allocs-rewrite explain`: what can be typed, and what it means.

use std::path::PathBuf;

use clap::Args;

use crate::Conditions;

/// Say what the loader will do with PROG, and whether the runtime is first
///
/// Works on any dynamically linked executable, rewritten or not, and runs nothing. Prints what is
/// loaded, from where and by which rule; what runs while it is relocated; the constructors in
/// order; who defines malloc; and the verdict.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 the runtime is first, 1 PROG cannot be explained, 2 usage, 3 it is not first (the last \
lines say why).

Example: allocs-rewrite explain --sysroot /srv/image prog")]
pub struct Explain {
    /// The executable
    #[arg(value_name = "PROG")]
    pub program: PathBuf,

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

    /// Subdirectories of glibc-hwcaps that are searched first, as in ld.so's option: x86-64-v4:x86-64-v3
    #[arg(long, value_name = "LIST")]
    glibc_hwcaps_prepend: Option<String>,

    /// Print what needs what as a tree, and the verdict
    #[arg(long, conflicts_with = "json")]
    pub tree: bool,

    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,
}

impl Explain {
    /// What the library is to assume.
    pub fn conditions(&self) -> Conditions {
        Conditions {
            sysroot: self.sysroot.clone(),
            library_path: self.ld_library_path.clone(),
            preload: self.ld_preload.clone(),
            hwcaps: self.glibc_hwcaps_prepend.clone().unwrap_or_default(),
        }
    }
}
