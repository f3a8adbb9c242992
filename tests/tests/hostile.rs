//! Files that were never meant to be: an error or a verified output, never a panic, never a hang.
//!
//! In process, on the library that the binary is made of: tens of thousands of processes would take
//! too long. What is accepted passed the rewriter's own verification; it is not run, for a program
//! that differs in a random byte may do anything.

use std::fs;
use std::ops::{ControlFlow, Range};
use std::panic::catch_unwind;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use allocs_rewrite::{Destination, ErrorKind, Options};
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::trial::message;
use allocs_tests::{Dir, needs, tool, trials};
use fastrand::Rng;
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["hostile":
        prefixes,
        bytes,
        words,
        header_fields,
        layouts,
        runtimes,
        thread_local_data_in_no_segment,
        program_header_fields,
    ]
}

/// Fixed, so that a failure can be repeated; printed with each failure.
pub(crate) const SEED: u64 = 0x616c_6c6f_6373;
/// One rewrite of a small file takes about a millisecond.
const LIMIT: Duration = Duration::from_secs(10);

/// Inputs are written to one file, again and again.
pub(crate) struct Target {
    pub(crate) dir: Dir,
    input: PathBuf,
    runtime: PathBuf,
    output: PathBuf,
    /// The one of them that is spoilt, and its bytes before that.
    spoilt: PathBuf,
    pub(crate) good: Vec<u8>,
    /// What a download that broke off leaves behind, or one wrong field, is an everyday thing: to be told in its
    /// own words, and not as a failed verification.
    pub(crate) everyday: bool,
    pub(crate) accepted: usize,
    pub(crate) refused: usize,
}

impl Target {
    pub(crate) fn new(name: &str, variant: Variant) -> Self {
        Self::of(name, "threads", variant, &["-s"])
    }

    fn of(name: &str, sample: &str, variant: Variant, flags: &[&str]) -> Self {
        let dir = Dir::in_memory(name);
        let program = Sample::named(sample).build(&dir.path(), variant, flags);
        Self::with(dir, &program)
    }

    /// Spoils `program`, which is all that is in `dir`.
    pub(crate) fn with(dir: Dir, program: &Path) -> Self {
        Self {
            input: dir.join("input"),
            runtime: tool::runtime().to_owned(),
            output: dir.join("output"),
            spoilt: dir.join("input"),
            good: fs::read(program).expect("a program"),
            dir,
            everyday: false,
            accepted: 0,
            refused: 0,
        }
    }

    /// Spoils the runtime, for a good program.
    fn runtime(name: &str) -> Self {
        let target = Self::new(name, Variant::GCC);
        fs::rename(target.dir.join("threads"), &target.input).expect("renamed");
        let runtime = target.dir.join("runtime.so");
        Self {
            good: fs::read(tool::runtime()).expect("the runtime"),
            spoilt: runtime.clone(),
            runtime,
            ..target
        }
    }

    /// Rewrites `bytes`; `what` tells how to make them.
    pub(crate) fn rewrite(&mut self, bytes: &[u8], what: &dyn Fn() -> String) {
        fs::write(&self.spoilt, bytes).expect("the input");
        let options = Options {
            runtime: Some(self.runtime.display().to_string()),
            ..Options::new(&self.input, Destination::File(self.output.clone()))
        };
        // In a thread of its own, which is left behind if it hangs.
        let (send, receive) = mpsc::channel();
        thread::spawn(move || {
            let rewrite =
                || allocs_rewrite::rewrite(&options, &mut |_, _| ControlFlow::Continue(()));
            drop(send.send(catch_unwind(rewrite))); // fails if the limit has passed
        });
        let dir = self.dir.path();
        let dir = dir.display();
        match receive.recv_timeout(LIMIT) {
            Err(_) => panic!("{}: takes longer than {LIMIT:?} (in {dir})", what()),
            Ok(Err(payload)) => {
                panic!("{}: panicked: {} (in {dir})", what(), message(&*payload))
            }
            Ok(Ok(Ok(_))) => {
                self.accepted += 1;
                assert!(self.output.is_file(), "{}: no output (in {dir})", what());
                // Its own data behind an ELF part that did not grow leaves no room for a journal.
                let in_place = Destination::InPlace;
                match allocs_rewrite::undo(&self.output, &in_place, &mut |_, _| {
                    ControlFlow::Continue(())
                }) {
                    Ok(_) => assert!(
                        fs::read(&self.output).expect("a file")
                            == fs::read(&self.input).expect("a file"),
                        "{}: undo gives another file (in {dir})",
                        what()
                    ),
                    Err(error) => assert!(
                        matches!(error.kind(), ErrorKind::NoUndo),
                        "{}: {error} (in {dir})",
                        what()
                    ),
                }
                fs::remove_file(&self.output).expect("the output removed");
            }
            Ok(Ok(Err(error))) => {
                self.refused += 1;
                let text = error.to_string();
                let files = ["/input: ", "/output: ", "/runtime.so: "];
                let named = files.iter().any(|file| text.contains(file));
                let fine = named && !text.contains('\n');
                assert!(fine, "{}: the message is `{text}` (in {dir})", what());
                let internal = self.everyday && text.contains("this is a bug");
                assert!(!internal, "{}: `{text}` (in {dir})", what());
                assert!(
                    !self.output.exists(),
                    "{}: refused and written (in {dir})",
                    what()
                );
            }
        }
    }

    /// Nothing but the input is left, and the test was one: both outcomes were seen.
    pub(crate) fn finish(&self) {
        let left: Vec<_> = allocs_tests::dir::listing(&self.dir.path())
            .into_keys()
            .collect();
        assert_eq!(left.len(), 2, "left behind: {left:?}");
        assert!(
            self.accepted > 0 && self.refused > 0,
            "one outcome only: {}",
            self.accepted
        );
    }
}

const NON_PIE: Variant = Variant {
    pie: false,
    ..Variant::GCC
};

/// Every prefix: what a download that broke off, or a full disk, leaves behind.
fn prefixes() {
    for variant in [Variant::GCC, NON_PIE] {
        let mut target = Target::new("prefixes", variant);
        target.everyday = true;
        let good = target.good.clone();
        for length in 0..=good.len() {
            target.rewrite(&good[..length], &|| {
                format!("{variant}, the first {length} bytes")
            });
        }
        target.finish();
    }
}

/// 10,000 single-byte changes where it hurts: headers, dynamic tables, and anywhere.
fn bytes() {
    for variant in [Variant::GCC, NON_PIE] {
        let mut target = Target::new("bytes", variant);
        let mut rng = Rng::with_seed(SEED);
        for round in 0..5_000 {
            let mut bytes = target.good.clone();
            let at = place(&mut rng, &target.good);
            let value = rng.u8(..);
            bytes[at] = value;
            target.rewrite(&bytes, &|| {
                format!("{variant}, seed {SEED:#x}, round {round}: byte {at} = {value:#04x}")
            });
        }
        target.finish();
    }
}

/// Where tables move, grow or have relocations of another kind.
fn layouts() {
    needs("ld.lld");
    let lld = Variant {
        compiler: "clang",
        ..Variant::GCC
    };
    let lld_non_pie = Variant { pie: false, ..lld };
    let relr = "-Wl,-z,pack-relative-relocs";
    let layouts: [(Variant, &[&str]); 4] = [
        (lld, &["-s", "-fuse-ld=lld"]),
        (
            lld_non_pie,
            &["-s", "-fuse-ld=lld", "-Wl,--hash-style=both"],
        ),
        (lld, &["-s", "-fuse-ld=lld", relr]),
        (Variant::GCC, &["-Wl,--hash-style=sysv", relr]),
    ];
    for (variant, flags) in layouts {
        let mut target = Target::of("hostile-layouts", "preinit_array", variant, flags);
        let mut rng = Rng::with_seed(SEED);
        for round in 0..2_500 {
            let mut bytes = target.good.clone();
            let mut changes = Vec::new();
            for _ in 0..=rng.usize(..3) {
                let at = place(&mut rng, &target.good);
                bytes[at] = rng.u8(..);
                changes.push(format!("byte {at} = {:#04x}", bytes[at]));
            }
            target.rewrite(&bytes, &|| {
                format!("{variant} {flags:?}, seed {SEED:#x}, round {round}: {changes:?}")
            });
        }
        target.finish();
    }
}

/// Words that are too large, negative when added to something, or nearly right.
pub(crate) const HARD: [u64; 14] = [
    0,
    1,
    7,
    8,
    0x18,
    0xfff,
    0x1000,
    1 << 31,
    (1 << 32) - 1,
    1 << 47,
    1 << 63,
    !0,
    !7,
    !0xfff,
];

/// Up to three such words, or sums with one, at any place.
fn words() {
    let mut target = Target::new("words", Variant::GCC);
    let mut rng = Rng::with_seed(SEED);
    for round in 0..5_000 {
        let mut bytes = target.good.clone();
        let mut changes = Vec::new();
        for _ in 0..=rng.usize(..2) {
            let at = place(&mut rng, &target.good) / 8 * 8;
            let old = u64::from_le_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
            let random = HARD[rng.usize(..HARD.len())];
            let new = if rng.bool() {
                random
            } else {
                old.wrapping_add(random)
            };
            bytes[at..at + 8].copy_from_slice(&new.to_le_bytes());
            changes.push(format!("word at {at} = {new:#x}"));
        }
        target.rewrite(&bytes, &|| {
            format!("seed {SEED:#x}, round {round}: {changes:?}")
        });
    }
    target.finish();
}

/// Every byte of the ELF header and the program headers, with each of a few values.
fn header_fields() {
    let mut target = Target::new("header-fields", Variant::GCC);
    let good = target.good.clone();
    let end = program_headers(&good).end;
    for at in 0..end {
        for value in [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            good[at] ^ 1,
            good[at].wrapping_add(8),
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            target.rewrite(&bytes, &|| format!("byte {at} = {value:#04x}"));
        }
    }
    target.finish();
}

/// The runtime is a file like any other.
fn runtimes() {
    let mut target = Target::runtime("runtimes");
    let mut rng = Rng::with_seed(SEED);
    for round in 0..2_000 {
        let mut bytes = target.good.clone();
        let at = place(&mut rng, &target.good);
        let value = rng.u8(..);
        bytes[at] = value;
        bytes.truncate(match round % 4 {
            0 => rng.usize(..bytes.len()),
            _ => bytes.len(),
        });
        target.rewrite(&bytes, &|| {
            format!("seed {SEED:#x}, round {round}: byte {at} = {value:#04x}")
        });
    }
    target.finish();
}

/// PT_TLS goes on behind the segment that it begins in.
fn thread_local_data_in_no_segment() {
    let mut target = Target::new("stray-tls", Variant::GCC);
    let headers = program_headers(&target.good);
    let mut headers = headers.step_by(56);
    // What is there already does for it: any that lies in a segment.
    let note = headers.find(|&at| target.good[at] == 4).expect("PT_NOTE");
    for more in [1, 0x800, 0x10_0000] {
        let mut bytes = target.good.clone();
        bytes[note] = 7; // PT_TLS
        for size in [note + 32, note + 40] {
            let old = u64::from_le_bytes(bytes[size..size + 8].try_into().expect("8 bytes"));
            let new = old + if size == note + 32 { more } else { 0 };
            bytes[size..size + 8].copy_from_slice(&new.to_le_bytes());
        }
        target.rewrite(&bytes, &|| {
            format!("PT_TLS has {more} bytes more in the file")
        });
    }
    assert_eq!((target.accepted, target.refused), (0, 3));
}

/// Each field of each program header, wrong by itself: refused for what is wrong with it, or rewritten. (A loader
/// reads some of them only, and where tables move, all of them have to go on being sums that fit.)
fn program_header_fields() {
    needs("ld.lld");
    let lld = Variant {
        compiler: "clang",
        ..Variant::GCC
    };
    // Instead of notes: what nobody knows, so that nothing makes way for another program header and the table moves;
    // or headers that say nothing, which a new segment takes (PT_NULL).
    let layouts: [(Variant, &[&str], Option<u32>); 6] = [
        (Variant::GCC, &["-s"], None),
        (Variant::GCC, &["-s"], Some(0x6474_0000)),
        (Variant::GCC, &["-s"], Some(0)),
        (NON_PIE, &["-s"], None),
        (
            Variant::GCC,
            &["-Wl,-z,norelro,--spare-dynamic-tags=0"],
            None,
        ),
        (lld, &["-s", "-fuse-ld=lld"], None),
    ];
    for (variant, flags, instead) in layouts {
        let mut target = Target::of("program-headers", "preinit_array", variant, flags);
        target.everyday = true;
        let mut good = target.good.clone();
        for header in program_headers(&good).step_by(56) {
            if let Some(kind) = instead.filter(|_| good[header..header + 4] == [4, 0, 0, 0]) {
                good[header..header + 4].copy_from_slice(&kind.to_le_bytes());
            }
        }
        for header in program_headers(&good).step_by(56) {
            for field in (header + 8..header + 56).step_by(8) {
                let old = u64::from_le_bytes(good[field..field + 8].try_into().expect("8 bytes"));
                for value in HARD.iter().flat_map(|&hard| [hard, old.wrapping_add(hard)]) {
                    let mut bytes = good.clone();
                    bytes[field..field + 8].copy_from_slice(&value.to_le_bytes());
                    target.rewrite(&bytes, &|| {
                        format!("{variant} {flags:?}, instead of notes: {instead:x?}: word at {field} = {value:#x}")
                    });
                }
            }
        }
        target.finish();
    }
}

/// A place: in the headers half of the time, in `.dynamic` a quarter, else anywhere.
fn place(rng: &mut Rng, bytes: &[u8]) -> usize {
    let part = match rng.u8(..4) {
        0 => 0..program_headers(bytes).end,
        1 => program_headers(bytes),
        2 => dynamic(bytes),
        _ => 0..bytes.len() - 8,
    };
    rng.usize(part)
}

fn program_headers(bytes: &[u8]) -> Range<usize> {
    64..64 + 56 * usize::from(bytes[56])
}

pub(crate) fn dynamic(bytes: &[u8]) -> Range<usize> {
    let mut headers = bytes[program_headers(bytes)].chunks(56);
    let header = headers
        .find(|h| h[0] == 2 && h[1..4] == [0; 3])
        .expect("PT_DYNAMIC");
    let word = |at: usize| {
        let word = u64::from_le_bytes(header[at..at + 8].try_into().expect("8 bytes"));
        usize::try_from(word).expect("an offset")
    };
    word(8)..word(8) + word(32)
}
