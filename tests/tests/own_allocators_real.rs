//! Programs as they are shipped that bring an allocator, or operators new and delete: all that they allocate is
//! seen, and they do what they did.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::sample::rustc;
use allocs_tests::tool::Rewritten;
use allocs_tests::{Command, Dir, census, needs, tool, trials};
use libtest_mimic::Trial;

use crate::bad_input::limited_nobody;
use crate::index::{answers, compile, gcc};
use crate::own_allocators::{diverted, is_known, leads_back, rewrite};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["own_allocators":
        rust_jemalloc,
        rust_mimalloc,
        mimalloc_exported,
        mimalloc_by_its_own_names,
        operators_of_mimalloc,
        snmalloc,
        the_compiler,
        the_linker,
        tcmalloc,
        operators_alone,
        without_threads,
        node,
    ]
}

/// A program of `tests/allocators`, all of which are built at once.
pub(crate) fn rust(name: &str) -> PathBuf {
    let target = tool::binary()
        .with_file_name("allocs-tests")
        .join("allocators");
    let directory = target.to_str().expect("a path in UTF-8");
    cargo(&["build", "--quiet", "--release", "--target-dir", directory]);
    target.join("release").join(name)
}

/// What cargo prints when it does something with `tests/allocators`.
fn cargo(arguments: &[&str]) -> Vec<u8> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let manifest = concat!(env!("CARGO_MANIFEST_DIR"), "/allocators/Cargo.toml");
    let output = std::process::Command::new(cargo)
        .args(arguments)
        .args(["--locked", "--manifest-path", manifest])
        .output()
        .expect("cargo starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "tests/allocators: {said}");
    output.stdout
}

/// With `option`, all that the program allocates is seen, and given back by whom it came from; and the index agrees with
/// the program's own list of its chunks.
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
    is_known(&dir, &result, &[]);
    leads_back(&result);
}

fn rust_jemalloc() {
    rust_program("with_jemalloc", "_rjem_malloc=malloc");
}

fn rust_mimalloc() {
    rust_program("with_mimalloc", "mi_free=free");
}

/// Where the source of a package is that `tests/allocators` names.
fn source(package: &str) -> PathBuf {
    let metadata = cargo(&["metadata", "--format-version", "1", "--all-features"]);
    let metadata: serde_json::Value = serde_json::from_slice(&metadata).expect("metadata");
    let packages = metadata["packages"].as_array().expect("packages");
    let package = (packages.iter()).find(|known| known["name"] == package);
    let manifest = package.and_then(|package| package["manifest_path"].as_str());
    let manifest = manifest.expect("the package among them");
    let parent = Path::new(manifest).parent();
    parent.expect("its directory").to_owned()
}

/// mimalloc 2 or 3 as an object file, of the C source that the crate for Rust brings along. (Debian has no archive
/// of it.)
fn mimalloc(dir: &Dir, compiler: Command, version: &str, flags: &[&str]) -> PathBuf {
    let source = source("libmimalloc-sys")
        .join("c_src/mimalloc")
        .join(version);
    let object = dir.join("mimalloc.o");
    compiler
        .args(["-O2", "-DNDEBUG", "-DMI_BUILD_RELEASE", "-c", "-I"])
        .args([source.join("include"), source.join("src/static.c")])
        .args(flags)
        .arg("-o")
        .arg(&object)
        .succeed();
    object
}

/// A C program linked with mimalloc, as its manual says, so that malloc is mimalloc's.
fn mimalloc_exported() {
    for version in ["v2", "v3"] {
        let dir = Dir::new("own-mimalloc");
        let flags = ["-DMI_MALLOC_OVERRIDE", "-fno-builtin-malloc"];
        let object = mimalloc(&dir, gcc(), version, &flags);
        let program = compile(&dir, gcc(), "stress.c", &[object.to_str().expect("UTF-8")]);
        let result = rewrite(&dir, &program, &[]).succeed();
        for name in "malloc calloc realloc free posix_memalign malloc_usable_size".split(' ') {
            assert!(diverted(&result).contains(&name), "{}", result.json);
        }
        is_known(&dir, &result, &["foreign"]);
        leads_back(&result);
    }
}

/// A C program that calls mi_malloc and so on; malloc is libc's.
fn mimalloc_by_its_own_names() {
    let functions = "malloc calloc realloc reallocarray free memalign posix_memalign aligned_alloc \
                     valloc pvalloc malloc_usable_size";
    let names = functions.split_whitespace();
    let names: Vec<_> = names.map(|name| format!("-D{name}=mi_{name}")).collect();
    for version in ["v2", "v3"] {
        let dir = Dir::new("own-mi-mimalloc");
        let object = mimalloc(&dir, gcc(), version, &[]);
        let mut flags: Vec<_> = names.iter().map(String::as_str).collect();
        flags.extend(["-DALLOCATOR=\"mimalloc\"", object.to_str().expect("UTF-8")]);
        let program = compile(&dir, gcc(), "stress.c", &flags);
        let result = rewrite(&dir, &program, &["--malloc", "mi_malloc=malloc"]).succeed();
        is_known(&dir, &result, &["foreign"]);
        leads_back(&result);
    }
}

/// Its operators new and delete, as it has them where it is compiled as C++: most of the deletes are a jump to free.
fn operators_of_mimalloc() {
    for version in ["v2", "v3"] {
        let dir = Dir::new("own-operators-mimalloc");
        let compiler = Command::new(needs("g++")).args(["-x", "c++", "-std=c++17"]);
        let flags = ["-DMI_MALLOC_OVERRIDE", "-fno-builtin-malloc"];
        let object = mimalloc(&dir, compiler, version, &flags);
        let flags = ["-std=c++17", object.to_str().expect("UTF-8")];
        let program = compile(&dir, Command::new(needs("g++")), "operators.cpp", &flags);
        let result = operators_are_known(&dir, &program);
        for name in ["malloc", "free", "_Znwm", "_ZnwmSt11align_val_t", "_ZdlPvm"] {
            assert!(diverted(&result).contains(&name), "{}", result.json);
        }
    }
}

/// `operators.cpp`, rewritten, prints what it did before, and knows what it made by operators.
fn operators_are_known(dir: &Dir, program: &Path) -> Rewritten {
    let original = Command::new(program).succeed();
    let result = rewrite(dir, program, &[]).succeed();
    let file = dir.join("answers");
    let outcome = result.command().env("ANSWERS", &file).run();
    outcome.assert_same_as(&original);
    assert!(answers(&file) > 15, "{outcome}");
    leads_back(&result);
    result
}

/// A C program with snmalloc, which defines malloc and all operators.
fn snmalloc() {
    let dir = Dir::new("own-snmalloc");
    let source = source("snmalloc-sys").join("upstream/src");
    let objects = ["malloc", "new"].map(|part| {
        let object = dir.join(part).with_extension("o");
        let file = source.join("snmalloc/override").join(part);
        Command::new(needs("g++"))
            .args(["-std=c++20", "-O2", "-mcx16", "-DNDEBUG", "-c", "-I"])
            .args([&source, &file.with_extension("cc")])
            .args(["-DSNMALLOC_USE_WAIT_ON_ADDRESS=1", "-o"])
            .arg(&object)
            .succeed();
        object
    });
    let objects = objects.iter().map(|object| object.to_str().expect("UTF-8"));
    let flags: Vec<_> = objects.chain(["-lstdc++", "-latomic"]).collect();
    let program = compile(&dir, gcc(), "stress.c", &flags);
    let result = rewrite(&dir, &program, &[]).succeed();
    let names = diverted(&result);
    for name in ["malloc", "calloc", "realloc", "free", "free_sized", "_Znwm"] {
        assert!(names.contains(&name), "{names:?}");
    }
    is_known(&dir, &result, &["foreign"]);
    leads_back(&result);
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
        &["-std=c++17", "-static-libstdc++", "-static-libgcc"],
    ] {
        let program = compile(&dir, Command::new(needs("g++")), "operators.cpp", flags);
        let result = operators_are_known(&dir, &program);
        assert!(diverted(&result).is_empty(), "{}", result.json);
    }
}

/// A program whose code is looked through on all processors, where the system gives no second thread.
fn without_threads() {
    let dir = Dir::new("without-threads");
    let gdb = needs("gdb").canonicalize().expect("a real path");
    let (shared, alone) = (dir.make("shared"), dir.make("alone"));
    fs::set_permissions(&alone, Permissions::from_mode(0o777)).expect("mode 0777");
    let (shared, alone) = (shared.join("gdb"), alone.join("gdb"));
    Command::new(tool::binary())
        .arg(&gdb)
        .arg("-o")
        .arg(&shared)
        .succeed();
    limited_nobody(&dir, &["--nproc=1"], &gdb, &alone).succeed();
    let bytes = |path: &Path| fs::read(path).expect("a result");
    assert!(bytes(&shared) == bytes(&alone), "other bytes came out");
}

/// node allocates by operators: what the report names is the code that called them, most of it node's own.
fn node() {
    let dir = Dir::new("own-node");
    let node = needs("node").canonicalize().expect("a real path");
    let script = dir.write(
        "script.js",
        "const kept = [];
         for (let i = 0; i < 2000; i++) kept.push(new Map([[i, Buffer.alloc(10002, i)]]));
         const packed = require('zlib').deflateSync(Buffer.from('hello '.repeat(100000)));
         console.log(kept[7].get(7)[3], packed.length);\n",
    );
    let original = Command::new(&node).arg(&script).succeed();
    let result = rewrite(&dir, &node, &[]).succeed();
    let file = dir.join("report.json");
    let (outcome, _) = Report::of(&result.command().arg(&script), &file);
    outcome.assert_same_as(&original);
    let (outcome, json) = census::json([&file]);
    let sites = json["sites"].as_array().expect("sites");
    let path = result.path.to_str().expect("UTF-8");
    let (mut all, mut own) = (0, 0);
    for site in sites {
        let frame = &site["frames"][0];
        let calls = site["calls"].as_u64().expect("a number");
        assert!(
            frame["object"].is_string(),
            "{frame} is in no file: {outcome}"
        );
        let function = frame["function"].as_str().unwrap_or_default();
        assert!(!function.starts_with("operator new"), "{site}");
        all += calls;
        own += if frame["object"] == path { calls } else { 0 };
    }
    assert!(own > 10_000 && own > all / 2, "{own} of {all}: {outcome}");
    leads_back(&result);
}
