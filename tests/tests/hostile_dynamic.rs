//! Files whose dynamic section says what is not so: an error or a verified output, as in `hostile`.

use allocs_tests::elf::Elf;
use allocs_tests::sample::Variant;
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;
use object::elf;

use crate::hostile::{Target, dynamic};

pub(crate) fn trials() -> Vec<Trial> {
    trials!["hostile_dynamic":
        relocation_of_a_spare_entry,
        names_without_an_end,
        equal_dynamic_entries,
        size_without_preinit_array,
        relative_relocations_without_an_end,
    ]
}

/// A relocation that fills what will be the new preinit entry: it would undo the new one's work.
fn relocation_of_a_spare_entry() {
    let mut target = Target::new("spare-entry", Variant::GCC);
    let elf = Elf::read(target.dir.join("threads"));
    let slot = elf.dynamic_range().end - 8;
    let table = elf.entry(elf::DT_RELA).expect("DT_RELA");
    let mut bytes = target.good.clone();
    // Its addresses are its file offsets in the first segment.
    let at = usize::try_from(table).expect("an offset");
    bytes[at..at + 8].copy_from_slice(&slot.to_le_bytes());
    target.rewrite(&bytes, &|| format!("relocation 0 changes {slot:#x}"));
    assert_eq!((target.accepted, target.refused), (0, 1));
}

/// DT_STRSZ ends in the middle of a name. What a rewrite accepts then, undo has to accept as well.
fn names_without_an_end() {
    let mut target = Target::new("names", Variant::GCC);
    let dynamic = dynamic(&target.good);
    let mut entries = dynamic.step_by(16);
    let strsz = entries.find(|&at| target.good[at] == 10).expect("DT_STRSZ");
    for less in 0..200 {
        let mut bytes = target.good.clone();
        let size = u64::from_le_bytes(bytes[strsz + 8..strsz + 16].try_into().expect("8 bytes"));
        bytes[strsz + 8..strsz + 16].copy_from_slice(&(size - less).to_le_bytes());
        target.rewrite(&bytes, &|| format!("DT_STRSZ is {less} less"));
    }
    target.finish();
}

/// A second entry of each kind, nearly like the first: the rewriter, its verifier and undo take the same one.
fn equal_dynamic_entries() {
    let mut target = Target::new("equal-entries", Variant::GCC);
    let good = target.good.clone();
    let spare = dynamic(&good).step_by(16).find(|&at| good[at] == 21);
    let spare = spare.expect("DT_DEBUG");
    for at in dynamic(&good).step_by(16) {
        let value = u64::from_le_bytes(good[at + 8..at + 16].try_into().expect("8 bytes"));
        for change in [0, 1, 8, 24, !7] {
            let mut bytes = good.clone();
            bytes.copy_within(at..at + 8, spare);
            let value = value.wrapping_add(change).to_le_bytes();
            bytes[spare + 8..spare + 16].copy_from_slice(&value);
            target.rewrite(&bytes, &|| format!("entry at {at} twice, {change:#x} more"));
        }
    }
    target.finish();
}

/// DT_PREINIT_ARRAYSZ alone, of any size, is no preinit array.
fn size_without_preinit_array() {
    let mut target = Target::new("size-alone", Variant::GCC);
    let mut entries = dynamic(&target.good).step_by(16);
    let spare = entries.find(|&at| target.good[at] == 21);
    let spare = spare.expect("DT_DEBUG");
    for size in [1, 8, u64::MAX - 7, u64::MAX] {
        let mut bytes = target.good.clone();
        bytes[spare..spare + 8].copy_from_slice(&elf::DT_PREINIT_ARRAYSZ.0.to_le_bytes());
        bytes[spare + 8..spare + 16].copy_from_slice(&size.to_le_bytes());
        target.rewrite(&bytes, &|| format!("DT_PREINIT_ARRAYSZ is {size}"));
    }
    assert_eq!((target.accepted, target.refused), (4, 0));
}

/// Those relocations that DT_RELACOUNT says are there and are not: a loader would take the new one for one of
/// them, and fill the preinit entry with the load bias.
fn relative_relocations_without_an_end() {
    counted_as_relative(Target::new("relative", Variant::GCC), "threads");
    // musl does not count, but the file is as wrong.
    let dir = Dir::in_memory("relative-musl");
    let source = dir.write("main.c", "int main(void) { return 0; }\n");
    let program = dir.join("main");
    let compiler = Command::new(needs("musl-gcc")).args(["-fPIE", "-pie", "-o"]);
    compiler.args([&program, &source]).succeed();
    counted_as_relative(Target::with(dir, &program), "main");
}

fn counted_as_relative(mut target: Target, program: &str) {
    let elf = Elf::read(target.dir.join(program));
    let size = elf.entry(elf::DT_RELASZ).expect("DT_RELASZ");
    let tag = elf::DT_RELACOUNT.0.to_le_bytes();
    let mut entries = dynamic(&target.good).step_by(16);
    let count = entries.find(|&at| target.good[at..at + 8] == tag);
    let count = count.expect("DT_RELACOUNT") + 8;
    for said in [size / 24, size / 24 + 1, u64::MAX] {
        let mut bytes = target.good.clone();
        bytes[count..count + 8].copy_from_slice(&said.to_le_bytes());
        target.rewrite(&bytes, &|| format!("DT_RELACOUNT is {said}"));
    }
    assert_eq!((target.accepted, target.refused), (1, 2));
}
