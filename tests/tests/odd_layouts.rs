//! Layouts that a linker makes only where it is asked to in its own ways, or another tool makes: each is
//! accepted by kernel and loader, so a rewrite has to leave it as good as it was.

use std::fs::{self, File, OpenOptions};
use std::os::unix::fs::{FileExt, MetadataExt, symlink};
use std::path::{Path, PathBuf};

use allocs_tests::elf::Elf;
use allocs_tests::needs::{self, needs};
use allocs_tests::report::Report;
use allocs_tests::{Command, Dir, Rewrite, both_ways, tool, trial};
use libtest_mimic::Trial;
use object::elf;

/// Name, flags, what is done to the program after it was linked.
type Layout = (&'static str, &'static [&'static str], fn(&Path));

const LAYOUTS: &[Layout] = &[
    ("notes", &["-DODD_NOTES"], |_| ()),
    ("preinit", &["-DPREINIT"], |_| ()),
    (
        "preinit-relr",
        &["-DPREINIT", "-Wl,-z,pack-relative-relocs"],
        |_| (),
    ),
    ("preinit-norelro", &["-DPREINIT", "-Wl,-z,norelro"], |_| ()),
    ("rela-includes-plt", &["-Wl,-z,lazy"], include_plt),
    ("headers-last", &["-Wl,-z,lazy"], headers_last),
    (
        "headers-last-no-room",
        &["-Wl,--spare-dynamic-tags=0,-z,lazy"],
        headers_last,
    ),
    ("lld-headers-last", &["-fuse-ld=lld"], headers_last),
    ("unsorted-segments", &[], swap_segments),
    ("sections-say-less", &["-rdynamic"], shorten_symbols),
    (
        "lld-sections-say-less",
        &["-fuse-ld=lld", "-rdynamic"],
        shorten_symbols,
    ),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("odd_layouts::large-data", large_data),
        trial("odd_layouts::large-debug-information", large_debug),
        trial("odd_layouts::wild", wild),
    ];
    for layout in LAYOUTS {
        for pie in [true, false] {
            let kind = if pie { "pie" } else { "non-pie" };
            let name = format!("odd_layouts::{}::{kind}", layout.0);
            all.push(trial(name, move || {
                let dir = Dir::new(layout.0);
                let program = build(&dir, pie, layout.1);
                layout.2(&program);
                both_ways::check(&dir, &program);
            }));
        }
    }
    all
}

fn build(dir: &Dir, pie: bool, flags: &[&str]) -> PathBuf {
    let program = dir.join("program");
    let pie = match pie {
        true => ["-fPIE", "-pie"],
        false => ["-fno-pie", "-no-pie"],
    };
    Command::new(needs("gcc"))
        .args(pie)
        .arg("-O1")
        .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/odd.c"))
        .arg("-o")
        .arg(&program)
        .args(flags)
        .succeed();
    program
}

/// An open program, to be changed a number at a time.
struct Patch(File);

impl Patch {
    fn open(program: &Path) -> Self {
        let file = OpenOptions::new().read(true).write(true).open(program);
        Self(file.expect("the program"))
    }

    fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.0.read_exact_at(&mut bytes, at).expect("eight bytes");
        u64::from_le_bytes(bytes)
    }

    fn put(&self, at: u64, value: u64) {
        let bytes = value.to_le_bytes();
        self.0.write_all_at(&bytes, at).expect("written");
    }

    fn end(&self) -> u64 {
        self.0.metadata().expect("its length").len()
    }

    /// Offset of the program header with this number.
    fn header(number: usize) -> u64 {
        64 + 56 * number as u64
    }
}

fn position(elf: &Elf, kind: elf::ProgramType, flags: u32) -> usize {
    let is = |s: &allocs_tests::elf::Segment| s.kind == kind.0 && s.flags & flags == flags;
    elf.segments.iter().position(is).expect("a segment")
}

/// DT_RELASZ goes on to the end of DT_JMPREL, as some linkers have it.
fn include_plt(program: &Path) {
    let elf = Elf::read(program);
    let entry = |tag| elf.entry(tag).expect("an entry");
    let (rela, size) = (entry(elf::DT_RELA), entry(elf::DT_RELASZ));
    assert_eq!(rela + size, entry(elf::DT_JMPREL), "the tables are apart");
    let dynamic = &elf.segments[position(&elf, elf::PT_DYNAMIC, 0)];
    let mut slots = dynamic.file.clone().step_by(16);
    let patch = Patch::open(program);
    let tag = elf::DT_RELASZ.0.cast_unsigned();
    let at = slots.find(|at| patch.get(*at) == tag).expect("DT_RELASZ");
    patch.put(at + 8, size + entry(elf::DT_PLTRELSZ));
}

/// The program header table is behind everything, in a segment that a PT_NOTE made way for.
fn headers_last(program: &Path) {
    let elf = Elf::read(program);
    let patch = Patch::open(program);
    let loads = elf.segments.iter().filter(|s| s.kind == elf::PT_LOAD.0);
    let (first, last) = (
        loads.clone().next().expect("a segment").memory.start,
        loads.map(|s| s.memory.end).max().expect("a segment"),
    );
    // As far from the first segment in memory as in the file, for kernels before 5.18.
    let at = patch.end().max(last - first).next_multiple_of(4096);
    let size = 56 * elf.segments.len() as u64;
    let number = position(&elf, elf::PT_NOTE, 0);
    let loaded = [5 << 32 | 1, at, first + at, first + at, size, size, 4096];
    let mut headers: Vec<[u64; 7]> = (0..elf.segments.len())
        .map(|n| std::array::from_fn(|field| patch.get(Patch::header(n) + 8 * field as u64)))
        .collect();
    headers.remove(number);
    let behind = headers.iter().rposition(|h| h[0] & 0xffff_ffff == 1);
    headers.insert(behind.expect("a PT_LOAD") + 1, loaded);
    for (n, header) in headers.iter_mut().enumerate() {
        if header[0] & 0xffff_ffff == 6 {
            (header[1], header[2], header[3]) = (at, first + at, first + at); // PT_PHDR
        }
        for (field, value) in header.iter().enumerate() {
            patch.put(at + 56 * n as u64 + 8 * field as u64, *value);
        }
    }
    patch.put(32, at); // e_phoff
}

/// The segment with the code and the one behind it change places in the table.
fn swap_segments(program: &Path) {
    let elf = Elf::read(program);
    let code = position(&elf, elf::PT_LOAD, elf::PF_X.0);
    let patch = Patch::open(program);
    for at in Patch::header(code)..Patch::header(code) + 56 {
        if at % 8 == 0 {
            let (one, other) = (patch.get(at), patch.get(at + 56));
            patch.put(at, other);
            patch.put(at + 56, one);
        }
    }
}

/// Lets the section header of .dynsym, which no loader reads, speak of one symbol only.
fn shorten_symbols(program: &Path) {
    let patch = Patch::open(program);
    let sections = patch.get(40); // e_shoff
    let kind = |at: u64| patch.get(at) >> 32;
    let size = |at: u64| at + 32;
    let mut headers = (sections..patch.end()).step_by(64);
    let symbols = headers.find(|&at| kind(at) == u64::from(elf::SHT_DYNSYM.0));
    patch.put(size(symbols.expect("a section .dynsym")), 24);
}

/// The section headers follow the program headers, and only they can make way.
fn wild() {
    for pie in [true, false] {
        let dir = Dir::new("wild");
        let linkers = dir.make("linkers");
        symlink(needs::wild(), linkers.join("ld")).expect("a link");
        let search = format!("-B{}", linkers.display());
        let program = build(&dir, pie, &[&search, "-fno-use-linker-plugin"]);
        let comment = Command::new(needs("readelf"))
            .args(["-p", ".comment"])
            .arg(&program)
            .succeed();
        assert!(comment.stdout().contains("Wild"), "{comment}");
        both_ways::check(&dir, &program);
    }
}

/// As a dumped image has it: what was zero is in the file, 1 GiB of it, and there are no sections.
fn large_data() {
    for pie in [true, false] {
        let dir = Dir::new("large-data");
        let program = build(&dir, pie, &["-DLARGE_BSS=0x40000000"]);
        let elf = Elf::read(&program);
        let number = position(&elf, elf::PT_LOAD, elf::PF_W.0);
        let data = &elf.segments[number];
        let patch = Patch::open(&program);
        let size = data.memory.end - data.memory.start;
        patch.0.set_len(data.file.end).expect("cut");
        patch.0.set_len(data.file.start + size).expect("a hole");
        patch.put(Patch::header(number) + 32, size); // p_filesz
        patch.put(40, 0); // e_shoff
        patch.put(56, patch.get(56) & 0xffff_ffff); // e_shnum, e_shstrndx
        drop(patch);
        check_sparse(&dir, &program);
    }
}

/// A section of debug information that is 8 GiB long, nearly all of it a hole.
fn large_debug() {
    let dir = Dir::new("large-debug");
    let program = build(&dir, true, &[]);
    Command::new(needs("objcopy"))
        .args(["--rename-section", ".comment=.debug_info"])
        .arg(&program)
        .succeed();
    let patch = Patch::open(&program);
    let (table, count) = (patch.get(40), patch.get(60) & 0xffff);
    // The only section of strings that is not loaded: SHF_MERGE and SHF_STRINGS.
    let mut headers = (0..count).map(|n| table + 64 * n);
    let header = headers.find(|at| patch.get(at + 8) == 0x30);
    let header = header.expect("what was .comment");
    let end = patch.end();
    patch.put(header + 24, end);
    patch.put(header + 32, 8 << 30);
    patch.0.set_len(end + (8 << 30)).expect("a hole");
    patch.put(end + (8 << 30) - 8, 0x0077_7777);
    drop(patch);
    check_sparse(&dir, &program);
}

/// The same as elsewhere without reading the whole file, which would take longer than all the rest.
fn check_sparse(dir: &Dir, program: &Path) {
    let original = Command::new(program).run();
    assert_eq!(original.code(), Some(5), "{original}");
    for runtime in [None, Some(both_ways::long_name(dir))] {
        let out = dir
            .make(if runtime.is_some() { "grown" } else { "same" })
            .join("program");
        let mut rewrite = Rewrite::new(program, &out);
        if let Some(runtime) = runtime {
            rewrite = rewrite.arg("--runtime").arg(runtime);
        }
        let result = rewrite.map(|command| command.processor_limit(10)).succeed();
        result.command().run().assert_same_as(&original);
        let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
        assert_eq!(report.phase(), "relocation", "{outcome}");
        assert_eq!(report.before_init(), 0, "{outcome}");

        let undone = dir.join("undone");
        Command::new(tool::binary())
            .args(["undo", "-o"])
            .args([&undone, &out])
            .processor_limit(10)
            .succeed();
        for file in [&out, &undone] {
            let metadata = fs::metadata(file).expect("metadata");
            assert!(metadata.blocks() * 512 < 1 << 20, "{metadata:?}");
        }
        assert!(ends(&undone) == ends(program), "undo gives something else");
    }
}

/// Length, beginning and end of a file.
fn ends(path: &Path) -> (u64, Vec<u8>, [u8; 4096]) {
    let patch = Patch::open(path);
    let mut start = vec![0; 64 << 10];
    let read = patch.0.read_at(&mut start, 0).expect("its beginning");
    start.truncate(read);
    let mut end = [0; 4096];
    let at = patch.end() - 4096;
    patch.0.read_exact_at(&mut end, at).expect("its end");
    (patch.end(), start, end)
}
