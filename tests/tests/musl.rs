//! Programs for musl are built with musl-gcc, rewritten, and run by musl's loader: they do what they did before, and the
//! runtime is called at their entry point, before any constructor.

use std::path::{Path, PathBuf};

use allocs_tests::elf::Elf;
use allocs_tests::report::Report;
use allocs_tests::tool::{self, Rewritten};
use allocs_tests::{Command, Dir, Rewrite, needs, trial, trials};
use libtest_mimic::Trial;
use object::elf;

const LOADER: &str = "/lib/ld-musl-x86_64.so.1";

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["musl":
        second_rewrite,
        by_its_loader,
        after_strip,
        after_patchelf,
        under_gdb,
        preloaded,
        constructors_of_libraries,
        registers,
        setuid,
        nested_hooks,
    ];
    for program in PROGRAMS {
        for flags in FLAGS {
            let name = format!("musl::{}::{}", program.name, flags.0);
            all.push(trial(name, || rewritten(program, flags.1)));
        }
    }
    all
}

/// A program for musl.
struct Program {
    name: &'static str,
    text: &'static str,
}

const FLAGS: &[(&str, &str)] = &[
    ("pie", "-pie -fPIE"),
    ("no-pie", "-no-pie"),
    ("norelro", "-pie -fPIE -Wl,-z,norelro"),
    ("lld", "-pie -fPIE -fuse-ld=lld"),
    ("mold", "-pie -fPIE -fuse-ld=mold"),
    ("gold", "-no-pie -fuse-ld=gold"),
    ("no-sections", "-pie -fPIE -Wl,--strip-all"),
];

const PROGRAMS: &[Program] = &[
    Program {
        name: "constructors",
        text: r#"
            #include <stdio.h>
            #include <stdlib.h>
            static void *first, *last;
            __attribute__((constructor(101))) static void early(void) { first = malloc(10002); }
            __attribute__((constructor)) static void late(void) { last = calloc(1, 20002); }
            __attribute__((destructor)) static void end(void) { puts("destructor"); free(last); }
            static void at_exit(void) { puts("atexit"); }
            int main(int argc, char **argv) {
                atexit(at_exit);
                printf("%d %s %d %d %s\n", argc, argv[1], !!first, !!last, getenv("MARK"));
                free(first);
                return 7;
            }"#,
    },
    Program {
        name: "threads",
        text: r#"
            #include <pthread.h>
            #include <stdio.h>
            #include <stdlib.h>
            #include <sys/wait.h>
            #include <unistd.h>
            static void *work(void *unused) {
                for (int i = 0; i < 20000; i++) {
                    char *p = malloc(i % 777 + 1);
                    p[0] = 1;
                    p = realloc(p, 2000);
                    free(p);
                }
                return malloc(10002);
            }
            int main(void) {
                pthread_t threads[4];
                for (int i = 0; i < 4; i++) pthread_create(&threads[i], 0, work, 0);
                void *chunks[4];
                for (int i = 0; i < 4; i++) pthread_join(threads[i], &chunks[i]);
                for (int i = 0; i < 4; i++) free(chunks[i]);
                if (fork() == 0) _exit(work(0) ? 3 : 4);
                int status;
                wait(&status);
                void *aligned;
                int failed = posix_memalign(&aligned, 4096, 100);
                printf("child %d, aligned %d\n", WEXITSTATUS(status), !failed && !((long)aligned % 4096));
                return 0;
            }"#,
    },
];

/// Builds with musl-gcc in `dir`.
fn build(dir: &Dir, name: &str, text: &str, flags: &str) -> PathBuf {
    let source = dir.write(format!("{name}.c"), text);
    for linker in ["ld.lld", "mold", "ld.gold"] {
        needs(linker);
    }
    let program = dir.join(name);
    Command::new(needs("musl-gcc"))
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(flags.split_whitespace())
        .dir(dir.path())
        .succeed();
    program
}

fn run(program: &Path) -> Command {
    Command::new(program).arg("one").env("MARK", "set")
}

/// The runtime came first, and saw what constructors did.
fn assert_first(command: &Command, dir: &Dir) -> Report {
    let (outcome, report) = Report::of(command, &dir.join("report.json"));
    assert_eq!(report.phase(), "entry", "{outcome}{report:?}");
    assert_eq!(report.before_init(), 0, "{outcome}{report:?}");
    report
}

fn rewritten(program: &Program, flags: &str) {
    let dir = Dir::new(program.name);
    let original = build(&dir, program.name, program.text, flags);
    let before = run(&original).arg0("name").run();
    assert!(before.code().is_some(), "{before}");

    let result = Rewrite::new(&original, dir.join("rewritten")).succeed();
    run(&result.path).arg0("name").run().assert_same_as(&before);
    let report = assert_first(&run(&result.path), &dir);
    assert!(report.calls("malloc") >= 1, "{report:?}");
    assert_sound(&original, &result);
}

/// Nothing is writable and executable that was not, and the entry point is in a segment of its own.
fn assert_sound(original: &Path, result: &Rewritten) {
    let (before, after) = (Elf::read(original), Elf::read(&result.path));
    let both = elf::PF_W.0 | elf::PF_X.0;
    for segment in &after.segments {
        assert_ne!(
            segment.flags & both,
            both,
            "{segment:x?} is writable and executable"
        );
    }
    let code = |file: &Elf| {
        let loads = file.segments.iter().filter(|s| s.kind == elf::PT_LOAD.0);
        loads.filter(|s| s.flags & elf::PF_X.0 != 0).count()
    };
    assert_eq!(code(&after), code(&before) + 1, "{:x?}", after.segments);
    assert_eq!(result.json["runtime"]["phase"], "entry");
}

/// A program with constructors and destructors.
pub(crate) fn constructors(dir: &Dir) -> PathBuf {
    build(dir, PROGRAMS[0].name, PROGRAMS[0].text, "-pie -fPIE")
}

fn second_rewrite() {
    let dir = Dir::new("musl-twice");
    let first = Rewrite::new(constructors(&dir), dir.join("first")).succeed();
    Rewrite::new(&first.path, dir.join("second")).refuse(
        &dir.path(),
        &first.path,
        &["already rewritten", "nothing is left to do"],
    );
}

/// The kernel describes the loader then, not the program.
fn by_its_loader() {
    let dir = Dir::new("musl-loader");
    let original = constructors(&dir);
    let result = Rewrite::new(&original, dir.join("rewritten")).succeed();
    let by_loader = |program: &Path| {
        let command = Command::new(LOADER).args(["--argv0", "name"]).arg(program);
        command.arg("one").env("MARK", "set")
    };
    by_loader(&result.path)
        .run()
        .assert_same_as(&by_loader(&original).run());
    assert_first(&by_loader(&result.path), &dir);
}

/// Each on a fresh result, and one after the other.
fn after_strip() {
    let dir = Dir::new("musl-strip");
    let original = constructors(&dir);
    let before = run(&original).arg0("name").run();
    let tools = [
        ["strip", "-s"],
        ["strip", "-g"],
        ["objcopy", "-S"],
        ["llvm-strip-14", "-s"],
        ["eu-strip", "-g"],
    ];
    let all = dir.join("all");
    Rewrite::new(&original, &all).succeed();
    for tool in tools {
        let one = dir.join("one");
        Rewrite::new(&original, &one).succeed();
        for file in [&one, &all] {
            Command::new(needs(tool[0]))
                .arg(tool[1])
                .arg(file)
                .succeed();
            run(file).arg0("name").run().assert_same_as(&before);
            assert_first(&run(file), &dir);
        }
    }
}

/// patchelf moves tables away from behind the program headers, and writes over where they were; the
/// new headers find room there, without anything making way.
fn after_patchelf() {
    let dir = Dir::new("musl-patchelf");
    let original = constructors(&dir);
    let before = run(&original).run();
    let long = "/nowhere/".repeat(40);
    let patchelf = Command::new(needs("patchelf")).args(["--set-rpath", &long]);
    patchelf.arg(&original).succeed();
    let result = Rewrite::new(&original, dir.join("rewritten")).succeed();
    run(&result.path)
        .arg0(&original)
        .run()
        .assert_same_as(&before);
    assert_first(&run(&result.path), &dir);
}

fn under_gdb() {
    let dir = Dir::new("musl-gdb");
    let result = Rewrite::new(constructors(&dir), dir.join("rewritten")).succeed();
    let commands = [
        "-ex",
        "break main",
        "-ex",
        "run one",
        "-ex",
        "backtrace",
        "-ex",
        "continue",
    ];
    let outcome = Command::new(needs("gdb"))
        .args(["-nx", "-batch"])
        .args(commands)
        .arg(&result.path)
        .env("MARK", "set")
        .succeed();
    let text = outcome.stdout();
    assert!(text.contains("#0") && text.contains("main"), "{outcome}");
    assert!(text.contains("exited with code 07"), "{outcome}");
}

/// The same runtime, brought in by LD_PRELOAD into a program that was not rewritten.
fn preloaded() {
    let dir = Dir::new("musl-preload");
    let original = constructors(&dir);
    let before = run(&original).run();
    let command = run(&original).env("LD_PRELOAD", tool::runtime());
    command.run().assert_same_as(&before);
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(report.phase(), "constructor", "{outcome}{report:?}");
}

/// A library's constructor runs before the program's own, and after the runtime's init; so does that
/// of a library that comes by dlopen.
fn constructors_of_libraries() {
    let dir = Dir::new("musl-libraries");
    let library = r#"
        #include <stdlib.h>
        void *kept;
        __attribute__((constructor)) static void begin(void) { kept = malloc(SIZE); }"#;
    for (name, size) in [("libone.so", "10002"), ("libtwo.so", "20002")] {
        let flags = format!("-shared -fPIC -DSIZE={size}");
        build(&dir, name, library, &flags);
    }
    let main = r#"
        #include <dlfcn.h>
        #include <stdio.h>
        #include <stdlib.h>
        extern void *kept;
        int main(void) {
            void *one = kept;
            void *library = dlopen("./libtwo.so", RTLD_NOW);
            void **two = dlsym(library, "kept");
            printf("%d %d\n", !!one, !!*two);
            free(one);
            free(*two);
            return 0;
        }"#;
    let original = build(&dir, "main", main, "./libone.so");
    let result = Rewrite::new(&original, dir.join("rewritten")).succeed();
    let command = |program: &Path| Command::new(program).dir(dir.path());
    let before = command(&original).succeed();
    command(&result.path).run().assert_same_as(&before);
    let report = assert_first(&command(&result.path), &dir);
    assert!(report.bytes("malloc") >= 30004, "{report:?}");
    // One that is preloaded is initialised before the others, and still after the entry point.
    let preloaded = command(&result.path).env("LD_PRELOAD", "./libtwo.so");
    assert_first(&preloaded, &dir);
}

/// At the entry point rdx is the function to call at exit and the stack pointer a multiple of 16; the
/// trampoline leaves both as they were, and calls init with argc, argv and envp.
fn registers() {
    let dir = Dir::new("musl-registers");
    let runtime = r#"
        #include <string.h>
        #include <unistd.h>
        static int count(char **list) { int n = 0; while (list[n]) n++; return n; }
        void begin(int argc, char **argv, char **envp) {
            __attribute__((aligned(16))) volatile char aligned[16];
            asm volatile("movaps %%xmm0, %0" : "=m"(aligned));
            char good = argc == 3 && count(argv) == 3 && envp == argv + 4;
            good = good && !strcmp(argv[2], "two") && count(envp) > 0;
            write(1, good ? "good\n" : "bad\n", good ? 5 : 4);
        }"#;
    let runtime = build(&dir, "libfirst.so", runtime, "-shared -fPIC");
    // An entry point that tells what it finds, and ends the process.
    let main = r#"
        asm(".globl begin_here\nbegin_here: test $15, %rsp\nsetz %al\ncmp $0x1234, %rdx\nsete %cl\n"
            "and %cl, %al\nmovzbl %al, %edi\nmov $60, %eax\nsyscall\n"
            ".globl outer\nouter: mov $0x1234, %edx\njmp *trampoline(%rip)\n"
            ".data\n.globl trampoline\ntrampoline: .quad 0\n.text\n");
        int main(void) { return 0; }"#;
    let original = build(&dir, "main", main, "-no-pie -Wl,-e,begin_here");
    let result = Rewrite::new(&original, dir.join("rewritten"))
        .arg("--runtime")
        .arg(&runtime)
        .args_line("--init begin")
        .succeed();
    // musl gives 0 in rdx; gdb gives another value where the entry point is reached.
    let outcome = Command::new(needs("gdb"))
        .args(["-nx", "-batch", "-ex", "starti one two"])
        .args(["-ex", "break *$entry"])
        .args([
            "-iex",
            &format!("set $entry = {:#x}", Elf::read(&result.path).header_entry()),
        ])
        .args([
            "-ex",
            "continue",
            "-ex",
            "set $rdx = 0x1234",
            "-ex",
            "continue",
        ])
        .arg(&result.path)
        .succeed();
    let text = outcome.stdout();
    assert!(text.contains("good\n"), "{outcome}");
    assert!(text.contains("exited with code 01"), "{outcome}");
}

/// Whoever may write beside the program could replace the runtime there.
fn setuid() {
    let dir = Dir::new("musl-setuid");
    let original = constructors(&dir);
    Command::line("chmod u+s").arg(&original).succeed();
    let out = dir.join("rewritten");
    let asked = || Rewrite::new(&original, &out).arg("--allow-setuid");
    asked().refuse(&dir.path(), &original, &["setuid", "absolute path"]);
    let trusted = Dir::of_root("runtime");
    asked()
        .arg("--runtime")
        .arg(tool::runtime_in(&trusted))
        .succeed();
}

/// musl's calloc calls malloc, and its memalign aligned_alloc, by the names that are hooked: one
/// request is one chunk, also in a thread's first call of all.
fn nested_hooks() {
    let dir = Dir::new("musl-nested");
    let code = r#"
        #include <malloc.h>
        #include <pthread.h>
        #include <stdlib.h>
        static void *thread(void *arg) { free(calloc(3, 1001)); return arg; }
        int main(void) {
            void *p, *q = calloc(2, 1001);
            pthread_t t;
            pthread_create(&t, 0, thread, 0);
            pthread_join(t, 0);
            free(memalign(64, 5000));
            int error = posix_memalign(&p, 64, 6000);
            free(p);
            free(q);
            return error;
        }"#;
    let program = build(&dir, "nested", code, "-fno-builtin -pthread");
    let result = Rewrite::new(&program, dir.join("nested.allocs")).succeed();
    let report = assert_first(&result.command(), &dir);
    let calls = [
        ("calloc", 2),
        ("memalign", 1),
        ("posix_memalign", 1),
        ("malloc", 0),
        ("aligned_alloc", 0),
        ("free", 4),
    ];
    for (hook, expected) in calls {
        assert_eq!(report.calls(hook), expected, "{hook}: {report:?}");
    }
    assert_eq!(report.bytes("calloc"), 5005, "{report:?}");
    assert_eq!(report.number(&["live", "chunks"]), 0, "{report:?}");
}
