//! The documentation as a book: it builds without a warning, its links lead somewhere, and every chapter is in
//! it. That its commands print what it says is `readme`'s matter, and what it says of JSON is `json`'s.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

pub(crate) fn trials() -> Vec<Trial> {
    trials!["book":
        builds,
        every_chapter,
        links,
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
