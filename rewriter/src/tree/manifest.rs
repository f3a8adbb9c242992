//! The manifest: what each executable was, what it is, and why. It has no absolute paths and no time but the
//! inputs', so that the same tree gives the same manifest.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use blake3::Hasher;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::TreeOptions;
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;
use crate::{Phase, directory_of, temporary};

/// Behind the name of the output.
const SUFFIX: &str = ".allocs-tree.json";

/// All of it.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Manifest {
    pub(crate) request: Request,
    /// Files of the own runtime that were written.
    pub(crate) runtimes: Vec<String>,
    /// In the order of their paths.
    pub(crate) files: Vec<TreeFile>,
}

/// What was asked for, and of which version of the program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(crate) struct Request {
    allocs_rewrite: String,
    runtime: Option<String>,
    init: Option<String>,
    phase: Option<Phase>,
    allow_setuid: bool,
    partial: bool,
    include: Vec<String>,
    exclude: Vec<String>,
}

/// An executable, a file that looks like one, or anything that could not be dealt with. Paths are from
/// the top of the tree; where they are no UTF-8, they have U+FFFD.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct TreeFile {
    /// Its path.
    pub path: String,
    /// Its other names (hard links).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<String>,
    /// What became of it.
    pub outcome: Outcome,
    /// Why it was not rewritten.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// What it starts now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub starts: Option<Starts>,
    /// What it was before any rewrite.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub input: Option<Stamp>,
    /// What it is, if that is something else.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub output: Option<Stamp>,
}

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Outcome {
    /// It is the rewrite of its original, by this run or by an earlier one.
    Rewritten,
    /// It is the original.
    Unchanged,
    /// It should have been rewritten or copied.
    Failed,
}

/// The runtime that a program starts with.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Starts {
    /// Its DT_NEEDED string.
    pub needed: String,
    /// Its init symbol.
    pub init: String,
}

/// By what a file is known again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct Stamp {
    /// In bytes.
    pub size: u64,
    /// Modification time, in seconds since 1970, of the original in another tree.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub modified: Option<String>,
    /// BLAKE3 in hexadecimal, if there is a manifest to write. (SHA-256 would cost more than the copy where
    /// the processor has no instructions for it.)
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub blake3: Option<String>,
}

impl Stamp {
    /// That of a file that is open.
    pub(crate) fn of(source: &Source, digest: bool) -> Result<Self> {
        let blake3 = match digest {
            true => Some(blake3(source)?),
            false => None,
        };
        Ok(Self {
            size: source.len(),
            modified: None,
            blake3,
        })
    }
}

fn blake3(source: &Source) -> Result<String> {
    /// A power of two: it is hashed as a tree, and so is whole nodes of that.
    const RUN: u64 = 128 << 10;
    let mut digest = Hasher::new();
    source.for_all(RUN, |run| {
        digest.update(run);
    })?;
    Ok(digest.finalize().to_hex().to_string())
}

/// A file's modification time as a manifest has it.
pub(crate) fn modified(metadata: &fs::Metadata) -> String {
    format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec())
}

/// A path as a manifest has it.
pub(crate) fn text(path: &Path) -> String {
    path.to_string_lossy().into_owned()
}

impl Request {
    pub(crate) fn of(options: &TreeOptions) -> Self {
        Self {
            allocs_rewrite: env!("CARGO_PKG_VERSION").to_owned(),
            runtime: options.runtime.clone(),
            init: options.init.clone(),
            phase: options.phase,
            allow_setuid: options.allow_setuid,
            partial: options.partial,
            include: options.include.clone(),
            exclude: options.exclude.clone(),
        }
    }
}

impl Manifest {
    /// The manifest at `path`, if there is one.
    pub(crate) fn read(path: &Path) -> Result<Option<Self>> {
        let bytes = match fs::read(path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io(path, "read", error)),
        };
        match serde_json::from_slice(&bytes) {
            Ok(manifest) => Ok(Some(manifest)),
            Err(_) => Err(Error::new(path, ErrorKind::NoManifest)),
        }
    }

    /// Writes it to `path`. False if it was there already.
    pub(crate) fn write(&self, path: &Path) -> Result<bool> {
        let failed = |source| Error::io(path, "write", source);
        let mut bytes = serde_json::to_vec_pretty(self).map_err(|error| failed(error.into()))?;
        bytes.push(b'\n');
        if fs::read(path).is_ok_and(|there| there == bytes) {
            return Ok(false);
        }
        let file = temporary::create_with_mode(directory_of(path), 0o644);
        let mut file = file.map_err(failed)?;
        file.write_all(&bytes).map_err(failed)?;
        file.persist(path).map_err(|error| failed(error.error))?;
        Ok(true)
    }

    /// What it says of the file at `path`, unless it has two of that text.
    pub(crate) fn file(&self, path: &Path) -> Option<&TreeFile> {
        let path = text(path);
        let first = self.files.partition_point(|file| file.path < path);
        let mut found = self.files.iter().skip(first);
        let file = found.next().filter(|file| file.path == path);
        file.filter(|_| found.next().is_none_or(|next| next.path != path))
    }
}

/// Where the manifest of `output` is if nobody says otherwise; `real` is its path without links.
pub(crate) fn beside(output: &Path, real: &Path) -> PathBuf {
    let mut name = real.file_name().unwrap_or_default().to_owned();
    name.push(SUFFIX);
    match output.file_name() {
        Some(_) => output.with_file_name(name),
        None => real.with_file_name(name), // `.` and the like
    }
}
