//! The project's own runtime for AArch64 keeps its promises there as it does on x86-64: built as a distributor builds it,
//! found by the rewriter where it is installed, and run by an emulator with programs of Debian's cross compiler, and of
//! Debian.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::elf::Elf;
use allocs_tests::foreign::{self, AARCH64};
use allocs_tests::report::Report;
use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, trial, trials};
use libtest_mimic::Trial;
use object::elf;

use crate::index::{answers, compile};
use crate::machines::WORK;
use crate::{phases, questions, runtime_exports};

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["machines_runtime":
        stress,
        exports,
        depends_on_nothing,
        built_elsewhere,
        questions,
        pages,
        operators,
        before_relocation,
        phases,
        preloaded,
        musl,
        own_allocator_is_refused,
        other_runtime_in_a_directory,
        two_machines_in_a_tree,
    ];
    for (program, case) in [
        ("walks.c", "churn"),
        ("walks.c", "signals"),
        ("processes.c", "fork"),
        ("processes.c", "exit"),
        ("processes.c", "longjmp"),
        ("processes.c", "cancel"),
    ] {
        let name = format!("machines_runtime::{case}");
        all.push(trial(name, move || same(program, case)));
    }
    for (name, flags) in FACADES {
        let name = format!("machines_runtime::facades::{name}");
        all.push(trial(name, move || facades("facades.c", gcc(), flags)));
    }
    for (program, arguments) in WORK.into_iter().take(4) {
        let name = format!("machines_runtime::programs::{program}");
        all.push(trial(name, move || real_program(program, arguments)));
    }
    all
}

pub(crate) fn gcc() -> Command {
    AARCH64.compiler()
}

fn gxx() -> Command {
    Command::new(needs("aarch64-linux-gnu-g++"))
}

/// A rewrite by the installed program, of which nobody says where the runtime is.
pub(crate) fn rewrite(program: &Path, out: impl AsRef<Path>) -> Rewrite {
    let installed = foreign::installed().join("bin/allocs-rewrite");
    Rewrite::by(&installed, program, out)
}

/// The program rewritten, in a directory with the runtime.
pub(crate) fn rewritten(dir: &Dir, program: &Path) -> PathBuf {
    let out = dir.make("rewritten");
    let path = out.join(program.file_name().expect("a name"));
    let result = rewrite(program, &path).succeed();
    let [written, installed] = [out.join(RUNTIME), foreign::installed_runtime()]
        .map(|path| fs::read(path).expect("a runtime"));
    assert!(written == installed, "it is the installed runtime's copy");
    result.path
}

/// Runs it, slowly.
pub(crate) fn run(variables: &[(&str, String)], program: &Path) -> Command {
    AARCH64
        .run_with(variables, &AARCH64.libraries(), program)
        .limit(Duration::from_secs(900))
}

pub(crate) fn path(path: &Path) -> String {
    path.display().to_string()
}

/// As that for x86-64, but for what allocators in the executable are led to.
fn exports() {
    let expected = runtime_exports::EXPORTS.iter().copied();
    let expected = expected.filter(|(name, _)| !name.starts_with("allocs_divert_"));
    runtime_exports::exports_of(&foreign::installed_runtime(), expected);
}

fn depends_on_nothing() {
    let runtime = Elf::read(foreign::installed_runtime());
    assert_eq!(runtime.needed(), Vec::<String>::new());
    assert_eq!(runtime.soname().as_deref(), Some(RUNTIME));
    assert_eq!(runtime.segment(elf::PT_TLS.0), None, "thread-local storage");
    let initfirst = elf::DF_1_INITFIRST.0;
    assert_eq!(runtime.flags_1() & initfirst, initfirst, "DF_1_INITFIRST");
    let kinds = runtime.relocations().into_iter();
    let kinds: Vec<_> = kinds.map(|relocation| u64::from(relocation.kind)).collect();
    let relative = u64::from(elf::R_AARCH64_RELATIVE.0);
    assert!(kinds.iter().all(|kind| *kind == relative), "{kinds:?}");
    assert_eq!(runtime.entry(elf::DT_RELR), None);
    assert_eq!(runtime.entry(elf::DT_TEXTREL), None);
    assert!(runtime.relro().is_some(), "no RELRO");
}

/// The file says neither where its sources were nor where cargo put it.
fn built_elsewhere() {
    let dir = Dir::new("aarch64-elsewhere");
    let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let copy = dir.make("other sources");
    Command::new("cp")
        .args(["-r", "Cargo.toml", "Cargo.lock", "runtime", "rewriter"])
        .arg(&copy)
        .dir(&sources)
        .succeed();
    symlink(sources.join("tests"), copy.join("tests")).expect("a link");
    let built = foreign::build_runtime(
        std::process::Command::new(copy.join(foreign::BUILD))
            .current_dir(dir.path())
            .env("CARGO_TARGET_DIR", "cargo's own")
            .env("RUSTFLAGS", "-Copt-level=0"),
    );
    assert!(built.starts_with(dir.join("cargo's own")), "{built:?}");
    let [here, there] =
        [&foreign::installed_runtime(), &built].map(|path| fs::read(path).expect("a runtime"));
    assert!(here == there, "the files differ");
}

/// Threads that allocate at random: the index says what the program's own list says.
fn stress() {
    let dir = Dir::new("aarch64-stress");
    let program = rewritten(&dir, &compile(&dir, gcc(), "stress.c", &[]));
    stresses(
        &dir,
        |variables| run(variables, &program),
        &[],
        "relocation",
    );
}

/// The same for what `start` runs with the variables; the runtime starts in that phase.
fn stresses(
    dir: &Dir,
    start: impl Fn(&[(&str, String)]) -> Command,
    variables: &[(&str, String)],
    phase: &str,
) {
    let [answers_file, report] = ["answers", "report.json"].map(|name| dir.join(name));
    let told = [
        ("ANSWERS", path(&answers_file)),
        ("ALLOCS_REPORT", path(&report)),
    ];
    let variables = [variables, &told].concat();
    let outcome = start(&variables).args(["4", "20000", "2"]).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    assert!(answers(&answers_file) > 5000, "{outcome}");
    let report = Report::read(&report).expect("a report");
    assert_eq!(report.phase(), phase, "{outcome}");
}

/// A program that asks does what it does without the runtime, and has answers, all of them right.
fn same(program: &str, case: &str) {
    let dir = Dir::new(&format!("aarch64-{case}"));
    let program = compile(&dir, gcc(), program, &[]);
    let before = run(&[], &program).arg(case).run();
    let file = dir.join("answers");
    let program = rewritten(&dir, &program);
    let after = run(&[("ANSWERS", path(&file))], &program).arg(case).run();
    after.assert_same_as(&before);
    assert!(answers(&file) > 0, "{after}no answers");
}

/// Addresses of each kind: chunks and inside of them, data, functions, libraries, mappings, stacks of threads.
fn questions() {
    let dir = Dir::new("aarch64-questions");
    let flags = ["-DEMULATED", "-rdynamic", "-ldl", "-Wl,--build-id=sha1"];
    let program = compile(&dir, gcc(), "questions.c", &flags);
    let outcome = run(&[], &program).succeed();
    assert_eq!(outcome.stdout(), questions::WITHOUT);
    let outcome = run(&[], &rewritten(&dir, &program)).run();
    assert_eq!(outcome.stdout(), questions::WITH, "{outcome}");
}

/// Kernels have pages of 4, 16 or 64 KiB: a mapping goes on to the end of its last one, and so does a hole.
fn pages() {
    let dir = Dir::new("aarch64-pages");
    let source = dir.write(
        "main.c",
        "#define _GNU_SOURCE
         #include <stdio.h>
         #include <sys/mman.h>
         #include <unistd.h>
         #include \"allocs.h\"
         int main(void) {
             struct alloc_info info;
             size_t page = (size_t)sysconf(_SC_PAGESIZE);
             char *mapped = mmap(NULL, 1, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
             alloc_get_info(mapped, &info);
             printf(\"pages of %zu: mapped are %zu\", page, (size_t)((char *)info.mapping_limit - mapped));
             mapped = mmap(NULL, 3 * page, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
             munmap(mapped + page, 1);
             alloc_get_info(mapped + 2 * page, &info);
             printf(\", behind a hole are %zu\\n\", info.size);
             return 0; }
",
    );
    let program = dir.join("program");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/include");
    let includes = [Path::new("-I"), &include, Path::new("-o")];
    gcc().args(includes).args([&program, &source]).succeed();
    let program = rewritten(&dir, &program);
    for page in ["4096", "16384", "65536"] {
        let outcome = run(&[], &program).env("QEMU_PAGESIZE", page).succeed();
        let expected = format!("pages of {page}: mapped are {page}, behind a hole are {page}\n");
        assert_eq!(outcome.stdout(), expected, "{outcome}");
    }
}

/// Frames as GCC makes them: small, with and without frame pointers, and with signed return addresses, which the emulated
/// processor checks.
const FACADES: [(&str, &[&str]); 4] = [
    ("optimised", &["-O2"]),
    ("not_optimised", &["-O0"]),
    ("no_frame_pointers", &["-O2", "-fomit-frame-pointer"]),
    ("signed", &["-O2", "-mbranch-protection=standard"]),
];

/// The site is the function that allocates in that way, not what hands the memory on.
fn facades(source: &str, compiler: Command, flags: &[&str]) {
    let dir = Dir::new("aarch64-facades");
    let flags = [flags, &["-rdynamic"]].concat();
    let program = rewritten(&dir, &compile(&dir, compiler, source, &flags));
    let outcome = run(&[], &program).succeed();
    let mut count = 0;
    for (how, site) in (outcome.stdout().lines()).filter_map(|line| line.split_once(": ")) {
        let expected = match how {
            "make_node" => "make_node".to_owned(), // nobody has said that it is a facade
            _ => format!("by_{how}"),
        };
        assert_eq!(site, expected, "{outcome}");
        count += 1;
    }
    assert!(count > 5, "{outcome}");
}

/// Operator new and containers of C++.
fn operators() {
    facades("facades.cpp", gxx(), &["-O2"]);
}

/// A library's own IFUNC allocates before the loader has relocated the runtime.
fn before_relocation() {
    let dir = Dir::new("aarch64-before");
    dir.write(
        "early.c",
        "#include <stdlib.h>
         static void *early;
         static int get(void) { return early != 0; }
         static int (*resolve(void))(void) { early = malloc(77); return get; }
         static int chosen(void) __attribute__((ifunc(\"resolve\")));
         int ask(void) { return chosen(); }
         void *get_early(void) { return early; }
",
    );
    dir.write(
        "main.c",
        "#include <stdlib.h>
         int ask(void); void *get_early(void);
         int main(void) { if (!ask()) return 1; free(get_early()); return 0; }
",
    );
    let compile = |line: &str| {
        let arguments = line.split_whitespace();
        gcc().dir(dir.path()).args(arguments).succeed();
    };
    compile("-shared -fPIC -o libearly.so early.c");
    compile("-o program main.c ./libearly.so");
    let program = rewritten(&dir, &dir.join("program"));
    let file = dir.join("report.json");
    let outcome = run(&[("ALLOCS_REPORT", path(&file))], &program)
        .dir(dir.path())
        .run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let report = Report::read(&file).expect("a report");
    assert_eq!(report.before_init(), 1, "{outcome}");
    assert_eq!(report.calls("free"), 1);
}

/// `--phase preinit` is later than a library that glibc initialises first; `--phase relocation` is not.
fn phases() {
    let dir = Dir::new("aarch64-phases");
    let program = phases::with_rival(&dir, &gcc());
    for (phase, before_init) in [("preinit", 1), ("relocation", 0)] {
        let result = rewrite(&program, dir.join(phase))
            .arg("--phase")
            .arg(phase)
            .succeed();
        let file = dir.join("report.json");
        let outcome = run(&[("ALLOCS_REPORT", path(&file))], &result.path).succeed();
        let report = Report::read(&file).expect("a report");
        assert_eq!(report.phase(), phase, "{outcome}");
        assert_eq!(report.before_init(), before_init, "{outcome}");
    }
}

/// In a program that nobody has rewritten: from the runtime's own constructor on.
fn preloaded() {
    let dir = Dir::new("aarch64-preloaded");
    let program = compile(&dir, gcc(), "stress.c", &[]);
    let preload = ("LD_PRELOAD", path(&foreign::installed_runtime()));
    stresses(
        &dir,
        |variables| run(variables, &program),
        &[preload],
        "constructor",
    );
}

/// Under musl the runtime comes by LD_PRELOAD. A rewrite is refused: the call would be code of the program's own there.
fn musl() {
    let dir = Dir::new("aarch64-musl");
    let program = compile(&dir, foreign::musl_compiler(&dir), "stress.c", &[]);
    let run = |variables: &[(&str, String)]| {
        AARCH64
            .run_with(variables, &foreign::musl(), &program)
            .limit(Duration::from_secs(900))
    };
    let preload = ("LD_PRELOAD", path(&foreign::installed_runtime()));
    stresses(&dir, run, &[preload], "constructor");
    rewrite(&program, dir.join("out")).refuse(
        &dir.path(),
        &program,
        &["its loader is musl's", "build it for glibc"],
    );
}

/// Its calls do not come to the runtime; who takes that has to say so.
fn own_allocator_is_refused() {
    let dir = Dir::new("aarch64-own-allocator");
    let source = dir.write(
        "main.c",
        "#include <stddef.h>
         static char heap[1 << 16]; static size_t used;
         void *malloc(size_t size) { used += (size + 15) & ~15ul; return heap + used; }
         void free(void *chunk) { (void)chunk; }
         int main(void) { return malloc(10) == 0; }
",
    );
    let program = dir.join("program");
    gcc()
        .args(["-fno-builtin", "-o"])
        .args([&program, &source])
        .succeed();
    rewrite(&program, dir.join("out")).refuse(
        &dir.path(),
        &program,
        &["malloc", "on AArch64 no function is led there", "--partial"],
    );
    let partial = rewrite(&program, dir.join("out"))
        .arg("--partial")
        .succeed();
    let notes = partial.json["notes"].to_string();
    assert!(notes.contains("what it hands out is not seen"), "{notes}");
    run(&[], &partial.path).succeed();
}

/// Programs of two machines in one directory would need two files of one name.
fn other_runtime_in_a_directory() {
    let dir = Dir::new("aarch64-two");
    let program = compile(&dir, gcc(), "stress.c", &[]);
    Rewrite::new("/bin/true", dir.join("true")).succeed();
    // With it, the other program would not start.
    for options in ["", "--force"] {
        rewrite(&program, dir.join("out"))
            .args_line(options)
            .refuse(
                &dir.path(),
                &dir.join(RUNTIME),
                &[
                    "runtime of programs for x86-64",
                    "another directory",
                    "--runtime",
                ],
            );
    }
}

/// Of a directory with programs for two machines, those for this one are rewritten, however often it is tried.
fn two_machines_in_a_tree() {
    let dir = Dir::new("aarch64-tree");
    let (source, installed) = (dir.make("source"), foreign::installed());
    for name in ["a", "m", "z"] {
        let program = compile(&dir, gcc(), "stress.c", &[]);
        fs::rename(program, source.join(format!("{name}-arm64"))).expect("moved");
        fs::copy("/bin/true", source.join(format!("{name}-true"))).expect("copied");
    }
    let tree = |number: usize| {
        let outcome = Command::new(installed.join("bin/allocs-rewrite"))
            .args(["tree", "--json", "--manifest"])
            .arg(dir.join("manifest"))
            .arg(&source)
            .arg("-o")
            .arg(dir.join(format!("copy-{number}")))
            .run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        let said = outcome.stderr();
        assert_eq!(
            said.matches("runtime of programs for x86-64").count(),
            1,
            "{outcome}"
        );
        fs::remove_file(dir.join("manifest")).expect("a manifest");
        let report: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
        report["files"].clone()
    };
    let first = tree(0);
    for file in first.as_array().expect("files") {
        let native = file["path"]
            .as_str()
            .is_some_and(|path| path.ends_with("true"));
        let outcome = if native { "rewritten" } else { "failed" };
        assert_eq!(file["outcome"], outcome, "{first:#}");
    }
    for number in 1..10 {
        assert_eq!(tree(number), first);
    }
    Command::new(dir.join("copy-0/m-true")).succeed();
}

/// Programs of Debian's do what they did, with their own libc, and report.
fn real_program(program: &str, arguments: &[&str]) {
    let dir = Dir::new("aarch64-program");
    let root = AARCH64.root();
    let original = match program {
        "python" => AARCH64.python(),
        _ => root.join(program),
    };
    let rewritten = rewritten(&dir, &original);
    let home = ("PYTHONHOME", path(&root.join("usr")));
    let run = |variables: &[(&str, String)], program: &Path| -> Outcome {
        AARCH64
            .run_with(variables, &root, program)
            .args(arguments)
            .limit(Duration::from_secs(900))
            .run()
    };
    let before = run(std::slice::from_ref(&home), &original);
    assert!(!before.stdout.is_empty(), "{before}");
    let file = dir.join("report.json");
    let after = run(&[home, ("ALLOCS_REPORT", path(&file))], &rewritten);
    after.assert_same_as(&before);
    let report = Report::read(&file).expect("a report");
    assert_eq!(report.phase(), "relocation");
    assert_eq!(report.before_init(), 0);
    assert!(report.allocations() > 20, "{}", report.json());
    let sites = report.json()["sites"].as_array().expect("sites");
    let known =
        |site: &&serde_json::Value| site["frames"].as_array().is_some_and(|all| !all.is_empty());
    assert!(sites.iter().filter(known).count() > 3, "{}", report.json());
}
