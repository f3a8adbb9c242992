//! The program: arguments in, exit status out.

#![forbid(unsafe_code)]

mod signals;

use std::io::{self, Write};
use std::path::Path;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use allocs_rewrite::{Census, Comparison, ErrorKind, Options, Progress};
use anstream::{AutoStream, ColorChoice};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use serde::Serialize;

use crate::signals::Signals;
use allocs_rewrite::cli::{Command, Explain, Object, Printing, Report, Rewrite, Tree, Undo};

/// What takes longer than this gets a progress bar.
const NOTICEABLE: Duration = Duration::from_millis(300);
/// The progress bars of what copies a program and what looks lines up.
const COPYING: &str = "{bar:40} {bytes}/{total_bytes}, {eta} left";
const LOOKING_UP: &str = "looking up source lines {bar:40} {pos}/{len} addresses";
/// The runtime would not be first.
const NOT_FIRST: u8 = 3;

fn main() -> ExitCode {
    match Command::parse() {
        Command::Rewrite(rewrite) => run_rewrite(&rewrite, allocs_rewrite::rewrite),
        Command::Refresh(refresh) => run_rewrite(&refresh, allocs_rewrite::refresh),
        Command::Undo(undo) => run_undo(&undo),
        Command::Explain(explain) => run_explain(&explain),
        Command::Object(object) => run_object(&object),
        Command::Report(report) => run_report(&report),
        Command::Tree(tree) => run_tree(&tree),
    }
}

/// What a rewrite or a refresh is.
type Rewriting = fn(&Options, &mut Progress<'_>) -> allocs_rewrite::Result<allocs_rewrite::Report>;

fn run_rewrite(arguments: &Rewrite, rewrite: Rewriting) -> ExitCode {
    match with_progress(|progress| rewrite(&arguments.options(), progress)) {
        // Whatever comes of the printing: the file is in place.
        Ok(report) => ended(print_rewrite(arguments, &report), ExitCode::SUCCESS),
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

fn run_object(arguments: &Object) -> ExitCode {
    match with_progress(|_| allocs_rewrite::write_object(&arguments.options())) {
        Ok(object) => {
            let text = object.summary() + "\n";
            ended(
                print(arguments.printing, &object, &text, &[]),
                ExitCode::SUCCESS,
            )
        }
        Err(error) => failed(&error),
    }
}

fn run_tree(arguments: &Tree) -> ExitCode {
    match with_progress(|progress| allocs_rewrite::tree(&arguments.options(), progress)) {
        Ok(report) => {
            let mut messages: Vec<String> =
                report.failures.iter().map(ToString::to_string).collect();
            messages.dedup(); // many programs, and one runtime
            for message in messages {
                eprintln!("allocs-rewrite: {message}");
            }
            let mut text = report.summary() + "\n";
            if arguments.verbose {
                text += &report.details();
            }
            let status = ExitCode::from(u8::from(!report.failures.is_empty()));
            ended(print(arguments.printing, &report, &text, &[]), status)
        }
        Err(error) => failed(&error),
    }
}

/// Makes or changes a file, which tells how far it is, shows as a bar if it takes long, and can be ended by a
/// signal.
fn with_progress<T>(action: impl FnOnce(&mut Progress<'_>) -> T) -> T {
    let signals = Signals::watch();
    let outcome = with_bar(COPYING, |bar| {
        action(&mut |done, total| {
            bar(done, total);
            signals.go_on()
        })
    });
    signals.obey();
    outcome
}

/// Does something that tells how far it is; a bar like `template` shows that if it takes long.
fn with_bar<T>(template: &str, action: impl FnOnce(&mut dyn FnMut(u64, u64)) -> T) -> T {
    let started = Instant::now();
    let mut bar = None;
    let outcome = action(&mut |done, total| {
        if started.elapsed() > NOTICEABLE {
            let bar = bar.get_or_insert_with(|| progress_bar(template));
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
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

fn run_report(arguments: &Report) -> ExitCode {
    let reading = arguments.reading();
    let shown = match arguments.compared() {
        Some([before, after]) => {
            let all = with_bar(LOOKING_UP, |progress| {
                allocs_rewrite::compare(before, after, &reading, progress)
            });
            show_sites(arguments, all, Comparison::write_page, Comparison::report)
        }
        None => {
            let all = with_bar(LOOKING_UP, |progress| {
                allocs_rewrite::census(&arguments.reports, &reading, progress)
            });
            show_sites(arguments, all, Census::write_page, Census::report)
        }
    };
    match shown {
        Ok(printed) => ended(printed, ExitCode::SUCCESS),
        Err(error) => failed(&error),
    }
}

/// Shows sites in the form that was asked for.
fn show_sites<T: Serialize>(
    arguments: &Report,
    all: allocs_rewrite::Result<T>,
    write_page: fn(&T, &Path) -> allocs_rewrite::Result<()>,
    text: fn(&T, usize) -> String,
) -> allocs_rewrite::Result<io::Result<()>> {
    let all = all?;
    Ok(match &arguments.html {
        Some(path) => Ok(write_page(&all, path)?),
        None if arguments.json => print_json(&all),
        None => print_coloured(&text(&all, arguments.top)),
    })
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

fn print_rewrite(arguments: &Rewrite, report: &allocs_rewrite::Report) -> io::Result<()> {
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

fn print_explanation(
    arguments: &Explain,
    explanation: &allocs_rewrite::Explanation,
) -> io::Result<()> {
    if arguments.json {
        return print_json(explanation);
    }
    print_coloured(&match arguments.tree {
        true => explanation.tree(),
        false => explanation.report(),
    })
}

fn print_json(all: &impl Serialize) -> io::Result<()> {
    let mut out = io::BufWriter::new(io::stdout().lock());
    serde_json::to_writer_pretty(&mut out, all)?;
    writeln!(out)?;
    out.flush()
}

/// Prints text that contains ANSI colour sequences: without them, where they would not be shown.
fn print_coloured(text: &str) -> io::Result<()> {
    let out = io::stdout();
    match AutoStream::choice(&out) {
        ColorChoice::Never => {
            let plain = anstream::adapter::strip_str(text).to_string();
            out.lock().write_all(plain.as_bytes())
        }
        _ => out.lock().write_all(text.as_bytes()),
    }
}

/// A bar on stderr, if that is a terminal.
fn progress_bar(template: &str) -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template(template);
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
