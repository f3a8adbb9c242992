//! What a count in a file says costs nothing: time and memory follow the file's size.
//!
//! The binary runs with a limit on its memory and on its time on a processor, on programs that are made
//! here: all their tables are where the loader looks for them, in one segment of the whole file.

use std::fs;

use allocs_tests::elf::Elf;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, tool, trials};
use libtest_mimic::Trial;
use object::elf::{
    DT_GNU_HASH, DT_HASH, DT_INIT_ARRAY, DT_INIT_ARRAYSZ, DT_JMPREL, DT_NEEDED, DT_NULL,
    DT_PLTRELSZ, DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ, DT_RELA, DT_RELASZ, DT_STRSZ, DT_STRTAB,
    DT_SYMTAB, DT_VERDEF, DT_VERNEED, DT_VERSYM, DynamicTag,
};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["bounds":
        good,
        header_counts,
        dynamic_counts,
        hash_tables,
        version_lists,
        notes,
        memory,
        journals,
        names_that_share_their_bytes,
        symbols_that_share_a_name,
        constructors_and_symbols,
    ]
}

/// Address space for a small file, in bytes: the binary and its libraries take most of it.
const MEMORY: u64 = 128 << 20;
/// Processor time, in seconds: a small file takes a few milliseconds.
const SECONDS: u64 = 5;

/// Size of what is large, in bytes.
const LARGE: usize = 4 << 20;

/// A program for glibc: header, three program headers and a dynamic section; tables in between.
struct Program {
    bytes: Vec<u8>,
    dynamic: Vec<(DynamicTag, u64)>,
    /// Address of its first byte.
    base: u64,
}

const INTERPRETER: &[u8] = b"/lib64/ld-linux-x86-64.so.2\0";

impl Program {
    /// With a string table that holds `strings`, and two symbols without a name.
    fn new(strings: &[u8]) -> Self {
        Self::at(0, strings)
    }

    fn at(base: u64, strings: &[u8]) -> Self {
        let mut program = Self {
            bytes: vec![0; 64 + 3 * 56],
            dynamic: Vec::new(),
            base,
        };
        program.bytes.extend(INTERPRETER);
        program.table(DT_STRTAB, strings);
        program.set(DT_STRSZ, strings.len() as u64);
        program.table(DT_SYMTAB, &[0; 48]);
        program
    }

    fn set(&mut self, tag: DynamicTag, value: u64) {
        self.dynamic.push((tag, value));
    }

    /// One with a symbol that a rewrite is interested in.
    fn with_start_files() -> Self {
        let mut program = Self::new(b"\0__gmon_start__\0");
        program.table(DT_SYMTAB, &symbols(2, |index| (index, 0x20, 0, 0)));
        program.table(DT_HASH, &words(&[1, 2, 1, 0, 0]));
        program
    }

    /// Puts a table where `tag` says.
    fn table(&mut self, tag: DynamicTag, bytes: &[u8]) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.set(tag, self.base.wrapping_add(self.bytes.len() as u64));
        self.bytes.extend(bytes);
    }

    fn finish(mut self) -> Vec<u8> {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        let dynamic_at = self.bytes.len() as u64;
        self.set(DT_NULL, 0);
        for (tag, value) in &self.dynamic {
            self.bytes.extend(longs(&[tag.0.cast_unsigned(), *value]));
        }
        let (base, size) = (self.base, self.bytes.len() as u64);
        let mut headers = b"\x7fELF\x02\x01\x01".to_vec();
        headers.resize(16, 0);
        headers.extend([3, 0, 62, 0, 1, 0, 0, 0]); // ET_DYN, EM_X86_64
        headers.extend(longs(&[0, 64, 0])); // e_entry, e_phoff, e_shoff
        headers.extend([0, 0, 0, 0, 64, 0, 56, 0, 3, 0, 64, 0, 0, 0, 0, 0]);
        let dynamic_size = size - dynamic_at;
        let segments = [
            (3, 232, INTERPRETER.len() as u64, 1), // PT_INTERP
            (1, 0, size, 4096),                    // PT_LOAD
            (2, dynamic_at, dynamic_size, 8),      // PT_DYNAMIC
        ];
        for (kind, at, size, align) in segments {
            let address = base.wrapping_add(at);
            headers.extend(longs(&[
                kind | 6 << 32,
                at,
                address,
                address,
                size,
                size,
                align,
            ]));
        }
        self.bytes[..headers.len()].copy_from_slice(&headers);
        self.bytes
    }
}

fn longs(numbers: &[u64]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn words(numbers: &[u32]) -> Vec<u8> {
    numbers
        .iter()
        .flat_map(|number| number.to_le_bytes())
        .collect()
}

fn put(bytes: &mut [u8], at: usize, value: &[u8]) {
    bytes[at..at + value.len()].copy_from_slice(value);
}

/// Rewrites, explains and undoes the file; a rewrite is refused in words that contain `words`.
fn refuse(name: &str, bytes: &[u8], words: &str) {
    let dir = Dir::new("bounds");
    let outcomes = run(&dir, name, bytes, MEMORY, SECONDS);
    for outcome in &outcomes {
        assert!(outcome.code().is_some(), "{name}: {outcome}");
    }
    let [rewrite, ..] = &outcomes;
    let stderr = rewrite.stderr();
    let said = rewrite.code() == Some(1) && stderr.contains(words) && stderr.lines().count() == 1;
    assert!(said, "{name}: {rewrite}should say `{words}`");
}

/// The same for a large file, in which nothing may be wrong.
fn survive(name: &str, bytes: &[u8]) {
    let dir = Dir::new("bounds");
    for outcome in run(
        &dir,
        name,
        bytes,
        MEMORY + 16 * bytes.len() as u64,
        4 * SECONDS,
    ) {
        assert!(outcome.code().is_some(), "{name}: {outcome}");
    }
}

fn run(dir: &Dir, name: &str, bytes: &[u8], memory: u64, seconds: u64) -> [Outcome; 3] {
    let prog = dir.write(name, bytes);
    let run = |arguments: &[&str]| {
        Command::new(tool::binary())
            .args(arguments)
            .arg(&prog)
            .memory_limit(memory)
            .processor_limit(seconds)
            .dir(dir.path())
            .run()
    };
    let rewrite = run(&["-q", "-o", "out", "--runtime", "libruntime.so"]);
    [rewrite, run(&["explain"]), run(&["undo", "-o", "undone"])]
}

/// What the tests change is right: as it stands, it can be rewritten.
fn good() {
    let dir = Dir::new("bounds");
    let bytes = Program::with_start_files().finish();
    let [rewrite, explain, _] = run(&dir, "good", &bytes, MEMORY, SECONDS);
    assert_eq!(rewrite.code(), Some(0), "{rewrite}");
    assert_eq!(explain.code(), Some(3), "{explain}");
}

fn header_counts() {
    let good = || Program::new(b"\0").finish();
    let with = |changes: &[(usize, &[u8])]| {
        let mut bytes = good();
        for (at, value) in changes {
            put(&mut bytes, *at, value);
        }
        bytes
    };
    let many = [0xff; 8];
    let no_end = "ends beyond the address space";
    refuse("e_phnum", &with(&[(56, &[0xff, 0xff])]), "program headers");
    refuse("e_phnum-table", &with(&[(56, &[0xfe, 0xff])]), "cut short");
    refuse("e_phoff", &with(&[(32, &many)]), "cut short");
    refuse(
        "e_shnum",
        &with(&[(40, &[64]), (60, &[0xff, 0xff])]),
        "cut short",
    );
    // e_shnum 0: the count is in the first section's sh_size, which is the first p_paddr here.
    for size in [1_u64 << 32, 1 << 58, u64::MAX] {
        let changes: [(usize, &[u8]); 2] = [(40, &[64 + 24 - 32]), (64 + 24, &longs(&[size]))];
        let words = ["cut short", "impossible size"][usize::from(size >> 58 != 0)];
        refuse("sh_size", &with(&changes), words);
    }
    for (segment, name) in ["interpreter", "load", "dynamic"].iter().enumerate() {
        let header = 64 + 56 * segment;
        refuse(
            name,
            &with(&[(header + 32, &longs(&[1 << 40]))]),
            "cut short",
        );
        let name = format!("{name}-address");
        refuse(&name, &with(&[(header + 16, &many)]), no_end);
    }
}

fn dynamic_counts() {
    let sized = [
        (DT_STRTAB, DT_STRSZ),
        (DT_RELA, DT_RELASZ),
        (DT_JMPREL, DT_PLTRELSZ),
        (DT_PREINIT_ARRAY, DT_PREINIT_ARRAYSZ),
    ];
    for (tag, size_tag) in sized {
        for size in [24 << 36, u64::MAX / 24 * 24] {
            let mut program = Program::new(b"\0");
            program.table(tag, &[0; 48]);
            program.set(size_tag, size);
            refuse("table", &program.finish(), "lies in no PT_LOAD segment");
        }
    }
}

/// Counts, and chains without an end.
fn hash_tables() {
    let outside = "lies in no PT_LOAD segment";
    for counts in [[u32::MAX, 1], [1, u32::MAX], [u32::MAX, u32::MAX]] {
        let mut program = Program::new(b"\0");
        program.table(DT_HASH, &words(&[counts[0], counts[1], 0, 0]));
        refuse("DT_HASH", &program.finish(), outside);
    }
    // Buckets, first symbol, words of the Bloom filter, shift.
    let heads = [
        [u32::MAX, 1, 1, 0],
        [1, u32::MAX, 1, 0],
        [1, 1, 1 << 31, 0],
        [1, 1, u32::MAX, 0],
    ];
    for head in heads {
        let mut program = Program::new(b"\0");
        program.table(
            DT_GNU_HASH,
            &[words(&head), words(&[0, 0, u32::MAX, 1])].concat(),
        );
        refuse("DT_GNU_HASH", &program.finish(), outside);
    }
    for base in [0, u64::MAX << 20] {
        let mut program = Program::at(base, b"\0");
        let endless = vec![0; 1 << 18];
        let head = words(&[1, 1, 1, 0, 0, 0, 2]);
        program.table(DT_GNU_HASH, &[head, endless].concat());
        refuse("chain", &program.finish(), outside);
    }
}

/// Lists that go on to the end of the file, and lists that share their tails.
fn version_lists() {
    let short = [(DT_VERNEED, 16, 12), (DT_VERDEF, 20, 16)];
    for (tag, size, next) in short {
        for step in [1_u32, 4, u32::MAX] {
            let mut record = vec![0xff; size];
            put(&mut record, next, &words(&[step]));
            let mut program = Program::with_start_files();
            program.table(DT_VERSYM, &[0; 4]);
            program.table(tag, &record);
            refuse("step", &program.finish(), "symbol version record");
        }
    }
    // Every word is 4: each record goes on at the next word, and so does each list that it begins.
    for tag in [DT_VERNEED, DT_VERDEF] {
        let mut program = Program::with_start_files();
        program.table(DT_VERSYM, &[0; 4]);
        program.table(tag, &words(&vec![4; 1 << 20]));
        refuse(
            "tails",
            &program.finish(),
            "too many symbol version records",
        );
    }
}

/// The owner's and the description's size, in a program that is refused for being static.
fn notes() {
    let mut bytes = Program::new(b"\0").finish();
    let note = bytes.len() as u64;
    bytes.extend(words(&[u32::MAX, u32::MAX, u32::MAX, 0]));
    put(&mut bytes, 64, &words(&[4])); // PT_NOTE in place of PT_INTERP
    put(&mut bytes, 64 + 8, &longs(&[note]));
    put(&mut bytes, 64 + 32, &longs(&[16]));
    put(&mut bytes, 16, &[2]); // ET_EXEC
    refuse("note", &bytes, "statically linked");
    put(&mut bytes, 64 + 32, &longs(&[1 << 40]));
    refuse("note-size", &bytes, "cut short");
}

/// What the file would have to have room for if it had what memory has: the program header table, which
/// is as far from the beginning here as there, and RELRO, whose last page may have room.
fn memory() {
    needs("mold");
    let outcome = with_headers("threads", &[], &|header| match header[0] {
        4 => put(header, 32, &longs(&[0])), // PT_NOTE: without bytes it cannot move
        1 if header[4] == 6 => put(header, 40, &longs(&[1 << 46])), // the writable PT_LOAD
        _ => {}
    });
    let said = outcome
        .stderr()
        .contains("what follows the table cannot move");
    assert!(outcome.code() == Some(1) && said, "{outcome}");
    // The code ends where there would be room in front of the writable segment.
    let outcome = with_headers("preinit_array", &["-fuse-ld=mold"], &|header| {
        let relro = header[..4] == *b"\x52\xe5\x74\x64";
        let code = header[0] == 1 && header[4] == 5;
        if relro {
            put(header, 40, &longs(&[1 << 56]));
        } else if code {
            let vaddr = u64::from_le_bytes(header[16..24].try_into().expect("eight bytes"));
            put(header, 40, &longs(&[0x2800 - vaddr]));
        }
    });
    assert!(outcome.code().is_some(), "{outcome}");
}

/// Rewrites a program whose program headers were changed.
fn with_headers(sample: &str, flags: &[&str], change: &dyn Fn(&mut [u8])) -> Outcome {
    let dir = Dir::new("headers");
    let prog = Sample::named(sample).build(&dir.path(), Variant::GCC, flags);
    let elf = Elf::read(&prog);
    let mut bytes = elf.bytes().to_vec();
    for at in elf.program_headers().step_by(56) {
        let at = usize::try_from(at).expect("an offset");
        change(&mut bytes[at..at + 56]);
    }
    let prog = dir.write("program", &bytes);
    Command::new(tool::binary())
        .arg(&prog)
        .arg("-o")
        .arg(dir.join("out"))
        .args(["--runtime", "lib-by-a-name-that-is-too-long.so"])
        .memory_limit(MEMORY)
        .processor_limit(SECONDS)
        .run()
}

/// The number of runs, and the length of one, in the journal of a rewritten program.
fn journals() {
    const MAGIC: &[u8] = b"ALLOCSJ1";
    let dir = Dir::new("journals");
    let prog = Sample::named("threads").build(&dir.path(), Variant::GCC, &[]);
    let result = Rewrite::new(&prog, dir.join("grown"))
        .args_line("--runtime lib-by-a-name-that-is-too-long-for-the-room-that-there-is.so")
        .succeed();
    let good = fs::read(&result.path).expect("a program");
    let mut places = good.windows(8).enumerate();
    let at = places.rfind(|(_, bytes)| *bytes == MAGIC);
    let (at, _) = at.expect("a journal");
    for (skip, value) in [
        (16, 1 << 32),
        (16, 1 << 60),
        (16, u64::MAX),
        (32, 1 << 40),
        (32, u64::MAX),
    ] {
        let mut bytes = good.clone();
        put(&mut bytes, at + skip, &longs(&[value]));
        let outcomes = run(&dir, "journal", &bytes, MEMORY, SECONDS);
        let [.., undo] = &outcomes;
        let said = undo.code() == Some(1) && undo.stderr().contains("does not lead back");
        assert!(said, "{value:#x} at {skip}: {undo}");
    }
}

/// Every DT_NEEDED is the rest of one long string.
fn names_that_share_their_bytes() {
    for length in [LARGE / 2, 60_000] {
        let mut strings = vec![b'x'; length];
        strings.push(0);
        let mut program = Program::new(&strings);
        for offset in 1..LARGE / 32 {
            program.set(DT_NEEDED, (offset % 30_000) as u64);
        }
        survive("needed", &program.finish());
    }
}

/// Weak undefined ones, as those are that a rewrite looks for.
fn symbols_that_share_a_name() {
    let count = LARGE / 24;
    let mut strings = vec![b'x'; 1 << 16];
    strings.push(0);
    let mut program = Program::new(&strings);
    program.table(DT_SYMTAB, &symbols(count, |_| (1, 0x20, 0, 0)));
    program.table(
        DT_HASH,
        &words(&[1, u32::try_from(count).expect("a count"), 0]),
    );
    program.bytes.resize(program.bytes.len() + 4 * count, 0);
    survive("weak", &program.finish());
}

/// As many constructors as functions, and each is all the others.
fn constructors_and_symbols() {
    let count = LARGE / 32;
    let mut strings = vec![b'x'; LARGE / 4];
    strings.push(0);
    let mut program = Program::new(&strings);
    program.table(DT_SYMTAB, &symbols(count, |index| (index, 0x12, 1, 0x1000)));
    program.table(
        DT_HASH,
        &words(&[1, u32::try_from(count).expect("a count"), 0]),
    );
    program.bytes.resize(program.bytes.len() + 4 * count, 0);
    program.table(DT_INIT_ARRAY, &longs(&vec![0x1000; count]));
    program.set(DT_INIT_ARRAYSZ, 8 * count as u64);
    survive("constructors", &program.finish());
}

/// A symbol table: name, type and binding, section and value by index.
fn symbols(count: usize, symbol: impl Fn(u32) -> (u32, u8, u16, u64)) -> Vec<u8> {
    let indices = 0..u32::try_from(count).expect("a count");
    indices
        .flat_map(|index| {
            let (name, info, section, value) = symbol(index);
            let mut bytes = words(&[name]);
            bytes.extend([info, 0]);
            bytes.extend(section.to_le_bytes());
            bytes.extend(longs(&[value, 0]));
            bytes
        })
        .collect()
}
