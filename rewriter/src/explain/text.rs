//! The explanation as a person reads it: aligned, and with colours where a terminal shows them.

use std::collections::HashMap;
use std::fmt::Write;

use anstyle::{AnsiColor, Style};

use super::{Binding, Call, Explanation, Resolvers};
use crate::divert::Origin;

const HEADING: Style = Style::new().bold();
const DIM: Style = Style::new().dimmed();
const GOOD: Style = AnsiColor::Green.on_default().bold();
const BAD: Style = AnsiColor::Red.on_default().bold();

impl Explanation {
    /// Everything, for a terminal: contains ANSI colour sequences.
    pub fn report(&self) -> String {
        let mut out = self.head();
        self.load_order(&mut out);
        self.missing(&mut out);
        self.early(&mut out);
        self.init_order(&mut out);
        self.malloc(&mut out);
        self.tail(&mut out);
        out
    }

    /// What needs what, then the verdict.
    pub fn tree(&self) -> String {
        let mut out = self.head();
        self.branches(&mut out);
        self.missing(&mut out);
        self.tail(&mut out);
        out
    }

    fn head(&self) -> String {
        let (program, loader) = (&self.program, &self.loader);
        format!("{program}: run by {} ({loader})\n\n", self.interpreter)
    }

    fn tail(&self, out: &mut String) {
        for note in &self.notes {
            line(out, format_args!("note: {note}"));
        }
        let style = if self.verdict.first { GOOD } else { BAD };
        line(out, format_args!("{style}{}{style:#}", self.verdict.text));
        if let Some(remedy) = &self.verdict.remedy {
            line(out, format_args!("help: {remedy}"));
        }
    }

    fn is_runtime(&self, path: &str) -> bool {
        let runtime = self.runtime.as_ref();
        runtime.and_then(|runtime| runtime.object.as_deref()) == Some(path)
    }

    /// The colour of an object: the runtime's, a rival's, or none.
    fn style(&self, path: &str) -> Style {
        if self.is_runtime(path) {
            GOOD
        } else if self.rivals.iter().any(|rival| rival == path) {
            BAD
        } else {
            Style::new()
        }
    }

    fn load_order(&self, out: &mut String) {
        heading(out, "Load order");
        let width = widest(self.load_order.iter().map(|object| object.path.as_str()));
        for (index, object) in self.load_order.iter().enumerate() {
            let style = self.style(&object.path);
            let flag = if object.initfirst {
                "DF_1_INITFIRST; "
            } else {
                ""
            };
            let origin = match &object.needed_by {
                Some(asker) => format!("{}, needed by {}", object.found_by, short(asker)),
                None => object.found_by.clone(),
            };
            let path = &object.path;
            line(
                out,
                format_args!(
                    "{:>4}  {style}{path:<width$}{style:#}  {flag}{DIM}{origin}{DIM:#}",
                    index + 1
                ),
            );
        }
        out.push('\n');
    }

    fn missing(&self, out: &mut String) {
        let missing = || {
            self.requests
                .iter()
                .filter(|request| request.problem.is_some())
        };
        if missing().next().is_none() {
            return;
        }
        heading(out, "Not found");
        for request in missing() {
            let (name, asker) = (&request.name, &request.needed_by);
            let problem = request.problem.as_deref().unwrap_or_default();
            line(
                out,
                format_args!("      {BAD}{name}{BAD:#}, needed by {asker}: {problem}"),
            );
        }
        out.push('\n');
    }

    /// What runs or is bound before any constructor, the runtime's init apart.
    fn early(&self, out: &mut String) {
        if self.ifunc_resolvers.is_empty() && self.copy_relocations.is_empty() {
            return;
        }
        let before = match &self.runtime {
            Some(_) => "While objects are relocated, before the runtime's init",
            None => "While objects are relocated, before any constructor",
        };
        heading(out, before);
        for resolvers in &self.ifunc_resolvers {
            let object = short(&resolvers.object);
            line(out, format_args!("      {object}: {}", describe(resolvers)));
        }
        if !self.copy_relocations.is_empty() {
            let copied = list(&self.copy_relocations);
            line(out, format_args!("      copied into the program: {copied}"));
        }
        out.push('\n');
    }

    fn init_order(&self, out: &mut String) {
        heading(out, "Init order");
        let calls = &self.init_order;
        let objects = widest(calls.iter().map(|call| short(&call.object)));
        let entries = widest(calls.iter().map(|call| call.entry.as_str()));
        for (index, call) in calls.iter().enumerate() {
            let style = if call.runtime {
                GOOD
            } else {
                self.style(&call.object)
            };
            let object = short(&call.object);
            let what = called(call);
            let mark = if call.runtime { "  <- the runtime" } else { "" };
            line(
                out,
                format_args!(
                    "{:>4}  {style}{object:<objects$}{style:#}  {:<entries$}  {what}{GOOD}{mark}{GOOD:#}",
                    index + 1,
                    call.entry
                ),
            );
        }
        out.push('\n');
    }

    fn malloc(&self, out: &mut String) {
        let Some(first) = self.malloc.definitions.first() else {
            return self.own_allocators(out);
        };
        heading(out, "malloc");
        line(
            out,
            format_args!("      defined by {}", self.malloc.definitions.join(", ")),
        );
        let bindings = &self.malloc.bindings;
        let (usual, others): (Vec<_>, Vec<_>) = bindings
            .iter()
            .partition(|binding| binding.definition.as_ref() == Some(first));
        let count = usual.len();
        line(
            out,
            format_args!("      {count} objects that refer to it get that of {first}"),
        );
        for binding in others {
            let definition = binding.definition.as_deref().unwrap_or("nobody");
            line(
                out,
                format_args!(
                    "      {BAD}{}{BAD:#} gets that of {definition}",
                    binding.object
                ),
            );
        }
        out.push('\n');
        self.own_allocators(out);
    }

    /// What the program's own file has, and whether a rewrite can lead it to the runtime.
    fn own_allocators(&self, out: &mut String) {
        for own in &self.malloc.own {
            let place = match own.names {
                Origin::Exported => "exported by the program",
                Origin::Symbols => "in the program, not exported, named in .symtab",
            };
            heading(out, &format!("{} {place}", own.name));
            if let Some(option) = &own.option {
                line(out, format_args!("      a rewrite sees it with {option}"));
            }
            let width = widest(own.functions.iter().map(|one| one.names[0].as_str()));
            for function in &own.functions {
                let (name, address) = (&function.names[0], &function.address);
                let (style, what) = match (&function.problem, function.diverted) {
                    (_, true) => (GOOD, "leads to the runtime"),
                    (None, false) => (Style::new(), "can be led to the runtime"),
                    (Some(problem), false) => (BAD, problem.as_str()),
                };
                line(
                    out,
                    format_args!("      {style}{name:<width$}{style:#}  {address:<10}  {what}"),
                );
            }
            out.push('\n');
        }
    }

    /// Every object below those that need it, taken apart where it comes first.
    fn branches(&self, out: &mut String) {
        let paths = self.load_order.iter().map(|object| object.path.as_str());
        let places: HashMap<&str, usize> = paths.zip(0..).collect();
        let mut shown = vec![false; self.load_order.len()];
        // Index and depth; a stack of its own, since a chain may be long.
        let mut stack = vec![(0, 0)];
        while let Some((index, depth)) = stack.pop() {
            let Some(object) = self.load_order.get(index) else {
                continue;
            };
            let again = std::mem::replace(&mut shown[index], true);
            let repeated = match again && !object.needs.is_empty() {
                true => " (above)",
                false => "",
            };
            let (path, style) = (&object.path, self.style(&object.path));
            line(
                out,
                format_args!(
                    "{:1$}{style}{path}{style:#}{DIM}{repeated}{DIM:#}",
                    "",
                    4 * depth
                ),
            );
            if !again {
                let needs = object.needs.iter().rev();
                let needs = needs.filter_map(|path| places.get(path.as_str()));
                stack.extend(needs.map(|&index| (index, depth + 1)));
            }
        }
        out.push('\n');
    }
}

fn line(out: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a string does not fail.
    let _ = writeln!(out, "{text}");
}

fn heading(out: &mut String, text: &str) {
    line(out, format_args!("{HEADING}{text}{HEADING:#}"));
}

/// The file name of a path.
fn short(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

fn widest<'a>(texts: impl Iterator<Item = &'a str>) -> usize {
    texts.map(|text| text.chars().count()).max().unwrap_or(0)
}

fn called(call: &Call) -> String {
    match (&call.symbol, &call.address) {
        (Some(symbol), _) => symbol.clone(),
        (None, Some(address)) => address.clone(),
        (None, None) => String::new(),
    }
}

fn describe(resolvers: &Resolvers) -> String {
    let own = match resolvers.own {
        0 => None,
        1 => Some("1 IFUNC resolver of its own".to_owned()),
        count => Some(format!("{count} IFUNC resolvers of its own")),
    };
    let bound =
        (!resolvers.bound.is_empty()).then(|| format!("resolvers of {}", list(&resolvers.bound)));
    let parts: Vec<String> = own.into_iter().chain(bound).collect();
    parts.join(", ")
}

/// "memcpy strlen and 7 more (libc.so.6)", a group for each object.
fn list(bindings: &[Binding]) -> String {
    const SHOWN: usize = 4;
    let mut groups: Vec<(&str, Vec<&str>)> = Vec::new();
    for binding in bindings {
        match groups
            .iter_mut()
            .find(|(object, _)| *object == binding.object)
        {
            Some((_, symbols)) => symbols.push(&binding.symbol),
            None => groups.push((&binding.object, vec![&binding.symbol])),
        }
    }
    let groups = groups.iter().map(|(object, symbols)| {
        let shown = &symbols[..symbols.len().min(SHOWN)];
        let more = match symbols.len() - shown.len() {
            0 => String::new(),
            more => format!(" and {more} more"),
        };
        format!("{}{more} ({})", shown.join(" "), short(object))
    });
    groups.collect::<Vec<_>>().join(", ")
}
