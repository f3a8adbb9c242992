//! Sites as a table: aligned, and with colours where a terminal shows them.

use anstyle::{AnsiColor, Style};

use super::{By, Census, Change, Comparison, Counts, Frame, Process, Stack, Totals};

const HEADING: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const MORE: Style = AnsiColor::Red.on_default();
const LESS: Style = AnsiColor::Green.on_default();
const UNKNOWN: &str = "unknown";

/// The table's columns of numbers.
pub(crate) const COLUMNS: [By; 5] = [By::Live, By::Chunks, By::Bytes, By::Calls, By::Peak];

/// A line of the table.
struct Row<'a> {
    frames: &'a Stack,
    cells: [String; 5],
    /// What is remarkable about the site, and in which colour.
    mark: &'static str,
    style: Style,
}

impl Census {
    /// Totals, and the first `top` sites, for a terminal: contains ANSI colour sequences.
    pub fn report(&self, top: usize) -> String {
        let heading = format!("Sites by {}", self.by.name());
        let rows = self.sites.iter().take(top).map(|site| Row {
            frames: &site.frames,
            cells: cells(&site.counts, plain),
            mark: "",
            style: Style::new(),
        });
        let table = table(&heading, rows.collect(), self.sites.len());
        self.head() + &table + &notes(&self.notes)
    }

    /// Which processes these are, and the totals.
    pub(crate) fn head(&self) -> String {
        let mut lines: Vec<String> = self.processes.iter().map(described).collect();
        if self.processes.len() > 1 {
            lines.push(format!("{} processes together", self.processes.len()));
        }
        lines.push(totals(&self.totals, plain));
        lines.join("\n") + "\n"
    }
}

impl Comparison {
    /// What changed in total, and the first `top` sites, for a terminal: contains ANSI colour
    /// sequences.
    pub fn report(&self, top: usize) -> String {
        let heading = format!("Sites by change of {}", self.by.name());
        let rows = self.sites.iter().take(top).map(|site| Row {
            frames: &site.frames,
            cells: cells(&site.change, signed),
            mark: site.mark(),
            style: match site.change.get(self.by).unwrap_or(0) {
                0 => Style::new(),
                1.. => MORE,
                _ => LESS,
            },
        });
        let table = table(&heading, rows.collect(), self.sites.len());
        self.head() + &table + &notes(&self.notes)
    }

    /// Which processes these are, and what changed in total.
    pub(crate) fn head(&self) -> String {
        format!(
            "from {}\n  {}\nto {}\n  {}\nchange\n  {}\n",
            described(&self.before),
            totals(&self.before.totals, plain),
            described(&self.after),
            totals(&self.after.totals, plain),
            totals(&self.change, signed)
        )
    }
}

impl Change {
    /// Whether the site is in one report alone.
    pub(crate) fn mark(&self) -> &'static str {
        match (self.before, self.after) {
            (None, _) => "new",
            (_, None) => "gone",
            _ => "",
        }
    }
}

/// "/usr/bin/cat, process 12 (cat.json)", as far as it is known.
fn described(process: &Process) -> String {
    let mut parts = Vec::new();
    parts.extend(process.program.clone());
    parts.extend(process.pid.map(|pid| format!("process {pid}")));
    match parts.is_empty() {
        true => process.report.clone(),
        false => format!("{} ({})", parts.join(", "), process.report),
    }
}

fn totals(totals: &Totals, number: fn(i64) -> String) -> String {
    let number = |value: Option<i64>| value.map_or_else(|| UNKNOWN.to_owned(), number);
    format!(
        "live: {} chunks, {} bytes; peak: {} bytes",
        number(totals.live_chunks),
        number(totals.live_bytes),
        number(totals.peak_bytes)
    )
}

fn cells(counts: &Counts, number: fn(i64) -> String) -> [String; 5] {
    COLUMNS.map(|column| counts.get(column).map_or_else(|| "-".to_owned(), number))
}

/// The rows under a heading, and how many of `all` are missing.
fn table(heading: &str, rows: Vec<Row<'_>>, all: usize) -> String {
    if all == 0 {
        return String::new();
    }
    let mut widths = COLUMNS.map(|column| column.name().len());
    for row in &rows {
        for (width, cell) in widths.iter_mut().zip(&row.cells) {
            *width = cell.len().max(*width);
        }
    }
    let marks = rows.iter().map(|row| row.mark.len()).max();
    let gap = marks
        .filter(|width| *width > 0)
        .map_or(0, |width| width + 2);
    let aligned = |cells: [&str; 5]| -> String {
        let cells = cells.iter().zip(widths);
        let cells = cells.map(|(cell, width)| format!("{cell:>width$}  "));
        cells.collect()
    };
    let names = aligned(COLUMNS.map(By::name));
    let indent = names.len() + gap;
    let mut out = format!(
        "\n{HEADING}{heading}{HEADING:#}\n{DIM}{names}{:gap$}site{DIM:#}\n",
        ""
    );
    for row in &rows {
        let cells = aligned(row.cells.each_ref().map(String::as_str));
        let (mark, style) = (row.mark, row.style);
        let mut frames = row.frames.frames();
        let first = frames.next().map_or_else(|| UNKNOWN.to_owned(), called);
        out += &format!("{style}{cells}{mark:<gap$}{style:#}{first}\n");
        for frame in frames {
            out += &format!("{:indent$}  {}\n", "", called(frame));
        }
    }
    out += &match all - rows.len() {
        0 => String::new(),
        1 => format!("and 1 more site (--top {all})\n"),
        more => format!("and {more} more sites (--top {all})\n"),
    };
    out
}

fn notes(notes: &[String]) -> String {
    let lines = notes.iter().map(|note| format!("note: {note}\n"));
    let gap = if notes.is_empty() { "" } else { "\n" };
    gap.to_owned() + &lines.collect::<String>()
}

/// "grow  tree.c:12", or what is known instead.
fn called(frame: &Frame) -> String {
    let name = frame.name();
    let inlined = if frame.inlined { " (inlined)" } else { "" };
    match frame.source() {
        Some(source) => format!("{name}  {DIM}{source}{inlined}{DIM:#}"),
        None if frame.function.is_some() => {
            let object = frame.object.as_deref().unwrap_or_default();
            format!("{name}  {DIM}{object}{DIM:#}")
        }
        None => name,
    }
}

impl Frame {
    /// The function, or the address in the object.
    pub(crate) fn name(&self) -> String {
        if let Some(function) = &self.function {
            return function.clone();
        }
        match (&self.object, self.address, self.offset) {
            (Some(object), Some(address), _) => format!("{object}+{address:#x}"),
            (Some(object), None, Some(offset)) => format!("{object}, file offset {offset:#x}"),
            (_, Some(address), _) => format!("{address:#x}"),
            _ => UNKNOWN.to_owned(),
        }
    }

    /// File and line, as far as they are known.
    pub(crate) fn source(&self) -> Option<String> {
        match (self.file.as_ref()?, self.line) {
            (file, Some(line)) => Some(format!("{file}:{line}")),
            (file, None) => Some(file.clone()),
        }
    }
}

/// 1234567 as "1,234,567".
fn plain(number: i64) -> String {
    let digits = number.unsigned_abs().to_string();
    let mut grouped = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    match number {
        0.. => grouped,
        _ => format!("-{grouped}"),
    }
}

/// The same with its sign.
fn signed(number: i64) -> String {
    match number {
        1.. => format!("+{}", plain(number)),
        _ => plain(number),
    }
}

#[cfg(test)]
mod tests {
    use super::{plain, signed};

    #[test]
    fn digits_in_groups() {
        assert_eq!(plain(0), "0");
        assert_eq!(plain(999), "999");
        assert_eq!(plain(1000), "1,000");
        assert_eq!(plain(i64::MAX), "9,223,372,036,854,775,807");
        assert_eq!(signed(-1_234_567), "-1,234,567");
        assert_eq!(signed(12), "+12");
    }
}
