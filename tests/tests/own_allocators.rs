//! Allocators in the executable itself: a rewrite finds their functions, leads them to the runtime and leaves
//! them what they were; where it cannot, it says which one and why.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::explain;
use allocs_tests::report::Report;
use allocs_tests::sample::rustc;
use allocs_tests::tool::{self, Rewritten};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile, gcc};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["own_allocators":
        rust_jemalloc,
        rust_mimalloc,
        the_compiler,
        the_linker,
        tcmalloc,
        operators_alone,
        jemalloc_exported,
        jemalloc_not_exported,
        without_pie,
        other_linkers,
        stripped_afterwards,
        a_thousand_functions,
        exceptions,
        backtraces,
        instructions_that_cannot_move,
        what_leads_into_a_function,
        partly,
        names_of_ones_own,
        another_runtime,
        refreshed,
        explained,
    ]
}

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.a";
/// What else jemalloc needs.
const WITH_JEMALLOC: [&str; 2] = ["-lm", "-lstdc++"];

fn rewrite(dir: &Dir, program: &Path, options: &[&str]) -> Rewrite {
    let name = program.file_name().expect("a name");
    let rewrite = Rewrite::new(program, dir.make("rewritten").join(name));
    options
        .iter()
        .fold(rewrite, |rewrite, option| rewrite.arg(option))
}

/// The names of the functions that lead to the runtime.
fn diverted(result: &Rewritten) -> Vec<&str> {
    let names = result.json["diverted"].as_array().expect("a list");
    names
        .iter()
        .map(|name| name.as_str().expect("a name"))
        .collect()
}

/// Undo makes the program of it that it was.
fn leads_back(result: &Rewritten) {
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
fn is_known(dir: &Dir, result: &Rewritten, options: &[&str]) {
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

/// strip keeps the new code, which has a section; of names in .dynsym there is always enough.
fn stripped_afterwards() {
    let dir = Dir::new("own-stripped");
    let program = with_jemalloc(&dir, gcc(), &[]);
    let result = rewrite(&dir, &program, &[]).succeed();
    Command::new(needs("strip")).arg(&result.path).succeed();
    is_known(&dir, &result, &["foreign"]);
}

/// A program of `tests/allocators`, all of which are built at once.
fn rust(name: &str) -> PathBuf {
    let target = tool::binary()
        .with_file_name("allocs-tests")
        .join("allocators");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let built = std::process::Command::new(cargo)
        .args([
            "build",
            "--quiet",
            "--release",
            "--locked",
            "--manifest-path",
        ])
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/allocators/Cargo.toml"
        ))
        .arg("--target-dir")
        .arg(&target)
        .output()
        .expect("cargo starts");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(
        built.status.success(),
        "cannot build tests/allocators: {said}"
    );
    target.join("release").join(name)
}

/// With `option`, all that the program allocates is seen, and given back by whom it came from.
fn rust_program(name: &str, option: &str) {
    let dir = Dir::new(name);
    let program = rust(name);
    let original = Command::new(&program).succeed();
    let result = rewrite(&dir, &program, &["--malloc", option]).succeed();
    let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
    outcome.assert_same_as(&original);
    // Each of four threads makes 2,000 vectors of zeros, as many boxes, and keeps names.
    assert!(report.allocations() > 24_000, "{outcome}{}", report.json());
    let freed = report.calls("free") + report.calls("free_sized");
    let live = report.number(&["live", "chunks"]);
    assert!(freed > 20_000, "{outcome}{}", report.json());
    assert!(live < 200, "{outcome}{live} chunks are left at the end");
    leads_back(&result);
}

fn rust_jemalloc() {
    rust_program("with_jemalloc", "_rjem_malloc=malloc");
}

fn rust_mimalloc() {
    rust_program("with_mimalloc", "mi_free=free");
}

/// rustc has jemalloc in its executable, and exports it: it makes the same program, and all is seen.
fn the_compiler() {
    let dir = Dir::new("own-rustc");
    let compiler = rustc();
    let libraries = compiler.with_file_name("../lib");
    std::os::unix::fs::symlink(libraries, dir.join("lib")).expect("a link");
    let result = rewrite(&dir, &compiler, &[]).succeed();
    assert!(diverted(&result).contains(&"malloc"), "{}", result.json);
    let source = dir.write("main.rs", "fn main() { println!(\"42\"); }\n");
    let compile = |command: Command, name: &str| {
        let program = dir.join(name);
        let command = command.arg("-O").arg(&source).arg("-o").arg(&program);
        (command, program)
    };
    let (original, expected) = compile(Command::new(&compiler), "expected");
    original.succeed();
    let (command, program) = compile(result.command(), "program");
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(
        report.calls("malloc") > 10_000,
        "{outcome}{}",
        report.json()
    );
    let bytes = |path: &Path| fs::read(path).expect("a program");
    assert!(
        bytes(&program) == bytes(&expected),
        "it made another program"
    );
    leads_back(&result);
}

/// mold has mimalloc in its executable, and exports it: it makes the same program, and all is seen. (As a rule it ends
/// by _exit, without a report.)
fn the_linker() {
    let dir = Dir::new("own-mold");
    let linker = needs("mold").canonicalize().expect("a real path");
    let result = rewrite(&dir, &linker, &[]).succeed();
    for name in ["malloc", "free", "_Znwm", "_ZdlPvm"] {
        assert!(diverted(&result).contains(&name), "{}", result.json);
    }
    let source = dir.write("main.c", "int main(void) { return 42; }\n");
    let object = dir.join("main.o");
    gcc().args(["-c", "-o"]).args([&object, &source]).succeed();
    let link = |command: Command, name: &str| {
        let program = dir.join(name);
        let command = command.args(["-pie", "--no-fork", "--no-quick-exit", "-o"]);
        let loader = ["-dynamic-linker", "/lib64/ld-linux-x86-64.so.2"];
        let command = command.arg(&program).args(loader).arg(gcc_file("Scrt1.o"));
        let libraries = gcc_file("libc.so.6");
        (command.args([&object, Path::new(&libraries)]), program)
    };
    let (original, expected) = link(Command::new(&linker), "expected");
    original.succeed();
    let (command, program) = link(result.command(), "program");
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert!(report.calls("malloc") > 1000, "{outcome}{}", report.json());
    let bytes = |path: &Path| fs::read(path).expect("a program");
    assert!(
        bytes(&program) == bytes(&expected),
        "it made another program"
    );
    assert_eq!(Command::new(&program).run().code(), Some(42));
    leads_back(&result);
}

/// Where gcc has a file of that name.
fn gcc_file(name: &str) -> String {
    let found = gcc().arg(format!("-print-file-name={name}")).succeed();
    found.stdout().trim().to_owned()
}

/// gperftools' allocator makes something by its own operator new when it is first asked how large a chunk is.
fn tcmalloc() {
    const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.a";
    let dir = Dir::new("own-tcmalloc");
    needs(TCMALLOC);
    let flags = [TCMALLOC, "-lstdc++", "-lm"];
    let program = compile(&dir, gcc(), "stress.c", &flags);
    let result = rewrite(&dir, &program, &[]).succeed();
    assert!(diverted(&result).contains(&"_Znwm"), "{}", result.json);
    is_known(&dir, &result, &["foreign"]);
    leads_back(&result);
}

/// A program that brings operators, and takes what they hand out from libc: all is known, whose it is and where it was
/// asked for.
fn operators_alone() {
    let dir = Dir::new("own-operators");
    let operators = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/programs/calling_operators.cpp"
    );
    for flags in [
        &["-std=c++17", "-O2", operators][..],
        &["-std=c++17", "-O2", operators, "-rdynamic"],
    ] {
        let program = compile(&dir, Command::new(needs("g++")), "operators.cpp", flags);
        let original = Command::new(&program).succeed();
        let result = rewrite(&dir, &program, &[]).succeed();
        assert!(diverted(&result).is_empty(), "{}", result.json);
        let file = dir.join("answers");
        let outcome = result.command().env("ANSWERS", &file).run();
        outcome.assert_same_as(&original);
        assert!(answers(&file) > 15, "{outcome}");
        leads_back(&result);
    }
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

/// A program whose malloc and so on are those of `assembly`, which hand out from an array.
fn assembled(dir: &Dir, name: &str, assembly: &str) -> PathBuf {
    let rest = dir.write(
        format!("{name}.c"),
        "#include <stddef.h>
         char heap[1 << 20] __attribute__((aligned(16)));
         size_t used;
         void *get(size_t size) {
             char *chunk = heap + used;
             used += (size + 15) & ~(size_t)15;
             return chunk;
         }
         void *malloc(size_t size);
         void free(void *chunk);
         int main(void) {
             char *chunk = malloc(100);
             chunk[0] = 1;
             free(chunk);
             return 0;
         }\n",
    );
    let code = dir.write(format!("{name}.s"), assembly);
    let program = dir.join(name);
    gcc()
        .args(["-fno-builtin", "-O1", "-o"])
        .args([&program, &rest, &code])
        .succeed();
    program
}

/// `name` as a function with this body.
fn function(name: &str, body: &str) -> String {
    format!(
        ".text\n.p2align 4\n.globl {name}\n.type {name},@function\n{name}:\n{body}\n\
         .size {name}, .-{name}\n.section .note.GNU-stack,\"\",@progbits\n"
    )
}

const FREE: &str = "mov $1, %eax\nret";
const MALLOC: &str = "endbr64\njmp get@PLT";
const CALL: &str = "sub $8, %rsp\ncall get@PLT\nadd $8, %rsp\nret";
/// It has a branch that has no longer form.
const LOOPS: &str = "mov %rdi, %rcx\njrcxz 1f\nmov $1, %eax\n1: ret";

fn refused(name: &str, malloc: &str, free: &str, words: &[&str]) {
    let dir = Dir::new(name);
    let assembly = function("malloc", malloc) + &function("free", free);
    let program = assembled(&dir, name, &assembly);
    Command::new(&program).succeed();
    let all = [&["--partial"], words].concat();
    rewrite(&dir, &program, &[]).refuse(&dir.path(), &program, &all);
    assert!(!dir.join("rewritten").join(name).exists());
    let explanation = explain::of(&program);
    let own = explanation.json["malloc"]["own"].to_string();
    let reason = words.last().expect("a reason");
    assert!(own.contains(reason), "{own}");
}

fn instructions_that_cannot_move() {
    let call = format!(
        ".cfi_startproc\n.cfi_personality 0x1b, get\n.cfi_lsda 0x1b, handlers\n{CALL}\n.cfi_endproc\n\
         .section .rodata\nhandlers: .byte 0xff, 0xff, 1, 0\n.text"
    );
    refused(
        "call",
        &call,
        FREE,
        &["malloc (", "is a call, and the function handles exceptions"],
    );
    let itself = "call 1f\n1: pop %rax\njmp get@PLT";
    refused(
        "itself",
        itself,
        FREE,
        &["malloc (", "refers to its beginning"],
    );
    let short = "ret\n.byte 0x48, 0x31, 0xc0, 0xc3, 0x90, 0x90";
    let short = format!("{short}\n.size free, 1");
    let dir = Dir::new("short");
    let assembly = function("malloc", MALLOC)
        + &function("free", &short).replace(".size free, .-free", ".size free, 1");
    let program = assembled(&dir, "short", &assembly);
    let words = ["free (", "shorter than the jump"];
    rewrite(&dir, &program, &[]).refuse(&dir.path(), &program, &words);
    refused("loops", MALLOC, LOOPS, &["free (", "128 bytes only"]);
    let bad = "jmp get@PLT\n";
    let undefined = ".byte 0x06, 0x06, 0x06, 0x06, 0x06, 0x06";
    let undefined = format!("test %edi, %edi\njnz 1f\n{undefined}\n1: {bad}");
    refused(
        "undefined",
        &undefined,
        FREE,
        &["malloc (", "cannot be decoded"],
    );
}

fn what_leads_into_a_function() {
    let back = "push %rbx\n1: mov %rdi, %rbx\ndec %rbx\njz 2f\ntest $1, %bl\nmov %rbx, %rdi\njz 1b\n2: pop %rbx\nret";
    refused(
        "back",
        MALLOC,
        back,
        &["free (", "leads back to its beginning"],
    );
    let inside = format!("xor %eax, %eax\n.globl inside\ninside: test %rdi, %rdi\n{FREE}");
    refused("inside", MALLOC, &inside, &["free (", "has a name"]);
    let elsewhere = format!(
        "xor %eax, %eax\n1: test %rdi, %rdi\n{FREE}\n.section .text.other,\"ax\"\n.p2align 8\nnop\n\
         .zero 300, 0x90\n.byte 0xe9\n.long 1b - . - 4\n.text"
    );
    refused(
        "elsewhere",
        MALLOC,
        &elsewhere,
        &["free (", "leads into it"],
    );
    let table = format!(
        "xor %eax, %eax\n1: test %rdi, %rdi\n{FREE}\n.section .data.rel.ro,\"aw\"\n.quad 1b\n.text"
    );
    refused(
        "table",
        MALLOC,
        &table,
        &["free (", "a relocation is about"],
    );
}

/// With --partial, the rest is seen, and what is not is named.
fn partly() {
    let dir = Dir::new("own-partly");
    let assembly = function("malloc", CALL) + &function("free", FREE) + &function("calloc", LOOPS);
    let program = assembled(&dir, "partly", &assembly);
    let result = rewrite(&dir, &program, &["--partial"]).succeed();
    assert_eq!(diverted(&result), ["malloc", "free"]);
    let notes = result.json["notes"].to_string();
    assert!(
        notes.contains("calls of these are not seen: calloc (its instruction"),
        "{notes}"
    );
    result.command().succeed();
    // What is told a size has to be seen: the runtime makes chunks larger than the program knows.
    let assembly =
        function("malloc", MALLOC) + &function("free", FREE) + &function("free_sized", LOOPS);
    let program = assembled(&dir, "sized", &assembly);
    let words = ["free_sized (", "128 bytes only", "size"];
    rewrite(&dir, &program, &["--partial"]).refuse(&dir.path(), &program, &words);
}

fn names_of_ones_own() {
    let dir = Dir::new("own-names");
    let assembly = function("my_get", MALLOC) + &function("my_put", FREE);
    let assembly = format!(
        "{assembly}.globl malloc, free\n.hidden malloc, free\n.set malloc, my_get\n.set free, my_put\n"
    );
    let program = assembled(&dir, "names", &assembly);
    let result = rewrite(&dir, &program, &[]).succeed();
    assert_eq!(
        diverted(&result).len(),
        2,
        "one function of two names is one"
    );
    let result = rewrite(&dir, &program, &["--malloc", "my_get=malloc"]).succeed();
    assert_eq!(diverted(&result).len(), 2);
    let refuse = |given: &str, words: &[&str]| {
        rewrite(&dir, &program, &["--malloc", given]).refuse(&dir.path(), &program, words);
    };
    refuse(
        "my_gte=malloc",
        &["my_gte=malloc", "neither .dynsym nor .symtab"],
    );
    refuse("my_get=mallok", &["my_get=mallok", "NAME=FUNCTION"]);
}

/// A runtime without functions for it: the program is rewritten as ever, and the user told.
fn another_runtime() {
    let dir = Dir::new("own-another");
    let source = dir.write(
        "runtime.c",
        "void init(int c, char **v, char **e) { (void)c; (void)v; (void)e; }\n",
    );
    let runtime = dir.join("runtime.so");
    gcc()
        .args(["-shared", "-fPIC", "-o"])
        .args([&runtime, &source])
        .succeed();
    let program = assembled(
        &dir,
        "own",
        &(function("malloc", MALLOC) + &function("free", FREE)),
    );
    let runtime = runtime.to_str().expect("UTF-8");
    let options = ["--runtime", runtime, "--init", "init"];
    let result = rewrite(&dir, &program, &options).succeed();
    assert!(diverted(&result).is_empty());
    let notes = result.json["notes"].to_string();
    assert!(notes.contains("does not lead to the runtime"), "{notes}");
    result.command().succeed();
    let options = [&options[..], &["--malloc", "malloc=malloc"]].concat();
    let words = ["malloc=malloc", "the runtime has no functions"];
    rewrite(&dir, &program, &options).refuse(&dir.path(), &program, &words);
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
