//! Makes the man pages and the completions for shells, of the definition of the command line, and JSON Schemas:
//!
//! ```sh
//! cargo run -p allocs-rewrite --example share -- DIR
//! ```
//!
//! DIR is what a package installs below `PREFIX/share`: `man/man1`, what bash, zsh and fish look for, and
//! `allocs-rewrite/schema`.

#![forbid(unsafe_code)]

use std::fs;
use std::io;
use std::path::Path;

use allocs_rewrite::cli;
use clap::Command;
use clap_complete::Shell;
use clap_mangen::Man;
use roff::{Inline, Roff, bold, roman};

const NAME: &str = "allocs-rewrite";
/// Of the last change to what the pages say.
const DATE: &str = "2026-11-25";
/// Where each shell looks for what vendors install; Debian has zsh's in vendor-completions.
const COMPLETIONS: [(Shell, &str); 3] = [
    (Shell::Bash, "bash-completion/completions/allocs-rewrite"),
    (Shell::Zsh, "zsh/site-functions/_allocs-rewrite"),
    (Shell::Fish, "fish/vendor_completions.d/allocs-rewrite.fish"),
];

const OTHER_SCRIPT: &str = "clap_complete's script is another than it was";

/// Variables of the runtime, which programs that are rewritten look at.
const RUNTIME: [(&str, &str); 4] = [
    (
        "ALLOCS_REPORT",
        "The file that a rewritten program writes its report to when it ends: JSON if its name ends in .json, a pprof profile if it ends in .pb or .pb.gz, otherwise text. - is standard error; %p stands for the process, %e for the program's name.",
    ),
    (
        "ALLOCS_SIGNAL",
        "A signal at which a running program writes a report, too.",
    ),
    (
        "ALLOCS_STACK",
        "How many return addresses make a site, 1 to 64.",
    ),
    (
        "ALLOCS_FACADES",
        "Names and patterns of functions that only hand memory on, and are no sites.",
    ),
];
/// Variables of this program.
const COLOURS: [(&str, &str); 2] = [
    ("NO_COLOR", "If it is set, nothing is printed in colours."),
    (
        "CLICOLOR_FORCE",
        "If it is set, colours are printed where there is no terminal, too.",
    ),
];

fn main() -> io::Result<()> {
    let Some(directory) = std::env::args_os().nth(1) else {
        return Err(io::Error::other("usage: share DIR"));
    };
    let share = Path::new(&directory);
    let mut command = cli::Command::definition();
    for (shell, file) in COMPLETIONS {
        let mut script = Vec::new();
        clap_complete::generate(shell, &mut command, NAME, &mut script);
        let script = String::from_utf8_lossy(&script);
        let script = match shell {
            // clap_complete 4.6 takes the hyphen for the beginning of a command in one of two places.
            Shell::Bash => script.replace("allocs__subcmd__rewrite", "allocs__rewrite"),
            Shell::Zsh => first_word_is_either(&script)?,
            _ => program_is_no_command(&script, &command)?,
        };
        write(&share.join(file), script.as_bytes())?;
    }
    command.build();
    write(
        &share.join("man/man1/allocs-rewrite.1"),
        &page(&command, &command)?,
    )?;
    for sub in command.get_subcommands() {
        let file = format!("man/man1/{}.1", title(sub));
        write(&share.join(file), &page(sub, &command)?)?;
    }
    for (name, schema) in allocs_rewrite::schemas() {
        let file = format!("allocs-rewrite/schema/{name}.schema.json");
        write(&share.join(file), format!("{schema:#}\n").as_bytes())?;
    }
    Ok(())
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    fs::create_dir_all(path.parent().unwrap_or(path))?;
    fs::write(path, bytes)
}

/// clap_complete takes it that a command comes after PROG, not in its place. What follows PROG are the
/// options that precede it.
fn first_word_is_either(script: &str) -> io::Result<String> {
    const PROGRAM: &str = "':program -- The dynamically linked executable:_files' \\\n";
    const COMMANDS: &str = "\":: :_allocs-rewrite_commands\" \\\n";
    const END: &str = "        esac\n    ;;\nesac\n}\n";
    let change = || {
        let (head, rest) = script.split_once(&[PROGRAM, COMMANDS].concat())?;
        let (cases, rest) = rest.split_once(END)?;
        let options = head
            .split_once("_arguments \"${_arguments_options[@]}\" : \\\n")?
            .1;
        let cases = cases.replace("$line[2]", "$line[1]");
        Some(format!(
            "{head}\": :{{ _allocs-rewrite_commands; _files }}\" \\\n{cases}(*)\n\
             _arguments \"${{_arguments_options[@]}}\" : \\\n{options}{PROGRAM}&& ret=0\n;;\n{END}{rest}"
        ))
    };
    change().ok_or_else(|| io::Error::other(OTHER_SCRIPT))
}

/// clap_complete takes the first word for a command in fish, whatever it is.
fn program_is_no_command(script: &str, command: &Command) -> io::Result<String> {
    const FIRST: &str = "    if set -q argv[1]\n        # Also print the command";
    let names: Vec<&str> = command.get_subcommands().map(Command::get_name).collect();
    let known = format!("if contains -- \"$argv[1]\" {}", names.join(" "));
    match script.matches(FIRST).count() {
        1 => Ok(script.replace(FIRST, &FIRST.replace("if set -q argv[1]", &known))),
        _ => Err(io::Error::other(OTHER_SCRIPT)),
    }
}

/// A page's name: the words of the command joined, as git has it.
fn title(command: &Command) -> String {
    let name = command.get_bin_name().unwrap_or(command.get_name());
    name.replace(' ', "-")
}

/// The man page of a command, in the order of man-pages(7).
fn page(command: &Command, program: &Command) -> io::Result<Vec<u8>> {
    let version = program.get_version().unwrap_or_default();
    let about = command.get_about().map(ToString::to_string);
    let about = about.unwrap_or_default().trim_end_matches('.').to_owned();
    let man = Man::new(command.clone().display_name(title(command)).about(about))
        .date(DATE)
        .title(title(command).to_uppercase())
        .source(format!("{NAME} {version}"))
        .manual("User Commands");
    let mut page = Vec::new();
    man.render_title(&mut page)?;
    man.render_name_section(&mut page)?;
    man.render_synopsis_section(&mut page)?;
    man.render_description_section(&mut page)?;
    man.render_options_section(&mut page)?;
    let is_program = command.has_subcommands();
    if is_program {
        let mut roff = Roff::new();
        roff.control("SH", ["COMMANDS"]);
        for sub in command.get_subcommands() {
            roff.control("TP", []);
            roff.text([bold(format!("{NAME} {}", sub.get_name()))]);
            let about = sub.get_about().map(ToString::to_string);
            roff.text([
                roman(format!("{}. See ", about.unwrap_or_default())),
                bold(title(sub)),
                roman("(1)."),
            ]);
        }
        roff.to_writer(&mut page)?;
    }
    let mut roff = Roff::new();
    let after = command.get_after_help().map(ToString::to_string);
    let after = after.unwrap_or_default();
    exit_status(&mut roff, &after)?;
    environment(&mut roff, command);
    examples(&mut roff, &after);
    see_also(&mut roff, command, program);
    roff.to_writer(&mut page)?;
    // A break on either side of an empty line is one too many.
    let text = String::from_utf8_lossy(&page).replace("\n.br\n\n.br\n", "\n.sp\n");
    Ok(text.into_bytes())
}

/// `Exit status: 0 this, 1 that` of the help as a list.
fn exit_status(roff: &mut Roff, after: &str) -> io::Result<()> {
    let line = after
        .lines()
        .find_map(|line| line.strip_prefix("Exit status: "));
    let line = line.ok_or_else(|| io::Error::other("the help says nothing of the exit status"))?;
    let line = line.trim_end_matches('.');
    let mut entries: Vec<(&str, &str)> = Vec::new();
    for part in line.split(", ") {
        match part.split_once(' ') {
            Some((status, meaning)) if status.parse::<u8>().is_ok() => {
                entries.push((status, meaning))
            }
            _ => return Err(io::Error::other(format!("not an exit status: {part}"))),
        }
    }
    entries.sort_unstable();
    roff.control("SH", ["EXIT STATUS"]);
    for (status, meaning) in entries {
        list_entry(roff, status, meaning);
    }
    Ok(())
}

fn environment(roff: &mut Roff, command: &Command) {
    let runtime = if command.has_subcommands() {
        &RUNTIME[..]
    } else {
        &[]
    };
    let colours = match command.get_name() {
        "explain" | "report" => &COLOURS[..],
        _ => &[],
    };
    if runtime.is_empty() && colours.is_empty() {
        return;
    }
    roff.control("SH", ["ENVIRONMENT"]);
    for (name, meaning) in runtime.iter().chain(colours) {
        list_entry(roff, name, meaning);
    }
}

fn list_entry(roff: &mut Roff, term: &str, meaning: &str) {
    roff.control("TP", []);
    roff.text([bold(term)]);
    roff.text([roman(meaning)]);
}

/// `Example: COMMAND` of the help.
fn examples(roff: &mut Roff, after: &str) {
    let mut lines = after
        .lines()
        .filter_map(|line| line.strip_prefix("Example: "))
        .peekable();
    if lines.peek().is_none() {
        return;
    }
    roff.control("SH", ["EXAMPLES"]);
    for line in lines {
        roff.control("EX", []);
        roff.text([roman(line)]);
        roff.control("EE", []);
    }
}

fn see_also(roff: &mut Roff, command: &Command, program: &Command) {
    let others = [program].into_iter().chain(program.get_subcommands());
    let others = others.filter(|other| title(other) != title(command));
    let mut pages: Vec<(String, &str)> = others.map(|other| (title(other), "1")).collect();
    pages.sort();
    pages.push(("ld.so".to_owned(), "8"));
    roff.control("SH", ["SEE ALSO"]);
    let mut text: Vec<Inline> = Vec::new();
    for (name, section) in pages {
        if !text.is_empty() {
            text.push(roman(", "));
        }
        text.push(bold(name));
        text.push(roman(format!("({section})")));
    }
    roff.text(text);
}
