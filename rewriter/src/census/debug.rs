//! Files with debug information: the object's own, and what leads from it to a file of its own, as in
//! gdb ("Debugging Information in Separate Files"). Found files are checked before they are believed.

use std::borrow::Cow;
use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};

use object::read::elf::ElfFile64;
use object::{Object as _, ObjectSection, ReadCache};

use crate::loader::as_path;
use crate::loader::system::System;

/// Where distributions put debug information.
const DEBUG: &str = "/usr/lib/debug";
/// Longest section in bytes, unpacked.
const LONGEST: u64 = 8 << 30;

/// An ELF file that is read as far as it is asked for.
pub(crate) type Elf<'data> = ElfFile64<'data, object::Endianness, &'data ReadCache<File>>;

/// Opens a file; the ELF file borrows it.
pub(crate) fn open(system: &System, path: &Path) -> std::io::Result<ReadCache<File>> {
    Ok(ReadCache::new(system.open(path)?.file))
}

/// The file with debug information that belongs to `elf`, which was found at `path`.
pub(crate) fn find(system: &System, path: &Path, elf: &Elf<'_>) -> Option<ReadCache<File>> {
    let build_id = elf.build_id().ok().flatten();
    if let Some(found) = build_id.and_then(|id| by_build_id(system, id)) {
        return Some(found);
    }
    let (name, checksum) = elf.gnu_debuglink().ok()??;
    let mut directories = vec![crate::directory_of(path).to_owned()];
    // The loader may have come through a link to the directory (/lib), packages have not.
    if let Ok(real) = fs::canonicalize(path) {
        directories.push(crate::directory_of(&real).to_owned());
    }
    let candidates = directories.iter().flat_map(|directory| {
        let below = directory.strip_prefix("/").unwrap_or(directory);
        [
            directory.join(as_path(name)),
            directory.join(".debug").join(as_path(name)),
            Path::new(DEBUG).join(below).join(as_path(name)),
        ]
    });
    candidates
        .filter(|candidate| candidate != path)
        .find(|candidate| has_checksum(system, candidate, checksum))
        .and_then(|candidate| open(system, &candidate).ok())
}

/// The file that dwz moved common parts to, for the file with debug information at `path`.
pub(crate) fn find_supplement(system: &System, elf: &Elf<'_>) -> Option<ReadCache<File>> {
    let (name, build_id) = elf.gnu_debugaltlink().ok()??;
    let by_name = Some(as_path(name)).filter(|path| path.is_absolute());
    by_name
        .and_then(|path| with_build_id(system, path, build_id))
        .or_else(|| by_build_id(system, build_id))
}

fn by_build_id(system: &System, build_id: &[u8]) -> Option<ReadCache<File>> {
    let hex = hexadecimal(build_id);
    let (first, rest) = hex.split_at_checked(2)?;
    let path = PathBuf::from(format!("{DEBUG}/.build-id/{first}/{rest}.debug"));
    with_build_id(system, &path, build_id)
}

fn with_build_id(system: &System, path: &Path, build_id: &[u8]) -> Option<ReadCache<File>> {
    let file = open(system, path).ok()?;
    let found = Elf::parse(&file).ok()?.build_id().ok().flatten() == Some(build_id);
    found.then_some(file)
}

/// Whether there is a file with this checksum (.gnu_debuglink's) at `path`.
fn has_checksum(system: &System, path: &Path, checksum: u32) -> bool {
    let Ok(mut opened) = system.open(path) else {
        return false;
    };
    let mut hasher = crc32fast::Hasher::new();
    let mut window = vec![0; 1 << 16];
    loop {
        match opened.file.read(&mut window) {
            Ok(0) => return hasher.finalize() == checksum,
            Ok(count) => hasher.update(window.get(..count).unwrap_or_default()),
            Err(_) => return false,
        }
    }
}

/// A build-id as tools print it.
pub(crate) fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of a section, unpacked; none if there is no such section or it cannot be read.
pub(crate) fn section<'data>(elf: &Elf<'data>, name: &str) -> Cow<'data, [u8]> {
    let section = elf.section_by_name(name);
    let data = section.and_then(|section| section.compressed_data().ok());
    data.filter(|data| data.uncompressed_size <= LONGEST)
        .and_then(|data| data.decompress().ok())
        .unwrap_or_default()
}

/// Whether there are source lines in the file.
pub(crate) fn has_lines(elf: &Elf<'_>) -> bool {
    [".debug_info", ".zdebug_info"]
        .iter()
        .any(|name| elf.section_by_name(name).is_some())
}
