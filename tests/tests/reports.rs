//! Reports: where they go, whatever is there already; that they are whole, whoever reads them; what
//! they say, held against what the program did, by the readers that users have: a JSON parser, gzip, `go tool pprof`.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileTypeExt, symlink};
use std::path::Path;

use allocs_tests::report::Report;
use allocs_tests::tool::Rewritten;
use allocs_tests::{Command, Dir, Outcome, Rewrite, census, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["reports":
        name_with_process_and_program,
        processes_with_files_of_their_own,
        existing_file_is_replaced,
        symbolic_link_is_left_alone,
        devices_and_fifos_are_written_to,
        no_room,
        broken_pipe,
        json_says_what_was_allocated,
        json_of_a_program_with_a_strange_name,
        text_has_the_largest_site_first,
        pprof,
        pprof_of_other_layouts,
        code_in_two_segments,
        asked_for_by_the_program,
    ]
}

/// The program that allocates at places with names, rewritten, in `dir`.
pub(crate) fn sites(dir: &Dir, flags: &str) -> Rewritten {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let program = dir.make("original").join("sites");
    Command::new(needs("gcc"))
        .args(["-Wall", "-Wextra", "-Werror", "-Wno-unused-result"])
        .args(["-g", "-O1", "-fno-builtin", "-pthread"])
        .args(flags.split_whitespace())
        .arg("-I")
        .arg(root.join("../runtime/include"))
        .arg(root.join("programs/sites.c"))
        .arg("-o")
        .arg(&program)
        .succeed();
    Rewrite::new(&program, dir.make("rewritten").join("sites")).succeed()
}

/// Runs it in `dir/cwd` with a report to `file` there. It must do what it does without.
pub(crate) fn run(program: &Rewritten, dir: &Dir, mode: &str, file: &str) -> Outcome {
    let command = program.command().args(mode.split_whitespace());
    let command = command.dir(dir.make("cwd")).env("ALLOCS_REPORT", file);
    let outcome = command.env("ALLOCS_SIGNAL", "SIGUSR2").run();
    assert_eq!(outcome.code(), Some(5), "{outcome}");
    outcome
}

/// The names of the files in `dir/cwd`.
pub(crate) fn files(dir: &Dir) -> BTreeSet<String> {
    fs::read_dir(dir.join("cwd"))
        .expect("a directory")
        .map(|entry| entry.expect("an entry").file_name())
        .map(|name| name.display().to_string())
        .collect()
}

pub(crate) fn names<'a>(names: impl IntoIterator<Item = &'a str>) -> BTreeSet<String> {
    names.into_iter().map(str::to_owned).collect()
}

/// The report in `dir/cwd` with that name.
pub(crate) fn report(dir: &Dir, name: &str) -> Report {
    Report::read(&dir.join("cwd").join(name)).unwrap_or_else(|e| panic!("{name}: {e}"))
}

fn name_with_process_and_program() {
    let dir = Dir::new("name");
    let program = sites(&dir, "");
    run(&program, &dir, "", "%e-100%%-%p-%x.json");
    let files = files(&dir);
    let name = files.first().expect("a report");
    let pid = report(&dir, name).number(&["pid"]);
    assert_eq!(files, names([&*format!("sites-100%-{pid}-%x.json")]));
}

/// Parent and child, each with its snapshot and its report.
fn processes_with_files_of_their_own() {
    let dir = Dir::new("processes");
    let program = sites(&dir, "");
    run(&program, &dir, "family", "%p.json");
    let files = files(&dir);
    let pids: BTreeSet<u64> = files
        .iter()
        .map(|name| report(&dir, name).number(&["pid"]))
        .collect();
    assert_eq!(pids.len(), 2, "{files:?}");
    let expected = pids
        .iter()
        .flat_map(|pid| [format!("{pid}.json"), format!("{pid}.1.json")]);
    assert_eq!(files, expected.collect());
}

/// By a new file: who reads the old one reads it to its end.
fn existing_file_is_replaced() {
    let dir = Dir::new("replaced");
    let program = sites(&dir, "");
    let old = "old report\n".repeat(100_000);
    let path = dir.write("cwd/report.json", &old);
    fs::hard_link(&path, dir.join("cwd/other name")).expect("a hard link");
    for _ in 0..2 {
        run(&program, &dir, "", "report.json");
        report(&dir, "report.json");
    }
    let kept = fs::read_to_string(dir.join("cwd/other name")).expect("the old report");
    assert!(kept == old, "the old report was written to");
    assert_eq!(files(&dir), names(["report.json", "other name"]));
}

fn symbolic_link_is_left_alone() {
    let dir = Dir::new("link");
    let program = sites(&dir, "");
    dir.write("cwd/target", "precious");
    for (link, target) in [("report.json", "target"), ("dangling.json", "nowhere")] {
        symlink(target, dir.join("cwd").join(link)).expect("a link");
        run(&program, &dir, "ask", link);
        let leads_to = fs::read_link(dir.join("cwd").join(link)).expect("still a link");
        assert_eq!(leads_to, Path::new(target));
    }
    let target = fs::read_to_string(dir.join("cwd/target")).expect("the target");
    assert_eq!(target, "precious");
    // The snapshots have other names, where nothing was.
    let snapshots = [
        "report.1.json",
        "report.2.json",
        "dangling.1.json",
        "dangling.2.json",
    ];
    let others = ["target", "report.json", "dangling.json"];
    assert_eq!(files(&dir), names(snapshots.into_iter().chain(others)));
}

fn devices_and_fifos_are_written_to() {
    let dir = Dir::new("special");
    let program = sites(&dir, "");
    let script = format!(
        "mkfifo fifo.json && mknod null c 1 3 && {{ cat fifo.json > copy.json & }} && sleep 0.2
         for file in fifo.json null; do ALLOCS_REPORT=$file {}; echo $?; done
         wait",
        program.path.display()
    );
    let command = Command::new("bash").args(["-c", &script]);
    let outcome = command.dir(dir.make("cwd")).succeed();
    assert_eq!(outcome.stdout(), "5\n5\n", "{outcome}");
    assert!(report(&dir, "copy.json").calls("malloc") >= 7);
    let kind = |name: &str| {
        let metadata = fs::symlink_metadata(dir.join("cwd").join(name));
        metadata.expect("still there").file_type()
    };
    assert!(kind("fifo.json").is_fifo() && kind("null").is_char_device());
    // Where nobody reads, nobody waits.
    run(&program, &dir, "", "fifo.json");
    assert_eq!(files(&dir), names(["fifo.json", "null", "copy.json"]));
}

/// A report that is cut off is none, and what was there stays. The limit's signal is not the program's.
fn no_room() {
    let dir = Dir::new("no-room");
    let program = sites(&dir, "");
    dir.write("cwd/report.json", "the last one");
    let command = program.command().dir(dir.join("cwd"));
    let command = command.env("ALLOCS_REPORT", "report.json");
    let outcome = command.file_size_limit(100).run();
    assert_eq!(outcome.code(), Some(5), "{outcome}");
    let kept = fs::read_to_string(dir.join("cwd/report.json")).expect("the last report");
    assert_eq!(kept, "the last one");
    assert_eq!(files(&dir), names(["report.json"]));
}

/// The program's status is its own.
fn broken_pipe() {
    let dir = Dir::new("broken-pipe");
    let program = sites(&dir, "");
    let script = format!(
        "{{ sleep 0.2; {}; }} 2>&1 | true; echo ${{PIPESTATUS[0]}}",
        program.path.display()
    );
    let command = Command::new("bash").args(["-c", &script]);
    let outcome = command.env("ALLOCS_REPORT", "-").succeed();
    assert_eq!(outcome.stdout(), "5\n", "{outcome}");
}

/// A site of a report.
pub(crate) struct Site<'a>(&'a serde_json::Value);

impl Site<'_> {
    pub(crate) fn number(&self, name: &str) -> u64 {
        self.0[name]
            .as_u64()
            .unwrap_or_else(|| panic!("{name} in {}", self.0))
    }
}

/// The site in the function `name` of the program, as binutils find it.
pub(crate) fn site_of<'a>(program: &Rewritten, report: &'a Report, name: &str) -> Site<'a> {
    let json = report.json();
    let object = &json["objects"][0];
    let base = object["base"].as_u64().expect("a base");
    let is_in = |site: &&serde_json::Value| {
        let Some(frame) = site["frames"][0].as_u64() else {
            return false;
        };
        let outcome = Command::new(needs("addr2line"))
            .args(["-f", "-e"])
            .arg(&program.path)
            .arg(format!("{:x}", frame.wrapping_sub(base) - 1))
            .succeed();
        outcome.stdout().lines().next() == Some(name)
    };
    let mut sites = json["sites"].as_array().expect("sites").iter();
    Site(
        sites
            .find(is_in)
            .unwrap_or_else(|| panic!("no {name} in {json}")),
    )
}

fn json_says_what_was_allocated() {
    let dir = Dir::new("json");
    let program = sites(&dir, "");
    run(&program, &dir, "", "report.json");
    let report = report(&dir, "report.json");
    let numbers = |name| {
        let site = site_of(&program, &report, name);
        ["live_chunks", "live_bytes", "calls", "bytes", "peak_bytes"].map(|what| site.number(what))
    };
    assert_eq!(numbers("keep"), [7, 7 * 10002, 7, 7 * 10002, 7 * 10002]);
    assert_eq!(numbers("churn"), [0, 0, 100, 100 * 3003, 3003]);

    let json = report.json();
    let path = program.path.display().to_string();
    assert_eq!(json["version"], 1);
    assert_eq!(json["program"], *path);
    let objects = json["objects"].as_array().expect("objects");
    assert_eq!(objects[0]["path"], *path);
    for object in objects {
        let path = object["path"].as_str().expect("a path");
        if !path.starts_with('/') {
            continue; // the kernel's
        }
        let notes = Command::new(needs("readelf")).arg("-n").arg(path).succeed();
        let notes = notes.stdout();
        let id = notes
            .split_once("Build ID: ")
            .map(|(_, id)| id.lines().next());
        assert_eq!(object["build_id"].as_str(), id.flatten(), "{object}");
        let number = |value: &serde_json::Value| value.as_u64().expect("a number");
        let (begin, end) = (number(&object["begin"]), number(&object["end"]));
        let inside = begin..=end;
        for text in object["text"].as_array().expect("segments") {
            let [begin, end] = ["begin", "end"].map(|member| number(&text[member]));
            assert!(inside.contains(&begin) && inside.contains(&end), "{object}");
        }
    }
}

/// Not even the name of a file is sure to be UTF-8; what is read as JSON is.
fn json_of_a_program_with_a_strange_name() {
    let dir = Dir::new("strange");
    let mut program = sites(&dir, "");
    let name = OsStr::from_bytes(b"a\"\\\xe4\n\xc3\xa4");
    let path = dir.join("rewritten").join(name);
    fs::rename(&program.path, &path).expect("another name");
    program.path = path;
    run(&program, &dir, "", "report.json");
    let report = report(&dir, "report.json");
    let path = report.json()["program"]
        .as_str()
        .expect("a path")
        .to_owned();
    assert!(path.ends_with("/a\"\\\u{fffd}\n\u{e4}"), "{path}");
}

fn text_has_the_largest_site_first() {
    let dir = Dir::new("text");
    let program = sites(&dir, "");
    run(&program, &dir, "", "report.txt");
    let text = fs::read_to_string(dir.join("cwd/report.txt")).expect("a report");
    let mut table = text
        .lines()
        .skip_while(|line| !line.ends_with("  site"))
        .skip(1);
    let first = table.next().expect("a site");
    let words: Vec<_> = first.split_whitespace().collect();
    assert_eq!(words[..5], ["70014", "7", "70014", "7", "70014"], "{text}");
    let (path, offset) = words
        .last()
        .and_then(|place| place.split_once("+0x"))
        .expect("a place");
    assert_eq!(path, program.path.display().to_string());
    let found = Command::new(needs("addr2line"))
        .args(["-f", "-e", path, offset])
        .succeed();
    assert!(found.stdout().starts_with("keep\n"), "{text}{found}");
}

/// The profile names functions and lines, which pprof looks up in the program by its build-id.
fn pprof() {
    let dir = Dir::new("pprof");
    let program = sites(&dir, "");
    for file in ["report.pb", "report.pb.gz"] {
        run(&program, &dir, "", file);
        assert_eq!(
            top(&dir, file, "inuse_space"),
            ["68.37kB", "keep"],
            "{file}"
        );
    }
    for (index, line) in [
        ("inuse_objects", ["7", "keep"]),
        ("alloc_space", ["293.26kB", "churn"]),
        ("alloc_objects", ["100", "churn"]),
    ] {
        assert_eq!(top(&dir, "report.pb.gz", index), line, "{index}");
    }
}

/// Code lies elsewhere in the files of other linkers.
fn pprof_of_other_layouts() {
    for (linker, flags) in [
        ("ld", "-no-pie"),
        ("ld.lld", "-fuse-ld=lld"),
        ("mold", "-fuse-ld=mold"),
    ] {
        needs(linker);
        let dir = Dir::new(&format!("pprof-{linker}"));
        let program = sites(&dir, flags);
        run(&program, &dir, "", "report.pb");
        assert_eq!(
            top(&dir, "report.pb", "inuse_space"),
            ["68.37kB", "keep"],
            "{linker}"
        );
    }
}

/// As in Debian's node: the PLT is in one segment, the functions are in another.
fn code_in_two_segments() {
    let dir = Dir::new("two-segments");
    let program = sites(&dir, "-Wl,--section-start=.text=0x1000000");
    run(&program, &dir, "", "report.json");
    let (outcome, json) = census::json([dir.join("cwd/report.json")]);
    let frame = &json["sites"][0]["frames"][0];
    assert_eq!(frame["function"], "keep", "{outcome}");
}

/// What `go tool pprof` says is the most of all in `dir/cwd/file`, and where.
fn top(dir: &Dir, file: &str, index: &str) -> [String; 2] {
    let outcome = Command::new(needs("go"))
        .args(["tool", "pprof", "-top", "-nodecount=1"])
        .arg(format!("-sample_index={index}"))
        .arg(file)
        .dir(dir.join("cwd"))
        .succeed();
    let text = outcome.stdout();
    let line = text.lines().last().unwrap_or_default();
    let mut words = line.split_whitespace();
    let flat = words.next().unwrap_or_default().to_owned();
    [flat, words.last().unwrap_or_default().to_owned()]
}

/// alloc_report, without any variable.
fn asked_for_by_the_program() {
    let dir = Dir::new("alloc-report");
    let program = sites(&dir, "");
    let run = |format: &str| {
        let outcome = program.command().args(["report", format]).run();
        assert_eq!(outcome.code(), Some(5), "{outcome}");
        outcome
    };
    for (format, result) in [
        ("json", 0),
        ("txt", 0),
        ("pb", 0),
        ("pb.gz", 0),
        ("null", 5),
        ("xml", 5),
        ("", 5),
    ] {
        let outcome = run(format);
        let expected = format!("result {result}, closed 1, broken 1\n");
        assert_eq!(outcome.stderr(), expected, "{format}: {outcome}");
        assert_eq!(
            outcome.stdout.is_empty(),
            result != 0,
            "{format}: {outcome}"
        );
    }
    let path = dir.write("report.json", run("json").stdout);
    let report = Report::read(&path).expect("JSON");
    assert_eq!(site_of(&program, &report, "keep").number("live_chunks"), 7);
    let gzip = dir.write("report.pb.gz", run("pb.gz").stdout);
    Command::new("gzip").arg("-t").arg(gzip).succeed();
}
