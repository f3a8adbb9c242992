//! What `explain` says of the executable's own allocators.

use schemars::JsonSchema;
use serde::Serialize;

use super::names::Scheme;
use super::survey::{Allocator, Found};
use super::{Origin, survey};
use crate::elf::Format;
use crate::error::Result;
use crate::parse::Image;
use crate::source::Source;

/// An allocator that the program brings in its own file.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OwnAllocator {
    /// What its functions are called by: "malloc" for plain names, otherwise what their prefix stands for.
    pub name: String,
    /// Where its functions have names.
    pub names: Origin,
    /// The option that a rewrite needs to see it; `None` if it does so by itself.
    pub option: Option<String>,
    /// Its functions.
    pub functions: Vec<OwnFunction>,
}

impl OwnAllocator {
    /// True if it leads to a runtime.
    pub(crate) fn is_diverted(&self) -> bool {
        self.functions.iter().any(|function| function.diverted)
    }
}

/// A function of such an allocator.
#[derive(Clone, Debug, Serialize, JsonSchema)]
pub struct OwnFunction {
    /// Its names.
    pub names: Vec<String>,
    /// Its address in the file.
    pub address: String,
    /// Why it cannot be led to the runtime; `None` if it can be.
    pub problem: Option<String>,
    /// It is led to the runtime already.
    pub diverted: bool,
}

/// Prefixes that allocators are often built with.
const PREFIXES: [&str; 5] = ["_rjem_", "je_", "jemalloc_", "mi_", "tc_"];

/// The allocators of the executable in `source`, those included that a rewrite has to be told of.
pub(crate) fn explained(source: &Source) -> Result<Vec<OwnAllocator>> {
    if source.format() != Format::X86_64 {
        return Ok(Vec::new());
    }
    let image = Image::parse(source)?;
    let prefixes = PREFIXES.map(|prefix| Scheme::Prefix(prefix.to_owned()));
    let schemes = [vec![Scheme::Plain], prefixes.to_vec()].concat();
    let (allocators, _) = survey(source, &image, &schemes)?;
    Ok(allocators.iter().map(of_allocator).collect())
}

fn of_allocator(allocator: &Allocator) -> OwnAllocator {
    let first = allocator.functions.iter().find(|found| found.alike);
    let option = first.filter(|_| allocator.scheme != Scheme::Plain);
    OwnAllocator {
        name: allocator.name.clone(),
        names: allocator.origin,
        option: option.map(|found| format!("--malloc {}={}", found.name(), found.kind.name())),
        functions: allocator.functions.iter().map(of_function).collect(),
    }
}

fn of_function(found: &Found) -> OwnFunction {
    OwnFunction {
        names: found.names.clone(),
        address: found.start.to_string(),
        problem: found.stays(|_| true),
        diverted: found.diverted,
    }
}
