//! What is no report is one clear error with the file's name, and status 1; nothing panics, hangs, or
//! takes more memory than a report is worth.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};

use allocs_rewrite::{By, Reading};
use allocs_tests::census::{Program, Report, command};
use allocs_tests::trial::message;
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["report_bad":
        no_reports,
        damaged,
        numbers,
        usage,
        gzip_bomb,
        deep_stacks,
        long_names,
        page_cannot_be_written,
        closed_output,
        hostile_bytes,
        hostile_objects,
    ]
}

/// Refused in one line that names the file and says `words`.
fn refuse(path: &Path, words: &str) {
    let outcome = command([path]).memory_limit(4 << 30).run();
    let stderr = outcome.stderr();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert_eq!(outcome.stdout(), "", "{outcome}");
    assert!(stderr.contains(words), "{outcome}should say `{words}`");
    assert!(stderr.contains(&*path.to_string_lossy()), "{outcome}");
    assert_eq!(stderr.lines().count(), 1, "{outcome}");
}

/// A good report, to be spoilt.
fn report(dir: &Dir) -> Report {
    let source = "#include <stdlib.h>\nint main(void) {\n    return malloc(1) == 0;\n}\n";
    let program = Program::build(dir, "prog.c", source, "-g -O1");
    let mut report = Report::of(&program, 0x5555_5555_4000);
    report.site(&program.calls("main", "malloc"), [1, 2, 3, 4, 5]);
    report.site_in_memory(&[0x1000], [1, 2, 3, 4, 5]);
    report
}

fn no_reports() {
    let dir = Dir::new("report-none");
    refuse(&dir.join("missing"), "check the path");
    refuse(&dir.path(), "directory");
    refuse(&dir.write("empty", ""), "is empty");
    let text = "allocations of process 7\nstarted: relocation; hook calls before that: 0\n";
    refuse(&dir.write("report.txt", text), "form for people");
    refuse(&dir.write("hello", "hello, world\n"), "is no report");
    refuse(&dir.write("list.json", "[1, 2]"), "is no report");
    refuse(&dir.write("other.json", "{\"name\": 1}"), "missing field");
    refuse(Path::new("/usr/bin/cat"), "is no report");
}

fn damaged() {
    let dir = Dir::new("report-damaged");
    let report = report(&dir);
    for name in ["report.json", "report.pb", "report.pb.gz"] {
        let path = report.write(&dir, name);
        let bytes = std::fs::read(&path).expect("the report");
        for len in [bytes.len() - 1, bytes.len() / 2, 5] {
            let path = dir.write(format!("cut-{len}-{name}"), &bytes[..len]);
            refuse(&path, "is no report");
        }
    }
}

fn numbers() {
    let dir = Dir::new("report-numbers");
    let json = report(&dir).json();
    let with = |change: fn(&mut serde_json::Value)| {
        let mut changed = json.clone();
        change(&mut changed);
        dir.write("report.json", changed.to_string())
    };
    refuse(&with(|json| json["version"] = 2.into()), "version 2");
    refuse(
        &with(|json| json["sites"][0]["calls"] = u64::MAX.into()),
        "too large",
    );
    refuse(
        &with(|json| json["sites"][0]["bytes"] = (-1).into()),
        "is no report",
    );
    refuse(
        &with(|json| json["sites"][0]["frames"][0] = "main".into()),
        "is no report",
    );
    let most = with(|json| json["live"]["bytes"] = i64::MAX.into());
    command([&most]).succeed();
    let outcome = command([&most, &most]).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(outcome.stderr().contains("add up"), "{outcome}");
}

fn usage() {
    for arguments in [
        vec![],
        vec!["--by", "name", "a"],
        vec!["--top", "x", "a"],
        vec!["--json", "--html", "a", "b"],
    ] {
        let outcome = command(arguments).run();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
    }
}

fn gzip_bomb() {
    let dir = Dir::new("report-bomb");
    let zeros = "head -c 300000000 /dev/zero | gzip > bomb.pb.gz";
    needs("gzip");
    Command::new("sh")
        .args(["-c", zeros])
        .dir(dir.path())
        .succeed();
    refuse(&dir.join("bomb.pb.gz"), "longer than");
    refuse(Path::new("/dev/zero"), "longer than");
}

fn deep_stacks() {
    let dir = Dir::new("report-deep");
    let mut report = report(&dir);
    report.site_in_memory(&vec![0x1000; 5000], [1; 5]);
    for name in ["report.json", "report.pb"] {
        refuse(&report.write(&dir, name), "5000 frames");
    }
}

/// Many places of one object whose name is long: what a report is worth is in proportion to its size.
fn long_names() {
    let dir = Dir::new("report-long");
    let mut report = report(&dir);
    report.objects[0].path = format!("/{}", "long".repeat(500_000)).into();
    report.objects[0].text = (0x1000, 1 << 20, 0x1000);
    (0x1001..100_000).for_each(|address| report.site(&[address], [1; 5]));
    for name in ["report.json", "report.pb"] {
        let report = report.write(&dir, name);
        let outcome = command([&report]).memory_limit(1 << 30).succeed();
        assert!(outcome.stdout().contains("File name too long"), "no note");
    }
}

fn page_cannot_be_written() {
    let dir = Dir::new("report-unwritable");
    let report = report(&dir).write(&dir, "report.json");
    let page = dir.join("none/page.html");
    let outcome = command(["--html"]).arg(&page).arg(report).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let expected = format!("allocs-rewrite: {}: cannot write", page.display());
    assert!(outcome.stderr().starts_with(&expected), "{outcome}");
}

/// Whoever stops reading is no error.
fn closed_output() {
    let dir = Dir::new("report-closed");
    let mut report = report(&dir);
    (0..20_000).for_each(|index| report.site_in_memory(&[index], [1; 5]));
    let report = report.write(&dir, "report.json");
    let script = format!(
        "{} report --top 100000 {} | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}",
        allocs_tests::tool::binary().display(),
        report.display()
    );
    let outcome = Command::new("bash").args(["-c", &script]).succeed();
    assert_eq!(outcome.stdout(), "0\n", "{outcome}");
    assert_eq!(outcome.stderr(), "", "{outcome}");
}

/// Reads a report and shows it in every way.
fn survive(dir: &Dir, report: &Path, what: &str) {
    let reports: [PathBuf; 2] = [report.to_owned(), report.to_owned()];
    let page = dir.join("page.html");
    let read = || {
        let reading = Reading {
            sysroot: None,
            by: By::Peak,
        };
        if let Ok(census) = allocs_rewrite::census(&reports[..1], &reading, &mut |_, _| ()) {
            census.report(usize::MAX);
            census.write_page(&page).expect("a page");
        }
        if let Ok(comparison) =
            allocs_rewrite::compare(&reports[0], &reports[1], &reading, &mut |_, _| ())
        {
            comparison.report(usize::MAX);
            comparison.write_page(&page).expect("a page");
        }
    };
    if let Err(payload) = catch_unwind(read) {
        panic!("{what}: panicked: {}", message(&*payload));
    }
}

/// Reports with random bytes changed, left out and repeated.
fn hostile_bytes() {
    let dir = Dir::new("report-hostile");
    let report = report(&dir);
    let mut random = fastrand::Rng::with_seed(0x616c6c6f6373);
    for name in ["report.json", "report.pb"] {
        let good = std::fs::read(report.write(&dir, name)).expect("the report");
        for round in 0..400 {
            let mut bytes = good.clone();
            for _ in 0..=random.usize(..4) {
                let at = random.usize(..bytes.len());
                match random.usize(..4) {
                    0 => bytes[at] = random.u8(..),
                    1 => bytes[at] ^= 1 << random.u8(..8),
                    2 => bytes[at] = b'0' + random.u8(..10),
                    _ => {
                        let end = (at + random.usize(..40)).min(bytes.len());
                        let part = bytes[at..end].to_vec();
                        let to = random.usize(..bytes.len());
                        bytes.splice(to..to, part);
                    }
                }
            }
            let path = dir.write(name, &bytes);
            survive(&dir, &path, &format!("round {round} of {}", path.display()));
        }
    }
}

/// A program with random bytes changed, in its debug information and its tables.
fn hostile_objects() {
    let dir = Dir::new("report-objects");
    let mut report = report(&dir);
    let path = report.objects[0].path.clone();
    report.objects[0].build_id = None;
    let report = report.write(&dir, "report.json");
    let good = std::fs::read(&path).expect("the program");
    let mut random = fastrand::Rng::with_seed(0x616c6c6f6373);
    for round in 0..400 {
        let mut bytes = good.clone();
        for _ in 0..=random.usize(..6) {
            let at = random.usize(..bytes.len());
            let at = if random.bool() { at % 0x400 } else { at };
            bytes[at] = random.u8(..);
        }
        std::fs::write(&path, &bytes).expect("written");
        survive(
            &dir,
            &report,
            &format!("round {round} of {}", path.display()),
        );
    }
}
