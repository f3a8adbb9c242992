//! A tree at a time: every dynamically linked executable below a directory is rewritten, into a copy of the
//! tree or in place.
//!
//! | step | file | |
//! | --- | --- | --- |
//! | walk | `walk`, `select` | what is there, and what is to be rewritten of it |
//! | act | `workers`, `entry`, `file`, `special`, `links`, `directories` | one entry at a time, on all processors: up to date, rewritten or copied |
//! | tell | `manifest`, `report` | what was done, for people, for scripts and for the next run |
//!
//! A file takes its name when it is whole, so whenever a run is killed, each name has an old file or a new
//! one. The next run sees by the files themselves what is left to do, and takes away what the other was
//! about to rename.

mod directories;
mod entry;
mod file;
mod kind;
mod links;
mod manifest;
mod report;
mod runtimes;
mod same;
mod select;
mod special;
mod walk;
mod workers;

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::path::{Path, PathBuf};

pub(crate) use self::manifest::Manifest;
pub use self::manifest::{Outcome, Stamp, Starts, TreeFile};
pub use self::report::TreeReport;

use self::entry::Done;
use self::manifest::Request;
use self::runtimes::Runtimes;
use self::select::Selection;
use self::walk::{Entry, Found};
use crate::error::{Error, ErrorKind, Result};
use crate::runtime::SONAME;
use crate::temporary::{self, Lock};
use crate::{Phase, Progress, directory_of};

/// Which tree to rewrite, and how.
#[derive(Clone, Debug)]
pub struct TreeOptions {
    /// The directory to read.
    pub source: PathBuf,
    /// The directory that gets what is in `source`; `None` rewrites in place.
    pub output: Option<PathBuf>,
    /// A runtime's DT_NEEDED string; `None` is the project's own, written beside each executable.
    pub runtime: Option<String>,
    /// The runtime's init symbol; `None` is the own runtime's for the phase.
    pub init: Option<String>,
    /// When init is to be called; `None` is the earliest possible.
    pub phase: Option<Phase>,
    /// Replace other versions of the own runtime.
    pub force: bool,
    /// Give a runtime to programs that run with privileges.
    pub allow_setuid: bool,
    /// Go on where a function of a program's own allocator cannot be led to the runtime.
    pub partial: bool,
    /// Globs of the executables to rewrite; none means all.
    pub include: Vec<String>,
    /// Globs of those that are not.
    pub exclude: Vec<String>,
    /// Where to write the manifest. `None` is beside the output, or nowhere in place.
    pub manifest: Option<PathBuf>,
    /// Stop at the first executable that cannot be rewritten.
    pub strict: bool,
}

impl TreeOptions {
    /// The own runtime in all executables.
    pub fn new(source: impl Into<PathBuf>, output: Option<PathBuf>) -> Self {
        Self {
            source: source.into(),
            output,
            runtime: None,
            init: None,
            phase: None,
            force: false,
            allow_setuid: false,
            partial: false,
            include: Vec::new(),
            exclude: Vec::new(),
            manifest: None,
            strict: false,
        }
    }
}

/// Rewrites every dynamically linked executable of a tree. `progress` hears of bytes, as in
/// [`rewrite`](crate::rewrite).
///
/// # Errors
/// Those about the tree as a whole; with `strict`, the first of any file; and [`ErrorKind::TreeStopped`].
/// What was made by then is whole, and another run goes on from there. What went wrong with single files
/// is in the report otherwise.
pub fn tree(options: &TreeOptions, progress: &mut Progress<'_>) -> Result<TreeReport> {
    let tree = Tree::open(options)?;
    let mut found = walk::walk(&tree)?;
    let mut failures = std::mem::take(&mut found.failures);
    stop_if_strict(options, &mut failures)?;
    if !tree.in_place() {
        failures.extend(directories::prepare(&tree, &mut found));
    }
    stop_if_strict(options, &mut failures)?;
    let items = links::items(&tree, &found);
    // The tree's own copies of the runtime give way to ours, which are written by then.
    let (last, first): (Vec<_>, Vec<_>) =
        (items.iter()).partition(|item| !tree.in_place() && item.entry.path.ends_with(SONAME));
    let mut all = Vec::new();
    for items in [first, last] {
        let done = workers::run(&tree, &items, progress, |item, progress| {
            entry::act(&tree, item, progress)
        })?;
        all.extend(done);
    }
    if !tree.in_place() {
        failures.extend(directories::finish(&tree, &found));
    }
    stop_if_strict(options, &mut failures)?;
    tell(&tree, all, failures)
}

fn stop_if_strict(options: &TreeOptions, failures: &mut Vec<Error>) -> Result<()> {
    match options.strict && !failures.is_empty() {
        true => Err(failures.swap_remove(0)),
        false => Ok(()),
    }
}

fn tell(tree: &Tree<'_>, all: Vec<Done>, failures: Vec<Error>) -> Result<TreeReport> {
    let report = TreeReport::new(tree, all, failures);
    if let Some(path) = &tree.manifest {
        let manifest = Manifest {
            request: tree.request(),
            runtimes: report.runtimes.clone(),
            files: report.files.clone(),
        };
        // The directory that the manifest is in may be one of the copy, which has the original's time.
        let within = directory_of(path).canonicalize();
        let within = within.map_err(|error| Error::io(path, "write", error))?;
        let written = manifest.write(path)?;
        if let Some(copied) =
            (within.strip_prefix(&tree.output).ok()).filter(|_| written && !tree.in_place())
        {
            directories::restore(tree, copied)?;
        }
    }
    Ok(report)
}

/// A tree that is being rewritten.
pub(crate) struct Tree<'a> {
    options: &'a TreeOptions,
    /// Both are real paths; one and the same in place.
    source: PathBuf,
    output: PathBuf,
    selection: Selection,
    runtimes: Runtimes,
    manifest: Option<PathBuf>,
    /// The manifest of an earlier run that was asked for the same.
    previous: Option<Manifest>,
    /// Keeps other runs away.
    _lock: Lock,
}

impl<'a> Tree<'a> {
    fn open(options: &'a TreeOptions) -> Result<Self> {
        let selection = Selection::new(options)?;
        let source = directory(&options.source)?;
        let output = match &options.output {
            None => source.clone(),
            Some(output) => output_directory(&source, output)?,
        };
        let lock = File::open(&output).map_err(|source| Error::io(&output, "open", source))?;
        let Some(lock) = Lock::take(lock) else {
            return Err(Error::new(&output, ErrorKind::TreeBusy));
        };
        let beside = || Some(manifest::beside(options.output.as_ref()?, &output));
        let manifest = options.manifest.clone().or_else(beside);
        let mut tree = Self {
            options,
            selection,
            runtimes: Runtimes::new(&source, &output)?,
            source,
            output,
            manifest,
            previous: None,
            _lock: lock,
        };
        if let Some(path) = &tree.manifest {
            temporary::remove_left_over(directory_of(path))
                .map_err(|source| Error::io(path, "write in its directory", source))?;
            let previous = Manifest::read(path)?;
            tree.previous = previous.filter(|previous| previous.request == tree.request());
        }
        Ok(tree)
    }

    fn in_place(&self) -> bool {
        self.options.output.is_none()
    }

    fn request(&self) -> Request {
        Request::of(self.options)
    }

    /// Digests are for the manifest.
    fn wants_digests(&self) -> bool {
        self.manifest.is_some()
    }

    /// An error about what the walk found there.
    fn error(&self, path: &Path, action: &'static str, source: std::io::Error) -> Error {
        // Of the top, without a slash at its end.
        let path: PathBuf = self.source.join(path).components().collect();
        Error::io(&path, action, source)
    }
}

/// The real path of a directory.
fn directory(path: &Path) -> Result<PathBuf> {
    let real = path.canonicalize();
    let real = real.map_err(|source| Error::io(path, "open", source))?;
    match real.is_dir() {
        true => Ok(real),
        false => Err(Error::new(path, ErrorKind::NoTree)),
    }
}

/// The real path of the directory to write, which is made if it is not there.
fn output_directory(source: &Path, output: &Path) -> Result<PathBuf> {
    let failed = |error| Error::io(output, "make", error);
    let real = match fs::symlink_metadata(output) {
        Ok(_) => directory(output)?,
        Err(_) => {
            let parent = directory_of(output).canonicalize().map_err(failed)?;
            parent.join(output.file_name().unwrap_or_default())
        }
    };
    if real.starts_with(source) || source.starts_with(&real) {
        let other = source.display().to_string();
        return Err(Error::new(output, ErrorKind::TreeOverlap { other }));
    }
    if !real.exists() {
        fs::create_dir(&real).map_err(failed)?;
    }
    Ok(real)
}

/// Leaves out what is below directories that cannot be had.
fn retain_outside(found: &mut Found, lost: &BTreeSet<PathBuf>) {
    let outside = |entry: &Entry| !entry.path.ancestors().any(|place| lost.contains(place));
    found.directories.retain(outside);
    found.entries.retain(outside);
}
