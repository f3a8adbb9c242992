//! Makes an allocation runtime start before everything else in an ELF executable.
//!
//! [`rewrite`] reads as the pipeline that it is; each phase is a file:
//!
//! | phase  | file                              | from → to |
//! | ------ | --------------------------------- | --------- |
//! | parse  | `parse`, `recycle`                | bytes → what the loader sees, and what is unused in it |
//! | plan   | `plan`, `names`, `room`, `headers`| what changes, table by table |
//! | layout | `layout`, `spans`                 | every offset and address |
//! | undo   | `undo`, `rewritten`               | the way back, recorded |
//! | write  | `write`, `output`, `direct`       | a file, whole or not at all |
//! | verify | `verify`                          | the file read back by another parser |
//!
//! [`undo()`] follows the way back, and [`refresh`] is a rewrite of what it leads to.
//!
//! No phase changes what an earlier one made.
//!
//! [`explain()`] asks what the dynamic loader will do with a program: `loader` is the model of it, one
//! file for each of its questions, and `explain` puts the answers in the order of time.
//!
//! [`census()`] reads the reports that the runtime writes and says where a process allocates; [`compare`]
//! says what changed between two of them.

#![forbid(unsafe_code)]

mod census;
mod direct;
mod divert;
mod elf;
mod error;
mod explain;
mod first;
mod headers;
mod input;
mod layout;
mod loader;
mod names;
mod output;
mod parse;
mod phase;
mod plan;
mod recycle;
mod refuse;
mod relr;
mod report;
mod rewritten;
mod room;
mod runtime;
mod source;
mod spans;
mod sysv_hash;
mod trampoline;
mod trusted;
mod undo;
mod verify;
mod versions;
mod write;

use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

pub use census::{
    By, Census, Change, Comparison, Counts, Frame, Process, Reading, Site, Stack, Totals, census,
    compare,
};
pub use divert::{Origin, OwnAllocator, OwnFunction};
pub use error::{Error, ErrorKind, Result};
pub use explain::{Conditions, Explanation, explain};
pub use output::{Destination, Written};
pub use phase::Phase;
pub use report::{Action, Report, Runtime, Size, Table, Undone};
pub use runtime::SONAME;

use crate::input::Input;
use crate::output::Pending;
use crate::parse::Image;
use crate::plan::Plan;
use crate::rewritten::Rewritten;
use crate::runtime::Request;
use crate::source::Source;
use crate::spans::Spans;

/// What to rewrite, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The executable to read.
    pub input: PathBuf,
    /// Where the result goes.
    pub output: Destination,
    /// A runtime's DT_NEEDED string; `None` is the project's own, which is written beside the output.
    pub runtime: Option<String>,
    /// The runtime's init symbol; `None` is the own runtime's for the phase.
    pub init: Option<String>,
    /// When init is to be called; `None` is the earliest possible.
    pub phase: Option<Phase>,
    /// Fail unless the runtime will be first, as [`explain`] finds it.
    pub require_first: bool,
    /// The system that the program will run in; `None` is this machine.
    pub sysroot: Option<PathBuf>,
    /// Replace another version of the own runtime beside the output.
    pub force: bool,
    /// Give a runtime to a program that runs with privileges.
    pub allow_setuid: bool,
    /// Functions of the program's own allocators besides those with the standard names, as
    /// `NAME=FUNCTION`.
    pub malloc: Vec<String>,
    /// Go on where a function of its own allocator cannot be led to the runtime.
    pub partial: bool,
}

impl Options {
    /// The own runtime, as early as it can be, and nothing out of the ordinary.
    pub fn new(input: impl Into<PathBuf>, output: Destination) -> Self {
        Self {
            input: input.into(),
            output,
            runtime: None,
            init: None,
            phase: None,
            require_first: false,
            sysroot: None,
            force: false,
            allow_setuid: false,
            malloc: Vec::new(),
            partial: false,
        }
    }
}

/// Hears of bytes copied, and of how many; where it breaks off, the run ends as if it had failed.
pub type Progress<'a> = dyn FnMut(u64, u64) -> ControlFlow<()> + 'a;

/// Rewrites an executable as `options` say.
///
/// # Errors
/// Any [`ErrorKind`]. No output is left behind then, and what was there before is untouched.
pub fn rewrite(options: &Options, progress: &mut Progress<'_>) -> Result<Report> {
    let input = input::open_to_change(&options.input)?;
    let itself = Spans::copy(input.source.len());
    let report = rewrite_original(options, &input, &input.source, &itself, progress);
    report.map_err(|error| input.cause(error))
}

/// Rewrites a rewritten executable again: the result is what [`rewrite`] makes of its original.
/// What `options` leave open stays as it is.
///
/// # Errors
/// As [`rewrite`], and [`ErrorKind::NotRewritten`] or [`ErrorKind::NoUndo`].
pub fn refresh(options: &Options, progress: &mut Progress<'_>) -> Result<Report> {
    let input = input::open_to_change(&options.input)?;
    let (found, original) = undo::original(&input.source)?;
    let options = keep(options, &found);
    let options = divert::remember(options, &input.source, &Image::parse(&input.source)?)?;
    let source = input.source.through(&original)?;
    let report = rewrite_original(&options, &input, &source, &original, progress);
    report.map_err(|error| input.cause(error))
}

/// Gives back the executable that a rewritten one was made from, byte for byte; one that was
/// stripped afterwards, as it would be stripped without the rewrite.
///
/// # Errors
/// [`ErrorKind::NotRewritten`], [`ErrorKind::NoUndo`], and those of reading and writing.
pub fn undo(file: &Path, output: &Destination, progress: &mut Progress<'_>) -> Result<Undone> {
    let input = input::open_to_change(file)?;
    let target = output::resolve(output, &input)?;
    let (found, original) = undo::original(&input.source)?;
    let (pending, replaced) = Pending::make(&input, &target, &original, progress)?;
    let written = pending.finish(&input, &target, progress)?;
    Ok(Undone {
        input: file.to_owned(),
        output: output.path(file).to_owned(),
        needed: found.needed,
        size: Size {
            before: input.source.len(),
            after: original.len(),
        },
        written,
        notes: report::place_notes(&input, replaced),
    })
}

/// The options with what they leave open as `found` has it. The own runtime stays the own one, so that
/// its file is there.
fn keep(options: &Options, found: &Rewritten) -> Options {
    let own = runtime::is_own(&found.needed);
    let runtime = options.runtime.clone();
    Options {
        runtime: runtime.or_else(|| Some(found.needed.clone()).filter(|_| !own)),
        init: options.init.clone().or_else(|| Some(found.init.clone())),
        ..options.clone()
    }
}

/// Rewrites `original`, which `made` makes of the input.
fn rewrite_original(
    options: &Options,
    input: &Input,
    original: &Source,
    made: &Spans,
    progress: &mut Progress<'_>,
) -> Result<Report> {
    let image = Image::parse(original)?;
    let findings = recycle::find(original, &image)?;

    let target = output::resolve(&options.output, input)?;
    let (needed, init, phase) = choose_runtime(options, original, &image, target.directory())?;
    let privileges = &input.privileges;
    privileges.check(original, &needed, options.allow_setuid)?;
    let (diversion, divert_note) = divert::choose(options, original, &image, target.directory())?;
    let request = Request {
        needed: &needed,
        init: &init,
        phase,
        diversion: &diversion,
    };
    let plan = Plan::make(original, &image, &findings, request)?;
    let layout = undo::record(original, &image, &findings, &plan, request)?;

    let spans = layout.spans.over(made);
    let (pending, replaced) = Pending::make(input, &target, &spans, progress)?;
    let result = pending.source(input, &spans)?;
    let bytes_changed = verify::verify(original, &result, &layout.spans, request)?;
    let installed = match options.runtime {
        None => Some(runtime::install(target.directory(), options.force)?),
        Some(_) => None,
    };
    let warning = first::check(options, input, &result, &target, phase)?;
    let written = pending.finish(input, &target, progress)?;
    let mut notes = report::notes(&image, &plan, &layout);
    notes.extend(divert_note);
    notes.extend(report::place_notes(input, replaced));
    Ok(Report {
        input: options.input.clone(),
        output: options.output.path(&options.input).to_owned(),
        runtime: Runtime {
            needed: needed.clone(),
            init: init.clone(),
            phase,
            written: installed.map(runtime::Installed::keep),
        },
        size: Size {
            before: original.len(),
            after: layout.spans.len(),
        },
        bytes_changed,
        written,
        tables: report::tables(&image, &plan, &layout, request),
        diverted: diversion.names(),
        notes,
        warnings: warning.into_iter().collect(),
    })
}

/// The DT_NEEDED string, the init symbol and the phase that go into the program.
fn choose_runtime(
    options: &Options,
    source: &Source,
    image: &Image,
    directory: &Path,
) -> Result<(String, String, Phase)> {
    let no_origin = runtime::no_origin(source, image)?;
    let needed = match &options.runtime {
        Some(needed) => needed.clone(),
        None => runtime::own_needed(no_origin.is_none(), directory)?,
    };
    runtime::check_needed(&needed, no_origin)?;
    // Which symbol it is depends on the phase, and the other way round, unless both are given.
    let usual = phase::choose(source, image.musl, options.phase, None)?;
    let init = options.init.as_deref().unwrap_or(usual.init_symbol());
    runtime::check_init(&needed, init)?;
    let found = match options.runtime {
        Some(_) => runtime::check(&needed, init, directory)?,
        None => Some(runtime::check_own(init, directory)?),
    };
    let kind = found.as_ref().map(|(kind, _)| *kind);
    let phase = phase::choose(source, image.musl, options.phase, kind)?;
    let file = found.map_or_else(|| PathBuf::from(&needed), |(_, path)| path);
    phase::check(phase, kind, &file, init)?;
    Ok((needed, init.to_owned(), phase))
}

/// The directory that a path's last component is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
