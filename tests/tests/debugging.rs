//! Debuggers, tracers and profilers find in a rewritten program what they find in the original: frames, lines,
//! names, libraries; while it runs, from its core dump, and with debug information kept apart from it.

use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::looked_at::{self, LookedAt, NAME, place};
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["debugging":
        ltrace,
        gdb_breakpoints,
        gdb_attaches,
        perf,
        debug_info_split_off_before,
        debug_info_split_off_afterwards,
        debug_info_compressed,
        debuginfod,
        core_dump_by_the_kernel,
        core_dump_by_gdb,
        core_dump_without_the_program,
    ]
}

/// gdb with these commands, and the program's argument if it has one.
fn gdb(commands: &[&str], program: &[&str]) -> Command {
    let mut gdb = Command::new(needs("gdb")).args(["-nx", "-batch"]);
    for command in [&["set debuginfod enabled off"], commands].concat() {
        gdb = gdb.args(["-ex", command]);
    }
    gdb.arg("--args").args(program)
}

/// `words` are in `text` in that order.
fn assert_in_order(text: &str, words: &[&str], outcome: &Outcome) {
    let mut rest = text;
    for word in words {
        let at = rest.find(word);
        let at = at.unwrap_or_else(|| panic!("{outcome}should say {word}, in the order {words:?}"));
        rest = &rest[at + word.len()..];
    }
}

fn utf8(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// A call into a library from the program itself, by name and with its arguments.
fn ltrace() {
    let dir = Dir::new("ltrace");
    for case in LookedAt::all(&dir) {
        let log = dir.join("log");
        let outcome = Command::new(needs("ltrace"))
            .arg("-o")
            .arg(&log)
            .arg(&case.result.path)
            .succeed();
        assert_eq!(outcome.stdout(), "42\n", "{outcome}");
        let calls = fs::read_to_string(&log).expect("a log");
        let words = [
            "malloc(10007)",
            "library_answer(2",
            "printf(\"%d\\n\", 42)",
            "free(0x",
            "exited (status 0)",
        ];
        assert_in_order(&calls, &words, &outcome);
    }
}

fn gdb_breakpoints() {
    let dir = Dir::new("gdb-breakpoints");
    for case in LookedAt::all(&dir) {
        let commands = [
            "set breakpoint pending on",
            "break library_begin",
            "break main",
            "break deepest",
            "run",
            "backtrace",
            "continue",
            "info sharedlibrary",
            "print argc",
            "continue",
            "backtrace",
            "continue",
        ];
        let outcome = gdb(&commands, &[utf8(&case.result.path), "none"]).succeed();
        let (main, runtime) = (place("// from main"), utf8(&case.runtime));
        let words = [
            "#0  library_begin () at ",
            "_dl_init",
            "main (argc=2, ",
            "ld-linux-x86-64.so.2",
            runtime,
            "liblooked_at.so",
            "libc.so.6",
            "$1 = 2",
            "#0  deepest (what=",
            " in main (argc=2, ",
            &main,
            "exited normally",
        ];
        assert_in_order(&outcome.stdout(), &words, &outcome);
    }
}

fn gdb_attaches() {
    const SCRIPT: &str = "\"$0\" wait > ready & pid=$!
        until [ -s ready ]; do sleep 0.02; done
        \"$@\" -p $pid; status=$?; kill $pid; exit $status";
    let dir = Dir::new("gdb-attaches");
    for case in LookedAt::all(&dir) {
        let outcome = Command::new("sh")
            .args(["-c", SCRIPT])
            .arg(&case.result.path)
            .arg(needs("gdb"))
            .args(["-nx", "-batch", "-ex", "set debuginfod enabled off"])
            .args(["-ex", "backtrace", "-ex", "info sharedlibrary"])
            .dir(case.result.path.parent().expect("a directory"))
            .succeed();
        let main = place("// from main");
        let words = [
            " in deepest (what=",
            " in main (argc=2, ",
            &main,
            utf8(&case.runtime),
            "liblooked_at.so",
        ];
        assert_in_order(&outcome.stdout(), &words, &outcome);
    }
}

fn perf() {
    let dir = Dir::new("perf");
    for case in LookedAt::all(&dir) {
        let perf = |words: &str| {
            let words = words.split(' ');
            Command::new(needs("perf")).args(words).dir(dir.path())
        };
        perf("record -q -g -e task-clock -o perf.data")
            .arg(&case.result.path)
            .arg("spin")
            .succeed();
        let outcome =
            perf("report -i perf.data --stdio --no-children -g none -s dso,sym").succeed();
        let lines = outcome.stdout();
        let mut lines = lines.lines().filter(|line| line.contains('%'));
        let most = lines.next().unwrap_or_default();
        let words: Vec<&str> = most.split_whitespace().collect();
        assert_eq!(words[1..4], [NAME, "[.]", "spin"], "{outcome}");

        // Of each sample, the addresses and names from the innermost frame on.
        let outcome = perf("script -i perf.data -F ip,sym").succeed();
        let frames = outcome.stdout();
        let names = frames.lines().map(|line| line.split_whitespace().nth(1));
        let names: Vec<&str> = names.map(Option::unwrap_or_default).collect();
        let chain = ["spin", "deepest", "main"];
        assert!(names.windows(3).any(|three| three == chain), "{outcome}");
    }
}

/// gdb stops where the source says.
fn assert_has_lines(program: &Path) {
    let commands = ["break deepest", "run", "backtrace", "continue"];
    let outcome = gdb(&commands, &[utf8(program), "none"]).succeed();
    let main = place("// from main");
    let words = ["#0  deepest (what=", " in main (argc=2, ", &main];
    assert_in_order(&outcome.stdout(), &words, &outcome);
    assert!(outcome.stdout().contains("exited normally"), "{outcome}");
}

fn tool(program: &str, arguments: &[&str], file: &Path) -> Outcome {
    Command::new(needs(program))
        .args(arguments)
        .arg(file)
        .dir(file.parent().expect("a directory"))
        .succeed()
}

/// As distributions do it: the program keeps the name and a checksum of a file with the rest.
fn split_off(program: &Path) -> PathBuf {
    let debug = program.with_extension("debug");
    tool("strip", &["--only-keep-debug", "-o", utf8(&debug)], program);
    tool("strip", &[], program);
    let link = format!("--add-gnu-debuglink={}", utf8(&debug));
    tool("objcopy", &[&link], program);
    debug
}

fn debug_info_split_off_before() {
    let dir = Dir::new("split-before");
    for (name, flags) in [
        ("pie", &["-fPIE", "-pie"]),
        ("non-pie", &["-fno-pie", "-no-pie"]),
    ] {
        let program = looked_at::build(&dir, name, flags);
        let debug = split_off(&program);
        let kept = program.with_file_name("kept");
        Rewrite::new(&program, &kept).succeed();
        assert_has_lines(&kept);

        let grown = LookedAt::grown(&dir, &program, &format!("{name}-grown"));
        let beside = grown.result.path.with_file_name("looked_at.debug");
        fs::copy(debug, beside).expect("a copy");
        assert_has_lines(&grown.result.path);
    }
}

fn debug_info_split_off_afterwards() {
    let dir = Dir::new("split-afterwards");
    for case in LookedAt::all(&dir) {
        let program = &case.result.path;
        let debug = split_off(program);
        assert_has_lines(program);
        // And together again.
        let joined = program.with_file_name("joined");
        tool("eu-unstrip", &["-o", utf8(&joined), utf8(program)], &debug);
        assert_has_lines(&joined);
    }
}

fn debug_info_compressed() {
    let dir = Dir::new("compressed");
    for case in LookedAt::all(&dir) {
        for option in [
            "--compress-debug-sections",
            "--decompress-debug-sections",
            "--compress-debug-sections=zlib-gnu",
        ] {
            tool("objcopy", &[option], &case.result.path);
            assert_has_lines(&case.result.path);
        }
    }
}

/// A server that knows the program as it was built has the debug information for the rewritten one: it is asked
/// by build-id. In a network of its own, so that no port is taken from anyone.
fn debuginfod() {
    const SCRIPT: &str = "ip link set lo up
        debuginfod -d :memory: -F -p 8002 original > server.log 2>&1 & server=$!
        export DEBUGINFOD_URLS=http://127.0.0.1:8002/ DEBUGINFOD_CACHE_PATH=$PWD/cache
        until debuginfod-find debuginfo \"$1\" || ! kill -0 $server; do rm -rf cache; sleep 0.1; done
        shift; while [ $# -gt 0 ]; do
            gdb -nx -batch -iex 'set debuginfod enabled on' -ex 'break deepest' -ex run -ex backtrace \\
                --args \"$1\" none
            shift
        done
        kill $server; wait $server";
    let dir = Dir::new("debuginfod");
    for program in ["debuginfod", "debuginfod-find", "ip", "gdb"] {
        needs(program);
    }
    let [kept, grown, non_pie] = &LookedAt::all(&dir)[..] else {
        panic!("three cases");
    };
    let original = dir.make("original");
    for case in [grown, non_pie] {
        let name = case.original.parent().and_then(Path::file_name);
        fs::copy(&case.original, original.join(name.expect("a name"))).expect("a copy");
    }
    let programs = [kept, grown, non_pie].map(|case| case.result.path.clone());
    for program in &programs {
        tool("strip", &[], program);
    }
    let outcome = Command::new(needs("unshare"))
        .args(["--user", "--map-root-user", "--net"])
        .args(["sh", "-c", SCRIPT, "sh"])
        .arg(&non_pie.result.path) // the last one that it reads
        .args(&programs)
        .dir(dir.path())
        .run();
    let main = place("// from main");
    let words = ["#0  deepest (what=", " in main (argc=2, ", &main];
    assert_in_order(&outcome.stdout(), &[words; 3].concat(), &outcome);
}

/// Has the program abort in a directory of its own, and returns its core dump, which has of memory what is
/// dumped by default.
fn kernel_dump(program: &Path) -> PathBuf {
    let dir = program.with_extension("core");
    fs::create_dir(&dir).expect("a directory");
    let command = Command::new(program).arg("abort").dir(&dir);
    let outcome = command.core_dumps().run();
    assert_eq!(outcome.ending(), "ended by signal 6", "{outcome}");
    let mut entries = fs::read_dir(dir).expect("a listing");
    let core = entries
        .next()
        .unwrap_or_else(|| panic!("{outcome}no core dump"));
    core.expect("an entry").path()
}

/// The same by gdb, which goes by /proc/PID/coredump_filter as well.
fn gdb_dump(program: &Path) -> PathBuf {
    let core = program.with_file_name("core");
    let commands = [
        "set use-coredump-filter on",
        "run",
        &format!("generate-core-file {}", utf8(&core)),
        "kill",
    ];
    let outcome = gdb(&commands, &[utf8(program), "abort"]).succeed();
    assert!(core.is_file(), "{outcome}no core dump");
    core
}

/// Where the kernel pipes core dumps to a program, gdb stands in for it.
fn core_dump_by_the_kernel() {
    let pattern = fs::read_to_string("/proc/sys/kernel/core_pattern").expect("a pattern");
    let in_directory = !pattern.contains(['|', '/']);
    let dump = if in_directory { kernel_dump } else { gdb_dump };
    check_dumps("core-by-the-kernel", dump);
}

fn core_dump_by_gdb() {
    check_dumps("core-by-gdb", gdb_dump);
}

fn check_dumps(name: &str, dump: fn(&Path) -> PathBuf) {
    let dir = Dir::new(name);
    for case in LookedAt::all(&dir) {
        let program = &case.result.path;
        let core = dump(program);
        let core = utf8(&core);
        let (here, main) = (place("// here it ends"), place("// from main"));
        let frames = ["abort", "deepest (what=", &here, "main (argc=2, ", &main];

        let load = format!("core-file {core}");
        let commands = [&load, "backtrace", "info sharedlibrary"];
        let outcome = gdb(&commands, &[utf8(program)]).succeed();
        let libraries = [utf8(&case.runtime), "liblooked_at.so", "libc.so.6"];
        let words = [&frames[..], &libraries].concat();
        assert_in_order(&outcome.stdout(), &words, &outcome);

        let outcome = Command::new(needs("eu-stack")).args(["--core", core]).run();
        let frames = [" abort\n", " deepest\n", " main\n", " _start\n"];
        assert_in_order(&outcome.stdout(), &frames, &outcome);

        let list = Command::new(needs("eu-unstrip"))
            .args(["-n", "--core", core])
            .succeed();
        for file in [program, &case.runtime] {
            let line = format!(" {}@0x", build_id(file));
            let stdout = list.stdout();
            let mut lines = stdout.lines().filter(|text| text.contains(&line));
            let found = lines.any(|text| text.contains(utf8(file)));
            assert!(found, "{list}{} is not found", file.display());
        }
    }
}

fn build_id(file: &Path) -> String {
    let outcome = tool("file", &["-b"], file);
    let text = outcome.stdout();
    let id = text.split("BuildID[sha1]=").nth(1);
    let id = id.and_then(|rest| rest.split(',').next());
    id.unwrap_or_else(|| panic!("{outcome}no build-id")).into()
}

/// Build-id and package metadata are in the part of the program that core dumps keep, and so is each alone,
/// wherever linkers put them.
fn core_dump_without_the_program() {
    let dir = Dir::new("core-alone");
    let mut cases = LookedAt::all(&dir);
    for linker in ["gold", "mold"] {
        needs(if linker == "gold" { "ld.gold" } else { linker });
        let flag = format!("-fuse-ld={linker}");
        for id in ["sha1", "none"] {
            let name = format!("{linker}-{id}");
            let id = format!("-Wl,--build-id={id}");
            let original = looked_at::build(&dir, &name, &["-fPIE", "-pie", &flag, &id]);
            cases.push(LookedAt::grown(&dir, &original, &format!("{name}-grown")));
        }
    }
    for case in cases {
        let [before, after] = case.both().map(|program| {
            let (core, away) = (gdb_dump(program), program.with_extension("away"));
            fs::rename(program, &away).expect("renamed");
            let outcome = tool("systemd-analyze", &["inspect-elf"], &core);
            fs::rename(&away, program).expect("renamed back");
            let text = outcome.stdout();
            assert!(text.contains("name: answer"), "{outcome}");
            let facts = text.lines().filter(|line| !line.contains('/'));
            facts.map(str::to_owned).collect::<Vec<_>>()
        });
        assert_eq!(after, before, "{}", case.result.path.display());
    }
}
