//! The program: arguments in, exit status out.

#![forbid(unsafe_code)]

mod cli;
mod signals;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use allocs_rewrite::{ErrorKind, Explanation, Options, Progress, Report};
use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::cli::{Command, Explain, Printing, Rewrite, Undo};
use crate::signals::Signals;

/// A copy that takes longer than this gets a progress bar.
const NOTICEABLE: Duration = Duration::from_millis(300);
/// The runtime would not be first.
const NOT_FIRST: u8 = 3;

fn main() -> ExitCode {
    match Command::parse() {
        Command::Rewrite(rewrite) => run_rewrite(&rewrite, allocs_rewrite::rewrite),
        Command::Refresh(refresh) => run_rewrite(&refresh, allocs_rewrite::refresh),
        Command::Undo(undo) => run_undo(&undo),
        Command::Explain(explain) => run_explain(&explain),
    }
}

/// What a rewrite or a refresh is.
type Rewriting = fn(&Options, &mut Progress<'_>) -> allocs_rewrite::Result<Report>;

fn run_rewrite(arguments: &Rewrite, rewrite: Rewriting) -> ExitCode {
    match with_progress(|progress| rewrite(&arguments.options(), progress)) {
        // Whatever comes of the printing: the file is in place.
        Ok(report) => ended(print_report(arguments, &report), ExitCode::SUCCESS),
        Err(error) => {
            let not_first = matches!(error.kind(), ErrorKind::NotFirst { .. });
            let status = failed(&error);
            if not_first {
                ExitCode::from(NOT_FIRST)
            } else {
                status
            }
        }
    }
}

fn run_undo(arguments: &Undo) -> ExitCode {
    let destination = arguments.destination();
    let undo = |progress: &mut Progress<'_>| {
        allocs_rewrite::undo(&arguments.program, &destination, progress)
    };
    match with_progress(undo) {
        Ok(undone) => {
            let text = undone.summary() + "\n";
            let printed = print(arguments.printing, &undone, &text, &undone.notes);
            ended(printed, ExitCode::SUCCESS)
        }
        Err(error) => failed(&error),
    }
}

/// Does something that tells how far it is, and can be ended by a signal; a bar shows how far if it takes
/// long.
fn with_progress<T>(action: impl FnOnce(&mut Progress<'_>) -> T) -> T {
    let signals = Signals::watch();
    let started = Instant::now();
    let mut bar = None;
    let outcome = action(&mut |done, total| {
        if started.elapsed() > NOTICEABLE {
            let bar = bar.get_or_insert_with(progress_bar);
            bar.set_length(total);
            bar.set_position(done);
        }
        signals.go_on()
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    signals.obey();
    outcome
}

fn run_explain(arguments: &Explain) -> ExitCode {
    match allocs_rewrite::explain(&arguments.program, &arguments.conditions()) {
        Ok(explanation) => {
            let status = match explanation.verdict.first {
                true => ExitCode::SUCCESS,
                false => ExitCode::from(NOT_FIRST),
            };
            ended(print_explanation(arguments, &explanation), status)
        }
        Err(error) => failed(&error),
    }
}

fn failed(error: &allocs_rewrite::Error) -> ExitCode {
    eprintln!("allocs-rewrite: {error}");
    ExitCode::FAILURE
}

/// The exit status after printing: `status`, unless that went wrong.
fn ended(printed: io::Result<()>, status: ExitCode) -> ExitCode {
    match printed {
        Ok(()) => status,
        // Who closed our output does not want to hear of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => status,
        Err(error) => {
            eprintln!("allocs-rewrite: cannot print the report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print_report(arguments: &Rewrite, report: &Report) -> io::Result<()> {
    for warning in &report.warnings {
        eprintln!(
            "allocs-rewrite: warning: {}: {warning}",
            report.output.display()
        );
    }
    let mut text = report.summary() + "\n";
    if arguments.verbose {
        text += &report.details();
    }
    print(arguments.printing, report, &text, &report.notes)
}

/// Prints what was done: as JSON, or as `text` and notes.
fn print(
    printing: Printing,
    report: &impl Serialize,
    text: &str,
    notes: &[String],
) -> io::Result<()> {
    let mut out = io::stdout().lock();
    if printing.json {
        serde_json::to_writer_pretty(&mut out, report)?;
        return writeln!(out);
    }
    if printing.quiet {
        return Ok(());
    }
    write!(out, "{text}")?;
    notes
        .iter()
        .try_for_each(|note| writeln!(out, "note: {note}"))
}

fn print_explanation(arguments: &Explain, explanation: &Explanation) -> io::Result<()> {
    if arguments.json {
        let mut out = io::BufWriter::new(io::stdout().lock());
        serde_json::to_writer_pretty(&mut out, explanation)?;
        writeln!(out)?;
        return out.flush();
    }
    let text = match arguments.tree {
        true => explanation.tree(),
        false => explanation.report(),
    };
    let out = io::stdout();
    match AutoStream::choice(&out) {
        ColorChoice::Never => {
            let plain = anstream::adapter::strip_str(&text).to_string();
            out.lock().write_all(plain.as_bytes())
        }
        _ => out.lock().write_all(text.as_bytes()),
    }
}

/// A bar on stderr, if that is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
