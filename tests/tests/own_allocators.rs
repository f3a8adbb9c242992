//! Allocators in the executable itself: a rewrite finds their functions, leads them to the runtime and leaves
//! them what they were; where it cannot, it says which one and why.

use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::explain;
use allocs_tests::report::Report;
use allocs_tests::tool::{self, Rewritten};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;
use object::elf;

use crate::index::{answers, compile, gcc};
use crate::own_allocators_real::rust;
use crate::own_allocators_refused::{FREE, LOOPS, MALLOC, assembled, function};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["own_allocators":
        jemalloc_exported,
        jemalloc_not_exported,
        maps_for_itself,
        without_pie,
        other_linkers,
        stripped_before,
        without_text,
        stripped_afterwards,
        a_thousand_functions,
        exceptions,
        called_with_any_stack,
        registers,
        backtraces,
        refreshed,
        explained,
    ]
}

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.a";

/// What else jemalloc needs.
const WITH_JEMALLOC: [&str; 2] = ["-lm", "-lstdc++"];

pub(crate) fn rewrite(dir: &Dir, program: &Path, options: &[&str]) -> Rewrite {
    let name = program.file_name().expect("a name");
    let rewrite = Rewrite::new(program, dir.make("rewritten").join(name));
    options
        .iter()
        .fold(rewrite, |rewrite, option| rewrite.arg(option))
}

/// The names of the functions that lead to the runtime.
pub(crate) fn diverted(result: &Rewritten) -> Vec<&str> {
    let names = result.json["diverted"].as_array().expect("a list");
    names
        .iter()
        .map(|name| name.as_str().expect("a name"))
        .collect()
}

/// Undo makes the program of it that it was.
pub(crate) fn leads_back(result: &Rewritten) {
    let original = fs::read(&result.original).expect("the original");
    assert!(result.undo() == original, "undo gives other bytes");
}

/// The stress test with jemalloc in the executable.
fn with_jemalloc(dir: &Dir, compiler: Command, flags: &[&str]) -> PathBuf {
    needs(JEMALLOC);
    let flags = [&[JEMALLOC], &WITH_JEMALLOC[..], flags].concat();
    compile(
        dir,
        compiler.arg("-DALLOCATOR=\"jemalloc\""),
        "stress.c",
        &flags,
    )
}

/// It works as before, and the index knows all that the program does.
pub(crate) fn is_known(dir: &Dir, result: &Rewritten, options: &[&str]) {
    let file = dir.join("answers");
    let command = result.command().args(["4", "100000", "7"]).args(options);
    let outcome = command
        .env("ANSWERS", &file)
        .limit(Duration::from_secs(300))
        .run();
    assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(answers(&file) > 10_000, "{outcome}too few answers");
}

fn jemalloc_exported() {
    let dir = Dir::new("own-exported");
    let program = with_jemalloc(&dir, gcc(), &[]);
    let result = rewrite(&dir, &program, &[]).succeed();
    let names = diverted(&result);
    for name in "malloc calloc realloc free posix_memalign malloc_usable_size".split(' ') {
        assert!(names.contains(&name), "{names:?}");
    }
    is_known(&dir, &result, &["foreign"]);
    leads_back(&result);
}

/// Libraries have libc's then, and the program must not mix them up: a simple one, and its numbers.
fn jemalloc_not_exported() {
    let dir = Dir::new("own-hidden");
    let source = dir.write(
        "main.c",
        "#include <stdlib.h>
         #include <unistd.h>
         int main(void) {
             void *chunks[1000];
             for (int i = 0; i < 1000; i++) chunks[i] = i % 2 ? malloc(10002) : calloc(3, 1003);
             for (int i = 0; i < 1000; i += 2) chunks[i] = realloc(chunks[i], 20002);
             for (int i = 0; i < 990; i++) free(chunks[i]);
             return write(1, \"done\\n\", 5) != 5;
         }\n",
    );
    let program = dir.join("main");
    let compiler = gcc().args(["-O1", "-fno-builtin", "-Wl,--exclude-libs,ALL", "-o"]);
    let compiler = compiler.args([&program, &source]).arg(needs(JEMALLOC));
    compiler.args(WITH_JEMALLOC).succeed();
    let original = Command::new(&program).succeed();
    let result = rewrite(&dir, &program, &[]).succeed();
    let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
    outcome.assert_same_as(&original);
    let calls = ["malloc", "calloc", "realloc", "free"].map(|hook| report.calls(hook));
    assert!(
        calls[0] >= 500 && calls[1] >= 500 && calls[3] >= 990,
        "{calls:?}"
    );
    assert_eq!(calls[2], 500, "nobody else reallocates");
    assert!(report.number(&["live", "bytes"]) >= 5 * (10002 + 20002));
    leads_back(&result);
}

/// An allocator that maps memory for itself: what it has given out is a chunk; when that is free and was the only one
/// there, the mapping is all that is known.
fn maps_for_itself() {
    let dir = Dir::new("own-arena");
    let source = dir.write(
        "arena.c",
        "#include <allocs.h>
         #include <stdio.h>
         #include <sys/mman.h>
         static char *next;
         void *malloc(size_t size) {
             if (!next) next = mmap(NULL, 1 << 20, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
             void *chunk = next;
             next += (size + 15) & -16ul;
             return chunk;
         }
         void free(void *chunk) {
             for (volatile char *byte = chunk; byte && byte < (char *)chunk + 16; byte++) *byte = 0;
         }
         static void show(const void *address) {
             struct alloc_info info;
             if (alloc_get_info(address, &info) != ALLOC_OK) return;
             fprintf(stderr, \"%s %zu\\n\", info.allocator->name, info.size);
         }
         int main(void) {
             char *chunk = malloc(1234);
             show(chunk + 17);
             free(chunk);
             show(chunk + 17);
             return 0;
         }\n",
    );
    let program = compile(&dir, gcc(), source.to_str().expect("UTF-8"), &[]);
    let result = rewrite(&dir, &program, &[]).succeed();
    let outcome = result.command().succeed();
    assert_eq!(outcome.stderr(), "malloc 1234\nmmap 1048576\n", "{outcome}");
    leads_back(&result);
}

fn without_pie() {
    let dir = Dir::new("own-no-pie");
    let program = with_jemalloc(&dir, gcc(), &["-no-pie"]);
    let result = rewrite(&dir, &program, &[]).succeed();
    is_known(&dir, &result, &["foreign"]);
    leads_back(&result);
}

fn other_linkers() {
    for (linker, program) in [("lld", "ld.lld"), ("gold", "ld.gold")] {
        needs(program);
        let dir = Dir::new("own-linkers");
        let linker = format!("-fuse-ld={linker}");
        let program = with_jemalloc(&dir, Command::new(needs("clang")), &[&linker]);
        let result = rewrite(&dir, &program, &[]).succeed();
        is_known(&dir, &result, &["foreign"]);
        leads_back(&result);
    }
}

/// .dynsym alone tells of the allocator, and the hash table that there is leads to it.
fn stripped_before() {
    for style in ["sysv", "gnu", "both"] {
        let dir = Dir::new("own-hashed");
        let style = format!("-Wl,--hash-style={style}");
        let program = with_jemalloc(&dir, gcc(), &["-s", &style]);
        let result = rewrite(&dir, &program, &[]).succeed();
        assert!(diverted(&result).contains(&"malloc"), "{style}");
        leads_back(&result);
    }
}

/// The new code has a section of its own, also where the entry point is in none, or in one of another kind.
fn without_text() {
    for (place, what) in [(32, 0_u64), (4, u64::from(elf::SHT_NOTE.0))] {
        let dir = Dir::new("own-textless");
        let program = with_jemalloc(&dir, gcc(), &[]);
        let file = OpenOptions::new().read(true).write(true).open(&program);
        let file = file.expect("the program");
        let get = |at: u64| {
            let mut bytes = [0; 8];
            file.read_exact_at(&mut bytes, at).expect("eight bytes");
            u64::from_le_bytes(bytes)
        };
        let (entry, headers) = (get(24), get(40)); // e_entry, e_shoff
        let count = get(60) & 0xffff; // e_shnum
        let mut headers = (0..count).map(|number| headers + 64 * number);
        let text = headers.find(|at| entry.wrapping_sub(get(at + 16)) < get(at + 32));
        let at = text.expect("a section with the entry point") + place; // sh_size, sh_type
        let size = if place == 4 { 4 } else { 8 };
        let bytes = what.to_le_bytes();
        file.write_all_at(&bytes[..size], at).expect("written");
        drop(file);
        let result = rewrite(&dir, &program, &[]).succeed();
        assert!(diverted(&result).contains(&"malloc"));
        is_known(&dir, &result, &["foreign"]);
        leads_back(&result);
    }
}

/// strip keeps the new code, which has a section; of names in .dynsym there is always enough.
fn stripped_afterwards() {
    let dir = Dir::new("own-stripped");
    let program = with_jemalloc(&dir, gcc(), &[]);
    let result = rewrite(&dir, &program, &[]).succeed();
    Command::new(needs("strip")).arg(&result.path).succeed();
    is_known(&dir, &result, &["foreign"]);
}

/// Addresses and names of `most` functions of `program`, from all parts of it; none has two.
fn functions(program: &Path, most: usize) -> Vec<(String, String)> {
    let table = |option: &[&str]| {
        let nm = Command::new(needs("nm")).args(option).arg("--defined-only");
        nm.arg(program).succeed().stdout()
    };
    let mut all: Vec<(String, String)> = (table(&["-D"]).lines())
        .filter_map(|line| {
            let [address, kind, name] = line.split(' ').collect::<Vec<_>>()[..] else {
                return None;
            };
            let name = name.split('@').next()?;
            kind.eq_ignore_ascii_case("t")
                .then(|| (address.to_owned(), name.to_owned()))
        })
        .collect();
    all.sort();
    all.dedup_by(|one, other| one.0 == other.0);
    let step = (all.len() / most).max(1);
    all.into_iter().step_by(step).take(most).collect()
}

/// The moved instructions do what they did: each function is run by the processor, once as it was and once as
/// the rewrite has left it, as far as what was moved goes.
fn a_thousand_functions() {
    let dir = Dir::new("own-moved");
    let harness = dir.join("moved");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/programs/moved.c");
    gcc()
        .args(["-Wall", "-Wextra", "-Werror", "-O1", source, "-o"])
        .arg(&harness)
        .succeed();
    let mut all = 0;
    for (program, most) in [("/usr/bin/python3.11", 800), ("bash", 800)] {
        let program = needs(program).canonicalize().expect("a real path");
        let functions = functions(&program, most);
        let mut rewrite = rewrite(&dir, &program, &["--partial"]);
        for (_, name) in &functions {
            rewrite = rewrite.arg("--malloc").arg(format!("{name}=malloc"));
        }
        let result = rewrite.succeed();
        let addresses: String = functions.iter().map(|(at, _)| format!("{at}\n")).collect();
        let outcome = Command::new(&harness)
            .args([&program, &result.path])
            .stdin(addresses)
            .succeed();
        let moved = diverted(&result).len();
        let said = outcome.stdout();
        assert!(
            said.starts_with(&format!("{moved} moved, ")),
            "{outcome}{moved} are"
        );
        assert!(said.contains(" 0 differ"), "{outcome}");
        all += moved;
        leads_back(&result);
    }
    assert!(all >= 1000, "only {all} functions could be moved");
}

fn refreshed() {
    let dir = Dir::new("own-refreshed");
    let assembly = function("malloc", MALLOC)
        + &function("free", FREE)
        + &function("calloc", LOOPS)
        + &function("my_get", MALLOC);
    let program = assembled(&dir, "own", &assembly);
    let options = ["--malloc", "my_get=malloc", "--partial"];
    let result = rewrite(&dir, &program, &options).succeed();
    assert_eq!(diverted(&result), ["malloc", "free", "my_get"]);
    let again = dir.join("rewritten/again");
    Command::new(tool::binary())
        .arg("refresh")
        .arg(&result.path)
        .arg("-o")
        .arg(&again)
        .succeed();
    assert!(fs::read(&again).expect("again") == fs::read(&result.path).expect("the first"));
}

/// What its functions leave in registers, callers that are compiled together with them may rely on.
fn registers() {
    let dir = Dir::new("own-registers");
    let program = compile(&dir, gcc(), "registers.c", &[]);
    let original = Command::new(&program).succeed();
    let turn = "malloc: rax\nrealloc: rax\nfree:\nfree:\noperator new: rax\noperator delete:\n";
    assert_eq!(original.stdout(), turn.repeat(6) + "48 freed\n");
    let result = rewrite(&dir, &program, &[]).succeed();
    assert_eq!(diverted(&result).len(), 6, "{}", result.json["diverted"]);
    result.command().run().assert_same_as(&original);
    leads_back(&result);
}

/// GCC aligns no stack for functions that it sees and that do not need that; the hooks do.
fn called_with_any_stack() {
    let dir = Dir::new("own-misaligned");
    let flags = ["-Os", "-fno-builtin"];
    let compiler = Command::new(needs("g++"));
    let program = compile(&dir, compiler, "misaligned.cpp", &flags);
    let stacks = Command::new(&program).arg("which").succeed().stdout();
    assert_eq!(stacks, "0 0\n", "{flags:?} aligns the stack");
    let result = rewrite(&dir, &program, &[]).succeed();
    let names = diverted(&result);
    assert!(
        names.contains(&"malloc") && names.contains(&"_Znwm"),
        "{names:?}"
    );
    let original = Command::new(&program).succeed();
    result.command().run().assert_same_as(&original);
    leads_back(&result);
}

fn explained() {
    let dir = Dir::new("own-explained");
    let program = assembled(
        &dir,
        "own",
        &(function("malloc", MALLOC) + &function("free", FREE)),
    );
    let before = explain::of(&program);
    let own = &before.json["malloc"]["own"][0];
    assert_eq!(own["names"], "exported");
    assert_eq!(own["option"], serde_json::Value::Null);
    for function in own["functions"].as_array().expect("functions") {
        assert_eq!(function["problem"], serde_json::Value::Null);
        assert_eq!(function["diverted"], false);
    }
    let result = rewrite(&dir, &program, &[]).succeed();
    let after = explain::of(&result.path);
    let functions = after.json["malloc"]["own"][0]["functions"]
        .as_array()
        .expect("functions");
    assert!(
        functions
            .iter()
            .all(|function| function["diverted"] == true)
    );
    let text = Command::new(tool::binary())
        .arg("explain")
        .arg(&program)
        .run();
    assert!(
        text.stdout().contains("malloc exported by the program"),
        "{text}"
    );
    let hidden = explain::of(&rust("with_jemalloc"));
    let own = &hidden.json["malloc"]["own"][0];
    assert_eq!(
        (&own["name"], &own["names"]),
        (&"jemalloc".into(), &"symbols".into())
    );
    assert_eq!(own["option"], "--malloc _rjem_malloc=malloc");
}

/// bad_alloc comes from an operator new of the program's own, through jump, entry and continuation.
fn exceptions() {
    let dir = Dir::new("own-exceptions");
    let source = dir.write(
        "main.cpp",
        "#include <cstdio>
         #include <cstdlib>
         #include <new>
         static char heap[1 << 22];
         static size_t used;
         extern \"C\" void *malloc(size_t size) {
             if (size > sizeof heap - used) return nullptr;
             char *chunk = heap + used;
             used += (size + 15) & ~size_t(15);
             return chunk;
         }
         extern \"C\" void *calloc(size_t count, size_t size) { return malloc(count * size); }
         extern \"C\" void *realloc(void *, size_t size) { return malloc(size); }
         static volatile long freed;
         extern \"C\" void free(void *) noexcept { freed = freed + 1; }
         void *operator new(size_t size) {
             if (size > 1 << 20) throw std::bad_alloc();
             char *chunk = heap + used;
             used += (size + 15) & ~size_t(15);
             return chunk;
         }
         void operator delete(void *chunk) noexcept { free(chunk); }
         void operator delete(void *chunk, size_t) noexcept { free(chunk); }
         int main() {
             for (int i = 0; i < 3; i++) {
                 try {
                     delete new int;
                     char *chunk = static_cast<char *>(operator new(2 << 20));
                     std::printf(\"%p\\n\", static_cast<void *>(chunk));
                 } catch (const std::bad_alloc &error) {
                     std::puts(error.what());
                 }
             }
         }\n",
    );
    let program = dir.join("main");
    let compiler = Command::new(needs("g++")).args(["-O2", "-fno-builtin", "-o"]);
    compiler.args([&program, &source]).succeed();
    let original = Command::new(&program).succeed();
    let result = rewrite(&dir, &program, &[]).succeed();
    assert!(
        diverted(&result).contains(&"_Znwm"),
        "{:?}",
        diverted(&result)
    );
    result.command().run().assert_same_as(&original);
    assert_eq!(original.stdout(), "std::bad_alloc\n".repeat(3));
}

/// A debugger finds the caller from inside the allocator, and from any instruction on the way to it.
fn backtraces() {
    let dir = Dir::new("own-backtraces");
    let program = assembled(
        &dir,
        "own",
        &(function("malloc", MALLOC) + &function("free", FREE)),
    );
    let result = rewrite(&dir, &program, &[]).succeed();
    let gdb = Command::new(needs("gdb")).args(["-nx", "-batch"]);
    let commands = [
        "set debuginfod enabled off",
        "set breakpoint pending on",
        "break get",
        "run",
        "bt",
    ];
    let gdb = commands
        .iter()
        .fold(gdb, |gdb, command| gdb.args(["-ex", command]));
    let outcome = gdb.arg(&result.path).run();
    let stdout = outcome.stdout();
    let frames = stdout.split("Breakpoint 1, ").nth(1).unwrap_or_default();
    assert!(frames.contains(" in main ()"), "{outcome}");
}
