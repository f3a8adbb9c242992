//! `allocs-rewrite report`: what can be typed, and what it means.

use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Command;
use crate::Reading;

/// Say where a process allocates, from the reports that the runtime wrote
///
/// Reads what ALLOCS_REPORT=FILE wrote, where FILE ends in .json, .pb or .pb.gz, and shows each place
/// that allocates with its function and source line. Reports of several processes are added up.
#[derive(Debug, Args)]
#[command(after_help = "\
Exit status: 0 done, 1 a report cannot be read, 2 usage.

Example: allocs-rewrite report --diff --by calls before.json after.json")]
pub struct Report {
    /// The reports
    #[arg(value_name = "FILE", required = true)]
    pub reports: Vec<PathBuf>,

    /// Say what changed from the first of two reports to the second
    #[arg(long)]
    diff: bool,

    /// Which sites come first; with --diff, those where it changed most
    #[arg(long, value_enum, default_value = "live")]
    by: By,

    /// How many sites are printed
    #[arg(long, value_name = "N", default_value_t = 20)]
    pub top: usize,

    /// Write a page with a flame graph and a table of all sites, for a browser
    #[arg(long, value_name = "FILE", conflicts_with = "json")]
    pub html: Option<PathBuf>,

    /// Print everything as JSON
    #[arg(long)]
    pub json: bool,

    /// The system that the processes ran in, unless it is this one
    #[arg(long, value_name = "DIR")]
    sysroot: Option<PathBuf>,
}

/// What sites are sorted by.
#[derive(Clone, Copy, Debug, ValueEnum)]
enum By {
    /// Bytes that are live
    Live,
    /// Allocations that are live
    Chunks,
    /// Bytes allocated since the start
    Bytes,
    /// Allocations since the start
    Calls,
    /// The most bytes that were live
    Peak,
}

impl Report {
    /// How the library is to read them.
    pub fn reading(&self) -> Reading {
        Reading {
            sysroot: self.sysroot.clone(),
            by: match self.by {
                By::Live => crate::By::Live,
                By::Chunks => crate::By::Chunks,
                By::Bytes => crate::By::Bytes,
                By::Calls => crate::By::Calls,
                By::Peak => crate::By::Peak,
            },
        }
    }

    /// The two reports to compare. Ends the process if there are more or fewer.
    pub fn compared(&self) -> Option<[&Path; 2]> {
        if !self.diff {
            return None;
        }
        match &self.reports[..] {
            [before, after] => Some([before, after]),
            _ => Command::definition()
                .error(
                    clap::error::ErrorKind::WrongNumberOfValues,
                    "--diff takes two reports",
                )
                .exit(),
        }
    }
}
