//! Allocators in the executable, made of assembly: which of their functions cannot be led to the runtime, and
//! what comes of the others.

use std::fs;
use std::path::PathBuf;

use allocs_tests::{Command, Dir, explain, trials};
use libtest_mimic::Trial;

use crate::index::gcc;
use crate::own_allocators::{diverted, rewrite};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["own_allocators":
        instructions_that_cannot_move,
        calls_that_cannot_move,
        what_leads_into_a_function,
        what_looks_like_a_branch,
        what_may_be_a_branch,
        partly,
        names_of_ones_own,
        another_runtime,
    ]
}

/// A program whose malloc and so on are those of `assembly`, which hand out from an array.
pub(crate) fn assembled(dir: &Dir, name: &str, assembly: &str) -> PathBuf {
    let rest = dir.write(
        format!("{name}.c"),
        "#include <stddef.h>
         char heap[1 << 20] __attribute__((aligned(16)));
         size_t used;
         void *get(size_t size) {
             char *chunk = heap + used;
             used += (size + 15) & ~(size_t)15;
             return chunk;
         }
         void *malloc(size_t size);
         void free(void *chunk);
         int main(void) {
             char *chunk = malloc(100);
             chunk[0] = 1;
             free(chunk);
             return 0;
         }\n",
    );
    let code = dir.write(format!("{name}.s"), assembly);
    let program = dir.join(name);
    gcc()
        .args(["-fno-builtin", "-O1", "-o"])
        .args([&program, &rest, &code])
        .succeed();
    program
}

/// `name` as a function with this body.
pub(crate) fn function(name: &str, body: &str) -> String {
    format!(
        ".text\n.p2align 4\n.globl {name}\n.type {name},@function\n{name}:\n{body}\n\
         .size {name}, .-{name}\n.section .note.GNU-stack,\"\",@progbits\n"
    )
}

pub(crate) const FREE: &str = "mov $1, %eax\nret";

pub(crate) const MALLOC: &str = "endbr64\njmp get@PLT";

const CALL: &str = "sub $8, %rsp\ncall get@PLT\nadd $8, %rsp\nret";

/// It has a branch that has no longer form.
pub(crate) const LOOPS: &str = "mov %rdi, %rcx\njrcxz 1f\nmov $1, %eax\n1: ret";

fn refused(name: &str, malloc: &str, free: &str, words: &[&str]) {
    let assembly = function("malloc", malloc) + &function("free", free);
    refused_as_assembled(name, &assembly, words);
}

fn refused_as_assembled(name: &str, assembly: &str, words: &[&str]) {
    let dir = Dir::new(name);
    let program = assembled(&dir, name, assembly);
    Command::new(&program).succeed();
    let all = [&["--partial"], words].concat();
    rewrite(&dir, &program, &[]).refuse(&dir.path(), &program, &all);
    assert!(!dir.join("rewritten").join(name).exists());
    let explanation = explain::of(&program);
    let own = explanation.json["malloc"]["own"].to_string();
    let reason = words.last().expect("a reason");
    assert!(own.contains(reason), "{own}");
}

fn instructions_that_cannot_move() {
    let itself = "call 1f\n1: pop %rax\njmp get@PLT";
    refused(
        "itself",
        itself,
        FREE,
        &["malloc (", "refers to its beginning"],
    );
    let short = "ret\n.byte 0x48, 0x31, 0xc0, 0xc3, 0x90, 0x90";
    let short = format!("{short}\n.size free, 1");
    let dir = Dir::new("short");
    let assembly = function("malloc", MALLOC)
        + &function("free", &short).replace(".size free, .-free", ".size free, 1");
    let program = assembled(&dir, "short", &assembly);
    let words = ["free (", "shorter than the jump"];
    rewrite(&dir, &program, &[]).refuse(&dir.path(), &program, &words);
    refused("loops", MALLOC, LOOPS, &["free (", "128 bytes only"]);
    let bad = "jmp get@PLT\n";
    let undefined = ".byte 0x06, 0x06, 0x06, 0x06, 0x06, 0x06";
    let undefined = format!("test %edi, %edi\njnz 1f\n{undefined}\n1: {bad}");
    refused(
        "undefined",
        &undefined,
        FREE,
        &["malloc (", "cannot be decoded"],
    );
}

/// An exception has to come out of them wherever they are.
fn calls_that_cannot_move() {
    let refused = |name, before: &str, after: &str, reason| {
        let call = format!(".cfi_startproc\n{before}\n{CALL}\n{after}\n.cfi_endproc");
        refused(name, &call, FREE, &["malloc (", "is a call, and ", reason]);
    };
    refused(
        "handler",
        ".cfi_personality 0x1b, get\n.cfi_lsda 0x1b, handlers",
        ".section .rodata\nhandlers: .byte 0xff, 0xff, 1, 0\n.text",
        "the function handles exceptions",
    );
    let odd = [
        ("inside", "0x41, 0x2e, 0"),         // from inside an instruction on
        ("place", "0x0f, 0x02, 0x80, 0x00"), // the CFA is rip
    ];
    for (name, rules) in odd {
        let rules = format!(".cfi_escape {rules}");
        refused(name, &rules, "", "its rules at ");
    }
    refused(
        "relocated",
        "",
        ".quad get",
        "its .eh_frame may be relocated",
    );
    let elsewhere = ".cfi_endproc\n.cfi_startproc\n.cfi_escape 0x01, 0, 0, 0, 0\nnop";
    refused(
        "set_loc",
        "",
        elsewhere,
        "its .eh_frame is of no usual kind",
    );
}

fn what_leads_into_a_function() {
    let back = "push %rbx\n1: mov %rdi, %rbx\ndec %rbx\njz 2f\ntest $1, %bl\nmov %rbx, %rdi\njz 1b\n2: pop %rbx\nret";
    refused(
        "back",
        MALLOC,
        back,
        &["free (", "leads back to its beginning"],
    );
    let inside = format!("xor %eax, %eax\n.globl inside\ninside: test %rdi, %rdi\n{FREE}");
    refused("inside", MALLOC, &inside, &["free (", "has a name"]);
    let elsewhere = format!(
        "xor %eax, %eax\n1: test %rdi, %rdi\n{FREE}\n.section .text.other,\"ax\"\n.p2align 8\nnop\n\
         .zero 300, 0x90\n.byte 0xe9\n.long 1b - . - 4\n.text"
    );
    refused(
        "elsewhere",
        MALLOC,
        &elsewhere,
        &["free (", "leads into it"],
    );
    let table = format!(
        "xor %eax, %eax\n1: test %rdi, %rdi\n{FREE}\n.section .data.rel.ro,\"aw\"\n.quad 1b\n.text"
    );
    refused(
        "table",
        MALLOC,
        &table,
        &["free (", "a relocation is about"],
    );
}

/// `malloc` and `free`, and another function that refers to `1:`, the second instruction of the latter.
fn referred_to(other: &str) -> String {
    let free = format!("xor %eax, %eax\n1: test %rdi, %rdi\n{FREE}");
    let other = format!(".cfi_startproc\n{other}\nret\n.cfi_endproc");
    function("malloc", MALLOC) + &function("free", &free) + &function("other", &other)
}

/// Code that no .eh_frame is about, as assembly may have it, and enough of it for what comes behind to be known.
fn without_frames(other: &str) -> String {
    format!(
        "jmp 4f\n.cfi_endproc\n.rept 60\nmov %rax, %rbx\nadd $7, %ecx\n.endr\n{other}\n4: ret\n.cfi_startproc"
    )
}

/// As often as large programs have it, in a function that is large itself; and in code without .eh_frame.
fn what_looks_like_a_branch() {
    let dir = Dir::new("own-looks-like");
    let others = [
        (
            "jump",
            ".byte 0x48, 0xb8, 0, 0xe9\n.long 1b - . - 4\n.byte 0, 0",
        ), // movabs
        (
            "call",
            ".byte 0x49, 0xbb, 0xe8\n.long 1b - . - 4\n.byte 0, 0, 0",
        ),
        (
            "condition",
            ".byte 0x48, 0xb9, 0x0f, 0x84\n.long 1b - . - 4\n.byte 0, 0",
        ),
    ];
    for (name, other) in others {
        let many = format!("jmp 2f\n.rept 50000\n{other}\n.endr\n2:");
        for other in [many, without_frames(other)] {
            let program = assembled(&dir, name, &referred_to(&other));
            let result = rewrite(&dir, &program, &[]).succeed();
            assert_eq!(diverted(&result), ["malloc", "free"]);
            result.command().succeed();
            assert!(result.undo() == fs::read(&program).expect("the program"));
        }
    }
}

/// It is one behind a prefix; and nobody knows where there is data in code.
fn what_may_be_a_branch() {
    let refused = |name: &str, other: &str| {
        let words = ["free (", "leads into it"];
        refused_as_assembled(name, &referred_to(other), &words);
    };
    let branch = "jmp 3f\n.byte 0xe9\n.long 1b - . - 4\n3:";
    let bnd = "jmp 3f\n.byte 0xf2, 0xe9\n.long 1b - . - 4\n3:";
    // movabs, if one does not see that the first branch leads into it.
    let hidden = "test %edi, %edi\njz 3f\nret\n.byte 0x48, 0xb8\n3: .byte 0xe9\n.long 1b - . - 4\nnop\nnop\nnop";
    for (name, other) in [("branch", branch), ("bnd", bnd), ("hidden", hidden)] {
        refused(name, other);
        refused(&format!("{name}-bare"), &without_frames(other));
    }
    // movabs that ends behind the function.
    refused(
        "cut",
        "jmp 3f\n.byte 0x90\n3: .byte 0x48, 0xb8, 0xe9\n.long 1b - . - 4",
    );
    refused(
        "undecodable",
        ".byte 0x06\n.byte 0x48, 0xb8, 0, 0xe9\n.long 1b - . - 4\n.byte 0, 0",
    );
    // add $4, %al, from each second byte on: whether the last has the branch for its operand, nobody knows.
    for (name, count) in [("even", 200), ("odd", 201)] {
        let other = format!(".fill {count}, 1, 4\n.byte 0xe9\n.long 1b - . - 4");
        refused(name, &without_frames(&other));
    }
}

/// With --partial, the rest is seen, and what is not is named.
fn partly() {
    let dir = Dir::new("own-partly");
    let assembly = function("malloc", CALL) + &function("free", FREE) + &function("calloc", LOOPS);
    let program = assembled(&dir, "partly", &assembly);
    let result = rewrite(&dir, &program, &["--partial"]).succeed();
    assert_eq!(diverted(&result), ["malloc", "free"]);
    let notes = result.json["notes"].to_string();
    assert!(
        notes.contains("calls of these are not seen: calloc (its instruction"),
        "{notes}"
    );
    result.command().succeed();
    // What is told a size has to be seen: the runtime makes chunks larger than the program knows.
    let assembly =
        function("malloc", MALLOC) + &function("free", FREE) + &function("free_sized", LOOPS);
    let program = assembled(&dir, "sized", &assembly);
    let words = ["free_sized (", "128 bytes only", "size"];
    rewrite(&dir, &program, &["--partial"]).refuse(&dir.path(), &program, &words);
}

fn names_of_ones_own() {
    let dir = Dir::new("own-names");
    let assembly = function("my_get", MALLOC) + &function("my_put", FREE);
    let assembly = format!(
        "{assembly}.globl malloc, free\n.hidden malloc, free\n.set malloc, my_get\n.set free, my_put\n"
    );
    let program = assembled(&dir, "names", &assembly);
    let result = rewrite(&dir, &program, &[]).succeed();
    assert_eq!(
        diverted(&result).len(),
        2,
        "one function of two names is one"
    );
    let result = rewrite(&dir, &program, &["--malloc", "my_get=malloc"]).succeed();
    assert_eq!(diverted(&result).len(), 2);
    let refuse = |given: &str, words: &[&str]| {
        rewrite(&dir, &program, &["--malloc", given]).refuse(&dir.path(), &program, words);
    };
    refuse(
        "my_gte=malloc",
        &["my_gte=malloc", "neither .dynsym nor .symtab"],
    );
    refuse("my_get=mallok", &["my_get=mallok", "NAME=FUNCTION"]);
}

/// A runtime without functions for it: the program is rewritten as ever, and the user told.
fn another_runtime() {
    let dir = Dir::new("own-another");
    let source = dir.write(
        "runtime.c",
        "void init(int c, char **v, char **e) { (void)c; (void)v; (void)e; }\n",
    );
    let runtime = dir.join("runtime.so");
    gcc()
        .args(["-shared", "-fPIC", "-o"])
        .args([&runtime, &source])
        .succeed();
    let program = assembled(
        &dir,
        "own",
        &(function("malloc", MALLOC) + &function("free", FREE)),
    );
    let runtime = runtime.to_str().expect("UTF-8");
    let options = ["--runtime", runtime, "--init", "init"];
    let result = rewrite(&dir, &program, &options).succeed();
    assert!(diverted(&result).is_empty());
    let notes = result.json["notes"].to_string();
    assert!(notes.contains("does not lead to the runtime"), "{notes}");
    result.command().succeed();
    let options = [&options[..], &["--malloc", "malloc=malloc"]].concat();
    let words = ["malloc=malloc", "the runtime has no functions"];
    rewrite(&dir, &program, &options).refuse(&dir.path(), &program, &words);
}
