//! `allocs-rewrite tree --in-place DIR`: the executables are replaced, and nothing else is touched.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use allocs_tests::dir::listing;
use allocs_tests::snapshot::{Node, assert_same, snapshot};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::trees::{file, json, one_of_each};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["trees_in_place":
        executables_alone,
        back_again,
        another_runtime,
        hard_links_cut_off,
        old_file_written_to,
    ]
}

pub(crate) fn in_place(tree: &Path) -> Command {
    Command::new(tool::binary())
        .args(["tree", "--in-place", "--json"])
        .arg(tree)
}

/// What is left of a snapshot without times of what changed, and without the executables' bytes.
fn comparable(tree: &Path) -> BTreeMap<PathBuf, Node> {
    let mut all = snapshot(tree);
    all.retain(|path, _| !path.ends_with(RUNTIME));
    for (path, node) in &mut all {
        let program = path.starts_with("usr") && node.mode & 0o100_111 > 0o100_000;
        if program && !path.ends_with("script") {
            (node.content, node.size) = (0, 0);
            node.modified = (0, 0);
        }
        if node.mode & 0o40_000 != 0 {
            node.modified = (0, 0);
        }
    }
    all
}

fn executables_alone() {
    let dir = Dir::new("tree-in-place");
    let tree = one_of_each(&dir);
    let elsewhere = dir.join("elsewhere");
    fs::hard_link(tree.join("usr/bin/true"), &elsewhere).expect("a hard link");
    let (before, inode) = (
        comparable(&tree),
        fs::metadata(tree.join("etc/text")).expect("it").ino(),
    );
    let manifest = dir.join("manifest.json");
    let run = || json(&in_place(&tree).arg("--manifest").arg(&manifest).succeed());
    let report = run();
    assert_eq!(
        (&report["rewritten"], &report["made"]),
        (&3.into(), &3.into()),
        "{report:#}"
    );
    assert_same(&before, &comparable(&tree));
    assert_eq!(
        fs::metadata(tree.join("etc/text")).expect("it").ino(),
        inode
    );
    assert!(fs::read(&elsewhere).expect("it") == fs::read("/bin/true").expect("true"));
    for name in ["usr/bin/threads", "usr/libexec/threads", "usr/bin/link"] {
        let outcome = Command::new(tree.join(name))
            .env("ALLOCS_REPORT", "-")
            .succeed();
        assert!(
            outcome.stderr().contains("started: relocation"),
            "{outcome}"
        );
    }

    // The second time, there is nothing to do, and the manifest says the same.
    let (files, text) = (
        listing(&dir.path()),
        fs::read(&manifest).expect("a manifest"),
    );
    let report = run();
    assert_eq!(
        (&report["rewritten"], &report["made"]),
        (&3.into(), &0.into()),
        "{report:#}"
    );
    assert_eq!(files, listing(&dir.path()));
    assert!(text == fs::read(&manifest).expect("a manifest"));
    let sum = Command::new(needs("b3sum"))
        .arg("/bin/true")
        .succeed()
        .stdout();
    let of_original = &file(&report, "usr/bin/true")["input"]["blake3"];
    assert_eq!(
        of_original.as_str(),
        sum.split_whitespace().next(),
        "{report:#}"
    );
    // Nobody asked for one.
    in_place(&tree).succeed();
    assert_eq!(files, listing(&dir.path()));
}

/// What undo makes of each is what it was.
fn back_again() {
    let dir = Dir::new("tree-in-place-undo");
    let tree = one_of_each(&dir);
    let before = snapshot(&tree);
    in_place(&tree).succeed();
    for path in ["usr/bin/threads", "usr/bin/true"] {
        Command::new(tool::binary())
            .args(["undo", "--in-place"])
            .arg(tree.join(path))
            .succeed();
        let now = snapshot(&tree);
        let path = Path::new(path);
        assert_eq!(
            now[path].content,
            before[path].content,
            "{}",
            path.display()
        );
    }
}

/// One that is named replaces what is there; without a name, it stays.
fn another_runtime() {
    let dir = Dir::new("tree-in-place-runtime");
    let tree = one_of_each(&dir);
    let needed = |report: &Value| file(report, "usr/bin/true")["starts"]["needed"].clone();
    in_place(&tree).succeed();
    let other = || {
        json(
            &in_place(&tree)
                .args(["--runtime", "librt-other.so"])
                .succeed(),
        )
    };
    let report = other();
    assert_eq!(
        (needed(&report), &report["made"]),
        ("librt-other.so".into(), &3.into())
    );
    assert_eq!(other()["made"], 0);
    let report = json(&in_place(&tree).succeed());
    assert_eq!(
        (needed(&report), &report["made"]),
        ("librt-other.so".into(), &0.into())
    );
    assert!(tool::undo(&tree.join("usr/bin/true")) == fs::read("/bin/true").expect("true"));
}

/// Three names of one file, and a run that is killed at each change of a name: after the next run, they
/// are three names of one rewritten file.
fn hard_links_cut_off() {
    let dir = Dir::new("tree-in-place-links");
    let original = fs::read("/bin/true").expect("true");
    let names = ["bin/a", "bin/b", "libexec/c"];
    let mut between = 0;
    for (calls, most) in [
        ("link,linkat", 5),
        ("rename,renameat,renameat2", 6),
        ("unlink,unlinkat", 5),
    ] {
        for number in 1..=most {
            let _ = fs::remove_dir_all(dir.join("tree"));
            let tree = dir.make("tree");
            for name in names {
                fs::create_dir_all(tree.join(name).with_file_name("")).expect("a directory");
            }
            let first = tree.join(names[0]);
            allocs_tests::dir::copy_program(Path::new("/bin/true"), &first);
            for name in &names[1..] {
                fs::hard_link(&first, tree.join(name)).expect("a hard link");
            }
            let outcome = Command::new(needs("strace"))
                .args(["-f", "-o", "/dev/null", "-e"])
                .arg(format!("inject={calls}:signal=KILL:when={number}"))
                .arg(tool::binary())
                .args(["tree", "--in-place"])
                .arg(&tree)
                .run();
            if outcome.code() == Some(0) {
                assert!(number > 1, "{calls} is never called: {outcome}");
                break;
            }
            assert_ne!(number, most, "{calls}: more calls than were thought of");
            let contents = names.map(|name| fs::read(tree.join(name)).expect("a program"));
            let old = contents
                .iter()
                .filter(|content| **content == original)
                .count();
            between += usize::from(old != 0 && old != names.len());
            let next = in_place(&tree).succeed();
            let inodes = names.map(|name| fs::metadata(tree.join(name)).expect("it").ino());
            assert!(
                inodes.iter().all(|inode| *inode == inodes[0]),
                "{outcome}{next}"
            );
            assert!(tool::undo(&first) == original, "{outcome}{next}");
            assert_no_left_overs(&tree);
        }
    }
    assert!(between >= 2, "cut off in the middle {between} times");
}

/// Who wrote to the old file meanwhile keeps what he wrote.
fn old_file_written_to() {
    let dir = Dir::new("tree-in-place-written");
    let tree = dir.make("tree");
    let [first, second] = ["a", "b"].map(|name| tree.join(name));
    allocs_tests::dir::copy_program(Path::new("/bin/true"), &first);
    in_place(&tree).succeed();
    allocs_tests::dir::copy_program(Path::new("/bin/false"), &second);
    fs::hard_link(&second, tree.join(".a.allocs-rewrite-old")).expect("what was left");
    in_place(&tree).succeed();
    assert!(tool::undo(&second) == fs::read("/bin/false").expect("false"));
    assert_no_left_overs(&tree);
}

/// No file that the rewriter makes for a while.
pub(crate) fn assert_no_left_overs(tree: &Path) {
    let is_ours = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with('.') && name.contains("allocs-rewrite")
    };
    let left: Vec<PathBuf> = listing(tree).into_keys().filter(is_ours).collect();
    assert!(left.is_empty(), "{left:?}");
}
