//! A word that was to be a command is taken for PROG. Where no such file is there, that is said, and which
//! command may have been meant. A command behind PROG is put in its place.

use std::ffi::{OsStr, OsString};
use std::iter;
use std::path::{Path, PathBuf};

use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Error, Subcommand};

use super::Command;

/// What to say of a PROG that is not there and looks like a command.
pub(crate) fn close_to_a_command(program: &Path) -> Option<String> {
    let name = program.display();
    let command = meant(program)?;
    Some(format!(
        "{name}: no such file; did you mean the command `{command}`?"
    ))
}

/// What to say of a line of these `words` that clap does not take, if no command is where one has to be.
pub(crate) fn no_command(error: &Error, words: &[OsString]) -> Option<String> {
    unknown_command(error, words.first()?).or_else(|| late_command(error, words))
}

/// The same if the `first` word is neither a command nor a file.
fn unknown_command(error: &Error, first: &OsString) -> Option<String> {
    let of_usage = [
        ErrorKind::ArgumentConflict, // a second word, taken for a command behind PROG
        ErrorKind::UnknownArgument,
        ErrorKind::MissingRequiredArgument,
    ];
    let first = PathBuf::from(first);
    let is_option = first.as_os_str().as_encoded_bytes().starts_with(b"-");
    if !of_usage.contains(&error.kind()) || is_option || !is_word(&first) || is_command(&first) {
        return None;
    }
    close_to_a_command(&first).or_else(|| {
        let definition = definition();
        let commands: Vec<&str> = (definition.get_subcommands())
            .map(clap::Command::get_name)
            .collect();
        Some(format!(
            "{}: no such file, and none of the commands {}; see --help",
            first.display(),
            commands.join(", ")
        ))
    })
}

/// The same if a command is behind something else: PROG, or options.
fn late_command(error: &Error, words: &[OsString]) -> Option<String> {
    let Some(ContextValue::String(second)) = error.get(ContextKind::InvalidSubcommand) else {
        return None;
    };
    if error.kind() != ErrorKind::ArgumentConflict {
        return None;
    }
    let command = match is_command(Path::new(second)) {
        true => second.clone(),
        false => behind_options(words)?,
    };
    let place = words.iter().position(|word| *word == *command)?;
    let (before, behind) = (words.get(..place)?, words.get(place + 1..)?);
    let line = before.iter().chain(behind).map(|word| word.display());
    let line: String = line.map(|word| format!(" {word}")).collect();
    Some(format!(
        "the command comes first: allocs-rewrite {command}{line}"
    ))
}

/// The command that stands behind options, if these `words` would do otherwise.
fn behind_options(words: &[OsString]) -> Option<String> {
    let line = iter::once(OsStr::new("allocs-rewrite")).chain(words.iter().map(AsRef::as_ref));
    let lenient = Command::definition().args_conflicts_with_subcommands(false);
    let matches = lenient.try_get_matches_from(line).ok()?;
    matches.subcommand_name().map(str::to_owned)
}

/// The command that clap takes a word for that is none.
fn meant(word: &Path) -> Option<String> {
    if !is_word(word) {
        return None;
    }
    let line = [Path::new("allocs-rewrite"), word];
    let error = definition().try_get_matches_from(line).err()?;
    match error.get(ContextKind::SuggestedSubcommand)? {
        ContextValue::Strings(commands) => commands.first().cloned(),
        _ => None,
    }
}

/// Neither a path nor a file that is there.
fn is_word(path: &Path) -> bool {
    path.file_name() == Some(path.as_os_str()) && path.symlink_metadata().is_err()
}

fn is_command(word: &Path) -> bool {
    let names = definition();
    let mut names = names.get_subcommands().map(clap::Command::get_name);
    names.any(|name| Path::new(name) == word)
}

/// The commands alone, one of which has to be there: only then does clap say which is like a word.
fn definition() -> clap::Command {
    Command::augment_subcommands(clap::Command::new("allocs-rewrite"))
        .subcommand_required(true)
        .disable_help_subcommand(true)
}
