//! `explain` on what is broken: each library that cannot be loaded is named with the reason, each
//! program that is none is one clear error, and nothing panics, hangs or takes exponential time.

use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::Duration;

use allocs_rewrite::Conditions;
use allocs_tests::explain::{self, Explanation, command};
use allocs_tests::trial::message;
use allocs_tests::{Command, Dir, graph, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["explain_bad":
        programs,
        libraries,
        another_machine,
        unreadable_directory,
        empty_and_relative_paths,
        names_with_escapes,
        unknown_loader,
        no_sysroot,
        kernel_without_sysroots,
        closed_output,
        hostile_files,
        hostile_caches,
        ten_thousand_objects,
    ]
}

/// What is no program gets the message that a rewrite gives, and status 1.
fn programs() {
    let dir = Dir::new("explain-programs");
    let script = dir.write("script", "#!/bin/sh\n");
    let empty = dir.write("empty", "");
    let text = dir.write("text", "hello\n");
    let cases: [(&Path, &str); 7] = [
        (&script, "script"),
        (&empty, "is empty"),
        (&text, "not an ELF file"),
        (&dir.path(), "directory"),
        (&dir.join("missing"), "check the path"),
        (Path::new("/usr/bin/lf"), "statically linked"),
        (
            Path::new("/lib/x86_64-linux-gnu/libm.so.6"),
            "shared object",
        ),
    ];
    for (path, words) in cases {
        let outcome = command([path]).run();
        let stderr = outcome.stderr();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert_eq!(outcome.stdout(), "", "{outcome}");
        assert!(stderr.contains(words), "{outcome}should say `{words}`");
        assert!(stderr.contains(&*path.to_string_lossy()), "{outcome}");
        assert_eq!(stderr.lines().count(), 1, "{outcome}");
    }
}

/// A program that needs libx.so, which is looked for in d0 and then in d1.
fn needing_x(dir: &Dir) -> PathBuf {
    let gcc = |args: &str| {
        let command = Command::new(needs("gcc")).dir(dir.path());
        command.args(args.split_whitespace())
    };
    let library = dir.write("x.c", "int x(void) { return 0; }\n");
    let main = dir.write("main.c", "int x(void); int main(void) { return x(); }\n");
    dir.make("d0");
    dir.make("d1");
    gcc("-shared -fPIC -o d1/libx.so").arg(library).succeed();
    gcc("-Wl,-rpath,$ORIGIN/d0:$ORIGIN/d1 -o main")
        .arg(main)
        .args(["-Ld1", "-lx"])
        .succeed();
    dir.join("main")
}

/// The loader gives up at a library that is found and damaged; so does the explanation, with the
/// reason.
fn libraries() {
    let dir = Dir::new("explain-libraries");
    let prog = needing_x(&dir);
    let good = std::fs::read(dir.join("d1/libx.so")).expect("the library");
    let mut truncated = good.clone();
    truncated.truncate(good.len() / 3);
    let damaged: [(&[u8], &str); 4] = [
        (b"", "empty"),
        (b"no library\n", "not an ELF file"),
        (&good[..30], "cut short"),
        (&truncated, "cut short"),
    ];
    for (bytes, words) in damaged {
        let path = dir.write("d0/libx.so", bytes);
        let explanation = explain::of(&prog);
        let verdict = explanation.verdict();
        let named = verdict.contains(words) && verdict.contains(&*path.to_string_lossy());
        assert!(named, "{}should say `{words}`", explanation.outcome);
        // With a library that is cut short, the loader itself ends by a signal.
        let started = Command::new(&prog).run();
        assert!(started.code() != Some(0), "{started}it starts after all");
    }
    std::fs::remove_file(dir.join("d0/libx.so")).expect("removed");
    dir.make("d0/libx.so");
    assert!(explain::of(&prog).verdict().contains("not a regular file"));
    std::fs::remove_dir(dir.join("d0/libx.so")).expect("removed");
    Command::line("mkfifo")
        .arg(dir.join("d0/libx.so"))
        .succeed();
    assert!(explain::of(&prog).verdict().contains("not a regular file"));
}

/// One for another machine is passed over, and named if there is no other.
fn another_machine() {
    let dir = Dir::new("explain-machine");
    let prog = needing_x(&dir);
    let mut bytes = std::fs::read(dir.join("d1/libx.so")).expect("the library");
    bytes[18] = 183; // EM_AARCH64
    dir.write("d0/libx.so", &bytes);
    assert_eq!(explain::of(&prog).missing(), Vec::<String>::new());
    Command::new(&prog).succeed();
    std::fs::remove_file(dir.join("d1/libx.so")).expect("removed");
    let explanation = explain::of(&prog);
    let verdict = explanation.verdict();
    assert!(
        verdict.contains("another machine") && verdict.contains("d0/libx.so"),
        "{verdict}"
    );
}

/// A directory that may not be entered is passed over, as by the loader.
fn unreadable_directory() {
    let dir = Dir::new("explain-unreadable");
    let prog = needing_x(&dir);
    dir.write("d0/libx.so", "not for everybody");
    Command::line("chmod 0").arg(dir.join("d0")).succeed();
    let as_nobody = |program: &Path| {
        let ids = ["--reuid=65534", "--regid=65534", "--clear-groups"];
        Command::new(needs("setpriv")).args(ids).arg(program)
    };
    let binary = dir.join("allocs-rewrite");
    allocs_tests::dir::copy_program(allocs_tests::tool::binary(), &binary);
    let outcome = as_nobody(&binary)
        .args(["explain", "--json"])
        .arg(&prog)
        .run();
    assert!(outcome.stdout().contains("d1/libx.so"), "{outcome}");
    as_nobody(&prog).succeed();
    Command::line("chmod 755").arg(dir.join("d0")).succeed();
}

/// Empty and relative parts of a search path are the directory that the program is started in: what
/// is found there is reported with a note.
fn empty_and_relative_paths() {
    let dir = Dir::new("explain-relative");
    let prog = needing_x(&dir);
    std::fs::rename(dir.join("d1"), dir.join("d2")).expect("renamed");
    let prog = prog.display().to_string();
    for (path, place) in [
        ("d2", "d2/libx.so"),
        ("/nonexistent::", "libx.so"),
        ("d0:;d2/", "d2/libx.so"),
    ] {
        std::fs::copy(dir.join("d2/libx.so"), dir.join("libx.so")).expect("a copy");
        if place == "d2/libx.so" {
            std::fs::remove_file(dir.join("libx.so")).expect("removed");
        }
        let outcome = command(["--json", "--ld-library-path", path, &prog])
            .dir(dir.path())
            .run();
        assert!(
            outcome.stdout().contains(&format!("\"path\": \"{place}\"")),
            "{outcome}"
        );
        assert!(
            outcome.stdout().contains("was found from this directory"),
            "{outcome}"
        );
        let started = Command::new(&prog)
            .env("LD_LIBRARY_PATH", path)
            .dir(dir.path())
            .run();
        assert_eq!(started.code(), Some(0), "{started}");
    }
}

/// Whoever names a library does not get to write on the user's terminal.
fn names_with_escapes() {
    let dir = Dir::new("explain-escapes");
    let library = dir.write("x.c", "int x(void) { return 0; }\n");
    let main = dir.write("main.c", "int x(void); int main(void) { return x(); }\n");
    let gcc = || Command::new(needs("gcc")).dir(dir.path());
    gcc()
        .args(["-shared", "-Wl,-soname,lib\x1b[2Jx.so", "-o", "libx.so"])
        .arg(library)
        .succeed();
    gcc()
        .args(["-o", "main"])
        .arg(main)
        .args(["-L.", "-lx"])
        .succeed();
    let outcome = command([dir.join("main")]).run();
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    assert!(outcome.stdout().contains("lib\u{fffd}[2Jx.so"), "{outcome}");
}

fn unknown_loader() {
    let dir = Dir::new("explain-loader");
    let main = dir.write("main.c", "int main(void) { return 0; }\n");
    let odd = dir.write("ld-odd.so", "nothing that loads");
    for (loader, words) in [
        (odd, "neither glibc's loader nor musl's"),
        (dir.join("gone"), "does not exist"),
    ] {
        let prog = dir.join("main");
        let flag = format!("-Wl,-dynamic-linker,{}", loader.display());
        Command::new(needs("gcc"))
            .arg(&main)
            .arg(flag)
            .arg("-o")
            .arg(&prog)
            .succeed();
        let outcome = command([&prog]).run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains(words), "{outcome}");
    }
}

/// Linux before 5.6, and qemu as of Debian 12.
fn kernel_without_sysroots() {
    let outcome = Command::new(needs("strace"))
        .args(["-o", "/dev/null", "-e", "inject=openat2:error=ENOSYS"])
        .arg(allocs_tests::tool::binary())
        .args(["explain", "--sysroot", "/", "/bin/ls"])
        .run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let said = outcome.stderr();
    assert!(
        said.contains("/: cannot be a sysroot here") && said.contains("Linux 5.6"),
        "{outcome}"
    );
}

fn no_sysroot() {
    let missing = Dir::new("no-sysroot").join("missing");
    let outcome = command(["--sysroot", &missing.display().to_string(), "/bin/ls"]).run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    let expected = format!("{}: cannot open the sysroot", missing.display());
    assert!(outcome.stderr().contains(&expected), "{outcome}");
}

/// Whoever stops reading is no error; the verdict's status stays.
fn closed_output() {
    let script = format!(
        "{} explain /usr/bin/gdb | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}",
        allocs_tests::tool::binary().display()
    );
    let outcome = Command::new("bash").args(["-c", &script]).succeed();
    assert_eq!(outcome.stdout(), "3\n", "{outcome}");
    assert_eq!(outcome.stderr(), "", "{outcome}");
}

/// Explains in a thread of its own, which is left behind if it hangs.
fn survive(program: &Path, conditions: &Conditions, what: &str) {
    const LIMIT: Duration = Duration::from_secs(60);
    let (send, receive) = mpsc::channel();
    let (program, conditions) = (program.to_owned(), conditions.clone());
    std::thread::spawn(move || {
        let explain = || drop(allocs_rewrite::explain(&program, &conditions));
        drop(send.send(catch_unwind(explain)));
    });
    match receive.recv_timeout(LIMIT) {
        Err(_) => panic!("{what}: takes longer than {LIMIT:?}"),
        Ok(Err(payload)) => panic!("{what}: panicked: {}", message(&*payload)),
        Ok(Ok(())) => {}
    }
}

/// Values that are likely to go wrong somewhere.
fn odd_value(random: &mut fastrand::Rng) -> u64 {
    let edge = [
        0,
        1,
        7,
        0x7fff_ffff,
        0xffff_ffff,
        i64::MAX as u64,
        u64::MAX,
        u64::MAX - 7,
    ];
    match random.usize(..3) {
        0 => edge[random.usize(..edge.len())],
        1 => 1 << random.u32(..64),
        _ => random.u64(..0x5000),
    }
}

/// A library, and then a program, with random words changed in headers and tables.
fn hostile_files() {
    let dir = Dir::new("explain-hostile");
    let prog = needing_x(&dir);
    let mut random = fastrand::Rng::with_seed(0x616c6c6f6373);
    for name in ["d1/libx.so", "main"] {
        let good = std::fs::read(dir.join(name)).expect("the file");
        for round in 0..10_000 {
            let mut bytes = good.clone();
            for _ in 0..=random.usize(..3) {
                let at = random.usize(..bytes.len() / 8) * 8;
                let at = if random.bool() { at % 0x600 } else { at };
                let size = [1, 2, 4, 8][random.usize(..4)];
                let value = odd_value(&mut random).to_le_bytes();
                bytes[at..at + size].copy_from_slice(&value[..size]);
            }
            let path = dir.write(name, &bytes);
            let what = format!("round {round} of {}", path.display());
            survive(&prog, &Conditions::default(), &what);
        }
        dir.write(name, &good);
    }
}

/// ld.so.cache files that are cut short, or have random words changed.
fn hostile_caches() {
    let dir = Dir::new("explain-caches");
    dir.make("root/lib64");
    let copy = |from: &str, to: &str| std::fs::copy(from, dir.join(to)).expect("a copy");
    copy(
        "/lib64/ld-linux-x86-64.so.2",
        "root/lib64/ld-linux-x86-64.so.2",
    );
    copy("/bin/ls", "root/ls");
    let good = std::fs::read("/etc/ld.so.cache").expect("the system's cache");
    let conditions = Conditions {
        sysroot: Some(dir.join("root")),
        ..Conditions::default()
    };
    let mut random = fastrand::Rng::with_seed(0x616c6c6f6373);
    for round in 0..3000 {
        let mut bytes = good.clone();
        match random.usize(..3) {
            0 => bytes.truncate(random.usize(..good.len())),
            1 => bytes = (0..random.usize(..200)).map(|_| random.u8(..)).collect(),
            _ => {
                for _ in 0..=random.usize(..40) {
                    let at = random.usize(..good.len() / 4 - 2) * 4;
                    let at = if random.bool() { at % 64 } else { at };
                    let value = odd_value(&mut random).to_le_bytes();
                    bytes[at..at + 4].copy_from_slice(&value[..4]);
                }
            }
        }
        if random.bool() {
            // The older format, with the newer one behind it.
            bytes.splice(0..0, *b"ld.so-1.7.0\0\0\0\0\0");
        }
        dir.write("root/etc/ld.so.cache", &bytes);
        survive(&dir.join("root/ls"), &conditions, &format!("round {round}"));
    }
}

/// A chain of ten thousand libraries, each of which needs the next two. It is far deeper than a
/// stack, and there are more paths through it than can be walked.
fn ten_thousand_objects() {
    const COUNT: usize = 10_000;
    let dir = Dir::new("explain-many");
    let prog = graph::many(&dir, COUNT);
    let explanation = Explanation::new([&prog]);
    let order = explanation.json["load_order"].as_array().expect("a list");
    assert_eq!(order.len(), COUNT + 1, "all of them and the program");
    let initialised = explanation.strings("initialised");
    assert!(
        initialised[0].ends_with("lib09999.so"),
        "{}",
        initialised[0]
    );
    let tree = command(["--tree"]).arg(&prog).run();
    assert_eq!(tree.code(), Some(3), "the tree of {COUNT} objects");
}
