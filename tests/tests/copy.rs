//! The copy is the program in all other ways: mode, appended bytes, holes; and the same bytes
//! every time.

use std::ffi::OsStr;
use std::fs::{self, File, OpenOptions, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use allocs_tests::dir::copy_program;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool;
use allocs_tests::xfs::Xfs;
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["copy":
        mode_is_kept,
        same_bytes_every_time,
        appended_bytes_stay_last,
        appended_zip_still_works,
        holes_stay_holes,
        blocks_are_shared,
        while_a_plan_is_made,
        onto_itself,
        onto_itself_through_a_link,
        while_it_runs,
        hard_links_elsewhere_keep_the_original,
        an_existing_output_is_replaced_whole,
        quiet_and_verbose,
    ]
}

fn program(dir: &Dir) -> PathBuf {
    Sample::named("threads").build(&dir.path(), Variant::GCC, &[])
}

/// By recycling, and by growing: with a runtime path that no old string has room for.
fn both_ways(prog: &Path, dir: &Dir, check: impl Fn(&Path)) {
    let recycled = dir.make("recycled").join("program");
    let result = Rewrite::new(prog, &recycled).succeed();
    assert!(
        result.recycled(),
        "this was to be recycled: {}",
        result.json
    );
    check(&recycled);
    check(&grown(prog, dir));
}

/// The runtime under a path that no old string has room for.
fn long_runtime(dir: &Dir) -> PathBuf {
    let long = dir.make("a/path/that/is/longer/than/any/string/that/can/be/recycled");
    let runtime = long.join(tool::RUNTIME);
    fs::copy(tool::runtime(), &runtime).expect("the runtime copied");
    runtime
}

fn grown(prog: &Path, dir: &Dir) -> PathBuf {
    let grown = dir.make("grown").join("program");
    grow(prog, dir, &grown);
    grown
}

fn grow(prog: &Path, dir: &Dir, out: &Path) {
    let result = Rewrite::new(prog, out)
        .arg("--runtime")
        .arg(long_runtime(dir))
        .succeed();
    assert!(!result.recycled(), "this was to grow: {}", result.json);
}

fn mode_is_kept() {
    let dir = Dir::new("mode");
    let prog = program(&dir);
    for mode in [0o755, 0o700, 0o555, 0o711, 0o644, 0o1755] {
        fs::set_permissions(&prog, Permissions::from_mode(mode)).expect("a mode");
        let out = dir.join(format!("{mode:o}"));
        Rewrite::new(&prog, &out).succeed();
        let kept = fs::metadata(&out).expect("the output").mode() & 0o7777;
        assert_eq!(kept, mode, "mode {mode:o} became {kept:o}");
    }
}

fn same_bytes_every_time() {
    let dir = Dir::new("same-bytes");
    let prog = program(&dir);
    for (way, runtime) in [
        ("recycled", None),
        ("grown", Some("/usr/lib/some/long/name.so.1")),
    ] {
        let outputs = [dir.make(format!("{way}-1")), dir.make(format!("{way}-2"))].map(|dir| {
            let out = dir.join("program");
            let mut rewrite = Rewrite::new(&prog, &out);
            if let Some(runtime) = runtime {
                let origin = format!("$ORIGIN/../{runtime}");
                let path = dir.join(format!("../{runtime}"));
                fs::create_dir_all(path.parent().expect("a parent")).expect("directories");
                fs::copy(tool::runtime(), path).expect("the runtime copied");
                rewrite = rewrite.arg("--runtime").arg(origin);
            }
            rewrite.succeed();
            fs::read(out).expect("the output")
        });
        assert!(
            outputs[0] == outputs[1],
            "{way}: two runs wrote different bytes"
        );
    }
}

fn append(path: &Path, bytes: &[u8]) {
    let mut file = OpenOptions::new()
        .append(true)
        .open(path)
        .expect("the program");
    file.write_all(bytes).expect("appended");
}

fn appended_bytes_stay_last() {
    let dir = Dir::new("appended");
    let prog = program(&dir);
    // A length that is no multiple of anything, and a trailer with its own length, as those who
    // look from the end of the file write it.
    let mut payload = b"payload ".repeat(1234);
    payload.extend(b"trailer");
    payload.extend(9879_u64.to_le_bytes());
    append(&prog, &payload);
    both_ways(&prog, &dir, |out| {
        let bytes = fs::read(out).expect("the output");
        assert!(
            bytes.ends_with(&payload),
            "{}: the payload is not last",
            out.display()
        );
        Command::new(out).succeed();
    });
}

/// Python runs a zip archive that is appended to anything: to Python itself, which is no PIE and
/// grows, and to a program that can be recycled.
fn appended_zip_still_works() {
    let dir = Dir::new("zip");
    dir.write(
        "__main__.py",
        "import sys\nprint('from the archive', sys.argv[1:])\n",
    );
    let zip = Command::new(needs("zip")).args(["-q", "app.zip", "__main__.py"]);
    zip.dir(dir.path()).succeed();
    let archive = fs::read(dir.join("app.zip")).expect("the archive");
    let python = needs("/usr/bin/python3.11");
    let run = |python: &Path, archive: &Path| {
        let outcome = Command::new(python)
            .arg("-I")
            .arg(archive)
            .arg("x")
            .succeed();
        assert_eq!(outcome.stdout(), "from the archive ['x']\n", "{outcome}");
    };

    let prog = dir.join("self-extractor");
    copy_program(&python, &prog);
    append(&prog, &archive);
    run(&prog, &prog);
    let out = grown(&prog, &dir);
    run(&out, &out);

    let prog = program(&dir);
    append(&prog, &archive);
    both_ways(&prog, &dir, |out| {
        Command::new(out).succeed();
        run(&python, out);
    });
}

/// 1 GiB of hole takes no space and little time.
fn holes_stay_holes() {
    let dir = Dir::new("holes");
    let prog = program(&dir);
    let file = OpenOptions::new()
        .write(true)
        .open(&prog)
        .expect("the program");
    file.set_len(1 << 30).expect("a hole");
    file.write_all_at(b"the end", (1 << 30) - 7)
        .expect("an end");
    drop(file);
    both_ways(&prog, &dir, |out| {
        let meta = fs::metadata(out).expect("the output");
        let used = meta.blocks() * 512;
        assert!(
            meta.len() >= 1 << 30,
            "{}: {} bytes long",
            out.display(),
            meta.len()
        );
        assert!(
            used < 1 << 20,
            "{}: takes {used} bytes of disk",
            out.display()
        );
        let mut end = [0; 7];
        let file = File::open(out).expect("the output");
        file.read_exact_at(&mut end, meta.len() - 7)
            .expect("its end");
        assert_eq!(&end, b"the end", "{}", out.display());
        Command::new(out).succeed();
    });
}

/// Where the file system can, the result takes a few blocks of its own, and its bytes are those that it has
/// elsewhere; the same for the way back.
fn blocks_are_shared() {
    const LARGE: usize = 32 << 20;
    let dir = Dir::new("shared-blocks");
    let prog = program(&dir);
    append(&prog, &b"payload ".repeat(LARGE / 8));
    let xfs =
        Xfs::mount(&dir.path()).expect("an XFS: run the tests as root, on a kernel that has it");
    let shared = xfs.dir().join("program");
    Command::line("cp --").args([&prog, &shared]).succeed();
    let expected = dir.join("expected");
    Rewrite::new(&prog, &expected).succeed();
    let used = || {
        Command::line("sync -f").arg(xfs.dir()).succeed(); // what is not written yet is reserved generously
        let stat = rustix::fs::statvfs(xfs.dir()).expect("statvfs");
        (stat.f_blocks - stat.f_bfree) * stat.f_frsize
    };

    let before = used();
    let out = xfs.dir().join("out");
    Rewrite::new(&shared, &out).succeed();
    let more = used() - before;
    assert!(more < 1 << 20, "the result takes {more} bytes");
    assert!(
        fs::read(&out).expect("out") == fs::read(&expected).expect("expected"),
        "bytes differ"
    );
    let original = fs::read(&prog).expect("the program");
    assert!(tool::undo(&out) == original, "undo");

    Command::new(tool::binary())
        .arg("--in-place")
        .arg(&shared)
        .succeed();
    assert!(
        fs::read(&shared).expect("the program") == fs::read(&expected).expect("expected"),
        "in place"
    );

    let large = Sample::named("threads").build_large(xfs.dir());
    let before = used();
    let [grown, undone] = ["grown", "undone"].map(|name| xfs.dir().join(name));
    grow(&large, &dir, &grown);
    let undo = Command::new(tool::binary()).arg("undo").arg(&grown);
    undo.arg("-o").arg(&undone).succeed();
    let more = used() - before;
    assert!(more < 1 << 20, "they take {more} bytes");
    let original = fs::read(&large).expect("the program");
    assert!(
        fs::read(&undone).expect("undone") == original,
        "undo of what has grown"
    );
}

/// A large program is copied while a plan is made, where there is a processor for that: the result is the same
/// where there is none, also if some of the program moves, or nearly all of it.
fn while_a_plan_is_made() {
    let dir = Dir::new("while-a-plan-is-made");
    let large = Sample::named("threads").build_large(&dir.path());
    let with_payload = dir.join("with-payload");
    copy_program(&large, &with_payload);
    append(&with_payload, &b"payload ".repeat(1 << 17));
    let with_hole = dir.join("with-hole");
    copy_program(&large, &with_hole);
    let end = fs::metadata(&with_hole).expect("it").len() + (1 << 20);
    let file = OpenOptions::new().write(true).open(&with_hole).expect("it");
    file.write_all_at(b"the end", end).expect("an end");
    drop(file);
    let mostly_payload = Sample::named("threads").build(&dir.make("small"), Variant::GCC, &[]);
    append(&mostly_payload, &b"payload ".repeat(1 << 20));
    let status = fs::read_to_string("/proc/self/status").expect("/proc");
    let allowed = status
        .lines()
        .find_map(|line| line.strip_prefix("Cpus_allowed_list:"));
    let one = allowed.expect("processors").trim();
    let one = one.split([',', '-']).next().expect("one").to_owned();
    for prog in [large, with_payload, with_hole, mostly_payload] {
        let original = Command::new(&prog).succeed();
        let bytes = fs::read(&prog).expect("the program");
        for runtime in [None, Some(long_runtime(&dir))] {
            let on_all = Command::new(tool::binary());
            let on_one = Command::new(needs("taskset"))
                .args(["-c", &one])
                .arg(tool::binary());
            let results = [("all", on_all), ("one", on_one)].map(|(name, command)| {
                let out = dir.make(name).join("program");
                let command = command.arg("-q").arg(&prog).arg("-o").arg(&out);
                let runtime = runtime.iter().map(|path| path.as_os_str());
                command
                    .args(runtime.flat_map(|path| [OsStr::new("--runtime"), path]))
                    .succeed();
                Command::new(&out).succeed().assert_same_as(&original);
                assert!(tool::undo(&out) == bytes, "{name}: undo");
                fs::read(out).expect("the result")
            });
            let name = prog.display();
            assert!(
                results[0] == results[1],
                "{name}, {runtime:?}: bytes differ"
            );
        }
    }
}

fn onto_itself() {
    let dir = Dir::new("onto-itself");
    let prog = program(&dir);
    let original = Command::new(&prog).succeed();
    let inode = fs::metadata(&prog).expect("the program").ino();
    let reader = File::open(&prog).expect("the program");
    let before = fs::read(&prog).expect("the program");

    let result = Rewrite::new(&prog, &prog).succeed();
    result.command().succeed().assert_same_as(&original);

    // A new file under the old name: who has the old one open still reads all of it.
    assert_ne!(
        fs::metadata(&prog).expect("the result").ino(),
        inode,
        "changed in place"
    );
    let mut still = vec![0; before.len()];
    reader.read_exact_at(&mut still, 0).expect("the old file");
    assert!(still == before, "the old file was changed");
}

/// The link stays a link; the file that it names is what is replaced.
fn onto_itself_through_a_link() {
    let dir = Dir::new("onto-link");
    let prog = program(&dir);
    let link = dir.join("link");
    std::os::unix::fs::symlink("threads", &link).expect("a link");
    Rewrite::new(&link, &link).succeed();
    assert!(
        fs::symlink_metadata(&link).expect("the link").is_symlink(),
        "the link is gone"
    );
    Rewrite::new(&prog, dir.join("again")).refuse(&dir.path(), &prog, &["already rewritten"]);
}

/// A running program can be replaced, and goes on as it was.
fn while_it_runs() {
    let dir = Dir::new("while-it-runs");
    let prog = dir.join("cat");
    copy_program(Path::new("/bin/cat"), &prog);
    let mut running = std::process::Command::new(&prog)
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .expect("cat starts");
    Rewrite::new(&prog, &prog).succeed();
    let mut stdin = running.stdin.take().expect("a pipe");
    stdin.write_all(b"still here").expect("written");
    drop(stdin);
    let output = running.wait_with_output().expect("cat ends");
    assert!(
        output.status.success() && output.stdout == b"still here",
        "{output:?}"
    );
}

fn hard_links_elsewhere_keep_the_original() {
    let dir = Dir::new("hard-links");
    let prog = program(&dir);
    let other = dir.join("other-name");
    fs::hard_link(&prog, &other).expect("a hard link");
    let before = fs::read(&other).expect("the program");
    Rewrite::new(&prog, &prog).succeed();
    assert!(
        fs::read(&other).expect("the other name") == before,
        "the other name changed"
    );
}

fn an_existing_output_is_replaced_whole() {
    let dir = Dir::new("existing");
    let prog = program(&dir);
    let fresh = dir.join("fresh");
    Rewrite::new(&prog, &fresh).succeed();
    let old = dir.write("old", vec![b'x'; 1 << 20]);
    Rewrite::new(&prog, &old).succeed();
    assert!(
        fs::read(&old).expect("old") == fs::read(&fresh).expect("fresh"),
        "bytes differ"
    );
    let mode = fs::metadata(&old).expect("old").mode();
    assert_eq!(
        mode,
        fs::metadata(&prog).expect("the program").mode(),
        "mode"
    );
}

/// One line that says what was written, none with -q, one per table with -v.
fn quiet_and_verbose() {
    let dir = Dir::new("quiet");
    let prog = program(&dir);
    let out = dir.join("out");
    let run = |option: &[&str]| {
        let command = Command::new(tool::binary()).arg(&prog).arg("-o").arg(&out);
        let outcome = command.args(option).succeed();
        assert_eq!(outcome.stderr(), "", "{outcome}");
        outcome.stdout()
    };
    assert_eq!(run(&["-q"]), "");
    let summary = run(&[]);
    assert_eq!(summary.lines().count(), 1, "{summary}");
    assert!(summary.contains(&*out.to_string_lossy()), "{summary}");
    let verbose = run(&["-v"]);
    assert!(
        verbose.lines().count() >= 5 && verbose.starts_with(summary.trim_end()),
        "{verbose}"
    );
}
