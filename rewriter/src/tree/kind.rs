//! Whether a file that cannot be rewritten is an executable after all.
//!
//! Most of what is left alone is told by [`crate::parse`]: static executables, shared objects and so on.
//! That reads files for machines that it knows, and whole ones; executables for others are no less executables, and debug
//! information that was split off looks like a damaged one.

use object::elf::{
    DF_1_PIE, DT_FLAGS_1, DT_NULL, DT_SONAME, ET_DYN, ET_EXEC, PT_INTERP, SHT_NOBITS,
};
use object::read::elf::{Dyn, FileHeader, ProgramHeader, SectionHeader};
use object::{Endianness, FileKind, ReadCache, ReadRef, elf};

use crate::error::ErrorKind;
use crate::source::Source;

/// Whether the file is a dynamically linked executable that a rewrite refused with `refusal`.
pub(crate) fn is_executable(source: &Source, refusal: &ErrorKind) -> bool {
    match refusal {
        ErrorKind::Static { .. }
        | ErrorKind::SharedObject
        | ErrorKind::Relocatable
        | ErrorKind::Core
        | ErrorKind::Packed => false,
        ErrorKind::Class32 { .. }
        | ErrorKind::Machine { .. }
        | ErrorKind::Malformed { .. }
        | ErrorKind::Truncated { .. } => looks_executable(source),
        _ => true,
    }
}

fn looks_executable(source: &Source) -> bool {
    let data = &ReadCache::new(source.file());
    let found = match FileKind::parse(data) {
        Ok(FileKind::Elf32) => of_class::<elf::FileHeader32<Endianness>, _>(data),
        Ok(FileKind::Elf64) => of_class::<elf::FileHeader64<Endianness>, _>(data),
        _ => return false,
    };
    found.unwrap_or(false)
}

fn of_class<'d, H, R>(data: R) -> object::Result<bool>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'d>,
{
    let header = H::parse(data)?;
    let endian = header.endian()?;
    let kind = header.e_type(endian);
    if kind != ET_EXEC && kind != ET_DYN {
        return Ok(false);
    }
    let segments = header.program_headers(endian, data)?;
    let mut segments_with_loader = segments.iter().filter(|s| s.p_type(endian) == PT_INTERP);
    let Some(loader) = segments_with_loader.next() else {
        return Ok(false);
    };
    // strip --only-keep-debug leaves headers without their bytes.
    let address: u64 = loader.p_vaddr(endian).into();
    let sections = header.section_headers(endian, data).unwrap_or_default();
    let is_empty = |section: &H::SectionHeader| {
        section.sh_addr(endian).into() == address && section.sh_type(endian) == SHT_NOBITS
    };
    if loader.p_filesz(endian).into() == 0 || sections.iter().any(is_empty) {
        return Ok(false);
    }
    Ok(kind == ET_EXEC || !is_library::<H, R>(endian, segments, data)?)
}

/// As [`crate::parse`] has it.
fn is_library<'d, H, R>(
    endian: Endianness,
    segments: &[H::ProgramHeader],
    data: R,
) -> object::Result<bool>
where
    H: FileHeader<Endian = Endianness>,
    R: ReadRef<'d>,
{
    let (mut named, mut pie) = (false, false);
    for segment in segments {
        let entries = segment.dynamic(endian, data)?.unwrap_or_default();
        for entry in entries
            .iter()
            .take_while(|entry| entry.tag(endian) != DT_NULL)
        {
            let value: u64 = entry.d_val(endian).into();
            named |= entry.tag(endian) == DT_SONAME;
            pie |= entry.tag(endian) == DT_FLAGS_1 && value & DF_1_PIE.0 != 0;
        }
    }
    Ok(named && !pie)
}
