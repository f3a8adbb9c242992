//! A runtime that cannot be loaded or called is refused, as bad input is, and one that is unusual
//! but good is not.

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::tool::{self, INIT, RUNTIME};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::bad_input::{out, program};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["bad_runtime":
        without_init,
        without_sections,
        for_another_machine,
        not_elf,
        name_with_a_bare_slash,
        another_in_the_way,
    ]
}

/// Builds a shared object from a line of C.
fn library(dir: &Dir, name: &str, code: &str) -> PathBuf {
    let source = dir.write(format!("{name}.c"), code);
    let library = dir.join(name);
    Command::new(needs("gcc"))
        .args(["-shared", "-fPIC"])
        .arg(source)
        .arg("-o")
        .arg(&library)
        .succeed();
    library
}

fn refuse_runtime(dir: &Dir, runtime: &Path, words: &[&str]) {
    Rewrite::new(program(dir), out(dir))
        .arg("--runtime")
        .arg(runtime)
        .refuse(&dir.path(), runtime, words);
}

fn without_init() {
    let dir = Dir::new("no-init");
    Rewrite::new(program(&dir), out(&dir))
        .arg("--init")
        .arg("nosuch")
        .refuse(
            &dir.path(),
            &out(&dir).with_file_name(RUNTIME),
            &["nosuch", "--init"],
        );

    let runtime = library(&dir, "libother.so", "int answer(void) { return 42; }\n");
    refuse_runtime(&dir, &runtime, &[INIT, "--init"]);

    // Only used there, not defined.
    let user = "void allocs_preinit(void);\nvoid f(void) { allocs_preinit(); }\n";
    let runtime = library(&dir, "libuser.so", user);
    refuse_runtime(&dir, &runtime, &[INIT, "--init"]);

    // With the symbol that it does define, it is fine.
    let runtime = library(&dir, "libmine.so", "void my_init(void) {}\n");
    let result = Rewrite::new(program(&dir), out(&dir))
        .arg("--runtime")
        .arg(&runtime)
        .arg("--init")
        .arg("my_init")
        .succeed();
    result.command().succeed();
}

/// Without section headers, as the loader sees it.
fn without_sections() {
    let dir = Dir::new("runtime-sectionless");
    let mut bytes = fs::read(tool::runtime()).expect("the runtime");
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    let runtime = dir.write("libsectionless.so", &bytes);
    let rewrite = Rewrite::new(program(&dir), out(&dir));
    let result = rewrite.arg("--runtime").arg(runtime).succeed();
    result.command().succeed();
}

fn for_another_machine() {
    let dir = Dir::new("runtime-machine");
    let mut bytes = fs::read(tool::runtime()).expect("the runtime");
    bytes[18] = 183;
    let runtime = dir.write("libarm.so", &bytes);
    refuse_runtime(&dir, &runtime, &["for the machine of the program"]);
}

fn not_elf() {
    let dir = Dir::new("runtime-not-elf");
    let runtime = dir.write("libtext.so", "INPUT(libreal.so)\n");
    refuse_runtime(&dir, &runtime, &["for the machine of the program"]);
    refuse_runtime(&dir, &dir.make("directory.so"), &["directory.so"]);
    let program = dir.write("prog", fs::read("/bin/true").expect("a program"));
    refuse_runtime(&dir, &program, &[]);
}

/// `lib/x.so` would be looked up from the directory that each user is in.
fn name_with_a_bare_slash() {
    let dir = Dir::new("runtime-name");
    for name in ["lib/x.so", "./x.so", ""] {
        refuse_runtime(&dir, Path::new(name), &["DT_NEEDED"]);
    }
}

fn another_in_the_way() {
    let dir = Dir::new("other-runtime");
    let target = out(&dir);
    let in_the_way = dir.join(format!("out/{RUNTIME}"));
    let prog = program(&dir);
    Command::new("mkfifo").arg(&in_the_way).succeed();
    Rewrite::new(&prog, &target).refuse(&dir.path(), &in_the_way, &["--force"]);
    fs::remove_file(&in_the_way).expect("the FIFO removed");
    dir.write(format!("out/{RUNTIME}"), "an older version\n");
    Rewrite::new(&prog, &target).refuse(&dir.path(), &in_the_way, &["--force"]);
    Rewrite::new(&prog, &target)
        .arg("--force")
        .succeed()
        .command()
        .succeed();
    // And now that it is the right one, it is left alone.
    let before = fs::metadata(&in_the_way)
        .expect("the runtime")
        .modified()
        .expect("a time");
    Rewrite::new(&prog, &target).succeed();
    let after = fs::metadata(&in_the_way)
        .expect("the runtime")
        .modified()
        .expect("a time");
    assert_eq!(before, after, "an identical runtime was written again");
}
