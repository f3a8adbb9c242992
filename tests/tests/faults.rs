//! A run that is ended by a signal, or whose system calls fail: nothing is left behind, nothing is damaged,
//! and whoever waits for it learns why. strace makes the faults, at every call of each kind.

use std::fs;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};

use allocs_tests::dir::listing;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, tool, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["faults":
        ended_by_a_signal,
        ignored_signals,
        killed,
        failing_calls,
        while_copied_ahead,
        file_size_limit,
        disk_full_at_every_size,
        read_only_file_system,
    ]
}

/// A program in a directory of its own, and the results of an undisturbed run.
struct Place {
    dir: Dir,
    program: PathBuf,
    out: PathBuf,
    original: Vec<u8>,
    rewritten: Vec<u8>,
}

impl Place {
    fn new(name: &str) -> Self {
        let build = |dir: &Path| Sample::named("threads").build(dir, Variant::GCC, &[]);
        Self::of(name, build)
    }

    fn of(name: &str, build: impl Fn(&Path) -> PathBuf) -> Self {
        let dir = Dir::new(name);
        let program = build(&dir.path());
        let expected = dir.join("expected");
        Rewrite::new(&program, &expected).succeed();
        Self {
            original: fs::read(&program).expect("the program"),
            rewritten: fs::read(&expected).expect("its rewrite"),
            out: dir.make("out").join("threads"),
            dir,
            program,
        }
    }

    /// To another file, or in place.
    fn command(&self, start: Command, in_place: bool) -> Command {
        match in_place {
            true => start.arg("--in-place").arg(&self.program),
            false => start.arg(&self.program).arg("-o").arg(&self.out),
        }
    }

    /// The old program or the new one, and nobody's temporary file.
    fn assert_whole(&self, outcome: &Outcome) {
        let program = fs::read(&self.program).expect("the program");
        assert!(
            program == self.original || program == self.rewritten,
            "{outcome}"
        );
        if let Ok(out) = fs::read(&self.out) {
            assert!(out == self.rewritten, "{outcome}");
        }
    }

    fn temporary_files(&self) -> Vec<PathBuf> {
        let files = listing(&self.dir.path()).into_keys();
        let is_temporary = |path: &PathBuf| {
            let name = path.file_name().unwrap_or_default();
            name.to_string_lossy().starts_with(".allocs-rewrite-")
        };
        files.filter(is_temporary).collect()
    }

    /// As it was before any run.
    fn restore(&self) {
        let new = self.program.with_extension("new");
        fs::write(&new, &self.original).expect("written");
        fs::rename(&new, &self.program).expect("renamed");
        let _ = fs::remove_dir_all(self.out.with_file_name(""));
        self.dir.make("out");
    }
}

/// `allocs-rewrite` with a fault at a call.
fn with_fault(call: &str, fault: &str, number: usize) -> Command {
    Command::new(needs("strace"))
        .args(["-f", "-o", "/dev/null", "-e"])
        .arg(format!("inject={call}:{fault}:when={number}"))
        .arg(tool::binary())
}

/// Kinds of calls, all of which a run may make some of.
const CALLS: [&str; 8] = [
    "pread64",
    "copy_file_range",
    "ftruncate",
    "pwrite64",
    "write",
    "fchmod",
    "fsync",
    "rename,renameat,renameat2",
];

/// Runs with `fault` at the first call of each kind, the second, and so on, until there is none.
fn at_every_call(
    place: &Place,
    in_place: bool,
    calls: &[&str],
    fault: &str,
    check: impl Fn(&Outcome),
) -> usize {
    let mut faults = 0;
    for call in calls {
        for number in 1.. {
            let outcome = place
                .command(with_fault(call, fault, number), in_place)
                .arg("-q")
                .run();
            place.assert_whole(&outcome);
            let done = outcome.code() == Some(0);
            if !done {
                check(&outcome);
                faults += 1;
            }
            place.restore();
            if done {
                break;
            }
            assert!(number < 200, "{outcome}there is no end");
        }
    }
    faults
}

/// The shell sees that it was ended by the signal.
fn ended_by_a_signal() {
    let place = Place::new("signals");
    for (name, signal) in [("INT", 2), ("TERM", 15), ("HUP", 1)] {
        for in_place in [false, true] {
            let calls = if name == "INT" {
                &CALLS[..]
            } else {
                &CALLS[1..5]
            };
            let fault = format!("signal={name}");
            let ended = at_every_call(&place, in_place, calls, &fault, |outcome| {
                let status = outcome.status.expect("an end");
                assert_eq!(status.signal(), Some(signal), "{outcome}");
                assert_eq!(outcome.stderr(), "", "{outcome}");
                let left = place.temporary_files();
                assert!(left.is_empty(), "{outcome}{left:?}");
                if !in_place && !place.out.exists() {
                    let found = listing(&place.dir.join("out"));
                    assert!(found.is_empty(), "{outcome}{found:?}");
                }
            });
            assert!(ended > 1, "{name}: {ended} times");
        }
    }
}

/// As nohup(1) and shells' background jobs have it.
fn ignored_signals() {
    let place = Place::new("ignored-signals");
    for name in ["HUP", "INT"] {
        let command = place.command(
            with_fault("copy_file_range", &format!("signal={name}"), 1),
            false,
        );
        Command::new("sh")
            .args(["-c", &format!("trap '' {name}; exec {command}")])
            .succeed();
        assert!(fs::read(&place.out).expect("the result") == place.rewritten);
        place.restore();
    }
}

/// By SIGKILL, which nobody can take note of: a temporary file may stay, and disturbs nobody.
fn killed() {
    for in_place in [false, true] {
        let place = Place::new("killed");
        let killed = at_every_call(&place, in_place, &CALLS, "signal=KILL", |outcome| {
            let left = place.temporary_files().len();
            let next = place.command(Command::new(tool::binary()), in_place).run();
            match next.code() {
                // It had the name already when it was killed.
                Some(1) => assert!(
                    next.stderr().contains("already rewritten"),
                    "{outcome}{next}"
                ),
                code => assert_eq!(code, Some(0), "{outcome}{next}"),
            }
            place.assert_whole(&next);
            assert_eq!(place.temporary_files().len(), left, "{outcome}{next}");
            for file in place.temporary_files() {
                fs::remove_file(file).expect("removed");
            }
        });
        assert!(killed > 5, "{killed} times");
    }
}

/// One line that names a file, exit status 1, nothing left.
fn failing_calls() {
    for in_place in [false, true] {
        let place = Place::new("failing-calls");
        let before: Vec<PathBuf> = listing(&place.dir.path()).into_keys().collect();
        for (calls, error) in [
            (&CALLS[..], "EIO"),
            (&CALLS[1..5], "ENOSPC"),
            (&CALLS[1..5], "EDQUOT"),
            (&CALLS[6..], "EACCES"),
        ] {
            let fault = format!("error={error}");
            let failed = at_every_call(&place, in_place, calls, &fault, |outcome| {
                // Before the program itself runs, the loader reads libraries.
                if outcome.code() == Some(127) {
                    return;
                }
                assert_eq!(outcome.code(), Some(1), "{outcome}");
                let stderr = outcome.stderr();
                let named = stderr.contains(&*place.dir.path().to_string_lossy());
                assert!(named && stderr.lines().count() == 1, "{outcome}");
                let after: Vec<PathBuf> = listing(&place.dir.path()).into_keys().collect();
                assert_eq!(after, before, "{outcome}");
            });
            assert!(failed > 0, "{error}: {failed} times");
        }
    }
}

/// A large program, which is copied by a thread of its own while a plan is made; it goes without one, too.
fn while_copied_ahead() {
    for in_place in [false, true] {
        let place = Place::of("copied-ahead", |dir| {
            Sample::named("threads").build_large(dir)
        });
        let calls = ["copy_file_range", "pwrite64"];
        for fault in ["error=EIO", "error=ENOSPC", "signal=INT", "signal=KILL"] {
            let ended = at_every_call(&place, in_place, &calls, fault, |outcome| {
                let status = outcome.status.expect("an end");
                let left = place.temporary_files();
                match fault.split_once('=') {
                    Some(("error", _)) => {
                        assert_eq!(outcome.code(), Some(1), "{outcome}");
                        assert_eq!(outcome.stderr().lines().count(), 1, "{outcome}");
                    }
                    Some((_, "INT")) => assert_eq!(status.signal(), Some(2), "{outcome}"),
                    _ => assert_eq!(status.signal(), Some(9), "{outcome}"),
                }
                assert!(
                    left.is_empty() || status.signal() == Some(9),
                    "{outcome}{left:?}"
                );
                for file in left {
                    fs::remove_file(file).expect("removed");
                }
            });
            assert!(ended > 2, "{fault}: {ended} times");
        }
        let log = place.dir.join("log");
        let strace = Command::new(needs("strace")).arg("-f").arg("-o").arg(&log);
        let without = strace
            .args(["-e", "inject=clone3:error=EAGAIN:when=1"])
            .arg(tool::binary());
        let outcome = place.command(without, in_place).succeed();
        place.assert_whole(&outcome);
        assert!(outcome.stderr().is_empty(), "{outcome}");
        let log = fs::read_to_string(log).expect("what strace saw");
        assert!(log.contains("(INJECTED)"), "there was no thread: {log}");

        // One that must stay as it is.
        let result = if in_place { &place.program } else { &place.out };
        let before = listing(&place.dir.path());
        let again = Command::new(tool::binary())
            .arg(result)
            .arg("-o")
            .arg(place.dir.join("again"))
            .run();
        assert_eq!(again.code(), Some(1), "{again}");
        assert!(again.stderr().contains("already rewritten"), "{again}");
        assert_eq!(listing(&place.dir.path()), before, "{again}");
    }
}

/// RLIMIT_FSIZE, which ends a program by SIGXFSZ that does not think of it.
fn file_size_limit() {
    let place = Place::new("file-size-limit");
    for in_place in [false, true] {
        for limit in [4096, 8192, place.rewritten.len() as u64 - 1] {
            let outcome = place
                .command(Command::new(tool::binary()), in_place)
                .file_size_limit(limit)
                .run();
            assert_eq!(outcome.code(), Some(1), "{outcome}");
            for word in [
                "File too large",
                "ulimit -f",
                &place.dir.path().to_string_lossy(),
            ] {
                assert!(outcome.stderr().contains(word), "{outcome}{word}");
            }
            place.assert_whole(&outcome);
            assert!(!place.out.exists(), "{outcome}");
            assert!(place.temporary_files().is_empty(), "{outcome}");
        }
    }
}

/// Runs a script that has `$small` mounted, in a mount namespace of its own.
fn in_namespace(place: &Place, script: &str) -> Outcome {
    let outcome = Command::new(needs("unshare"))
        .args(["--map-root-user", "--mount", "sh", "-c", script])
        .env("small", place.dir.make("small"))
        .env("rewrite", tool::binary())
        .env("program", &place.program)
        .run();
    let mounted = outcome.code() != Some(99);
    assert!(
        mounted,
        "{outcome}cannot mount a tmpfs: run the tests as root"
    );
    outcome
}

/// From room for one page on to room for all: each time an error and nothing left, or a whole result.
fn disk_full_at_every_size() {
    let place = Place::new("every-size");
    let pages = |len: usize| len.div_ceil(4096);
    let most = pages(place.rewritten.len())
        + pages(fs::metadata(tool::runtime()).expect("it").len() as usize)
        + 2;
    let first = pages(place.original.len());
    for (arguments, from) in [
        ("$program -o $small/threads", 1),
        ("--in-place $small/threads", first + 1),
    ] {
        let script = format!(
            "for pages in $(seq {from} {}); do
                 mount -t tmpfs -o size=$((pages * 4))k tmpfs $small || exit 99
                 case '{arguments}' in --in-place*) cp $program $small ;; esac
                 before=$(cd $small && sha256sum *)
                 $rewrite -q {arguments} 2> $small/../stderr
                 status=$?
                 after=$(cd $small && sha256sum .[!.]* * 2> /dev/null)
                 if [ $status = 0 ]; then
                     cmp $small/threads $small/../expected || exit 2
                     echo whole
                 else
                     [ $status = 1 ] && [ \"$before\" = \"$after\" ] || exit 3
                     [ $(wc -l < $small/../stderr) = 1 ] || exit 4
                     grep -q '^allocs-rewrite: .*small/.*No space left.*free some space' $small/../stderr || exit 5
                     echo full
                 fi
                 umount $small
             done",
            from + most
        );
        let outcome = in_namespace(&place, &script);
        assert_eq!(outcome.code(), Some(0), "{outcome}");
        let lines: Vec<String> = outcome.stdout().lines().map(str::to_owned).collect();
        let full = lines.iter().filter(|line| *line == "full").count();
        assert!(full > 3 && full < lines.len(), "{outcome}");
        assert!(
            lines[full..].iter().all(|line| line == "whole"),
            "{outcome}"
        );
    }
}

fn read_only_file_system() {
    let place = Place::new("read-only");
    for arguments in ["-o $small/out $program", "--in-place $small/threads"] {
        let script = format!(
            "mount -t tmpfs tmpfs $small && cp $program $small && mount -o remount,ro $small || exit 99
             $rewrite {arguments}"
        );
        let outcome = in_namespace(&place, &script);
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        let stderr = outcome.stderr();
        for word in ["small/", "Read-only file system", "can be written"] {
            assert!(stderr.contains(word), "{outcome}{word}");
        }
        assert_eq!(stderr.lines().count(), 1, "{outcome}");
    }
}
