//! What a rewritten program wrote to ALLOCS_REPORT.

use std::path::{Path, PathBuf};

use serde_json::Value;

use crate::{Command, Outcome};

/// A report in JSON.
#[derive(Debug, Clone)]
pub struct Report {
    path: PathBuf,
    json: Value,
}

impl Report {
    /// Runs `command` and reads the report that it must write to `path`, which ends in `.json`.
    pub fn of(command: &Command, path: &Path) -> (Outcome, Self) {
        let outcome = command.clone().env("ALLOCS_REPORT", path).run();
        let report = Self::read(path).unwrap_or_else(|e| panic!("{outcome}no report: {e}"));
        (outcome, report)
    }

    /// Reads a report.
    ///
    /// # Errors
    /// It is not there, or no JSON.
    pub fn read(path: &Path) -> std::io::Result<Self> {
        let bytes = std::fs::read(path)?;
        Ok(Self {
            path: path.to_owned(),
            json: serde_json::from_slice(&bytes)?,
        })
    }

    /// All of it.
    pub fn json(&self) -> &Value {
        &self.json
    }

    /// In which phase the runtime's init was called first.
    pub fn phase(&self) -> &str {
        self.json["init"]["phase"].as_str().unwrap_or("none")
    }

    /// How many hooks were called before that.
    pub fn before_init(&self) -> u64 {
        self.number(&["init", "hooks_before_init"])
    }

    /// How often `hook` was called.
    pub fn calls(&self, hook: &str) -> u64 {
        self.number(&["hooks", hook, "calls"])
    }

    /// How many bytes were asked of `hook`.
    pub fn bytes(&self, hook: &str) -> u64 {
        self.number(&["hooks", hook, "bytes"])
    }

    /// The number at `path` in it.
    pub fn number(&self, path: &[&str]) -> u64 {
        let value = path.iter().fold(&self.json, |value, name| &value[*name]);
        value.as_u64().unwrap_or_else(|| {
            panic!(
                "{}: no number at {path:?} in {}",
                self.path.display(),
                self.json
            )
        })
    }

    /// All calls of hooks that allocate.
    pub fn allocations(&self) -> u64 {
        let hooks = self.json["hooks"].as_object().expect("hooks");
        hooks
            .keys()
            .filter(|name| !name.contains("free") && *name != "malloc_usable_size")
            .map(|name| self.calls(name))
            .sum()
    }
}
