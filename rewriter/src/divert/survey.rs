//! Which allocators an executable brings, and which of their functions can be moved.

use std::iter;
use std::ops::Range;

use object::elf::{SHF_EXECINSTR, SHT_NOBITS};
use schemars::JsonSchema;
use serde::Serialize;

use super::code::{ENDBR64, LONGEST, Prologue};
use super::imported;
use super::names::{Kind, Scheme};
use super::symbols::{Function, Symbols, contains};
use super::targets::Targets;
use super::{ENTRY, is_entry};
use crate::elf::{FileOffset, Vaddr};
use crate::error::{ErrorKind, Result};
use crate::parse::{Image, Table};
use crate::source::Source;
use crate::unwind::{Frames, Read};

/// How much of a function is looked at to move its beginning, in bytes: endbr64, and the longest
/// instructions that a jump can overlap.
const BEGINNING: u64 = 4 + 4 + 2 * LONGEST;

/// What operators are called whose program has no malloc.
const OPERATORS: &str = "operator new";

/// An allocator of the executable's own.
#[derive(Clone, Debug)]
pub(crate) struct Allocator {
    pub(crate) name: String,
    pub(crate) scheme: Scheme,
    pub(crate) origin: Origin,
    pub(crate) functions: Vec<Found>,
}

/// Where its functions have names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Origin {
    /// In .dynsym: libraries call them, too.
    Exported,
    /// In .symtab only.
    Symbols,
}

/// One of its functions.
#[derive(Clone, Debug)]
pub(crate) struct Found {
    /// Its names, first the one that says which it is.
    pub(crate) names: Vec<String>,
    pub(crate) kind: Kind,
    pub(crate) start: Vaddr,
    /// It can be called like any of that kind.
    pub(crate) alike: bool,
    /// It leads to a runtime already.
    pub(crate) diverted: bool,
    /// It stays as it is and is seen all the same: it begins with a call of one that is.
    pub(crate) calls_another: bool,
    /// What is to be moved, or why it cannot be.
    pub(crate) prologue: std::result::Result<Prologue, String>,
}

impl Allocator {
    /// The functions that do not lead to a runtime already.
    pub(crate) fn own(&self) -> impl Iterator<Item = &Found> {
        self.functions.iter().filter(|function| !function.diverted)
    }
}

impl Found {
    /// The name that says which function it is.
    pub(crate) fn name(&self) -> &str {
        self.names.first().map_or("", |name| name)
    }

    /// Why it is not seen by a runtime which has functions for what `knows` says; `None` if it is.
    pub(crate) fn stays(&self, knows: impl Fn(Kind) -> bool) -> Option<String> {
        match &self.prologue {
            Err(_) if self.calls_another => None,
            Err(reason) => Some(reason.clone()),
            Ok(_) if knows(self.kind) => None,
            Ok(_) => Some(format!("the runtime has no {}", self.kind.symbol())),
        }
    }
}

/// The allocators that have a name of one of `schemes`. Of those with plain names, only one that has malloc and
/// free, or operators new and delete that do without malloc; and none of a sanitizer. And what there is for unwinding, if that had to be read.
pub(crate) fn survey(
    source: &Source,
    image: &Image,
    schemes: &[Scheme],
) -> Result<(Vec<Allocator>, Option<Read>)> {
    let symbols = Symbols::read(source, image, schemes)?;
    let targets = Targets {
        source,
        image,
        symbols: &symbols,
    };
    let mut allocators = Vec::new();
    for scheme in schemes {
        let functions = symbols.of(scheme).map_err(|name| {
            source.error(ErrorKind::CannotDivert {
                functions: format!("{name} (several functions have that name)"),
                advice: "name those that allocate with --malloc NAME=FUNCTION",
            })
        })?;
        let mut named: Vec<Named<'_>> = (functions.iter())
            .filter_map(|&function| Named::new(scheme, function))
            .collect();
        // The one that has the kind's own name comes first: its place in the table is its.
        named.sort_by_key(|named| {
            let itself = named.function.name.ends_with(named.kind.name());
            (!named.alike, named.kind, !itself)
        });
        let has = |kind| named.iter().any(|named| named.kind == kind);
        let plain = *scheme == Scheme::Plain;
        let operators = plain && !(has(Kind::MALLOC) && has(Kind::FREE));
        let whole = !operators || (has(Kind::NEW) && has(Kind::DELETE));
        let jemalloc = plain && has(Kind::MALLOCX); // nobody else has that
        if named.is_empty() || !whole {
            continue;
        }
        if operators {
            named.retain(|named| named.kind.is_operator());
            let plain = named.iter().find(|named| named.kind == Kind::NEW);
            if let Some(plain) = plain
                && imported::calls_malloc_first(&targets, plain.function.start)?
            {
                continue;
            }
        }
        // That takes a look at all of the file but code.
        if plain && is_sanitizer(source, image)? {
            continue;
        }
        // Functions that an allocator has under two schemes make it one.
        let shares = |allocator: &&mut Allocator| {
            let mut starts = allocator.functions.iter().map(|found| found.start);
            starts.any(|start| named.iter().any(|named| named.function.start == start))
        };
        let same = allocators.iter_mut().find(shares);
        let mut allocator = Allocator {
            name: match plain {
                true if operators => OPERATORS.to_owned(),
                true if jemalloc => "jemalloc".to_owned(),
                _ => scheme.allocator(),
            },
            scheme: scheme.clone(),
            origin: match functions.iter().any(|function| function.exported) {
                true => Origin::Exported,
                false => Origin::Symbols,
            },
            functions: Vec::new(),
        };
        let functions = match same {
            Some(same) => &mut same.functions,
            None => &mut allocator.functions,
        };
        for named in named {
            let start = named.function.start;
            match functions.iter_mut().find(|other| other.start == start) {
                Some(same) => same.names.push(named.function.name.clone()),
                None => functions.push(named.examine(&targets)?),
            }
        }
        allocators.extend(Some(allocator).filter(|allocator| !allocator.functions.is_empty()));
    }
    let mut frames = None;
    refuse_what_leads_in(&targets, &mut frames, &mut allocators)?;
    refuse_calls(&targets, &mut frames, &mut allocators)?;
    Ok((allocators, frames))
}

/// True if the program brings a malloc of its own, and free.
pub(crate) fn has_malloc(source: &Source, image: &Image) -> Result<bool> {
    let symbols = Symbols::read(source, image, &[Scheme::Plain])?;
    let has = |kind: Kind| {
        let mut names = symbols.functions.iter().map(|function| &function.name);
        names.any(|name| name == kind.name())
    };
    Ok(has(Kind::MALLOC) && has(Kind::FREE))
}

/// True if the executable has a sanitizer's runtime, as with gcc's `-static-libasan` and clang's default: its
/// malloc is there to find errors, and works only after its own start. No symbol says so in a stripped
/// program, but each of these runtimes has the names of their common options
/// (compiler-rt lib/sanitizer_common/sanitizer_flags.inc).
///
/// No string is in a section of code.
fn is_sanitizer(source: &Source, image: &Image) -> Result<bool> {
    const OPTION: &[u8] = b"dedup_token_length\0";
    let code = code_sections(image);
    for (_, load) in image.loads() {
        let end = load.offset.0.saturating_add(load.filesz);
        let first = code.partition_point(|section| section.end <= load.offset.0);
        let inside = code.iter().skip(first);
        let inside = inside.take_while(|section| section.start < end).cloned();
        let mut start = load.offset.0;
        for section in inside.chain(iter::once(end..end)) {
            let strings = Table {
                vaddr: Vaddr(load.vaddr.0.wrapping_add(start - load.offset.0)),
                at: FileOffset(start),
                size: section.start.saturating_sub(start),
            };
            if contains(source, strings, OPTION)? {
                return Ok(true);
            }
            start = section.end.min(end);
        }
    }
    Ok(false)
}

/// Where in the file sections of code are: in order, and none in another.
fn code_sections(image: &Image) -> Vec<Range<u64>> {
    let code = (image.sections.iter())
        .filter(|section| section.flags.contains(SHF_EXECINSTR) && section.kind != SHT_NOBITS);
    let ranges = code.map(|section| {
        let start = section.offset.0;
        start..start.saturating_add(section.size)
    });
    let mut ranges: Vec<_> = ranges.collect();
    ranges.sort_by_key(|range| range.start);
    ranges.dedup_by(|next, range| {
        let joins = next.start <= range.end;
        if joins {
            range.end = range.end.max(next.end);
        }
        joins
    });
    ranges
}

/// A function, and which one it is.
struct Named<'a> {
    function: &'a Function,
    kind: Kind,
    alike: bool,
}

impl<'a> Named<'a> {
    fn new(scheme: &Scheme, function: &'a Function) -> Option<Self> {
        let (kind, alike) = scheme.kind(function.name.as_bytes())?;
        Some(Self {
            function,
            kind,
            alike,
        })
    }

    fn examine(&self, targets: &Targets<'_>) -> Result<Found> {
        let function = self.function;
        Ok(Found {
            names: vec![function.name.clone()],
            kind: self.kind,
            start: function.start,
            alike: self.alike,
            diverted: is_diverted(targets, function)?,
            calls_another: false,
            prologue: movable(targets, function)?,
        })
    }
}

/// True if the function begins with a jump to an entry, or is one.
fn is_diverted(targets: &Targets<'_>, function: &Function) -> Result<bool> {
    let code = targets.code(function.start, BEGINNING)?.unwrap_or_default();
    let itself = code.strip_prefix(&ENDBR64).unwrap_or(&code);
    let Some(entry) = super::code::jumps_to(&code, function.start) else {
        return Ok(is_entry(itself, function.start));
    };
    let code = targets.code(entry, ENTRY)?.unwrap_or_default();
    Ok(is_entry(&code, entry))
}

/// What is to be taken out of the function, or why it cannot be.
fn movable(
    targets: &Targets<'_>,
    function: &Function,
) -> Result<std::result::Result<Prologue, String>> {
    if function.ifunc {
        let reason = "it is an IFUNC: which function that will be is not known";
        return Ok(Err(reason.to_owned()));
    }
    let code = targets.code(function.start, BEGINNING)?.unwrap_or_default();
    let prologue = match Prologue::take(&code, function.start, function.size) {
        Ok(prologue) => prologue,
        reason => return Ok(reason),
    };
    let reason = targets.own(function.start, function.size, &prologue)?;
    Ok(reason.map_or(Ok(prologue), Err))
}

/// Leaves functions alone of whose first instructions one is a call, where nothing could unwind to it in its new
/// place. That is read if there is such a function.
fn refuse_calls(
    targets: &Targets<'_>,
    frames: &mut Option<Read>,
    allocators: &mut [Allocator],
) -> Result<()> {
    for allocator in allocators {
        let mut staying = Vec::new();
        for (number, function) in allocator.functions.iter_mut().enumerate() {
            let Ok(prologue) = &function.prologue else {
                continue;
            };
            let Some(call) = prologue.call() else {
                continue;
            };
            let reason = match Frames::once(frames, targets.source, targets.image)? {
                Ok(frames) => frames.keeps_call(prologue),
                Err(reason) => Some(reason.clone()),
            };
            if let Some(reason) = reason {
                let reason = format!("its instruction at {call} is a call, and {reason}");
                staying.push((number, prologue.called()));
                function.prologue = Err(reason);
            }
        }
        for (number, called) in staying {
            let mut others = allocator.functions.iter();
            let calls_another = others.any(|other| {
                let moves = other.diverted || other.prologue.is_ok();
                moves && Some(other.start) == called
            });
            if let Some(function) = allocator.functions.get_mut(number) {
                function.calls_another = calls_another && !function.kind.trusts_size();
            }
        }
    }
    Ok(())
}

/// Looks through the program for what leads into the functions' first instructions.
fn refuse_what_leads_in(
    targets: &Targets<'_>,
    frames: &mut Option<Read>,
    allocators: &mut [Allocator],
) -> Result<()> {
    let found: Vec<&mut Found> = (allocators.iter_mut())
        .flat_map(|allocator| &mut allocator.functions)
        .filter(|function| function.prologue.is_ok())
        .collect();
    let prologues = found
        .iter()
        .filter_map(|function| function.prologue.as_ref().ok());
    let prologues: Vec<&Prologue> = prologues.collect();
    let reasons = match prologues.is_empty() {
        true => return Ok(()),
        false => targets.elsewhere(&prologues, frames)?,
    };
    let mut found = found;
    for (number, reason) in reasons {
        if let Some(function) = found.get_mut(number) {
            function.prologue = Err(reason);
        }
    }
    Ok(())
}
