//! The program: arguments in, exit status out.

#![forbid(unsafe_code)]

mod cli;

use std::io::{self, Write};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use allocs_rewrite::Report;
use clap::Parser;
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::cli::Arguments;

/// A copy that takes longer than this gets a progress bar.
const NOTICEABLE: Duration = Duration::from_millis(300);

fn main() -> ExitCode {
    let arguments = Arguments::parse();
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
    let printed = match outcome {
        Ok(report) => print(&arguments, &report),
        Err(error) => {
            eprintln!("allocs-rewrite: {error}");
            return ExitCode::FAILURE;
        }
    };
    match printed {
        Ok(()) => ExitCode::SUCCESS,
        // The file is in place; who closed our output does not want to hear of it.
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("allocs-rewrite: cannot print the report: {error}");
            ExitCode::FAILURE
        }
    }
}

fn print(arguments: &Arguments, report: &Report) -> io::Result<()> {
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

/// A bar on stderr, if that is a terminal.
fn progress_bar() -> ProgressBar {
    let bar = ProgressBar::with_draw_target(None, ProgressDrawTarget::stderr_with_hz(5));
    let style = ProgressStyle::with_template("{bar:40} {bytes}/{total_bytes}, {eta} left");
    bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()));
    bar
}
