//! Linkers, flags, languages, and what other tools did before and do afterwards, combined by a seeded
//! generator: whatever it was, the rewritten program runs as the original does, the runtime comes
//! first, and undo gives back the bytes.
//!
//! ALLOCS_SEEDS=FIRST..END runs other combinations, and any number of them. A failure prints its
//! combination, and keeps its directory.

use std::fmt::Write;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use allocs_tests::report::Report;
use allocs_tests::tool::{self, RUNTIME, Rewritten};
use allocs_tests::trial::seeds;
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, structure, trial};
use fastrand::Rng;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let run = |seed| trial(format!("combinations::{seed}"), move || combination(seed));
    seeds("0..1000").map(run).collect()
}

/// Flags of which a combination has one.
type Choice = &'static [&'static str];

struct Linker {
    name: &'static str,
    program: &'static str,
    choices: &'static [Choice],
}

const HASH: Choice = &[
    "",
    "--hash-style=gnu",
    "--hash-style=sysv",
    "--hash-style=both",
];
const RELRO: Choice = &["", "-z norelro", "-z relro -z now", "-z lazy"];
const PAGES: Choice = &[
    "",
    "",
    "-z max-page-size=4096",
    "-z max-page-size=65536",
    "-z max-page-size=2097152",
];
const BUILD_ID: Choice = &["", "--build-id=none", "--build-id=sha1"];
const SYMBOLS: Choice = &["", "", "-s", "--export-dynamic", "--gc-sections"];
const RPATH: Choice = &[
    "",
    "-rpath /nonexistent",
    "-rpath /nonexistent --disable-new-dtags",
];

const LINKERS: &[Linker] = &[
    Linker {
        name: "bfd",
        program: "ld",
        choices: &[
            HASH,
            RELRO,
            PAGES,
            BUILD_ID,
            SYMBOLS,
            RPATH,
            &["", "-z separate-code", "-z noseparate-code"],
            &["", "", "-z common-page-size=65536 -z max-page-size=65536"],
            &["", "-z pack-relative-relocs"],
            &["", "", "-z nodynamic-undefined-weak"],
            &["", "", "--spare-dynamic-tags=0", "--spare-dynamic-tags=1"],
            &["", "", "-z nocombreloc"],
            &["", "", "-z execstack"],
            &["", "", "-Ttext-segment=0x10000000"],
        ],
    },
    Linker {
        name: "gold",
        program: "ld.gold",
        choices: &[
            HASH,
            RELRO,
            PAGES,
            BUILD_ID,
            SYMBOLS,
            RPATH,
            &["", "", "--spare-dynamic-tags=0"],
        ],
    },
    Linker {
        name: "lld",
        program: "ld.lld",
        choices: &[
            HASH,
            RELRO,
            PAGES,
            BUILD_ID,
            SYMBOLS,
            RPATH,
            &[
                "",
                "--no-rosegment",
                "-z separate-code",
                "-z noseparate-code",
                "-z separate-loadable-segments",
            ],
            &["", "", "--image-base=0x10000000"],
        ],
    },
    Linker {
        name: "mold",
        program: "mold",
        choices: &[
            HASH,
            RELRO,
            BUILD_ID,
            SYMBOLS,
            RPATH,
            &[
                "",
                "-z separate-code",
                "-z noseparate-code",
                "-z separate-loadable-segments",
            ],
            &["", "", "--image-base=0x10000000"],
        ],
    },
];

/// What another tool does to a program: name of the program, and its arguments; the file is the last.
type Operation = (&'static str, &'static [&'static str]);

const BEFORE: &[Operation] = &[
    ("strip", &[]),
    ("strip", &["-g"]),
    ("objcopy", &["--add-section", ".extra=/etc/passwd"]),
    ("objcopy", &["--compress-debug-sections"]),
    (
        "patchelf",
        &["--set-rpath", "/nonexistent/with/a/name/that/needs/room"],
    ),
    ("patchelf", &["--add-needed", "libdl.so.2"]),
    (
        "patchelf",
        &["--set-interpreter", "/lib64/../lib64/ld-linux-x86-64.so.2"],
    ),
    ("chrpath", &["-c", "-r", "/short"]),
    ("eu-strip", &[]),
];

const AFTER: &[Operation] = &[
    ("strip", &[]),
    ("strip", &["-g"]),
    ("llvm-strip-14", &[]),
    ("eu-strip", &[]),
    ("objcopy", &["--add-section", ".extra=/etc/passwd"]),
    ("objcopy", &["--remove-section", ".comment"]),
];

/// What a seed stands for.
struct Combination {
    source: &'static str,
    pie: bool,
    linker: &'static Linker,
    flags: Vec<&'static str>,
    before: Vec<Operation>,
    sectionless: bool,
    appended: bool,
    long: bool,
    after: Option<Operation>,
}

impl Combination {
    fn new(rng: &mut Rng) -> Self {
        fn one<T: Copy>(rng: &mut Rng, all: &[T]) -> T {
            all[rng.usize(..all.len())]
        }
        let source = one(
            rng,
            &[
                "combination.c",
                "combination.c",
                "preinit.c",
                "combination.cpp",
            ],
        );
        let linker = &LINKERS[rng.usize(..LINKERS.len())];
        let flags = linker.choices.iter().map(|choice| one(rng, choice));
        let flags = flags.flat_map(str::split_whitespace).collect();
        let sectionless = rng.u8(..8) == 0;
        Self {
            source,
            pie: rng.u8(..3) != 0,
            linker,
            flags,
            before: (0..rng.usize(..3)).map(|_| one(rng, BEFORE)).collect(),
            sectionless,
            appended: rng.u8(..8) == 0,
            long: rng.u8(..3) == 0,
            // Such tools go by sections, and leave out what is behind them.
            after: Some(one(rng, AFTER)).filter(|_| !sectionless && rng.bool()),
        }
    }

    fn build(&self, dir: &Dir) -> PathBuf {
        let program = dir.join("program");
        let compiler = match self.source {
            "combination.cpp" => "g++",
            _ => "gcc",
        };
        let flags: Vec<String> = self
            .flags
            .iter()
            .map(|flag| format!("-Wl,{flag}"))
            .collect();
        needs(self.linker.program);
        Command::new(needs(compiler))
            .arg(object(self.source, self.pie))
            .arg(if self.pie { "-pie" } else { "-no-pie" })
            .arg(format!("-fuse-ld={}", self.linker.name))
            .args(flags)
            .args(["-lm", "-o"])
            .arg(&program)
            .succeed();
        program
    }

    /// Does to the program what is done to it before the rewrite.
    fn change(&self, program: &Path) {
        for operation in &self.before {
            // patchelf breaks some programs, mold's among them: those stay as they were.
            let before = program.with_extension("before");
            fs::copy(program, &before).expect("a copy");
            run_well(operation, program);
            if start(program).code() != Some(4) {
                fs::rename(&before, program).expect("renamed");
            }
        }
        if self.sectionless {
            let mut bytes = fs::read(program).expect("the program");
            bytes[40..48].fill(0);
            bytes[60..64].fill(0);
            fs::write(program, bytes).expect("the program");
        }
        if self.appended {
            let mut bytes = fs::read(program).expect("the program");
            bytes.extend(b"appended data, to be found from the end");
            fs::write(program, bytes).expect("the program");
        }
    }
}

fn run((tool, args): &Operation, file: &Path) -> Outcome {
    Command::new(needs(tool)).args(*args).arg(file).run()
}

fn run_well(operation: &Operation, file: &Path) {
    let outcome = run(operation, file);
    // chrpath has nothing to do where there is no path, and says so by its exit status.
    let ended_well = outcome.code() == Some(0) || operation.0 == "chrpath";
    assert!(ended_well, "{outcome}");
}

/// The object file of a source, made once.
fn object(source: &str, pie: bool) -> PathBuf {
    static OBJECTS: OnceLock<Dir> = OnceLock::new();
    let programs = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs");
    let objects = OBJECTS.get_or_init(|| {
        let dir = Dir::new("combinations");
        for (source, compiler, flags) in [
            ("combination.c", "gcc", "-Wall"),
            ("preinit.c", "gcc", "-DPREINIT"),
            ("combination.cpp", "g++", "-Wall"),
        ] {
            for pie in [true, false] {
                let text = programs.join(source.replace("preinit", "combination"));
                Command::new(needs(compiler))
                    .args([
                        "-c",
                        "-g",
                        "-O1",
                        "-ffunction-sections",
                        "-fno-builtin",
                        flags,
                    ])
                    .arg(if pie { "-fPIE" } else { "-fno-pie" })
                    .arg(text)
                    .arg("-o")
                    .arg(dir.join(object_name(source, pie)))
                    .succeed();
            }
        }
        dir
    });
    objects.join(object_name(source, pie))
}

fn object_name(source: &str, pie: bool) -> String {
    format!("{source}-{}.o", if pie { "pie" } else { "non-pie" })
}

fn combination(seed: u64) {
    let mut rng = Rng::with_seed(seed);
    let combination = Combination::new(&mut rng);
    let dir = Dir::new(&format!("combination-{seed}"));
    let mut notes = String::new();
    let Combination {
        source,
        pie,
        linker,
        flags,
        before,
        sectionless,
        appended,
        long,
        after,
    } = &combination;
    writeln!(
        notes,
        "{source}, pie {pie}, {} {flags:?}, before: {before:?}, sectionless {sectionless}, appended {appended}, \
         long name {long}, after: {after:?}",
        linker.name
    )
    .expect("a text");
    dir.write("combination.txt", &notes);

    let program = combination.build(&dir);
    combination.change(&program);
    let original = start(&program);
    assert_eq!(
        original.code(),
        Some(4),
        "{original}the original itself fails: {notes}"
    );

    let result = rewrite(&dir, &program, *long);
    let bytes = fs::read(&program).expect("the program");
    if result.json["notes"]
        .to_string()
        .contains("undo will not be possible")
    {
        // Without section headers, those themselves are behind everything that is described.
        assert!(*appended || *sectionless, "{notes}");
    } else {
        assert!(result.undo() == bytes, "{notes}undo gives another file");
    }
    check(&result.path, &original, &notes);
    // docs/limits.md: strip and its like expect the program headers at the beginning.
    let headers_moved = result.json["notes"]
        .to_string()
        .contains("program header table");
    if let Some(operation) = after.filter(|_| !headers_moved) {
        // What the tool makes of the original is what it may make of the result.
        let (before, changed) = (dir.join("changed"), dir.join("rewritten/changed"));
        fs::copy(&program, &before).expect("a copy");
        fs::copy(&result.path, &changed).expect("a copy");
        let refused = run(&operation, &before).code() != Some(0);
        if !refused && start(&before).code() == original.code() {
            run_well(&operation, &changed);
            check(&changed, &original, &notes);
        }
    }
}

/// Starts the program.
fn start(file: &Path) -> Outcome {
    command(file).run()
}

fn command(file: &Path) -> Command {
    Command::new(file).arg0("program").env("MARK", "set")
}

/// The rewritten program does what the original did, and the runtime came first.
fn check(file: &Path, original: &Outcome, notes: &str) {
    start(file).assert_same_as(original);
    let (outcome, report) = Report::of(&command(file), &file.with_extension("json"));
    assert_eq!(report.phase(), "relocation", "{notes}{outcome}");
    assert_eq!(report.before_init(), 0, "{notes}{outcome}");
}

fn rewrite(dir: &Dir, program: &Path, long: bool) -> Rewritten {
    let out = dir.make("rewritten").join("program");
    let rewrite = Rewrite::new(program, &out);
    let (result, needed) = if long {
        let runtime = dir.join(format!("{RUNTIME}-by-a-name-that-is-too-long-for-any-room"));
        fs::copy(tool::runtime(), &runtime).expect("the runtime copied");
        let needed = runtime.display().to_string();
        (rewrite.arg("--runtime").arg(&runtime).succeed(), needed)
    } else {
        (rewrite.succeed(), format!("$ORIGIN/{RUNTIME}"))
    };
    structure::check_tables(&result, &needed);
    result
}
