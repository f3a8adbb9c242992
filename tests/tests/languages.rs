//! Other languages than C, whose runtimes look at the program themselves, and uses of what the start
//! files refer to: rewritten, the program does the same, and the runtime is first.

use std::path::{Path, PathBuf};

use allocs_tests::loader::{self, Event};
use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Dir, Rewrite, both_ways, needs, structure, tool, trial};
use libtest_mimic::Trial;

/// Name, compiler, arguments behind the source file.
type Language = (&'static str, &'static str, &'static [&'static str]);

const LANGUAGES: &[Language] = &[
    ("language.f90", "gfortran", &["-pie"]),
    ("language.f90", "gfortran", &["-no-pie"]),
    (
        "language.f90",
        "gfortran",
        &["-static-libgfortran", "-static-libgcc"],
    ),
    ("language.d", "gdc", &["-pie", "-fPIE"]),
    ("language.d", "gdc", &["-no-pie", "-fno-pie"]),
    ("language.d", "gdc", &["-static-libphobos"]),
    ("language.adb", "gnatmake", &["-largs", "-pie"]),
    ("language.adb", "gnatmake", &["-largs", "-no-pie"]),
    ("language.adb", "gnatmake", &["-bargs", "-static"]),
    ("language.go", "go", &["-ldflags=-linkmode=external"]),
    ("language.go", "go", &["-buildmode=pie"]),
    ("transactions.c", "gcc", &["-fgnu-tm", "-pie"]),
    (
        "transactions.c",
        "gcc",
        &["-fgnu-tm", "-no-pie", "-fno-pie"],
    ),
    (
        "transactions.c",
        "gcc",
        &["-fgnu-tm", "-nodefaultlibs", "-l:libitm.a", "-lc", "-lgcc"],
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("languages::origin-in-d", origin_in_d),
        trial("languages::profiled", profiled),
        trial("languages::go-without-c-linker", go_without_c_linker),
    ];
    for language in LANGUAGES {
        let (source, compiler, flags) = language;
        let name = format!("languages::{source}::{compiler} {}", flags.join(" "));
        all.push(trial(name, move || runs_the_same(language)));
    }
    all
}

fn runs_the_same(language: &Language) {
    let dir = Dir::new(language.0);
    both_ways::check(&dir, &build(&dir, language));
}

fn build(dir: &Dir, (source, compiler, flags): &Language) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(source);
    let objects = dir.make("objects");
    let program = dir.join("program");
    let command = Command::new(needs(compiler)).dir(&objects);
    let command = match *compiler {
        // It compiles its own library anew where that is asked for otherwise than it was built.
        "go" => command
            .arg("build")
            .args(*flags)
            .arg("-o")
            .arg(&program)
            .arg(source)
            .env("GOCACHE", tool::binary().with_file_name("go-cache"))
            .env("GOPATH", dir.make("go")),
        "gnatmake" => command
            .arg("-q")
            .arg(source)
            .arg("-o")
            .arg(&program)
            .args(*flags),
        _ => command.arg(source).arg("-o").arg(&program).args(*flags),
    };
    command.succeed();
    program
}

/// What Go links itself is started without `__libc_start_main`, so nobody runs destructors at its end,
/// and there is no report; but the loader says what it called. Its section headers follow the program
/// headers, and nothing is spare.
fn go_without_c_linker() {
    let dir = Dir::new("go");
    let program = build(
        &dir,
        &("language.go", "go", &["-ldflags=-linkmode=internal"]),
    );
    for long in [false, true] {
        let result = both_ways::sound(&dir, &program, long);
        let events = loader::events(&result.command().dir(dir.path()));
        let mut calls = events
            .iter()
            .filter(|event| matches!(event, Event::Init(_) | Event::Preinit(_)));
        assert!(
            matches!(calls.next(), Some(Event::Init(path)) if loader::is(path, RUNTIME)),
            "{events:?}"
        );
        assert!(
            matches!(calls.next(), Some(Event::Preinit(_))),
            "{events:?}"
        );
        Command::new(structure::stripped(&result))
            .run()
            .assert_same_as(&Command::new(&program).run());
    }
}

/// D's runtime would pass the name to dlopen(3), and abort: the own runtime is named by its path, and who
/// asks for `$ORIGIN` is told.
fn origin_in_d() {
    let dir = Dir::new("origin-in-d");
    let program = build(&dir, &("language.d", "gdc", &[]));
    let out = dir.make("out").join("program");
    let result = Rewrite::new(&program, &out).succeed();
    let path = out.with_file_name(RUNTIME).display().to_string();
    assert_eq!(result.json["runtime"]["needed"], path);
    let origin = format!("$ORIGIN/{RUNTIME}");
    Rewrite::new(&program, dir.join("other"))
        .arg("--runtime")
        .arg(&origin)
        .refuse(&dir.path(), Path::new(&origin), &["D runtime"]);
}

/// `-pg`: gcrt1.o defines `__gmon_start__`, and the program writes gmon.out at its end.
fn profiled() {
    for flags in [&["-pie", "-fPIE"], &["-no-pie", "-fno-pie"]] {
        let dir = Dir::new("profiled");
        let source = dir.write(
            "profiled.c",
            "#include <stdlib.h>\nint main(void) { free(malloc(12345)); return 5; }\n",
        );
        let program = dir.join("program");
        Command::new(needs("gcc"))
            .args(flags)
            .args(["-pg", "-O0"])
            .arg(source)
            .arg("-o")
            .arg(&program)
            .succeed();
        for long in [false, true] {
            let result = both_ways::check_one(&dir, &program, long);
            let profiled = dir.make(if long { "work-grown" } else { "work-rewritten" });
            result.command().dir(&profiled).run();
            assert!(profiled.join("gmon.out").exists(), "{flags:?}");
        }
    }
}
