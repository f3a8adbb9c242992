//! Programs whose malloc is that of a library: a real server, with the allocator that it was linked with and with
//! others; and libraries that bring another allocator into a process that has one.

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use allocs_tests::report::Report;
use allocs_tests::tool;
use allocs_tests::{Command, Dir, Rewrite, needs, trial, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile, gcc};

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = trials!["allocators": redis, sized_jemalloc];
    for (name, library) in LIBRARIES {
        all.push(trial(format!("allocators::redis::{name}"), || {
            redis_with(Some(library));
        }));
        all.push(trial(format!("allocators::{name}::sized"), || {
            sized(library)
        }));
        for how in ["deepbind", "dlmopen"] {
            all.push(trial(format!("allocators::{name}::{how}"), || {
                apart(library, how);
            }));
        }
    }
    all
}

/// Those that can be loaded later, too. (jemalloc's thread-local storage finds no place then.)
const LIBRARIES: [(&str, &str); 2] = [
    (
        "tcmalloc",
        "/usr/lib/x86_64-linux-gnu/libtcmalloc_minimal.so.4",
    ),
    ("mimalloc", "/usr/lib/x86_64-linux-gnu/libmimalloc.so.2.0"),
];

/// Debian's is linked with libjemalloc.so.2.
fn redis() {
    redis_with(None);
}

/// The server serves, and the runtime knows at its end where all of its memory is. Another allocator is preloaded,
/// behind the runtime.
fn redis_with(library: Option<&str>) {
    let dir = Dir::new("redis");
    let socket = dir.join("socket");
    let report = dir.join("report.json");
    let original = needs("redis-server");
    let server = match library {
        None => Command::new(
            Rewrite::new(original, dir.join("redis-server"))
                .succeed()
                .path,
        ),
        Some(library) => {
            let both = format!("{}:{}", tool::runtime().display(), needs(library).display());
            Command::new(original).env("LD_PRELOAD", both)
        }
    };
    let server = server
        .args(["--port", "0", "--save", "", "--unixsocket"])
        .arg(&socket)
        .env("ALLOCS_REPORT", &report);
    let served = thread::spawn(move || server.run());
    let start = Instant::now();
    while !socket.exists() && start.elapsed() < Duration::from_secs(60) {
        thread::sleep(Duration::from_millis(20));
    }
    let client = |program, arguments: &[&str]| {
        let command = Command::new(needs(program)).arg("-s").arg(&socket);
        command.args(arguments).run()
    };
    let work = [
        "-q",
        "-n",
        "3000",
        "-r",
        "1000",
        "-t",
        "set,get,lpush,hset,zadd,mset",
    ];
    let worked = client("redis-benchmark", &work);
    client("redis-cli", &["set", "greeting", "hello"]);
    let answer = client("redis-cli", &["get", "greeting"]);
    client("redis-cli", &["shutdown", "nosave"]);
    let outcome = served.join().expect("the server's end");
    assert_eq!(worked.code(), Some(0), "{worked}{outcome}");
    assert_eq!(answer.stdout(), "hello\n", "{answer}{outcome}");
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    let report = Report::read(&report).unwrap_or_else(|e| panic!("{outcome}no report: {e}"));
    assert!(report.calls("malloc") > 10_000, "{outcome}{report:?}");
    // What was counted is what is found in the heap.
    let sites = report.json()["sites"].as_array().expect("sites");
    let sum = |member: &str| -> u64 { sites.iter().filter_map(|site| site[member].as_u64()).sum() };
    let found = ["live_chunks", "live_bytes"].map(sum);
    let counted = ["chunks", "bytes"].map(|member| report.number(&["live", member]));
    assert_eq!(found, counted, "{outcome}{report:?}");
}

fn sized_jemalloc() {
    sized("/usr/lib/x86_64-linux-gnu/libjemalloc.so.2");
}

/// Operators delete of an allocator's own, which are told how large a chunk is, and are no hooks.
fn sized(allocator: &str) {
    let dir = Dir::new("sized");
    let allocator = needs(allocator).display().to_string();
    let flags = ["-std=c++17", "-Wl,--no-as-needed", &allocator];
    let program = compile(&dir, Command::new(needs("g++")), "sized.cpp", &flags);
    let original = Command::new(&program).succeed();
    let rewritten = Rewrite::new(&program, dir.make("rewritten").join("sized"));
    rewritten
        .succeed()
        .command()
        .run()
        .assert_same_as(&original);
}

/// A library with an allocator of its own that nobody else sees.
fn apart(allocator: &str, how: &str) {
    let dir = Dir::new("apart");
    let library = dir.join("plugin.so");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/plugin.c");
    gcc()
        .args([
            "-shared",
            "-fPIC",
            "-fno-builtin",
            "-Wl,--no-as-needed",
            "-o",
        ])
        .args([&library, &source, &needs(allocator)])
        .succeed();
    let program = compile(&dir, gcc(), "namespaces.c", &[]);
    let run = |program: &Path| {
        let command = Command::new(program).arg(&library).arg(how);
        let outcome = command.env("ANSWERS", dir.join("answers")).run();
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    };
    run(&program);
    assert_eq!(answers(&dir.join("answers")), 0);
    let rewritten = Rewrite::new(&program, dir.make("rewritten").join("namespaces"));
    run(&rewritten.succeed().path);
    assert!(answers(&dir.join("answers")) > 8_000);
}
