//! Operators new and delete of a program that has no malloc of its own: what they hand out is seen, wherever they have
//! it from, and once.

use std::path::PathBuf;

use allocs_tests::report::Report;
use allocs_tests::tool;
use allocs_tests::{Command, Dir, explain, needs, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile};
use crate::own_allocators::{diverted, leads_back, rewrite};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["own_allocators":
        operators_of_an_arena,
        operators_and_those_of_libstdcxx,
        operators_of_both,
        operators_that_call_malloc,
        operators_past_whom_chunks_go,
        operators_in_part,
        operators_explained,
    ]
}

fn gxx() -> Command {
    Command::new(needs("g++"))
}

/// Builds it with operators of that kind; what they make is of those allocators, as the program checks itself.
fn program(dir: &Dir, kind: &str, flags: &[&str]) -> PathBuf {
    compile(dir, gxx().arg(format!("-D{kind}")), "arena.cpp", flags)
}

/// Rewrites it: `expected` are led to the runtime, and all that the program makes is known as what it is.
fn known(kind: &str, flags: &[&str], expected: &[&str]) {
    let dir = Dir::new("own-operators");
    let program = program(&dir, kind, flags);
    let original = Command::new(&program).succeed();
    let result = rewrite(&dir, &program, &[]).succeed();
    assert_eq!(diverted(&result), expected);
    let notes = result.json["notes"].as_array().map_or(0, Vec::len);
    assert_eq!(notes, 0, "{}", result.json);
    let file = dir.join("answers");
    let outcome = result.command().env("ANSWERS", &file).run();
    outcome.assert_same_as(&original);
    assert!(answers(&file) > 100_000, "{outcome}too few answers");
    // Each is one allocation, of as many bytes as were asked for.
    let command = result.command().arg("count");
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let sites = report.json()["sites"].as_array().expect("sites").clone();
    let of = |bytes: u64| {
        let mut of_program = sites.iter().filter(|site| site["bytes"] == bytes);
        of_program.next().map(|site| site["calls"].as_u64())
    };
    assert_eq!(of(1000 * 100), Some(Some(1000)), "{sites:#?}");
    assert_eq!(of(10 * 10_010), Some(Some(10)), "{sites:#?}");
    leads_back(&result);
}

const ALL: [&str; 3] = ["_Znwm", "_ZdlPv", "_ZdlPvm"];

fn operators_of_an_arena() {
    known("ARENA", &[], &ALL);
}

/// libstdc++'s operator new that does not throw is in the program: it begins with a call of the program's, in a function
/// that handles exceptions, and is seen by that.
fn operators_and_those_of_libstdcxx() {
    known("ARENA", &["-static-libstdc++"], &ALL);
}

fn operators_of_both() {
    known("BOTH", &[], &ALL);
}

/// What malloc hands out is seen there.
fn operators_that_call_malloc() {
    for flags in [
        &[][..],
        &["-fno-plt"],
        &["-Wl,-z,now"],
        &["-O0"],
        &["-fcf-protection"],
    ] {
        known("MALLOC", flags, &[]);
    }
}

/// What is given back past them, and written over, is made anew all the same; nothing is taken back that was not noted.
fn operators_past_whom_chunks_go() {
    let dir = Dir::new("own-operators-past");
    let program = compile(&dir, gxx(), "past.cpp", &[]);
    let result = rewrite(&dir, &program, &[]).succeed();
    assert!(diverted(&result).contains(&"_Znwm"), "{}", result.json);
    let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let report = report.json();
    let sites = report["sites"].as_array().expect("sites");
    let calls = |site: &serde_json::Value| site["calls"].as_u64().expect("a count");
    assert!(sites.iter().any(|site| calls(site) == 1000), "{sites:#?}");
    let hooks = report["hooks"].as_object().expect("hooks").iter();
    let hooks: u64 = hooks
        .filter(|(name, _)| ["malloc", "calloc"].contains(&name.as_str()))
        .map(|(_, hook)| hook["calls"].as_u64().expect("a count"))
        .sum();
    assert_eq!(sites.iter().map(calls).sum::<u64>(), hooks, "{report:#}");
}

/// Where operator new cannot be seen, but what is told the size that it was asked for, there is no part of it.
fn operators_in_part() {
    let dir = Dir::new("own-operators-part");
    let source = dir.write(
        "main.cpp",
        "#include <new>
         __asm__(\".text\\n.globl _Znwm\\n.type _Znwm, @function\\n_Znwm: mov %rdi, %rcx\\njrcxz 1f\\n1: jmp get\\n.size _Znwm, .-_Znwm\");
         static char memory[4096], *next = memory;
         extern \"C\" void *get(std::size_t size) { return (next += size + 16) - size - 16; }
         void operator delete(void *) noexcept {}
         void operator delete(void *, std::size_t) noexcept {}
         int main() { delete new int; }\n",
    );
    let program = dir.join("part");
    gxx()
        .args(["-O1", "-o"])
        .args([&program, &source])
        .succeed();
    let words = ["_Znwm (", "128 bytes only", "size"];
    for options in [&[][..], &["--partial"]] {
        rewrite(&dir, &program, options).refuse(&dir.path(), &program, &words);
    }
}

fn operators_explained() {
    let dir = Dir::new("own-operators-explained");
    let program = program(&dir, "ARENA", &[]);
    let own = |program| explain::of(program).json["malloc"]["own"][0].clone();
    let before = own(&program);
    assert_eq!(before["name"], "operator new");
    assert_eq!(before["option"], serde_json::Value::Null);
    let led = |own: &serde_json::Value| {
        let functions = own["functions"].as_array().expect("functions").clone();
        assert_eq!(functions.len(), 3, "{own}");
        functions
            .iter()
            .all(|function| function["diverted"] == true)
    };
    assert!(!led(&before), "{before}");
    let text = Command::new(tool::binary())
        .arg("explain")
        .arg(&program)
        .run();
    assert!(
        text.stdout()
            .contains("operator new exported by the program"),
        "{text}"
    );
    let result = rewrite(&dir, &program, &[]).succeed();
    assert!(led(&own(&result.path)));
}
