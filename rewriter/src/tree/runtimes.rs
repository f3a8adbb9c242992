//! Runtimes for the executables of a tree: one that is named by a path may be in the tree, and the own one is
//! written once for each directory.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::elf::Format;
use crate::error::{Error, ErrorKind, Result};
use crate::loader::system::System;
use crate::parse::Image;
use crate::runtime::{self, Found, Installed, SONAME, Surroundings};
use crate::{input, trusted};

/// What is known of runtimes.
#[derive(Debug)]
pub(crate) struct Runtimes {
    source: PathBuf,
    output: PathBuf,
    /// The source, and the output, which may have more: what both have is yet to be copied.
    trees: Vec<System>,
    /// What was found, by DT_NEEDED string, init symbol, and format.
    checked: Mutex<HashMap<(String, String, Format), Found>>,
    /// Directories with the own runtime, and the machine that it is for.
    installed: Mutex<BTreeMap<PathBuf, (Format, Own)>>,
}

/// The own runtime in a directory.
#[derive(Debug)]
enum Own {
    /// It is there, for an executable that is not. If that fails, it goes.
    Ready(Installed),
    Used,
}

impl Runtimes {
    pub(crate) fn new(source: &Path, output: &Path) -> Result<Self> {
        let mut trees = vec![System::new(Some(source))?];
        if source != output {
            trees.push(System::new(Some(output))?);
        }
        Ok(Self {
            source: source.to_owned(),
            output: output.to_owned(),
            trees,
            checked: Mutex::default(),
            installed: Mutex::default(),
        })
    }

    /// The directory of the source that `directory` of the output is a copy of.
    fn original(&self, directory: &Path) -> Option<PathBuf> {
        let path = directory.strip_prefix(&self.output).ok()?;
        Some(self.source.join(path)).filter(|original| original != directory)
    }

    /// Sees to it that the own runtime is in `directory`, where `program` has a name, and stays there.
    pub(crate) fn provide(&self, directory: &Path, program: &Path, force: bool) -> Result<()> {
        if !locked(&self.installed).contains_key(directory) {
            let format = input::open(program)?.source.format();
            self.install(directory, force, format)?;
        }
        if let Some((_, own)) = locked(&self.installed).get_mut(directory)
            && let Own::Ready(file) = std::mem::replace(own, Own::Used)
        {
            file.keep();
        }
        Ok(())
    }

    /// The format of an executable in the source's `directory` for the machine that the embedded runtime is for, if
    /// there is one.
    fn native_program(&self, directory: &Path) -> Option<Format> {
        let original = self.original(directory);
        let entries = fs::read_dir(original.as_deref().unwrap_or(directory)).ok()?;
        entries.flatten().find_map(|entry| {
            let metadata = entry.metadata().ok()?;
            let may_run = metadata.is_file() && metadata.mode() & 0o111 != 0;
            let input = input::open(&entry.path()).ok().filter(|_| may_run)?;
            let format = input.source.format();
            let is_native = runtime::is_embedded(format) && Image::parse(&input.source).is_ok();
            is_native.then_some(format)
        })
    }

    /// Whether executables in `directory` start the own runtime.
    pub(crate) fn is_used(&self, directory: &Path) -> bool {
        matches!(locked(&self.installed).get(directory), Some((_, Own::Used)))
    }

    /// The own runtime's files, from the top of the output.
    pub(crate) fn used(&self) -> Vec<PathBuf> {
        let installed = locked(&self.installed);
        let used = installed
            .iter()
            .filter(|(_, (_, own))| matches!(own, Own::Used));
        let paths = used.filter_map(|(directory, _)| directory.strip_prefix(&self.output).ok());
        paths.map(|path| path.join(SONAME)).collect()
    }
}

impl Surroundings for Runtimes {
    fn check(&self, needed: &str, init: &str, origin: &Path, format: Format) -> Result<Found> {
        let original = self.original(origin);
        let origins: Vec<&Path> = original.as_deref().into_iter().chain([origin]).collect();
        if needed.starts_with('$') {
            return runtime::check(needed, init, &origins, &self.trees, format);
        }
        let key = (needed.to_owned(), init.to_owned(), format);
        let mut checked = locked(&self.checked);
        if let Some(found) = checked.get(&key) {
            return Ok(found.clone());
        }
        let found = runtime::check(needed, init, &origins, &self.trees, format)?;
        checked.insert(key, found.clone());
        Ok(found)
    }

    fn flaw(&self, needed: &str) -> Option<String> {
        trusted::flaw(needed, &self.trees)
    }

    fn install(&self, directory: &Path, force: bool, format: Format) -> Result<Option<Installed>> {
        let mut installed = locked(&self.installed);
        match installed.get(directory) {
            Some((there, _)) if *there == format => return Ok(None),
            Some((there, _)) => {
                return Err(runtime::for_another_machine(
                    &directory.join(SONAME),
                    *there,
                ));
            }
            None => {}
        }
        // Whichever comes first: those that this machine runs have it.
        if !runtime::is_embedded(format)
            && let Some(native) = self.native_program(directory)
        {
            return Err(runtime::for_another_machine(
                &directory.join(SONAME),
                native,
            ));
        }
        // What the source has there will be copied, or not.
        if let Some(original) = self.original(directory)
            && !force
            && runtime::is_another(&original, format)?
        {
            let path = original.join(SONAME);
            return Err(Error::new(&path, ErrorKind::RuntimeDiffers));
        }
        let file = runtime::install(directory, force, format)?;
        installed.insert(directory.to_owned(), (format, Own::Ready(file)));
        Ok(None)
    }
}

/// Nobody panics with the lock, and nothing is half done there.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
