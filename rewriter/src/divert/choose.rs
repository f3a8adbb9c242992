//! What of a program's own allocators is led to the runtime, and what to tell the user about the rest.

use std::path::Path;

use super::names::{self, Kind, Scheme};
use super::survey::has_malloc;
use super::{Allocator, Diversion, survey};
use crate::Options;
use crate::elf::Format;
use crate::error::{ErrorKind, Result};
use crate::parse::Image;
use crate::source::Source;
use crate::unwind::{Frames, Odd, Unwinding};

/// What `options` ask for, as far as the runtime has functions for it, and what to say about it. `runtime` is
/// the file of one that `options` name, if it was found.
pub(crate) fn choose(
    options: &Options,
    source: &Source,
    image: &Image,
    runtime: Option<&Path>,
) -> Result<(Diversion, Vec<String>)> {
    let bad = |given: &str, what| {
        let given = given.to_owned();
        source.error(ErrorKind::MallocName { given, what })
    };
    let given = names::schemes(&options.malloc);
    let given =
        given.map_err(|text| bad(&text, "give --malloc NAME=FUNCTION, as in je_malloc=malloc"))?;
    if image.format != Format::X86_64 {
        let what =
            "only in x86-64 programs can an allocator be led to the runtime; leave --malloc out";
        return match options.malloc.first() {
            Some(given) => Err(bad(given, what)),
            None => elsewhere(options, source, image).map(|notes| (Diversion::default(), notes)),
        };
    }
    let mut schemes = vec![Scheme::Plain];
    schemes.extend(given);
    let (allocators, frames) = survey(source, image, &schemes)?;
    let found = |text: &&String| {
        let name = text.split('=').next().unwrap_or_default();
        let mut functions = allocators.iter().flat_map(|allocator| &allocator.functions);
        functions.any(|function| function.names.iter().any(|other| other == name))
    };
    if let Some(missing) = options.malloc.iter().find(|text| !found(text)) {
        let what = "neither .dynsym nor .symtab has a function of that name; name the build that was not stripped";
        return Err(bad(missing, what));
    }
    if allocators.is_empty() {
        return Ok((Diversion::default(), Vec::new()));
    }
    let known = crate::runtime::diverting(options.runtime.is_none(), runtime);
    let knows = |kind: Kind| known.contains(&kind.symbol());
    if known.is_empty() {
        let names = list(&allocators);
        return match options.malloc.first() {
            Some(given) => Err(bad(
                given,
                "the runtime has no functions for it (allocs_divert_malloc and so on); name one that has, or leave --malloc out",
            )),
            None => Ok((
                Diversion::default(),
                vec![format!(
                    "{names} in the program itself does not lead to the runtime, which has no functions for \
                     that (allocs_divert_malloc and so on): what it hands out is not seen"
                )],
            )),
        };
    }
    let mut diversion = Diversion::make(source, &allocators, knows, options)?;
    let mut notes = notes(&allocators, knows);
    if diversion.functions.is_empty() {
        return Ok((diversion, notes));
    }
    let prologues = diversion
        .functions
        .iter()
        .map(|function| &function.prologue);
    let frames = match frames {
        Some(frames) => frames,
        None => Frames::read(source, image)?,
    };
    match frames {
        Ok(frames) => {
            let (unwinding, odd) = Unwinding::make(frames, prologues);
            notes.extend(without(&diversion, &odd));
            diversion.unwinding = Some(unwinding);
        }
        Err(reason) => notes.push(format!(
            "a backtrace from a signal in the first instructions of its allocator's functions ends there: {reason}"
        )),
    }
    Ok((diversion, notes))
}

/// What the `odd` ones of its functions are not there for.
fn without(diversion: &Diversion, odd: &[Odd]) -> Option<String> {
    let functions = odd.iter().filter_map(|odd| {
        let function = diversion.functions.get(odd.number)?;
        Some(format!("{} ({})", function.name, odd.reason))
    });
    let functions = functions.collect::<Vec<_>>().join(", ");
    (!odd.is_empty()).then(|| {
        format!(
            "a backtrace from a signal in the first instructions of these ends there: {functions}"
        )
    })
}

/// On other machines no function is diverted: what is to be said of a program that has a malloc of its own.
fn elsewhere(options: &Options, source: &Source, image: &Image) -> Result<Vec<String>> {
    if !has_malloc(source, image)? {
        return Ok(Vec::new());
    }
    if options.runtime.is_none() && !options.partial {
        let machine = image.format.name();
        return Err(source.error(ErrorKind::CannotDivert {
            functions: format!("malloc (on {machine} no function is led there)"),
            advice: "pass --partial to go on without it",
        }));
    }
    let note = "malloc in the program itself does not lead to the runtime, which is possible on x86-64 only: \
                what it hands out is not seen";
    Ok(vec![note.to_owned()])
}

fn list(allocators: &[Allocator]) -> String {
    let names = allocators.iter().map(|allocator| allocator.name.as_str());
    names.collect::<Vec<_>>().join(", ")
}

/// What is not seen.
fn notes(allocators: &[Allocator], knows: impl Fn(Kind) -> bool) -> Vec<String> {
    let mut notes = Vec::new();
    for allocator in allocators {
        let name = &allocator.name;
        let mut stay = allocator.own().filter_map(|function| {
            let reason = function.stays(&knows)?;
            Some(format!("{} ({reason})", function.name()))
        });
        if let Some(first) = stay.next() {
            let stay = [first]
                .into_iter()
                .chain(stay)
                .collect::<Vec<_>>()
                .join(", ");
            notes.push(format!(
                "of {name} in the program itself, calls of these are not seen: {stay}"
            ));
        }
    }
    notes
}
