//! What `explain` tells a user: the verdict and its exit status, who is ahead, who defines malloc, in
//! text, as a tree and as JSON. That its orders are the loader's own is `loader_model`'s matter.

use std::path::{Path, PathBuf};

use allocs_tests::explain::{self, Explanation, command};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["explain":
        first_after_the_rewrite,
        nothing_exported,
        not_rewritten,
        rival_ahead_of_preinit,
        rival_by_preload,
        setuid,
        require_first,
        warning_about_a_rival,
        missing_library,
        own_malloc,
        ifuncs_and_copies,
        named_constructors,
        text,
        colours,
        tree,
    ]
}

fn gcc(dir: &Dir, args: &str) -> Command {
    let command = Command::new(needs("gcc")).dir(dir.path());
    command.args(args.split_whitespace())
}

/// A program, a library with DF_1_INITFIRST, and one more.
fn program(dir: &Dir) -> PathBuf {
    let library = |text: &str, name: &str, flags: &str| {
        let source = dir.write(format!("{name}.c"), text);
        gcc(dir, &format!("-shared -fPIC {flags} -o lib{name}.so"))
            .arg(source)
            .succeed();
    };
    let rival = "#include <stdlib.h>\nvoid *kept;\n\
                 __attribute__((constructor)) void rise(void) { kept = malloc(10002); }\n";
    library(rival, "rival", "-Wl,-z,initfirst");
    library("int plain(void) { return 1; }\n", "plain", "");
    let main = "extern void *kept; int plain(void);\n\
                int main(void) { return !kept || !plain(); }\n";
    let main = dir.write("main.c", main);
    gcc(dir, "-Wl,-rpath,$ORIGIN -o main")
        .arg(main)
        .args(["-L.", "-lplain", "-lrival"])
        .succeed();
    dir.join("main")
}

fn calls(explanation: &Explanation) -> Vec<(String, String)> {
    let calls = explanation.json["init_order"].as_array().expect("a list");
    let text = |value: &serde_json::Value| value.as_str().unwrap_or_default().to_owned();
    let short = |path: String| path.rsplit('/').next().unwrap_or_default().to_owned();
    calls
        .iter()
        .map(|call| (short(text(&call["object"])), text(&call["entry"])))
        .collect()
}

fn first_after_the_rewrite() {
    let dir = Dir::new("explain-first");
    let result = Rewrite::new(program(&dir), dir.join("rewritten")).succeed();
    let explanation = explain::of(&result.path);
    assert_eq!(
        explanation.json["verdict"]["first"], true,
        "{}",
        explanation.outcome
    );
    assert!(
        explanation.verdict().starts_with("first: "),
        "{}",
        explanation.outcome
    );
    let calls = calls(&explanation);
    let expected = [
        ("liballocs_rt.so.1", "IFUNC resolver"),
        ("librival.so", "DT_INIT"),
    ];
    for ((object, entry), call) in expected.iter().zip(&calls) {
        assert_eq!(
            (*object, *entry),
            (call.0.as_str(), call.1.as_str()),
            "{calls:?}"
        );
    }
    let rivals = explanation.strings("rivals");
    assert!(
        rivals.iter().any(|rival| rival.ends_with("librival.so")),
        "{rivals:?}"
    );
}

/// ld's hash table then says nothing of how many symbols there are.
fn nothing_exported() {
    let dir = Dir::new("explain-nothing-exported");
    let source = dir.write("main.c", "int main(void) { return 0; }\n");
    gcc(&dir, "-fno-pie -no-pie -fuse-ld=bfd -o main")
        .arg(source)
        .succeed();
    let result = Rewrite::new(dir.join("main"), dir.join("rewritten")).succeed();
    let explanation = explain::of(&result.path);
    assert!(
        explanation.verdict().starts_with("first: "),
        "{}",
        explanation.outcome
    );
}

fn not_rewritten() {
    let explanation = explain::of(Path::new("/bin/ls"));
    assert!(
        explanation.verdict().contains("has not been rewritten"),
        "{}",
        explanation.outcome
    );
    assert_eq!(
        explanation.json["verdict"]["remedy"],
        "allocs-rewrite PROG -o OUT"
    );
}

fn rival_ahead_of_preinit() {
    let dir = Dir::new("explain-preinit");
    let result = Rewrite::new(program(&dir), dir.join("rewritten"))
        .args_line("--phase preinit")
        .succeed();
    let explanation = explain::of(&result.path);
    assert!(
        explanation.verdict().contains("librival.so"),
        "{}",
        explanation.outcome
    );
    let remedy = explanation.json["verdict"]["remedy"]
        .as_str()
        .expect("a remedy");
    assert!(remedy.contains("--phase relocation"), "{remedy}");
    // It is true: the rival allocates before the runtime's init.
    let (outcome, report) =
        allocs_tests::report::Report::of(&result.command(), &dir.join("report.json"));
    assert_eq!(report.before_init(), 1, "{outcome}{report:?}");
}

/// One that is preloaded is mapped before the runtime, which therefore has the last word.
fn rival_by_preload() {
    let dir = Dir::new("explain-preload");
    program(&dir);
    let result = Rewrite::new("/bin/true", dir.join("true"))
        .args_line("--phase preinit")
        .succeed();
    let rival = dir.join("librival.so").display().to_string();
    let explanation =
        Explanation::new(["--ld-preload", &rival, &result.path.display().to_string()]);
    assert_eq!(
        explanation.json["verdict"]["first"], true,
        "{}",
        explanation.outcome
    );
    assert_eq!(explanation.strings("rivals"), [rival]);
}

/// With more rights than whoever starts it, the loader takes $ORIGIN only in its own directories, and
/// nothing from the environment.
fn setuid() {
    let dir = Dir::new("explain-setuid");
    let prog = program(&dir);
    Command::line("chmod u+s").arg(&prog).succeed();
    let preload = dir.join("librival.so").display().to_string();
    let explained = |path: &str| {
        let settings = ["--ld-preload", &preload, "--ld-library-path", path];
        Explanation::new(settings.into_iter().chain([&*prog.to_string_lossy()]))
    };
    let explanation = explained(&dir.path().to_string_lossy());
    assert_eq!(explanation.missing(), ["libplain.so", "librival.so"]);
    let as_nobody = ["--reuid=65534", "--regid=65534", "--clear-groups"];
    let outcome = Command::new(needs("setpriv"))
        .args(as_nobody)
        .arg(&prog)
        .env("LD_LIBRARY_PATH", dir.path())
        .run();
    assert_eq!(outcome.code(), Some(127), "{outcome}");
    assert!(outcome.stderr().contains("libplain.so"), "{outcome}");
}

fn require_first() {
    let dir = Dir::new("require-first");
    let prog = program(&dir);
    let elsewhere = dir.make("elsewhere");
    let before = allocs_tests::dir::listing(&dir.path());
    let refused = |out: &Path, phase: &str, words: &str| {
        let rewrite = Rewrite::new(&prog, out).args_line("--require-first --phase");
        let outcome = rewrite.arg(phase).run();
        assert_eq!(outcome.code(), Some(3), "{outcome}");
        assert!(outcome.stderr().contains(words), "{outcome}");
        assert_eq!(outcome.stderr().lines().count(), 1, "{outcome}");
        let after = allocs_tests::dir::listing(&dir.path());
        assert_eq!(before, after, "{outcome}something was written");
    };
    refused(&dir.join("rewritten"), "preinit", "librival.so");
    // The program's libraries are not there.
    refused(&elsewhere.join("rewritten"), "auto", "does not start");

    let rewrite = Rewrite::new(&prog, dir.join("rewritten")).args_line("--require-first");
    rewrite.succeed().command().succeed();
}

fn warning_about_a_rival() {
    let dir = Dir::new("rival-warning");
    let prog = program(&dir);
    let runtime = dir.join("libplain.so");
    let rewrite = Rewrite::new(&prog, dir.join("rewritten"))
        .arg("--runtime")
        .arg(runtime)
        .args_line("--init plain");
    let outcome = rewrite.run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let warned = outcome.stderr();
    assert!(
        warned.contains("warning") && warned.contains("librival.so"),
        "{outcome}"
    );
    let explanation = explain::of(&dir.join("rewritten"));
    assert_eq!(
        explanation.json["verdict"]["first"], false,
        "{}",
        explanation.outcome
    );
}

fn missing_library() {
    let dir = Dir::new("explain-missing");
    let prog = program(&dir);
    std::fs::remove_file(dir.join("libplain.so")).expect("removed");
    let result = Rewrite::new(&prog, dir.join("rewritten")).succeed();
    let explanation = explain::of(&result.path);
    assert_eq!(explanation.missing(), ["libplain.so"]);
    assert!(
        explanation.verdict().contains("does not start"),
        "{}",
        explanation.outcome
    );
    let outcome = command([&result.path]).run();
    let line = outcome.stdout();
    let line = line.lines().find(|line| line.contains("libplain.so"));
    assert!(
        line.is_some_and(|line| line.contains("not found")),
        "{outcome}"
    );
    assert_eq!(
        result.command().run().code(),
        Some(127),
        "it starts after all"
    );
}

/// A program with a malloc of its own, and one with another allocator among its libraries.
fn own_malloc() {
    let dir = Dir::new("explain-malloc");
    let text = "#include <stddef.h>\nstatic char heap[1 << 20];\nstatic size_t used;\n\
                void *malloc(size_t n) { used += n + 15 & ~15ul; return heap + used; }\n\
                void free(void *p) { (void)p; }\n";
    let allocator = dir.write("allocator.c", text);
    let main = dir.write(
        "main.c",
        "#include <stdlib.h>\nint main(void) { return !malloc(1); }\n",
    );
    gcc(&dir, "-shared -fPIC -o libother.so")
        .arg(&allocator)
        .succeed();
    gcc(&dir, "-rdynamic -o own")
        .args([&main, &allocator])
        .succeed();
    gcc(&dir, "-Wl,-rpath,$ORIGIN -o other")
        .arg(&main)
        .args(["-L.", "-lother"])
        .succeed();
    for (name, definer) in [
        ("own", "own"),
        ("other", "libother.so"),
        ("/bin/true", "libc.so.6"),
    ] {
        let program = dir.join(name);
        let explanation = explain::of(&program);
        let first = &explanation.json["malloc"]["definitions"][0];
        let first = first.as_str().expect("a definition");
        assert!(first.ends_with(definer), "{name}: {first}");
        let bindings = explanation.json["malloc"]["bindings"]
            .as_array()
            .expect("a list");
        let same = |binding: &serde_json::Value| binding["definition"] == first;
        assert!(
            !bindings.is_empty() && bindings.iter().all(same),
            "{bindings:?}"
        );
    }
    // The runtime is not who is called first, but the program's own malloc leads to it.
    let result = Rewrite::new(dir.join("own"), dir.join("rewritten")).succeed();
    let explanation = explain::of(&result.path);
    let notes = explanation.strings("notes").join("\n");
    assert!(
        !notes.contains("defines malloc ahead of the runtime"),
        "{}",
        explanation.outcome
    );
    let own = &explanation.json["malloc"]["own"][0]["functions"][0];
    assert_eq!(own["diverted"], true, "{}", explanation.outcome);
}

fn ifuncs_and_copies() {
    let dir = Dir::new("explain-ifunc");
    let library = dir.write(
        "library.c",
        "static int one(void) { return 1; }\nstatic void *choose(void) { return one; }\n\
         int chosen(void) __attribute__((ifunc(\"choose\")));\nint data = 5;\n",
    );
    let main = dir.write(
        "main.c",
        "int chosen(void); extern int data;\nint main(void) { return chosen() + data != 6; }\n",
    );
    gcc(&dir, "-shared -fPIC -o libchoice.so")
        .arg(library)
        .succeed();
    gcc(&dir, "-no-pie -fno-pie -Wl,-z,now,-rpath,$ORIGIN -o main")
        .arg(main)
        .args(["-L.", "-lchoice"])
        .succeed();
    let explanation = explain::of(&dir.join("main"));
    let copies = explanation.json["copy_relocations"].to_string();
    assert!(
        copies.contains("\"data\"") && copies.contains("libchoice.so"),
        "{copies}"
    );
    let resolvers = explanation.json["ifunc_resolvers"]
        .as_array()
        .expect("a list");
    let of = |name: &str| {
        let found = resolvers
            .iter()
            .find(|r| r["object"].as_str().unwrap().ends_with(name));
        found.unwrap_or_else(|| panic!("{name}: {}", explanation.outcome))
    };
    assert!(
        of("/main")["bound"].to_string().contains("\"chosen\""),
        "{}",
        explanation.outcome
    );
    assert!(
        of("libc.so.6")["own"].as_u64().unwrap() > 10,
        "{}",
        explanation.outcome
    );
}

/// Names come from .dynsym, or from .symtab where there is one.
fn named_constructors() {
    let dir = Dir::new("explain-names");
    let prog = program(&dir);
    let names = |explanation: &Explanation| explanation.json["init_order"].to_string();
    let explanation = explain::of(&prog);
    assert!(
        names(&explanation).contains("\"rise\""),
        "{}",
        explanation.outcome
    );
    assert!(
        names(&explanation).contains("\"frame_dummy\""),
        "{}",
        explanation.outcome
    );
    Command::new(needs("strip"))
        .args([dir.join("librival.so"), prog.clone()])
        .succeed();
    let explanation = explain::of(&prog);
    assert!(
        names(&explanation).contains("\"rise\""),
        "{}",
        explanation.outcome
    );
    let of_program = explanation.json["init_order"]
        .as_array()
        .expect("a list")
        .last();
    assert!(
        of_program.unwrap()["symbol"].is_null(),
        "{}",
        explanation.outcome
    );
}

/// The text has everything in its order, and columns.
fn text() {
    let dir = Dir::new("explain-text");
    let result = Rewrite::new(program(&dir), dir.join("rewritten")).succeed();
    let outcome = command(["./rewritten"]).dir(dir.path()).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let text = outcome.stdout();
    let position = |what: &str| {
        text.find(what)
            .unwrap_or_else(|| panic!("{what}: {outcome}"))
    };
    let parts = [
        "./rewritten: run by /lib64/ld-linux-x86-64.so.2 (glibc ",
        "\nLoad order\n   1  ./rewritten ",
        "liballocs_rt.so.1",
        "\nWhile objects are relocated, before the runtime's init\n",
        "\nInit order\n   1  liballocs_rt.so.1",
        "  <- the runtime\n",
        "\nmalloc\n",
        "\nfirst: `allocs_preinit` of ",
    ];
    let positions = parts.map(position);
    assert!(positions.is_sorted(), "{positions:?} {outcome}");
    assert!(
        !text.contains('\x1b'),
        "{outcome}colours without a terminal"
    );
    let entries = text.lines().filter(|line| line.contains("DT_INIT"));
    let columns: Vec<_> = entries.map(|line| line.find("DT_INIT")).collect();
    assert!(
        columns.len() > 3 && columns.windows(2).all(|two| two[0] == two[1]),
        "{outcome}"
    );
    drop(result);
}

fn colours() {
    let run = |name: &str| command(["/bin/ls"]).env(name, "1").run().stdout();
    assert!(run("CLICOLOR_FORCE").contains("\x1b[1mLoad order\x1b[0m"));
    assert!(!run("NO_COLOR").contains('\x1b'));
}

fn tree() {
    let dir = Dir::new("explain-tree");
    let lib = |name: &str, needs: &str| {
        let source = dir.write("empty.c", "");
        gcc(
            &dir,
            &format!("-shared -nostdlib -Wl,-soname,{name},--no-as-needed -o {name}"),
        )
        .arg(source)
        .args(needs.split_whitespace())
        .succeed();
    };
    lib("libb.so", "");
    lib("liba.so", "libb.so");
    lib("libb.so", "liba.so");
    let main = dir.write("main.c", "int main(void) { return 0; }\n");
    gcc(&dir, "-Wl,-rpath,$ORIGIN,--no-as-needed -o main")
        .arg(main)
        .arg("liba.so")
        .succeed();
    let prog = dir.join("main");
    let outcome = command([
        "--ld-library-path",
        &dir.path().display().to_string(),
        "--tree",
    ])
    .arg(&prog)
    .run();
    assert_eq!(outcome.code(), Some(3), "{outcome}");
    let at = dir.path().display().to_string();
    let expected = format!(
        "{at}/main\n    {at}/liba.so\n        {at}/libb.so\n            {at}/liba.so (above)\n"
    );
    assert!(outcome.stdout().contains(&expected), "{outcome}");
}
