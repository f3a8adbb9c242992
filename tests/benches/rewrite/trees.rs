//! A tree at a time.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use allocs_tests::{Command, needs, tool};

use crate::Place;
use crate::aims::Aims;
use crate::measure::{self, Timed, cell, words};

/// What one would write without us.
const LOOP: &str = r#"cp -a "$1" "$2" && find "$2" -type f -perm /111 | while read -r file; do
    "$0" --print-interpreter "$file" > /dev/null 2>&1 && "$0" --add-needed liballocs_rt.so.1 "$file"
done; true"#;

/// A copy of each tree with `cp -a`, ours from nothing and ours with nothing to do, and a loop with patchelf.
pub(crate) fn compare(place: &Place, trees: &[PathBuf], aims: &mut Aims) {
    println!("\nTrees on {}; ratios to cp -a:\n", place.name);
    println!(
        "| tree | files | executables | cp -a | tree | tree again | patchelf in a loop | memory, MiB |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- | --- |");
    for tree in trees {
        let out = place.dir.join("tree");
        let commands = commands(tree, &out);
        let times = measure::medians(&commands);
        let memory = measure::resident(&commands[1]).expect("ours succeeds");
        let [cp, ours, ..] = times[..] else {
            panic!("four times");
        };
        let (cp, ours) = (cp.expect("cp succeeds"), ours.expect("ours succeeds"));
        let cells: Vec<String> = times.iter().map(|time| cell(*time, cp)).collect();
        let files = lines(Command::new("find").arg(tree)).len();
        let report = Command::new(tool::binary())
            .args(["tree", "--json"])
            .arg(tree)
            .args(["-o".as_ref(), out.as_os_str()])
            .run();
        let report: serde_json::Value =
            serde_json::from_slice(&report.stdout).expect("a report in JSON");
        println!(
            "| {} | {files} | {} | {} | {memory:.1} |",
            tree.display(),
            report["rewritten"],
            cells.join(" | ")
        );
        let what = format!("{} on {}: times cp -a", tree.display(), place.name);
        aims.at_most(what, ours / cp, 1.3);
        assert!(Command::line("rm -rf").arg(&out).run().code() == Some(0));
    }
}

fn commands(tree: &Path, out: &Path) -> Vec<Timed> {
    // Those are refused, and a command that fails is not timed.
    let privileged = Command::new("find").arg(tree);
    let privileged = lines(privileged.args(["-type", "f", "-perm", "/6000", "-printf", "/%P\\n"]));
    let manifest = out.with_extension("allocs-tree.json");
    let mut ours = words(&[
        tool::binary().as_os_str(),
        "tree".as_ref(),
        "-q".as_ref(),
        tree.as_os_str(),
        "-o".as_ref(),
        out.as_os_str(),
        "--manifest".as_ref(),
        manifest.as_os_str(),
    ]);
    for path in privileged {
        ours.extend(["--exclude".into(), OsString::from(path)]);
    }
    let fresh = || {
        words(&[
            "rm".as_ref(),
            "-rf".as_ref(),
            out.as_os_str(),
            manifest.as_os_str(),
        ])
    };
    let patchelf = needs("patchelf");
    let loop_of_shell = words(&[
        "sh".as_ref(),
        "-c".as_ref(),
        LOOP.as_ref(),
        patchelf.as_os_str(),
        tree.as_os_str(),
        out.as_os_str(),
    ]);
    let copy = words(&[
        "cp".as_ref(),
        "-a".as_ref(),
        tree.as_os_str(),
        out.as_os_str(),
    ]);
    let timed = |command| Timed {
        command,
        before: fresh(),
    };
    let again = Timed {
        before: ours.clone(),
        command: ours.clone(),
    };
    vec![timed(copy), timed(ours), again, timed(loop_of_shell)]
}

fn lines(command: Command) -> Vec<String> {
    command
        .succeed()
        .stdout()
        .lines()
        .map(str::to_owned)
        .collect()
}
