//! The picture of a file's layout in the documentation is drawn here, from a real program before and after its
//! rewrite, so that it is never out of date. `ALLOCS_DRAW=1 cargo test -p allocs-tests -- picture::` draws
//! it anew.

use std::fmt::Write;
use std::fs;
use std::ops::Range;
use std::path::Path;

use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Dir, Rewrite, trials};
use libtest_mimic::Trial;
use object::read::elf::{ElfFile64, FileHeader};
use object::{Object, ObjectSection, SectionFlags, elf};

const PICTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/layout.svg");
/// In the picture's units: a row's height, a column's width, and where the columns begin.
const ROW: usize = 18;
const WIDTH: usize = 190;
const COLUMNS: [usize; 2] = [10, 280];

pub(crate) fn trials() -> Vec<Trial> {
    trials!["picture": is_up_to_date]
}

fn is_up_to_date() {
    let dir = Dir::new("picture");
    let variant = Variant {
        pie: false,
        ..Variant::GCC
    };
    let program = Sample::named("words").build(&dir.path(), variant, &[]);
    let result = Rewrite::new(&program, dir.join("rewritten")).succeed();
    assert!(!result.recycled(), "something has to move");
    let drawn = draw(&parts(&program), &parts(&result.path));
    if std::env::var_os("ALLOCS_DRAW").is_some() {
        fs::write(PICTURE, &drawn).expect("docs/layout.svg");
    }
    let kept = fs::read_to_string(PICTURE).expect("docs/layout.svg");
    assert!(
        kept == drawn,
        "docs/layout.svg is out of date: run ALLOCS_DRAW=1 cargo test -p allocs-tests -- picture::"
    );
}

/// A part of a file that has a name.
struct Part {
    name: String,
    bytes: Vec<u8>,
    /// The colour of its segment: what may be done with it in memory.
    colour: &'static str,
}

/// The headers and sections of a file in the order in which they lie there, and what follows them.
fn parts(path: &Path) -> Vec<Part> {
    const NOT_LOADED: &str = "#eeeeee";
    let bytes = fs::read(path).expect("a program");
    let file = ElfFile64::<object::LittleEndian>::parse(&*bytes).expect("an ELF file");
    let header = file.elf_header();
    let endian = file.endian();
    let table = |at: u64, count: u16, size: u16| at..at + u64::from(count) * u64::from(size);
    let mut found: Vec<(Range<u64>, String, &str)> = vec![
        (0..64, "ELF header".to_owned(), "#cfe2f3"),
        (
            table(
                header.e_phoff(endian),
                header.e_phnum(endian),
                header.e_phentsize(endian),
            ),
            "program headers".to_owned(),
            "#cfe2f3",
        ),
        (
            table(
                header.e_shoff(endian),
                header.e_shnum(endian),
                header.e_shentsize(endian),
            ),
            "section headers".to_owned(),
            NOT_LOADED,
        ),
    ];
    for section in file.sections() {
        let Some((at, size)) = section.file_range().filter(|(_, size)| *size > 0) else {
            continue;
        };
        let SectionFlags::Elf { sh_flags, .. } = section.flags() else {
            continue;
        };
        let has = |flag: elf::SectionFlags| sh_flags.0 & flag.0 != 0;
        let colour = match (
            has(elf::SHF_ALLOC),
            has(elf::SHF_EXECINSTR),
            has(elf::SHF_WRITE),
        ) {
            (false, ..) => NOT_LOADED,
            (_, true, _) => "#d9ead3",
            (_, _, true) => "#fff2cc",
            _ => "#cfe2f3",
        };
        let name = section.name().expect("a name").to_owned();
        found.push((at..at + size, name, colour));
    }
    found.sort_by_key(|(range, ..)| range.start);
    let end = found
        .iter()
        .map(|(range, ..)| range.end)
        .max()
        .unwrap_or_default();
    if end < bytes.len() as u64 {
        found.push((
            end..bytes.len() as u64,
            "undo journal".to_owned(),
            NOT_LOADED,
        ));
    }
    let part = |(range, name, colour): (Range<u64>, String, &'static str)| Part {
        name,
        bytes: bytes[range.start as usize..range.end as usize].to_vec(),
        colour,
    };
    found.into_iter().map(part).collect()
}

/// Both files as columns; lines lead from a part's old place to its new one, and what has other bytes has a
/// thick border.
fn draw(before: &[Part], after: &[Part]) -> String {
    let rows = before.len().max(after.len()) + 5;
    let (width, height) = (COLUMNS[1] + WIDTH + 10, rows * ROW);
    let mut svg = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width} {height}\" width=\"{width}\" \
         font-family=\"sans-serif\" font-size=\"11\">\n"
    );
    let top = |row: usize| (row + 1) * ROW;
    for (title, x) in ["before", "after"].iter().zip(COLUMNS) {
        writeln!(
            svg,
            "<text x=\"{x}\" y=\"12\" font-weight=\"bold\">{title}</text>"
        )
        .expect("text");
    }
    for (row, part) in before.iter().enumerate() {
        let Some(to) = after.iter().position(|other| other.name == part.name) else {
            continue;
        };
        let (x, middle) = (COLUMNS[0] + WIDTH, |row: usize| top(row) + ROW / 2);
        writeln!(
            svg,
            "<line x1=\"{x}\" y1=\"{}\" x2=\"{}\" y2=\"{}\" stroke=\"#888888\"/>",
            middle(row),
            COLUMNS[1],
            middle(to)
        )
        .expect("text");
    }
    for (x, parts, others) in [
        (COLUMNS[0], before, None),
        (COLUMNS[1], after, Some(before)),
    ] {
        for (row, part) in parts.iter().enumerate() {
            let old = others.map(|others| others.iter().find(|other| other.name == part.name));
            let changed = old.is_some_and(|old| old.is_none_or(|old| old.bytes != part.bytes));
            let border = if changed {
                "#cc0000\" stroke-width=\"2"
            } else {
                "#666666"
            };
            writeln!(
                svg,
                "<rect x=\"{x}\" y=\"{}\" width=\"{WIDTH}\" height=\"{ROW}\" fill=\"{}\" stroke=\"{border}\"/>\n\
                 <text x=\"{}\" y=\"{}\">{}</text>",
                top(row),
                part.colour,
                x + 6,
                top(row) + 13,
                part.name
            )
            .expect("text");
        }
    }
    let legend = [
        ("#cfe2f3", "read only"),
        ("#d9ead3", "code"),
        ("#fff2cc", "writable"),
        ("#eeeeee", "not loaded"),
    ];
    for (index, (colour, name)) in legend.iter().enumerate() {
        let (x, y) = (COLUMNS[0] + index * 100, top(rows - 3));
        writeln!(
            svg,
            "<rect x=\"{x}\" y=\"{y}\" width=\"12\" height=\"12\" fill=\"{colour}\" stroke=\"#666666\"/>\n\
             <text x=\"{}\" y=\"{}\">{name}</text>",
            x + 17,
            y + 10
        )
        .expect("text");
    }
    svg + "</svg>\n"
}
