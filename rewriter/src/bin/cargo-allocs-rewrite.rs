//! `cargo allocs-rewrite build|run|test|bench`: cargo builds, and what it has built is rewritten beside it, as
//! `NAME.allocs`; that is what is run.
//!
//! Programs are run through cargo's own setting for that, `target.*.runner`, which has them started by this program.
//! Cargo's files are not touched, and no build script is rewritten.

#![forbid(unsafe_code)]

use std::ffi::OsString;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::SystemTime;
use std::{env, io};

use allocs_rewrite::{Destination, Options, SONAME};
use cargo_metadata::Message;
use clap::{Args, Parser, Subcommand};

/// Build with cargo, and make what it has built start an allocation runtime first
///
/// What is rewritten is beside what was built, as NAME.allocs, and is made again when that, this tool or the
/// runtime's name has changed.
#[derive(Debug, Parser)]
#[command(
    name = "cargo allocs-rewrite",
    bin_name = "cargo allocs-rewrite",
    version
)]
struct Arguments {
    /// A runtime of your own: a soname, an absolute path, or $ORIGIN/...; see allocs-rewrite --help
    #[arg(long, value_name = "NAME|PATH")]
    runtime: Option<String>,

    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Build, and rewrite the executables: programs, examples, and tests if they are built
    Build(Rest),
    /// Build and run a program or an example
    Run(Rest),
    /// Build and run tests, those in documentation too
    Test(Rest),
    /// Build and run benchmarks
    Bench(Rest),
    /// What cargo calls to run a program.
    #[command(hide = true)]
    Start {
        program: PathBuf,
        #[command(flatten)]
        rest: Rest,
    },
}

/// Arguments of cargo, or of the program.
#[derive(Debug, Args)]
#[command(disable_help_flag = true)]
struct Rest {
    #[arg(
        value_name = "ARGUMENTS",
        trailing_var_arg = true,
        allow_hyphen_values = true
    )]
    arguments: Vec<OsString>,
}

fn main() -> ExitCode {
    // Cargo gives the subcommand's name first; as a runner, this is called without.
    let own_name =
        |(index, argument): &(usize, OsString)| *index == 1 && argument == "allocs-rewrite";
    let typed = env::args_os().enumerate();
    let typed = typed.filter(|argument| !own_name(argument));
    let arguments = Arguments::parse_from(typed.map(|(_, argument)| argument));
    let runtime = arguments.runtime.as_deref();
    let done = match &arguments.verb {
        Verb::Build(rest) => build(runtime, rest),
        Verb::Run(rest) => run("run", runtime, rest),
        Verb::Test(rest) => run("test", runtime, rest),
        Verb::Bench(rest) => run("bench", runtime, rest),
        Verb::Start { program, rest } => start(runtime, program, rest),
    };
    done.unwrap_or_else(|error| {
        eprintln!("cargo allocs-rewrite: {error}");
        ExitCode::FAILURE
    })
}

type Result<T> = std::result::Result<T, Box<dyn std::error::Error>>;

/// Builds, and rewrites what was built or is there already.
fn build(runtime: Option<&str>, rest: &Rest) -> Result<ExitCode> {
    let mut cargo = cargo()
        .args(["build", "--message-format=json-render-diagnostics"])
        .args(&rest.arguments)
        .stdout(Stdio::piped())
        .spawn()?;
    let messages = cargo.stdout.take().map(io::BufReader::new);
    let mut executables = Vec::new();
    for message in messages.into_iter().flat_map(Message::parse_stream) {
        match message? {
            Message::CompilerArtifact(artifact) if !artifact.target.is_custom_build() => {
                executables.extend(artifact.executable);
            }
            Message::TextLine(line) => println!("{line}"),
            _ => {}
        }
    }
    let status = cargo.wait()?;
    if !status.success() {
        return Ok(exit_code(status.code()));
    }
    for executable in executables {
        if let Some(summary) = rewrite(runtime, executable.as_std_path())? {
            eprintln!("{summary}");
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Has cargo run what it builds through this program.
fn run(verb: &str, runtime: Option<&str>, rest: &Rest) -> Result<ExitCode> {
    let this = env::current_exe()?;
    let mut runner = vec![this.to_str().ok_or("my own path is not UTF-8")?];
    runner.extend(runtime.iter().flat_map(|runtime| ["--runtime", runtime]));
    runner.push("start");
    // A list of strings is the same in JSON and in TOML.
    let runner = serde_json::to_string(&runner)?;
    let mut cargo = cargo();
    cargo.arg(verb);
    // A runner that is set for the very target goes before one for all.
    for target in ["'cfg(all())'".to_owned(), host()?] {
        cargo.args(["--config", &format!("target.{target}.runner={runner}")]);
    }
    Err(cargo.args(&rest.arguments).exec().into())
}

/// Becomes the rewritten `program`.
fn start(runtime: Option<&str>, program: &Path, rest: &Rest) -> Result<ExitCode> {
    rewrite(runtime, program)?;
    Err(Command::new(rewritten(program))
        .args(&rest.arguments)
        .exec()
        .into())
}

/// Rewrites `program`, unless that is done already, and says what was done.
fn rewrite(runtime: Option<&str>, program: &Path) -> Result<Option<String>> {
    let output = rewritten(program);
    if is_current(runtime, program, &output) {
        return Ok(None);
    }
    let options = Options {
        runtime: runtime.map(str::to_owned),
        force: true, // in a build directory, an older runtime is of no use to anybody
        ..Options::new(program, Destination::File(output))
    };
    let report =
        allocs_rewrite::rewrite(&options, &mut |_, _| std::ops::ControlFlow::Continue(()))?;
    Ok(Some(report.summary()))
}

/// Where the rewritten program is: beside the program, for what it finds relative to itself.
fn rewritten(program: &Path) -> PathBuf {
    let mut name = program.as_os_str().to_owned();
    name.push(".allocs");
    name.into()
}

/// Whether `output` is newer than the program and this tool, and starts the runtime that is asked for.
fn is_current(runtime: Option<&str>, program: &Path, output: &Path) -> bool {
    let written = |path: &Path| -> Option<SystemTime> { path.metadata().ok()?.modified().ok() };
    let inputs = [Some(program.to_owned()), env::current_exe().ok()];
    let newer = inputs.into_iter().all(|input| {
        let input = input.and_then(|input| written(&input));
        input.is_some_and(|input| written(output).is_some_and(|output| output > input))
    });
    let own = format!("$ORIGIN/{SONAME}");
    let needed = runtime.unwrap_or(&own);
    newer
        && allocs_rewrite::runtime_of(output).is_ok_and(|found| found.as_deref() == Some(needed))
        && (runtime.is_some() || output.with_file_name(SONAME).exists())
}

fn cargo() -> Command {
    Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()))
}

/// This machine's target triple, as rustc has it.
fn host() -> Result<String> {
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let output = Command::new(rustc).arg("-vV").output()?;
    let text = String::from_utf8(output.stdout)?;
    let host = text.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host.ok_or("rustc -vV names no host")?.to_owned())
}

fn exit_code(code: Option<i32>) -> ExitCode {
    let code = code.and_then(|code| u8::try_from(code).ok());
    code.map_or(ExitCode::FAILURE, ExitCode::from)
}
