//! Which linker made an executable, as far as it tells: by a note, by the comment section, or by the
//! order of its sections, which is each linker's own. Debian strips the comment section.

use std::path::Path;

use object::elf;
use object::read::elf::{FileHeader, SectionHeader};

type Header = elf::FileHeader64<object::Endianness>;

/// The linker's name; what is only inferred from the order of sections says so.
pub(crate) fn of(program: &Path) -> &'static str {
    let bytes = std::fs::read(program).expect("a readable program");
    let sections = sections(&bytes).unwrap_or_default();
    let find = |name: &str| sections.iter().position(|(section, _)| section == name);
    let comment = find(".comment").map_or_else(String::new, |at| {
        String::from_utf8_lossy(sections[at].1).into_owned()
    });
    if sections.is_empty() {
        "unknown: no section headers"
    } else if find(".note.gnu.gold-version").is_some() {
        "gold"
    } else if comment.contains("Linker: LLD") {
        "LLD"
    } else if comment.contains("mold ") {
        "mold"
    } else if find(".note.go.buildid").is_some() && find(".init").is_none() {
        "Go"
    } else if find(".rodata") < find(".text") {
        "LLD or mold (data before code)"
    } else {
        "GNU ld"
    }
}

/// Names and contents of the sections, in order.
fn sections(bytes: &[u8]) -> object::read::Result<Vec<(String, &[u8])>> {
    let header = Header::parse(bytes)?;
    let endian = header.endian()?;
    let table = header.sections(endian, bytes)?;
    let section = |section: &elf::SectionHeader64<_>| {
        let name = table.section_name(endian, section)?;
        let data = section.data(endian, bytes)?;
        Ok((String::from_utf8_lossy(name).into_owned(), data))
    };
    table.iter().map(section).collect()
}
