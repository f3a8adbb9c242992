//! Rewritten programs do real work: interpreters, a version control system, a compiler. The results
//! are the original's, and the runtime has counted what they allocated.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::mirror::Mirror;
use allocs_tests::report::Report;
use allocs_tests::{Command, Outcome, Rewrite, elf, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["work": python, perl, git, gcc, node, bash]
}

/// Rewrites programs in a tree of their own and tells where they are.
struct Rewrites {
    mirror: Mirror,
    originals: Vec<PathBuf>,
}

impl Rewrites {
    fn new(name: &str, programs: &[PathBuf]) -> Self {
        let originals: BTreeSet<PathBuf> = programs
            .iter()
            .map(|program| program.canonicalize().expect("a real path"))
            .collect();
        Self {
            mirror: Mirror::new(name, &originals),
            originals: originals.into_iter().collect(),
        }
    }

    /// Runs `work` on copies of the originals, then on the rewritten programs under the same paths;
    /// the third argument is where the rewritten ones report.
    fn compare<R>(&self, work: impl Fn(&Mirror, Option<&Path>) -> R) -> (R, R, Vec<Report>) {
        for real in &self.originals {
            self.mirror.put_copy(real);
        }
        let before = work(&self.mirror, None);
        for real in &self.originals {
            Rewrite::new(real, self.mirror.path(real)).succeed();
        }
        let reports = self.mirror.scratch("reports");
        let after = work(&self.mirror, Some(&reports));
        let reports = allocs_tests::dir::listing(&reports).into_keys();
        let reports: Vec<_> = reports
            .map(|path| Report::read(&path).expect("a report"))
            .collect();
        for report in &reports {
            assert_eq!(report.phase(), "relocation", "{report:?}");
        }
        (before, after, reports)
    }
}

/// Asks for a report, if there is to be one, of the first process.
fn reporting(command: Command, reports: Option<&Path>) -> Command {
    match reports {
        Some(dir) => command.env("ALLOCS_REPORT", dir.join("report.json")),
        None => command,
    }
}

/// Runs one program with arguments before and after, and compares; returns the report.
fn same(name: &str, program: PathBuf, arguments: &[&str], files: &[(&str, &str)]) -> Report {
    let real = program.canonicalize().expect("a real path");
    let rewrites = Rewrites::new(name, &[program]);
    let (before, after, mut reports) = rewrites.compare(|mirror, reports| {
        let dir = mirror.scratch("work");
        for (file, text) in files {
            fs::write(dir.join(file), text).expect("a file");
        }
        let command = Command::new(mirror.path(&real)).args(arguments).dir(&dir);
        reporting(command.env("HOME", &dir), reports).succeed()
    });
    assert!(!before.stdout.is_empty(), "{before}it has nothing to say");
    after.assert_same_as(&before);
    reports.pop().unwrap_or_else(|| panic!("{after}no report"))
}

/// CPython's own tests of JSON, regular expressions, dictionaries and threads.
fn python() {
    needs("/usr/lib/python3.11/test/test_json/__init__.py");
    let program = needs("/usr/bin/python3.11");
    let rewrites = Rewrites::new("python", std::slice::from_ref(&program));
    let (before, after, reports) = rewrites.compare(|mirror, reports| {
        let dir = mirror.scratch("work");
        let command = Command::new(mirror.path(&program))
            .args([
                "-I",
                "-m",
                "test",
                "-v",
                "test_json",
                "test_re",
                "test_dict",
                "test_threading",
            ])
            .dir(&dir)
            .env("HOME", &dir)
            .env("TMPDIR", &dir)
            .limit(Duration::from_secs(300));
        reporting(command, reports).succeed()
    });
    assert!(before.stdout().contains("All 4 tests OK."), "{before}");
    assert_eq!(results(&after), results(&before), "{after}");
    let [report] = &*reports else {
        panic!("{after}one report: {reports:?}");
    };
    assert!(report.allocations() > 10_000, "{report:?}");
}

/// How many tests ran, and how they ended; without their times.
fn results(outcome: &Outcome) -> Vec<String> {
    let text = outcome.stdout() + &outcome.stderr();
    let mut results = Vec::new();
    for line in text.lines() {
        if let Some((ran, _)) = line.split_once(" tests in ") {
            results.push(ran.to_owned());
        } else if line.starts_with("OK") || line.ends_with(" tests OK.") {
            results.push(line.to_owned());
        }
    }
    results
}

fn perl() {
    let script = r#"
        use strict;
        my %count;
        my $text = join ' ', map { ($_ * 7919) % 1009 } 1 .. 200_000;
        $count{$_}++ for split ' ', $text;
        for my $word (sort { $count{$b} <=> $count{$a} || $a <=> $b } keys %count) {
            print "$word $count{$word}\n";
        }
        $text =~ s/(\d)(\d)/$2$1/g;
        print length $text, "\n";
        my $pid = fork;
        if (!$pid) { my @list = map { "x" x $_ } 1 .. 1000; exit scalar(@list) % 256; }
        waitpid $pid, 0;
        print $? >> 8, "\n";
        die "at the end\n" unless eval { die { code => 5 } } || $@->{code} == 5;
    "#;
    let report = same(
        "perl",
        needs("perl"),
        &["script.pl"],
        &[("script.pl", script)],
    );
    assert!(report.allocations() > 1000, "{report:?}");
}

fn node() {
    let script = r"
        const zlib = require('zlib');
        const { Worker, isMainThread, parentPort } = require('worker_threads');
        if (!isMainThread) {
            parentPort.postMessage(Array.from({ length: 1000 }, (_, i) => i * i).reduce((a, b) => a + b));
        } else {
            const objects = Array.from({ length: 50000 }, (_, i) => ({ id: i, name: 'n' + i }));
            const text = JSON.stringify(objects);
            console.log(text.length, JSON.parse(text)[49999].name);
            const packed = zlib.gzipSync(text, { level: 6 });
            console.log(zlib.gunzipSync(packed).toString() === text);
            const digest = require('crypto').createHash('sha256').update(text).digest('hex');
            console.log(digest);
            let done = 0;
            for (let i = 0; i < 3; i++)
                new Worker(__filename).on('message', sum => {
                    console.log(sum);
                    if (++done === 3) setTimeout(() => process.exit(4 - 4), 1);
                });
        }
    ";
    let report = same(
        "node",
        needs("node"),
        &["script.js"],
        &[("script.js", script)],
    );
    assert!(report.allocations() > 10_000, "{report:?}");
}

fn bash() {
    let script = r#"
        declare -A seen
        for i in {1..2000}; do seen[$((i * i % 97))]+=x; done
        for key in $(printf '%s\n' "${!seen[@]}" | sort -n); do echo "$key ${#seen[$key]}"; done
        echo "$(cat <<< 'here' | tr a-z A-Z)" | while read -r line; do echo "$line"; done
        trap 'echo bye' EXIT
    "#;
    let report = same(
        "bash",
        PathBuf::from("/bin/bash"),
        &["script.sh"],
        &[("script.sh", script)],
    );
    assert!(report.allocations() > 1000, "{report:?}");
}

/// git with all of its helpers: commits, a clone through upload-pack and index-pack, a log.
fn git() {
    let git = needs("/usr/bin/git");
    let helpers = Path::new("/usr/lib/git-core");
    let mut programs = vec![git];
    for entry in fs::read_dir(helpers).expect("git's helpers") {
        let path = entry.expect("an entry").path();
        if elf::is_dynamic_executable(&path) {
            programs.push(path);
        }
    }
    let rewrites = Rewrites::new("git", &programs);
    assert!(rewrites.originals.len() > 3, "{:?}", rewrites.originals);

    let (before, after, reports) = rewrites.compare(|mirror, reports| {
        let dir = mirror.scratch("work");
        fs::remove_dir_all(&dir).expect("the old one removed");
        let dir = mirror.scratch("work");
        let git = |arguments: &[&str]| {
            let command = Command::new(mirror.path(Path::new("/usr/bin/git")))
                .args(["-c", "protocol.file.allow=always", "-c", "gc.auto=0"])
                .args(arguments)
                .dir(&dir)
                .env("GIT_EXEC_PATH", mirror.path(helpers))
                .env("GIT_CONFIG_NOSYSTEM", "1")
                .env("GIT_AUTHOR_DATE", "2001-02-03T04:05:06Z")
                .env("GIT_COMMITTER_DATE", "2001-02-03T04:05:06Z")
                .env("HOME", &dir);
            reporting(command, reports).succeed().stdout()
        };
        git(&["init", "-q", "-b", "main", "origin"]);
        git(&["-C", "origin", "config", "user.email", "nobody@example.org"]);
        git(&["-C", "origin", "config", "user.name", "Nobody"]);
        for commit in 0..5 {
            for file in 0..50 {
                let text = format!("line {commit}\n").repeat(file * 3 + 1);
                fs::write(dir.join(format!("origin/file{file}")), text).expect("a file");
            }
            git(&["-C", "origin", "add", "."]);
            git(&[
                "-C",
                "origin",
                "commit",
                "-q",
                "-m",
                &format!("commit {commit}"),
            ]);
        }
        let url = format!("file://{}", dir.join("origin").display());
        git(&["clone", "-q", &url, "clone"]);
        git(&["-C", "clone", "gc", "-q"]);
        git(&["-C", "clone", "fsck", "--strict", "--no-progress"])
            + &git(&["-C", "clone", "log", "--stat", "--format=%H %T %s"])
            + &git(&["-C", "clone", "diff", "HEAD~3", "--", "file7"])
            + &git(&["-C", "clone", "status", "--porcelain"])
    });
    assert!(before.lines().count() > 100, "{before}");
    assert_eq!(after, before);
    let [report] = &*reports else {
        panic!("one report: {reports:?}");
    };
    assert!(report.allocations() > 100, "{report:?}");
}

/// The compiler driver with everything that it starts: cc1, the assembler, collect2, the linker.
/// What it makes is the same, byte for byte, and works.
fn gcc() {
    let driver = needs("gcc").canonicalize().expect("a real path");
    let part = |name: &str| {
        let answer = Command::new(&driver)
            .arg(format!("-print-prog-name={name}"))
            .succeed();
        let path = PathBuf::from(answer.stdout().trim());
        let path = if path.is_absolute() {
            path
        } else {
            Path::new("/usr/bin").join(path)
        };
        path.canonicalize().expect("a real path")
    };
    let parts = ["cc1", "collect2", "as", "ld", "lto-wrapper"].map(part);
    let mut programs = vec![driver.clone()];
    programs.extend(parts.iter().cloned());
    let rewrites = Rewrites::new("gcc", &programs);

    let (before, after, reports) = rewrites.compare(|mirror, reports| {
        let dir = mirror.scratch("work");
        let bin = mirror.scratch("bin");
        for (name, path) in ["as", "ld"].iter().zip(&parts[2..4]) {
            // -B is looked up by these names.
            let _ = std::os::unix::fs::symlink(mirror.path(path), bin.join(name));
        }
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/contracts.c");
        fs::copy(source, dir.join("contracts.c")).expect("a source");
        let command = Command::new(mirror.path(&driver))
            .arg(format!(
                "-B{}/",
                mirror
                    .path(parts[0].parent().expect("a directory"))
                    .display()
            ))
            .arg(format!("-B{}/", bin.display()))
            .args(["-v", "-O2", "-g", "-pipe", "contracts.c", "-o", "contracts"])
            .dir(&dir);
        let outcome = reporting(command, reports).succeed();
        // It did not fall back on the system's own parts.
        for name in ["cc1", "collect2"] {
            let path = mirror
                .path(parts[0].parent().expect("a directory"))
                .join(name);
            assert!(
                outcome.stderr().contains(&*path.to_string_lossy()),
                "{outcome}"
            );
        }
        Command::new(dir.join("contracts")).succeed();
        fs::read(dir.join("contracts")).expect("the program that it made")
    });
    assert!(
        before == after,
        "the rewritten compiler made something else"
    );
    let [report] = &*reports else {
        panic!("one report: {reports:?}");
    };
    assert!(report.allocations() > 100, "{report:?}");
}
