//! Files that somebody else changes while a rewrite is under way: there is an error, or the result of one
//! version of the program, and never one of two; and no result takes the place of what is newer.
//!
//! In process, on the library that the binary is made of: its progress says when to change something.

use std::fs::{self, OpenOptions};
use std::ops::ControlFlow;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use allocs_rewrite::{Destination, ErrorKind, Options, Report};
use allocs_tests::dir::{copy_program, listing};
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Dir, tool, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["changes":
        written_to,
        replaced,
        replaced_again_and_again,
        written_again_and_again,
        directory_removed,
        directory_in_the_way,
        stopped,
    ]
}

/// A program to change, and where its rewrite goes.
struct Place {
    dir: Dir,
    program: PathBuf,
    out: PathBuf,
}

impl Place {
    fn new(name: &str) -> Self {
        Self::of(name, |dir| {
            Sample::named("threads").build(dir, Variant::GCC, &[])
        })
    }

    /// With a program that is copied while a plan is made.
    fn large(name: &str) -> Self {
        Self::of(name, |dir| Sample::named("threads").build_large(dir))
    }

    fn of(name: &str, build: impl Fn(&Path) -> PathBuf) -> Self {
        let dir = Dir::new(name);
        let program = build(&dir.path());
        let out = dir.make("out").join("threads");
        Self { dir, program, out }
    }

    /// Another program of another size.
    fn other(&self) -> PathBuf {
        let dir = self.dir.make("other");
        Sample::named("threads").build(&dir, Variant::GCC, &["-g3"])
    }

    /// Rewrites the program; `change` is called when bytes were copied (1, 2, …), and before the end.
    fn rewrite(
        &self,
        destination: &Destination,
        mut change: impl FnMut(usize),
    ) -> allocs_rewrite::Result<Report> {
        let mut options = Options::new(&self.program, destination.clone());
        options.runtime = Some(tool::runtime().display().to_string());
        let mut calls = 0;
        allocs_rewrite::rewrite(&options, &mut |copied, all| {
            assert!(copied <= all, "{copied} bytes of {all}");
            calls += 1;
            change(calls);
            ControlFlow::Continue(())
        })
    }

    fn to_out(&self) -> Destination {
        Destination::File(self.out.clone())
    }

    /// What a rewrite makes of `program` when nobody disturbs it.
    fn expected(&self, program: &Path) -> Vec<u8> {
        let out = self.dir.join("expected");
        let mut options = Options::new(program, Destination::File(out.clone()));
        options.runtime = Some(tool::runtime().display().to_string());
        allocs_rewrite::rewrite(&options, &mut |_, _| ControlFlow::Continue(()))
            .expect("rewritten");
        let bytes = fs::read(&out).expect("the result");
        fs::remove_file(out).expect("removed");
        bytes
    }

    fn assert_nothing_written(&self) {
        let found = listing(&self.dir.join("out"));
        assert!(found.is_empty(), "{found:?}");
    }
}

/// At each moment that there is, in each way.
fn written_to() {
    let ways: [fn(&Path); 3] = [
        |program| {
            let file = OpenOptions::new().write(true).open(program);
            file.expect("open").set_len(5000).expect("cut");
        },
        |program| {
            let file = OpenOptions::new().write(true).open(program);
            file.expect("open")
                .write_all_at(b"new", 4000)
                .expect("written");
        },
        |program| {
            let file = OpenOptions::new().write(true).open(program).expect("open");
            let end = file.metadata().expect("its length").len();
            file.write_all_at(b"appended", end).expect("appended");
        },
    ];
    let mut changed = 0;
    let places = [Place::new, Place::large];
    for (way, place) in ways.iter().flat_map(|way| places.map(|place| (way, place))) {
        for moment in 1.. {
            let place = place("written-to");
            // A file system's clock may stand still for some milliseconds.
            std::thread::sleep(Duration::from_millis(20));
            let mut reached = false;
            let result = place.rewrite(&place.to_out(), |call| {
                if call == moment {
                    reached = true;
                    way(&place.program);
                }
            });
            if !reached {
                break;
            }
            changed += 1;
            let error = result.expect_err("it was not what was read");
            assert!(matches!(error.kind(), ErrorKind::Changed), "{error}");
            place.assert_nothing_written();
        }
    }
    assert!(changed >= 12, "{changed} changes");
}

/// Who replaces the program by another gets the rewrite of the old one elsewhere, and keeps his own
/// where the rewrite was to be.
fn replaced() {
    let place = Place::new("replaced");
    let (old, other) = (place.expected(&place.program), place.other());
    let replace = |call| {
        if call == 1 {
            fs::rename(&other, &place.program).expect("renamed");
        }
    };
    place.rewrite(&place.to_out(), replace).expect("rewritten");
    assert!(fs::read(&place.out).expect("the result") == old);

    for destination in [Destination::InPlace, Destination::Direct] {
        let place = Place::new("replaced-in-place");
        let other = place.other();
        let new = fs::read(&other).expect("the other program");
        let mut before = listing(&place.dir.path());
        let result = place.rewrite(&destination, |_| {
            if other.exists() {
                fs::rename(&other, &place.program).expect("renamed");
            }
        });
        let error = result.expect_err("another program is there now");
        assert!(matches!(error.kind(), ErrorKind::Replaced), "{error}");
        assert!(fs::read(&place.program).expect("the program") == new);
        before.remove(&other);
        let after = listing(&place.dir.path());
        assert!(after.keys().eq(before.keys()), "{after:?}");
    }
}

/// Rewrites the program for a second while `disturb` is called with one version and the other; what comes
/// of it is one of the two.
fn while_disturbed(place: &Place, disturb: impl Fn(&Path) + Sync) -> (usize, usize) {
    let other = place.other();
    let versions = [place.program.with_file_name("first"), other];
    copy_program(&place.program, &versions[0]);
    let expected = [0, 1].map(|n| place.expected(&versions[n]));
    let (mut written, mut refused) = (0, 0);
    let over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for version in versions.iter().cycle() {
                if over.load(Ordering::Relaxed) {
                    break;
                }
                disturb(version);
            }
        });
        let start = Instant::now();
        while start.elapsed() < Duration::from_secs(1) {
            match place.rewrite(&place.to_out(), |_| ()) {
                Ok(_) => {
                    written += 1;
                    let bytes = fs::read(&place.out).expect("the result");
                    let one = expected.contains(&bytes);
                    assert!(one, "{written}: a mixture, in {}", place.out.display());
                    fs::remove_file(&place.out).expect("removed");
                }
                Err(_) => {
                    refused += 1;
                    place.assert_nothing_written();
                }
            }
        }
        over.store(true, Ordering::Relaxed);
    });
    (written, refused)
}

fn replaced_again_and_again() {
    let place = Place::new("replaced-often");
    let (written, refused) = while_disturbed(&place, |version| {
        let new = place.program.with_extension("new");
        fs::copy(version, &new).expect("copied");
        fs::rename(&new, &place.program).expect("renamed");
    });
    assert!(written > 10 && refused == 0, "{written}, {refused}");
}

/// Cut to nothing and written again, as a linker does it.
fn written_again_and_again() {
    let place = Place::new("written-often");
    let (written, refused) = while_disturbed(&place, |version| {
        fs::copy(version, &place.program).expect("copied");
        std::thread::sleep(Duration::from_millis(15));
    });
    assert!(written > 10 && refused > 0, "{written}, {refused}");
}

fn directory_removed() {
    let place = Place::new("directory-removed");
    let out = place.dir.join("out");
    let result = place.rewrite(&place.to_out(), |call| {
        if call == 1 {
            fs::remove_dir_all(&out).expect("removed");
        }
    });
    let error = result.expect_err("there is no such directory");
    assert!(error.to_string().contains("No such file"), "{error}");
    assert_eq!(error.file(), place.out);
    assert!(!out.exists());
}

fn directory_in_the_way() {
    let place = Place::new("directory-in-the-way");
    let result = place.rewrite(&place.to_out(), |call| {
        if call == 1 {
            fs::create_dir(&place.out).expect("made");
        }
    });
    let error = result.expect_err("a directory has the name");
    assert!(error.to_string().contains("directory"), "{error}");
    let found = listing(&place.dir.join("out"));
    assert!(found.into_keys().eq([place.out.clone()]));
}

/// Who asks for the progress can end the run.
fn stopped() {
    for place in [Place::new("stopped"), Place::large("stopped-large")] {
        let options = Options::new(&place.program, place.to_out());
        for moment in 1.. {
            let mut calls = 0;
            let result = allocs_rewrite::rewrite(&options, &mut |_, _| {
                calls += 1;
                match calls == moment {
                    true => ControlFlow::Break(()),
                    false => ControlFlow::Continue(()),
                }
            });
            let Err(error) = result else {
                assert!(moment > 2, "it was never asked");
                break;
            };
            assert!(matches!(error.kind(), ErrorKind::Stopped), "{error}");
            place.assert_nothing_written();
        }
    }
}
