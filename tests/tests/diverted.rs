//! Allocators in the executable itself, whose functions lead to the runtime: each chunk is known, with whom it is
//! from, whatever the functions do to each other; and exceptions of operator new get through.
//!
//! What the rewriter does to the functions is done here in assembly, so that these tests say what the runtime does.

use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::tool;
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile, gcc};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["diverted":
        stress,
        stress_without_sizes,
        stress_jemalloc,
        two_allocators,
        operators_that_call_malloc,
        operators_of_jemalloc,
        counts_of_operators,
        functions_of_jemalloc,
        functions_of_jemalloc_without_sizes,
        backtrace,
    ]
}

/// The functions that can lead to the runtime, in the order in which a table has them.
const FUNCTIONS: &str = "malloc calloc realloc reallocarray free cfree memalign posix_memalign
    aligned_alloc valloc pvalloc malloc_usable_size free_sized free_aligned_sized
    _Znwm _Znam _ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t _ZnwmSt11align_val_t _ZnamSt11align_val_t
    _ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t
    _ZdlPv _ZdaPv _ZdlPvm _ZdaPvm _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t
    _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t
    _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t
    mallocx rallocx xallocx";

/// The malloc family as `own_malloc.c` has it.
const OWN: &str = "malloc calloc realloc reallocarray free cfree memalign posix_memalign
    aligned_alloc valloc pvalloc malloc_usable_size";

/// The malloc family as jemalloc has it.
const JEMALLOC: &str =
    "malloc calloc realloc free memalign posix_memalign aligned_alloc valloc malloc_usable_size";

/// Those of a list, and all operators.
fn with_operators(list: &str) -> Vec<(&str, &str)> {
    let operators = named(FUNCTIONS)
        .into_iter()
        .filter(|(name, _)| name.starts_with("_Z"));
    named(list).into_iter().chain(operators).collect()
}

/// An allocator whose functions lead to the runtime.
struct Diverted<'a> {
    name: &'a str,
    /// What the names of its functions begin with, as the program calls them, and as they were before.
    prefixes: [&'a str; 2],
    /// The functions, each with the one that it is to the runtime, if that has another name.
    functions: Vec<(&'a str, &'a str)>,
}

/// The names in a list; `sallocx=malloc_usable_size` is one that the runtime knows by another.
fn named(list: &str) -> Vec<(&str, &str)> {
    let words = list.split_whitespace();
    words
        .map(|word| word.split_once('=').unwrap_or((word, word)))
        .collect()
}

impl Diverted<'_> {
    /// Assembly that defines the functions, each as the jump to its entry, and what that needs.
    fn write(&self, dir: &Dir) -> PathBuf {
        let Self {
            name,
            prefixes: [prefix, original],
            functions,
        } = self;
        let mut text = String::new();
        for (function, hook) in functions {
            text += &format!(
                ".text
                .globl {prefix}{function}
                .type {prefix}{function}, @function
                {prefix}{function}:
                .cfi_startproc
                endbr64
                mov %r11, -8(%rsp)
                lea table_{name}(%rip), %r11
                jmp *slot_{name}_{function}(%rip)
                .cfi_endproc
                .size {prefix}{function}, . - {prefix}{function}
                .section .data.rel.ro, \"aw\"
                .balign 8
                slot_{name}_{function}: .quad allocs_divert_{hook}\n"
            );
        }
        text += &format!(".section .rodata\n.balign 8\ntable_{name}: .quad 0\n");
        for slot in FUNCTIONS.split_whitespace() {
            text += &match functions.iter().find(|(_, hook)| *hook == slot) {
                Some((function, _)) => format!(".quad {original}{function} - table_{name}\n"),
                None => ".quad 0\n".to_owned(),
            };
        }
        text += &format!(".asciz \"{name}\"\n.section .note.GNU-stack, \"\", @progbits\n");
        dir.write(format!("{name}.s"), text)
    }
}

/// jemalloc as an archive, whose functions of the list have names that begin with `original_`, and the assembly
/// that leads to them.
fn jemalloc(dir: &Dir, functions: Vec<(&str, &str)>) -> [PathBuf; 2] {
    let archive = dir.join("jemalloc.a");
    let renamed = functions.iter().flat_map(|(name, _)| {
        [
            "--redefine-sym".to_owned(),
            format!("{name}=original_{name}"),
        ]
    });
    Command::new(needs("objcopy"))
        .args(renamed)
        .arg(needs(JEMALLOC_ARCHIVE))
        .arg(&archive)
        .succeed();
    let prefixes = ["", "original_"];
    let entries = Diverted {
        name: "jemalloc",
        prefixes,
        functions,
    };
    [entries.write(dir), archive]
}

const JEMALLOC_ARCHIVE: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc_pic.a";
/// What jemalloc needs.
const WITH_JEMALLOC: [&str; 2] = ["-lstdc++", "-lm"];

/// `own_malloc.c`, its functions called as `prefix` says, and the assembly that leads to them.
fn own<'a>(
    dir: &Dir,
    name: &'a str,
    prefix: &'a str,
    functions: Vec<(&'a str, &'a str)>,
) -> [PathBuf; 2] {
    let object = dir.join("own_malloc.o");
    let public = match prefix {
        "" => "-DPUBLIC(name)=name".to_owned(),
        prefix => format!("-DPUBLIC(name)={prefix}##name"),
    };
    gcc()
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fno-builtin",
            "-O1",
            "-c",
            "-o",
        ])
        .args([&object, &source("own_malloc.c")])
        .arg(public)
        .succeed();
    let entries = Diverted {
        name,
        prefixes: [prefix, "own_"],
        functions,
    };
    [entries.write(dir), object]
}

/// Builds a program with the two files of an allocator, and rewrites it.
fn build(dir: &Dir, program: &str, allocator: &[PathBuf], flags: &[&str]) -> PathBuf {
    let compiler = match program.ends_with(".cpp") {
        true => Command::new(needs("g++")).arg("-std=c++17"),
        false => gcc(),
    };
    let mut all: Vec<_> = allocator.iter().map(|file| text(file)).collect();
    all.push(text(tool::runtime()));
    all.extend(flags);
    let program = compile(dir, compiler, program, &all);
    let name = program.file_name().expect("a name");
    Rewrite::new(&program, dir.make("rewritten").join(name))
        .succeed()
        .path
}

/// `path` as an argument.
fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name)
}

/// Runs `command`, which prints nothing else, and asks the index.
fn known(dir: &Dir, command: &Command, least: u64) {
    let file = dir.join("answers");
    let outcome = command.clone().env("ANSWERS", &file).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    assert_eq!(outcome.stderr(), "", "{outcome}");
    let answers = answers(&file);
    assert!(answers > least, "{outcome}{answers} answers");
}

fn stress_with(dir: &Dir, allocator: &[PathBuf], flags: &[&str]) {
    let program = build(dir, "stress.c", allocator, flags);
    for threads in ["1", "4"] {
        known(
            dir,
            &Command::new(&program).args([threads, "100000", "1", "foreign"]),
            10_000,
        );
    }
}

/// Functions that call each other by the names that lead to the runtime.
fn stress() {
    let dir = Dir::new("diverted-stress");
    let own = own(&dir, "own", "", named(OWN));
    stress_with(&dir, &own, &["-DALLOCATOR=\"own\""]);
}

/// An allocator that does not say how large its chunks are.
fn stress_without_sizes() {
    let dir = Dir::new("diverted-stress-sizes");
    let functions = OWN.replace("malloc_usable_size", "");
    let own = own(&dir, "own", "", named(&functions));
    let sizes = "-DUSABLE(chunk,size)=((size)<16?16:(size))";
    stress_with(&dir, &own, &["-DALLOCATOR=\"own\"", sizes]);
}

fn stress_jemalloc() {
    let dir = Dir::new("diverted-stress-jemalloc");
    let jemalloc = jemalloc(&dir, named(JEMALLOC));
    let [first, second] = WITH_JEMALLOC;
    stress_with(
        &dir,
        &jemalloc,
        &["-DALLOCATOR=\"jemalloc\"", first, second],
    );
}

fn two_allocators() {
    let dir = Dir::new("diverted-two");
    let own = own(&dir, "pool", "pool_", named(OWN));
    let program = build(&dir, "allocators.c", &own, &[]);
    known(&dir, &Command::new(program), 2000);
}

/// It prints what it prints where nothing leads to the runtime, and with it there are answers.
fn operators_same(dir: &Dir, program: &Path, original: &Command) {
    let file = dir.join("answers");
    let outcome = Command::new(program).env("ANSWERS", &file).run();
    outcome.assert_same_as(&original.succeed());
    assert!(answers(&file) > 15, "{outcome}");
}

/// Exceptions get through the runtime to a handler, and from malloc's null to std::bad_alloc.
fn operators_that_call_malloc() {
    let dir = Dir::new("diverted-operators");
    let program = operators_of_own(&dir);
    let flags = ["-std=c++17"];
    let compiler = Command::new(needs("g++"));
    let original = compile(&dir, compiler, "operators.cpp", &flags);
    operators_same(&dir, &program, &Command::new(original));
}

fn operators_of_own(dir: &Dir) -> PathBuf {
    let [entries, object] = own(dir, "own", "", with_operators(OWN));
    build(
        dir,
        "operators.cpp",
        &[entries, object, source("own_operators.cpp")],
        &[],
    )
}

/// Operators that reach the allocator without malloc.
fn operators_of_jemalloc() {
    let dir = Dir::new("diverted-operators-jemalloc");
    let program = operators_of_the_jemalloc(&dir);
    let compiler = Command::new(needs("g++"));
    let flags = ["-std=c++17", JEMALLOC_ARCHIVE];
    let original = compile(&dir, compiler, "operators.cpp", &flags);
    operators_same(&dir, &program, &Command::new(original));
}

fn operators_of_the_jemalloc(dir: &Dir) -> PathBuf {
    let functions = with_operators(JEMALLOC);
    build(dir, "operators.cpp", &jemalloc(dir, functions), &[])
}

/// An operator that calls malloc makes one allocation, of as many bytes as the program asked for.
fn counts_of_operators() {
    let sums = |dir: &Dir, program: &Path| {
        let (outcome, report) = Report::of(&Command::new(program), &dir.join("report.json"));
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let sites = report.json()["sites"].as_array().expect("sites").clone();
        let sum =
            |member: &str| -> u64 { sites.iter().filter_map(|site| site[member].as_u64()).sum() };
        let live = |member| report.number(&["live", member]);
        [sum("calls"), sum("bytes"), live("chunks"), live("bytes")]
    };
    let dir = Dir::new("diverted-counts");
    let calling = sums(&dir, &operators_of_own(&dir));
    let dir = Dir::new("diverted-counts-jemalloc");
    let direct = sums(&dir, &operators_of_the_jemalloc(&dir));
    assert_eq!(calling, direct);
    assert!(direct[0] > 16_000, "{direct:?}");
}

fn functions_of_jemalloc() {
    let dir = Dir::new("diverted-jemalloc");
    let functions =
        "mallocx rallocx xallocx sallocx=malloc_usable_size dallocx=free sdallocx=free_sized";
    let jemalloc = jemalloc(&dir, named(functions));
    let program = build(&dir, "jemalloc.c", &jemalloc, &WITH_JEMALLOC);
    known(&dir, &Command::new(program), 40_000);
}

/// As Rust programs use it: there is nothing else to give memory back by than a function that takes the size.
fn functions_of_jemalloc_without_sizes() {
    let dir = Dir::new("diverted-jemalloc-sized");
    let jemalloc = jemalloc(&dir, named("mallocx rallocx sdallocx=free_sized"));
    let [first, second] = WITH_JEMALLOC;
    let program = build(&dir, "jemalloc.c", &jemalloc, &["-DSIZED", first, second]);
    known(&dir, &Command::new(program), 40_000);
}

/// gdb finds the way from the allocator through the runtime to main.
fn backtrace() {
    let dir = Dir::new("diverted-backtrace");
    let program = operators_of_own(&dir);
    for function in ["own__Znwm", "own_malloc"] {
        let outcome = Command::new(needs("gdb"))
            .args(["-nx", "-batch", "-iex", "set debuginfod enabled off"])
            .args(["-ex", "set confirm off", "-ex", "break main", "-ex", "run"])
            .args([
                "-ex",
                &format!("break {function}"),
                "-ex",
                "continue",
                "-ex",
                "backtrace",
            ])
            .arg(&program)
            .succeed();
        let text = outcome.stdout();
        let frames = text.rsplit_once("#0 ").expect("a backtrace").1;
        let last = frames.lines().last().unwrap_or_default();
        assert!(last.contains(" in main ()"), "{outcome}");
    }
}
