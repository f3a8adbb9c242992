//! `allocs-rewrite tree` killed at any moment: each name has an old file or a new one, whole, and the next run
//! finishes the job. And ended by a signal that it heeds; and in memory that does not grow with the files.

use std::collections::BTreeMap;
use std::fs::{self, File, Permissions};
use std::os::unix::fs::{FileExt, PermissionsExt};
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use allocs_tests::dir::copy_program;
use allocs_tests::snapshot::{Node, assert_same, snapshot};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;
use rustix::process::{Pid, Signal, kill_process};

use crate::trees::to_copy;
use crate::trees_in_place::{assert_no_left_overs, in_place};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["trees_killed":
        copying,
        replacing,
        asked_to_end,
        memory,
    ]
}

/// How often it is killed, each way: a hundred times together.
const KILLS: usize = 50;
/// Runs that may have ended by the moment at which they were to be killed.
const RUNS: usize = 4 * KILLS;

/// Programs under several names, and other files, in directories of their own.
fn tree(dir: &Dir, programs: usize) -> PathBuf {
    let tree = dir.make("src");
    for number in 0..programs {
        let place = dir.make(format!("src/{number}"));
        copy_program(Path::new("/bin/true"), &place.join("true"));
        copy_program(Path::new("/bin/cat"), &place.join("cat"));
        fs::hard_link(place.join("cat"), place.join("cat-too")).expect("a hard link");
        for other in ["a", "b"] {
            dir.write(format!("src/{number}/{other}"), other.repeat(10_000));
        }
        std::os::unix::fs::symlink("true", place.join("link")).expect("a link");
    }
    tree
}

fn start(command: &[&Path]) -> Child {
    std::process::Command::new(tool::binary())
        .args(["tree", "-q"])
        .args(command)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts")
}

/// How long it takes when nobody disturbs it.
fn duration(command: &[&Path]) -> Duration {
    let started = Instant::now();
    assert!(start(command).wait().expect("its end").success());
    started.elapsed()
}

/// Runs it, and kills it at a random moment of its `usual` time, which gets shorter if it had ended by then.
/// True if it was killed.
fn kill_at_random(command: &[&Path], usual: &mut Duration, random: &mut fastrand::Rng) -> bool {
    let mut child = start(command);
    std::thread::sleep(usual.mul_f64(random.f64()));
    child.kill().expect("killed");
    let killed = child.wait().expect("its end").signal().is_some();
    if !killed {
        *usual = usual.mul_f64(0.9);
    }
    killed
}

/// A snapshot without the times of the runtime's files, which are made anew.
fn all_but_times(tree: &Path) -> BTreeMap<PathBuf, Node> {
    let mut all = snapshot(tree);
    for (_, node) in all.iter_mut().filter(|(path, _)| path.ends_with(RUNTIME)) {
        node.modified = (0, 0);
    }
    all
}

fn contents(all: &BTreeMap<PathBuf, Node>) -> impl Iterator<Item = (&PathBuf, (u64, u64))> {
    let files = all
        .iter()
        .filter(|(_, node)| node.mode & 0o170_000 == 0o100_000);
    files.map(|(path, node)| (path, (node.size, node.content)))
}

fn is_temporary(path: &Path) -> bool {
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    name.starts_with(".allocs-rewrite-") || name.ends_with(".allocs-rewrite-old")
}

fn copying() {
    let dir = Dir::new("tree-killed");
    let (source, output) = (tree(&dir, 25), dir.join("dst"));
    let command = [&*source, Path::new("-o"), &*output];
    let mut usual = duration(&command);
    let expected = all_but_times(&output);
    let seed = 7;
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut killed, mut unfinished, mut moment) = (0, 0, 0);
    while killed < KILLS {
        moment += 1;
        assert!(moment < RUNS, "{killed} killed");
        fs::remove_dir_all(&output).expect("removed");
        let _ = fs::remove_file(dir.join("dst.allocs-tree.json"));
        // And once more: what a killed run leaves is what the next one finds.
        for _ in 0..2 {
            killed += usize::from(kill_at_random(&command, &mut usual, &mut random));
            if !output.exists() {
                continue;
            }
            let found = snapshot(&output);
            for (path, content) in contents(&found).filter(|(path, _)| !is_temporary(path)) {
                let wanted = expected.get(path).map(|node| (node.size, node.content));
                assert_eq!(
                    Some(content),
                    wanted,
                    "{moment} of seed {seed}: {}",
                    path.display()
                );
            }
            unfinished += usize::from(found.len() < expected.len());
        }
        to_copy(&source, &output).succeed();
        assert_same(&expected, &all_but_times(&output));
        assert_no_left_overs(&dir.path());
    }
    assert!(unfinished > KILLS / 4, "{unfinished} unfinished");
}

fn replacing() {
    let dir = Dir::new("tree-killed-in-place");
    let (source, work) = (tree(&dir, 8), dir.join("work"));
    let fresh = || {
        let _ = fs::remove_dir_all(&work);
        Command::line("cp -a --").args([&source, &work]).succeed();
    };
    let command = [Path::new("--in-place"), &*work];
    fresh();
    let (old, mut usual) = (snapshot(&work), duration(&command));
    let new = snapshot(&work);
    let seed = 11;
    let mut random = fastrand::Rng::with_seed(seed);
    let (mut killed, mut unfinished, mut moment) = (0, 0, 0);
    while killed < KILLS {
        moment += 1;
        assert!(moment < RUNS, "{killed} killed");
        fresh();
        killed += usize::from(kill_at_random(&command, &mut usual, &mut random));
        let found = snapshot(&work);
        for (path, content) in contents(&found).filter(|(path, _)| !is_temporary(path)) {
            let versions = [&old, &new].map(|all| all.get(path).map(|n| (n.size, n.content)));
            let whole = versions.contains(&Some(content));
            assert!(whole, "{moment} of seed {seed}: {}", path.display());
        }
        let done = contents(&found).filter(|(path, content)| {
            new.get(*path).map(|node| (node.size, node.content)) == Some(*content)
        });
        unfinished += usize::from(done.count() < contents(&new).count());
        in_place(&work).succeed();
        let mut all = [new.clone(), snapshot(&work)];
        for node in all.iter_mut().flat_map(BTreeMap::values_mut) {
            node.modified = (0, 0);
        }
        assert_same(&all[0], &all[1]);
        assert_no_left_overs(&work);
    }
    assert!(unfinished > KILLS / 4, "{unfinished} unfinished");
}

/// It takes away what it had begun, and ends by that signal.
fn asked_to_end() {
    let dir = Dir::new("tree-signals");
    let (source, output) = (tree(&dir, 25), dir.join("dst"));
    let large = File::create(source.join("large")).expect("a file");
    large.write_all_at(&vec![7; 32 << 20], 0).expect("written");
    let command = [&*source, Path::new("-o"), &*output];
    let usual = duration(&command);
    let expected = all_but_times(&output);
    let mut ended = 0;
    for (number, signal) in [Signal::INT, Signal::TERM, Signal::HUP]
        .into_iter()
        .cycle()
        .take(12)
        .enumerate()
    {
        fs::remove_dir_all(&output).expect("removed");
        let mut child = start(&command);
        std::thread::sleep(usual.mul_f64(0.2 + 0.05 * number as f64));
        let _ = kill_process(Pid::from_child(&child), signal);
        let status = child.wait().expect("its end");
        if let Some(by) = status.signal() {
            assert_eq!(by, signal.as_raw(), "{status}");
            ended += 1;
        }
        if output.exists() {
            assert_no_left_overs(&output);
        }
        to_copy(&source, &output).succeed();
        assert_same(&expected, &all_but_times(&output));
    }
    assert!(ended > 3, "{ended} were ended");
}

/// The largest resident set for 10,000 small files, and for 10,000 that are a hundred times as large.
fn memory() {
    let dir = Dir::new("tree-memory");
    let python = needs("/usr/bin/python3.11");
    let resident = |name: &str, size: u64| {
        let source = dir.make(name);
        for place in 0..100 {
            let place = dir.make(format!("{name}/{place}"));
            copy_program(Path::new("/bin/true"), &place.join("program"));
            for number in 0..99 {
                let file = File::create(place.join(number.to_string())).expect("a file");
                file.write_all_at(b"data", size - 4).expect("its end");
            }
        }
        let program = source.join("large-program");
        copy_program(Path::new("/bin/true"), &program);
        let file = File::options()
            .write(true)
            .open(&program)
            .expect("a program");
        file.write_all_at(b"the end", size * 100).expect("its end");
        fs::set_permissions(&program, Permissions::from_mode(0o755)).expect("a mode");
        let outcome = Command::new(&python)
            .arg("-c")
            .arg(
                "import resource, subprocess, sys\n\
                 code = subprocess.call(sys.argv[1:])\n\
                 print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)\n\
                 sys.exit(code)",
            )
            .arg(tool::binary())
            .args(["tree", "-q"])
            .arg(&source)
            .arg("-o")
            .arg(dir.join(format!("{name}-copy")))
            .succeed();
        let kib: u64 = outcome.stdout().trim().parse().expect("a number");
        kib
    };
    let small = resident("small", 4 << 10);
    let large = resident("large", 400 << 10);
    assert!(small < 24 << 10, "{small} KiB");
    assert!(large < small + (2 << 10), "{small} KiB, {large} KiB");
}
