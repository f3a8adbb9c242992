//! The site of an allocation is where a person would look for it: the first function outside of those that
//! only hand memory on, in C, C++ and Rust, optimised or not, with frame pointers or without.

use std::path::{Path, PathBuf};

use allocs_tests::sample::rustc;
use allocs_tests::tool;
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["facades":
        c,
        c_with_frame_pointers,
        c_not_optimised,
        c_by_clang,
        cpp,
        cpp_not_optimised,
        cpp_with_operators,
        rust,
        rust_not_optimised,
        rust_with_new_names,
        rewritten,
        static_functions_without_their_names,
        facades_of_the_user,
        no_facades,
        stacks,
        stacks_of_one,
        in_a_sandbox,
    ]
}

fn program(name: &str) -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.join("programs").join(name)
}

/// Builds `tests/programs/facades.*` so that dladdr knows its functions.
fn build(dir: &Dir, compiler: &Path, source: &str, flags: &[&str]) -> PathBuf {
    let built = dir.join("facades");
    let include = Path::new(env!("CARGO_MANIFEST_DIR")).join("../runtime/include");
    Command::new(compiler)
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fno-builtin",
            "-rdynamic",
            "-I",
        ])
        .arg(include)
        .args(flags)
        .arg(program(source))
        .arg("-o")
        .arg(&built)
        .succeed();
    built
}

fn build_rust(dir: &Dir, flags: &[&str]) -> PathBuf {
    let built = dir.join("facades");
    Command::new(rustc())
        .args(["--edition=2024", "-Clink-arg=-rdynamic"])
        .args(flags)
        .arg(program("facades.rs"))
        .arg("-o")
        .arg(&built)
        .succeed();
    built
}

/// What it prints: a way to allocate, and the functions of the site, one line each.
fn sites(command: Command) -> Vec<(String, String)> {
    let outcome = command.succeed();
    let lines = outcome.stdout();
    let pairs = lines
        .lines()
        .map(|line| line.split_once(": ").expect("how: site"));
    pairs
        .map(|(how, site)| (how.to_owned(), site.to_owned()))
        .collect()
}

fn preloaded(program: &Path) -> Command {
    Command::new(program).env("LD_PRELOAD", tool::runtime())
}

/// That all sites are the functions that allocate in that way; those of `others` are what they say.
fn assert_sites(command: Command, others: &[(&str, &str)]) {
    let sites = sites(command);
    assert!(sites.len() > 5, "{sites:?}");
    for (how, site) in &sites {
        let expected = others.iter().find(|(other, _)| other == how);
        let expected = expected.map_or(format!("by_{how}"), |(_, site)| (*site).to_owned());
        assert_eq!(*site, expected, "{how} in {sites:#?}");
    }
}

/// Nobody has said that it is a facade.
const OTHERS: &[(&str, &str)] = &[("make_node", "make_node")];

fn c() {
    let dir = Dir::new("facades-c");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O2"]);
    assert_sites(preloaded(&program), OTHERS);
}

fn c_with_frame_pointers() {
    let dir = Dir::new("facades-fp");
    let flags = ["-O2", "-fno-omit-frame-pointer"];
    let program = build(&dir, &needs("gcc"), "facades.c", &flags);
    assert_sites(preloaded(&program), OTHERS);
}

fn c_not_optimised() {
    let dir = Dir::new("facades-o0");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O0"]);
    assert_sites(preloaded(&program), OTHERS);
}

fn c_by_clang() {
    for optimised in ["-O0", "-O2"] {
        let dir = Dir::new("facades-clang");
        let program = build(&dir, &needs("clang"), "facades.c", &[optimised]);
        assert_sites(preloaded(&program), OTHERS);
    }
}

fn cpp() {
    let dir = Dir::new("facades-cpp");
    let program = build(&dir, &needs("g++"), "facades.cpp", &["-O2"]);
    assert_sites(preloaded(&program), &[]);
}

fn cpp_not_optimised() {
    let dir = Dir::new("facades-cpp-o0");
    let program = build(&dir, &needs("g++"), "facades.cpp", &["-O0"]);
    assert_sites(preloaded(&program), &[]);
}

/// Operators new of the program's own, and what they call to get memory: neither is the site.
fn cpp_with_operators() {
    let operators = program("calling_operators.cpp").display().to_string();
    for level in ["-O0", "-O2"] {
        let dir = Dir::new("facades-operators");
        let flags = ["-std=c++17", level, operators.as_str()];
        let program = build(&dir, &needs("g++"), "facades.cpp", &flags);
        assert_sites(preloaded(&program), &[]);
        let rewritten = Rewrite::new(&program, dir.make("rewritten").join("facades"));
        assert_sites(rewritten.succeed().command(), &[]);
    }
}

fn rust() {
    let dir = Dir::new("facades-rust");
    assert_sites(preloaded(&build_rust(&dir, &["-Copt-level=3"])), &[]);
}

fn rust_not_optimised() {
    let dir = Dir::new("facades-rust-o0");
    assert_sites(preloaded(&build_rust(&dir, &["-Copt-level=0"])), &[]);
}

/// The other way of mangling.
fn rust_with_new_names() {
    let dir = Dir::new("facades-rust-v0");
    let flags = ["-Copt-level=1", "-Csymbol-mangling-version=v0"];
    assert_sites(preloaded(&build_rust(&dir, &flags)), &[]);
}

fn rewritten() {
    let dir = Dir::new("facades-rewritten");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O2"]);
    let result = Rewrite::new(&program, dir.make("rewritten").join("facades")).succeed();
    assert_sites(result.command(), OTHERS);
}

/// What the file does not name is no facade; the dynamic symbols still are.
fn static_functions_without_their_names() {
    let dir = Dir::new("facades-stripped");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O2"]);
    Command::new(needs("strip")).arg(&program).succeed();
    let sites = sites(preloaded(&program));
    for (how, site) in &sites {
        let is_known = !how.starts_with('x') && how != "make_node";
        assert_eq!(
            *site == format!("by_{how}"),
            is_known,
            "{how} in {sites:#?}"
        );
    }
}

fn facades_of_the_user() {
    let dir = Dir::new("facades-own");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O2"]);
    for names in ["make_node", "foo,make_*", "a:b:m*_nod?", "mak?_node, foo"] {
        assert_sites(preloaded(&program).env("ALLOCS_FACADES", names), &[]);
    }
    for names in ["", ",", "make", "make_node_", "libm.so.6"] {
        assert_sites(preloaded(&program).env("ALLOCS_FACADES", names), OTHERS);
    }
}

fn no_facades() {
    let dir = Dir::new("facades-none");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O2"]);
    let sites = sites(preloaded(&program).env("ALLOCS_FACADES", "none"));
    for (how, site) in &sites {
        let is_direct = [
            "malloc",
            "calloc",
            "realloc",
            "reallocarray",
            "posix_memalign",
        ]
        .contains(&how.as_str());
        assert_eq!(
            *site == format!("by_{how}"),
            is_direct,
            "{how} in {sites:#?}"
        );
    }
}

/// Innermost first, from outside of facades up to main and as deep as was asked for.
fn stacks() {
    let dir = Dir::new("facades-stacks");
    for flags in [["-O0"], ["-O2"]] {
        let program = build(&dir, &needs("gcc"), "facades.c", &flags);
        let stacks = sites(preloaded(&program).env("ALLOCS_STACK", "64"));
        assert!(stacks.len() > 10, "{stacks:?}");
        for (how, stack) in &stacks {
            let inner = if how == "make_node" { "make_node " } else { "" };
            assert_eq!(*stack, format!("{inner}by_{how} main"), "{stacks:#?}");
        }
        let two = sites(preloaded(&program).env("ALLOCS_STACK", "2"));
        assert!(
            two.contains(&("make_node".into(), "make_node by_make_node".into())),
            "{two:#?}"
        );
    }
}

fn stacks_of_one() {
    let dir = Dir::new("facades-one");
    let program = build(&dir, &needs("gcc"), "facades.c", &["-O2"]);
    for depth in ["0", "1", "", "no", "-3"] {
        assert_sites(preloaded(&program).env("ALLOCS_STACK", depth), OTHERS);
    }
}

/// Where process_vm_readv is forbidden, it is tried once: browsers' sandboxes write a message each time.
fn in_a_sandbox() {
    let dir = Dir::new("facades-sandbox");
    let shared = ["-O2", "-DLIBRARY", "-shared", "-fPIC"];
    let library = dir.join("libplaces.so");
    let built = build(&dir, &needs("gcc"), "sandbox.c", &shared);
    std::fs::rename(built, &library).expect("the library's name");
    let program = build(&dir, &needs("gcc"), "sandbox.c", &["-O2"]);
    let original = Command::new(&program).arg(&library).succeed();
    assert_eq!(original.stdout(), "called once at most, 0 other sites\n");
    let result = Rewrite::new(&program, dir.join("rewritten")).succeed();
    for command in [preloaded(&program), result.command()] {
        command.arg(&library).run().assert_same_as(&original);
    }
}
