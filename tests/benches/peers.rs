//! What other allocation profilers cost and see: real programs as they are, rewritten, and under each peer.
//!
//!     cargo bench -p allocs-tests --bench peers [-- WORKLOAD...]
//!
//! Times are processor time, user and system, of all processes that are started; medians of runs in turn. What a
//! peer has seen is the number of allocations in its own report, held against that of the runtime. Needs the Debian
//! packages of tests/bench-packages.txt.
#![allow(
    clippy::expect_used,
    clippy::panic,
    reason = "a benchmark that cannot run says why and stops"
)]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use allocs_tests::report::Report;
use allocs_tests::{Dir, Rewrite, needs};

const RUNS: usize = 5;

const JEMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libjemalloc.so.2";
const TCMALLOC: &str = "/usr/lib/x86_64-linux-gnu/libtcmalloc.so.4";

/// Pairs of 8 to 512 bytes.
const LOOP: &str = r"
#include <stdlib.h>
int main(void) {
    for (unsigned i = 0; i < 2000000; i++) {
        void *volatile chunk = malloc(8 + i * 37 % 505);
        free(chunk);
    }
    return 0;
}
";

/// Two threads that replace chunks at random, and hand all of them on to the next two.
const LARSON: &str = r"
#include <pthread.h>
#include <stdlib.h>
enum { CHUNKS = 5000, THREADS = 2, ROUNDS = 4, OPERATIONS = 250000 };
static void *chunks[THREADS][CHUNKS];
static void *work(void *own) {
    void **slots = own;
    unsigned random = 7;
    for (int i = 0; i < OPERATIONS; i++) {
        random = random * 1664525 + 1013904223;
        void **slot = &slots[(random >> 8) % CHUNKS];
        free(*slot);
        *slot = malloc(10 + (random >> 12) % 490);
    }
    return NULL;
}
int main(void) {
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        for (int i = 0; i < THREADS; i++)
            pthread_create(&threads[i], NULL, work, chunks[(i + round) % THREADS]);
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    }
    return 0;
}
";

const MAP: &str = r#"
#include <cstdio>
#include <map>
#include <string>
int main() {
    std::map<std::string, std::string> map;
    for (unsigned i = 0; i < 1000000; i++)
        map["key number " + std::to_string(i * 7919 % 1000003)] = "value of some length " + std::to_string(i);
    std::printf("%zu\n", map.size());
}
"#;

const GLIB: &str = r#"
#include <glib.h>
int main(void) {
    GHashTable *table = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
    GList *list = NULL;
    for (int i = 0; i < 300000; i++) {
        g_hash_table_insert(table, g_strdup_printf("key %d", i), g_strdup_printf("value %d", i * 7));
        list = g_list_prepend(list, g_strdup("an element"));
    }
    GString *text = g_string_new("");
    for (int i = 0; i < 1000000; i++) g_string_append_printf(text, "%d,", i);
    gchar **parts = g_strsplit(text->str, ",", -1);
    g_print("%u %u\n", g_strv_length(parts), g_hash_table_size(table));
    g_strfreev(parts);
    g_list_free_full(list, g_free);
    g_hash_table_destroy(table);
    g_string_free(text, TRUE);
    return 0;
}
"#;

const SQL: &str = "create table t(a integer primary key, b text, c real);
    with recursive n(i) as (select 1 union all select i + 1 from n where i < 500000)
    insert into t select i, 'row number ' || (i * 7919 % 500009), i / 3.0 from n;
    create index by_b on t(b);
    select count(*), sum(length(b)) from t where b like '%7%';";

const PYTHON: &str = "import json
rows = [{'id': i, 'name': 'name %d' % i, 'tags': [str(j) for j in range(i % 7)]} for i in range(100000)]
text = json.dumps(rows)
print(len(text), len(json.loads(text)))";

/// One program and what it is to do.
struct Workload {
    name: &'static str,
    program: PathBuf,
    arguments: Vec<String>,
}

fn main() {
    for program in [
        "g++",
        "jq",
        "sqlite3",
        "heaptrack",
        "valgrind",
        TCMALLOC,
        JEMALLOC,
    ] {
        needs(program);
    }
    let dir = Dir::new("bench-peers");
    let chosen: Vec<String> = std::env::args()
        .skip(1)
        .filter(|arg| arg != "--bench")
        .collect();
    let load = fs::read_to_string("/proc/loadavg").expect("/proc/loadavg");
    println!("load when this began: {}", load.trim());
    println!(
        "{:<8} {:>9} {:>12} {:>12} {:>12} {:>12} {:>12} {:>12}",
        "", "original", "index", "report", "heaptrack", "jemalloc", "tcmalloc", "dhat"
    );
    for workload in workloads(&dir) {
        if chosen.is_empty() || chosen.iter().any(|name| name == workload.name) {
            measure(&dir, &workload);
        }
    }
}

fn workloads(dir: &Dir) -> Vec<Workload> {
    let build = |name: &str, compiler: &str, text: &str, flags: &str| {
        let source = dir.write(name, text);
        let program = source.with_extension("");
        let mut command = Command::new(compiler);
        command.args(["-O2", "-fno-builtin-malloc", "-fno-builtin-free", "-o"]);
        command.args([&program, &source]);
        output(command.args(flags.split_whitespace()));
        program
    };
    let glib = output(Command::new("pkg-config").args(["--cflags", "--libs", "glib-2.0"]));
    let glib = String::from_utf8(glib.stdout).expect("flags");
    let own = |name, program| Workload {
        name,
        program,
        arguments: Vec::new(),
    };
    let system = |name, program: &str, arguments: &[&str]| Workload {
        name,
        program: PathBuf::from(program),
        arguments: arguments.iter().map(ToString::to_string).collect(),
    };
    let json = dir.write("data.json", json_file());
    let source = dir.write("large.c", large_source());
    let cc1 = output(Command::new("gcc").arg("-print-prog-name=cc1"));
    let cc1 = String::from_utf8(cc1.stdout).expect("a path");
    let text = |path: &Path| path.display().to_string();
    vec![
        own("loop", build("loop.c", "gcc", LOOP, "")),
        own("larson", build("larson.c", "gcc", LARSON, "-pthread")),
        own("map", build("map.cpp", "g++", MAP, "")),
        own("glib", build("glib.c", "gcc", GLIB, &glib)),
        system("sqlite3", "/usr/bin/sqlite3", &[":memory:", SQL]),
        system(
            "jq",
            "/usr/bin/jq",
            &["map(.tags | length) | add", &text(&json)],
        ),
        system("python3", "/usr/bin/python3.11", &["-I", "-c", PYTHON]),
        system(
            "cc1",
            cc1.trim(),
            &["-quiet", "-O2", &text(&source), "-o", "/dev/null"],
        ),
    ]
}

fn json_file() -> String {
    let mut text = String::from("[");
    for i in 0..200_000 {
        let comma = if i == 0 { "" } else { "," };
        let tags = (0..i % 7).map(|tag| format!("\"tag {tag}\""));
        let tags = tags.collect::<Vec<_>>().join(",");
        let written = writeln!(text, "{comma}{{\"id\":{i},\"tags\":[{tags}]}}");
        written.expect("a string grows");
    }
    text + "]"
}

fn large_source() -> String {
    let function = |i: u32| {
        format!(
            "int f{i}(int *a, int n) {{ int s = {i}; for (int i = 0; i < n; i++) \
             {{ if (a[i] % {} == 0) s += a[i] * s; else a[i] ^= s; }} return s; }}\n",
            i % 17 + 2
        )
    };
    (0..3000).map(function).collect()
}

/// Ways to run a program, each with what it is called and the arguments of env(1) in front of the program.
fn variants(dir: &Dir, workload: &Workload) -> Vec<(&'static str, Vec<String>)> {
    let original = workload.program.display().to_string();
    let out = dir.make("rewritten").join(workload.name);
    let rewritten = Rewrite::new(&workload.program, out)
        .arg("--force")
        .succeed();
    let rewritten = rewritten.path.display().to_string();
    let at = |name: &str| dir.join(name).display().to_string();
    let mut variants = vec![
        ("original", vec![original.clone()]),
        ("index", vec![rewritten.clone()]),
        (
            "report",
            vec![format!("ALLOCS_REPORT={}", at("report.json")), rewritten],
        ),
        (
            "heaptrack",
            vec![
                "heaptrack".to_owned(),
                "-o".to_owned(),
                at("heaptrack"),
                original.clone(),
            ],
        ),
        (
            "jemalloc",
            vec![
                format!("LD_PRELOAD={JEMALLOC}"),
                format!(
                    "MALLOC_CONF=prof:true,lg_prof_sample:0,prof_accum:true,prof_final:true,prof_prefix:{}",
                    at("jemalloc")
                ),
                original.clone(),
            ],
        ),
        (
            "tcmalloc",
            vec![
                format!("LD_PRELOAD={TCMALLOC}"),
                format!("HEAPPROFILE={}", at("tcmalloc")),
                original.clone(),
            ],
        ),
    ];
    // It runs programs fifty times slower.
    if workload.name == "loop" {
        let out = format!("--dhat-out-file={}", at("dhat"));
        let words = ["valgrind", "-q", "--tool=dhat", &out, &original];
        variants.push(("dhat", words.map(str::to_owned).to_vec()));
    }
    variants
}

fn measure(dir: &Dir, workload: &Workload) {
    let variants = variants(dir, workload);
    let mut times: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for run in 0..RUNS {
        for (name, words) in &variants {
            // The slow ones differ by so much that two runs tell.
            if matches!(*name, "jemalloc" | "tcmalloc" | "dhat") && run > 1 {
                continue;
            }
            remove_reports(dir);
            let time = processor_time(words, &workload.arguments);
            times.entry(name).or_default().push(time);
        }
    }
    let median = |name: &str| {
        let mut times = times[name].clone();
        times.sort_by(f64::total_cmp);
        times[times.len() / 2]
    };
    let original = median("original");
    let mut line = format!("{:<8} {original:>8.2}s", workload.name);
    for (name, _) in &variants[1..] {
        let _ = write!(line, " {:>11.2}x", median(name) / original);
    }
    println!("{line}");

    // One more run of each for what it sees.
    let mut counts = BTreeMap::new();
    for (name, words) in &variants {
        remove_reports(dir);
        processor_time(words, &workload.arguments);
        if let Some(count) = count(dir, name) {
            counts.insert(*name, count);
        }
    }
    let all = counts["report"] as f64;
    let mut line = format!("{:<8} {:>9}", "  sees", counts["report"]);
    for (name, _) in &variants[1..] {
        let text = match counts.get(name) {
            Some(count) => format!("{:.1}%", 100.0 * *count as f64 / all),
            None => "-".to_owned(),
        };
        let _ = write!(line, " {text:>12}");
    }
    println!("{line}");
}

fn reports(dir: &Dir, name: &str) -> Vec<PathBuf> {
    let paths = allocs_tests::dir::listing(&dir.path()).into_keys();
    let mut paths: Vec<_> = paths
        .filter(|path| {
            let file = path.file_name().unwrap_or_default().to_string_lossy();
            path.parent() == Some(&dir.path()) && file.starts_with(name)
        })
        .collect();
    paths.sort();
    paths
}

fn remove_reports(dir: &Dir) {
    for name in [
        "report.json",
        "heaptrack.",
        "jemalloc.",
        "tcmalloc.",
        "dhat",
    ] {
        for path in reports(dir, name) {
            fs::remove_file(path).expect("an old report removed");
        }
    }
}

/// How many allocations there were, according to the report of `peer`.
fn count(dir: &Dir, peer: &str) -> Option<u64> {
    let read = |path: &Path| fs::read_to_string(path).expect("a report");
    match peer {
        "report" => {
            let report = Report::read(&dir.join("report.json")).expect("a report");
            Some(report.allocations())
        }
        "heaptrack" => {
            let file = reports(dir, "heaptrack.").pop()?;
            let text = output(Command::new("heaptrack_print").arg("-f").arg(file));
            let text = String::from_utf8_lossy(&text.stdout).into_owned();
            let line = text
                .lines()
                .find(|line| line.starts_with("calls to alloc"))?;
            first_number(line.split(": ").nth(1)?)
        }
        // Both: so many objects in use: their bytes [so many in all: their bytes].
        "jemalloc" => {
            let text = read(&reports(dir, "jemalloc.").pop()?);
            let line = text.lines().find(|line| line.contains("t*:"))?;
            first_number(line.split('[').nth(1)?)
        }
        "tcmalloc" => {
            let text = read(&reports(dir, "tcmalloc.").pop()?);
            first_number(text.lines().next()?.split('[').nth(1)?)
        }
        // Blocks, each with its number of them in all, "tbk".
        "dhat" => {
            let text = read(&dir.join("dhat"));
            let parts = text.split("\"tbk\":").skip(1);
            Some(parts.filter_map(first_number).sum())
        }
        _ => None,
    }
}

fn first_number(text: &str) -> Option<u64> {
    let digits: String = text
        .trim_start()
        .chars()
        .take_while(char::is_ascii_digit)
        .collect();
    digits.parse().ok()
}

/// Seconds of processor time that `env WORDS... ARGUMENTS...` and all that it starts take.
fn processor_time(words: &[String], arguments: &[String]) -> f64 {
    let script = "TIMEFORMAT='%3U %3S'; time env \"$@\" > /dev/null 2> /dev/null";
    let mut command = Command::new("bash");
    command
        .args(["-c", script, "bash"])
        .args(words)
        .args(arguments);
    command.env("PYTHONHOME", "/usr").stdin(Stdio::null());
    let text = String::from_utf8(output(&mut command).stderr).expect("times");
    let times = text.split_whitespace().map(|time| time.parse::<f64>());
    times.sum::<Result<f64, _>>().expect("two times")
}

fn output(command: &mut Command) -> Output {
    let output = command.output();
    let output = output.unwrap_or_else(|error| panic!("{command:?}: {error}; install it"));
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {stderr}");
    output
}
