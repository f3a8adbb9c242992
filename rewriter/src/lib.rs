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
//! | write  | `write`, `copy`, `output`, `direct` | a file, whole or not at all |
//! | verify | `verify`                          | the file read back by another parser |
//!
//! [`undo()`] follows the way back, and [`refresh`] is a rewrite of what it leads to.
//!
//! No phase changes what an earlier one made.
//!
//! [`tree()`] does it to all executables of a tree.
//!
//! [`explain()`] asks what the dynamic loader will do with a program: `loader` is the model of it, one
//! file for each of its questions, and `explain` puts the answers in the order of time.
//!
//! [`write_object`] writes the same as an object file, for who can link the program again.
//!
//! [`census()`] reads the reports that the runtime writes and says where a process allocates; [`compare`]
//! says what changed between two of them.

#![forbid(unsafe_code)]

mod attributes;
mod census;
#[doc(hidden)]
pub mod cli;
mod copy;
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
mod object_file;
mod output;
mod parse;
mod phase;
mod plan;
mod processors;
mod recycle;
mod refuse;
mod relr;
mod report;
mod rewritten;
mod room;
mod runtime;
mod schema;
mod source;
mod spans;
mod sysv_hash;
mod temporary;
mod trampoline;
mod tree;
mod trusted;
mod undo;
mod unwind;
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
pub use object_file::{ObjectFile, ObjectOptions, write_object};
pub use output::{Destination, Written};
pub use phase::Phase;
pub use report::{Action, Report, Runtime, Size, Table, Undone};
pub use runtime::SONAME;
pub use schema::schemas;
pub use tree::{Outcome, Stamp, Starts, TreeFile, TreeOptions, TreeReport, tree};

use crate::input::Input;
use crate::output::{Pending, Target};
use crate::parse::Image;
use crate::plan::Plan;
use crate::rewritten::Rewritten;
use crate::runtime::{Request, Surroundings, ThisMachine};
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
    on_this_machine(options, |job| job.rewrite(progress))
}

/// Rewrites a rewritten executable again: the result is what [`rewrite`] makes of its original.
/// What `options` leave open stays as it is.
///
/// # Errors
/// As [`rewrite`], and [`ErrorKind::NotRewritten`] or [`ErrorKind::NoUndo`].
pub fn refresh(options: &Options, progress: &mut Progress<'_>) -> Result<Report> {
    on_this_machine(options, |job| job.refresh(progress))
}

/// Does the job that is one program on this machine.
fn on_this_machine(
    options: &Options,
    act: impl FnOnce(&Job<'_>) -> Result<Report>,
) -> Result<Report> {
    let input = input::open_to_change(&options.input)?;
    let target = output::resolve(&options.output, &input)?;
    act(&Job {
        options,
        input: &input,
        target: &target,
        surroundings: &ThisMachine,
    })
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
    let (pending, replaced) = Pending::make(&input, &target, None, &original, progress)?;
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

/// The runtime's DT_NEEDED string, if `file` is a rewritten executable.
///
/// # Errors
/// Those of reading it.
pub fn runtime_of(file: &Path) -> Result<Option<String>> {
    let input = input::open(file)?;
    let image = Image::parse(&input.source)?;
    let found = rewritten::recognise(&input.source, &image, None)?;
    Ok(found.map(|found| found.needed))
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

/// A program to rewrite, and what is to come of it.
#[derive(Clone, Copy)]
pub(crate) struct Job<'a> {
    pub(crate) options: &'a Options,
    pub(crate) input: &'a Input,
    pub(crate) target: &'a Target,
    pub(crate) surroundings: &'a dyn Surroundings,
}

/// The runtime of a program.
struct Chosen {
    /// Its DT_NEEDED string.
    needed: String,
    /// Its init symbol.
    init: String,
    phase: Phase,
    /// Its file, where that is found.
    file: Option<PathBuf>,
}

impl Job<'_> {
    /// As [`rewrite`].
    pub(crate) fn rewrite(&self, progress: &mut Progress<'_>) -> Result<Report> {
        let itself = Spans::copy(self.input.source.len());
        let report = self.rewrite_original(&self.input.source, &itself, progress);
        report.map_err(|error| self.input.cause(error))
    }

    /// As [`refresh`].
    pub(crate) fn refresh(&self, progress: &mut Progress<'_>) -> Result<Report> {
        let (found, original) = undo::original(&self.input.source)?;
        let options = keep(self.options, &found);
        let rewritten = &self.input.source;
        let options = divert::remember(options, rewritten, &Image::parse(rewritten)?)?;
        let source = rewritten.through(&original);
        let job = Job {
            options: &options,
            ..*self
        };
        let report = job.rewrite_original(&source, &original, progress);
        report.map_err(|error| self.input.cause(error))
    }

    /// What a refresh would keep of the program, if that is all of it.
    pub(crate) fn nothing_to_do(&self) -> Result<Option<Rewritten>> {
        let source = &self.input.source;
        let image = Image::parse(source)?;
        let Some(found) = rewritten::recognise(source, &image, None)? else {
            return Ok(None);
        };
        let options = keep(self.options, &found);
        let job = Job {
            options: &options,
            ..*self
        };
        let chosen = job.choose_runtime(source, &image)?;
        let same = |found: &Rewritten| found.needed == chosen.needed && found.init == chosen.init;
        Ok(Some(found).filter(same))
    }

    /// Rewrites `original`, which `made` makes of the input.
    fn rewrite_original(
        &self,
        original: &Source,
        made: &Spans,
        progress: &mut Progress<'_>,
    ) -> Result<Report> {
        let Self {
            options,
            input,
            target,
            surroundings,
        } = *self;
        let image = Image::parse(original)?;
        let chosen = self.choose_runtime(original, &image)?;
        let Chosen {
            needed,
            init,
            phase,
            file,
        } = chosen;
        let (privileges, allowed) = (&input.privileges, options.allow_setuid);
        privileges.check(original, &needed, allowed, surroundings)?;

        let begun = output::begin(input, target);
        let findings = recycle::find(original, &image)?;
        refuse::check(original, &image, &findings, (&needed, &init))?;
        let (diversion, divert_notes) = divert::choose(options, original, &image, file.as_deref())?;
        let request = Request {
            needed: &needed,
            init: &init,
            phase,
            diversion: &diversion,
        };
        let plan = Plan::make(original, &image, &findings, request)?;
        let layout = undo::record(original, &image, &findings, &plan, request)?;

        let spans = layout.spans.over(made);
        let (pending, replaced) = Pending::make(input, target, begun, &spans, progress)?;
        let result = pending.source(input, &spans)?;
        let bytes_changed = verify::verify(original, &result, &layout, request)?;
        let installed = match options.runtime {
            None => surroundings.install(target.directory(), options.force, original.format())?,
            Some(_) => None,
        };
        let warning = first::check(options, input, &result, target, phase)?;
        let written = pending.finish(input, target, progress)?;
        let mut notes = report::notes(&image, &plan, &layout);
        notes.extend(divert_notes);
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

    /// What goes into the program.
    fn choose_runtime(&self, source: &Source, image: &Image) -> Result<Chosen> {
        let (options, directory) = (self.options, self.target.directory());
        let no_origin = runtime::no_origin(source, image)?;
        let needed = match &options.runtime {
            Some(needed) => needed.clone(),
            None => {
                let machine = source.format().name();
                runtime::own(source.format())
                    .map_err(|advice| source.error(ErrorKind::NoOwnRuntime { machine, advice }))?;
                runtime::own_needed(no_origin.is_none(), directory)?
            }
        };
        runtime::check_needed(&needed, no_origin)?;
        // Which symbol it is depends on the phase, and the other way round, unless both are given.
        let usual = phase::choose(source, image.musl, options.phase, None)?;
        let init = options.init.as_deref().unwrap_or(usual.init_symbol());
        runtime::check_init(&needed, init)?;
        let found = match options.runtime {
            Some(_) => self
                .surroundings
                .check(&needed, init, directory, source.format())?,
            None => Some(runtime::check_own(init, directory)?),
        };
        let kind = found.as_ref().map(|(kind, _)| *kind);
        let phase = phase::choose(source, image.musl, options.phase, kind)?;
        let file = found.map(|(_, path)| path);
        let path = file.as_deref().unwrap_or(Path::new(&needed));
        phase::check(phase, kind, path, init)?;
        Ok(Chosen {
            init: init.to_owned(),
            phase,
            file,
            needed,
        })
    }
}

/// The directory that a path's last component is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
