//! A second run of `allocs-rewrite tree` does what is left to do, and nothing more; the manifest says what
//! is there.

use std::fs::{self, Permissions};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::dir::{copy_program, listing};
use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trees::{assert_copy, file, json, one_of_each, to_copy, with_outcome};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["trees_again":
        nothing_is_written,
        what_changed_is_done_again,
        another_runtime,
        manifest_is_the_same_every_time,
        digests,
        manifest_in_the_tree,
        no_manifest_there,
    ]
}

/// A tree with one of each kind, and its copy.
struct Place {
    dir: Dir,
    source: PathBuf,
    output: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        let dir = Dir::new(name);
        let (source, output) = (one_of_each(&dir), dir.join("dst"));
        // A file system's clock may stand still for some milliseconds.
        std::thread::sleep(Duration::from_millis(20));
        let place = Self {
            dir,
            source,
            output,
        };
        assert_eq!(place.run()["made"], 3);
        place
    }

    fn run(&self) -> Value {
        json(&to_copy(&self.source, &self.output).succeed())
    }

    fn manifest(&self) -> PathBuf {
        self.dir.join("dst.allocs-tree.json")
    }
}

/// No inode changes, and no system call that would change one is made.
fn nothing_is_written() {
    let place = Place::new("again-nothing");
    let before = listing(&place.dir.path());
    let report = place.run();
    assert_eq!((&report["made"], &report["copied"]), (&0.into(), &0.into()));
    assert_eq!(report["rewritten"], 3);
    assert_eq!(before, listing(&place.dir.path()));

    let log = place.dir.join("log");
    let outcome = Command::new(needs("strace"))
        .args(["-f", "-qq", "-e"])
        .arg(
            "trace=open,openat,creat,rename,renameat,renameat2,unlink,unlinkat,link,linkat,symlink,symlinkat,\
             mkdir,mkdirat,mknodat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,utimensat,setxattr,\
             lsetxattr,fsetxattr,truncate,ftruncate,pwrite64,copy_file_range",
        )
        .arg("-o")
        .arg(&log)
        .args(["sh", "-c", "exec \"$@\" > /dev/null", "sh"])
        .arg(allocs_tests::tool::binary())
        .arg("tree")
        .arg(&place.source)
        .arg("-o")
        .arg(&place.output)
        .succeed();
    let log = fs::read_to_string(&log).expect("a log");
    // The rest of a call that another thread's came between says nothing that its beginning did not.
    let harmless = |line: &&str| {
        ["O_RDONLY", "/dev/null", " resumed>"]
            .iter()
            .any(|word| line.contains(word))
    };
    let writes: Vec<&str> = log.lines().filter(|line| !harmless(line)).collect();
    assert!(writes.is_empty(), "{outcome}{writes:#?}");
}

/// Whatever changed, and however: bytes, bytes with the old time, attributes; in the source or in the copy.
fn what_changed_is_done_again() {
    let place = Place::new("again-changed");
    let rewritten = ["usr/bin/threads", "usr/bin/true"].map(PathBuf::from);
    let odd = file_with(&place.source.join("usr/bin"), "odd");
    let rewritten = [&rewritten[..], &[Path::new("usr/bin").join(odd)]].concat();
    let runtimes = ["usr/bin", "usr/libexec"].map(|dir| Path::new(dir).join(RUNTIME));
    let (source, output) = (&place.source, &place.output);
    let with_old_time = |path: &Path, change: &dyn Fn()| {
        let time = fs::metadata(path)
            .expect("metadata")
            .modified()
            .expect("a time");
        change();
        let file = fs::File::options().write(true).open(path).expect("open");
        file.set_modified(time).expect("the old time");
    };
    let text = source.join("etc/text");
    let program = source.join("usr/bin/true");
    let copy = output.join("usr/bin/true");
    let changes: [(&str, &dyn Fn()); 9] = [
        ("text", &|| fs::write(&text, "new text\n").expect("written")),
        ("text of the same age", &|| {
            with_old_time(&text, &|| fs::write(&text, "odd text\n").expect("written"));
        }),
        ("mode", &|| {
            fs::set_permissions(&text, Permissions::from_mode(0o640)).expect("a mode");
        }),
        ("attribute", &|| {
            let setfattr = Command::new(needs("setfattr")).args(["-n", "user.new", "-v", "1"]);
            setfattr.arg(&text).succeed();
        }),
        ("a name less", &|| {
            fs::remove_file(output.join("etc/text-too")).expect("removed")
        }),
        ("another program", &|| {
            copy_program(Path::new("/bin/cat"), &program)
        }),
        ("a program of the same age", &|| {
            with_old_time(&program, &|| {
                fs::copy("/bin/false", &program).expect("copied");
            });
        }),
        ("the original in the copy", &|| {
            fs::remove_file(&copy).expect("removed");
            Command::line("cp -a --").args([&program, &copy]).succeed();
        }),
        ("no manifest", &|| {
            fs::remove_file(place.manifest()).expect("removed")
        }),
    ];
    for (what, change) in changes {
        std::thread::sleep(Duration::from_millis(20));
        change();
        let report = place.run();
        let made = report["made"].as_u64().zip(report["copied"].as_u64());
        assert!(
            made.is_some_and(|(made, copied)| made + copied > 0),
            "{what}: {report:#}"
        );
        assert_copy(source, output, &rewritten, &runtimes);
        assert_eq!(place.run()["made"], 0, "{what}");
    }
    // What the source has no more stays, as with cp.
    fs::remove_file(&text).expect("removed");
    place.run();
    assert!(output.join("etc/text").exists());
}

fn file_with(dir: &Path, start: &str) -> std::ffi::OsString {
    let mut names = fs::read_dir(dir)
        .expect("a directory")
        .map(|e| e.expect("e").file_name());
    names
        .find(|name| name.to_string_lossy().starts_with(start))
        .expect("a name")
}

/// The copy is made of the source, not of the copy.
fn another_runtime() {
    let place = Place::new("again-runtime");
    let other = || to_copy(&place.source, &place.output).args(["--runtime", "librt-other.so"]);
    assert_eq!(json(&other().succeed())["made"], 3);
    let report = json(&other().succeed());
    assert_eq!(report["made"], 0);
    assert_eq!(
        file(&report, "usr/bin/true")["starts"]["needed"],
        "librt-other.so"
    );
    let report = json(&other().args(["--exclude", "true"]).succeed());
    assert_eq!(with_outcome(&report, "rewritten").len(), 2);
    let same = fs::read(place.output.join("usr/bin/true")).expect("the copy")
        == fs::read(place.source.join("usr/bin/true")).expect("the original");
    assert!(same, "{report:#}");
    // What was left unseen with --partial is not taken for more without it.
    let partial = || to_copy(&place.source, &place.output).arg("--partial");
    assert_eq!(json(&partial().succeed())["made"], 3);
    assert_eq!(json(&partial().succeed())["made"], 0);
    assert_eq!(place.run()["made"], 3);
}

/// Wherever the copy is.
fn manifest_is_the_same_every_time() {
    let place = Place::new("again-manifest");
    let first = fs::read(place.manifest()).expect("a manifest");
    let text = String::from_utf8_lossy(&first);
    assert!(
        !text.contains(&*place.dir.path().to_string_lossy()),
        "{text}"
    );
    let (other, manifest) = (place.dir.join("other"), place.dir.join("other.json"));
    to_copy(&place.source, &other)
        .arg("--manifest")
        .arg(&manifest)
        .succeed();
    assert!(first == fs::read(&manifest).expect("a manifest"));
}

/// Those that b3sum(1) finds, and sizes and times of the source's files.
fn digests() {
    let place = Place::new("again-digests");
    let manifest = fs::read(place.manifest()).expect("a manifest");
    let manifest: Value = serde_json::from_slice(&manifest).expect("JSON");
    let files = manifest["files"].as_array().expect("a list");
    let paths: Vec<&str> = files
        .iter()
        .map(|file| file["path"].as_str().expect("a path"))
        .collect();
    assert!(paths.is_sorted(), "{paths:?}");
    for path in ["usr/bin/also-threads", "usr/bin/true"] {
        let found = file(&manifest, path);
        for (top, side) in [(&place.source, "input"), (&place.output, "output")] {
            let sum = Command::new(needs("b3sum")).arg(top.join(path)).succeed();
            let sum = sum.stdout().split_whitespace().next().map(str::to_owned);
            assert_eq!(
                found[side]["blake3"].as_str(),
                sum.as_deref(),
                "{path}: {side}"
            );
            let metadata = fs::metadata(top.join(path)).expect("metadata");
            assert_eq!(found[side]["size"], metadata.len(), "{path}: {side}");
        }
        let metadata = fs::metadata(place.source.join(path)).expect("metadata");
        let time = format!("{}.{:09}", metadata.mtime(), metadata.mtime_nsec());
        assert_eq!(found["input"]["modified"], time, "{path}");
    }
}

/// Its directory has the time of the source's all the same, and the second run writes nothing.
fn manifest_in_the_tree() {
    let place = Place::new("again-manifest-inside");
    let manifest = place.output.join("etc/manifest.json");
    let run = || {
        let command = to_copy(&place.source, &place.output);
        json(&command.arg("--manifest").arg(&manifest).succeed())
    };
    run();
    let time = |top: &Path| {
        fs::metadata(top.join("etc"))
            .expect("it")
            .modified()
            .expect("a time")
    };
    assert_eq!(time(&place.source), time(&place.output));
    let before = listing(&place.output);
    assert_eq!(run()["made"], 0);
    assert_eq!(before, listing(&place.output));
}

/// Nobody's file is replaced by a manifest.
fn no_manifest_there() {
    let place = Place::new("again-no-manifest");
    fs::write(place.manifest(), "{\"mine\": true}").expect("written");
    let before = listing(&place.dir.path());
    let outcome = to_copy(&place.source, &place.output).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(
        outcome.stderr().contains("is no manifest of a tree"),
        "{outcome}"
    );
    assert_eq!(before, listing(&place.dir.path()));
}
