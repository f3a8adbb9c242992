//! The documentation as a book: it builds without a warning, its links lead somewhere, every chapter is in
//! it, and what it says of `--json` is what is printed. That its commands print what it says is `readme`'s
//! matter.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Command, Dir, needs, tool, trials};
use libtest_mimic::Trial;
use serde_json::Value;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) fn trials() -> Vec<Trial> {
    trials!["book":
        builds,
        every_chapter,
        links,
        json,
    ]
}

/// The text of a file of the project.
fn text(file: impl AsRef<Path>) -> String {
    let path = Path::new(ROOT).join(file);
    fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

/// The chapters: all Markdown files in docs/ but the list of them.
fn chapters() -> Vec<String> {
    let files = fs::read_dir(Path::new(ROOT).join("docs")).expect("docs/");
    let names = files.map(|entry| entry.expect("a file").file_name().display().to_string());
    let mut names: Vec<String> = names
        .filter(|name| name.ends_with(".md") && name != "SUMMARY.md")
        .collect();
    names.sort();
    names
}

fn builds() {
    let dir = Dir::new("book");
    let built = Command::new(needs::mdbook())
        .args(["build", "--dest-dir"])
        .arg(dir.path())
        .arg(Path::new(ROOT).join("docs"))
        .succeed();
    let said = built.stdout() + &built.stderr();
    assert!(!said.contains("WARN") && !said.contains("ERROR"), "{built}");
    for chapter in chapters() {
        let page = dir.join(chapter.replace(".md", ".html"));
        assert!(page.is_file(), "{} is missing: {built}", page.display());
    }
}

fn every_chapter() {
    let summary = text("docs/SUMMARY.md");
    for chapter in chapters() {
        assert!(
            summary.contains(&format!("]({chapter})")),
            "docs/SUMMARY.md lacks {chapter}"
        );
    }
}

/// Links to files and headings, in the README and the book; those to other places are not followed.
fn links() {
    let mut files: Vec<PathBuf> = chapters()
        .iter()
        .map(|name| Path::new("docs").join(name))
        .collect();
    files.push("docs/SUMMARY.md".into());
    files.push("README.md".into());
    for file in files {
        let text = text(&file);
        for target in text
            .split("](")
            .skip(1)
            .filter_map(|rest| rest.split(')').next())
        {
            if target.contains("://") {
                continue;
            }
            let (path, heading) = target.split_once('#').unwrap_or((target, ""));
            let to = match path {
                "" => file.clone(),
                path => file.with_file_name(path),
            };
            assert!(
                Path::new(ROOT).join(&to).exists(),
                "{}: no {target}",
                file.display()
            );
            let known = heading.is_empty() || headings(&to).contains(heading);
            assert!(known, "{}: no heading {target}", file.display());
        }
    }
}

/// The anchors of a chapter's headings, as mdbook and GitHub make them.
fn headings(file: &Path) -> BTreeSet<String> {
    let text = text(file);
    let lines = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let kept = line.trim_start_matches('#').trim().to_lowercase();
        let kept = kept
            .chars()
            .filter(|c| c.is_alphanumeric() || " -_".contains(*c));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    lines.map(anchor).collect()
}

/// Each member that is printed is in the table of its command, and the tables have no other. Of lists that
/// are empty, and of what is `null`, nothing is known.
fn json() {
    let dir = Dir::new("book-json");
    let program = Sample::named("rival").build(&dir.path(), Variant::GCC, &["-g"]);
    let run = |args: &[&str]| {
        let outcome = Command::new(tool::binary())
            .dir(dir.path())
            .args(args)
            .arg("--json")
            .run();
        serde_json::from_slice::<Value>(&outcome.stdout).unwrap_or_else(|e| panic!("{outcome}{e}"))
    };
    let name = program.file_name().expect("a name").to_string_lossy();
    check("rewrite, refresh", &[run(&[&*name, "-o", "new"])]);
    for report in ["a.json", "b.json"] {
        Command::new(dir.join("new"))
            .env("ALLOCS_REPORT", dir.join(report))
            .succeed();
    }
    check("undo", &[run(&["undo", "new", "-o", "old"])]);
    check("object", &[run(&["object", "-o", "init.o"])]);
    check(
        "explain",
        &[run(&["explain", "new"]), run(&["explain", &name])],
    );
    check("report", &[run(&["report", "a.json"])]);
    check(
        "report --diff",
        &[run(&["report", "--diff", "a.json", "b.json"])],
    );
}

fn check(heading: &str, printed: &[Value]) {
    let json = text("docs/json.md");
    let section = json
        .split("\n## ")
        .find(|section| section.starts_with(&format!("{heading}\n")));
    let section = section.unwrap_or_else(|| panic!("docs/json.md: no {heading}"));
    let cells = section.lines().filter_map(|line| line.strip_prefix("| `"));
    let cells = cells.filter_map(|line| line.split(" | ").next());
    let told: BTreeSet<&str> = cells
        .flat_map(|cell| cell.split(", "))
        .map(|name| name.trim_matches('`'))
        .collect();
    let (mut members, mut open) = (BTreeSet::new(), BTreeSet::new());
    for value in printed {
        walk(value, String::new(), &mut members, &mut open);
    }
    let covers = |outer: &str, inner: &str| {
        inner
            .strip_prefix(outer)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
    };
    for member in members.iter().chain(&open) {
        let known = told
            .iter()
            .any(|told| covers(told, member) || open.contains(member) && covers(member, told));
        assert!(known, "docs/json.md, {heading}: no {member}");
    }
    for told in told {
        let seen = members.iter().any(|member| covers(told, member))
            || open.iter().any(|open| covers(open, told));
        assert!(seen, "docs/json.md, {heading}: nothing prints {told}");
    }
}

/// Collects the paths of what has a value, and of what is empty or `null`.
fn walk(value: &Value, path: String, members: &mut BTreeSet<String>, open: &mut BTreeSet<String>) {
    match value {
        Value::Object(object) => {
            for (name, value) in object {
                let path = [&*path, name].into_iter().filter(|part| !part.is_empty());
                walk(value, path.collect::<Vec<_>>().join("."), members, open);
            }
        }
        Value::Array(list) => {
            if list.is_empty() {
                open.insert(path.clone());
            }
            for value in list {
                walk(value, format!("{path}[]"), members, open);
            }
        }
        Value::Null => {
            open.insert(path);
        }
        _ => {
            members.insert(path);
        }
    }
}
