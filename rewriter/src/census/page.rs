//! Sites as one HTML file that needs nothing else: a flame graph and a table. The data is JSON in it;
//! the script beside this file shows it, and puts names into the page as text only.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use serde::Serialize;

use super::counts::{self, By, Counts};
use super::text::COLUMNS;
use super::{Census, Comparison, Stack};
use crate::error::{Error, Result};

/// What the script reads. Numbers are in the order of [`COLUMNS`].
#[derive(Default, Serialize)]
struct Data {
    title: String,
    /// Lines above everything, notes among them.
    lines: Vec<String>,
    measures: [&'static str; 5],
    /// Index of the measure to begin with.
    by: usize,
    compares: bool,
    /// Name and source of each function.
    frames: Vec<(String, String)>,
    sites: Vec<SiteData>,
    #[serde(skip)]
    numbers: HashMap<(String, String), usize>,
}

#[derive(Serialize)]
struct SiteData {
    /// Indices of frames, innermost first.
    stack: Vec<usize>,
    /// In the second report, or in all.
    counts: [Option<i64>; 5],
    /// In the first report.
    before: Option<[Option<i64>; 5]>,
    mark: &'static str,
}

impl Census {
    /// Writes a flame graph and a table of all sites to an HTML file that needs no other.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_page(&self, path: &Path) -> Result<()> {
        let mut data = Data::new(self.head(), &self.notes, self.by);
        for site in &self.sites {
            let stack = data.stack(&site.frames);
            data.sites.push(SiteData {
                stack,
                counts: numbers(&site.counts),
                before: None,
                mark: "",
            });
        }
        data.write(path)
    }
}

impl Comparison {
    /// Writes a flame graph and a table of all sites to an HTML file that needs no other.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_page(&self, path: &Path) -> Result<()> {
        let mut data = Data::new(self.head(), &self.notes, self.by);
        data.compares = true;
        for site in &self.sites {
            let stack = data.stack(&site.frames);
            let (before, after) = counts::both(site.before, site.after);
            data.sites.push(SiteData {
                stack,
                counts: numbers(&after),
                before: Some(numbers(&before)),
                mark: site.mark(),
            });
        }
        data.write(path)
    }
}

fn numbers(counts: &Counts) -> [Option<i64>; 5] {
    COLUMNS.map(|column| counts.get(column))
}

impl Data {
    fn new(head: String, notes: &[String], by: By) -> Self {
        let mut lines: Vec<String> = head.lines().map(str::to_owned).collect();
        let title = lines.first().cloned().unwrap_or_default();
        lines.extend(notes.iter().map(|note| format!("note: {note}")));
        Self {
            title,
            lines,
            measures: COLUMNS.map(By::name),
            by: COLUMNS.iter().position(|column| *column == by).unwrap_or(0),
            ..Self::default()
        }
    }

    /// The indices of frames.
    fn stack(&mut self, stack: &Stack) -> Vec<usize> {
        let frames = stack.frames().map(|frame| {
            let mut source = frame
                .source()
                .or_else(|| frame.object.as_deref().map(str::to_owned));
            let source = source.get_or_insert_default();
            if frame.inlined {
                source.push_str(" (inlined)");
            }
            (frame.name(), std::mem::take(source))
        });
        let indices = frames.map(|frame| {
            let next = self.frames.len();
            *self.numbers.entry(frame.clone()).or_insert_with(|| {
                self.frames.push(frame);
                next
            })
        });
        indices.collect()
    }

    fn write(&self, path: &Path) -> Result<()> {
        let failed = |source| Error::io(path, "write", source);
        let data = serde_json::to_string(self).map_err(|error| failed(error.into()))?;
        // In JSON, `<` stands in strings alone: escaped there, no name can end the script element.
        let data = data.replace('<', "\\u003c");
        let page = format!(
            include_str!("page.html"),
            style = include_str!("page.css"),
            data = data,
            script = include_str!("page.js")
        );
        fs::write(path, page).map_err(failed)
    }
}
