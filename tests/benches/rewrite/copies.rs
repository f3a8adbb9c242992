//! To another file.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use allocs_tests::others::Other;
use allocs_tests::tool;

use crate::Place;
use crate::aims::Aims;
use crate::measure::{self, Timed, cell, words};

/// Small and large, in MiB.
const SMALL: f64 = 1.0;
const LARGE: f64 = 50.0;

/// Ours finds its runtime beside the output, from its first run on, which is not counted.
pub(crate) fn compare(place: &Place, programs: &[PathBuf], others: &[Other], aims: &mut Aims) {
    let names: Vec<&str> = ["cp", "allocs-rewrite"]
        .into_iter()
        .chain(others.iter().map(|other| other.name.as_str()))
        .collect();
    println!("\nOn {}:\n", place.name);
    println!("| program | MiB | {} | memory, MiB |", names.join(" | "));
    println!("| --- | --- |{}", " --- |".repeat(names.len() + 1));
    for program in programs {
        let commands = commands(program, &place.dir, others);
        let times = measure::medians(&commands);
        let memory: Vec<_> = commands.iter().map(measure::resident).collect();
        let (name, size) = measure::describe(program);
        let cp = times[0].expect("cp succeeds");
        let ours = times[1].expect("ours succeeds");
        let cells: Vec<String> = times.iter().map(|time| cell(*time, cp)).collect();
        let texts: Vec<String> = memory
            .iter()
            .map(|mib| mib.map_or("-".to_owned(), |mib| format!("{mib:.1}")))
            .collect();
        println!(
            "| {name} | {size:.1} | {} | {} |",
            cells.join(" | "),
            texts.join(", ")
        );

        let what = |what: &str| format!("{name} on {}: {what}", place.name);
        if size < SMALL {
            aims.at_most(what("ms more than cp"), ours - cp, 1.0);
        }
        if size > LARGE {
            aims.at_most(what("times cp"), ours / cp, 1.05);
        }
        for (other, time) in others.iter().zip(&times[2..]) {
            let Some(time) = time else { continue };
            let what = what(&format!("times faster than {}", other.name));
            if other.name.starts_with("LIEF") {
                aims.at_least(what, time / ours, 20.0);
            } else if size > LARGE {
                aims.at_least(what, time / ours, 2.5);
            }
        }
        if let Some(mib) = memory[1] {
            aims.at_most(what("MiB of memory"), mib, 8.0);
        }
    }
}

/// `cp`, ours and the others, each making a new file.
fn commands(program: &Path, dir: &Path, others: &[Other]) -> Vec<Timed> {
    let out = dir.join("out");
    let (from, to) = (program.as_os_str(), out.as_os_str());
    let ours = [
        tool::binary().as_os_str(),
        "-q".as_ref(),
        from,
        "-o".as_ref(),
        to,
    ];
    let timed = |command: Vec<OsString>| Timed {
        command,
        before: words(&["rm".as_ref(), "-f".as_ref(), to]),
    };
    let mut all = vec![
        timed(words(&["cp".as_ref(), from, to])),
        timed(words(&ours)),
    ];
    let others = others.iter().map(|other| other.words(program, &out));
    all.extend(others.map(timed));
    all
}
