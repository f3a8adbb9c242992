//! Whatever linker made the file, and however it laid it out: rewritten, it is sound and runs the
//! same.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use allocs_tests::elf::Elf;
use allocs_tests::report::Report;
use allocs_tests::sample::{Sample, Variant};
use allocs_tests::tool::{self, RUNTIME, Rewritten};
use allocs_tests::{Command, Dir, Outcome, Rewrite, both_ways, needs, structure, trial};
use libtest_mimic::Trial;

/// What is done to a program after it was linked.
type Change = fn(&Path);

/// Name, compiler, flags, change.
type Layout = (&'static str, &'static str, &'static [&'static str], Change);

const LAYOUTS: &[Layout] = &[
    ("bfd", "gcc", &["-fuse-ld=bfd"], nothing),
    ("gold", "gcc", &["-fuse-ld=gold"], nothing),
    ("lld", "clang", &["-fuse-ld=lld"], nothing),
    ("mold", "clang", &["-fuse-ld=mold"], nothing),
    (
        "lld-no-rosegment",
        "clang",
        &["-fuse-ld=lld", "-Wl,--no-rosegment"],
        nothing,
    ),
    (
        "lld-64k-pages",
        "clang",
        &["-fuse-ld=lld", "-Wl,-z,max-page-size=65536"],
        nothing,
    ),
    (
        "lld-rodynamic",
        "clang",
        &["-fuse-ld=lld", "-Wl,-z,rodynamic"],
        nothing,
    ),
    (
        "lld-rodynamic-norelro",
        "clang",
        &["-fuse-ld=lld", "-Wl,-z,rodynamic,-z,norelro"],
        nothing,
    ),
    ("64k-pages", "gcc", &["-Wl,-z,max-page-size=65536"], nothing),
    (
        "no-separate-code",
        "gcc",
        &["-Wl,-z,noseparate-code"],
        nothing,
    ),
    ("norelro", "gcc", &["-Wl,-z,norelro"], nothing),
    ("hash-sysv", "gcc", &["-Wl,--hash-style=sysv"], nothing),
    ("hash-both", "gcc", &["-Wl,--hash-style=both"], nothing),
    ("hash-gnu", "gcc", &["-Wl,--hash-style=gnu"], nothing),
    (
        "gold-hash-sysv",
        "gcc",
        &["-fuse-ld=gold", "-Wl,--hash-style=sysv"],
        nothing,
    ),
    ("relr", "gcc", &["-Wl,-z,pack-relative-relocs"], nothing),
    (
        "no-dynamic-undefined-weak",
        "gcc",
        &["-Wl,-z,nodynamic-undefined-weak"],
        nothing,
    ),
    ("no-combreloc", "gcc", &["-Wl,-z,nocombreloc"], nothing),
    (
        "no-new-dtags",
        "gcc",
        &["-Wl,--disable-new-dtags,-rpath,/nonexistent"],
        nothing,
    ),
    (
        "no-start-files",
        "gcc",
        &["-nostartfiles", "-DOWN_START"],
        nothing,
    ),
    ("build-id", "gcc", &["-Wl,--build-id=sha1"], nothing),
    ("no-build-id", "gcc", &["-Wl,--build-id=none"], nothing),
    (
        "cet",
        "gcc",
        &["-fcf-protection=full", "-Wl,-z,ibt,-z,shstk"],
        nothing,
    ),
    ("executable-stack", "gcc", &["-Wl,-z,execstack"], nothing),
    ("large-bss", "gcc", &["-DLARGE_BSS=0x40000000"], nothing),
    (
        "huge-bss",
        "gcc",
        &["-mcmodel=medium", "-DLARGE_BSS=0x80000000"],
        nothing,
    ),
    (
        "text-relocations",
        "gcc",
        &["-fno-pie", "-mcmodel=large", "-Wl,-z,notext"],
        nothing,
    ),
    ("export-dynamic", "gcc", &["-rdynamic"], nothing),
    ("debug-info", "gcc", &["-g3"], nothing),
    ("debug-info-zlib", "gcc", &["-g3", "-gz=zlib"], nothing),
    ("stripped", "gcc", &["-s"], nothing),
    ("sectionless", "gcc", &[], without_sections),
    (
        "lld-sectionless",
        "clang",
        &["-fuse-ld=lld"],
        without_sections,
    ),
    ("after-patchelf", "gcc", &[], with_rpath_by_patchelf),
    ("after-objcopy", "gcc", &[], with_section_by_objcopy),
];

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = vec![
        trial("layouts::asan-finds-errors::clang", asan_finds_errors_clang),
        trial("layouts::asan-finds-errors::gcc", asan_finds_errors_gcc),
        trial("layouts::absolute-runtime", absolute_runtime),
        trial("layouts::soname-runtime", soname_runtime),
        trial("layouts::many-preinit-entries", many_preinit_entries),
        trial("layouts::a-page-for-dynamic", a_page_for_dynamic),
        trial("layouts::program-headers-move", program_headers_move),
        trial("layouts::spare-program-headers", spare_program_headers),
        trial("layouts::go-pie", go_pie),
        trial("layouts::rustc", rustc),
    ];
    for layout in LAYOUTS {
        for pie in [true, false] {
            for long in [false, true] {
                let name = format!(
                    "layouts::{}::{}{}",
                    layout.0,
                    if pie { "pie" } else { "non-pie" },
                    if long { "::long-name" } else { "" }
                );
                all.push(trial(name, move || runs_the_same(layout, pie, long)));
            }
        }
    }
    all
}

/// Allocates, uses thread-local data, a constructor, a weak symbol, relocated data and a vDSO call.
const PROGRAM: &str = r#"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

extern int absent(void) __attribute__((weak));
static __thread int per_thread = 41;
static const char *const names[] = {"one", "two", "three"};
static char *early;
#ifdef LARGE_BSS
static char large[LARGE_BSS];
#endif
#ifdef OWN_START
// What crt1.o does, without the rest of it, and without its weak symbols.
__asm__(".globl _start\n_start: mov %rdx, %r9\n mov (%rsp), %rsi\n lea 8(%rsp), %rdx\n"
        "lea main(%rip), %rdi\n xor %ecx, %ecx\n xor %r8d, %r8d\n and $-16, %rsp\n"
        "push %rax\n push %rsp\n call __libc_start_main@PLT\n");
#endif

__attribute__((constructor)) static void start(void) { early = strdup("constructor"); }
__attribute__((destructor)) static void end(void) { printf("destructor\n"); fflush(stdout); }

int main(void) {
    char *copy = malloc(12345);
    snprintf(copy, 12345, "%s %s %d", names[per_thread % 3], early ? early : "none", ++per_thread);
    puts(copy);
    puts(absent ? "present" : "absent");
    puts(time(NULL) > 0 ? "time" : "no time");
#ifdef LARGE_BSS
    large[sizeof large - 1] = 1;
    printf("%d\n", large[sizeof large - 1]);
#endif
    free(copy);
    free(early);
    exit(5);
}
"#;

fn build(dir: &Dir, compiler: &str, pie: bool, flags: &[&str], code: &str) -> std::path::PathBuf {
    let source = dir.write("program.c", code);
    let program = dir.make("original").join("program");
    for flag in flags {
        match *flag {
            "-fuse-ld=lld" => drop(needs("ld.lld")),
            "-fuse-ld=mold" => drop(needs("mold")),
            "-fuse-ld=gold" => drop(needs("ld.gold")),
            _ => {}
        }
    }
    let pie = if pie {
        ["-fPIE", "-pie"]
    } else {
        ["-fno-pie", "-no-pie"]
    };
    Command::new(needs(compiler))
        .args(pie)
        .arg("-O1")
        .arg(source)
        .arg("-o")
        .arg(&program)
        .args(flags)
        .succeed();
    program
}

fn runs_the_same((name, compiler, flags, change): &Layout, pie: bool, long: bool) {
    let dir = Dir::new(name);
    let program = build(&dir, compiler, pie, flags, PROGRAM);
    change(&program);
    let result = both_ways::check_one(&dir, &program, long);
    if program_has_sections(&program) {
        let stripped = structure::stripped(&result);
        let original = Command::new(&program).run();
        Command::new(stripped).run().assert_same_as(&original);
    }
}

/// Without sections, `strip` has nothing to do and says so.
fn program_has_sections(program: &Path) -> bool {
    fs::read(program).expect("the program")[40..48] != [0; 8]
}

fn nothing(_: &Path) {}

/// e_shoff, e_shnum and e_shstrndx are 0: as `sstrip` and some packers leave it.
fn without_sections(program: &Path) {
    let mut bytes = fs::read(program).expect("the program");
    bytes[40..48].fill(0);
    bytes[60..64].fill(0);
    fs::write(program, bytes).expect("the program");
}

fn with_rpath_by_patchelf(program: &Path) {
    let patchelf = Command::new(needs("patchelf"));
    let rpath = "/nonexistent/with/a/name/that/needs/room";
    patchelf.args(["--set-rpath", rpath]).arg(program).succeed();
}

fn with_section_by_objcopy(program: &Path) {
    let objcopy = Command::new(needs("objcopy"));
    objcopy
        .args(["--add-section", ".extra=/etc/passwd"])
        .arg(program)
        .succeed();
}

/// The sanitizer still sees the program's own errors.
fn asan_finds_errors(compiler: &'static str) {
    let dir = Dir::new("asan");
    let variant = Variant {
        compiler,
        ..Variant::GCC
    };
    let program = Sample::named("sanitized").build(&dir.path(), variant, &[]);
    let result = Rewrite::new(program, dir.join("rewritten")).succeed();
    let outcome = result.command().arg("fault").run();
    assert_eq!(outcome.code(), Some(1), "{outcome}");
    assert!(
        outcome.stderr().contains("heap-use-after-free"),
        "{outcome}"
    );
}

fn asan_finds_errors_clang() {
    asan_finds_errors("clang");
}

fn asan_finds_errors_gcc() {
    asan_finds_errors("gcc");
}

/// The result can be moved away from where it was made, without a file beside it.
fn absolute_runtime() {
    let dir = Dir::new("absolute");
    let program = build(&dir, "gcc", true, &[], PROGRAM);
    let out = dir.make("rewritten").join("program");
    let rewrite = Rewrite::new(&program, &out)
        .arg("--runtime")
        .arg(tool::runtime());
    let result = rewrite.succeed();
    structure::check(&result, &tool::runtime().display().to_string());
    let written = fs::read_dir(dir.join("rewritten"))
        .expect("a listing")
        .count();
    assert_eq!(written, 1, "a runtime was written, too");
    let elsewhere = dir.make("elsewhere").join("program");
    fs::rename(&out, &elsewhere).expect("moved");
    let (outcome, report) = Report::of(&Command::new(elsewhere), &dir.join("r.json"));
    assert_eq!(report.phase(), "relocation", "{outcome}");
}

/// A bare soname is looked up as any library is.
fn soname_runtime() {
    let dir = Dir::new("soname");
    let program = build(&dir, "gcc", true, &[], PROGRAM);
    let out = dir.join("rewritten");
    let result = Rewrite::new(&program, &out)
        .arg("--runtime")
        .arg(RUNTIME)
        .succeed();
    structure::check(&result, RUNTIME);
    let missing = result.command().run();
    assert_eq!(
        missing.code(),
        Some(127),
        "{missing}without the library, the loader says so"
    );
    let libraries = tool::runtime().parent().expect("a directory");
    let command = result.command().env("LD_LIBRARY_PATH", libraries);
    let (outcome, report) = Report::of(&command, &dir.join("r.json"));
    assert_eq!(report.phase(), "relocation", "{outcome}");
}

/// More entries than any spare room has, all in their order.
fn many_preinit_entries() {
    use std::fmt::Write;
    let mut code = "#include <stdio.h>\nstatic int order[500], used;\n".to_owned();
    let mut entries = Vec::new();
    for n in 0..500 {
        writeln!(code, "static void e{n}(void) {{ order[used++] = {n}; }}").expect("a string");
        entries.push(format!("e{n}"));
    }
    writeln!(
        code,
        "__attribute__((section(\".preinit_array\"), used)) static void (*all[])(void) = {{{}}};
         int main(void) {{
             for (int i = 0; i < 500; i++)
                 if (order[i] != i) return 1;
             puts(\"in order\");
             return used == 500 ? 0 : 2;
         }}",
        entries.join(", ")
    )
    .expect("a string");
    for pie in [true, false] {
        let dir = Dir::new("many-entries");
        let program = build(&dir, "gcc", pie, &[], &code);
        let original = Command::new(&program).succeed();
        let result = Rewrite::new(&program, dir.join("rewritten")).succeed();
        structure::check(&result, &format!("$ORIGIN/{RUNTIME}"));
        result.command().run().assert_same_as(&original);
    }
}

/// lld leaves no spare entry in .dynamic: it moves to the RELRO pages, and the file gets a page more,
/// however much there is under RELRO.
fn a_page_for_dynamic() {
    let code = format!(
        "{PROGRAM}\nvoid *const many[1 << 17] = {{[0 ... (1 << 17) - 1] = (void *) main}};"
    );
    for pie in [true, false] {
        let dir = Dir::new("a-page");
        let program = build(&dir, "clang", pie, &["-fuse-ld=lld"], &code);
        let result = both_ways::check_one(&dir, &program, false);
        assert_eq!(result.moved(), [".dynamic"]);
        let size = &result.json["size"];
        let bytes = |name: &str| size[name].as_u64().expect("a size");
        assert!(bytes("before") > 1 << 20, "{size}");
        assert_eq!(bytes("after") - bytes("before"), 4096, "{size}");
    }
}

/// What follows the program headers is named by no segment and no dynamic entry: who uses it, nobody
/// can tell, so it cannot make way for another header, and the table moves. Kernels before 5.18 add
/// its file offset to the address of the first segment.
fn program_headers_move() {
    for flags in [
        &["-pie"][..],
        &["-no-pie"],
        &["-no-pie", "-DLARGE_BSS=0x4000000"],
    ] {
        let dir = Dir::new("program-headers-move");
        let program = build(&dir, "gcc", flags[0] == "-pie", flags, PROGRAM);
        let mut bytes = fs::read(&program).expect("a program");
        let headers = 64..64 + 56 * usize::from(bytes[56]);
        for header in bytes[headers]
            .chunks_mut(56)
            .filter(|h| h[..4] == [4, 0, 0, 0])
        {
            header[3] = 0x60; // PT_NOTE becomes a kind that only its system knows
        }
        fs::write(&program, &bytes).expect("the program, mode kept");
        let original = Command::new(&program).run();
        assert_eq!(original.code(), Some(5), "{original}");
        let result = starts_a_long_name(&dir, &program, &original);
        structure::check_sections(&result);

        let elf = Elf::read(&result.path);
        let table = u64::from_le_bytes(elf.bytes()[32..40].try_into().expect("e_phoff"));
        assert!(table > 64, "{flags:?}: the table did not move");
        let first = elf.segment(object::elf::PT_LOAD.0).expect("a PT_LOAD");
        let told = elf.segment(object::elf::PT_PHDR.0).expect("a PT_PHDR");
        assert_eq!(told.memory.start, first.memory.start + table, "{flags:?}");
        let (outcome, report) = Report::of(&result.command(), &dir.join("report.json"));
        assert_eq!(report.before_init(), 0, "{outcome}");
        // A hole where memory has more than the file takes no room on the disk.
        let metadata = fs::metadata(&result.path).expect("metadata");
        assert!(metadata.blocks() * 512 < 1 << 20, "{metadata:?}");
    }
}

/// The program rewritten for a runtime with a name that nothing recycled has room for; it does what it did.
fn starts_a_long_name(dir: &Dir, program: &Path, original: &Outcome) -> Rewritten {
    let runtime = both_ways::long_name(dir);
    let result = Rewrite::new(program, dir.join("rewritten"))
        .arg("--runtime")
        .arg(&runtime)
        .succeed();
    result.command().run().assert_same_as(original);
    structure::check(&result, &runtime.display().to_string());
    result
}

/// Program headers that say nothing are taken for new segments, as many as there are; the others still come behind them.
fn spare_program_headers() {
    let dir = Dir::new("spare-program-headers");
    let program = build(&dir, "gcc", true, &[], PROGRAM);
    let good = fs::read(&program).expect("a program");
    let notes = |bytes: &[u8]| {
        let headers = (64..64 + 56 * usize::from(bytes[56])).step_by(56);
        let is_note = |&at: &usize| bytes[at..at + 4] == [4, 0, 0, 0];
        headers.filter(is_note).collect::<Vec<_>>()
    };
    assert!(notes(&good).len() >= 2, "two notes");
    for spare in 1..=notes(&good).len() {
        let mut bytes = good.clone();
        for header in notes(&good).into_iter().take(spare) {
            bytes[header] = 0; // PT_NULL
        }
        fs::write(&program, &bytes).expect("the program, mode kept");
        let original = Command::new(&program).run();
        let result = starts_a_long_name(&dir, &program, &original);
        assert!(result.undo() == bytes, "{spare}: undo");
        let after = fs::read(&result.path).expect("the result");
        assert_eq!(
            (after[32], after[56]),
            (64, good[56]),
            "{spare}: e_phoff, e_phnum"
        );
    }
}

/// Go's own linker: no symbols but the first, .dynamic outside RELRO, which is a segment of its own and
/// ends within a page.
fn go_pie() {
    real_program(&needs("/usr/bin/age-keygen"));
}

/// LLD's PT_GNU_RELRO goes on to the end of a page. Its segment moves behind all others here, and the
/// file need not have so much.
fn rustc() {
    let sysroot = std::process::Command::new("rustc")
        .args(["--print", "sysroot"])
        .output();
    let sysroot = String::from_utf8(sysroot.expect("rustc").stdout).expect("a path");
    real_program(&Path::new(sysroot.trim()).join("bin/rustc"));
}

/// Rewritten, its structure is right, and it prints its version; its own libraries are found by path.
fn real_program(program: &Path) {
    let dir = Dir::new("real-program");
    let name = program.file_name().expect("a name");
    let library_path = program.with_file_name("../lib");
    let version = |program: &Path| {
        Command::new(program)
            .arg("--version")
            .env("LD_LIBRARY_PATH", &library_path)
            .succeed()
    };
    let result = Rewrite::new(program, dir.join(name)).succeed();
    structure::check(&result, &format!("$ORIGIN/{RUNTIME}"));
    version(&result.path).assert_same_as(&version(program));
}
