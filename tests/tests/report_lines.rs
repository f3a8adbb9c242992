//! `allocs-rewrite report` finds functions and lines wherever the debug information went, and says what is
//! missing where there is none.

use std::path::Path;

use allocs_tests::census::{Program, command, json};
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;

use crate::report::{C, assert_two_sites, c_program, frames, no_notes, two_sites};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["report":
        stripped,
        debug_link,
        build_id_directory,
        compressed,
        dwz,
        another_build,
        no_file,
    ]
}

/// Without debug information, functions have their names, and the user is told what is missing.
fn stripped() {
    let dir = Dir::new("report-stripped");
    let program = c_program(&dir, "-rdynamic");
    let report = two_sites(&program, 0x5555_5555_4000);
    let stripped = |option: &str| {
        Command::new(needs("strip"))
            .arg(option)
            .arg(&program.path)
            .succeed();
        json([report.write(&dir, "report.json")]).1
    };
    let json = stripped("--strip-debug");
    assert_eq!(frames(&json["sites"][0]), ["make:null", "main:null"]);
    assert!(
        json["notes"][0]
            .as_str()
            .is_some_and(|note| note.contains("no source lines"))
    );
    // Dynamic symbols are left; `make` is none of them.
    let json = stripped("--strip-all");
    assert_eq!(frames(&json["sites"][0]), ["?:null", "main:null"]);
    let outcome = command([dir.join("report.json")]).succeed();
    let offset = format!("{}+0x", program.path.display());
    assert!(outcome.stdout().contains(&offset), "{outcome}");
}

/// Moves debug information to `file`, with a link to it.
fn split(program: &Program, file: &Path) {
    std::fs::create_dir_all(file.parent().expect("a directory")).expect("directories");
    let objcopy = || Command::new(needs("objcopy"));
    objcopy()
        .arg("--only-keep-debug")
        .args([&program.path, file])
        .succeed();
    Command::new(needs("strip")).arg(&program.path).succeed();
    let mut link = std::ffi::OsString::from("--add-gnu-debuglink=");
    link.push(file);
    objcopy().arg(link).arg(&program.path).succeed();
}

fn debug_link() {
    for place in ["prog.debug", ".debug/prog.debug", "/usr/lib/debug"] {
        let dir = Dir::new("report-debuglink");
        let program = c_program(&dir, "-Wl,--build-id=none");
        let report = two_sites(&program, 0x5555_5555_4000).write(&dir, "report.json");
        if place.starts_with('/') {
            // Below a sysroot, whose paths are what the report has.
            let mut in_root = two_sites(&program, 0x5555_5555_4000);
            in_root.objects[0].path = "/opt/prog".into();
            let report = in_root.write(&dir, "report.json");
            split(&program, &dir.join("root/usr/lib/debug/opt/prog.debug"));
            dir.make("root/opt");
            std::fs::rename(&program.path, dir.join("root/opt/prog")).expect("moved");
            let root = dir.join("root");
            let (_, json) = json(["--sysroot".as_ref(), root.as_os_str(), report.as_os_str()]);
            assert_two_sites(&program, &json);
            continue;
        }
        split(&program, &dir.join(place));
        let (_, found) = json([&report]);
        assert_two_sites(&program, &found);
        no_notes(&found);
        // A file of that name that is another one is not believed.
        let mut bytes = std::fs::read(dir.join(place)).expect("debug information");
        bytes.push(0);
        dir.write(place, &bytes);
        let (_, found) = json([&report]);
        assert_eq!(frames(&found["sites"][0]), ["?:null", "?:null"]);
    }
}

fn build_id_directory() {
    let dir = Dir::new("report-build-id");
    let program = c_program(&dir, "-Wl,--build-id");
    let id = program.build_id().expect("a build-id");
    let mut report = two_sites(&program, 0x5555_5555_4000);
    report.objects[0].path = "/opt/prog".into();
    let report = report.write(&dir, "report.json");
    let debug = format!(
        "root/usr/lib/debug/.build-id/{}/{}.debug",
        &id[..2],
        &id[2..]
    );
    split(&program, &dir.join(&debug));
    dir.make("root/opt");
    std::fs::rename(&program.path, dir.join("root/opt/prog")).expect("moved");
    let root = dir.join("root");
    let arguments = ["--sysroot".as_ref(), root.as_os_str(), report.as_os_str()];
    let (_, found) = json(arguments);
    assert_two_sites(&program, &found);
    // One of another build is not believed.
    let other = Program::build(&dir, "other.c", C, "-g -O2 -Wl,--build-id");
    std::fs::copy(&other.path, dir.join(&debug)).expect("a copy");
    let (_, found) = json(arguments);
    assert_eq!(frames(&found["sites"][0]), ["?:null", "?:null"]);
}

fn compressed() {
    for kind in ["zlib", "zstd"] {
        let dir = Dir::new("report-compressed");
        let program = c_program(&dir, "");
        Command::new(needs("objcopy"))
            .arg(format!("--compress-debug-sections={kind}"))
            .arg(&program.path)
            .succeed();
        let report = two_sites(&program, 0x5555_5555_4000);
        let (_, json) = json([report.write(&dir, "report.json")]);
        assert_two_sites(&program, &json);
    }
}

/// dwz moves what two files have in common to a third one.
fn dwz() {
    let dir = Dir::new("report-dwz");
    let text = format!("#include <stdio.h>\nFILE *file;\n{C}");
    let build = |name: &str| Program::build(&dir, name, &text, "-g -O1");
    let (program, twin) = (build("prog.c"), build("twin.c"));
    let common = dir.join("common.debug");
    Command::new(needs("dwz"))
        .arg("-m")
        .args([&common, &program.path, &twin.path])
        .succeed();
    assert!(common.exists(), "dwz found nothing in common");
    let report = two_sites(&program, 0x5555_5555_4000);
    let (_, json) = json([report.write(&dir, "report.json")]);
    assert_two_sites(&program, &json);
}

/// A program that was built again since is noticed, and not asked for lines that would be wrong.
fn another_build() {
    let dir = Dir::new("report-another");
    let program = c_program(&dir, "-Wl,--build-id");
    let report = two_sites(&program, 0x5555_5555_4000).write(&dir, "report.json");
    let id = program.build_id().expect("a build-id");
    let program = c_program(&dir, "-O2 -Wl,--build-id");
    let now = program.build_id().expect("a build-id");
    assert_ne!(id, now);
    let outcome = command([&report]).succeed();
    let printed = outcome.stdout();
    let note = format!(
        "note: {}: is not the file that the process used (its build-id is {now}, not {id}); only addresses are shown\n",
        program.path.display()
    );
    assert!(printed.contains(&note), "{outcome}");
    assert!(
        printed.contains(&format!("{}+0x", program.path.display())),
        "{outcome}"
    );
    assert!(!printed.contains("make"), "{outcome}");
}

fn no_file() {
    let dir = Dir::new("report-no-file");
    let program = c_program(&dir, "");
    let report = two_sites(&program, 0x5555_5555_4000);
    for name in ["report.json", "report.pb"] {
        let report = report.write(&dir, name);
        let kept = dir.join("kept");
        std::fs::rename(&program.path, &kept).expect("moved");
        let outcome = command([&report]).succeed();
        assert!(outcome.stdout().contains("No such file"), "{outcome}");
        assert!(
            outcome.stdout().contains(&*program.path.to_string_lossy()),
            "{outcome}"
        );
        // Nor is a FIFO waited for, or a directory read.
        Command::line("mkfifo").arg(&program.path).succeed();
        let outcome = command([&report]).succeed();
        assert!(outcome.stdout().contains("not a regular file"), "{outcome}");
        std::fs::remove_file(&program.path).expect("removed");
        std::fs::rename(&kept, &program.path).expect("moved");
    }
}
