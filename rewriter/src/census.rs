//! Where a process allocates: reads the reports that the runtime writes, and says for every site which
//! function and line it is.
//!
//! | file | what |
//! | --- | --- |
//! | `read`, `json`, `profile` | a report's bytes → counts of sites, whose frames are places |
//! | `place` | objects and offsets in them: the same in every process |
//! | `symbols`, `debug`, `demangle` | places → functions and source lines, from the objects' files |
//! | `counts` | sums and differences |
//! | `text`, `page` | for a terminal, for a browser |

mod counts;
mod debug;
mod demangle;
mod json;
mod page;
mod place;
mod profile;
mod read;
mod symbols;
mod text;

use std::cmp::Reverse;
use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Serialize, Serializer};

pub use counts::{By, Counts, Totals};

use self::place::Places;
use crate::error::{Error, ErrorKind, Result};
use crate::loader;
use crate::loader::system::System;

/// How reports are read.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The directory that holds the system the processes ran in; `None` is this machine.
    pub sysroot: Option<PathBuf>,
    /// Which sites come first.
    pub by: By,
}

/// Where one process, or several taken together, allocated. Its JSON form is what `--json` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Census {
    /// The processes.
    pub processes: Vec<Process>,
    /// Over all of them.
    pub totals: Totals,
    /// Where allocations come from.
    pub sites: Vec<Site>,
    /// What the user should know besides.
    pub notes: Vec<String>,
    #[serde(skip)]
    by: By,
}

/// What changed from one report to another. Its JSON form is what `--diff --json` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Comparison {
    /// The process of the first report.
    pub before: Process,
    /// The process of the second report, which may be the same one later.
    pub after: Process,
    /// What was added from the first to the second.
    pub change: Totals,
    /// Sites of either.
    pub sites: Vec<Change>,
    /// What the user should know besides.
    pub notes: Vec<String>,
    #[serde(skip)]
    by: By,
}

/// A process that wrote a report.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Process {
    /// The report's path, as given.
    pub report: String,
    /// Its number, if the report says it.
    pub pid: Option<u64>,
    /// The path of its executable, if the report says it.
    pub program: Option<String>,
    /// What is live.
    pub totals: Totals,
}

/// Where allocations come from, and what they are.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Site {
    /// The calls that led there.
    #[schemars(with = "Vec<Frame>")]
    pub frames: Stack,
    /// What is counted.
    #[serde(flatten)]
    pub counts: Counts,
}

/// What changed at a site.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct Change {
    /// The calls that led there.
    #[schemars(with = "Vec<Frame>")]
    pub frames: Stack,
    /// In the first report; `None` if the site is new.
    pub before: Option<Counts>,
    /// In the second report; `None` if the site is gone.
    pub after: Option<Counts>,
    /// What was added from the first to the second.
    pub change: Counts,
}

/// The calls that led to an allocation, for each address the functions that contain it; none if they
/// are not known.
#[derive(Clone, Debug, Default)]
pub struct Stack(Vec<Arc<[Frame]>>);

impl Stack {
    /// The frames, innermost first.
    pub fn frames(&self) -> impl Iterator<Item = &Frame> {
        self.0.iter().flat_map(|frames| frames.iter())
    }
}

impl Serialize for Stack {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.collect_seq(self.frames())
    }
}

/// A function that was called, and where in it the next one is called.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, JsonSchema)]
pub struct Frame {
    /// Its name.
    pub function: Option<String>,
    /// The source file.
    pub file: Option<String>,
    /// The line in it.
    pub line: Option<u32>,
    /// The compiler put it into the next frame.
    pub inlined: bool,
    /// The path of the executable or library.
    pub object: Option<Arc<str>>,
    /// Of the return address in the object's file.
    pub offset: Option<u64>,
    /// The return address as the object's tables have it; as it was in memory if there is no object.
    pub address: Option<u64>,
}

/// Reads reports and adds them up. `progress` hears of addresses whose lines are looked up, and of how
/// many.
///
/// # Errors
/// [`ErrorKind::NoReport`], and those of reading. What is wrong with an object's file is a note.
pub fn census(
    reports: &[PathBuf],
    reading: &Reading,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Census> {
    let system = System::needed(reading.sysroot.as_deref())?;
    let mut places = Places::default();
    let mut all = Vec::new();
    for report in reports {
        all.push(ReportSites::read(report, &mut places)?);
    }
    let (totals, sums) = add_up(reports, &all)?;
    let symbols = symbols::find(&places, &system, progress);
    let sites = sums.into_iter().map(|(stack, counts)| Site {
        frames: symbols.stack(stack),
        counts,
    });
    let mut sites: Vec<Site> = sites.collect();
    sites.sort_by_key(|site| Reverse(site.counts.get(reading.by)));
    let notes = all.iter().filter_map(ReportSites::note);
    let notes = notes.chain(symbols.notes).collect();
    Ok(Census {
        processes: all.into_iter().map(|report| report.process).collect(),
        totals,
        sites,
        notes,
        by: reading.by,
    })
}

/// Reads two reports and says what changed from the one to the other. `progress` as in [`census`].
///
/// # Errors
/// As [`census`].
pub fn compare(
    before: &Path,
    after: &Path,
    reading: &Reading,
    progress: &mut dyn FnMut(u64, u64),
) -> Result<Comparison> {
    let system = System::needed(reading.sysroot.as_deref())?;
    let mut places = Places::default();
    let before = ReportSites::read(before, &mut places)?;
    let after = ReportSites::read(after, &mut places)?;
    let symbols = symbols::find(&places, &system, progress);
    let stacks: BTreeSet<_> = before.sites.keys().chain(after.sites.keys()).collect();
    let sites = stacks.into_iter().map(|stack| {
        let before = before.sites.get(stack).copied();
        let after = after.sites.get(stack).copied();
        Change {
            frames: symbols.stack(stack),
            before,
            after,
            change: counts::change(before, after),
        }
    });
    let mut sites: Vec<Change> = sites.collect();
    sites.sort_by_key(|site| Reverse(site.change.get(reading.by).map(i64::unsigned_abs)));
    let notes = [&before, &after].into_iter().filter_map(ReportSites::note);
    let notes = notes.chain(symbols.notes).collect();
    Ok(Comparison {
        change: after.process.totals.since(before.process.totals),
        before: before.process,
        after: after.process,
        sites,
        notes,
        by: reading.by,
    })
}

/// Counts by the numbers of the places in the sites' stacks.
type Sites<Stack> = BTreeMap<Stack, Counts>;

/// What one report says.
#[derive(Debug)]
struct ReportSites {
    process: Process,
    sites: Sites<Vec<usize>>,
    /// The runtime did not count by site.
    without_sites: bool,
}

impl ReportSites {
    fn read(path: &Path, places: &mut Places) -> Result<Self> {
        let contents = read::read(path, places)?;
        let mut sites = Sites::new();
        let without_sites = contents.sites.is_none();
        for site in contents.sites.into_iter().flatten() {
            // Places that differ in memory may be one in the file.
            add(&mut sites, site.stack, site.counts).ok_or_else(|| too_much(path))?;
        }
        Ok(Self {
            process: Process {
                report: loader::as_text(path.as_os_str().as_bytes()),
                pid: contents.pid,
                program: contents.program,
                totals: contents.totals,
            },
            sites,
            without_sites,
        })
    }

    fn note(&self) -> Option<String> {
        let note = format!("{} says nothing about sites", self.process.report);
        self.without_sites.then_some(note)
    }
}

/// The sums of several reports.
fn add_up<'a>(
    paths: &[PathBuf],
    reports: &'a [ReportSites],
) -> Result<(Totals, Sites<&'a [usize]>)> {
    let mut totals: Option<Totals> = None;
    let mut sums = Sites::new();
    for (path, report) in paths.iter().zip(reports) {
        let more = report.process.totals;
        let sum = totals.map_or(Some(more), |totals| totals.plus(more));
        totals = Some(sum.ok_or_else(|| too_much(path))?);
        for (stack, counts) in &report.sites {
            add(&mut sums, &stack[..], *counts).ok_or_else(|| too_much(path))?;
        }
    }
    Ok((totals.unwrap_or_default(), sums))
}

/// Adds to the counts of a site; `None` if they are more than there can be.
fn add<S: Ord>(sites: &mut Sites<S>, stack: S, counts: Counts) -> Option<()> {
    match sites.entry(stack) {
        Entry::Vacant(entry) => drop(entry.insert(counts)),
        Entry::Occupied(mut entry) => *entry.get_mut() = entry.get().plus(counts)?,
    }
    Some(())
}

fn too_much(path: &Path) -> Error {
    let what = counts::TOO_MUCH.to_owned();
    Error::new(path, ErrorKind::NoReport { what })
}
