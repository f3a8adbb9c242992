//! `allocs-rewrite tree SRC -o DST`: the executables are rewritten, and everything else is what `cp -a`
//! makes of it.

use std::fs::{self, Permissions};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use allocs_rewrite::Destination;
use allocs_tests::dir::copy_program;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::snapshot::{assert_same, snapshot};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::tree::{self, Tree};
use allocs_tests::{Command, Dir, Outcome, needs, trials};
use libtest_mimic::Trial;
use serde_json::Value;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["trees":
        a_whole_system,
        everything_else_is_copied,
        what_is_no_executable,
        a_runtime_in_each_directory,
        runtimes_of_the_source,
        a_runtime_in_the_tree,
        a_rewritten_source,
        setuid,
    ]
}

/// `allocs-rewrite tree SRC -o DST --json`
pub(crate) fn to_copy(source: &Path, output: &Path) -> Command {
    Command::new(tool::binary())
        .arg("tree")
        .arg(source)
        .arg("-o")
        .arg(output)
        .arg("--json")
}

pub(crate) fn json(outcome: &Outcome) -> Value {
    serde_json::from_slice(&outcome.stdout).unwrap_or_else(|error| panic!("{outcome}{error}"))
}

/// What the report says of the file at `path`.
pub(crate) fn file<'r>(report: &'r Value, path: &str) -> &'r Value {
    let files = report["files"].as_array().expect("a list");
    let found = files.iter().find(|file| file["path"] == path);
    found.unwrap_or_else(|| panic!("{path} is not in {report:#}"))
}

/// Paths of the files with that outcome.
pub(crate) fn with_outcome(report: &Value, outcome: &str) -> Vec<PathBuf> {
    let files = report["files"].as_array().expect("a list").iter();
    let found = files.filter(|file| file["outcome"] == outcome);
    found
        .map(|file| PathBuf::from(file["path"].as_str().expect("a path")))
        .collect()
}

/// The copy is what `cp -a` makes, but for the bytes of the `rewritten` files, which lead back to those
/// of the original, and for `more` files.
pub(crate) fn assert_copy(source: &Path, output: &Path, rewritten: &[PathBuf], more: &[PathBuf]) {
    let dir = Dir::new("cp-a");
    let expected = dir.join("expected");
    Command::line("cp -a --")
        .args([source, &expected])
        .succeed();
    for path in rewritten {
        let back = dir.join("back");
        let destination = Destination::File(back.clone());
        allocs_rewrite::undo(&output.join(path), &destination, &mut |_, _| {
            std::ops::ControlFlow::Continue(())
        })
        .unwrap_or_else(|error| panic!("{error}"));
        let same = fs::read(&back).expect("undone") == fs::read(source.join(path)).expect("it");
        assert!(same, "{}: undo gives something else", path.display());
    }
    let (mut expected, mut found) = (snapshot(&expected), snapshot(output));
    for path in more {
        assert!(found.remove(path).is_some(), "{}", path.display());
    }
    let firsts: Vec<_> = rewritten
        .iter()
        .map(|path| expected[path].first.clone())
        .collect();
    for nodes in [&mut expected, &mut found] {
        for node in nodes
            .values_mut()
            .filter(|node| firsts.contains(&node.first))
        {
            (node.content, node.size) = (0, 0);
        }
    }
    assert_same(&expected, &found);
}

/// A root tree of Debian 12 that has the runtime installed: all of its programs start it, setuid ones, too.
fn a_whole_system() {
    let trees = tree::all().iter();
    let bookworm = trees.into_iter().find(|tree| tree.release == "bookworm");
    let dir = Dir::of_root("whole-system");
    let (source, output) = (dir.join("src"), dir.join("dst"));
    Command::line("cp -a --")
        .args([&bookworm.expect("bookworm").needed().root, &source])
        .succeed();
    let runtime = format!("usr/lib/x86_64-linux-gnu/{RUNTIME}");
    fs::copy(tool::runtime(), source.join(&runtime)).expect("the runtime");
    let outcome = to_copy(&source, &output)
        .args(["--allow-setuid", "--runtime"])
        .arg(format!("/{runtime}"))
        .succeed();
    let report = json(&outcome);
    let rewritten = with_outcome(&report, "rewritten");
    assert!(rewritten.len() > 300, "{} programs", rewritten.len());
    assert_eq!(report["made"], rewritten.len(), "{outcome}");
    assert_copy(&source, &output, &rewritten, &[]);

    let root = Tree {
        release: "copy",
        announces_all: true,
        root: output,
    };
    let variables = [("ALLOCS_REPORT", "-".to_owned())];
    let programs: [(&str, &[&str]); 5] = [
        ("/usr/bin/ls", &["/"]),
        ("/usr/bin/bash", &["-c", "echo $((6*7))"]),
        ("/usr/bin/perl", &["-e", "print 6*7"]),
        ("/usr/bin/dpkg", &["--version"]),
        ("/usr/bin/mount", &["--version"]),
    ];
    for (program, args) in programs {
        let outcome = root.run(&variables, Path::new(program), args);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert!(
            outcome.stderr().contains("started: relocation"),
            "{outcome}"
        );
    }
}

/// A tree with one of each kind.
pub(crate) fn one_of_each(dir: &Dir) -> PathBuf {
    let source = dir.make("src");
    let program = dir.make("src/usr/bin").join("threads");
    fs::rename(
        Sample::named("threads").build(&dir.path(), Variant::GCC, &[]),
        &program,
    )
    .expect("a program");
    copy_program(Path::new("/bin/true"), &source.join("usr/bin/true"));
    fs::create_dir(source.join("usr/libexec")).expect("a directory");
    for link in ["usr/bin/also-threads", "usr/libexec/threads"] {
        fs::hard_link(&program, source.join(link)).expect("a hard link");
    }
    let text = dir.write("src/etc/text", "text\n");
    fs::hard_link(&text, source.join("etc/text-too")).expect("a hard link");
    dir.write("src/etc/empty", "");
    dir.make("src/var/empty");
    let script = dir.write("src/usr/bin/script", "#!/bin/sh\necho script\n");
    fs::set_permissions(script, Permissions::from_mode(0o755)).expect("a mode");
    for (target, link) in [
        ("usr/bin", "bin"),
        ("threads", "usr/bin/link"),
        ("/nowhere/at/all", "dangling"),
        ("../../../../bin/true", "usr/bin/out-of-the-tree"),
    ] {
        symlink(target, source.join(link)).expect("a link");
    }
    let odd = std::ffi::OsStr::from_bytes(b"usr/bin/odd \xff\n");
    copy_program(Path::new("/bin/false"), &source.join(odd));
    let sparse = fs::File::create(source.join("var/sparse")).expect("a file");
    sparse.set_len(64 << 20).expect("a hole");
    Command::new("mkfifo")
        .arg(source.join("var/fifo"))
        .succeed();
    Command::new("mknod")
        .arg(source.join("var/null"))
        .args(["c", "1", "3"])
        .succeed();
    drop(UnixListener::bind(source.join("var/socket")).expect("a socket"));
    dress(&source);
    source
}

/// Owners, modes, ACLs, attributes and times of all kinds.
fn dress(source: &Path) {
    let run = |line: &str, path: &str| {
        let mut words = line.split_whitespace();
        Command::new(needs_or_plain(words.next().expect("a program")))
            .args(words)
            .arg(source.join(path))
            .succeed();
    };
    run("setfacl -m u:33:r", "etc/text");
    run("setfacl -d -m u:34:rwx", "var/empty");
    run("setfattr -n user.origin -v somewhere", "usr/bin/threads");
    run("setfattr -n user.origin -v elsewhere", "etc");
    run("chown -h 12:34", "dangling");
    run("chown 1234:2345", "usr/bin/threads");
    run("chown 33:33", "var");
    run("chmod 0600", "etc/text-too");
    run("chmod 2775", "var/empty");
    run("chmod 0000", "etc/empty");
    run("chmod 1777", "var");
    run("chmod 0555", "usr/libexec");
    run("touch -h -d 2001-02-03T04:05:06.789", "dangling");
    run("touch -d 1999-01-02", "usr/bin/threads");
    run("touch -d 2030-01-02", "var/fifo");
    run("touch -d 2002-03-04", "usr/bin");
    run("touch -d 1969-03-04", "etc");
    run("touch -d 2003-03-04", "");
}

fn needs_or_plain(program: &str) -> PathBuf {
    match program.starts_with("set") {
        true => needs(program),
        false => PathBuf::from(program),
    }
}

fn everything_else_is_copied() {
    let dir = Dir::new("tree-copied");
    let (source, output) = (one_of_each(&dir), dir.join("dst"));
    let outcome = to_copy(&source, &output).succeed();
    let report = json(&outcome);
    assert_eq!(report["rewritten"], 3, "{outcome}");
    let threads = file(&report, "usr/bin/also-threads");
    assert_eq!(threads["links"][0], "usr/bin/threads", "{outcome}");
    assert_eq!(threads["links"][1], "usr/libexec/threads", "{outcome}");

    let odd = PathBuf::from(std::ffi::OsStr::from_bytes(b"usr/bin/odd \xff\n"));
    let rewritten = ["usr/bin/threads", "usr/bin/true"].map(PathBuf::from);
    let rewritten = [&rewritten[..], &[odd]].concat();
    let runtimes = ["usr/bin", "usr/libexec"].map(|place| Path::new(place).join(RUNTIME));
    assert_copy(&source, &output, &rewritten, &runtimes);
    let sparse = fs::metadata(output.join("var/sparse")).expect("it");
    assert!(sparse.blocks() < 64, "{sparse:?}");
    for name in ["usr/bin/threads", "usr/libexec/threads", "usr/bin/link"] {
        Command::new(output.join(name)).succeed();
    }
}

/// They are copied, and nobody complains; with the reason, where one might ask.
fn what_is_no_executable() {
    let dir = Dir::new("tree-no-executable");
    let source = dir.make("src");
    let put = |from: &Path, name: &str| {
        let to = source.join(name);
        copy_program(from, &to);
        fs::set_permissions(&to, Permissions::from_mode(0o755)).expect("a mode");
        to
    };
    let program = put(Path::new("/bin/true"), "program");
    put(Path::new("/lib/x86_64-linux-gnu/libc.so.6"), "libc.so.6");
    put(Path::new("/lib64/ld-linux-x86-64.so.2"), "loader");
    put(Path::new("/lib/x86_64-linux-gnu/libm.so.6"), "libm.so.6");
    let c = dir.write("main.c", "int main(void) { return 0; }");
    let built = source.join("static");
    Command::line("gcc -static -o").args([&built, &c]).succeed();
    let object = source.join("object.o");
    Command::line("gcc -c -o").args([&object, &c]).succeed();
    fs::set_permissions(&object, Permissions::from_mode(0o755)).expect("a mode");
    for (strip, name) in [
        ("objcopy", "program.debug"),
        ("eu-strip", "program.eu-debug"),
    ] {
        let full = dir.join("full");
        Command::line("gcc -g -o").args([&full, &c]).succeed();
        let debug = source.join(name);
        let command = Command::new(needs(strip));
        let command = match strip {
            "objcopy" => command.arg("--only-keep-debug").args([&full, &debug]),
            _ => command.arg("-f").args([&debug, &full]),
        };
        command.succeed();
        fs::set_permissions(&debug, Permissions::from_mode(0o755)).expect("a mode");
    }
    let bytes = fs::read(&program).expect("a program");
    let cut = dir.write("src/cut", &bytes[..70]);
    fs::set_permissions(cut, Permissions::from_mode(0o755)).expect("a mode");
    let not_executable = dir.write("src/not-executable", &bytes);
    fs::set_permissions(not_executable, Permissions::from_mode(0o644)).expect("a mode");
    let other_machine = |from: &str, name: &str| {
        let mut bytes = fs::read(source.join(from)).expect("a file");
        bytes[18] = 43; // EM_SPARCV9
        let path = dir.write(format!("src/{name}"), bytes);
        fs::set_permissions(path, Permissions::from_mode(0o755)).expect("a mode");
    };
    other_machine("libc.so.6", "other-libc.so.6");

    let outcome = to_copy(&source, &dir.join("dst")).succeed();
    let report = json(&outcome);
    assert_eq!(with_outcome(&report, "rewritten"), [Path::new("program")]);
    for (path, word) in [
        ("libc.so.6", "shared object"),
        ("loader", "shared object"),
        ("static", "statically linked"),
        ("object.o", "relocatable"),
        ("other-libc.so.6", "SPARC V9"),
    ] {
        let reason = file(&report, path)["reason"].to_string();
        assert!(reason.contains(word), "{path}: {reason}");
    }
    assert_copy(
        &source,
        &dir.join("dst"),
        &[PathBuf::from("program")],
        &[PathBuf::from(RUNTIME)],
    );

    // An executable is one on any machine.
    other_machine("program", "other-program");
    let outcome = to_copy(&source, &dir.join("dst")).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let stderr = outcome.stderr();
    assert_eq!(stderr.lines().count(), 1, "{outcome}");
    assert!(
        stderr.contains("other-program: is for SPARC V9"),
        "{outcome}"
    );
}

/// By default, as in a rewrite of one: each executable finds it beside itself.
fn a_runtime_in_each_directory() {
    let dir = Dir::new("tree-runtimes");
    let source = dir.make("src");
    for place in ["a", "b/c"] {
        copy_program(
            Path::new("/bin/true"),
            &dir.make(format!("src/{place}")).join("true"),
        );
    }
    dir.make("src/d");
    let report = json(&to_copy(&source, &dir.join("dst")).succeed());
    let runtimes = ["a", "b/c"].map(|place| format!("{place}/{RUNTIME}"));
    assert_eq!(report["runtimes"], Value::from(&runtimes[..]));
    for place in ["a", "b/c"] {
        let outcome = Command::new(dir.join("dst").join(place).join("true"))
            .env("ALLOCS_REPORT", "-")
            .succeed();
        assert!(
            outcome.stderr().contains("started: relocation"),
            "{outcome}"
        );
    }
    assert!(!dir.join("dst/d").join(RUNTIME).exists());
}

/// One that the source has is copied; another version stands in the way of ours where an executable needs
/// that, unless it may be replaced.
fn runtimes_of_the_source() {
    let dir = Dir::new("tree-own-runtimes");
    let (source, output) = (dir.make("src"), dir.join("dst"));
    dir.write(format!("src/lib/{RUNTIME}"), "another version");
    dir.write(format!("src/bin/{RUNTIME}"), "another version");
    for name in ["true", "false"] {
        copy_program(
            &Path::new("/bin").join(name),
            &source.join("bin").join(name),
        );
    }
    let outcome = to_copy(&source, &output).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert_eq!(outcome.stderr().lines().count(), 1, "{outcome}");
    assert!(outcome.stderr().contains("another version"), "{outcome}");
    assert_copy(&source, &output, &[], &[]);

    for made in [2, 0] {
        let outcome = to_copy(&source, &output).arg("--force").succeed();
        assert_eq!(json(&outcome)["made"], made, "{outcome}");
        let ours = fs::read(output.join("bin").join(RUNTIME)).expect("the runtime");
        assert!(ours == fs::read(tool::runtime()).expect("it"), "{outcome}");
        let theirs = fs::read(output.join("lib").join(RUNTIME)).expect("the other");
        assert_eq!(theirs, b"another version", "{outcome}");
    }
}

/// An absolute path, or a soname, is looked up in the tree first.
fn a_runtime_in_the_tree() {
    let dir = Dir::new("tree-runtime-inside");
    let (source, output) = (dir.make("src"), dir.join("dst"));
    copy_program(Path::new("/bin/true"), &dir.make("src/bin").join("true"));
    dir.make("src/usr/lib/x86_64-linux-gnu");
    symlink("usr/lib", source.join("lib")).expect("a link");
    let put = |bytes: &[u8]| {
        dir.write(format!("src/usr/lib/x86_64-linux-gnu/{RUNTIME}"), bytes);
    };
    for runtime in [
        format!("/lib/x86_64-linux-gnu/{RUNTIME}"),
        RUNTIME.to_owned(),
    ] {
        put(b"no library");
        let refused = to_copy(&source, &output)
            .arg("--runtime")
            .arg(&runtime)
            .run();
        assert_eq!(refused.code(), Some(1), "{refused}");
        assert!(
            refused.stderr().contains("cannot be loaded as the runtime"),
            "{refused}"
        );
        put(&fs::read(tool::runtime()).expect("the runtime"));
        let outcome = to_copy(&source, &output)
            .arg("--runtime")
            .arg(&runtime)
            .succeed();
        let report = json(&outcome);
        assert_eq!(
            file(&report, "bin/true")["starts"]["needed"],
            *runtime,
            "{outcome}"
        );
        assert_eq!(
            report["runtimes"],
            Value::from(Vec::<Value>::new()),
            "{outcome}"
        );
    }
}

/// What is rewritten already stays so, and gets another runtime if one is named.
fn a_rewritten_source() {
    let dir = Dir::new("tree-rewritten");
    let (source, output) = (dir.make("src"), dir.join("dst"));
    let program = source.join("true");
    allocs_tests::Rewrite::new("/bin/true", &program).succeed();
    let report = json(&to_copy(&source, &output).succeed());
    let file_now = file(&report, "true");
    assert_eq!(file_now["outcome"], "unchanged", "{report:#}");
    assert!(fs::read(output.join("true")).expect("it") == fs::read(&program).expect("it"));

    let soname = "librt-of-mine.so";
    let report = json(
        &to_copy(&source, &output)
            .args(["--runtime", soname])
            .succeed(),
    );
    assert_eq!(
        file(&report, "true")["starts"]["needed"],
        soname,
        "{report:#}"
    );
    assert!(tool::undo(&output.join("true")) == fs::read("/bin/true").expect("true"));
}

/// Not without being asked, and with a runtime that only root can replace, in the tree or on this machine.
fn setuid() {
    let dir = Dir::of_root("tree-setuid");
    let (source, output) = (dir.make("src"), dir.join("dst"));
    let program = dir.make("src/bin").join("true");
    copy_program(Path::new("/bin/true"), &program);
    fs::set_permissions(&program, Permissions::from_mode(0o4755)).expect("a mode");
    let lib = dir.make("src/lib");
    fs::copy(tool::runtime(), lib.join("librt-in-tree.so")).expect("the runtime");
    let refused = |command: Command, word: &str| {
        let outcome = command.run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains(word), "{outcome}");
        assert_copy(&source, &output, &[], &[]);
    };
    let with_runtime = || to_copy(&source, &output).args(["--runtime", "/lib/librt-in-tree.so"]);
    refused(to_copy(&source, &output), "is setuid");
    refused(with_runtime(), "is setuid");
    fs::set_permissions(&lib, Permissions::from_mode(0o777)).expect("a mode");
    refused(with_runtime().arg("--allow-setuid"), "others than root");
    fs::set_permissions(&lib, Permissions::from_mode(0o755)).expect("a mode");
    let outcome = with_runtime().arg("--allow-setuid").succeed();
    assert_eq!(json(&outcome)["made"], 1, "{outcome}");
    assert_copy(&source, &output, &[PathBuf::from("bin/true")], &[]);
}
