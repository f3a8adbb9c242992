//! The same for what a program with a malloc of its own has for unwinding: .eh_frame and its search table, spoilt.

use std::fs;

use allocs_tests::{Dir, trials};
use fastrand::Rng;
use libtest_mimic::Trial;
use object::{Object, ObjectSection};

use crate::hostile::{HARD, SEED, Target};
use crate::own_allocators::rewrite;
use crate::own_allocators_refused::{MALLOC, assembled, function};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["hostile":
        bytes_for_unwinding,
        words_for_unwinding,
        many_changes_for_unwinding,
        much_in_common_for_unwinding,
        a_pointer_for_unwinding_that_leads_nowhere,
    ]
}

/// Functions with each kind of record that compilers make; the first may not move if nothing unwinds there. `others`
/// are behind them.
fn target(name: &str, others: &str) -> Target {
    let call = "sub $8, %rsp\n.cfi_def_cfa_offset 16\ncall get@PLT\nadd $8, %rsp\n.cfi_def_cfa_offset 8\nret";
    let framed = "push %rbp\n.cfi_def_cfa_offset 16\n.cfi_offset %rbp, -16\nmov %rsp, %rbp\n\
                  .cfi_def_cfa_register %rbp\ntest %rdi, %rdi\npop %rbp\n.cfi_def_cfa %rsp, 8\nret";
    let handles = format!(".cfi_personality 0x1b, get\n.cfi_lsda 0x1b, handlers\n{framed}");
    let indirect = format!(".cfi_personality 0x9b, leads\n.cfi_lsda 0x1b, handlers\n{framed}");
    let expression = format!("push %rbx\n.cfi_escape 0x0f, 0x03, 0x77, 0x10, 0x06\n{framed}");
    let functions = [
        ("malloc", call),
        ("free", framed),
        ("calloc", &handles),
        ("realloc", &expression),
        ("other", &indirect),
    ];
    let functions = functions
        .map(|(name, body)| function(name, &format!(".cfi_startproc\n{body}\n.cfi_endproc")));
    let data =
        ".section .rodata\nhandlers: .byte 0xff, 0xff, 1, 0\n.data\n.p2align 3\nleads: .quad get\n";
    let assembly = functions.concat() + data + others;
    let (sources, dir) = (Dir::new("hostile-sources"), Dir::in_memory(name));
    let program = dir.join("own");
    fs::copy(assembled(&sources, "own", &assembly), &program).expect("a program");
    let mut target = Target::with(dir, &program);
    target.everyday = true;
    target
}

/// File offsets of all bytes of .eh_frame and .eh_frame_hdr.
fn places(program: &[u8]) -> Vec<usize> {
    let file = object::File::parse(program).expect("an ELF file");
    let sections = [".eh_frame_hdr", ".eh_frame"].map(|name| {
        let section = file.section_by_name(name).expect("the section");
        let (at, size) = section.file_range().expect("bytes");
        at..at + size
    });
    let places = sections.into_iter().flatten();
    places
        .map(|at| usize::try_from(at).expect("an offset"))
        .collect()
}

fn bytes_for_unwinding() {
    let mut target = target("hostile-unwinding-bytes", "");
    let good = target.good.clone();
    for at in places(&good) {
        let old = good[at];
        for value in [
            0,
            1,
            2,
            0x7f,
            0x80,
            0xff,
            old ^ 1,
            old.wrapping_add(8),
            !old,
        ] {
            let mut bytes = good.clone();
            bytes[at] = value;
            target.rewrite(&bytes, &|| format!("byte {at} = {value:#04x}"));
        }
    }
    target.finish();
}

fn words_for_unwinding() {
    let mut target = target("hostile-unwinding-words", "");
    let good = target.good.clone();
    for at in places(&good).into_iter().step_by(2) {
        let old = u32::from_le_bytes(good[at..at + 4].try_into().expect("4 bytes"));
        let hard = HARD.iter().map(|&hard| hard as u32);
        for value in hard.flat_map(|hard| [hard, old.wrapping_add(hard)]) {
            let mut bytes = good.clone();
            bytes[at..at + 4].copy_from_slice(&value.to_le_bytes());
            target.rewrite(&bytes, &|| format!("word at {at} = {value:#x}"));
        }
    }
    target.finish();
}

fn many_changes_for_unwinding() {
    let mut target = target("hostile-unwinding-changes", "");
    let mut rng = Rng::with_seed(SEED);
    let places = places(&target.good);
    for round in 0..5_000 {
        let mut bytes = target.good.clone();
        let mut changes = Vec::new();
        for _ in 0..=rng.usize(1..4) {
            let at = places[rng.usize(..places.len())];
            // Records of another length, and rules of another kind, are there already.
            bytes[at] = match rng.bool() {
                true => rng.u8(..),
                false => target.good[places[rng.usize(..places.len())]],
            };
            changes.push(format!("byte {at} = {:#04x}", bytes[at]));
        }
        target.rewrite(&bytes, &|| {
            format!("seed {SEED:#x}, round {round}: {changes:?}")
        });
    }
    target.finish();
}

/// What functions have in common is looked at once, not for each of them.
fn much_in_common_for_unwinding() {
    let others = r#"
.section .eh_frame,"a",@progbits
1: .long 3f - 2f
2: .long 0
.byte 1
.asciz "zR"
.byte 1, 0x78, 16, 1, 0x1b, 0x0c, 7, 8, 0x90, 1
.fill 1 << 19, 2, 0x0308
.p2align 2
3:
.set number, 0
.rept 20000
.long 16, . - 1b, many + number - ., 1, 0
.set number, number + 1
.endr
.text
many: .zero 20000, 0x90
"#;
    let mut target = target("hostile-unwinding-common", others);
    let good = target.good.clone();
    target.rewrite(&good, &|| "20,000 functions".to_owned());
    assert_eq!((target.accepted, target.refused), (1, 0));
}

/// What is wrong is said of it, and the program is as good as without records for unwinding.
fn a_pointer_for_unwinding_that_leads_nowhere() {
    let dir = Dir::new("unwinding-nowhere");
    let framed =
        "push %rbp\n.cfi_def_cfa_offset 16\nmov %rdi, %rax\npop %rbp\n.cfi_def_cfa_offset 8\nret";
    let handles = format!(
        ".cfi_startproc\n.cfi_personality 0x1b, get\n.cfi_lsda 0x1b, handlers\n{framed}\n.cfi_endproc"
    );
    let assembly = function("malloc", MALLOC)
        + &function("free", &handles)
        + ".section .rodata\nhandlers: .byte 0xff, 0xff, 1, 0\n";
    let program = assembled(&dir, "nowhere", &assembly);
    let mut bytes = fs::read(&program).expect("the program");
    let personality = b"zPLR\0\x01\x78\x10";
    let mut found = bytes.windows(personality.len());
    let at = found
        .position(|bytes| bytes == personality)
        .expect("a personality");
    // Behind the length of what the letters stand for, and how it is encoded.
    let at = at + personality.len() + 2;
    bytes[at..at + 4].copy_from_slice(&i32::MAX.to_le_bytes());
    fs::write(&program, bytes).expect("the program");
    let result = rewrite(&dir, &program, &[]).succeed();
    let notes = result.json["notes"].to_string();
    assert!(
        notes.contains("its .eh_frame has a pointer at 0x") && notes.contains("out of the program"),
        "{notes}"
    );
    result.command().succeed();
}
