//! What must be true of every rewritten file, whatever its layout: read from the file itself.

use std::collections::BTreeSet;
use std::fs;
use std::ops::Range;
use std::path::Path;

use object::elf;

use crate::elf::{Elf, Segment, Slot};
use crate::tool::{INIT, Rewritten};
use crate::{Command, needs};

/// A recycling rewrite changes at most this many bytes.
const FEW: usize = 200;

/// Fails unless `result` has what was promised and kept what it had. `needed` is the DT_NEEDED
/// string that it got.
pub fn check(result: &Rewritten, needed: &str) {
    check_tables(result, needed);
    let path = result.path.display();
    let original = fs::read(&result.original).expect("the original");
    assert!(
        result.undo() == original,
        "{path}: undo does not give the original"
    );
}

/// The same without the way back.
pub fn check_tables(result: &Rewritten, needed: &str) {
    let (old, new) = (Elf::read(&result.original), Elf::read(&result.path));
    let path = result.path.display();

    let mut libraries = vec![needed.to_owned()];
    libraries.extend(old.needed());
    assert_eq!(new.needed(), libraries, "{path}: DT_NEEDED");
    assert_eq!(
        new.flags_1(),
        old.flags_1() | elf::DF_1_INITFIRST.0,
        "{path}: DT_FLAGS_1"
    );
    let mut slots = vec![Slot::Symbol(INIT.to_owned())];
    slots.extend(old.preinit());
    assert_eq!(new.preinit(), slots, "{path}: the preinit array");

    let apart = result.json["notes"]
        .to_string()
        .contains("the preinit array stays writable");
    check_protection(&path.to_string(), &old, &new, apart);
    check_kept(&path.to_string(), &old, &new);

    let (before, after) = (old.bytes(), new.bytes());
    if result.recycled() {
        assert_eq!(before.len(), after.len(), "{path}: size");
        let differing = before.iter().zip(after).filter(|(a, b)| a != b).count();
        let moved = match result.moved().contains(&".dynamic".to_owned()) {
            true => new.dynamic_range().end - new.dynamic_range().start,
            false => 0,
        };
        assert!(
            differing < FEW + usize::try_from(moved).expect("a size"),
            "{path}: {differing} bytes differ"
        );
        assert_eq!(
            result.json["bytes_changed"], differing,
            "{path}: bytes_changed"
        );
    } else {
        assert!(
            after.len() > before.len(),
            "{path}: it has grown, it was said"
        );
    }
    assert_eq!(
        result.json["size"]["before"],
        before.len(),
        "{path}: size before"
    );
    assert_eq!(
        result.json["size"]["after"],
        after.len(),
        "{path}: size after"
    );
}

/// Nothing that was read-only at run time is writable, nothing writable is executable. `apart`: the new
/// preinit entry is where nothing protects it, and that was said.
fn check_protection(path: &str, old: &Elf, new: &Elf, apart: bool) {
    let (write, execute) = (elf::PF_W.0, elf::PF_X.0);
    for segment in &new.segments {
        let both = segment.flags & write != 0 && segment.flags & execute != 0;
        assert!(
            !both
                || old
                    .segments
                    .iter()
                    .any(|s| s.kind == segment.kind && s.flags == segment.flags),
            "{path}: {segment:x?} is writable and executable"
        );
    }
    let Some(relro) = new.relro() else {
        assert!(old.relro().is_none(), "{path}: PT_GNU_RELRO is lost");
        return;
    };
    let old_relro = old
        .relro()
        .unwrap_or_else(|| panic!("{path}: a new PT_GNU_RELRO"));
    if within(&old.dynamic_range(), &old_relro) {
        assert!(
            within(&new.dynamic_range(), &relro),
            "{path}: .dynamic is outside RELRO"
        );
        assert!(
            apart || within(&new.preinit_range(), &relro),
            "{path}: the preinit array {:x?} is outside RELRO {relro:x?}",
            new.preinit_range()
        );
    }
    // Only pages that a PT_GNU_RELRO covers wholly are protected, counted from its start.
    assert!(old_relro.end <= relro.end, "{path}: RELRO ends earlier");
}

/// What the kernel, the loader, debuggers and stack unwinders rely on stays.
fn check_kept(path: &str, old: &Elf, new: &Elf) {
    assert_eq!(new.is_pie(), old.is_pie(), "{path}: e_type");
    assert_eq!(new.bytes()[24..32], old.bytes()[24..32], "{path}: e_entry");
    // In memory, that is: where they are in the file is nobody's business.
    let place = |elf: &Elf, kind: elf::ProgramType| {
        let segment = elf.segment(kind.0);
        segment.map(|s| (s.flags, s.memory.clone()))
    };
    for kind in [elf::PT_GNU_STACK, elf::PT_TLS] {
        assert_eq!(place(new, kind), place(old, kind), "{path}: {kind:?}");
    }
    // How to unwind is said at another place where there is more code to unwind out of.
    let code = |elf: &Elf| {
        let is_code = |s: &&Segment| s.kind == elf::PT_LOAD.0 && s.flags & elf::PF_X.0 != 0;
        elf.segments.iter().filter(is_code).count()
    };
    let frames = |elf: &Elf| place(elf, elf::PT_GNU_EH_FRAME);
    assert!(
        frames(new) == frames(old) || code(new) > code(old),
        "{path}: PT_GNU_EH_FRAME"
    );
    for kind in [
        elf::PT_INTERP,
        elf::PT_NOTE,
        elf::PT_GNU_PROPERTY,
        elf::PT_TLS,
    ] {
        assert_eq!(
            contents(new, kind.0),
            contents(old, kind.0),
            "{path}: {kind:?}"
        );
    }
    let loads = |elf: &Elf| -> Vec<Segment> {
        let loads = elf.segments.iter().filter(|s| s.kind == elf::PT_LOAD.0);
        loads.cloned().collect()
    };
    let (old_loads, new_loads) = (loads(old), loads(new));
    assert_eq!(
        new_loads[0].flags, old_loads[0].flags,
        "{path}: the first PT_LOAD"
    );
    assert_eq!(
        new_loads[0].memory.start, old_loads[0].memory.start,
        "{path}: the lowest address"
    );
    for load in &old_loads {
        let still = new_loads
            .iter()
            .any(|new| within(&load.memory, &new.memory));
        assert!(still, "{path}: {load:x?} is no longer mapped");
    }
    let in_order = |loads: &[Segment]| {
        let mut pairs = loads.windows(2);
        pairs.all(|pair| pair[0].memory.end <= pair[1].memory.start)
    };
    assert!(
        in_order(&new_loads) || !in_order(&old_loads),
        "{path}: {new_loads:x?} overlap or are out of order"
    );
}

fn contents(elf: &Elf, kind: u32) -> Vec<Vec<u8>> {
    let mut all: Vec<Vec<u8>> = elf
        .segments
        .iter()
        .filter(|s| s.kind == kind)
        // patchelf moves the property note and leaves a PT_GNU_PROPERTY without a note behind.
        .filter(|s| !within(&s.file, &elf.program_headers()))
        .map(|s| {
            let file = |at| usize::try_from(at).expect("an offset");
            elf.bytes()[file(s.file.start)..file(s.file.end)].to_vec()
        })
        .collect();
    all.sort();
    all
}

fn within(inner: &Range<u64>, outer: &Range<u64>) -> bool {
    outer.start <= inner.start && inner.end <= outer.end
}

/// Fails if a reader of section headers complains about the result and did not about the original.
pub fn check_sections(result: &Rewritten) {
    let lint = |path: &Path| -> BTreeSet<String> {
        let lint = Command::new(needs("eu-elflint")).arg("--gnu-ld").arg(path);
        let readelf = Command::new(needs("readelf")).arg("-aW").arg(path);
        let stdout = lint.run().stdout();
        let stderr = readelf.run().stderr();
        stdout
            .lines()
            .chain(stderr.lines())
            .map(without_numbers)
            .collect()
    };
    let (old, new) = (lint(&result.original), lint(&result.path));
    let complaints: Vec<_> = new
        .difference(&old)
        .filter(|line| *line != "No errors")
        // Where patchelf gave .dynamic a segment of its own, and the room in it was needed.
        .filter(|line| *line != "loadable segment is writable but contains no writable sections")
        .collect();
    let path = result.path.display();
    assert!(complaints.is_empty(), "{path}: {complaints:#?}");
}

/// The same complaint about another address or index is the same complaint.
fn without_numbers(line: &str) -> String {
    let words = line
        .split_whitespace()
        .filter(|w| !w.contains(|c: char| c.is_ascii_digit()));
    words.collect::<Vec<_>>().join(" ")
}

/// Strips a copy of the result, in place, and returns the copy: it has to run as before.
pub fn stripped(result: &Rewritten) -> std::path::PathBuf {
    let name = result.path.file_name().expect("a file name");
    let dir = result.path.with_file_name("stripped");
    fs::create_dir_all(&dir).expect("a directory");
    for entry in fs::read_dir(result.path.parent().expect("a parent")).expect("a listing") {
        let entry = entry.expect("an entry").path();
        if entry.is_file() {
            fs::copy(&entry, dir.join(entry.file_name().expect("a name"))).expect("a copy");
        }
    }
    let copy = dir.join(name);
    Command::new(needs("strip")).arg(&copy).succeed();
    copy
}
