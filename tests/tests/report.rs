//! `allocs-rewrite report`: reports about real programs, made by hand as the runtime makes them, are
//! shown with the functions and lines that the source has, whatever the format, and whatever became of
//! the debug information. What is not known is said to be unknown.

use std::path::Path;

use allocs_tests::census::{Counts, Program, Report, command, json};
use allocs_tests::{Dir, needs, trials};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::report_pages::read_page;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["report":
        c,
        cxx,
        rust,
        formats_agree,
        table,
        order,
        several_processes,
        differences,
        two_objects,
        unknown_sites,
        hostile_names,
        no_sites,
    ]
}

pub(crate) const C: &str = "
#include <stdlib.h>
void *kept;

static __attribute__((noinline)) void *make(size_t size) {
    void *made = malloc(size); // make
    return made;
}

static inline __attribute__((always_inline)) void *twice(size_t size) {
    return calloc(size, 2); // twice
}
__attribute__((noinline)) void other(void) {
    kept = twice(9); // other
}
int main(void) {
    kept = make(100); // main
    other(); // second
    return kept == 0;
}
";

/// Distinct counts: live bytes, live chunks, bytes, calls and peak.
const BIG: Counts = [1_234_567, 12, 9_876_543, 345, 2_000_001];

const SMALL: Counts = [800, 3, 900, 1000, 850];

pub(crate) fn c_program(dir: &Dir, flags: &str) -> Program {
    Program::build(dir, "prog.c", C, &format!("-g -O1 {flags}"))
}

/// A report with two sites: `make` called by main, and `twice` in `other`, called by main.
pub(crate) fn two_sites(program: &Program, base: u64) -> Report {
    let mut report = Report::of(program, base);
    let main = |callee| program.calls("main", callee)[0];
    report.site(&[program.calls("make", "malloc")[0], main("make")], BIG);
    report.site(&[program.calls("other", "calloc")[0], main("other")], SMALL);
    report
}

/// "function:line" of each frame of a site, with a mark for those that are inlined.
pub(crate) fn frames(site: &Value) -> Vec<String> {
    let frames = site["frames"].as_array().expect("frames");
    let name = |frame: &Value| {
        let inlined = if frame["inlined"] == true {
            " inlined"
        } else {
            ""
        };
        format!("{}:{}{inlined}", text(&frame["function"]), frame["line"])
    };
    frames.iter().map(name).collect()
}

pub(crate) fn text(value: &Value) -> &str {
    value.as_str().unwrap_or("?")
}

/// What every report of [`two_sites`] must show.
pub(crate) fn assert_two_sites(program: &Program, json: &Value) {
    let expected = |function: &str, mark: &str| format!("{function}:{}", program.line(mark));
    assert_eq!(
        frames(&json["sites"][0]),
        [expected("make", "// make"), expected("main", "// main")],
        "{json:#}"
    );
    assert_eq!(
        frames(&json["sites"][1]),
        [
            expected("twice", "// twice") + " inlined",
            expected("other", "// other"),
            expected("main", "// second")
        ],
        "{json:#}"
    );
    let file = text(&json["sites"][0]["frames"][0]["file"]);
    assert_eq!(Path::new(file), program.source);
    assert_eq!(json["sites"][0]["live_bytes"], BIG[0]);
    assert_eq!(json["sites"][1]["calls"], SMALL[3]);
}

pub(crate) fn no_notes(json: &Value) {
    assert_eq!(json["notes"], Value::Array(Vec::new()), "{json:#}");
}

fn c() {
    for flags in ["-fPIE -pie", "-no-pie", "-gdwarf-4", "-fuse-ld=lld"] {
        let dir = Dir::new("report-c");
        needs("ld.lld");
        let flags = match flags {
            "-fuse-ld=lld" => "-B/usr/lib/llvm-14/bin -fuse-ld=lld",
            other => other,
        };
        let program = c_program(&dir, flags);
        let base = if flags == "-no-pie" {
            0
        } else {
            0x5555_5540_0000
        };
        let report = two_sites(&program, base).write(&dir, "report.json");
        let (_, json) = json([report]);
        assert_two_sites(&program, &json);
        no_notes(&json);
    }
}

fn cxx() {
    let source = "
#include <cstdlib>
namespace forest {
template <class T> struct Tree {
    T *nodes;
    __attribute__((noinline)) void grow(T size) {
        nodes = static_cast<T *>(std::malloc(size)); // grow
    }
};
}
int main() {
    forest::Tree<int> tree;
    tree.grow(12); // main
    return tree.nodes == nullptr;
}
";
    let dir = Dir::new("report-cxx");
    let program = Program::build(&dir, "prog.cpp", source, "-g -O1");
    let mut report = Report::of(&program, 0x7000_0000_0000);
    let grow = program.calls("forest::Tree<int>::grow", "malloc")[0];
    report.site(&[grow, program.calls("main", "grow")[0]], BIG);
    let (_, json) = json([report.write(&dir, "report.json")]);
    assert_eq!(
        frames(&json["sites"][0]),
        [
            format!("forest::Tree<int>::grow:{}", program.line("// grow")),
            format!("main:{}", program.line("// main"))
        ]
    );
}

fn rust() {
    let source = "
mod forest {
    extern \"C\" { fn malloc(size: usize) -> *mut u8; }
    #[inline(never)]
    pub fn grow(size: usize) -> *mut u8 {
        unsafe { malloc(size).add(1) } // grow
    }
}

fn main() {
    std::process::exit(forest::grow(7) as i32);
}
";
    for mangling in ["legacy", "v0"] {
        let dir = Dir::new("report-rust");
        let unstable = match mangling {
            "legacy" => "",
            _ => "-Csymbol-mangling-version=v0",
        };
        let flags = format!("-g -Copt-level=1 {unstable}");
        let program = Program::build(&dir, "prog.rs", source, &flags);
        let grow = program.calls("prog::forest::grow", "malloc")[0];
        let mut report = Report::of(&program, 0x7f00_0000_0000);
        report.site(&[grow], BIG);
        let (_, json) = json([report.write(&dir, "report.json")]);
        assert_eq!(
            frames(&json["sites"][0]),
            [format!("prog::forest::grow:{}", program.line("// grow"))]
        );
    }
}

/// All formats say the same, but for process number and peak, which pprof has no place for.
fn formats_agree() {
    let dir = Dir::new("report-formats");
    let program = c_program(&dir, "-pie");
    let report = two_sites(&program, 0x5555_5555_4000);
    let of = |name: &str| json([report.write(&dir, name)]).1;
    let as_json = of("a.json");
    for mut as_profile in [of("b.pb"), of("c.pb.gz")] {
        assert_two_sites(&program, &as_profile);
        assert_eq!(
            text(&as_profile["processes"][0]["program"]),
            program.path.to_str().unwrap()
        );
        assert_eq!(
            as_profile["totals"]["live_bytes"],
            as_json["totals"]["live_bytes"]
        );
        for (site, expected) in [(0, &BIG), (1, &SMALL)] {
            assert_eq!(as_profile["sites"][site]["peak_bytes"], Value::Null);
            as_profile["sites"][site]["peak_bytes"] = expected[4].into();
        }
        assert_eq!(as_profile["sites"], as_json["sites"]);
    }
}

/// The table: totals first, aligned columns of exact numbers, frames below each other, and no colours in
/// a pipe.
fn table() {
    let dir = Dir::new("report-table");
    let program = c_program(&dir, "");
    let report = two_sites(&program, 0x5555_5555_4000).write(&dir, "report.json");
    let outcome = command(["--top", "1"]).arg(&report).succeed();
    let path = program.path.display();
    let source = program.source.display();
    let (make, main) = (program.line("// make"), program.line("// main"));
    let expected = format!(
        "{path}, process 42 ({})\n\
         live: 15 chunks, 1,235,367 bytes; peak: 2,000,851 bytes\n\
         \n\
         Sites by live bytes\n\
         live bytes  live chunks  bytes since start  calls  peak bytes  site\n \
         1,234,567           12          9,876,543    345   2,000,001  make  {source}:{make}\n\
         {:65}main  {source}:{main}\n\
         and 1 more site (--top 2)\n",
        report.display(),
        ""
    );
    assert_eq!(outcome.stdout(), expected, "{outcome}");
    assert_eq!(outcome.stderr(), "", "{outcome}");
    let all = command([&report]).succeed();
    assert!(all.stdout().contains(&format!(
        "twice  {source}:{} (inlined)\n",
        program.line("// twice")
    )));
    assert!(!all.stdout().contains("more site"), "{all}");
}

fn order() {
    let dir = Dir::new("report-order");
    let program = c_program(&dir, "");
    let mut report = Report::of(&program, 0);
    let counts: [Counts; 5] = [
        [9, 1, 2, 3, 4],
        [1, 9, 3, 4, 2],
        [2, 3, 9, 1, 3],
        [3, 4, 1, 9, 1],
        [4, 2, 4, 2, 9],
    ];
    for (address, counts) in (0x1000..).zip(counts) {
        report.site_in_memory(&[address], counts);
    }
    let report = report.write(&dir, "report.json");
    let report = report.to_str().unwrap();
    let keys = ["live", "chunks", "bytes", "calls", "peak"];
    for (by, counts) in keys.into_iter().zip(counts) {
        let (outcome, json) = json(["--by", by, report]);
        assert_eq!(json["sites"][0]["live_bytes"], counts[0], "{outcome}");
        let printed = command(["--by", by, report]).succeed();
        assert!(printed.stdout().contains("Sites by "), "{printed}");
    }
}

/// Sites of a process tree are one if they are the same place in the same file.
fn several_processes() {
    let dir = Dir::new("report-several");
    let program = c_program(&dir, "-pie");
    let first = two_sites(&program, 0x5555_5555_4000).write(&dir, "a.json");
    let mut child = two_sites(&program, 0x6666_6666_6000);
    child.pid = 43;
    let second = child.write(&dir, "b.json");
    let (_, json) = json([&first, &second]);
    assert_two_sites_doubled(&program, &json);
    let outcome = command([&first, &second]).succeed();
    for words in [
        "process 42",
        "process 43",
        "2 processes together",
        "2,470,734 bytes",
    ] {
        assert!(
            outcome.stdout().contains(words),
            "{outcome}should say {words}"
        );
    }
}

fn assert_two_sites_doubled(program: &Program, json: &Value) {
    let sites = json["sites"].as_array().expect("sites");
    assert_eq!(sites.len(), 2, "{json:#}");
    assert_eq!(sites[0]["live_bytes"], 2 * BIG[0]);
    assert_eq!(sites[1]["peak_bytes"], 2 * SMALL[4]);
    assert_eq!(json["totals"]["live_chunks"], 2 * (BIG[1] + SMALL[1]));
    assert_eq!(
        frames(&sites[0])[0],
        format!("make:{}", program.line("// make"))
    );
}

/// Two processes that were loaded at other addresses, and of which each has a site of its own.
pub(crate) fn compared(dir: &Dir, second: &str) -> (Program, [String; 2]) {
    let program = c_program(dir, "-pie");
    let [make, other] = [("make", "malloc"), ("other", "calloc")]
        .map(|(function, callee)| program.calls(function, callee)[0]);
    let main = program.calls("main", "make")[0];
    let mut before = Report::of(&program, 0x5555_5555_4000);
    before.site(&[make], [100, 1, 1000, 10, 200]);
    before.site(&[other], [5000, 2, 5000, 2, 5000]);
    let mut after = Report::of(&program, 0x6000_0000_0000);
    after.site(&[make], [1_000_100, 4, 2_000_000, 20, 1_000_200]);
    after.site(&[main], [70, 1, 70, 1, 70]);
    let paths = [before.write(dir, "before.json"), after.write(dir, second)];
    (program, paths.map(|path| path.to_str().unwrap().to_owned()))
}

fn differences() {
    for second in ["after.json", "after.pb.gz"] {
        let dir = Dir::new("report-differences");
        let (_, [before, after]) = compared(&dir, second);
        let (outcome, json) = json(["--diff", &before, &after]);
        let change = |site: usize, count: &str| json["sites"][site]["change"][count].clone();
        assert_eq!(change(0, "live_bytes"), 1_000_000, "{outcome}");
        assert_eq!(change(0, "calls"), 10);
        assert_eq!(change(1, "live_bytes"), -5000, "{outcome}");
        assert_eq!(json["sites"][1]["after"], Value::Null);
        assert_eq!(change(2, "live_bytes"), 70);
        assert_eq!(json["sites"][2]["before"], Value::Null);
        assert_eq!(json["change"]["live_bytes"], 995_070);
        assert_eq!(json["change"]["live_chunks"], 2);
    }
    let dir = Dir::new("report-differences");
    let (program, [before, after]) = compared(&dir, "after.json");
    let outcome = command(["--diff", &before, &after]).succeed();
    let printed = outcome.stdout();
    let source = program.source.display();
    for words in [
        "live: +2 chunks, +995,070 bytes; peak: +995,070 bytes",
        "Sites by change of live bytes",
        &format!(
            "+1,000,000           +3         +1,999,000    +10  +1,000,000        make  {source}:"
        ),
        "-5,000           -2             -5,000     -2      -5,000  gone  twice",
        "+70           +1                +70     +1         +70  new   main",
    ] {
        assert!(printed.contains(words), "{outcome}should say `{words}`");
    }
    for reports in [vec![&before], vec![&before, &after, &after]] {
        let outcome = command(["--diff"]).args(reports).run();
        assert_eq!(outcome.code(), Some(2), "{outcome}");
        assert!(outcome.stderr().contains("two reports"), "{outcome}");
    }
}

fn two_objects() {
    let dir = Dir::new("report-objects");
    let program = c_program(&dir, "");
    let library =
        "#include <stdlib.h>\nvoid *lib(void) {\n    return (char *)malloc(1) + 1; // lib\n}\n";
    let library = Program::build(&dir, "lib.c", library, "-g -O1 -shared -fPIC");
    let mut report = Report::of(&program, 0x5555_5555_4000);
    report.load(&library, 0x7fff_0000_0000);
    let inside = 0x7fff_0000_0000 + library.calls("lib", "malloc")[0];
    let main = 0x5555_5555_4000 + program.calls("main", "make")[0];
    report.site_in_memory(&[inside, main], BIG);
    for name in ["report.json", "report.pb"] {
        let (_, json) = json([report.write(&dir, name)]);
        let expected = [
            format!("lib:{}", library.line("// lib")),
            format!("main:{}", program.line("// main")),
        ];
        assert_eq!(frames(&json["sites"][0]), expected);
    }
}

/// Code that no file has is shown by its address, and no site is one, too.
fn unknown_sites() {
    let dir = Dir::new("report-unknown");
    let program = c_program(&dir, "");
    let mut report = Report::of(&program, 0x5555_5555_4000);
    report.site_in_memory(&[], BIG);
    report.site_in_memory(&[0x1234_5678], SMALL);
    for name in ["report.json", "report.pb"] {
        let outcome = command([report.write(&dir, name)]).succeed();
        let printed = outcome.stdout();
        assert!(printed.contains("  unknown\n"), "{outcome}");
        assert!(printed.contains("  0x12345678\n"), "{outcome}");
    }
}

/// A name that somebody else chose does not move the cursor, and does not become part of a page.
fn hostile_names() {
    let dir = Dir::new("report-names");
    let program = c_program(&dir, "");
    let mut report = Report::of(&program, 0x5555_5555_4000);
    report.objects[0].path = "/opt/</script><script>alert(1)</script>\x1b[2J".into();
    report.objects[0].build_id = Some("\x1b[31m".to_owned());
    report.site(&[program.calls("make", "malloc")[0]], BIG);
    let report = report.write(&dir, "report.json");
    let outcome = command([&report]).succeed();
    assert!(
        outcome.stdout().contains("</script>\u{fffd}[2J"),
        "{outcome}"
    );
    assert!(!outcome.stdout().contains('\x1b'), "{outcome}");
    let data = read_page(&dir, &[report.to_str().unwrap()]);
    assert!(text(&data["frames"][0][0]).contains("<script>alert(1)</script>"));
}

/// A runtime that counts no sites still says how much is live.
fn no_sites() {
    let dir = Dir::new("report-no-sites");
    let report = dir.write(
        "report.json",
        r#"{"pid":7,"init":{"phase":"relocation","hooks_before_init":0},"live":{"chunks":2,"bytes":null,"peak_bytes":null},"hooks":{}}"#,
    );
    let outcome = command([&report]).succeed();
    let expected = format!(
        "process 7 ({0})\nlive: 2 chunks, unknown bytes; peak: unknown bytes\n\nnote: {0} says nothing about sites\n",
        report.display()
    );
    assert_eq!(outcome.stdout(), expected);
}
