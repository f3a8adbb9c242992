//! The man pages and completions that packages install (`rewriter/examples/share.rs`): every command has a
//! page with what users of man pages expect, groff and mandoc have nothing to say against it, and bash, zsh
//! and fish complete with the scripts.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use allocs_tests::{Command, needs, tool, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["manuals":
        pages,
        no_warnings,
        found_by_name,
        bash,
        zsh,
        fish,
    ]
}

/// What is completed: the line so far, and what comes of its last word.
const COMPLETED: [(&str, &str); 5] = [
    ("allocs-rewrite --in-pl", "--in-place"),
    ("allocs-rewrite expl", "explain"),
    ("allocs-rewrite prog --in-pl", "--in-place"),
    ("allocs-rewrite explain --ld-lib", "--ld-library-path"),
    ("allocs-rewrite undo --in-pl", "--in-place"),
];

/// What goes below PREFIX/share.
pub(crate) fn share() -> &'static Path {
    static SHARE: OnceLock<PathBuf> = OnceLock::new();
    SHARE.get_or_init(|| {
        let share = tool::binary().with_file_name("allocs-tests").join("share");
        let [example] = &tool::build(&["--example", "share"])[..] else {
            panic!("cargo names the example that it built");
        };
        Command::new(example).arg(&share).succeed();
        share
    })
}

/// The commands as `--help` lists them, and the one without a name.
fn commands() -> Vec<String> {
    let help = Command::new(tool::binary())
        .arg("--help")
        .succeed()
        .stdout();
    let list = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let list = list.take_while(|line| !line.is_empty());
    let names = list.filter_map(|line| line.split_whitespace().next());
    let pages: Vec<String> = names.map(|name| format!("allocs-rewrite-{name}")).collect();
    assert!(pages.len() >= 5, "{help}");
    [vec!["allocs-rewrite".to_owned()], pages].concat()
}

fn page(name: &str) -> PathBuf {
    share().join(format!("man/man1/{name}.1"))
}

fn pages() {
    let commands = commands();
    let files = fs::read_dir(share().join("man/man1")).expect("pages");
    assert_eq!(
        files.count(),
        commands.len(),
        "a page for each command, and no other"
    );
    for name in &commands {
        let shown = Command::new(needs("man"))
            .env("MANWIDTH", "1000")
            .arg("-l")
            .arg(page(name))
            .succeed();
        let text = shown.stdout();
        let headings: Vec<&str> = text
            .lines()
            .filter(|line| line.starts_with(char::is_uppercase))
            .collect();
        for heading in [
            "NAME",
            "SYNOPSIS",
            "DESCRIPTION",
            "OPTIONS",
            "EXIT STATUS",
            "EXAMPLES",
            "SEE ALSO",
        ] {
            assert!(
                headings.contains(&heading),
                "{name}: no {heading} in {headings:?}"
            );
        }
        let help = name.strip_prefix("allocs-rewrite").unwrap_or_default();
        let help = Command::new(tool::binary())
            .args(help.strip_prefix('-'))
            .arg("--help")
            .succeed()
            .stdout();
        for option in help
            .split_whitespace()
            .filter(|word| word.starts_with("--"))
        {
            let option = option.trim_end_matches(|c: char| !c.is_ascii_lowercase());
            let option = option.split(['[', '=']).next().unwrap_or_default();
            assert!(text.contains(option), "{name}: no {option} in {text}");
        }
        for other in commands.iter().filter(|other| *other != name) {
            let see_also = text.split("SEE ALSO").nth(1).unwrap_or_default();
            assert!(
                see_also.contains(&format!("{other}(1)")),
                "{name}: {see_also}"
            );
        }
    }
    let main = fs::read_to_string(page("allocs-rewrite")).expect("a page");
    assert!(
        main.contains(".SH ENVIRONMENT") && main.contains("ALLOCS_REPORT"),
        "{main}"
    );
}

fn no_warnings() {
    needs("groff");
    for name in commands() {
        let lint = Command::new(needs("mandoc"))
            .args(["-T", "lint", "-W", "warning"])
            .arg(page(&name))
            .run();
        assert_eq!(
            (lint.code(), lint.stdout()),
            (Some(0), String::new()),
            "{lint}"
        );
        let man = Command::new(needs("man"))
            .env("LC_ALL", "C.UTF-8")
            .args(["--warnings", "-E", "UTF-8", "-l", "-Tutf8", "-Z"])
            .arg(page(&name))
            .succeed();
        assert_eq!(man.stderr(), "", "{man}");
    }
}

/// `man` and `whatis` find what is installed in a prefix.
fn found_by_name() {
    let found = Command::new(needs("man"))
        .arg("-M")
        .arg(share().join("man"))
        .args(["-w", "allocs-rewrite-explain"])
        .succeed();
    assert_eq!(
        found.stdout().trim(),
        page("allocs-rewrite-explain").to_string_lossy()
    );
    for name in commands() {
        let parsed = Command::new("lexgrog").arg(page(&name)).succeed();
        assert!(
            parsed.stdout().contains(&format!("\"{name} - ")),
            "{parsed}"
        );
    }
}

fn bash() {
    let script = share().join("bash-completion/completions/allocs-rewrite");
    for (line, completed) in COMPLETED {
        // As readline does it: the function that `complete` has registered is called with the words.
        let ask = r#"
            source "$1"; shift
            COMP_WORDS=("$@"); COMP_CWORD=$(($# - 1))
            function=$(complete -p allocs-rewrite | sed 's/.*-F \([^ ]*\).*/\1/')
            "$function" "$1" "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD - 1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let outcome = Command::new(needs("bash"))
            .args(["--norc", "-c", ask, "bash"])
            .arg(&script)
            .args(line.split(' '))
            .succeed();
        assert!(
            outcome.stdout().lines().any(|word| word == completed),
            "{outcome}"
        );
        assert_eq!(outcome.stderr(), "", "{outcome}");
    }
}

/// In a shell with a terminal, for zsh's completion has no other way.
fn zsh() {
    let functions = share().join("zsh/site-functions");
    for (line, completed) in COMPLETED {
        let ask = r#"
            zmodload zsh/zpty
            zpty shell zsh -f -i
            zpty -w shell "PS1=; fpath=($1 \$fpath); autoload -Uz compinit; compinit -u -D; print REA''DY"
            zpty -r -m shell output '*READY*'
            zpty -n -w shell "$2"$'\t'
            zpty -r -m shell output "*$3*"
            print -r -- "$output"
        "#;
        let outcome = Command::new(needs("zsh"))
            .env("TERM", "dumb")
            .args(["-f", "-c", ask, "zsh"])
            .arg(&functions)
            .args([line, completed])
            .limit(Duration::from_secs(30))
            .succeed();
        assert!(outcome.stdout().contains(completed), "{outcome}");
    }
}

fn fish() {
    let script = share().join("fish/vendor_completions.d/allocs-rewrite.fish");
    for (line, completed) in COMPLETED {
        let home = tool::binary().with_file_name("allocs-tests");
        let outcome = Command::new(needs("fish"))
            .env("HOME", &home)
            .args([
                "--no-config",
                "-c",
                r#"source $argv[1]; complete -C "$argv[2]""#,
            ])
            .arg(&script)
            .arg(line)
            .succeed();
        let words = outcome.stdout();
        let mut words = words.lines().filter_map(|line| line.split('\t').next());
        assert!(words.any(|word| word == completed), "{outcome}");
        assert_eq!(outcome.stderr(), "", "{outcome}");
    }
}
