//! Functions and source lines of places, object by object.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::convert::Infallible;
use std::path::Path;
use std::sync::Arc;

use addr2line::Context;
use gimli::{DwarfSections, EndianSlice, LittleEndian};
use object::read::elf::ProgramHeader;
use object::{Object as _, SymbolMap, SymbolMapName, elf};

use super::debug::{self, Elf};
use super::demangle::demangle;
use super::place::{Object, Place, Places};
use super::{Frame, Stack};
use crate::loader::as_text;
use crate::loader::system::System;

/// Most functions that are inlined into each other at one place.
const MOST_INLINED: usize = 256;

/// Frames of every place, innermost first and at least one, and what the user should know about
/// objects.
#[derive(Debug, Default)]
pub(crate) struct Symbols {
    pub(crate) frames: Vec<Arc<[Frame]>>,
    pub(crate) notes: Vec<String>,
    /// Paths of objects without debug information.
    without_lines: Vec<Arc<str>>,
}

/// Finds them, in the files of `system`. `progress` hears of places that are done, and of how many.
pub(crate) fn find(
    places: &Places,
    system: &System,
    progress: &mut dyn FnMut(u64, u64),
) -> Symbols {
    let mut symbols = Symbols::default();
    let unknown = places.places.iter();
    symbols.frames = unknown
        .map(|place| Arc::from([unknown_frame(places, place)]))
        .collect();
    let mut by_object: BTreeMap<usize, Vec<usize>> = BTreeMap::new();
    for (number, place) in places.places.iter().enumerate() {
        if let Some(object) = place.object {
            by_object.entry(object).or_default().push(number);
        }
    }
    let total = places.places.len() as u64;
    let mut done = 0;
    for (object, numbers) in by_object {
        progress(done, total);
        let mut object_progress = |of_object| progress(done + of_object, total);
        if let Some(object) = places.objects.get(object)
            && let Err(note) = symbols.add(places, object, &numbers, system, &mut object_progress)
        {
            symbols.notes.push(note);
        }
        done += numbers.len() as u64;
    }
    if !symbols.without_lines.is_empty() {
        let objects = symbols.without_lines.join(", ");
        let note = format!("no source lines, for want of debug information: {objects}");
        symbols.notes.push(note);
    }
    symbols
}

fn unknown_frame(places: &Places, place: &Place) -> Frame {
    let object = place.object.and_then(|object| places.objects.get(object));
    Frame {
        function: None,
        file: None,
        line: None,
        inlined: false,
        object: object.map(|object| object.path.clone()),
        offset: object.map(|_| place.offset.saturating_add(1)),
        address: match object {
            Some(_) => place.address,
            None => Some(place.offset),
        }
        .map(|address| address.saturating_add(1)),
    }
}

impl Symbols {
    /// The stack of the places with these numbers.
    pub(crate) fn stack(&self, numbers: &[usize]) -> Stack {
        let frames = numbers.iter().filter_map(|&number| self.frames.get(number));
        Stack(frames.cloned().collect())
    }

    /// Finds the frames of some places of one object, or says why there are none.
    fn add(
        &mut self,
        places: &Places,
        object: &Object,
        numbers: &[usize],
        system: &System,
        progress: &mut dyn FnMut(u64),
    ) -> Result<(), String> {
        let path = Path::new(&*object.path);
        if !path.is_absolute() {
            return Ok(()); // the kernel's: linux-vdso.so.1
        }
        let failed = |what: String| format!("{}: {what}; only addresses are shown", object.path);
        let file = debug::open(system, path).map_err(|error| failed(error.to_string()))?;
        let elf = Elf::parse(&file).map_err(|error| failed(error.to_string()))?;
        if let Some(expected) = &object.build_id {
            let found = elf.build_id().ok().flatten().map(debug::hexadecimal);
            if found.as_ref() != Some(expected) {
                let found = found.unwrap_or_else(|| "none".to_owned());
                return Err(failed(format!(
                    "is not the file that the process used (its build-id is {found}, not {expected})"
                )));
            }
        }
        let separate = match debug::has_lines(&elf) {
            true => None,
            false => debug::find(system, path, &elf),
        };
        let separate = separate.as_ref().and_then(|file| Elf::parse(file).ok());
        let with_lines = separate.as_ref().unwrap_or(&elf);
        if !debug::has_lines(with_lines) {
            self.without_lines.push(object.path.clone());
        }
        let supplement = debug::find_supplement(system, with_lines);
        let supplement = supplement.as_ref().and_then(|file| Elf::parse(file).ok());

        let sections = sections(with_lines);
        let supplement = supplement.as_ref().map(self::sections);
        let dwarf = sections.borrow_with_sup(supplement.as_ref(), |section| {
            EndianSlice::new(section, LittleEndian)
        });
        let context = Context::from_dwarf(dwarf).ok();
        let map = match with_lines.symbol_map() {
            map if map.symbols().is_empty() => elf.symbol_map(),
            map => map,
        };
        for (done, &number) in numbers.iter().enumerate() {
            progress(done as u64);
            let Some(place) = places.places.get(number) else {
                continue;
            };
            let Some(address) = place.address.or_else(|| in_memory(&elf, place.offset)) else {
                continue;
            };
            let bare = Frame {
                address: Some(address.saturating_add(1)),
                ..unknown_frame(places, place)
            };
            let frames = frames(context.as_ref(), &map, address, &bare);
            if let Some(slot) = self.frames.get_mut(number) {
                *slot = frames.into();
            }
        }
        Ok(())
    }
}

/// The sections with debug information; those that cannot be read are empty.
fn sections<'data>(elf: &Elf<'data>) -> DwarfSections<Cow<'data, [u8]>> {
    let load = |id: gimli::SectionId| Ok::<_, Infallible>(debug::section(elf, id.name()));
    let Ok(sections) = DwarfSections::load(load);
    sections
}

/// The address that the file's segments give to a byte of the file.
fn in_memory(elf: &Elf<'_>, offset: u64) -> Option<u64> {
    let endian = elf.endian();
    let headers = elf.elf_program_headers().iter();
    let mut loads = headers.filter(|header| header.p_type(endian) == elf::PT_LOAD);
    loads.find_map(|header| {
        let skip = offset.checked_sub(header.p_offset(endian))?;
        let address = header.p_vaddr(endian).checked_add(skip);
        address.filter(|_| skip < header.p_filesz(endian))
    })
}

type Slice<'data> = EndianSlice<'data, LittleEndian>;

/// The functions that contain `address`, each inlined into the next; `bare` is what is known besides.
fn frames(
    context: Option<&Context<Slice<'_>>>,
    map: &SymbolMap<SymbolMapName<'_>>,
    address: u64,
    bare: &Frame,
) -> Vec<Frame> {
    let mut frames = Vec::new();
    // Split debug information (.dwo) is left alone: symbols and lines are elsewhere.
    let found = context.and_then(|context| context.find_frames(address).skip_all_loads().ok());
    if let Some(mut found) = found {
        while let Ok(Some(frame)) = found.next()
            && frames.len() < MOST_INLINED
        {
            let function = frame.function.as_ref();
            let function = function.and_then(|function| function.raw_name().ok());
            let location = frame.location.as_ref();
            frames.push(Frame {
                function: function.map(|symbol| as_text(demangle(&symbol).as_bytes())),
                file: location
                    .and_then(|location| location.file)
                    .map(|file| as_text(file.as_bytes())),
                line: location.and_then(|location| location.line),
                inlined: true,
                ..bare.clone()
            });
        }
    }
    if frames.is_empty() {
        frames.push(bare.clone());
    }
    if let Some(last) = frames.last_mut() {
        last.inlined = false;
        if last.function.is_none() {
            let symbol = map.containing(address);
            last.function = symbol.map(|symbol| as_text(demangle(symbol.name()).as_bytes()));
        }
    }
    frames
}
