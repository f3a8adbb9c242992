//! Makes an allocation runtime start before everything else in an ELF executable.
//!
//! [`rewrite`] reads as the pipeline that it is; each phase is a file:
//!
//! | phase  | file                              | from → to |
//! | ------ | --------------------------------- | --------- |
//! | parse  | `parse`, `recycle`                | bytes → what the loader sees, and what is unused in it |
//! | plan   | `plan`, `names`, `room`, `headers`| what changes, table by table |
//! | layout | `layout`, `spans`                 | every offset and address |
//! | write  | `write`, `trampoline`             | a file, whole or not at all |
//! | verify | `verify`                          | the file read back by another parser |
//!
//! No phase changes what an earlier one made.
//!
//! [`explain()`] asks what the dynamic loader will do with a program: `loader` is the model of it, one
//! file for each of its questions, and `explain` puts the answers in the order of time.

#![forbid(unsafe_code)]

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
mod room;
mod runtime;
mod source;
mod spans;
mod sysv_hash;
mod trampoline;
mod verify;
mod versions;
mod write;

use std::path::{Path, PathBuf};

pub use error::{Error, ErrorKind, Result};
pub use explain::{Conditions, Explanation, explain};
pub use phase::Phase;
pub use report::{Action, Report, Runtime, Size, Table};
pub use runtime::SONAME;

use crate::layout::Layout;
use crate::parse::Image;
use crate::plan::Plan;
use crate::runtime::Request;
use crate::source::Source;
use crate::write::Output;

/// What to rewrite, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The executable to read.
    pub input: PathBuf,
    /// The file to write; may be the input itself.
    pub output: PathBuf,
    /// A runtime's DT_NEEDED string; `None` is the project's own, which is written beside `output`.
    pub runtime: Option<String>,
    /// The runtime's init symbol; `None` is the own runtime's for the phase.
    pub init: Option<String>,
    /// When init is to be called; `None` is the earliest possible.
    pub phase: Option<Phase>,
    /// Fail unless the runtime will be first, as [`explain`] finds it.
    pub require_first: bool,
    /// The system that the program will run in; `None` is this machine.
    pub sysroot: Option<PathBuf>,
    /// Replace another version of the own runtime beside `output`.
    pub force: bool,
}

/// Rewrites an executable as `options` say. `progress` hears of bytes copied, and of how many.
///
/// # Errors
/// Any [`ErrorKind`]. No output is left behind then, and what was there before is untouched.
pub fn rewrite(options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let input = input::open(&options.input)?;
    let source = &input.source;
    let image = Image::parse(source)?;
    let findings = recycle::find(source, &image)?;

    let target = output::resolve(&options.output, &input)?;
    let (needed, init, phase) = choose_runtime(options, source, &image, target.directory())?;
    input
        .privileges
        .check(source, &needed, options.runtime.is_none())?;
    let request = Request {
        needed: &needed,
        init: &init,
        phase,
    };
    let plan = Plan::make(source, &image, &findings, request)?;
    let layout = Layout::make(source, &image, &findings, &plan, request)?;

    let output = Output::create(target.path())?;
    let result = output.source(layout.spans.len())?;
    let mut copied = 0;
    output.fill(source, &layout.spans, |bytes| {
        copied += bytes;
        progress(copied, layout.spans.len());
    })?;
    let bytes_changed = verify::verify(source, &result, &layout.spans, request)?;
    input.check_unchanged()?;
    output.set_attributes(&input, &target)?;

    let installed = match options.runtime {
        None => Some(runtime::install(target.directory(), options.force)?),
        Some(_) => None,
    };
    let warning = first::check(options, &input, &result, &target, phase)?;
    output.finish()?;
    Ok(Report {
        input: options.input.clone(),
        output: options.output.clone(),
        runtime: Runtime {
            needed: needed.clone(),
            init: init.clone(),
            phase,
            written: installed.map(runtime::Installed::keep),
        },
        size: Size {
            before: source.len(),
            after: layout.spans.len(),
        },
        bytes_changed,
        tables: report::tables(&image, &plan, &layout, request),
        notes: report::notes(&image, &plan, &layout),
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
    let needed = match &options.runtime {
        Some(needed) => needed.clone(),
        None => runtime::own_needed(image.musl, directory)?,
    };
    runtime::check_needed(&needed, image.musl)?;
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
