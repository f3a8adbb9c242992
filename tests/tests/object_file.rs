//! `object`: what is linked with the object file starts the runtime first, as a rewritten program does, with
//! every compiler and linker, and is as sound as without it.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use allocs_tests::elf::{Elf, Slot};
use allocs_tests::loader::{self, Event};
use allocs_tests::report::Report;
use allocs_tests::tool::{self, INIT, RUNTIME};
use allocs_tests::{Command, Dir, Outcome, explain, needs, trial, trials};
use libtest_mimic::Trial;
use object::elf;
use serde_json::Value;

/// A program with a preinit array and a constructor of its own, and a library that asks to be first. gcc
/// aligns the array to 32 bytes. (It is not const: clang would make it read-only in a non-PIE, and mold a second section of it, of which
/// the loader does not hear.)
const PROGRAM: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    extern char *rival_block;
    static void *mine, *late;
    static int calls;
    static void entry(int argc, char **argv, char **envp) {
        if (argv[argc] == NULL && ++calls == 4) mine = malloc(10002);
    }
    __attribute__((section(".preinit_array"), used))
    static void (*entries[])(int, char **, char **) = { entry, entry, entry, entry };
    __attribute__((constructor)) static void constructor(void) { late = calloc(1, 20002); }
    int main(void) {
        printf("%c %d %d\n", rival_block[0], !!mine, !!late);
        free(mine), free(late), free(rival_block);
        return 7;
    }
"#;

const LINKERS: [(&str, &str); 4] = [
    ("bfd", "ld"),
    ("gold", "ld.gold"),
    ("lld", "ld.lld"),
    ("mold", "mold"),
];

const KINDS: [(&str, &str); 2] = [("pie", "-fPIE -pie"), ("non-pie", "-fno-pie -no-pie")];

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["object_file":
        lazy_plt_of_gold,
        keeps_cet,
        rewrite_of_what_is_linked,
        foreign_runtime,
        file_and_json,
        same_bytes,
        refusals,
        odd_symbols,
    ];
    for compiler in ["gcc", "clang"] {
        for linker in LINKERS {
            for kind in KINDS {
                let name = format!("object_file::first::{compiler}::{}::{}", linker.0, kind.0);
                all.push(trial(name, move || first(compiler, linker, kind)));
            }
        }
    }
    all
}

/// `allocs-rewrite object` in `dir`.
fn object(dir: &Dir) -> Command {
    Command::new(tool::binary()).arg("object").dir(dir.path())
}

/// The words that go on the link line, as `--json` gives them.
fn link_words(outcome: &Outcome) -> Vec<String> {
    let json: Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let words = json["link"].as_array().expect("a list").iter();
    words
        .map(|word| word.as_str().expect("a word").to_owned())
        .collect()
}

/// Writes the object file and links [`PROGRAM`] with it, as `dir/twin`, and without it, as `dir/plain`.
fn build(dir: &Dir, compiler: &str, linker: &str, flags: &str) -> PathBuf {
    Command::new(needs("gcc"))
        .args(["-shared", "-fPIC", "-Wl,-z,initfirst", "-o"])
        .arg(dir.join("librival.so"))
        .arg(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../samples/librival.c"
        ))
        .succeed();
    let made = object(dir)
        .args(["-o", "allocs_init.o", "--json"])
        .succeed();
    let source = dir.write("main.c", PROGRAM);
    for (name, words) in [("plain", Vec::new()), ("twin", link_words(&made))] {
        Command::new(needs(compiler))
            .dir(dir.path())
            .args(words)
            .args([
                "-Wall",
                "-Werror",
                "-Wl,--gc-sections",
                "-Wl,-rpath,$ORIGIN",
                "-o",
                name,
            ])
            .arg(format!("-fuse-ld={linker}"))
            .args(flags.split_whitespace())
            .arg(&source)
            .arg("librival.so")
            .succeed();
    }
    dir.join("twin")
}

fn first(compiler: &str, (linker, program): (&str, &str), (kind, flags): (&str, &str)) {
    needs(program);
    let dir = Dir::new(&format!("object-{compiler}-{linker}-{kind}"));
    // gold makes the function's address a PLT entry there, which is bound late unless all is bound at once.
    let plt = linker == "gold" && kind == "non-pie";
    let now = if plt { " -Wl,-z,now" } else { "" };
    let twin = build(&dir, compiler, linker, &format!("{flags}{now}"));

    let plain = Command::new(dir.join("plain")).run();
    assert_eq!(plain.stdout(), "r 1 1\n", "{plain}");
    Command::new(&twin).run().assert_same_as(&plain);
    let (outcome, report) = Report::of(&Command::new(&twin), &dir.join("report.json"));
    assert_eq!(report.phase(), "relocation", "{outcome}{report:?}");
    assert_eq!(report.before_init(), 0, "{outcome}{report:?}");
    assert!(
        report.bytes("malloc") >= 10002 + 10039,
        "{outcome}{report:?}"
    );
    check_file(&twin, plt);
    check_order(&twin);
    let explanation = explain::of(&twin);
    assert!(
        explanation.verdict().starts_with("first: "),
        "{}",
        explanation.outcome
    );
}

/// The runtime is the first library, its init the first preinit entry, and protection is what it was.
fn check_file(twin: &Path, plt: bool) {
    let (elf, plain) = (Elf::read(twin), Elf::read(twin.with_file_name("plain")));
    assert_eq!(elf.needed().first().map(String::as_str), Some(RUNTIME));
    let slots = elf.preinit();
    let addresses = { slots.iter().skip(1) }.filter(|slot| matches!(slot, Slot::Address(1..)));
    // Three that do nothing, and the program's own.
    assert_eq!(
        (slots.len(), addresses.count()),
        (1 + 3 + 4, 3 + 4),
        "{slots:?}"
    );
    let bound = slots.first() == Some(&Slot::Symbol(INIT.to_owned()));
    assert_eq!(bound, !plt, "{slots:?}");
    let relro = elf.relro().expect("PT_GNU_RELRO");
    let array = elf.preinit_range();
    assert!(
        relro.start <= array.start && array.end <= relro.end,
        "{relro:x?} {array:x?}"
    );
    let stack = |elf: &Elf| {
        elf.segment(elf::PT_GNU_STACK.0)
            .map(|segment| segment.flags)
    };
    assert_eq!(stack(&elf), stack(&plain), "the stack's permissions");
}

/// The loader bound the init symbol before it called anything.
fn check_order(twin: &Path) {
    let events = loader::events(&Command::new(twin));
    let bound = events.iter().position(|event| {
        matches!(event, Event::Bind { from, to, symbol }
            if symbol == INIT && loader::is(from, "twin") && loader::is(to, RUNTIME))
    });
    let called = events
        .iter()
        .position(|event| matches!(event, Event::Init(_) | Event::Preinit(_)));
    assert!(bound.is_some() && bound < called, "{events:#?}");
}

/// Bound lazily, it still is the first preinit entry, and `explain` says who is ahead of that and what to do.
fn lazy_plt_of_gold() {
    needs("ld.gold");
    let dir = Dir::new("object-lazy");
    let twin = build(&dir, "clang", "gold", "-fno-pie -no-pie -Wl,-z,lazy");
    let (outcome, report) = Report::of(&Command::new(&twin), &dir.join("report.json"));
    assert_eq!(report.before_init(), 1, "{outcome}{report:?}");
    let explanation = explain::of(&twin);
    let (verdict, remedy) = (
        explanation.verdict(),
        &explanation.json["verdict"]["remedy"],
    );
    assert!(verdict.contains("librival.so"), "{}", explanation.outcome);
    assert!(
        remedy
            .as_str()
            .is_some_and(|remedy| remedy.contains("-z now")),
        "{}",
        explanation.outcome
    );
}

/// Linkers leave out what not every object says. Debian's start files say nothing, so it is done without.
fn keeps_cet() {
    for (linker, program) in LINKERS.iter().filter(|(linker, _)| *linker != "gold") {
        needs(program);
        let dir = Dir::new(&format!("object-cet-{linker}"));
        let source = dir.write("start.c", "void _start(void) { for (;;); }\n");
        let made = object(&dir).args(["-o", "init.o", "--json"]).succeed();
        Command::new(needs("gcc"))
            .dir(dir.path())
            .args(link_words(&made))
            .args(["-fcf-protection=full", "-nostdlib", "-o", "prog"])
            .arg(format!("-fuse-ld={linker}"))
            .arg(source)
            .succeed();
        let notes = Command::new(needs("readelf"))
            .arg("-nW")
            .arg(dir.join("prog"))
            .succeed();
        assert!(notes.stdout().contains("IBT, SHSTK"), "{notes}");
    }
}

/// Nothing is left to do for a rewrite, and nothing was done that could be undone.
fn rewrite_of_what_is_linked() {
    let dir = Dir::new("object-rewrite");
    build(&dir, "gcc", "bfd", "");
    let run = |args: &[&str]| {
        let outcome = Command::new(tool::binary())
            .dir(dir.path())
            .args(args)
            .run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        outcome.stderr()
    };
    let rewritten = run(&["twin", "-o", "out"]);
    assert!(rewritten.contains("nothing is left to do"), "{rewritten}");
    for command in ["undo", "refresh"] {
        let message = run(&[command, "twin", "-o", "out"]);
        assert!(message.contains("is not rewritten"), "{message}");
    }
}

/// `--runtime` and `--init` of the user's own: an ordinary function is called as the preinit entry.
fn foreign_runtime() {
    let dir = Dir::new("object-foreign");
    let text =
        "#include <unistd.h>\nvoid begin(int argc, char **argv) { write(1, argv[1], argc); }\n";
    let source = dir.write("begin.c", text);
    let gcc = || Command::new(needs("gcc")).dir(dir.path());
    gcc()
        .args([
            "-shared",
            "-fPIC",
            "-Wl,-soname,libbegin.so.1",
            "-o",
            "libbegin.so.1",
        ])
        .arg(source)
        .succeed();
    let made = object(&dir)
        .args([
            "-o",
            "begin.o",
            "--runtime",
            "./libbegin.so.1",
            "--init",
            "begin",
            "--json",
        ])
        .succeed();
    let json: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!(json["phase"], "preinit", "{made}");
    assert_eq!(json["runtime"], Value::Null, "{made}");
    assert!(
        !dir.join(RUNTIME).exists(),
        "its own runtime is not asked for"
    );
    let main = dir.write(
        "main.c",
        "#include <stdio.h>\nint main(void) { return puts(\"main\") < 0; }\n",
    );
    gcc()
        .args(link_words(&made))
        .args(["-Wl,-rpath,$ORIGIN", "-o", "prog"])
        .arg(main)
        .succeed();
    let outcome = Command::new(dir.join("prog")).arg("x\n").succeed();
    assert_eq!(outcome.stdout(), "x\nmain\n", "{outcome}");
}

/// What is printed is what is typed; the file is like any compiler's.
fn file_and_json() {
    let dir = Dir::new("object-file");
    dir.make("build");
    let text = object(&dir).args(["-o", "build/init.o"]).succeed().stdout();
    assert!(
        text.contains("build/init.o build/liballocs_rt.so.1 -Wl,-rpath,'$ORIGIN'"),
        "{text}"
    );
    let made = object(&dir)
        .args(["-o", "build/init.o", "--json"])
        .succeed();
    let json: Value = serde_json::from_slice(&made.stdout).expect("JSON");
    assert_eq!(json["init"], INIT, "{made}");
    assert_eq!(json["phase"], "relocation", "{made}");
    assert_eq!(json["runtime"], format!("build/{RUNTIME}"), "{made}");
    let mode = |file: &str| {
        fs::metadata(dir.join(file))
            .expect("a file")
            .permissions()
            .mode()
            & 0o777
    };
    assert_eq!(
        (mode("build/init.o"), mode("build/liballocs_rt.so.1")),
        (0o644, 0o755)
    );
    let quiet = object(&dir).args(["-q", "-o", "build/init.o"]).succeed();
    assert_eq!(quiet.stdout(), "", "{quiet}");
}

/// The bytes depend neither on where the file is nor on its name.
fn same_bytes() {
    let dir = Dir::new("object-same");
    dir.make("deep");
    for name in ["one.o", "deep/two.o"] {
        object(&dir).args(["-o", name]).succeed();
    }
    let [one, two] = ["one.o", "deep/two.o"].map(|name| fs::read(dir.join(name)).expect("a file"));
    assert_eq!(one, two);
}

fn refusals() {
    let dir = Dir::new("object-refusals");
    dir.make("there");
    dir.write("text.so", "no library\n");
    let plain = dir.write("plain.c", "int plain;\n");
    Command::new(needs("gcc"))
        .args(["-shared", "-o"])
        .arg(dir.join("plain.so"))
        .arg(plain)
        .succeed();
    let cases: [(&[&str], &str); 9] = [
        (&["-o", RUNTIME], "is where the runtime goes"),
        (&["-o", "there"], "there: is a directory"),
        (&["-o", "nowhere/init.o"], "nowhere"),
        (&["-o", "x.o", "--init", "none"], "does not define `none`"),
        (
            &["-o", "x.o", "--runtime", "./text.so"],
            "is not an ELF file",
        ),
        (
            &["-o", "x.o", "--runtime", "./plain.so"],
            "does not define `allocs_preinit`",
        ),
        (
            &["-o", "x.o", "--runtime", "./none.so"],
            "none.so: cannot find",
        ),
        (&["-o", "x.o", "--runtime", ""], "it is empty"),
        (
            &["-o", "x.o", "--runtime", "libnone.so.9", "--init", "a b"],
            "no symbol name",
        ),
    ];
    for (args, message) in cases {
        let before = allocs_tests::dir::listing(&dir.path());
        let outcome = object(&dir).args(args).run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        let stderr = outcome.stderr();
        assert!(
            stderr.lines().count() == 1 && stderr.contains(message),
            "{outcome}"
        );
        assert_eq!(before, allocs_tests::dir::listing(&dir.path()), "{outcome}");
    }
    dir.write(RUNTIME, "another\n");
    let outcome = object(&dir).args(["-o", "x.o"]).run();
    assert!(
        outcome.stderr().contains("another version of the runtime"),
        "{outcome}"
    );
    object(&dir).args(["-o", "x.o", "--force"]).succeed();
}

/// Names that mean something in an object file are symbols like others, or refused.
fn odd_symbols() {
    let dir = Dir::new("object-odd");
    for name in [
        ".symtab",
        ".strtab",
        "allocs_init",
        ".rela.preinit_array",
        ".note.GNU-stack",
    ] {
        object(&dir)
            .args(["-o", "x.o", "--runtime", "libnone.so.9", "--init", name])
            .succeed();
        let symbols = Command::new(needs("readelf"))
            .arg("-rW")
            .arg(dir.join("x.o"))
            .succeed();
        assert!(
            symbols.stdout().contains(&format!(" {name} + 0")),
            "{symbols}"
        );
    }
    for name in [".preinit_array", ".note.gnu.property"] {
        let outcome = object(&dir)
            .args(["-o", "y.o", "--runtime", "libnone.so.9", "--init", name])
            .run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        assert!(outcome.stderr().contains("no symbol name"), "{outcome}");
    }
}
