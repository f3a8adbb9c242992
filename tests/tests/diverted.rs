//! Allocators in the executable itself, whose functions lead to the runtime: each chunk is known, with whom it is
//! from, whatever the functions do to each other; and exceptions of operator new get through.
//!
//! What the rewriter does to the functions is done here in assembly, so that these tests say what the runtime does.

use std::path::{Path, PathBuf};

use allocs_tests::report::Report;
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

use crate::index::{answers, compile, gcc};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["diverted":
        stress,
        stress_without_sizes,
    ]
}

/// The functions that can lead to the runtime, in the order in which a table has them.
const FUNCTIONS: &str = "malloc calloc realloc reallocarray free cfree memalign posix_memalign
    aligned_alloc valloc pvalloc malloc_usable_size free_sized free_aligned_sized
    _Znwm _Znam _ZnwmRKSt9nothrow_t _ZnamRKSt9nothrow_t _ZnwmSt11align_val_t _ZnamSt11align_val_t
    _ZnwmSt11align_val_tRKSt9nothrow_t _ZnamSt11align_val_tRKSt9nothrow_t
    _ZdlPv _ZdaPv _ZdlPvm _ZdaPvm _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t
    _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t
    _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t
    mallocx rallocx xallocx";

/// The whole malloc family.
const FAMILY: &str = "malloc calloc realloc reallocarray free cfree memalign posix_memalign
    aligned_alloc valloc pvalloc malloc_usable_size";

/// An allocator whose functions lead to the runtime.
struct Diverted<'a> {
    name: &'a str,
    /// What the names of its functions begin with, as the program calls them.
    prefix: &'a str,
    /// What the names of the functions begin with that they lead to in the end.
    original: &'a str,
    functions: &'a str,
}

impl Diverted<'_> {
    /// Assembly that defines the functions, each as the jump to its entry, and what that needs.
    fn write(&self, dir: &Dir) -> PathBuf {
        let Self {
            name,
            prefix,
            original,
            functions,
        } = self;
        let mut text = String::new();
        for function in functions.split_whitespace() {
            text += &format!(
                ".text
                .globl {prefix}{function}
                .type {prefix}{function}, @function
                {prefix}{function}:
                .cfi_startproc
                endbr64
                lea table_{name}(%rip), %r11
                jmp *slot_{name}_{function}(%rip)
                .cfi_endproc
                .size {prefix}{function}, . - {prefix}{function}
                .section .data.rel.ro, \"aw\"
                .balign 8
                slot_{name}_{function}: .quad allocs_divert_{function}\n"
            );
        }
        text += &format!(".section .rodata\n.balign 8\ntable_{name}: .quad 0\n");
        for function in FUNCTIONS.split_whitespace() {
            let is_diverted = functions.split_whitespace().any(|name| name == function);
            text += &match is_diverted {
                true => format!(".quad {original}{function} - table_{name}\n"),
                false => ".quad 0\n".to_owned(),
            };
        }
        text += &format!(".asciz \"{name}\"\n.section .note.GNU-stack, \"\", @progbits\n");
        dir.write(&format!("{name}.s"), &text)
    }
}

/// The runtime's functions are found when the program is started.
const UNRESOLVED: &str = "-Wl,--unresolved-symbols=ignore-in-object-files";

fn rewrite(dir: &Dir, program: &Path) -> PathBuf {
    let name = program.file_name().expect("a name");
    Rewrite::new(program, dir.make("rewritten").join(name))
        .succeed()
        .path
}

/// `path` as an argument.
fn text(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name)
}

/// Runs `command`, which is silent but for what it prints at the end, and asks the index.
fn known(dir: &Dir, command: &Command, least: u64) {
    let file = dir.join("answers");
    let outcome = command.clone().env("ANSWERS", &file).run();
    assert_eq!(outcome.code(), Some(0), "{outcome}");
    assert_eq!(outcome.stdout(), "done\n", "{outcome}");
    assert_eq!(outcome.stderr(), "", "{outcome}");
    let answers = answers(&file);
    assert!(answers > least, "{outcome}{answers} answers");
}

fn stress_own(functions: &str, more: &[&str]) {
    let dir = Dir::new("diverted-stress");
    let own = source("own_malloc.c");
    let entries = Diverted {
        name: "own",
        prefix: "",
        original: "own_",
        functions,
    }
    .write(&dir);
    let mut flags = vec![
        text(&own),
        text(&entries),
        UNRESOLVED,
        "-DALLOCATOR=\"own\"",
    ];
    flags.extend(more);
    let program = rewrite(&dir, &compile(&dir, gcc(), "stress.c", &flags));
    for threads in ["1", "4"] {
        known(
            &dir,
            &Command::new(&program).args([threads, "100000", "1", "foreign"]),
            10_000,
        );
    }
}

fn stress() {
    stress_own(FAMILY, &[]);
}

/// An allocator that does not say how large its chunks are.
fn stress_without_sizes() {
    let functions = FAMILY.replace("malloc_usable_size", "");
    stress_own(&functions, &["-DUSABLE(chunk,size)=((size)<16?16:(size))"]);
}
