//! In the place of the program, and into it.

use std::path::PathBuf;

use allocs_tests::{Command, tool};

use crate::Place;
use crate::aims::Aims;
use crate::measure::{self, Timed, cell, words};

/// Takes a rewrite back, and reads the file, which may be a new one that is not in the cache.
const RESTORE: &str = r#""$0" undo -q --in-place=direct "$1" && cat "$1""#;

/// Times are those of whole processes: what of them is the start of one shows beside `true`, and what of it
/// is the start of ours, beside its `--version`.
pub(crate) fn compare(place: &Place, programs: &[PathBuf], aims: &mut Aims) {
    let shares = place.name == "xfs";
    println!("\nIn place on {}; ratios to true:\n", place.name);
    println!("| program | MiB | true | --version | --in-place | --in-place=direct | written |");
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    let mut spread: Vec<f64> = Vec::new();
    for program in programs {
        let (name, size) = measure::describe(program);
        let file = place.dir.join(&name);
        std::fs::copy(program, &file).expect("a copy");
        let written = how(&file);
        let ours = tool::binary();
        let rewrite = |how: &str| Timed {
            command: words(&[
                ours.as_os_str(),
                "-q".as_ref(),
                how.as_ref(),
                file.as_os_str(),
            ]),
            before: words(&[
                "sh".as_ref(),
                "-c".as_ref(),
                RESTORE.as_ref(),
                ours.as_os_str(),
                file.as_os_str(),
            ]),
        };
        let start = |command| Timed {
            command,
            before: words(&["true"]),
        };
        let version = [ours.as_os_str(), "--version".as_ref()];
        let commands = [
            start(words(&["true"])),
            start(words(&version)),
            rewrite("--in-place=direct"),
            rewrite("--in-place"),
        ];
        let times = measure::medians(&commands);
        let [start, version, direct, whole] = times[..] else {
            panic!("four times");
        };
        std::fs::remove_file(&file).expect("the copy removed");
        let base = start.expect("true succeeds");
        println!(
            "| {name} | {size:.1} | {base:.2} ms | {} | {} | {} | {written} |",
            cell(version, base),
            cell(whole, base),
            cell(direct, base),
        );
        let what = |what: &str| format!("{name} on {}: {what}", place.name);
        aims.at_most(
            what("ms for --in-place=direct"),
            direct.unwrap_or(f64::INFINITY),
            2.0,
        );
        spread.extend(whole);
    }
    let (least, most) = spread
        .iter()
        .fold((f64::INFINITY, 0.0_f64), |(least, most), &time| {
            (least.min(time), most.max(time))
        });
    if shares {
        let what = "--in-place on xfs: ms more for the slowest than for the fastest";
        aims.at_most(what.to_owned(), most - least, 1.0);
    }
}

/// Rewrites the file directly and says how that went: into it, or whole because it has to grow.
fn how(file: &std::path::Path) -> String {
    let outcome = Command::new(tool::binary())
        .args(["--in-place=direct", "--json"])
        .arg(file)
        .succeed();
    let json: serde_json::Value = serde_json::from_slice(&outcome.stdout).expect("JSON");
    let grown = json["size"]["after"]
        .as_u64()
        .zip(json["size"]["before"].as_u64());
    let grown = grown.map_or(0, |(after, before)| after.saturating_sub(before));
    match json["written"].as_str() {
        Some("direct") => "direct".to_owned(),
        _ => format!("whole, {grown} bytes longer"),
    }
}
