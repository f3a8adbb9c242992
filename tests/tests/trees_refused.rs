//! What `allocs-rewrite tree` does not do: executables that are left out, or cannot be rewritten or read, and
//! trees that cannot be had. Each time the message names the file, and what else there is to do is done.

use std::fs::{self, File, Permissions};
use std::io::{Read, Write};
use std::os::unix::fs::{PermissionsExt, chown, symlink};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};

use allocs_tests::dir::{copy_program, listing};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, Outcome, needs, trials};
use libtest_mimic::Trial;

use crate::trees::{assert_copy, file, json, to_copy, with_outcome};
use crate::trees_in_place::in_place;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["trees_refused":
        usage,
        globs,
        strict,
        one_tree_in_the_other,
        no_trees,
        two_runs_at_once,
        a_child_that_is_just_starting,
        something_in_the_way,
        without_root,
        what_others_make_meanwhile,
    ]
}

/// Programs in two directories.
fn tree(dir: &Dir) -> PathBuf {
    for name in [
        "usr/bin/true",
        "usr/bin/cat",
        "usr/libexec/x/false",
        "usr/libexec/x/cat",
    ] {
        let path = dir.join("src").join(name);
        fs::create_dir_all(path.with_file_name("")).expect("a directory");
        copy_program(
            &Path::new("/bin").join(path.file_name().expect("a name")),
            &path,
        );
    }
    dir.join("src")
}

fn refused(outcome: &Outcome, words: &[&str]) {
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert_eq!(outcome.stderr().lines().count(), 1, "{outcome}");
    for word in words {
        assert!(outcome.stderr().contains(word), "{word}: {outcome}");
    }
}

fn usage() {
    let lines: [&[&str]; 4] = [
        &["src"],
        &["src", "-o", "dst", "--in-place"],
        &["-o", "dst"],
        &["src", "-o", "dst", "--require-first"],
    ];
    for line in lines {
        let outcome = Command::new(tool::binary()).arg("tree").args(line).run();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
    }
}

fn globs() {
    let dir = Dir::new("tree-globs");
    let source = tree(&dir);
    let cases: [(&[&str], &[&str]); 7] = [
        (&["--include", "cat"], &["usr/bin/cat", "usr/libexec/x/cat"]),
        (
            &["--include", "usr/bin/*"],
            &["usr/bin/cat", "usr/bin/true"],
        ),
        (
            &["--exclude", "/usr/libexec"],
            &["usr/bin/cat", "usr/bin/true"],
        ),
        (
            &["--exclude", "**/cat"],
            &["usr/bin/true", "usr/libexec/x/false"],
        ),
        (
            &["--include", "t*", "--include", "f*e"],
            &["usr/bin/true", "usr/libexec/x/false"],
        ),
        (&["--include", "cat", "--exclude", "x"], &["usr/bin/cat"]),
        (
            &["--include", "usr/*"],
            &[
                "usr/bin/cat",
                "usr/bin/true",
                "usr/libexec/x/cat",
                "usr/libexec/x/false",
            ],
        ),
    ];
    for (arguments, expected) in cases {
        let outcome = to_copy(&source, &dir.join("dst")).args(arguments).succeed();
        let found = with_outcome(&json(&outcome), "rewritten");
        assert_eq!(
            found,
            expected.iter().map(PathBuf::from).collect::<Vec<_>>(),
            "{outcome}"
        );
        let more: Vec<PathBuf> = ["usr/bin", "usr/libexec/x"].map(PathBuf::from).into();
        let more = more.iter().map(|place| place.join(RUNTIME));
        // Those that an earlier case has left are of no harm.
        let more: Vec<PathBuf> = more
            .filter(|path| dir.join("dst").join(path).exists())
            .collect();
        assert_copy(&source, &dir.join("dst"), &found, &more);
    }
    let reason = json(
        &to_copy(&source, &dir.join("dst"))
            .args(["--exclude", "true"])
            .succeed(),
    );
    let reason = file(&reason, "usr/bin/true")["reason"].to_string();
    assert!(reason.contains("--exclude"), "{reason}");
    refused(
        &to_copy(&source, &dir.join("dst"))
            .args(["--include", "[a"])
            .run(),
        &["[a", "no glob"],
    );
}

/// At the first one; otherwise all are named, and the rest is done.
fn strict() {
    let dir = Dir::new("tree-strict");
    let source = tree(&dir);
    for name in ["usr/bin/cat", "usr/libexec/x/cat"] {
        fs::set_permissions(source.join(name), Permissions::from_mode(0o4755)).expect("a mode");
    }
    let output = dir.join("dst");
    let outcome = to_copy(&source, &output).arg("--strict").run();
    refused(&outcome, &["/cat", "is setuid"]);
    assert_eq!(outcome.stdout(), "", "{outcome}");
    assert!(!dir.join("dst.allocs-tree.json").exists());

    let outcome = to_copy(&source, &output).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert_eq!(outcome.stderr().lines().count(), 2, "{outcome}");
    let report = json(&outcome);
    assert_eq!(
        (&report["rewritten"], &report["failed"]),
        (&2.into(), &2.into()),
        "{outcome}"
    );
    assert!(
        file(&report, "usr/bin/cat")["reason"]
            .to_string()
            .contains("setuid"),
        "{outcome}"
    );
    let rewritten = with_outcome(&report, "rewritten");
    let runtimes = ["usr/bin", "usr/libexec/x"].map(|place| Path::new(place).join(RUNTIME));
    assert_copy(&source, &output, &rewritten, &runtimes);
    refused(
        &in_place(&source).arg("--strict").run(),
        &["/cat", "is setuid"],
    );
}

fn one_tree_in_the_other() {
    let dir = Dir::new("tree-overlap");
    let source = tree(&dir);
    symlink("src", dir.join("link")).expect("a link");
    let before = listing(&dir.path());
    for output in ["src", "src/usr/new", "src/usr/bin", "link", ""] {
        let outcome = to_copy(&source, &dir.join(output)).run();
        refused(&outcome, &["one is in the other"]);
        assert_eq!(before, listing(&dir.path()), "{outcome}");
    }
}

fn no_trees() {
    let dir = Dir::new("tree-none");
    let source = tree(&dir);
    let text = dir.write("text", "");
    let before = listing(&dir.path());
    refused(
        &to_copy(&text, &dir.join("dst")).run(),
        &["is not a directory"],
    );
    refused(
        &to_copy(&dir.join("nothing"), &dir.join("dst")).run(),
        &["nothing", "No such file"],
    );
    refused(&to_copy(&source, &text).run(), &["is not a directory"]);
    refused(
        &to_copy(&source, &dir.join("no/dst")).run(),
        &["No such file"],
    );
    refused(&in_place(&text).run(), &["is not a directory"]);
    assert_eq!(before, listing(&dir.path()));
}

fn two_runs_at_once() {
    let dir = Dir::new("tree-twice");
    let (source, output) = (tree(&dir), dir.make("dst"));
    for (busy, command) in [
        (&output, to_copy(&source, &output)),
        (&source, in_place(&source)),
    ] {
        let held = File::open(busy).expect("a directory");
        rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
        refused(&command.run(), &["another run"]);
    }
}

/// A child has its parent's open files from fork to exec. One that another thread starts while `tree` runs
/// does not keep the next run away.
fn a_child_that_is_just_starting() {
    let dir = Dir::new("tree-child");
    let (source, output) = (tree(&dir), dir.join("dst"));
    let (mut forked, tell) = std::io::pipe().expect("a pipe");
    let (wait, mut exec) = std::io::pipe().expect("a pipe");
    let mut child = std::process::Command::new("true");
    let between = move || {
        rustix::io::write(&tell, b"1")?;
        rustix::io::read(&wait, &mut [0u8])?;
        Ok(())
    };
    // SAFETY: the closure makes raw system calls only, which is allowed between fork and exec.
    unsafe { child.pre_exec(between) };
    let mut child = Some(child);
    let options = allocs_rewrite::TreeOptions::new(&source, Some(output.clone()));
    let mut started = None;
    let report = allocs_rewrite::tree(&options, &mut |_, _| {
        started.get_or_insert_with(|| {
            let mut child = child.take().expect("once");
            let child = std::thread::spawn(move || child.spawn().expect("a child"));
            forked.read_exact(&mut [0]).expect("the child's word");
            child
        });
        std::ops::ControlFlow::Continue(())
    });
    let next = to_copy(&source, &output).run();
    exec.write_all(b"1").expect("written");
    let mut child = started
        .expect("a step of the run")
        .join()
        .expect("a thread");
    assert!(child.wait().expect("its status").success());
    assert!(report.expect("a report").failures.is_empty());
    assert_eq!(next.code(), Some(0), "{next}");
}

/// A link in the place of a directory would lead out of the copy.
fn something_in_the_way() {
    let dir = Dir::new("tree-in-the-way");
    let (source, output) = (tree(&dir), dir.make("dst/usr"));
    let output = output.with_file_name("");
    let elsewhere = dir.make("elsewhere");
    symlink(&elsewhere, output.join("usr/libexec")).expect("a link");
    fs::create_dir_all(output.join("usr/bin/true")).expect("a directory");
    let outcome = to_copy(&source, &output).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert_eq!(outcome.stderr().lines().count(), 2, "{outcome}");
    for word in ["libexec: is in the way", "usr/bin/true: cannot rename"] {
        assert!(outcome.stderr().contains(word), "{word}: {outcome}");
    }
    assert!(listing(&elsewhere).is_empty());
    Command::new(output.join("usr/bin/cat")).succeed();
}

/// Who is not root owns the copy, and reads what may be read.
fn without_root() {
    let dir = Dir::new("tree-without-root");
    let source = tree(&dir);
    let mode = |path: &str, mode| {
        fs::set_permissions(source.join(path), Permissions::from_mode(mode)).expect("a mode");
    };
    dir.write("src/etc/secret", "secret");
    dir.write("src/etc/closed/file", "closed");
    dir.write("src/etc/text", "text");
    mode("etc/secret", 0o600);
    mode("etc/closed", 0o700);
    mode("usr/libexec", 0o555);
    mode("etc/text", 0o4755);
    let home = dir.make("home");
    chown(&home, Some(12345), Some(12345)).expect("an owner");
    let output = home.join("dst");
    let run = || {
        Command::new(needs("setpriv"))
            .args([
                "--reuid=12345",
                "--regid=12345",
                "--clear-groups",
                "--inh-caps=-all",
            ])
            .arg(tool::binary())
            .args(["tree", "--json"])
            .arg(&source)
            .arg("-o")
            .arg(&output)
            .run()
    };
    let mut before = None;
    for _ in 0..2 {
        let outcome = run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert_eq!(json(&outcome)["rewritten"], 4, "{outcome}");
        for word in ["etc/secret: cannot open", "etc/closed: cannot read"] {
            assert!(outcome.stderr().contains(word), "{word}: {outcome}");
        }
        assert_eq!(
            outcome.stderr().matches("etc/closed").count(),
            1,
            "{outcome}"
        );
        Command::new(output.join("usr/libexec/x/cat")).succeed();
        let mode = |path: &str| {
            fs::metadata(output.join(path))
                .expect("it")
                .permissions()
                .mode()
        };
        assert_eq!(mode("usr/libexec") & 0o7777, 0o555, "{outcome}");
        assert_eq!(mode("etc/text") & 0o7777, 0o755, "{outcome}");
        let mut now = listing(&output);
        now.retain(|path, _| path.is_file());
        assert!(before.is_none_or(|before| before == now), "{outcome}");
        before = Some(now);
    }
}

/// A file that grows while it is copied is named, and copied by the next run.
fn what_others_make_meanwhile() {
    let dir = Dir::new("tree-meanwhile");
    let source = tree(&dir);
    let log = dir.write("src/log", vec![b'x'; 64 << 20]);
    let output = dir.join("dst");
    let options = allocs_rewrite::TreeOptions::new(&source, Some(output.clone()));
    let stop = std::sync::atomic::AtomicBool::new(false);
    let report = std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut file = File::options().append(true).open(&log).expect("the log");
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                file.write_all(b"more\n").expect("written");
                std::thread::sleep(std::time::Duration::from_micros(100)); // a log, no flood
            }
        });
        let len = || fs::metadata(&log).expect("the log").len();
        while len() == 64 << 20 {
            std::thread::yield_now(); // the writer has not begun
        }
        let report =
            allocs_rewrite::tree(&options, &mut |_, _| std::ops::ControlFlow::Continue(()));
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        report.expect("a report")
    });
    let messages: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
    assert_eq!(messages.len(), 1, "{messages:?}");
    assert!(
        messages[0].contains("changed while it was being copied"),
        "{messages:?}"
    );
    assert!(!output.join("log").exists());
    to_copy(&source, &output).succeed();
    assert!(fs::read(output.join("log")).expect("it") == fs::read(&log).expect("the log"));
}
