//! The malloc family with the runtime in front keeps every promise that it makes without: the same
//! program is asked before and after, rewritten and preloaded. And the runtime is silent and
//! harmless unless it is asked to report.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool;
use allocs_tests::tool::{RUNTIME, Rewritten};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["hooks":
        contracts_rewritten,
        contracts_preloaded,
        memory_that_runs_out,
        sandboxes_that_kill,
        every_hook_is_counted,
        counts_are_exact,
        silent_without_a_report,
        report_to_stderr,
        report_as_text,
        report_cannot_be_written,
        secure_programs_ignore_the_report,
        forked_children_report_their_own,
        threads_lose_no_call,
        ldd,
        started_by_the_loader,
        under_gdb,
        without_arguments_and_environment,
        closed_descriptors,
    ]
}

/// Builds a program of `tests/programs/`; the compiler must not know what malloc is.
fn build(dir: &Dir, name: &str) -> PathBuf {
    let source = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name);
    let program = dir.join(source.file_stem().expect("a name"));
    Command::new(needs("gcc"))
        .args([
            "-Wall",
            "-Wextra",
            "-Werror",
            "-fno-builtin",
            "-O1",
            "-pthread",
        ])
        .arg(source.with_extension("c"))
        .arg("-o")
        .arg(&program)
        .succeed();
    program
}

fn rewritten(dir: &Dir, program: &Path) -> Rewritten {
    let name = program.file_name().expect("a name");
    Rewrite::new(program, dir.make("rewritten").join(name)).succeed()
}

fn contracts_rewritten() {
    let dir = Dir::new("contracts");
    let program = build(&dir, "contracts");
    let original = Command::new(&program).succeed();
    let result = rewritten(&dir, &program);
    result.command().run().assert_same_as(&original);
    let (reporting, _) = Report::of(&result.command(), &dir.join("report.json"));
    reporting.assert_same_as(&original);
}

/// Without any rewriting, where the constructor is the first that the runtime hears of.
fn contracts_preloaded() {
    let dir = Dir::new("preloaded");
    let program = build(&dir, "contracts");
    let original = Command::new(&program).succeed();
    let preloaded = Command::new(&program).env("LD_PRELOAD", tool::runtime());
    let (outcome, report) = Report::of(&preloaded, &dir.join("report.json"));
    outcome.assert_same_as(&original);
    assert_eq!(report.phase(), "constructor", "{report:?}");
    assert!(report.allocations() > 3000, "{report:?}");
}

/// There is no chunk, also where an address of 0 would lie in the region of the heap: that of a program which is not PIE
/// begins below 64 MiB, if addresses are not random.
fn memory_that_runs_out() {
    let dir = Dir::new("runs-out");
    let source = dir.write(
        "runs_out.c",
        r#"#include <errno.h>
        #include <stdio.h>
        #include <stdlib.h>
        #include <sys/personality.h>
        #include <sys/resource.h>
        #include <unistd.h>
        static const char *what(void *chunk) {
            return chunk ? "a chunk" : errno == ENOMEM ? "ENOMEM" : "another error";
        }
        int main(int, char **argv) {
            int without = ADDR_NO_RANDOMIZE;
            if (!(personality(~0UL) & without) && personality(without) != -1) {
                execv("/proc/self/exe", argv);
                return 2;
            }
            printf("low: %d\n", (unsigned long)malloc(100) < 64UL << 20);
            FILE *pages = fopen("/proc/self/statm", "r");
            unsigned long mapped;
            if (!pages || fscanf(pages, "%lu", &mapped) != 1) return 1;
            rlim_t most = mapped * (rlim_t)sysconf(_SC_PAGESIZE) + (16 << 20);
            struct rlimit limit = {most, most};
            if (setrlimit(RLIMIT_AS, &limit) != 0) return 1;
            void **last = NULL, **next;
            for (int size = 50000; size >= 16; size /= 5)
                while ((next = malloc(size)) != NULL) {
                    *next = last;
                    last = next;
                }
            errno = 0;
            printf("malloc: %s\n", what(malloc(16)));
            errno = 0;
            printf("calloc: %s\n", what(calloc(2, 50000)));
            errno = 0;
            printf("realloc: %s\n", what(realloc(last, 60000)));
            for (; last != NULL; last = next) {
                next = *last;
                free(last);
            }
            printf("then: %s\n", what(malloc(50000)));
            return 0;
        }"#,
    );
    for (name, flags, is_low) in [
        ("pie", ["-fPIE", "-pie"], 0),
        ("low", ["-fno-pie", "-no-pie"], 1),
    ] {
        let program = dir.join(name);
        Command::new(needs("gcc"))
            .args(["-fno-builtin", "-O1"])
            .args(flags)
            .arg(&source)
            .arg("-o")
            .arg(&program)
            .succeed();
        let original = Command::new(&program).succeed();
        let said = format!(
            "low: {is_low}\nmalloc: ENOMEM\ncalloc: ENOMEM\nrealloc: ENOMEM\nthen: a chunk\n"
        );
        assert_eq!(original.stdout, said.as_bytes(), "{original}");
        let result = rewritten(&dir, &program);
        result.command().run().assert_same_as(&original);
        let (reporting, _) = Report::of(&result.command(), &dir.join("report.json"));
        reporting.assert_same_as(&original);
    }
}

/// In a sandbox of its own making, by either way to lay a filter, a program lives if it only calls what its own functions
/// call: from places that were not met before, its own, of libc and of a library that was opened.
fn sandboxes_that_kill() {
    let dir = Dir::new("killing");
    let library = dir.write(
        "library.c",
        "#include <stdlib.h>
        void *xmalloc(size_t size) { return malloc(size); }
        void *library(void) { return xmalloc(1000); }\n",
    );
    let shared = dir.join("library.so");
    let gcc = |arguments: &[&str]| {
        let compiler = Command::new(needs("gcc")).args(["-Wall", "-Werror", "-fno-builtin", "-O1"]);
        compiler.args(arguments).succeed();
    };
    let text = |path: &Path| path.to_str().expect("a path of ours").to_owned();
    gcc(&["-shared", "-fPIC", &text(&library), "-o", &text(&shared)]);
    let source = dir.write(
        "main.c",
        r#"#define _GNU_SOURCE
        #include <dlfcn.h>
        #include <linux/filter.h>
        #include <linux/seccomp.h>
        #include <stddef.h>
        #include <stdlib.h>
        #include <string.h>
        #include <sys/prctl.h>
        #include <sys/syscall.h>
        #include <unistd.h>
        #define ALLOW(number) \
            BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, number, 0, 1), BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)
        int main(int argc, char **argv) {
            void *opened = dlopen(argv[1], RTLD_NOW);
            void *(*library)(void) = opened ? (void *(*)(void))dlsym(opened, "library") : NULL;
            if (argc != 3 || library == NULL) return 2;
            struct sock_filter filter[] = {
                BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
                ALLOW(SYS_brk), ALLOW(SYS_mmap), ALLOW(SYS_munmap), ALLOW(SYS_mremap), ALLOW(SYS_getrandom), ALLOW(SYS_write), ALLOW(SYS_exit_group),
                BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
            };
            struct sock_fprog program = {.len = sizeof filter / sizeof *filter, .filter = filter};
            if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return 2;
            long laid = strcmp(argv[2], "prctl") == 0
                ? prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program)
                : syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, 0, &program);
            if (laid != 0) return 2;
            char *own = malloc(100), *of_libc = strdup("text"), *large = calloc(1, 300000);
            if (own == NULL || of_libc == NULL || large == NULL || library() == NULL) return 3;
            large = realloc(large, 500000);
            free(own);
            free(of_libc);
            free(large);
            if (write(1, "done\n", 5) != 5) return 4;
            syscall(argc == 3 ? SYS_exit_group : SYS_getppid, 0);
        }"#,
    );
    let program = dir.join("main");
    gcc(&[&text(&source), "-o", &text(&program)]);
    let result = rewritten(&dir, &program);
    for way in ["prctl", "seccomp"] {
        let arguments = [text(&shared), way.to_owned()];
        let original = Command::new(&program).args(&arguments).succeed();
        assert_eq!(original.stdout(), "done\n");
        let preloaded = Command::new(&program).env("LD_PRELOAD", tool::runtime());
        for command in [result.command(), preloaded] {
            command.args(&arguments).run().assert_same_as(&original);
        }
    }
}

fn every_hook_is_counted() {
    let dir = Dir::new("every-hook");
    let result = rewritten(&dir, &build(&dir, "contracts"));
    let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
    for hook in [
        "malloc",
        "calloc",
        "realloc",
        "reallocarray",
        "free",
        "memalign",
        "posix_memalign",
        "aligned_alloc",
        "valloc",
        "pvalloc",
        "malloc_usable_size",
        "free_sized",
        "free_aligned_sized",
    ] {
        assert!(
            report.calls(hook) > 0,
            "{outcome}{hook} was called: {report:?}"
        );
    }
}

/// Ten calls more are ten calls more, of exactly so many bytes; failed calls ask for nothing.
fn counts_are_exact() {
    let dir = Dir::new("exact");
    let source = dir.write(
        "exact.c",
        "#include <stdlib.h>
         int main(int argc, char **argv) {
             volatile size_t half = (size_t)-1 / 2;
             for (int i = 0; i < atoi(argv[argc - 1]); i++) {
                 char *a = malloc(10007), *b = calloc(3, 10009);
                 a = realloc(a, 20011);
                 free(a);
                 free(b);
                 if (malloc(half) != NULL || calloc(half, 3) != NULL) return 1;
             }
             return 0;
         }",
    );
    let program = dir.join("exact");
    Command::new(needs("gcc"))
        .args(["-fno-builtin"])
        .arg(source)
        .arg("-o")
        .arg(&program)
        .succeed();
    let result = rewritten(&dir, &program);
    let count = |rounds: &str| {
        let command = result.command().arg(rounds);
        let (outcome, report) = Report::of(&command, &dir.join(format!("{rounds}.json")));
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        report
    };
    let (none, ten) = (count("0"), count("10"));
    let expected = [
        ("malloc", 20, 10007),
        ("calloc", 20, 30027),
        ("realloc", 10, 20011),
    ];
    for (hook, calls, bytes) in expected {
        assert_eq!(ten.calls(hook) - none.calls(hook), calls, "calls of {hook}");
        assert_eq!(
            ten.bytes(hook) - none.bytes(hook),
            10 * bytes,
            "bytes of {hook}"
        );
    }
    assert_eq!(ten.calls("free") - none.calls("free"), 20, "calls of free");
    let live = |report: &Report| report.number(&["live", "chunks"]);
    assert_eq!(live(&ten), live(&none), "live chunks");
    let peak = |report: &Report| report.number(&["live", "peak_bytes"]);
    assert!(peak(&ten) >= peak(&none) + 50_000, "peak: {ten:?} {none:?}");
}

fn silent_without_a_report() {
    let dir = Dir::new("silent");
    let result = rewritten(&dir, Path::new("/bin/true"));
    let cwd = dir.make("cwd");
    let before = allocs_tests::dir::listing(&dir.path());
    let outcome = result.command().dir(&cwd).succeed();
    assert_eq!(
        (outcome.stdout().as_str(), outcome.stderr().as_str()),
        ("", "")
    );
    // An empty name is no name.
    let outcome = result
        .command()
        .dir(&cwd)
        .env("ALLOCS_REPORT", "")
        .succeed();
    assert_eq!(
        (outcome.stdout().as_str(), outcome.stderr().as_str()),
        ("", "")
    );
    assert_eq!(
        allocs_tests::dir::listing(&dir.path()),
        before,
        "files appeared"
    );
}

fn report_to_stderr() {
    let dir = Dir::new("to-stderr");
    let result = rewritten(&dir, &build(&dir, "secure"));
    let outcome = result.command().env("ALLOCS_REPORT", "-").succeed();
    assert_eq!(outcome.stdout(), "secure: 0\n", "{outcome}");
    for word in ["relocation", "malloc", "free"] {
        assert!(
            outcome.stderr().contains(word),
            "{outcome}the report should say {word}"
        );
    }
}

fn report_as_text() {
    let dir = Dir::new("as-text");
    let result = rewritten(&dir, &build(&dir, "secure"));
    let path = dir.join("report.txt");
    let outcome = result.command().env("ALLOCS_REPORT", &path).succeed();
    assert_eq!(outcome.stderr(), "", "{outcome}");
    let text = fs::read_to_string(path).expect("a report");
    assert!(
        text.contains("relocation") && text.contains("malloc"),
        "{text}"
    );
    assert!(
        serde_json::from_str::<serde_json::Value>(&text).is_err(),
        "{text}"
    );
}

/// The program does its work all the same.
fn report_cannot_be_written() {
    let dir = Dir::new("cannot-write");
    let program = build(&dir, "secure");
    let original = Command::new(&program).succeed();
    let result = rewritten(&dir, &program);
    let long = format!("/tmp/{}", "x".repeat(5000));
    for path in ["/nonexistent/report.json", "/", "/dev/full", long.as_str()] {
        let outcome = result.command().env("ALLOCS_REPORT", path).run();
        outcome.assert_same_as(&original);
    }
}

/// A setuid program must not write files where its caller says.
fn secure_programs_ignore_the_report() {
    assert!(
        rustix::process::geteuid().is_root(),
        "this test has to run as root"
    );
    let dir = Dir::new("secure");
    let trusted = Dir::of_root("runtime");
    let runtime = tool::runtime_in(&trusted);
    let program = build(&dir, "secure");
    let shared = dir.make("shared");
    fs::set_permissions(&shared, Permissions::from_mode(0o777)).expect("mode 0777");

    let run = |mode: u32| {
        fs::set_permissions(&program, Permissions::from_mode(mode)).expect("a mode");
        let out = dir.join(format!("{mode:o}"));
        Rewrite::new(&program, &out)
            .arg("--allow-setuid")
            .arg("--runtime")
            .arg(&runtime)
            .succeed();
        let report = shared.join(format!("{mode:o}.json"));
        let outcome = Command::new(needs("setpriv"))
            .args(["--reuid=65534", "--regid=65534", "--clear-groups"])
            .arg(out)
            .env("ALLOCS_REPORT", &report)
            .succeed();
        (outcome.stdout(), report.exists())
    };
    assert_eq!(run(0o755), ("secure: 0\n".to_owned(), true));
    assert_eq!(run(0o4755), ("secure: 1\n".to_owned(), false));
    assert_eq!(run(0o2755), ("secure: 1\n".to_owned(), false));
}

/// A child that exits writes what it counted; a shared file holds the last one's, the parent's.
fn forked_children_report_their_own() {
    let dir = Dir::new("fork");
    let source = dir.write(
        "fork.c",
        "#include <stdio.h>
         #include <stdlib.h>
         #include <sys/wait.h>
         #include <unistd.h>
         int main(void) {
             char *kept = malloc(10007);
             if (fork() == 0) {
                 for (int i = 0; i < 100; i++) free(malloc(10009));
                 exit(0);
             }
             wait(NULL);
             if (access(getenv(\"ALLOCS_REPORT\"), F_OK) != 0) return 1;
             rename(getenv(\"ALLOCS_REPORT\"), \"child.json\");
             printf(\"%d\\n\", (int)getpid());
             free(kept);
             return 0;
         }",
    );
    let program = dir.join("fork");
    Command::new(needs("gcc"))
        .arg("-fno-builtin")
        .arg(source)
        .arg("-o")
        .arg(&program)
        .succeed();
    let result = rewritten(&dir, &program);
    let command = result.command().dir(dir.path());
    let (outcome, parent) = Report::of(&command, &dir.join("parent.json"));
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let child = Report::read(&dir.join("child.json")).expect("the child's report");
    assert_eq!(
        parent.number(&["pid"]).to_string(),
        outcome.stdout().trim(),
        "{outcome}"
    );
    assert_ne!(parent.number(&["pid"]), child.number(&["pid"]));
    let more = child.calls("malloc").checked_sub(parent.calls("malloc"));
    assert!(more.is_some_and(|more| more > 90), "{child:?} {parent:?}");
}

/// Four threads, each its calls; all of them are in the sum.
fn threads_lose_no_call() {
    let dir = Dir::new("threads");
    let program = Sample::named("threads").build(&dir.path(), Variant::GCC, &[]);
    let result = rewritten(&dir, &program);
    let reports = [1, 2].map(|run| {
        let (outcome, report) = Report::of(&result.command(), &dir.join(format!("{run}.json")));
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        report
    });
    for report in &reports {
        // 3 generations of 4 threads, 20 rounds of 500 blocks, a third of them by calloc.
        let blocks = 3 * 4 * 20 * 500;
        assert!(
            report.calls("malloc") + report.calls("calloc") >= blocks,
            "{report:?}"
        );
        assert!(report.calls("realloc") >= blocks / 5, "{report:?}");
        assert!(report.calls("free") >= blocks, "{report:?}");
    }
    for hook in ["malloc", "calloc", "realloc"] {
        assert_eq!(reports[0].calls(hook), reports[1].calls(hook), "{hook}");
        assert_eq!(reports[0].bytes(hook), reports[1].bytes(hook), "{hook}");
    }
}

/// `ldd -r` relocates everything, so it runs the runtime's resolver: nothing may come of that, and
/// both lists are what they were, but for the runtime's line at their beginning.
fn ldd() {
    let dir = Dir::new("ldd");
    let original = build(&dir, "contracts");
    let result = rewritten(&dir, &original);
    let cwd = dir.make("cwd");
    let report = cwd.join("report.json");
    for option in ["-v", "-r"] {
        let list = |program: &Path| {
            let command = Command::new(needs("ldd"))
                .arg(option)
                .arg(program)
                .dir(&cwd);
            let outcome = command.env("ALLOCS_REPORT", &report).succeed();
            // free_sized and free_aligned_sized are weak and may stay undefined; nothing else.
            assert_eq!(outcome.stderr(), "", "{outcome}");
            let path = program.display().to_string();
            let lines = outcome.stdout().replace(&path, "program");
            let lines = lines
                .lines()
                .map(|line| line.split(" (0x").next().unwrap_or(line).to_owned());
            lines.collect::<Vec<_>>()
        };
        let (before, mut after) = (list(&original), list(&result.path));
        let of_runtime = after.remove(1);
        assert!(of_runtime.contains(RUNTIME), "{of_runtime}");
        assert_eq!(after, before);
        assert!(!report.exists(), "ldd wrote a report");
    }
}

/// Where the executable's own flags count as well, and $ORIGIN is found in another way.
fn started_by_the_loader() {
    let dir = Dir::new("by-loader");
    let program = build(&dir, "contracts");
    let original = Command::new(&program).succeed();
    let result = rewritten(&dir, &program);
    let command = Command::new("/lib64/ld-linux-x86-64.so.2").arg(&result.path);
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    outcome.assert_same_as(&original);
    assert_eq!(report.phase(), "relocation", "{report:?}");
}

fn under_gdb() {
    let dir = Dir::new("gdb");
    let program = dir.join("program");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/secure.c");
    Command::new(needs("gcc"))
        .arg("-g")
        .arg(source)
        .arg("-o")
        .arg(&program)
        .succeed();
    let result = rewritten(&dir, &program);
    let outcome = Command::new(needs("gdb"))
        .args([
            "-batch",
            "-nx",
            "-ex",
            "set debuginfod enabled off",
            "-ex",
            "break main",
        ])
        .args([
            "-ex",
            "run",
            "-ex",
            "backtrace",
            "-ex",
            "info sharedlibrary",
            "-ex",
            "continue",
        ])
        .arg(&result.path)
        .succeed();
    for word in ["#0  main () at", "secure.c", RUNTIME, "exited normally"] {
        assert!(
            outcome.stdout().contains(word),
            "{outcome}gdb should say {word}"
        );
    }
}

fn without_arguments_and_environment() {
    let dir = Dir::new("no-arguments");
    let program = build(&dir, "secure");
    let result = rewritten(&dir, &program);
    let script = format!("exec -a '' env -i {}", result.path.display());
    let outcome = Command::new("bash").args(["-c", &script]).succeed();
    assert_eq!(outcome.stdout(), "secure: 0\n", "{outcome}");
}

/// No descriptor is taken for granted, and none is left open.
fn closed_descriptors() {
    let dir = Dir::new("descriptors");
    let original = Command::new("bash")
        .args(["-c", "ls /proc/self/fd"])
        .succeed();
    let result = rewritten(&dir, Path::new("/bin/ls"));
    let report = dir.join("report.json");
    let script = format!("{} /proc/self/fd", result.path.display());
    let outcome = Command::new("bash")
        .args(["-c", &script])
        .env("ALLOCS_REPORT", &report)
        .run();
    outcome.assert_same_as(&original);

    let script = format!("{} / >&- 2>&- <&-; echo $?", result.path.display());
    let outcome = Command::new("bash")
        .args(["-c", &script])
        .env("ALLOCS_REPORT", "-")
        .succeed();
    assert_eq!(outcome.stdout(), "2\n", "{outcome}");
}
