//! Runtimes for the executables of a tree: one that is named by a path may be in the tree, and the own one is
//! written once for each directory.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::error::{Error, ErrorKind, Result};
use crate::loader::system::System;
use crate::runtime::{self, Found, Installed, SONAME, Surroundings};
use crate::trusted;

/// What is known of runtimes.
#[derive(Debug)]
pub(crate) struct Runtimes {
    source: PathBuf,
    output: PathBuf,
    /// The source, and the output, which may have more: what both have is yet to be copied.
    trees: Vec<System>,
    /// What was found, by DT_NEEDED string and init symbol.
    checked: Mutex<BTreeMap<(String, String), Found>>,
    /// Directories with the own runtime.
    installed: Mutex<BTreeMap<PathBuf, Own>>,
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

    /// Sees to it that the own runtime is in `directory`, and stays there.
    pub(crate) fn provide(&self, directory: &Path, force: bool) -> Result<()> {
        self.install(directory, force)?;
        if let Some(own) = locked(&self.installed).get_mut(directory)
            && let Own::Ready(file) = std::mem::replace(own, Own::Used)
        {
            file.keep();
        }
        Ok(())
    }

    /// Whether executables in `directory` start the own runtime.
    pub(crate) fn is_used(&self, directory: &Path) -> bool {
        matches!(locked(&self.installed).get(directory), Some(Own::Used))
    }

    /// The own runtime's files, from the top of the output.
    pub(crate) fn used(&self) -> Vec<PathBuf> {
        let installed = locked(&self.installed);
        let used = installed.iter().filter(|(_, own)| matches!(own, Own::Used));
        let paths = used.filter_map(|(directory, _)| directory.strip_prefix(&self.output).ok());
        paths.map(|path| path.join(SONAME)).collect()
    }
}

impl Surroundings for Runtimes {
    fn check(&self, needed: &str, init: &str, origin: &Path) -> Result<Found> {
        let original = self.original(origin);
        let origins: Vec<&Path> = original.as_deref().into_iter().chain([origin]).collect();
        if needed.starts_with('$') {
            return runtime::check(needed, init, &origins, &self.trees);
        }
        let key = (needed.to_owned(), init.to_owned());
        let mut checked = locked(&self.checked);
        if let Some(found) = checked.get(&key) {
            return Ok(found.clone());
        }
        let found = runtime::check(needed, init, &origins, &self.trees)?;
        checked.insert(key, found.clone());
        Ok(found)
    }

    fn flaw(&self, needed: &str) -> Option<String> {
        trusted::flaw(needed, &self.trees)
    }

    fn install(&self, directory: &Path, force: bool) -> Result<Option<Installed>> {
        let mut installed = locked(&self.installed);
        if installed.contains_key(directory) {
            return Ok(None);
        }
        // What the source has there will be copied, or not.
        if let Some(original) = self.original(directory)
            && !force
            && runtime::is_another(&original)?
        {
            let path = original.join(SONAME);
            return Err(Error::new(&path, ErrorKind::RuntimeDiffers));
        }
        let file = runtime::install(directory, force)?;
        installed.insert(directory.to_owned(), Own::Ready(file));
        Ok(None)
    }
}

/// Nobody panics with the lock, and nothing is half done there.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
