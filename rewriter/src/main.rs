//! The program: arguments in, exit status out.

#![forbid(unsafe_code)]

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use allocs_rewrite::{ErrorKind, Explanation, Report};
use anstream::{AutoStream, ColorChoice};
use clap::{CommandFactory, Parser};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::{Arguments, Command, Explain, Rewrite};

/// A copy that takes longer than this gets a progress bar.
const NOTICEABLE: Duration = Duration::from_millis(300);
/// The runtime would not be first.
const NOT_FIRST: u8 = 3;

fn main() -> ExitCode {
    match Arguments::parse().into_command() {
        Some(Command::Rewrite(rewrite)) => run_rewrite(&rewrite),
        Some(Command::Explain(explain)) => run_explain(&explain),
        None => {
            eprintln!("{}", Arguments::command().render_usage());
            ExitCode::from(2)
        }
    }
}

fn run_rewrite(arguments: &Rewrite) -> ExitCode {
    let started = Instant::now();
    let mut bar = None;
    let outcome = allocs_rewrite::rewrite(&arguments.options(), &mut |done, total| {
        if started.elapsed() > NOTICEABLE {
            let bar = bar.get_or_insert_with(progress_bar);
            bar.set_length(total);
            bar.set_position(done);
        }
    });
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    match outcome {
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
    let mut out = io::stdout().lock();
    if arguments.json {
        serde_json::to_writer_pretty(&mut out, report)?;
        return writeln!(out);
    }
    if arguments.quiet {
        return Ok(());
    }
    writeln!(out, "{}", report.summary())?;
    if arguments.verbose {
        write!(out, "{}", report.details())?;
    }
    for note in &report.notes {
        writeln!(out, "note: {note}")?;
    }
    Ok(())
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
