//! Makes an allocation runtime start before everything else in an ELF executable.
//!
//! [`rewrite`] reads as the pipeline that it is; each phase is a file:
//!
//! | phase  | file                              | from → to |
//! | ------ | --------------------------------- | --------- |
//! | parse  | `parse`, `recycle`                | bytes → what the loader sees, and what is unused in it |
//! | plan   | `plan`, `names`, `room`, `headers`| what changes, table by table |
//! | layout | `layout`, `spans`                 | every offset and address |
//! | write  | `write`                           | a file, whole or not at all |
//! | verify | `verify`                          | the file read back by another parser |
//!
//! No phase changes what an earlier one made.

#![forbid(unsafe_code)]

mod elf;
mod error;
mod explain;
mod headers;
mod input;
mod layout;
mod loader;
mod names;
mod output;
mod parse;
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
mod verify;
mod versions;
mod write;

use std::path::{Path, PathBuf};

pub use error::{Error, ErrorKind, Result};
pub use explain::{Conditions, Explanation, explain};
pub use report::{Action, Report, Runtime, Size, Table};
pub use runtime::{INIT_SYMBOL, SONAME};

use crate::layout::Layout;
use crate::parse::Image;
use crate::plan::Plan;
use crate::runtime::Request;
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
    /// The runtime's init symbol.
    pub init: String,
    /// Replace another version of the own runtime beside `output`.
    pub force: bool,
}

/// Rewrites an executable as `options` say. `progress` hears of bytes copied, and of how many.
///
/// # Errors
/// Any [`ErrorKind`]. No output is left behind then, and what was there before is untouched.
pub fn rewrite(options: &Options, progress: &mut dyn FnMut(u64, u64)) -> Result<Report> {
    let needed = options.runtime.clone().unwrap_or_else(runtime::own_needed);
    runtime::check_needed(&needed)?;
    runtime::check_init(&needed, &options.init)?;
    let request = Request {
        needed: &needed,
        init: &options.init,
    };
    let input = input::open(&options.input)?;
    let source = &input.source;

    let image = Image::parse(source)?;
    let findings = recycle::find(source, &image)?;
    let plan = Plan::make(source, &image, &findings, request)?;
    let layout = Layout::make(source, &image, &findings, &plan, request)?;

    let target = output::resolve(&options.output, &input)?;
    input.privileges.check(source, &needed)?;
    if options.runtime.is_some() {
        runtime::check(&needed, &options.init, target.directory())?;
    }
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
    output.finish()?;
    Ok(Report {
        input: options.input.clone(),
        output: options.output.clone(),
        runtime: Runtime {
            needed: needed.clone(),
            init: options.init.clone(),
            written: installed.map(runtime::Installed::keep),
        },
        size: Size {
            before: source.len(),
            after: layout.spans.len(),
        },
        bytes_changed,
        tables: report::tables(&image, &plan, &layout, request),
        notes: report::notes(&image, &plan, &layout),
    })
}

/// The directory that a path's last component is in.
pub(crate) fn directory_of(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}
