//! The runtime is first against every rival, under this system's glibc, four releases' and as every
//! way of starting a program has it; and where a function of another library truly runs earlier (an
//! IFUNC resolver), the hooks serve it.
//!
//! The programs are linked to the oldest release's libc, so that one build runs under all. Every
//! constructor begins with a malloc; the runtime counts calls that reach its hooks before its init.
//! Each rewritten program has to do what the original does, and to count exactly what it must.

use std::path::{Path, PathBuf};

use allocs_tests::explain;
use allocs_tests::report::Report;
use allocs_tests::tree::{self, Tree};
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, tool, trial, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["rivals": preload_is_not_enough, debuggers_and_profilers];
    for case in CASES {
        all.push(trial(format!("rivals::host::{}", case.name), || {
            check(case, None);
        }));
        for tree in tree::all() {
            let name = format!("rivals::{}::{}", tree.release, case.name);
            all.push(trial(name, move || check(case, Some(tree))));
        }
    }
    all
}

/// A program among rivals.
struct Case {
    name: &'static str,
    /// Libraries: name, what it needs, source and flags. In order, each is linked to those before.
    libraries: &'static [Library],
    /// Libraries that the program is linked to, in order.
    needs: &'static [&'static str],
    /// The program and its flags.
    program: (&'static str, &'static str),
    /// Environment of the program; `@` is the directory of all this, `%` the runtime's file.
    environment: &'static [(&'static str, &'static str)],
    /// It is started by its loader.
    by_loader: bool,
    /// Calls of hooks that come before the runtime's init: of IFUNC resolvers.
    before_init: u64,
}

impl Case {
    /// Bytes that constructors, resolvers and the program itself ask for.
    fn bytes(&self) -> u64 {
        let of = |source: &str| match source {
            MAIN => 20002 + 30002,
            RISE | RISE_THREAD | RISE_DLOPEN => 10002,
            CHOICE => 10037,
            _ => 0, // an audit library's are another libc's
        };
        let libraries = self.libraries.iter().map(|library| of(library.source));
        libraries.sum::<u64>() + of(self.program.0)
    }
}

struct Library {
    name: &'static str,
    needs: &'static [&'static str],
    source: &'static str,
    flags: &'static str,
}

const PLAIN: Case = Case {
    name: "",
    libraries: &[],
    needs: &[],
    program: (MAIN, ""),
    environment: &[],
    by_loader: false,
    before_init: 0,
};

/// Allocates in its constructor, and keeps the chunk for the program to free.
const RISE: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    #include <string.h>
    static char *kept;
    __attribute__((constructor)) static void rise(void) {
        kept = malloc(10002);
        memset(kept, 1, 10002);
    }
    __attribute__((destructor)) static void fall(void) {
        printf("%d\n", kept[10001]);
        free(kept);
    }"#;

const MAIN: &str = r#"
    #include <stdio.h>
    #include <stdlib.h>
    static void *kept;
    __attribute__((constructor)) static void begin(void) { kept = malloc(20002); }
    int main(int argc, char **argv) {
        printf("main %d\n", argc);
        free(kept);
        free(malloc(30002));
        return 7;
    }"#;

/// Starts a thread that allocates, and waits for it.
const RISE_THREAD: &str = r#"
    #include <pthread.h>
    #include <stdlib.h>
    static void *work(void *unused) {
        for (int i = 0; i < 1000; i++) free(malloc(i + 1));
        return malloc(10002);
    }
    __attribute__((constructor)) static void rise(void) {
        pthread_t thread;
        void *chunk;
        if (pthread_create(&thread, 0, work, 0)) abort();
        pthread_join(thread, &chunk);
        free(chunk);
    }"#;

/// Loads a rival from its constructor.
const RISE_DLOPEN: &str = r#"
    #include <dlfcn.h>
    #include <stdlib.h>
    __attribute__((constructor)) static void rise(void) {
        void *chunk = malloc(10002);
        if (!dlopen("librival.so", RTLD_NOW)) abort();
        free(chunk);
    }"#;

/// Its IFUNC resolver allocates, each time that somebody's reference is bound to it.
const CHOICE: &str = r#"
    #include <stdlib.h>
    static int plain(int x) { return x + 1; }
    static void *chunks[9];
    static int count;
    static int (*resolve(void))(int) {
        chunks[count++] = malloc(10037);
        return plain;
    }
    int picked(int) __attribute__((ifunc("resolve")));
    void release(void) {
        while (count) {
            ((char *)chunks[--count])[10036] = 1;
            free(chunks[count]);
        }
    }"#;

const CALL_CHOICE: &str = "int picked(int); int call_picked(int x) { return picked(x); }\n";

const CHOOSE_MAIN: &str = r#"
    #include <stdio.h>
    int picked(int);
    int call_picked(int);
    void release(void);
    int main(void) {
        printf("%d\n", CALL(41));
        release();
        return 7;
    }"#;

/// An audit library has a namespace and a libc of its own.
const AUDIT: &str = r#"
    #define _GNU_SOURCE
    #include <link.h>
    #include <stdlib.h>
    static void *kept[99];
    static int count;
    unsigned la_version(unsigned version) { kept[count++] = malloc(10002); return version; }
    unsigned la_objopen(struct link_map *map, Lmid_t space, uintptr_t *cookie) {
        if (count < 99) kept[count++] = malloc(20002);
        return 0;
    }"#;

const FIRST: &str = "-Wl,-z,initfirst";
const RIVAL: Library = Library {
    name: "rival",
    needs: &[],
    source: RISE,
    flags: FIRST,
};

const CASES: &[Case] = &[
    Case {
        name: "depth_1",
        libraries: &[RIVAL],
        needs: &["rival"],
        ..PLAIN
    },
    Case {
        name: "depth_2",
        libraries: &[
            RIVAL,
            Library {
                name: "one",
                needs: &["rival"],
                source: RISE,
                flags: "",
            },
        ],
        needs: &["one"],
        ..PLAIN
    },
    Case {
        name: "depth_5",
        libraries: &[
            RIVAL,
            Library {
                name: "four",
                needs: &["rival"],
                source: RISE,
                flags: "",
            },
            Library {
                name: "three",
                needs: &["four"],
                source: RISE,
                flags: "",
            },
            Library {
                name: "two",
                needs: &["three"],
                source: RISE,
                flags: "",
            },
            Library {
                name: "one",
                needs: &["two"],
                source: RISE,
                flags: "",
            },
        ],
        needs: &["one"],
        ..PLAIN
    },
    Case {
        name: "two_rivals",
        libraries: &[
            RIVAL,
            Library {
                name: "other",
                needs: &["rival"],
                source: RISE,
                flags: FIRST,
            },
        ],
        needs: &["other", "rival"],
        ..PLAIN
    },
    Case {
        name: "rival_by_preload",
        libraries: &[RIVAL],
        environment: &[("LD_PRELOAD", "@/librival.so")],
        ..PLAIN
    },
    Case {
        name: "rival_with_a_thread",
        libraries: &[Library {
            name: "rival",
            needs: &[],
            source: RISE_THREAD,
            flags: "-pthread -Wl,-z,initfirst",
        }],
        needs: &["rival"],
        ..PLAIN
    },
    Case {
        name: "rival_by_dlopen",
        libraries: &[
            RIVAL,
            Library {
                name: "one",
                needs: &[],
                source: RISE_DLOPEN,
                flags: "-ldl -Wl,-rpath,$ORIGIN",
            },
        ],
        needs: &["one"],
        ..PLAIN
    },
    Case {
        name: "started_by_the_loader",
        libraries: &[RIVAL],
        needs: &["rival"],
        by_loader: true,
        ..PLAIN
    },
    Case {
        name: "bind_now",
        libraries: &[RIVAL],
        needs: &["rival"],
        environment: &[("LD_BIND_NOW", "1")],
        ..PLAIN
    },
    Case {
        name: "audit",
        libraries: &[
            RIVAL,
            Library {
                name: "audit",
                needs: &[],
                source: AUDIT,
                flags: "",
            },
        ],
        needs: &["rival"],
        environment: &[("LD_AUDIT", "@/libaudit.so")],
        ..PLAIN
    },
    Case {
        name: "runtime_by_preload_as_well",
        libraries: &[RIVAL],
        needs: &["rival"],
        environment: &[("LD_PRELOAD", "%")],
        ..PLAIN
    },
    // A library's reference is bound when that is relocated, before the program is: one call.
    Case {
        name: "resolver_ahead",
        libraries: &[
            Library {
                name: "choice",
                needs: &[],
                source: CHOICE,
                flags: "-Wl,-z,now",
            },
            Library {
                name: "caller",
                needs: &["choice"],
                source: CALL_CHOICE,
                flags: "-Wl,-z,now",
            },
        ],
        needs: &["caller", "choice"],
        program: (CHOOSE_MAIN, "-DCALL=call_picked -Wl,-z,now"),
        before_init: 1,
        ..PLAIN
    },
    // The program's own reference is bound behind that to the runtime's init: none.
    Case {
        name: "resolver_behind",
        libraries: &[Library {
            name: "choice",
            needs: &[],
            source: CHOICE,
            flags: "-Wl,-z,now",
        }],
        needs: &["choice"],
        program: (CHOOSE_MAIN, "-DCALL=picked -Wl,-z,now"),
        ..PLAIN
    },
];

/// The compiler, with the oldest release's headers, start files and libc. It looks for these where it
/// is installed itself before it looks in a sysroot, unless told.
pub(crate) fn gcc(dir: &Dir, flags: &str) -> Command {
    let sysroot = tree::all()[0].needed().root.display();
    let libraries = format!("{sysroot}/usr/lib/x86_64-linux-gnu");
    Command::new(needs("gcc"))
        .dir(dir.path())
        .arg(format!("--sysroot={sysroot}"))
        .args([format!("-B{libraries}"), format!("-L{libraries}")])
        .args(flags.split_whitespace())
}

fn build(case: &Case, dir: &Dir) -> PathBuf {
    let link =
        |needs: &[&str]| -> Vec<String> { needs.iter().map(|name| format!("-l{name}")).collect() };
    for library in case.libraries {
        let source = dir.write(format!("{}.c", library.name), library.source);
        gcc(
            dir,
            "-shared -fPIC -Wl,--no-as-needed -Wl,-rpath,$ORIGIN -L.",
        )
        .args(["-o", &format!("lib{}.so", library.name)])
        .arg(source)
        .args(link(library.needs))
        .args(library.flags.split_whitespace())
        .succeed();
    }
    let source = dir.write("main.c", case.program.0);
    gcc(
        dir,
        "-Wl,--no-as-needed,--disable-new-dtags,-rpath,$ORIGIN -L. -o main",
    )
    .args(case.program.1.split_whitespace())
    .arg(source)
    .args(link(case.needs))
    .succeed();
    dir.join("main")
}

/// Runs a program of the case, on this system or in a tree.
fn run(case: &Case, dir: &Dir, program: &Path, tree: Option<&Tree>, report: &Path) -> Outcome {
    let at = dir.path().display().to_string();
    let runtime = dir.join(tool::RUNTIME).display().to_string();
    let mut variables: Vec<(&str, String)> = case
        .environment
        .iter()
        .map(|(name, value)| (*name, value.replace('@', &at).replace('%', &runtime)))
        .collect();
    variables.push(("ALLOCS_REPORT", report.display().to_string()));
    let text = program.display().to_string();
    let loader = Path::new("/lib64/ld-linux-x86-64.so.2");
    let (program, arguments) = match case.by_loader {
        true => (loader, vec![text.as_str()]),
        false => (program, vec![]),
    };
    match tree {
        Some(tree) => tree.run(&variables, program, &arguments),
        None => {
            let command = Command::new(program).args(&arguments).dir(dir.path());
            let with = |command: Command, (name, value): &(&str, String)| command.env(name, value);
            variables.iter().fold(command, with).run()
        }
    }
}

fn check(case: &Case, tree: Option<&Tree>) {
    let dir = Dir::new(&format!("rivals-{}", case.name));
    let program = build(case, &dir);
    let kept = dir.join("original");
    std::fs::rename(&program, &kept).expect("renamed");
    Rewrite::new(&kept, &program).succeed();

    let report = dir.join("report.json");
    let after = run(case, &dir, &program, tree, &report);
    let told = Report::read(&report).unwrap_or_else(|e| panic!("{after}no report: {e}"));
    std::fs::copy(&kept, &program).expect("the original in its place");
    let before = run(case, &dir, &program, tree, &report);
    assert!(
        before.code() == Some(7) || before.code() == Some(0),
        "{before}"
    );
    after.assert_same_as(&before);

    assert_eq!(told.phase(), "relocation", "{after}{told:?}");
    assert_eq!(told.before_init(), case.before_init, "{after}{told:?}");
    let bytes = case.bytes();
    assert!(
        told.bytes("malloc") >= bytes,
        "{after}less than {bytes}: {told:?}"
    );
}

/// What the rewrite is for: with LD_PRELOAD the rival comes first.
fn preload_is_not_enough() {
    let case = &CASES[0];
    let dir = Dir::new("rivals-preload");
    let program = build(case, &dir);
    let command = Command::new(&program).env("LD_PRELOAD", tool::runtime());
    let (outcome, report) = Report::of(&command, &dir.join("report.json"));
    assert_eq!(report.phase(), "constructor", "{outcome}{report:?}");
    assert!(report.before_init() > 0, "{outcome}{report:?}");

    let result = Rewrite::new(&program, dir.join("rewritten")).succeed();
    let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
    assert_eq!(report.before_init(), 0, "{outcome}{report:?}");
    assert_eq!(explain::of(&result.path).json["verdict"]["first"], true);
}

/// Under gdb, strace, valgrind and perf the program does what it does alone, and the runtime is
/// first.
fn debuggers_and_profilers() {
    let case = &CASES[0];
    let dir = Dir::new("rivals-tools");
    let program = build(case, &dir);
    let result = Rewrite::new(&program, dir.join("rewritten")).succeed();
    let alone = Command::new(&result.path).run();
    assert_eq!(alone.code(), Some(7), "{alone}");
    let data = dir.join("perf.data").display().to_string();
    let wrappers: [(&str, &[&str]); 4] = [
        ("strace", &["-f", "-o", "/dev/null"]),
        ("valgrind", &["-q", "--error-exitcode=9"]),
        ("perf", &["record", "-q", "-e", "task-clock", "-o", &data]),
        (
            "gdb",
            &[
                "-nx",
                "-batch",
                "-return-child-result",
                "-ex",
                "run",
                "--args",
            ],
        ),
    ];
    for (tool, arguments) in wrappers {
        let command = Command::new(needs(tool))
            .args(arguments)
            .arg(&result.path)
            .dir(dir.path());
        let (outcome, report) = Report::of(&command, &dir.join("report.json"));
        assert_eq!(outcome.code(), Some(7), "{outcome}");
        assert!(outcome.stdout().contains(&alone.stdout()), "{outcome}");
        assert_eq!(report.phase(), "relocation", "{outcome}{report:?}");
        assert_eq!(report.before_init(), 0, "{outcome}{report:?}");
    }
}
