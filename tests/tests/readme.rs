//! The terminal sessions in the README and in docs/ say what a terminal says.
//!
//! A block marked `console` holds commands behind `$ ` and what each prints. They are run in order,
//! in a directory that has `samples/`, where the project is installed, and printed text is compared word by word, apart from the
//! digits: process numbers and counts differ from run to run.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use allocs_tests::prefix::Prefix;
use allocs_tests::sample::rustc;
use allocs_tests::{Dir, needs, trial};
use libtest_mimic::Trial;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
/// Where the sessions were, as the documents have it.
const PLACE: &str = "/home/you/demo";

pub(crate) fn trials() -> Vec<Trial> {
    let replay = |path: PathBuf| {
        let name = path.file_name().unwrap_or_default().to_owned();
        trial(format!("readme::{}", name.display()), move || replay(&path))
    };
    documents().into_iter().map(replay).collect()
}

/// All documents with a session in them; the README among them.
fn documents() -> Vec<PathBuf> {
    let docs = fs::read_dir(format!("{ROOT}/docs")).expect("docs/");
    let mut all: Vec<PathBuf> = docs.map(|entry| entry.expect("a file").path()).collect();
    all.retain(|path| !sessions(path).is_empty());
    let readme = PathBuf::from(format!("{ROOT}/README.md"));
    assert!(!sessions(&readme).is_empty(), "the README has no session");
    all.push(readme);
    all
}

/// A command and what it prints.
#[derive(Debug)]
struct Step {
    command: String,
    prints: String,
}

fn sessions(path: &Path) -> Vec<Step> {
    let text = fs::read_to_string(path).expect("a document");
    let mut steps: Vec<Step> = Vec::new();
    let mut inside = false;
    for line in text.lines() {
        match (line, line.strip_prefix("$ ")) {
            ("```console", _) => inside = true,
            ("```", _) => inside = false,
            (_, Some(command)) if inside => steps.push(Step {
                command: command.to_owned(),
                prints: String::new(),
            }),
            _ if inside => {
                let step = steps.last_mut().expect("a command comes first");
                step.prints += line;
                step.prints.push('\n');
            }
            _ => {}
        }
    }
    steps
}

fn replay(document: &Path) {
    let dir = Dir::new("readme");
    // Samples, and for those that depend on a crate of the project's, its workspace.
    for name in ["samples", "Cargo.toml", "rewriter", "runtime", "tests"] {
        symlink(format!("{ROOT}/{name}"), dir.join(name)).expect("a link");
    }
    for program in ["cmake", "gcc", "make", "meson", "ninja", "pkg-config"] {
        needs(program);
    }
    // Installed, as if in /usr.
    let prefix = Prefix::new(&dir);
    let rust = rustc().parent().expect("a directory").display().to_string();
    let path = format!("{}:{rust}", prefix.search_path());
    for step in sessions(document) {
        let outcome = prefix
            .command("sh")
            .args(["-c", &format!("exec 2>&1; {}", step.command)])
            .env("PATH", &path)
            .env("LD_LIBRARY_PATH", prefix.join("lib"))
            .env("CARGO_HOME", dir.join("cargo"))
            .dir(dir.path())
            .succeed();
        let here = dir.path().display().to_string();
        let printed = outcome.stdout().replace(&here, PLACE);
        assert_eq!(words(&printed), words(&step.prints), "{outcome}");
    }
}

/// Every number is the same number, and columns are as wide as they are.
fn words(text: &str) -> Vec<Vec<String>> {
    let without_digits = |word: &str| -> String {
        if word.starts_with("0x") {
            return "0x0".to_owned();
        }
        let digit = |c: char| if c.is_ascii_digit() { '0' } else { c };
        let mut chars: Vec<char> = word.chars().map(digit).collect();
        chars.dedup_by(|next, last| (*next, *last) == ('0', '0'));
        chars.into_iter().collect()
    };
    text.lines()
        .map(|line| line.split_whitespace().map(without_digits).collect())
        .collect()
}
