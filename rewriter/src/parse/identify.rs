//! What kind of file this is, and why it may be one that no loader will run.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use object::elf::{
    self, DF_1_PIE, DT_FLAGS_1, DT_SONAME, ET_CORE, ET_DYN, ET_EXEC, ET_REL, Machine,
    PT_GNU_PROPERTY, PT_INTERP, PT_LOAD, PT_NOTE, PT_TLS, ProgramType,
};

use super::{Dynamic, locate, read_dynamic};
use crate::elf::{Entry, FileOffset, Format, Header, PAGE, Segment};
use crate::error::{Error, ErrorKind, Result};
use crate::source::Source;

/// The largest that an ELF header is, in bytes.
const MAX_HEADER: u64 = 64;

pub(crate) fn read_header(source: &Source) -> Result<Header> {
    let len = source.len();
    let start = source.bytes(FileOffset(0), len.min(MAX_HEADER), "the ELF header")?;
    if start.is_empty() {
        return Err(source.error(ErrorKind::Empty));
    }
    if start.starts_with(b"#!") {
        return Err(source.error(script(source)?));
    }
    if !start.starts_with(&elf::ELFMAG) {
        return Err(source.error(ErrorKind::NotElf));
    }
    let Some(format) = Format::identify(&start) else {
        return Err(refuse_format(source, &start));
    };
    source.check(FileOffset(0), Header::size(format), "the ELF header")?;
    let header = Header::decode(&start, format).ok_or_else(|| source.error(ErrorKind::NotElf))?;
    match header.file_type() {
        ET_EXEC | ET_DYN => Ok(header),
        ET_REL => Err(source.error(ErrorKind::Relocatable)),
        ET_CORE => Err(source.error(ErrorKind::Core)),
        other => Err(source.malformed(format!("its ELF type is {}", other.0))),
    }
}

/// Why the ELF file that begins with `start` is none that is known.
fn refuse_format(source: &Source, start: &[u8]) -> Error {
    let word = |at: usize| -> Option<u16> {
        let bytes = *start.get(at..)?.first_chunk()?;
        Some(match start.get(5) {
            Some(2) => u16::from_be_bytes(bytes),
            _ => u16::from_le_bytes(bytes),
        })
    };
    let (Some(&class), Some(&data), Some(machine)) = (start.get(4), start.get(5), word(18)) else {
        let check = source.check(
            FileOffset(0),
            Header::size(Format::default()),
            "the ELF header",
        );
        return check
            .err()
            .unwrap_or_else(|| source.error(ErrorKind::NotElf));
    };
    let machine = Format::machine_name(Machine(machine), data == 2);
    match class {
        1 => source.error(ErrorKind::Class32 { machine }),
        2 => source.error(ErrorKind::Machine { machine }),
        _ => source.malformed(format!("its ELF class is {class}")),
    }
}

fn script(source: &Source) -> Result<ErrorKind> {
    let line = source.bytes(FileOffset(2), (source.len() - 2).min(256), "the first line")?;
    let line = line.split(|&byte| byte == b'\n').next().unwrap_or(&[]);
    Ok(ErrorKind::Script {
        interpreter: String::from_utf8_lossy(line).trim().to_owned(),
    })
}

/// PT_INTERP: the loader's path. A program without one is refused.
pub(super) fn interpreter(
    source: &Source,
    header: &Header,
    segments: &[Segment],
) -> Result<PathBuf> {
    let find = |kind| segments.iter().find(|segment| segment.kind == kind);
    if find(PT_LOAD).is_none() {
        return Err(source.malformed("it has no PT_LOAD segment"));
    }
    if let Some(interpreter) = find(PT_INTERP) {
        let path = source.bytes(
            interpreter.offset,
            interpreter.filesz.min(4096),
            "the interpreter path",
        )?;
        let path = path.split(|&byte| byte == 0).next().unwrap_or(&[]);
        if path.is_empty() {
            return Err(source.malformed("its PT_INTERP names no loader"));
        }
        return Ok(PathBuf::from(OsStr::from_bytes(path)));
    }
    if is_packed(source, header)? {
        return Err(source.error(ErrorKind::Packed));
    }
    let what = if header.file_type() == ET_EXEC {
        match is_go(source, segments)? {
            true => " (a Go program; build it with -linkmode=external to have a loader)",
            false => "",
        }
    } else if is_static_pie(source, segments) {
        " (static-pie)"
    } else {
        return Err(source.error(ErrorKind::SharedObject));
    };
    Err(source.error(ErrorKind::Static { what }))
}

/// True if UPX packed the file: the program headers are followed by its `l_info`, a checksum and then
/// the magic number (src/stub/src/include/linux.h in UPX's source).
fn is_packed(source: &Source, header: &Header) -> Result<bool> {
    let (at, count, size) = header.program_headers();
    let end = at.checked_add(u64::from(count) * u64::from(size));
    let magic = end.and_then(|end| end.checked_add(4));
    match magic.filter(|magic| magic.0.saturating_add(4) <= source.len()) {
        Some(magic) => Ok(source.bytes(magic, 4, "what follows the program headers")? == b"UPX!"),
        None => Ok(false),
    }
}

/// True if a note says that Go's linker made the file (owner `Go`, cmd/link `ELF_NOTE_GO_NAME`).
fn is_go(source: &Source, segments: &[Segment]) -> Result<bool> {
    for note in segments.iter().filter(|segment| segment.kind == PT_NOTE) {
        let bytes = source.bytes(note.offset, note.filesz.min(PAGE), "a note")?;
        if bytes.get(12..16) == Some(b"Go\0\0") {
            return Ok(true);
        }
    }
    Ok(false)
}

fn is_static_pie(source: &Source, segments: &[Segment]) -> bool {
    read_dynamic(source, segments)
        .is_ok_and(|dynamic| dynamic.get(DT_FLAGS_1).unwrap_or(0) & DF_1_PIE.0 != 0)
}

/// A library with a PT_INTERP (libc.so.6 is one) is loaded by others, not run.
pub(super) fn refuse_shared_object(
    source: &Source,
    header: &Header,
    dynamic: &Dynamic,
) -> Result<()> {
    let flags = dynamic.get(DT_FLAGS_1).unwrap_or(0);
    let pie = flags & DF_1_PIE.0 != 0;
    if header.file_type() == ET_DYN && !pie && dynamic.get(DT_SONAME).is_some() {
        return Err(source.error(ErrorKind::SharedObject));
    }
    Ok(())
}

/// Refuses segments that overlap: which bytes the program then sees depends on the order in which the
/// kernel maps them, and a non-PIE does not start.
pub(super) fn refuse_overlap(source: &Source, segments: &[Segment]) -> Result<()> {
    let mut loads: Vec<&Segment> = segments.iter().collect();
    loads.retain(|segment| segment.kind == PT_LOAD && segment.memsz > 0);
    loads.sort_by_key(|load| load.vaddr);
    match loads.windows(2).any(|pair| pair[0].end() > pair[1].vaddr) {
        true => Err(source.malformed("two of its segments overlap in memory")),
        false => Ok(()),
    }
}

/// Refuses thread-local data, notes and an interpreter's path that are not in the file what they are in memory:
/// the kernel and the tools read them there, the loader here, and where they make way, both have to.
pub(super) fn refuse_stray(source: &Source, segments: &[Segment]) -> Result<()> {
    const KINDS: [(ProgramType, &str); 4] = [
        (PT_TLS, "PT_TLS"),
        (PT_INTERP, "PT_INTERP"),
        (PT_NOTE, "PT_NOTE"),
        (PT_GNU_PROPERTY, "PT_GNU_PROPERTY"),
    ];
    for segment in segments.iter().filter(|segment| segment.filesz > 0) {
        let Some((kind, name)) = KINDS.iter().find(|(kind, _)| *kind == segment.kind) else {
            continue;
        };
        let (file, memory) = (segment.filesz, segment.memsz);
        let sizes = file == memory || *kind == PT_TLS && file < memory;
        let mapped = locate(segments, segment.vaddr, file) == Some(segment.offset);
        if !sizes || !mapped {
            let what = format!("its {name} is not in the file what it is in memory");
            return Err(source.malformed(what));
        }
    }
    Ok(())
}
