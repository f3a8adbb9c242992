//! Which definition a reference gets: the first in load order that fits, ahead of all of them the
//! object's own if it asks for that (DT_SYMBOLIC; glibc elf/dl-lookup.c, `_dl_lookup_symbol_x`).

use object::elf::{STT_GNU_IFUNC, SymbolType};

use super::closure::{Closure, EXECUTABLE};

/// A definition: the object's place and the symbol's index in it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Definition {
    pub(crate) place: usize,
    pub(crate) index: u32,
}

impl Closure {
    /// The definition that a reference to `name` from the object at `from` gets.
    pub(crate) fn lookup(
        &self,
        from: usize,
        name: &[u8],
        version: Option<&[u8]>,
    ) -> Option<Definition> {
        let own = Some(from).filter(|&from| self.objects[from].object.symbolic);
        let places = own.into_iter().chain(self.order.iter().copied());
        self.first_of(places, name, version)
    }

    /// The definition that a copy relocation of the executable takes its bytes from.
    pub(crate) fn lookup_copied(&self, name: &[u8], version: Option<&[u8]>) -> Option<Definition> {
        let others = self
            .order
            .iter()
            .copied()
            .filter(|&place| place != EXECUTABLE);
        self.first_of(others, name, version)
    }

    fn first_of(
        &self,
        mut places: impl Iterator<Item = usize>,
        name: &[u8],
        version: Option<&[u8]>,
    ) -> Option<Definition> {
        places.find_map(|place| {
            let index = self.objects[place].object.symbols.find(name, version)?;
            Some(Definition { place, index })
        })
    }

    /// Type of the symbol that a definition is.
    pub(crate) fn kind(&self, definition: Definition) -> Option<SymbolType> {
        self.objects[definition.place]
            .object
            .symbols
            .kind(definition.index)
    }

    /// The definition that the symbol at `index` of the object at `from` is bound to, itself perhaps.
    pub(crate) fn bind(&self, from: usize, index: u32) -> Option<Definition> {
        let symbols = &self.objects[from].object.symbols;
        self.lookup(from, symbols.name(index)?, symbols.version(index))
    }

    /// References that are bound to IFUNCs while their object is relocated, in the order of its
    /// relocations: the object's place, the symbol's index in it, and the definition.
    pub(crate) fn bound_ifuncs(&self) -> Vec<(usize, u32, Definition)> {
        let names = self.ifunc_names();
        let mut found = Vec::new();
        for &place in &self.order {
            let object = &self.objects[place].object;
            for &index in &object.relocations.bound {
                let prefix = object.symbols.prefix(index);
                if !prefix.is_some_and(|prefix| names.may_have(prefix)) {
                    continue;
                }
                if let Some(definition) = self.bind(place, index)
                    && self.kind(definition) == Some(STT_GNU_IFUNC)
                {
                    found.push((place, index, definition));
                }
            }
        }
        found
    }

    /// The names that any object has an IFUNC by.
    fn ifunc_names(&self) -> NameFilter {
        let mut names = NameFilter(vec![false; NameFilter::SIZE]);
        for &place in &self.order {
            let symbols = &self.objects[place].object.symbols;
            let ifuncs = symbols.ifuncs();
            let prefixes = ifuncs.filter_map(|index| symbols.prefix(index));
            prefixes.for_each(|prefix| names.add(prefix));
        }
        names
    }
}

/// Which names are worth a lookup: a set of prefixes that may say yes too often, never no.
struct NameFilter(Vec<bool>);

impl NameFilter {
    const SIZE: usize = 1 << 12;

    fn place(prefix: u32) -> usize {
        (prefix.wrapping_mul(0x9e37_79b9) >> 20) as usize % Self::SIZE
    }

    fn add(&mut self, prefix: u32) {
        self.0[Self::place(prefix)] = true;
    }

    fn may_have(&self, prefix: u32) -> bool {
        self.0[Self::place(prefix)]
    }
}
