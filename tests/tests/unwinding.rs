//! The way back out of code that a rewrite has added for a program's own allocator: from every instruction, for
//! signal handlers, debuggers and valgrind, and for exceptions that come out of a call that was moved.

use std::path::{Path, PathBuf};

use allocs_tests::tool::Rewritten;
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::index::compile;
use crate::own_allocators_refused::{FREE, MALLOC, assembled, function};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["unwinding":
        signals,
        signals_where_operators_call,
        signals_without_sections,
        other_linkers,
        stripped_afterwards,
        debugger,
        exceptions,
        exceptions_beside_odd_rules,
        signal_frame,
        valgrind,
        without_a_table,
    ]
}

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.a";

/// `source` with jemalloc in it.
fn program(dir: &Dir, source: &str, compiler: Command, flags: &[&str]) -> PathBuf {
    let flags = [flags, &["-std=c++17", needs_jemalloc(), "-lm", "-lstdc++"]].concat();
    compile(dir, compiler, source, &flags)
}

fn needs_jemalloc() -> &'static str {
    needs(JEMALLOC);
    JEMALLOC
}

fn gcc() -> Command {
    Command::new(needs("g++"))
}

/// Operators that begin with a call.
fn operators(dir: &Dir) -> String {
    let object = dir.join("operators.o");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/calling_operators.cpp");
    let compiler = gcc().args(["-std=c++17", "-Wall", "-Wextra", "-Werror", "-fno-builtin"]);
    compiler
        .args(["-O2", "-c", "-o"])
        .args([&object, &source])
        .succeed();
    object.to_str().expect("UTF-8").to_owned()
}

fn rewritten(dir: &Dir, program: &Path) -> Rewritten {
    let name = program.file_name().expect("a name");
    let result = Rewrite::new(program, dir.make("rewritten").join(name)).succeed();
    let names = result.json["diverted"].to_string();
    assert!(
        names.contains("\"malloc\"") && names.contains("\"_Znwm\""),
        "{names}"
    );
    assert!(
        !result.json["notes"].to_string().contains("backtrace"),
        "{}",
        result.json
    );
    result
}

/// There is a way back from each of `least` instructions or more.
fn whole(command: Command, least: u64) {
    let outcome = command.succeed();
    let said = outcome.stdout();
    let last = said.lines().last().unwrap_or_default();
    let numbers: Vec<u64> = (last.split(' '))
        .filter_map(|word| word.parse().ok())
        .collect();
    let &[instructions, whole, ..] = &numbers[..] else {
        panic!("{outcome}");
    };
    assert!(instructions == whole && whole >= least, "{outcome}");
}

fn steps(dir: &Dir, program: &Path) -> Rewritten {
    let nothing = Command::new(program).succeed();
    assert!(nothing.stdout().starts_with("0 instructions"), "{nothing}");
    let result = rewritten(dir, program);
    whole(result.command(), 150);
    result
}

fn leads_back(result: &Rewritten) {
    let original = std::fs::read(&result.original).expect("the original");
    assert!(result.undo() == original, "undo gives other bytes");
}

fn signals() {
    let dir = Dir::new("unwinding-signals");
    for flags in [&["-pie"][..], &["-no-pie"], &["-fcf-protection"]] {
        let program = program(&dir, "steps.cpp", gcc(), flags);
        leads_back(&steps(&dir, &program));
    }
}

fn signals_where_operators_call() {
    let dir = Dir::new("unwinding-calls");
    let program = program(&dir, "steps.cpp", gcc(), &[&operators(&dir)]);
    leads_back(&steps(&dir, &program));
}

/// Without section headers, .eh_frame ends where it says so.
fn signals_without_sections() {
    let dir = Dir::new("unwinding-sections");
    let program = program(&dir, "steps.cpp", gcc(), &["-rdynamic"]);
    let llvm = Command::new(needs("llvm-strip-14")).arg("--strip-sections");
    llvm.arg(&program).succeed();
    leads_back(&steps(&dir, &program));
}

fn other_linkers() {
    for (linker, binary) in [("lld", "ld.lld"), ("gold", "ld.gold"), ("mold", "mold")] {
        needs(binary);
        let dir = Dir::new("unwinding-linkers");
        let linker = format!("-fuse-ld={linker}");
        let compiler = Command::new(needs("clang")).arg("-fsized-deallocation");
        let program = program(&dir, "steps.cpp", compiler, &[&linker]);
        leads_back(&steps(&dir, &program));
    }
}

fn stripped_afterwards() {
    let dir = Dir::new("unwinding-stripped");
    let program = program(&dir, "steps.cpp", gcc(), &[]);
    let result = rewritten(&dir, &program);
    Command::new(needs("strip")).arg(&result.path).succeed();
    whole(result.command(), 150);
}

/// gdb, stepping, finds main from each instruction.
fn debugger() {
    let dir = Dir::new("unwinding-gdb");
    let program = program(&dir, "thrown.cpp", gcc(), &[&operators(&dir)]);
    let result = rewritten(&dir, &program);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/steps.gdb.py");
    let gdb = Command::new(needs("gdb")).args(["-nx", "-batch", "-x"]);
    whole(gdb.arg(script).arg(&result.path), 10);
}

/// What is thrown comes through a return address that is not where it was.
fn exceptions() {
    let dir = Dir::new("unwinding-exceptions");
    let program = program(&dir, "thrown.cpp", gcc(), &[&operators(&dir)]);
    let original = Command::new(&program).succeed();
    assert_eq!(original.stdout().matches("std::bad_alloc").count(), 3);
    let result = rewritten(&dir, &program);
    result.command().run().assert_same_as(&original);
}

/// A malloc whose rules cannot be moved, for one begins inside an instruction: it alone goes without.
fn exceptions_beside_odd_rules() {
    let dir = Dir::new("unwinding-odd");
    let odd =
        ".cfi_startproc\n.cfi_escape 0x41, 0x2e, 0\ntest %rdi, %rdi\njmp get@PLT\n.cfi_endproc";
    let assembly = dir.write("odd.s", function("malloc", odd) + &function("free", FREE));
    let get = dir.write(
        "get.cpp",
        "#include <cstddef>
         static char heap[1 << 20] __attribute__((aligned(16)));
         static std::size_t used;
         extern \"C\" void *get(std::size_t size) {
             if (size > sizeof heap - used - 16) return nullptr;
             char *chunk = heap + used;
             used += (size + 15) & ~(std::size_t)15;
             return chunk;
         }\n",
    );
    let others = [&assembly, &get].map(|path| path.to_str().expect("UTF-8"));
    let operators = operators(&dir);
    let flags = [&["-std=c++17", &operators][..], &others].concat();
    let program = compile(&dir, gcc(), "thrown.cpp", &flags);
    let original = Command::new(&program).succeed();
    assert_eq!(original.stdout().matches("std::bad_alloc").count(), 3);
    let result = Rewrite::new(&program, dir.make("rewritten").join("thrown")).succeed();
    let names = result.json["diverted"].to_string();
    assert!(
        names.contains("\"malloc\"") && names.contains("\"_Znwm\""),
        "{names}"
    );
    let notes = result.json["notes"].to_string();
    let words = ["backtrace", ": malloc (its rules at ", "of no usual kind"];
    assert!(words.iter().all(|word| notes.contains(word)), "{notes}");
    assert!(!notes.contains("_Z"), "{notes}");
    result.command().run().assert_same_as(&original);
}

/// What a signal's handler returns to is not behind a call: unwinders do not look at the instruction before it.
fn signal_frame() {
    let dir = Dir::new("unwinding-signal-frame");
    let malloc = format!(".cfi_startproc\n.cfi_signal_frame\n{MALLOC}\n.cfi_endproc");
    let assembly = function("malloc", &malloc) + &function("free", FREE);
    let program = assembled(&dir, "frame", &assembly);
    let result = Rewrite::new(&program, dir.make("rewritten").join("frame")).succeed();
    let kinds = |file: &Path| {
        let frames = Command::new(needs("readelf")).arg("--debug-dump=frames");
        let frames = frames.arg(file).succeed();
        frames.stdout().matches("\"zRS\"").count()
    };
    assert_eq!((kinds(&program), kinds(&result.path)), (1, 2));
    result.command().succeed();
}

/// It reads the symbols of a program with two segments of code. (It has its own malloc and operators in the place of
/// the program's, so that none of the new code runs.)
fn valgrind() {
    let dir = Dir::new("unwinding-valgrind");
    let program = program(&dir, "thrown.cpp", gcc(), &[&operators(&dir)]);
    let result = rewritten(&dir, &program);
    let outcome = Command::new(needs("valgrind")).arg(&result.path).run();
    let said = outcome.stderr();
    assert!(!said.contains("Serious error"), "{outcome}");
    assert!(said.contains(": take(unsigned long) ("), "{outcome}");
}

/// A program that nothing unwinds: it says so, and leaves calls where they are.
fn without_a_table() {
    let dir = Dir::new("unwinding-none");
    let flags = ["-Wl,--no-eh-frame-hdr"];
    let program = program(&dir, "steps.cpp", gcc(), &flags);
    let result = Rewrite::new(&program, dir.make("rewritten").join("steps")).succeed();
    let notes = result.json["notes"].to_string();
    assert!(
        notes.contains("no program header says where .eh_frame is"),
        "{notes}"
    );
    result.command().succeed();
    let program = self::program(&dir, "thrown.cpp", gcc(), &[flags[0], &operators(&dir)]);
    let words = ["_Znwm (", "is a call, and no program header says"];
    Rewrite::new(&program, dir.join("rewritten/calls")).refuse(&dir.path(), &program, &words);
}
