//! What was done to a tree, for people and for scripts.

use std::path::PathBuf;

use schemars::JsonSchema;
use serde::Serialize;

use super::Tree;
use super::entry::Done;
use super::manifest::{Outcome, TreeFile, text};
use crate::error::Error;

/// The outcome of a run. Its JSON form is what `tree --json` prints.
#[derive(Debug, Serialize, JsonSchema)]
pub struct TreeReport {
    /// The tree's path, as given.
    pub output: PathBuf,
    /// Where the manifest is, if there is one.
    pub manifest: Option<PathBuf>,
    /// Executables that are the rewrite of their original.
    pub rewritten: usize,
    /// How many of them this run made.
    pub made: usize,
    /// Executables and other things that this run copied as they are, or linked.
    pub copied: usize,
    /// What could not be dealt with.
    pub failed: usize,
    /// Files of the own runtime, from the top of the tree.
    pub runtimes: Vec<String>,
    /// Executables, files that look like some, and what could not be dealt with, in the order of their paths.
    pub files: Vec<TreeFile>,
    /// What went wrong with which file.
    #[serde(skip)]
    pub failures: Vec<Error>,
}

impl TreeReport {
    pub(crate) fn new(tree: &Tree<'_>, all: Vec<Done>, failures: Vec<Error>) -> Self {
        let options = tree.options;
        let runtimes = tree.runtimes.used();
        let mut report = Self {
            output: options.output.clone().unwrap_or(options.source.clone()),
            manifest: tree.manifest.clone(),
            rewritten: 0,
            made: 0,
            copied: 0,
            failed: 0,
            runtimes: runtimes.iter().map(|path| text(path)).collect(),
            files: Vec::new(),
            failures,
        };
        for done in all {
            let outcome = done.file.as_ref().map(|file| file.outcome);
            if outcome == Some(Outcome::Rewritten) {
                report.rewritten += 1;
                report.made += usize::from(done.made);
            } else {
                report.copied += usize::from(done.made);
            }
            report.files.extend(done.file);
            report.failures.extend(done.error);
        }
        report.failed = report.failures.len();
        report.files.sort_by(|a, b| a.path.cmp(&b.path));
        report.failures.sort_by(|a, b| a.file().cmp(b.file()));
        report
    }

    /// The line that is printed by default.
    pub fn summary(&self) -> String {
        let mut line = format!(
            "{}: {} the runtime first ({} rewritten now)",
            self.output.display(),
            counted(self.rewritten, "executable starts", "executables start"),
            self.made,
        );
        if self.copied > 0 {
            let others = counted(self.copied, "other entry", "other entries");
            line += &format!(", {others} copied");
        }
        if self.failed > 0 {
            line += &format!(", {} failed", self.failed);
        }
        line
    }

    /// One line for each executable, for `-v`.
    pub fn details(&self) -> String {
        let line = |file: &TreeFile| {
            let path = &file.path;
            match (&file.reason, &file.starts) {
                (Some(reason), _) => format!("  {path}: {reason}\n"),
                (None, Some(starts)) => format!("  {path}: starts {} first\n", starts.needed),
                (None, None) => format!("  {path}\n"),
            }
        };
        self.files.iter().map(line).collect()
    }
}

fn counted(number: usize, one: &str, many: &str) -> String {
    match number {
        1 => format!("1 {one}"),
        _ => format!("{number} {many}"),
    }
}
