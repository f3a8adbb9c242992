//! What the project's runtime for AArch64 reports: in each format, at the end and when a signal asks for it, with
//! functions and lines, and with stacks.

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::foreign;
use allocs_tests::report::Report;
use allocs_tests::{Command, Dir, trials};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::index::compile;
use crate::machines_runtime::{gcc, path, rewritten, run};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["machines_runtime_reports":
        names,
        formats,
        stacks,
        snapshots,
        snapshots_of_a_busy_program,
    ]
}

/// `allocs-rewrite report FILE`.
fn tell(file: &Path) -> Command {
    let tool = foreign::installed().join("bin/allocs-rewrite");
    Command::new(tool).arg("report").arg(file)
}

/// The sites in it, with the functions of each, innermost first; none for a place without a name.
fn sites(file: &Path) -> Vec<(Vec<Option<String>>, Value)> {
    let outcome = tell(file).arg("--json").succeed();
    let mut told: Value = serde_json::from_str(&outcome.stdout()).expect("JSON");
    let Value::Array(sites) = told["sites"].take() else {
        panic!("{outcome}no sites");
    };
    let functions = |site: &Value| {
        let frames = site["frames"].as_array().expect("frames");
        let name = |frame: &Value| frame["function"].as_str().map(str::to_owned);
        frames.iter().map(name).collect()
    };
    sites
        .into_iter()
        .map(|site| (functions(&site), site))
        .collect()
}

fn words(dir: &Dir) -> (PathBuf, PathBuf) {
    let text = Path::new(env!("CARGO_MANIFEST_DIR")).join("../samples/words.c");
    let program = dir.join("words");
    gcc()
        .args(["-g", "-O1", "-o"])
        .args([&program, &text])
        .succeed();
    (rewritten(dir, &program), text)
}

/// `allocs-rewrite report` names functions and lines.
fn names() {
    let dir = Dir::new("aarch64-names");
    let (program, text) = words(&dir);
    for name in ["report.json", "report.pb", "report.pb.gz"] {
        let file = dir.join(name);
        run(&[("ALLOCS_REPORT", path(&file))], &program)
            .arg(&text)
            .succeed();
        let outcome = tell(&file).succeed();
        let said = outcome.stdout();
        for words in ["new_word  /", "words.c:31", "main  /", "words.c:55"] {
            assert!(said.contains(words), "{outcome}{words}");
        }
    }
}

/// What the report says for itself.
fn formats() {
    let dir = Dir::new("aarch64-formats");
    let (program, text) = words(&dir);
    let report = |name: &str| {
        let file = dir.join(name);
        run(&[("ALLOCS_REPORT", path(&file))], &program)
            .arg(&text)
            .succeed();
        file
    };
    let json = Report::read(&report("report.json")).expect("a report");
    assert_eq!(json.phase(), "relocation");
    assert_eq!(json.before_init(), 0);
    assert!(json.calls("calloc") > 100 && json.calls("malloc") > 100);
    assert!(json.number(&["live", "bytes"]) > 10_000);
    let said = fs::read_to_string(report("report.txt")).expect("a report");
    for words in ["started: relocation; hook calls before that: 0", "main+0x"] {
        assert!(said.contains(words), "{said}");
    }
}

/// ALLOCS_STACK: the way out of each frame is found, as far as the first: of one whose size is not fixed, of large ones,
/// through libc.
fn stacks() {
    let dir = Dir::new("aarch64-stacks");
    let source = dir.write(
        "main.c",
        "#include <stdlib.h>
         __attribute__((noinline)) void *innermost(int n) {
             volatile char room[4096]; room[n] = 1; void *made = malloc(10002); room[n + 1] = 0; return made; }
         __attribute__((noinline)) void *dynamic(int n) {
             volatile char *room = __builtin_alloca(n * 100 + 17); room[n] = 1; void *made = innermost(n); room[n] = 0;
             return made; }
         int compare(const void *a, const void *b) { free(dynamic(*(const char *)a)); return *(const char *)b; }
         int main(void) { char two[] = {3, 2}; qsort(two, 2, 1, compare); return 0; }
",
    );
    let program = dir.join("program");
    gcc()
        .args(["-g", "-O1", "-rdynamic", "-fno-builtin-malloc", "-o"])
        .args([&program, &source])
        .succeed();
    let program = rewritten(&dir, &program);
    let file = dir.join("report.json");
    let variables = [
        ("ALLOCS_REPORT", path(&file)),
        ("ALLOCS_STACK", "16".to_owned()),
    ];
    run(&variables, &program).succeed();
    let sites = sites(&file);
    let functions = sites
        .iter()
        .map(|(functions, _)| functions.iter().map(Option::as_deref).collect::<Vec<_>>())
        .find(|functions| functions.first() == Some(&Some("innermost")))
        .unwrap_or_else(|| panic!("{sites:?}"));
    let outer = ["dynamic", "compare"].map(Some);
    assert!(functions[1..].starts_with(&outer), "{functions:?}");
    // Behind libc's qsort.
    let main = functions.iter().position(|name| *name == Some("main"));
    assert!(main.is_some_and(|place| place > 3), "{functions:?}");
    assert_eq!(functions.last(), Some(&Some("_start")), "{functions:?}");
}

/// A program that allocates in functions with names and sends itself signals, rewritten.
fn signalled(dir: &Dir) -> PathBuf {
    let flags = ["-g", "-Wno-unused-result"];
    rewritten(dir, &compile(dir, gcc(), "sites.c", &flags))
}

/// ALLOCS_SIGNAL: what was alive at that time, in files with numbers; and then all goes on.
fn snapshots() {
    let dir = Dir::new("aarch64-snapshots");
    let program = signalled(&dir);
    for (mode, said, numbered) in [
        ("ask", "", vec![("", 10), (".1", 7), (".2", 10)]),
        ("interrupted", "read: 1\n", vec![("", 7), (".1", 7)]),
        ("stack", "", vec![("", 7), (".1", 7)]),
        ("own", "own\n", vec![("", 7)]),
    ] {
        let there = dir.make(mode);
        let variables = [
            ("ALLOCS_REPORT", path(&there.join("report.json"))),
            ("ALLOCS_SIGNAL", "SIGUSR2".to_owned()),
        ];
        let outcome = run(&variables, &program).arg(mode).run();
        assert_eq!(outcome.code(), Some(5), "{mode}: {outcome}");
        assert_eq!(outcome.stdout(), said, "{mode}: {outcome}");
        let files = fs::read_dir(&there).expect("a directory").count();
        assert_eq!(files, numbered.len(), "{mode}: {outcome}");
        for (number, live) in numbered {
            let file = there.join(format!("report{number}.json"));
            assert_eq!(kept(&file), live, "{}", file.display());
        }
    }
}

/// The signal comes to threads that are inside of libc's malloc, and inside of hooks.
fn snapshots_of_a_busy_program() {
    let dir = Dir::new("aarch64-busy");
    let program = signalled(&dir);
    let there = dir.make("reports");
    let variables = [
        ("ALLOCS_REPORT", path(&there.join("report.json"))),
        ("ALLOCS_SIGNAL", "SIGUSR2".to_owned()),
    ];
    let outcome = run(&variables, &program).arg("threads").run();
    assert_eq!(outcome.code(), Some(5), "{outcome}");
    assert_eq!(outcome.stdout(), "", "{outcome}");
    let files = fs::read_dir(&there).expect("a directory");
    let files: Vec<_> = files.map(|file| file.expect("an entry").path()).collect();
    assert!(files.len() > 5, "{files:?}");
    for file in files {
        assert_eq!(kept(&file), 7, "{}", file.display());
    }
}

/// How many chunks of `keep` are alive.
fn kept(file: &Path) -> u64 {
    let sites = sites(file).into_iter();
    sites
        .filter(|(functions, _)| functions.first() == Some(&Some("keep".to_owned())))
        .map(|(_, site)| site["live_chunks"].as_u64().expect("a number"))
        .sum()
}
