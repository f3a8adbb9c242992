//! What cannot be rewritten is refused: exit status 1, one message that names the file and says
//! what to do, nothing written. Usage errors are clap's: exit status 2.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use allocs_tests::dir::copy_program;
use allocs_tests::elf::{Elf, Segment};
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["bad_input":
        usage,
        mistaken_commands,
        not_there,
        directory,
        empty,
        script,
        not_elf,
        truncated,
        class_32,
        other_machines,
        big_endian,
        relocatable,
        core_dump,
        shared_object,
        shared_sanitizer,
        static_programs,
        packed,
        static_go,
        relocations_without_addends,
        overlapping_segments,
        not_readable,
        already_rewritten,
        setuid,
    ]
}

/// A good program, to be spoilt.
pub(crate) fn program(dir: &Dir) -> PathBuf {
    Sample::named("threads").build(&dir.path(), Variant::GCC, &[])
}

pub(crate) fn out(dir: &Dir) -> PathBuf {
    dir.make("out").join("rewritten")
}

/// PROG with these bytes is refused in words that contain `words`.
fn refuse_bytes(name: &str, bytes: &[u8], words: &[&str]) {
    let dir = Dir::new(name);
    let prog = dir.write(name, bytes);
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, words);
}

fn usage() {
    let dir = Dir::new("usage");
    for arguments in [vec![], vec!["--no-such-option"], vec!["/bin/true"]] {
        let outcome = Command::new(tool::binary())
            .args(arguments)
            .dir(dir.path())
            .run();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
        assert!(
            outcome.stderr().contains("--help"),
            "{outcome}no way to learn more"
        );
        assert_eq!(
            fs::read_dir(dir.path()).expect("listing").count(),
            0,
            "{outcome}"
        );
    }
}

/// A word that is neither a file nor a command: nobody means PROG by it.
fn mistaken_commands() {
    let dir = Dir::new("mistaken");
    let run = |line: &str| {
        Command::new(tool::binary())
            .args(line.split_whitespace())
            .dir(dir.path())
            .run()
    };
    let meant = |command| format!("no such file; did you mean the command `{command}`?");
    for (line, status, says) in [
        ("explian prog", 2, meant("explain")),
        ("explian", 2, meant("explain")),
        ("unod --in-place prog", 2, meant("undo")),
        ("objct -o init.o", 1, meant("object")),
        ("raport --top 3 a.json", 2, meant("report")),
        ("completions bash", 2, "explain, object,".to_owned()),
    ] {
        let outcome = run(line);
        let word = line.split(' ').next().expect("a word");
        assert_eq!(outcome.code(), Some(status), "{outcome}");
        let stderr = outcome.stderr();
        assert!(
            stderr.starts_with(&format!("allocs-rewrite: {word}: no such file"))
                && stderr.contains(&says)
                && stderr.lines().count() == 1,
            "{outcome}"
        );
        assert_eq!(outcome.stdout(), "", "{outcome}");
    }
    // A file of that name is PROG, and what is no word is a path.
    let program = dir.join("explian");
    copy_program(Path::new("/bin/true"), &program);
    let outcome = run("explian -o out");
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let outcome = run("explian prog");
    assert!(
        outcome
            .stderr()
            .contains("'prog' cannot be used with '<PROG>'"),
        "{outcome}"
    );
    let outcome = run("./explian explain --json");
    let line = "allocs-rewrite: the command comes first: allocs-rewrite explain ./explian --json\n";
    assert_eq!(outcome.stderr(), line, "{outcome}");
    assert_eq!(outcome.code(), Some(2), "{outcome}");
    let outcome = run("-q undo prog -o out2");
    let line = "allocs-rewrite: the command comes first: allocs-rewrite undo -q prog -o out2\n";
    assert_eq!(outcome.stderr(), line, "{outcome}");
    assert_eq!(outcome.code(), Some(2), "{outcome}");
    // The name of OUT is no command.
    let outcome = run("-o undo explian prog");
    let stderr = outcome.stderr();
    assert!(!stderr.contains("comes first"), "{outcome}");
    assert!(stderr.contains("'prog' cannot be used with"), "{outcome}");
    let outcome = run("./report2 -o out2");
    assert!(
        outcome.stderr().contains("./report2: cannot open"),
        "{outcome}"
    );
}

fn not_there() {
    let dir = Dir::new("not-there");
    let prog = dir.join("not-there");
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["No such file"]);
    let prog = dir.write("file", "x").join("below-a-file");
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["directory"]);
}

fn directory() {
    let dir = Dir::new("directory");
    let prog = dir.make("some-directory");
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["is a directory"]);
}

fn empty() {
    refuse_bytes("empty", b"", &["is empty"]);
}

fn script() {
    refuse_bytes("script", b"#!/bin/sh -e\nexit 0\n", &["script", "/bin/sh"]);
    refuse_bytes(
        "blank",
        b"#! /usr/bin/env python3\n",
        &["script", "python3"],
    );
    refuse_bytes("short", b"#!", &["script"]);
}

fn not_elf() {
    refuse_bytes("text", b"hello, world\n", &["not an ELF file"]);
    refuse_bytes("one-byte", b"\x7f", &["not an ELF file"]);
    refuse_bytes("nearly", b"\x7fELG\x02\x01\x01", &["not an ELF file"]);
}

/// Cut at every kind of place. What still holds everything that the loader reads may be accepted;
/// `hostile` runs those.
fn truncated() {
    let dir = Dir::new("truncated");
    let bytes = fs::read(program(&dir)).expect("a program");
    for length in [4, 5, 16, 63, 64, 65, 120, 500, 1000, 4096, 8192, 10_000] {
        assert!(
            length < bytes.len(),
            "the program is too small for this test"
        );
        refuse_bytes("cut-short", &bytes[..length], &["cut-short: is "]);
    }
}

fn patched(offset: usize, new: &[u8]) -> Vec<u8> {
    let dir = Dir::new("patched");
    let mut bytes = fs::read(program(&dir)).expect("a program");
    bytes[offset..offset + new.len()].copy_from_slice(new);
    bytes
}

/// EI_CLASS and e_machine say SPARC; a real one has another layout behind that, which a refusal must
/// not look at.
fn class_32() {
    let mut bytes = patched(4, &[1]);
    bytes[18..20].copy_from_slice(&[2, 0]);
    refuse_bytes("sparc", &bytes, &["32-bit", "not supported yet"]);
    refuse_bytes(
        "sparc-short",
        &bytes[..52],
        &["32-bit", "not supported yet"],
    );
}

fn other_machines() {
    for (machine, name) in [(43, "SPARC V9"), (50, "machine number 50"), (20, "PowerPC")] {
        let bytes = patched(18, &[machine, 0]);
        let dir = Dir::new("machine");
        let prog = dir.write("machine", bytes);
        let outcome =
            Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["not supported yet"]);
        let text = outcome.stderr().to_lowercase();
        assert!(
            text.contains(&name.to_lowercase()),
            "{outcome}names the machine: {name}"
        );
    }
}

fn big_endian() {
    refuse_bytes("big-endian", &patched(5, &[2]), &["big-endian: is "]);
}

fn relocatable() {
    let dir = Dir::new("relocatable");
    let source = dir.write("part.c", "int answer(void) { return 42; }\n");
    let object = dir.join("part.o");
    Command::new(needs("gcc"))
        .arg("-c")
        .arg(source)
        .arg("-o")
        .arg(&object)
        .succeed();
    Rewrite::new(&object, out(&dir)).refuse(&dir.path(), &object, &["relocatable", "link"]);
}

/// A real core dump, written by gdb.
fn core_dump() {
    let dir = Dir::new("core");
    let core = dir.join("core");
    Command::new(needs("gdb"))
        .args(["-batch", "-nx", "-ex", "starti", "-ex"])
        .arg(format!("generate-core-file {}", core.display()))
        .args(["-ex", "kill", "/bin/true"])
        .run();
    assert!(core.exists(), "gdb wrote no core dump");
    Rewrite::new(&core, out(&dir)).refuse(&dir.path(), &core, &["core dump"]);
}

fn shared_object() {
    let dir = Dir::new("shared-object");
    Sample::named("init_boundary").build(&dir.path(), Variant::GCC, &[]);
    let library = dir.join("libinit_boundary.so");
    let words = ["shared object", "DT_PREINIT_ARRAY", "executable"];
    Rewrite::new(&library, out(&dir)).refuse(&dir.path(), &library, &words);

    // The runtime itself, and libc, which has a PT_INTERP and can be started.
    let runtime = dir.join("runtime.so");
    fs::copy(tool::runtime(), &runtime).expect("a copy");
    Rewrite::new(&runtime, out(&dir)).refuse(&dir.path(), &runtime, &["shared object"]);
}

/// gcc's libasan.so ends a program at once in which it is not the first library.
fn shared_sanitizer() {
    let dir = Dir::new("shared-sanitizer");
    let source = dir.write("main.c", "int main(void) { return 0; }\n");
    let prog = dir.join("main");
    Command::new(needs("gcc"))
        .arg("-fsanitize=address")
        .arg(source)
        .arg("-o")
        .arg(&prog)
        .succeed();
    Command::new(&prog).succeed();
    let words = ["libasan.so", "first", "-static-libasan"];
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &words);
}

fn static_programs() {
    for flags in [["-static", "-no-pie"], ["-static-pie", "-fPIE"]] {
        let dir = Dir::new("static");
        let source = dir.write("main.c", "int main(void) { return 0; }\n");
        let prog = dir.join("main");
        Command::new(needs("gcc"))
            .args(flags)
            .arg(source)
            .arg("-o")
            .arg(&prog)
            .succeed();
        Command::new(&prog).succeed();
        let words = ["static", "no loader runs", "dynamically"];
        Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &words);
    }
}

/// As UPX lays out what it packs; Debian 12 has no UPX to make one.
fn packed() {
    let dir = Dir::new("packed");
    let source = dir.write("main.c", "int main(void) { return 0; }\n");
    let prog = dir.join("main");
    let gcc = Command::new(needs("gcc")).arg("-static").arg(source);
    gcc.arg("-o").arg(&prog).succeed();
    let mut bytes = fs::read(&prog).expect("a program");
    let behind = 64 + 56 * usize::from(bytes[56]);
    bytes[behind + 4..behind + 8].copy_from_slice(b"UPX!");
    refuse_bytes("main", &bytes, &["packed by UPX", "upx -d"]);
}

/// Go's linker makes static executables unless cgo is used; this is one that Debian ships.
fn static_go() {
    let dir = Dir::new("go");
    let prog = dir.join("lf");
    fs::copy(needs("/usr/bin/lf"), &prog).expect("a copy");
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["static", "no loader runs"]);
}

/// DT_REL is none of the x86-64 ABI; lld makes it where it is told to, and glibc does not apply it.
fn relocations_without_addends() {
    let dir = Dir::new("rel");
    let source = dir.write("main.c", "int main(void) { return 0; }\n");
    let prog = dir.join("main");
    needs("ld.lld");
    Command::new(needs("clang"))
        .args(["-fuse-ld=lld", "-Wl,-z,rel"])
        .arg(source)
        .arg("-o")
        .arg(&prog)
        .succeed();
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["DT_REL", "-z rela"]);
}

/// The kernel maps the later one over the other, and a PIE runs.
fn overlapping_segments() {
    let dir = Dir::new("overlapping");
    let prog = program(&dir);
    let elf = Elf::read(&prog);
    let is_load = |s: &&Segment| s.kind == object::elf::PT_LOAD.0;
    let loads: Vec<_> = elf.segments.iter().filter(is_load).collect();
    let [.., before, last] = &*loads else {
        panic!("{loads:x?}");
    };
    let number = elf.segments.iter().position(|s| s == *before);
    let at = 64 + 56 * number.expect("a segment") + 32; // p_filesz, p_memsz
    let size = (last.memory.start + 16 - before.memory.start).to_le_bytes();
    let mut bytes = elf.bytes().to_vec();
    bytes[at..at + 16].copy_from_slice(&[size, size].concat());
    fs::write(&prog, bytes).expect("the program, mode kept");
    Command::new(&prog).succeed();
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &["segments overlap"]);
}

/// A copy of the binary where every user can run it; the build's own may be below /root.
fn binary_for_all(dir: &Dir) -> PathBuf {
    let copy = dir.join("allocs-rewrite");
    copy_program(tool::binary(), &copy);
    fs::set_permissions(&copy, Permissions::from_mode(0o755)).expect("mode 0755");
    copy
}

/// `allocs-rewrite PROG -o OUT` as a user without privileges.
pub(crate) fn as_nobody(dir: &Dir, prog: &Path, out: &Path) -> Command {
    limited_nobody(dir, &[], prog, out)
}

/// The same, with limits as prlimit(1) takes them.
pub(crate) fn limited_nobody(dir: &Dir, limits: &[&str], prog: &Path, out: &Path) -> Command {
    let limited = Command::new(needs("prlimit")).args(limits);
    let start = match rustix::process::geteuid().is_root() {
        true => limited.args([
            "setpriv",
            "--reuid=65534",
            "--regid=65534",
            "--clear-groups",
        ]),
        false => limited,
    };
    let start = start.arg(binary_for_all(dir)).arg(prog);
    start.arg("-o").arg(out)
}

fn not_readable() {
    let dir = Dir::new("not-readable");
    let prog = program(&dir);
    fs::set_permissions(&prog, Permissions::from_mode(0o000)).expect("mode 0");
    let target = out(&dir);
    let command = as_nobody(&dir, &prog, &target);
    Rewrite::new(&prog, &target).map(|_| command).refuse(
        &dir.path(),
        &prog,
        &["Permission denied"],
    );
}

fn already_rewritten() {
    let dir = Dir::new("twice");
    let once = dir.make("once").join("threads");
    Rewrite::new(program(&dir), &once).succeed();
    let words = ["already rewritten", RUNTIME];
    Rewrite::new(&once, out(&dir)).refuse(&dir.path(), &once, &words);
    Rewrite::new(&once, &once).refuse(&dir.path(), &once, &words);
    // The same for a file that has grown.
    let other = dir.make("other").join("threads");
    Rewrite::new(program(&dir), &other)
        .arg("--runtime")
        .arg(tool::runtime())
        .succeed();
    let needed = tool::runtime().display().to_string();
    Rewrite::new(&other, out(&dir)).refuse(&dir.path(), &other, &["already rewritten", &needed]);
}

/// The loader ignores `$ORIGIN` in a setuid program: the result would not start. And who can replace
/// its runtime has its rights.
fn setuid() {
    let dir = Dir::new("setuid");
    let prog = program(&dir);
    let allowed = || Rewrite::new(&prog, out(&dir)).arg("--allow-setuid");
    for mode in [0o4755, 0o2755] {
        fs::set_permissions(&prog, Permissions::from_mode(mode)).expect("a setuid mode");
        let kind = if mode & 0o4000 != 0 {
            "setuid"
        } else {
            "setgid"
        };
        let words = [kind, "--allow-setuid", "$ORIGIN", "--runtime"];
        Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &words);
        allowed().refuse(&dir.path(), &prog, &[kind, "not an absolute path"]);
    }
    fs::set_permissions(&prog, Permissions::from_mode(0o755)).expect("a plain mode");
    Command::new(needs("setcap"))
        .arg("cap_net_raw+ep")
        .arg(&prog)
        .succeed();
    let words = ["file capabilities", "$ORIGIN", "--runtime"];
    Rewrite::new(&prog, out(&dir)).refuse(&dir.path(), &prog, &words);

    // Anybody can write to /tmp, and so put another directory in the place of this one.
    let runtime = tool::runtime_in(&dir);
    let words = ["file capabilities", "others than root can write"];
    allowed()
        .arg("--runtime")
        .arg(&runtime)
        .refuse(&dir.path(), &prog, &words);

    let trusted = Dir::of_root("runtime");
    let runtime = tool::runtime_in(&trusted);
    fs::set_permissions(&runtime, Permissions::from_mode(0o775)).expect("a mode");
    allowed()
        .arg("--runtime")
        .arg(&runtime)
        .refuse(&dir.path(), &prog, &words);
    fs::set_permissions(&runtime, Permissions::from_mode(0o755)).expect("a mode");
    let asked = || {
        Rewrite::new(&prog, out(&dir))
            .arg("--runtime")
            .arg(&runtime)
    };
    asked().refuse(&dir.path(), &prog, &["--allow-setuid"]);
    let result = asked().arg("--allow-setuid").succeed();
    result.command().succeed();
    let capabilities = |path: &Path| {
        Command::new(needs("getcap"))
            .arg("-n")
            .arg(path)
            .succeed()
            .stdout()
    };
    let kept = capabilities(&result.path).contains("cap_net_raw=ep");
    assert!(kept, "{}", capabilities(&result.path));
}
