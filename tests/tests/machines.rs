//! Programs for other machines, of 32 and 64 bits and either byte order: rewritten on this one, and run by an
//! emulator with the libc of the compiler that made them, or of Debian.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::foreign::{self, Machine, Programs, Tools};
use allocs_tests::loader::{self, Event};
use allocs_tests::sample::Sample;
use allocs_tests::tool::Rewritten;
use allocs_tests::{Command, Dir, Outcome, Rewrite, complaints, tool, trial, trials};
use libtest_mimic::Trial;
use object::{Object, ObjectSegment};

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["machines":
        mips_has_no_ifuncs,
        musl_has_no_trampoline,
        no_own_runtime,
        runtime_for_another_machine,
    ];
    for machine in foreign::ALL {
        let fits = |variant: &Variant| match variant.0 {
            // lld leaves no spare tags, and has no option for them.
            "no-spare-tags" => machine.tools == Tools::Gnu,
            // What the others' compilers do anyway.
            "gnu-hash" | "relro" => machine.is_mips(),
            _ => true,
        };
        for variant in VARIANTS.into_iter().filter(fits) {
            let name = format!("machines::{}::{}", machine.name, variant.0);
            all.push(trial(name, move || runs_as_before(machine, variant)));
        }
        for sample in Sample::all() {
            let fits = match sample.name.as_str() {
                // The runtime of tests/programs knows libc's malloc alone, and cannot be called before it is relocated.
                "other_allocator" | "ifunc_malloc" => false,
                // Before the rewrite, too, qemu 7.2 hangs in the first two, which the kernel runs, and crashes in the last.
                "fork" | "threads" if machine.name == "i386" => false,
                "preinit_array" if machine.name == "mipsn32el" => false,
                _ => sample.is_portable(),
            };
            if fits {
                let name = format!("machines::{}::samples::{}", machine.name, sample.name);
                all.push(trial(name, move || sample_runs_as_before(machine, &sample)));
            }
        }
        let real: &[(&str, Test)] = match machine.programs {
            Programs::Packages => &[("programs", real_programs), ("all", every_program)],
            Programs::Sources => &[("programs", built_programs), ("all", every_program)],
            Programs::None => &[],
        };
        for &(what, test) in real {
            let name = format!("machines::{}::{what}", machine.name);
            all.push(trial(name, move || test(machine)));
        }
    }
    all
}

/// What is true of real programs of a machine.
type Test = fn(Machine);

/// Name, and flags of compiler and linker.
type Variant = (&'static str, &'static [&'static str]);

const VARIANTS: [Variant; 8] = [
    ("pie", &["-fPIE", "-pie"]),
    ("non-pie", &["-fno-pie", "-no-pie", "-Wl,-z,lazy"]),
    ("preinit", &["-fPIE", "-pie", "-DPREINIT"]),
    ("sysv-hash", &["-fPIE", "-pie", "-Wl,--hash-style=sysv"]),
    (
        "no-spare-tags",
        &["-fPIE", "-pie", "-Wl,--spare-dynamic-tags=0"],
    ),
    ("norelro", &["-fPIE", "-pie", "-Wl,-z,norelro"]),
    ("gnu-hash", &["-fPIE", "-pie", "-Wl,--hash-style=gnu"]),
    ("relro", &["-fPIE", "-pie", "-Wl,-z,relro"]),
];

const NEEDED: &str = "$ORIGIN/liballocs_other.so";

/// machine.c and its library, built in the directory.
fn build(machine: Machine, dir: &Dir, flags: &[&str]) -> PathBuf {
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let program = dir.join("machine");
    let compile = |args: &[&str]| machine.compiler().dir(dir.path()).arg("-O1").args(args);
    compile(&["-shared", "-fPIC", "-o", "libmachine.so"])
        .arg(programs.join("libmachine.c"))
        .succeed();
    compile(flags)
        .arg(programs.join("machine.c"))
        .args(["./libmachine.so", "-Wl,-rpath,$ORIGIN", "-o"])
        .arg(&program)
        .succeed();
    program
}

/// The program with the runtime of tests/programs.
fn rewrite(program: &Path, out: impl AsRef<Path>) -> Rewritten {
    Rewrite::new(program, out)
        .args_line(&format!("--runtime {NEEDED} --init allocs_preinit"))
        .succeed()
}

/// What the runtime says on descriptor 3.
fn with_report(command: &Command, dir: &Dir) -> (Outcome, String) {
    let report = dir.join("report");
    let line = format!("exec 3>'{}'; exec {command}", report.display());
    let outcome = Command::new("/bin/sh")
        .arg("-c")
        .arg(line)
        .dir(dir.path())
        .run();
    let report = fs::read_to_string(report).expect("the runtime's report");
    (outcome, report)
}

fn runs_as_before(machine: Machine, (name, flags): Variant) {
    let dir = Dir::new(&format!("machine-{}-{name}", machine.name));
    machine.runtime(&dir);
    let original = build(machine, &dir, flags);
    let rewritten = rewrite(&original, dir.join("rewritten"));

    let run = |program: &Path| with_report(&machine.run(program).arg("word"), &dir);
    let (before, _) = run(&original);
    assert_eq!(before.code(), Some(42), "{before}");
    assert!(before.stdout().starts_with("constructor "), "{before}");
    // It finds its own table, and there the loader's list.
    let listed = before.stdout().split(' ').nth(3).map(str::to_owned);
    assert_eq!(listed.as_deref(), Some("11"), "{before}");
    let (after, report) = run(&rewritten.path);
    assert_eq!(after.stdout, before.stdout, "{after}");
    assert_eq!(after.code(), before.code(), "{after}");
    assert_eq!(
        report, "early 0\ncalled 1\nphase 1\n",
        "{after}the runtime came first"
    );

    assert!(
        rewritten.undo() == fs::read(&original).expect("the original"),
        "undo"
    );
    in_order(machine, &rewritten.path);
    complaints::assert_none_new(&original, &rewritten.path);
    stripped(machine, &dir, &rewritten, &before);
}

/// A program of `samples/`, with what it loads.
fn sample_runs_as_before(machine: Machine, sample: &Sample) {
    let dir = Dir::new(&format!("sample-{}-{}", machine.name, sample.name));
    machine.runtime(&dir);
    let gcc = machine.compiler();
    let original = sample.compile(
        &dir.path(),
        gcc.clone().args(["-O1", "-fPIE", "-pie"]),
        &gcc,
    );
    let rewritten = rewrite(&original, dir.join("rewritten"));
    let run = |program: &Path| with_report(&machine.run(program), &dir);
    let (before, _) = run(&original);
    let (after, report) = run(&rewritten.path);
    assert!(before.code().is_some(), "{before}");
    assert_eq!(after.stdout, before.stdout, "{before}{after}");
    assert_eq!(after.code(), before.code(), "{after}");
    // Its library has DF_1_INITFIRST, and is ahead of all that is not an IFUNC.
    let rival = sample.name == "rival";
    let early = format!("early {}", u8::from(rival && machine.is_mips()));
    let processes = report.lines().filter(|line| *line == "phase 1").count();
    let first = report.lines().filter(|line| *line == early).count();
    assert!(
        processes >= 1 && first == processes && report.lines().count() == 3 * processes,
        "{after}{report}"
    );
    if !rival {
        in_order(machine, &rewritten.path);
    }
    let undone = rewritten.undo() == fs::read(&original).expect("the original");
    assert!(undone, "undo");
}

/// The loader initialises the runtime ahead of all libraries, and relocates it ahead of the program.
fn in_order(machine: Machine, program: &Path) {
    let events = loader::trace("libs", |variables| {
        machine
            .run_with(variables, &machine.libraries(), program)
            .dir(program.parent().expect("a directory"))
            .run()
    });
    let mut inits = events.iter().filter_map(|event| match event {
        Event::Init(path) => Some(path),
        _ => None,
    });
    let first = inits.next().expect("a constructor");
    assert!(
        loader::is(first, "liballocs_other.so"),
        "{first} is initialised first"
    );
}

/// Still runs after strip. The runtime goes on being first.
fn stripped(machine: Machine, dir: &Dir, rewritten: &Rewritten, before: &Outcome) {
    let out = dir.join("stripped");
    machine
        .strip()
        .arg(&rewritten.path)
        .arg("-o")
        .arg(&out)
        .succeed();
    let (after, report) = with_report(&machine.run(&out).arg("word"), dir);
    assert_eq!(after.stdout, before.stdout, "{after}");
    assert_eq!(after.code(), before.code(), "{after}");
    assert!(report.starts_with("early 0\n"), "{after}{report}");
}

/// Programs of Debian's, and something for each to do.
pub(crate) const WORK: [(&str, &[&str]); 6] = [
    (
        "usr/bin/bash",
        &[
            "-c",
            "a=(1 2 3); for i in ${a[@]}; do echo $((i * i)); done; exit 5",
        ],
    ),
    (
        "usr/bin/perl",
        &[
            "-e",
            "my %h = map { $_ => $_ ** 2 } 1 .. 300; print join ',', sort values %h; exit 6",
        ],
    ),
    (
        "usr/bin/busybox",
        &[
            "awk",
            "BEGIN { for (i = 1; i < 500; i++) s += i * i; print s; exit 3 }",
        ],
    ),
    (
        "python",
        &["-S", "-c", "print(sorted(str(i) for i in range(300)))"],
    ),
    ("usr/bin/sha256sum", &["/etc/os-release"]),
    (
        "usr/bin/sed",
        &["-n", "s/VERSION/version/p", "/etc/os-release"],
    ),
];

/// Real programs do what they did, with the libc of their own system.
fn real_programs(machine: Machine) {
    let dir = Dir::new(&format!("programs-{}", machine.name));
    machine.runtime(&dir);
    let root = machine.root();
    for (program, args) in WORK {
        let original = match program {
            "python" => machine.python(),
            _ => root.join(program),
        };
        does_its_work(machine, &dir, &original, args);
    }
}

/// The same of a tree that has what was built: all that is there. What has no work of its own, of the coreutils, is
/// asked for its version.
fn built_programs(machine: Machine) {
    let dir = Dir::new(&format!("programs-{}", machine.name));
    machine.runtime(&dir);
    for original in machine.executables() {
        let named = |(name, _): &&(&str, _)| original.ends_with(name);
        let others: [(&str, &[&str]); 3] = [
            ("bzip2", &["-c", "/etc/os-release"]),
            (
                "lua",
                &[
                    "-e",
                    "t = {} for i = 1, 99 do t[i] = i * i end print(table.concat(t, ' '))",
                ],
            ),
            ("python3.11", WORK[3].1),
        ];
        let work = WORK.iter().chain(&others).find(named);
        let args = work.map_or(["--version"].as_slice(), |(_, args)| args);
        does_its_work(machine, &dir, &original, args);
    }
}

/// With these arguments, the program does what it did, behind the runtime in the directory.
fn does_its_work(machine: Machine, dir: &Dir, original: &Path, args: &[&str]) {
    let root = machine.root();
    // busybox goes by its name.
    let name = original.file_name().expect("a name");
    let rewritten = rewrite(original, dir.join(name));
    let run = |path: &Path| {
        let home = root.join("usr").display().to_string();
        let command = machine.run_with(&[("PYTHONHOME", home)], &root, path);
        with_report(&command.args(args), dir)
    };
    let (before, _) = run(original);
    assert!(
        before.status.is_some() && !before.stdout.is_empty(),
        "{before}"
    );
    let (after, report) = run(&rewritten.path);
    assert_eq!(after.stdout, before.stdout, "{before}{after}");
    assert_eq!(after.code(), before.code(), "{after}");
    assert!(report.starts_with("early 0\ncalled 1\n"), "{after}{report}");
    fs::remove_file(&rewritten.path).expect("removed");
}

/// Every executable of the tree is rewritten, is well formed, and comes back.
fn every_program(machine: Machine) {
    let dir = Dir::new(&format!("all-{}", machine.name));
    machine.runtime(&dir);
    for (number, program) in machine.executables().into_iter().enumerate() {
        if tool::is_privileged(&program) {
            continue;
        }
        let result = Rewrite::new(&program, dir.join("rewritten"))
            .args_line("--runtime /usr/lib/liballocs_other.so --init allocs_preinit")
            .succeed();
        assert!(
            result.undo() == fs::read(&program).expect("the original"),
            "{}: undo",
            program.display()
        );
        let linked = alignments(&program);
        assert_eq!(alignments(&result.path), linked, "{}", program.display());
        if has_large_pages(machine) {
            assert!(linked.iter().all(|&align| align >= 0x1_0000), "{linked:?}");
        }
        // What the tools say of one in eight, to be done in time.
        if number % 8 == 0 || machine.programs == Programs::Sources {
            complaints::assert_none_new(&program, &result.path);
        }
        fs::remove_file(&result.path).expect("removed");
    }
}

/// Of what is loaded.
fn alignments(program: &Path) -> BTreeSet<u64> {
    let bytes = fs::read(program).expect("the program");
    let file = object::File::parse(&*bytes).expect("an ELF file");
    file.segments().map(|segment| segment.align()).collect()
}

/// Kernels of the machine may have pages of 64 KiB, and its linker goes by that.
fn has_large_pages(machine: Machine) -> bool {
    machine.is_mips() || ["arm64", "ppc64", "ppc64el"].contains(&machine.name)
}

/// There the loader would take the address of an IFUNC's resolver for that of the function.
fn mips_has_no_ifuncs() {
    let dir = Dir::new("mips");
    let mipsel = { foreign::ALL.into_iter() }.find(|machine| machine.name == "mipsel");
    let mipsel = mipsel.expect("the machine");
    let program = build(mipsel, &dir, VARIANTS[0].1);
    Rewrite::new(&program, dir.join("out"))
        .args_line("--runtime /usr/lib/libtrace.so.1 --init trace_init --phase relocation")
        .refuse(
            &dir.path(),
            &program,
            &["phase relocation", "no IFUNCs on MIPS", "--phase preinit"],
        );
}

/// musl calls a runtime at the entry point only, by a trampoline of x86-64.
fn musl_has_no_trampoline() {
    for machine in foreign::ALL {
        let dir = Dir::new(&format!("musl-{}", machine.name));
        let loader = format!(
            "-Wl,--dynamic-linker=/lib/ld-musl-{}.so.1",
            machine.emulator
        );
        let program = build(machine, &dir, &["-fPIE", "-pie", &loader]);
        let rewrite = || {
            Rewrite::new(&program, dir.join("out"))
                .args_line("--runtime /usr/lib/libtrace.so.1 --init trace_init")
        };
        let reason = ["its loader is musl's", "x86-64", "build it for glibc"];
        rewrite().refuse(&dir.path(), &program, &reason);
        for phase in ["relocation", "preinit", "entry"] {
            let said = [&["phase ", phase], reason.as_slice()].concat();
            let asked = rewrite().args_line(&format!("--phase {phase}"));
            asked.refuse(&dir.path(), &program, &said);
        }
    }
}

fn no_own_runtime() {
    let dir = Dir::new("no-own-runtime");
    let program = build(foreign::ALL[0], &dir, VARIANTS[0].1);
    Rewrite::new(&program, dir.join("out")).refuse(
        &dir.path(),
        &program,
        &[
            "AArch64",
            "allocs-rewrite has no runtime for that; install the one that rewriter/dist/runtime builds as ",
            "lib/aarch64-linux-gnu/liballocs_rt.so.1 (",
            ", or name one with --runtime",
        ],
    );
}

fn runtime_for_another_machine() {
    let dir = Dir::new("another-machine");
    let program = build(foreign::ALL[0], &dir, VARIANTS[0].1);
    let runtime = tool::runtime_in(&dir);
    Rewrite::new(&program, dir.join("out"))
        .args_line("--runtime $ORIGIN/liballocs_rt.so.1")
        .refuse(&dir.path(), &runtime, &["it is for another machine"]);
}
