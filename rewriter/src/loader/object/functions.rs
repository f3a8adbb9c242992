//! The functions that the loader calls for an object, and their names.

use std::collections::HashSet;
use std::collections::hash_map::{self, HashMap};

use object::elf::{DT_INIT, DynamicTag, SHT_SYMTAB};

use super::{Object, Reader};
use crate::elf::{Entry, Header, Section, Symbol, Vaddr};
use crate::error::Result;
use crate::loader::as_text;
use crate::parse;
use crate::source::{Allowance, Source};

/// A function that the loader calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Function {
    /// As the object's program headers count; unknown where a symbol of another object decides.
    pub(crate) address: Option<Vaddr>,
    /// Index of the symbol that the entry is relocated against.
    pub(crate) reference: Option<u32>,
    /// Its name, as far as the object has one.
    pub(crate) name: Option<String>,
}

impl Reader<'_> {
    pub(super) fn init(&self) -> Option<Function> {
        let address = self.dynamic.get(DT_INIT).map(Vaddr)?;
        Some(Function {
            address: Some(address),
            ..Function::default()
        })
    }

    /// The array's entries with the values that they have in the file.
    pub(super) fn array(&self, tag: DynamicTag, size_tag: DynamicTag) -> Result<Vec<Function>> {
        let format = self.source.format();
        let size = self.dynamic.get(size_tag).unwrap_or(0);
        let bytes = self.table(tag, size - size % format.word(), "an array of constructors")?;
        let addresses = format.addresses(&bytes).into_iter();
        let functions = addresses.map(|address| Function {
            address: Some(Vaddr(address)),
            ..Function::default()
        });
        Ok(functions.collect())
    }

    /// Finds names for the constructors: dynamic symbols, else those of .symtab.
    pub(super) fn name_functions(&self, header: &Header, object: &mut Object) -> Result<()> {
        let mut unnamed: Vec<&mut Function> = object
            .init
            .iter_mut()
            .chain(&mut object.init_array)
            .chain(&mut object.preinit_array)
            .collect();
        if unnamed.is_empty() {
            return Ok(());
        }
        let mut names = Names::new(self.source);
        for function in &mut unnamed {
            let name = function
                .reference
                .and_then(|index| object.symbols.name(index));
            function.name = name.and_then(|name| names.allowance.take(as_text(name)));
        }
        let addresses: Vec<u64> = { unnamed.iter() }
            .filter_map(|function| function.address.map(|address| address.0))
            .collect();
        for (index, symbol) in object.symbols.functions_at(&addresses) {
            names.add(&symbol, || object.symbols.name(index).map(as_text));
        }
        names.give(&mut unnamed);
        if unnamed.iter().any(|function| function.name.is_none()) {
            self.names_from_symtab(header, &addresses, &mut names)?;
            names.give(&mut unnamed);
        }
        Ok(())
    }

    fn names_from_symtab(
        &self,
        header: &Header,
        addresses: &[u64],
        names: &mut Names,
    ) -> Result<()> {
        // Sections are decoration: where they make no sense, there are no names.
        let Ok((_, sections)) = parse::read_sections(self.source, header) else {
            return Ok(());
        };
        let symtab = sections.iter().find(|section| section.kind == SHT_SYMTAB);
        let strings = symtab.and_then(|symtab| sections.get(usize::try_from(symtab.link).ok()?));
        let (Some(symtab), Some(strings)) = (symtab, strings) else {
            return Ok(());
        };
        let addresses: HashSet<u64> = addresses.iter().copied().collect();
        let count = symtab.size / Symbol::size(self.source.format());
        const WHAT: &str = "the symbol table";
        self.source
            .for_each(symtab.offset, count, WHAT, |_, symbol: Symbol| {
                let is_function = symbol.info.st_type() == object::elf::STT_FUNC;
                if is_function && !symbol.is_undefined() && addresses.contains(&symbol.value) {
                    names.add(&symbol, || self.symtab_name(strings, symbol.name));
                }
                Ok(())
            })
    }

    fn symtab_name(&self, strings: &Section, name: u32) -> Option<String> {
        const LONGEST: u64 = 4096;
        let rest = strings.file_size().checked_sub(u64::from(name))?;
        let at = strings.offset.checked_add(u64::from(name))?;
        let bytes = self
            .source
            .bytes(at, rest.min(LONGEST), "a symbol's name")
            .ok()?;
        bytes.get(..memchr::memchr(0, &bytes)?).map(as_text)
    }
}

/// Names by address: the first that is found.
struct Names {
    found: HashMap<u64, String>,
    allowance: Allowance,
}

impl Names {
    fn new(source: &Source) -> Self {
        Self {
            found: HashMap::new(),
            allowance: source.allowance(),
        }
    }

    fn add(&mut self, symbol: &Symbol, name: impl Fn() -> Option<String>) {
        if let hash_map::Entry::Vacant(place) = self.found.entry(symbol.value)
            && let Some(name) = name().and_then(|name| self.allowance.take(name))
        {
            place.insert(name);
        }
    }

    /// Names those that have no name yet.
    fn give(&mut self, functions: &mut [&mut Function]) {
        for function in functions {
            if let (None, Some(address)) = (&function.name, function.address) {
                let name = self.found.get(&address.0);
                function.name = name.and_then(|name| self.allowance.take(name).cloned());
            }
        }
    }
}
