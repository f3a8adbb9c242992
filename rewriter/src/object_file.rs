//! The link-time twin of a rewrite, for who can link again: an object file whose preinit entry is the
//! runtime's init.
//!
//! Linked ahead of the program's own objects, its entry is the first of DT_PREINIT_ARRAY. The linker finds
//! the init symbol in the runtime, a shared object, and leaves the entry to the loader: one R_X86_64_64
//! relocation, as a rewrite makes it, so an IFUNC's resolver runs while the program is relocated. Nothing in
//! the file depends on where or when it is made.
//!
//! Three entries that do nothing follow. Compilers align an array of entries to up to 32 bytes, and linkers
//! put zeros in front of it, which the loader would call: behind 32 bytes there is nothing to fill up.

use std::path::{Path, PathBuf};

use faerie::{ArtifactBuilder, ArtifactError, Decl, Link, Reloc, SectionKind};
use object::elf::{
    GNU_PROPERTY_X86_FEATURE_1_AND, GNU_PROPERTY_X86_FEATURE_1_IBT,
    GNU_PROPERTY_X86_FEATURE_1_SHSTK, NT_GNU_PROPERTY_TYPE_0, R_X86_64_64, SHF_ALLOC, SHF_WRITE,
    SHT_NOTE, SHT_PREINIT_ARRAY, SectionFlags, SectionType,
};
use schemars::JsonSchema;
use serde::Serialize;
use target_lexicon::{Architecture, BinaryFormat, Environment, OperatingSystem, Triple, Vendor};

use crate::elf::{Entry, Format, Header, Section};
use crate::error::{Error, ErrorKind, Result};
use crate::phase::{self, Phase};
use crate::{directory_of, output, runtime, write};

const PREINIT: &str = ".preinit_array";
const PROPERTIES: &str = ".note.gnu.property";
/// The function that does nothing.
const NOTHING: &str = "allocs_nothing";
/// `endbr64; ret`, and `int3` up to the alignment of the entries, which come next in the file.
const NOTHING_CODE: [u8; ALIGNMENT] = {
    let mut code = [0xcc; ALIGNMENT];
    [code[0], code[1], code[2], code[3], code[4]] = [0xf3, 0x0f, 0x1e, 0xfa, 0xc3];
    code
};
/// The largest alignment of an array that compilers choose by themselves, in bytes: gcc's of constant data.
const ALIGNMENT: usize = 32;
/// Size of an entry in bytes.
const ENTRY: usize = 8;
/// The name in the symbol table's STT_FILE symbol; always the same, for the output's would make the bytes
/// depend on it.
const FILE: &str = "allocs_init";

/// What the linker has to be told of a section, and faerie does not say: it writes SHT_PROGBITS without
/// flags for every section that is neither code nor data.
struct Kind {
    name: &'static str,
    kind: SectionType,
    flags: SectionFlags,
}

const KINDS: [Kind; 2] = [
    Kind {
        name: PREINIT,
        kind: SHT_PREINIT_ARRAY,
        flags: SectionFlags(SHF_ALLOC.0 | SHF_WRITE.0),
    },
    Kind {
        name: PROPERTIES,
        kind: SHT_NOTE,
        flags: SHF_ALLOC,
    },
];

/// What to write, and for which runtime.
#[derive(Clone, Debug)]
pub struct ObjectOptions {
    /// The object file.
    pub output: PathBuf,
    /// A runtime's file, or its soname; `None` is the project's own, which is written beside the output.
    pub runtime: Option<String>,
    /// The runtime's init symbol; `None` is the own runtime's IFUNC.
    pub init: Option<String>,
    /// Replace another version of the own runtime beside the output.
    pub force: bool,
}

/// An object file that was written, and how it is used. Its JSON form is what `object --json` prints.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct ObjectFile {
    /// Its path, as given.
    pub output: PathBuf,
    /// The runtime's init symbol.
    pub init: String,
    /// When that is called.
    pub phase: Phase,
    /// The runtime file beside the output, where it is the project's own.
    pub runtime: Option<PathBuf>,
    /// What goes on the link line, in this order and ahead of all else.
    pub link: Vec<String>,
}

impl ObjectFile {
    /// The line that is printed by default.
    pub fn summary(&self) -> String {
        let quoted = |word: &String| word.replace("$ORIGIN", "'$ORIGIN'");
        let link: Vec<String> = self.link.iter().map(quoted).collect();
        format!(
            "{}: starts the runtime first in what is linked with {} ahead of all else",
            self.output.display(),
            link.join(" ")
        )
    }
}

/// Writes the object file that `options` ask for.
///
/// # Errors
/// The runtime does not do, or the file cannot be written. Nothing is left behind then.
pub fn write_object(options: &ObjectOptions) -> Result<ObjectFile> {
    let init = options.init.as_deref();
    let init = init.unwrap_or(Phase::Relocation.init_symbol());
    let (path, _) = output::file_to_write(&options.output)?;
    let directory = directory_of(&path);
    if options.runtime.is_none() && path.file_name() == Some(runtime::SONAME.as_ref()) {
        let what = "where the runtime goes";
        return Err(Error::new(&options.output, ErrorKind::OutputKind { what }));
    }
    let named = options.runtime.as_deref().unwrap_or(runtime::SONAME);
    runtime::check_init(named, init)?;
    let kind = match &options.runtime {
        Some(file) => {
            let needed = searchable(file)?;
            let found = runtime::check(&needed, init, &[directory], &[], Format::X86_64)?;
            found.map(|(kind, _)| kind)
        }
        None => Some(runtime::check_own(init, directory)?.0),
    };
    let bytes = emit(&path, named, init)?;
    let installed = match options.runtime {
        Some(_) => None,
        None => Some(runtime::install(directory, options.force, Format::X86_64)?),
    };
    write::whole_file(&path, &bytes, 0o666).map_err(|source| Error::io(&path, "write", source))?;
    let written = installed.map(runtime::Installed::keep);
    Ok(ObjectFile {
        output: options.output.clone(),
        init: init.to_owned(),
        phase: phase::earliest(kind),
        link: link(&options.output, options.runtime.as_deref()),
        runtime: written,
    })
}

/// A runtime's file as the loader's search takes it: a linker takes relative paths as well.
fn searchable(file: &str) -> Result<String> {
    if !file.contains('/') {
        runtime::check_needed(file, None)?;
        return Ok(file.to_owned());
    }
    let absolute = std::path::absolute(file)
        .ok()
        .filter(|path| path.exists())
        .and_then(|path| path.into_os_string().into_string().ok());
    absolute.ok_or_else(|| {
        let missing = std::io::ErrorKind::NotFound.into();
        Error::io(Path::new(file), "find the runtime", missing)
    })
}

/// The words that go on the link line. The own runtime's file is beside the output; the program finds it
/// where it is itself.
fn link(output: &Path, runtime: Option<&str>) -> Vec<String> {
    let mut words = vec![output.display().to_string()];
    match runtime {
        Some(file) if file.contains('/') => words.push(file.to_owned()),
        Some(soname) => words.push(format!("-l:{soname}")),
        None => {
            let beside = output.with_file_name(runtime::SONAME);
            words.push(beside.display().to_string());
            words.push("-Wl,-rpath,$ORIGIN".to_owned());
        }
    }
    words
}

/// The object file's bytes.
fn emit(path: &Path, runtime: &str, init: &str) -> Result<Vec<u8>> {
    let broken = |what: String| Error::new(path, ErrorKind::Verify { what });
    let failed = |error: ArtifactError| broken(format!("faerie says: {error}"));
    let target = Triple {
        architecture: Architecture::X86_64,
        vendor: Vendor::Unknown,
        operating_system: OperatingSystem::Linux,
        environment: Environment::Gnu,
        binary_format: BinaryFormat::Elf,
    };
    let mut artifact = ArtifactBuilder::new(target).name(FILE.to_owned()).finish();
    let (code, entries, note) = (
        Decl::function().local().with_align(Some(ALIGNMENT as u64)),
        Decl::section(SectionKind::Data).with_align(Some(ALIGNMENT as u64)),
        Decl::section(SectionKind::Text).with_align(Some(8)),
    );
    artifact
        .declare_with(NOTHING, code, NOTHING_CODE.to_vec())
        .and_then(|()| artifact.declare_with(PREINIT, entries, vec![0; ALIGNMENT]))
        .and_then(|()| artifact.declare_with(PROPERTIES, note, properties()))
        .map_err(failed)?;
    // One name is one thing to faerie: a symbol that is called like one of those is none that it can write.
    let symbol = init.to_owned();
    artifact
        .declare(init, Decl::function_import())
        .map_err(|_| Error::new(Path::new(runtime), ErrorKind::InitName { symbol }))?;
    for at in (0..ALIGNMENT).step_by(ENTRY) {
        let entry = Link {
            from: PREINIT,
            to: if at == 0 { init } else { NOTHING },
            at: at as u64,
        };
        let by = Reloc::Raw {
            reloc: R_X86_64_64.0,
            addend: 0,
        };
        artifact.link_with(entry, by).map_err(failed)?;
    }
    let mut bytes = artifact.emit().map_err(failed)?;
    set_kinds(&mut bytes).ok_or_else(|| broken("faerie's sections are not there".to_owned()))?;
    Ok(bytes)
}

/// The program keeps what it says of indirect branch tracking and shadow stacks: a linker leaves out what
/// is not said by every object. It is true of this one: its only function begins with endbr64.
fn properties() -> Vec<u8> {
    let features = GNU_PROPERTY_X86_FEATURE_1_IBT | GNU_PROPERTY_X86_FEATURE_1_SHSTK;
    let name = *b"GNU\0";
    let description = [GNU_PROPERTY_X86_FEATURE_1_AND.0, 4, features, 0]; // type, size, value, padding
    let header = [4, 16, NT_GNU_PROPERTY_TYPE_0.0].map(u32::to_le_bytes); // sizes of both, type
    let mut note = header.concat();
    note.extend(name);
    note.extend(description.map(u32::to_le_bytes).concat());
    note
}

/// Gives sections the type and flags that [`KINDS`] has for them.
fn set_kinds(bytes: &mut [u8]) -> Option<()> {
    let header = Header::decode(bytes, Format::X86_64)?;
    let (at, count, _) = header.section_headers();
    let size = usize::try_from(Section::size(Format::X86_64)).ok()?;
    let at = usize::try_from(at.0).ok()?;
    let table = bytes.get(at..)?.chunks_exact(size).take(count.into());
    let decode = |entry| Section::decode(entry, Format::X86_64);
    let mut sections: Vec<Section> = table.filter_map(decode).collect();
    let names = sections.get(usize::try_from(header.section_name_index(sections.first())).ok()?)?;
    let names = usize::try_from(names.offset.0).ok()?;
    for Kind { name, kind, flags } in KINDS {
        let (index, section) = sections.iter_mut().enumerate().find(|(_, section)| {
            let found = usize::try_from(section.name).ok();
            let found = found.and_then(|found| bytes.get(names..)?.get(found..));
            found.is_some_and(|found| {
                found.starts_with(name.as_bytes()) && found.get(name.len()) == Some(&0)
            })
        })?;
        section.kind = kind;
        section.flags = flags;
        let place = at.checked_add(index.checked_mul(size)?)?;
        bytes
            .get_mut(place..place.checked_add(size)?)?
            .copy_from_slice(&section.encode(Format::X86_64));
    }
    Some(())
}
