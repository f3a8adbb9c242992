//! `--in-place`: the program is replaced with all that belongs to it, or edited where it is; there is
//! never anything between the old program and the new one.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, Outcome, needs, trials};
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["in_place":
        usage,
        what_belongs_to_the_file_is_kept,
        through_a_link,
        direct_edits_the_file,
        direct_replaces_what_has_to_grow,
        direct_replaces_a_running_program,
        direct_replaces_a_privileged_program,
        direct_cut_off,
        direct_cut_off_and_linked_again,
        direct_twice_at_once,
        direct_with_a_damaged_record,
        direct_disk_error,
    ]
}

fn program(dir: &Dir) -> PathBuf {
    Sample::named("threads").build(&dir.path(), Variant::GCC, &[])
}

fn in_place(how: &str, file: &Path) -> Command {
    Command::new(tool::binary())
        .arg(how)
        .arg("--json")
        .arg(file)
}

fn json(outcome: &Outcome) -> Value {
    serde_json::from_str(&outcome.stdout()).unwrap_or_else(|error| panic!("{outcome}{error}"))
}

/// The report's notes in one text.
fn notes(outcome: &Outcome) -> String {
    json(outcome)["notes"].to_string()
}

fn read(path: &Path) -> Vec<u8> {
    fs::read(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// What a rewrite to another file makes.
fn expected(dir: &Dir, program: &Path) -> Vec<u8> {
    let out = dir.join("expected");
    Command::new(tool::binary())
        .arg(program)
        .arg("-o")
        .arg(&out)
        .succeed();
    read(&out)
}

/// Where the run before the rewrite was cut off, say.
fn record(program: &Path) -> PathBuf {
    let name = program.file_name().unwrap().to_string_lossy();
    program.with_file_name(format!(".{name}.allocs-rewrite"))
}

fn usage() {
    let dir = Dir::new("in-place-usage");
    let file = program(&dir);
    let rewriter = || Command::new(tool::binary()).arg(&file);
    let lines: [&[&str]; 3] = [&[], &["-o", "x", "--in-place"], &["--in-place=elsewhere"]];
    for line in lines {
        let outcome = rewriter().args(line).run();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
    }
}

/// Owner, mode, ACL and extended attributes; not the modification time, which make looks at.
fn what_belongs_to_the_file_is_kept() {
    let dir = Dir::new("in-place-kept");
    let file = program(&dir);
    Command::line("chown 1234:2345").arg(&file).succeed();
    Command::line("chmod 0751").arg(&file).succeed();
    Command::new(needs("setfacl"))
        .args(["-m", "u:33:r"])
        .arg(&file)
        .succeed();
    Command::new(needs("setfattr"))
        .args(["-n", "user.origin", "-v", "somewhere"])
        .arg(&file)
        .succeed();
    Command::line("touch -d 2001-02-03").arg(&file).succeed();
    let kept = |file: &Path| {
        let metadata = fs::metadata(file).expect("metadata");
        let acl = Command::new(needs("getfacl"))
            .args(["-c", "-p", "-n"])
            .arg(file)
            .succeed();
        let xattrs = Command::new(needs("getfattr"))
            .args(["-d", "--absolute-names"])
            .arg(file)
            .succeed();
        let numbers = (metadata.uid(), metadata.gid(), metadata.mode());
        (numbers, acl.stdout(), xattrs.stdout())
    };
    let (before, old) = (kept(&file), fs::metadata(&file).expect("metadata"));
    assert!(
        before.1.contains("user:33:r") && before.2.contains("somewhere"),
        "{before:?}"
    );
    for command in [
        &["--in-place"][..],
        &["undo", "--in-place"],
        &["--in-place=direct"],
    ] {
        Command::new(tool::binary())
            .args(command)
            .arg(&file)
            .succeed();
        assert_eq!(kept(&file), before, "{command:?}");
        let new = fs::metadata(&file).expect("metadata");
        assert!(
            new.mtime() > old.mtime(),
            "{command:?}: the old modification time"
        );
    }
}

/// The link stays one, and the runtime is beside the program itself.
fn through_a_link() {
    let dir = Dir::new("in-place-link");
    let file = program(&dir);
    let expected = expected(&dir, &file);
    let link = dir.make("links").join("link");
    symlink(&file, &link).expect("a link");
    in_place("--in-place", &link).succeed();
    assert!(
        link.is_symlink() && read(&file) == expected,
        "{}",
        file.display()
    );
    assert!(!link.with_file_name(RUNTIME).exists() && file.with_file_name(RUNTIME).exists());
    Command::new(&link).succeed();
}

/// The inode is the same, so hard links see it, and it is what a copy would be.
fn direct_edits_the_file() {
    let dir = Dir::new("direct");
    let file = program(&dir);
    let original = read(&file);
    let expected = expected(&dir, &file);
    let link = dir.join("link");
    fs::hard_link(&file, &link).expect("a hard link");
    let outcome = in_place("--in-place=direct", &file).succeed();
    assert_eq!(json(&outcome)["written"], "direct", "{outcome}");
    assert!(read(&link) == expected, "{outcome}");
    Command::new(&link).succeed();
    Command::new(tool::binary())
        .args(["undo", "--in-place=direct"])
        .arg(&file)
        .succeed();
    assert!(read(&link) == original, "{outcome}");
    assert!(!record(&file).exists(), "{outcome}");
}

fn replaced(outcome: &Outcome, reason: &str) {
    assert_eq!(json(outcome)["written"], "whole", "{outcome}");
    assert!(notes(outcome).contains(reason), "{outcome}");
}

fn direct_replaces_what_has_to_grow() {
    let dir = Dir::new("direct-grows");
    let file = program(&dir);
    let runtime = dir.join(format!("{RUNTIME}-by-a-name-that-is-too-long"));
    fs::copy(tool::runtime(), &runtime).expect("a runtime");
    let outcome = in_place("--in-place=direct", &file)
        .arg("--runtime")
        .arg(&runtime)
        .succeed();
    replaced(&outcome, "grow");
    Command::new(&file).succeed();
}

/// Its pages must not change under it.
fn direct_replaces_a_running_program() {
    let dir = Dir::new("direct-running");
    let file = dir.join("sleep");
    fs::copy("/bin/sleep", &file).expect("a program");
    let mut running = std::process::Command::new(&file)
        .arg("1000")
        .spawn()
        .expect("it runs");
    let exe = PathBuf::from(format!("/proc/{}/exe", running.id()));
    while fs::read_link(&exe).ok().as_ref() != Some(&file) {
        std::thread::yield_now(); // not yet past exec
    }
    let original = read(&file);
    let outcome = in_place("--in-place=direct", &file).run();
    let unchanged = read(&exe) == original;
    running.kill().expect("killed");
    running.wait().expect("its end");
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    replaced(&outcome, "running");
    assert!(unchanged, "{outcome}");
    assert!(read(&file) != original, "{outcome}");
}

/// A write to it would take its capabilities away.
fn direct_replaces_a_privileged_program() {
    let dir = Dir::new("direct-privileged");
    let file = program(&dir);
    Command::new(needs("setcap"))
        .arg("cap_net_raw+ep")
        .arg(&file)
        .succeed();
    let trusted = Dir::of_root("runtime");
    let outcome = in_place("--in-place=direct", &file)
        .args(["--allow-setuid", "--runtime"])
        .arg(tool::runtime_in(&trusted))
        .succeed();
    replaced(&outcome, "privileges");
    let capabilities = Command::new(needs("getcap")).arg(&file).succeed();
    assert!(
        capabilities.stdout().contains("cap_net_raw"),
        "{capabilities}"
    );
    Command::new(&file).succeed();
}

/// Killed at each of its writes, and at each change of a name: the next run makes it whole, whatever
/// it is asked for.
fn direct_cut_off() {
    let dir = Dir::new("direct-cut-off");
    let file = program(&dir);
    let original = read(&file);
    let expected = expected(&dir, &file);
    let mut recovered = 0;
    for (calls, most) in [
        ("pwrite64", 40),
        ("rename,renameat,renameat2", 4),
        ("unlink,unlinkat", 4),
    ] {
        for number in 1..=most {
            let outcome = Command::new(needs("strace"))
                .args(["-f", "-o", "/dev/null", "-e"])
                .arg(format!("inject={calls}:signal=KILL:when={number}"))
                .arg(tool::binary())
                .arg("--in-place=direct")
                .arg(&file)
                .run();
            if outcome.code() == Some(0) {
                assert!(number > 1, "{calls} is never called: {outcome}");
                break;
            }
            assert_ne!(number, most, "{calls}: more calls than were thought of");
            // Another command than the one that was cut off.
            let out = dir.join("out");
            let next = Command::new(tool::binary())
                .arg(&file)
                .arg("-o")
                .arg(&out)
                .run();
            match next.code() {
                // The last name was changed before the end: the program is whole.
                Some(1) => assert!(next.stderr().contains("already rewritten"), "{next}"),
                _ => assert!(read(&out) == expected, "{outcome}{next}"),
            }
            assert!(!record(&file).exists(), "{outcome}{next}");
            let now = read(&file);
            assert!(now == original || now == expected, "{outcome}{next}");
            recovered += usize::from(next.stdout().contains("taken back"));
            fs::write(&file, &original).expect("the original");
        }
        fs::write(&file, &original).expect("the original");
    }
    assert!(recovered > 2, "cut off in the middle {recovered} times");
}

/// A run was cut off, and then the program was linked again, in the same inode: that is what counts.
fn direct_cut_off_and_linked_again() {
    let dir = Dir::new("direct-linked-again");
    let file = program(&dir);
    Command::new(needs("strace"))
        .args(["-f", "-o", "/dev/null", "-e"])
        .arg("inject=pwrite64:signal=KILL:when=2")
        .arg(tool::binary())
        .arg("--in-place=direct")
        .arg(&file)
        .run();
    assert!(record(&file).exists(), "this was to be cut off");
    let another = read(Path::new("/usr/bin/env"));
    assert!(read(&file) != another);
    fs::write(&file, &another).expect("another program");
    in_place("--in-place=direct", &file).succeed();
    assert!(!record(&file).exists());
    assert!(tool::undo(&file) == another);
}

/// While a run edits the program, another one keeps away.
fn direct_twice_at_once() {
    let dir = Dir::new("direct-twice");
    let file = program(&dir);
    let record = record(&file);
    fs::write(&record, "{}").expect("a record");
    let held = fs::File::open(&record).expect("the record");
    rustix::fs::flock(&held, rustix::fs::FlockOperation::LockExclusive).expect("a lock");
    let before = read(&file);
    let outcome = in_place("--in-place=direct", &file).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(
        outcome.stderr().contains("editing the program now"),
        "{outcome}"
    );
    assert!(read(&file) == before && record.exists(), "{outcome}");
}

fn direct_with_a_damaged_record() {
    let dir = Dir::new("direct-damaged");
    let file = program(&dir);
    let record = record(&file);
    fs::write(&record, "{\"inode\": 7, ").expect("a record");
    let before = read(&file);
    let outcome = in_place("--in-place=direct", &file).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let told = outcome.stderr().contains(&*record.to_string_lossy());
    assert!(
        told && outcome.stderr().contains("build the program again"),
        "{outcome}"
    );
    assert!(read(&file) == before, "{outcome}");

    // One of another file that had the name is of no use to anybody.
    fs::write(&record, "{\"inode\": 7, \"edits\": []}").expect("a record");
    in_place("--in-place=direct", &file).succeed();
    assert!(!record.exists());
}

/// The old bytes are back.
fn direct_disk_error() {
    let dir = Dir::new("direct-error");
    let file = program(&dir);
    let before = read(&file);
    for number in 1..=5 {
        let outcome = Command::new(needs("strace"))
            .args(["-f", "-o", "/dev/null", "-e"])
            .arg(format!("inject=pwrite64:error=EIO:when={number}"))
            .arg(tool::binary())
            .arg("--in-place=direct")
            .arg(&file)
            .run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains("Input/output error"), "{outcome}");
        assert!(read(&file) == before, "{outcome}");
        assert!(!record(&file).exists(), "{outcome}");
    }
}
