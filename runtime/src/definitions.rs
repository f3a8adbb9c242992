//! The first definitions of functions in load order, ahead of the runtime and behind it. All names are looked up in one
//! pass over the objects: to find an object and its tables costs more than to look a name up there, and this is most of
//! what the runtime does at the start.

use crate::linkmap::LinkMap;
use crate::object::Object;
use crate::symbol::{Symbol, Symbols};

/// One definition, and the object that it is in.
#[derive(Clone, Copy)]
pub(crate) struct Definition {
    pub(crate) symbol: Symbol,
    pub(crate) object: Object,
}

/// Those of so many names, in their order.
pub(crate) struct Definitions<const NAMES: usize> {
    ahead: [Option<Definition>; NAMES],
    behind: [Option<Definition>; NAMES],
}

impl<const NAMES: usize> Definitions<NAMES> {
    /// Those of `names`, which spaces separate.
    pub(crate) fn find(map: LinkMap, names: &[u8]) -> Self {
        let [mut ahead, mut behind] = [[None; NAMES]; 2];
        let mut first = &mut ahead;
        for object in map.objects() {
            if object.is_runtime() {
                first = &mut behind;
                continue;
            }
            let Some(symbols) = Symbols::of(object) else {
                continue;
            };
            let names = names.split(|byte| *byte == b' ');
            for (name, first) in names.zip(&mut *first) {
                if first.is_none() {
                    let symbol = symbols.find(name);
                    *first = symbol.map(|symbol| Definition { symbol, object });
                }
            }
        }
        Self { ahead, behind }
    }

    /// The first behind the runtime of the name with that index.
    pub(crate) fn behind(&self, index: usize) -> Option<Definition> {
        self.behind.get(index).copied().flatten()
    }

    /// The first ahead of it.
    pub(crate) fn ahead(&self, index: usize) -> Option<Definition> {
        self.ahead.get(index).copied().flatten()
    }
}
