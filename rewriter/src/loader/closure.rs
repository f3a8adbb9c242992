//! Everything that the loader loads for a program, and in which order.
//!
//! Breadth first over DT_NEEDED: the executable, what is preloaded, then for each object in turn what
//! it needs and is not there yet. Filters of an object stand before it (glibc elf/dl-deps.c,
//! `_dl_map_object_deps`; musl ldso/dynlink.c, `load_deps`). The order is also that in which symbols
//! are looked up.

use std::collections::{HashMap, HashSet};

use super::object::{Need, Object};
use super::preload::Preloads;
use super::search::{Found, Rule, Search};

/// The executable's place among the objects.
pub(crate) const EXECUTABLE: usize = 0;
/// The loader's own place.
pub(crate) const LOADER: usize = 1;

/// One object of the process.
#[derive(Debug)]
pub(crate) struct Loaded {
    /// What the loader calls it: the path that it opened.
    pub(crate) path: Vec<u8>,
    /// What it was asked for by, first.
    pub(crate) name: Vec<u8>,
    pub(crate) asker: Asker,
    pub(crate) rule: Rule,
    pub(crate) object: Object,
    /// The objects that it needs, filters among them, in order.
    pub(crate) needs: Vec<usize>,
}

/// Who asked for an object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Asker {
    /// It was there before the loader ran.
    Kernel,
    /// LD_PRELOAD.
    Preload,
    /// /etc/ld.so.preload.
    PreloadFile,
    /// The object at that place.
    Object(usize),
}

/// A name that no object that is there already went by, and what came of it.
#[derive(Debug)]
pub(crate) struct Request {
    pub(crate) name: Vec<u8>,
    pub(crate) asker: Asker,
    pub(crate) outcome: Outcome,
}

/// What came of a request.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// Another object came in.
    Loaded(usize),
    /// The file was there already, under another name.
    Same(usize),
    /// Nothing came in. The loader goes on without it only if the program can.
    Missing { reason: String, fatal: bool },
}

/// Everything that is loaded.
#[derive(Debug)]
pub(crate) struct Closure {
    /// By place, which is the order in which they came in; the executable and the loader are first.
    pub(crate) objects: Vec<Loaded>,
    /// The load order: places.
    pub(crate) order: Vec<usize>,
    pub(crate) requests: Vec<Request>,
    /// Names that objects go by; the first to have one keeps it.
    names: HashMap<Vec<u8>, usize>,
    identities: HashMap<(u64, u64), usize>,
    /// Places of the preloaded objects.
    preloaded: Vec<usize>,
}

impl Closure {
    /// Loads everything for `executable`; `loader` is what PT_INTERP names.
    pub(crate) fn load(
        search: &mut Search<'_>,
        executable: Loaded,
        loader: Loaded,
        preloads: &Preloads,
    ) -> Self {
        let mut closure = Self {
            objects: Vec::new(),
            order: Vec::new(),
            requests: Vec::new(),
            names: HashMap::new(),
            identities: HashMap::new(),
            preloaded: Vec::new(),
        };
        for object in [executable, loader] {
            closure.add(object, search.knows_sonames());
        }
        closure.preload(search, preloads);
        closure.load_needs(search);
        closure
    }

    /// What the executable needs, in the eyes of musl: its preloaded objects come first.
    pub(crate) fn pseudo_needs(&self) -> impl Iterator<Item = usize> {
        let own = self.objects[EXECUTABLE].needs.iter();
        self.preloaded.iter().chain(own).copied()
    }

    /// The requests that nothing came of and that the program cannot do without.
    pub(crate) fn fatal(&self) -> impl Iterator<Item = &Request> {
        self.requests
            .iter()
            .filter(|request| matches!(request.outcome, Outcome::Missing { fatal: true, .. }))
    }

    fn add(&mut self, loaded: Loaded, sonames: bool) -> usize {
        let place = self.objects.len();
        // The executable's own path is no name of it (glibc elf/rtld.c: its l_name is empty).
        let path = Some(&loaded.path).filter(|_| sonames && place != EXECUTABLE);
        let soname = loaded.object.soname.as_ref().filter(|_| sonames);
        for name in [path, Some(&loaded.name), soname].into_iter().flatten() {
            if !name.is_empty() {
                self.names.entry(name.clone()).or_insert(place);
            }
        }
        // The loader does not know the executable by its file (glibc elf/dl-load.c,
        // `_dl_map_object_from_fd`).
        if place != EXECUTABLE {
            self.identities
                .entry(loaded.object.identity)
                .or_insert(place);
        }
        self.objects.push(loaded);
        place
    }

    fn preload(&mut self, search: &mut Search<'_>, preloads: &Preloads) {
        let environment = preloads
            .environment
            .iter()
            .map(|name| (name, Asker::Preload));
        let file = preloads.file.iter().map(|name| (name, Asker::PreloadFile));
        for (name, asker) in environment.chain(file) {
            if let Some(place) = self.request(search, name, asker, false)
                && !self.preloaded.contains(&place)
                && place > LOADER
            {
                self.preloaded.push(place);
            }
        }
    }

    fn load_needs(&mut self, search: &mut Search<'_>) {
        self.order.push(EXECUTABLE);
        self.order.extend_from_slice(&self.preloaded);
        let mut listed: HashSet<usize> = self.order.iter().copied().collect();
        let mut done = HashSet::new();
        let mut at = 0;
        while let Some(&place) = self.order.get(at) {
            if !done.insert(place) {
                at += 1;
                continue;
            }
            let start = at;
            let needs = std::mem::take(&mut self.objects[place].object.needs);
            for (need, name) in &needs {
                let name = search.expand(&self.objects, place, name);
                let fatal = *need != Need::Auxiliary;
                let asker = Asker::Object(place);
                let Some(needed) = self.request(search, &name, asker, fatal) else {
                    continue;
                };
                self.objects[place].needs.push(needed);
                let is_new = listed.insert(needed);
                if *need == Need::Needed {
                    self.order.extend(is_new.then_some(needed));
                } else if self.put_before(at, needed, is_new) {
                    at += 1;
                }
            }
            self.objects[place].object.needs = needs;
            at = start; // filters that came in before it are next
        }
    }

    /// Puts a filter's object before the one at `at`, unless it is before it already. True if it did.
    fn put_before(&mut self, at: usize, needed: usize, is_new: bool) -> bool {
        if !is_new {
            let behind = self.order[at..].iter().position(|&place| place == needed);
            match behind {
                None | Some(0) => return false,
                Some(distance) => self.order.remove(at + distance),
            };
        }
        self.order.insert(at, needed);
        true
    }

    /// The object that goes by `name`, loaded if it is not there yet.
    fn request(
        &mut self,
        search: &mut Search<'_>,
        name: &[u8],
        asker: Asker,
        fatal: bool,
    ) -> Option<usize> {
        if let Some(&place) = self.names.get(name) {
            return Some(place);
        }
        let (place, outcome) = match search.find(&self.objects, &self.identities, name, asker) {
            Ok(Found::Loader) => (Some(LOADER), Outcome::Same(LOADER)),
            Ok(Found::Known(place)) => (Some(place), Outcome::Same(place)),
            Ok(Found::New { path, rule, object }) => {
                let loaded = Loaded {
                    path,
                    name: name.to_vec(),
                    asker,
                    rule,
                    object: *object,
                    needs: Vec::new(),
                };
                let place = self.add(loaded, search.knows_sonames());
                (Some(place), Outcome::Loaded(place))
            }
            Err(reason) => (None, Outcome::Missing { reason, fatal }),
        };
        if let Some(place) = place {
            self.names.entry(name.to_vec()).or_insert(place);
        }
        // What is missing is missed once, whoever needs it; the loader stops there.
        let missed = |request: &Request| {
            matches!(request.outcome, Outcome::Missing { fatal: true, .. }) && request.name == name
        };
        let again = place.is_none() && fatal && self.requests.iter().any(missed);
        if !again {
            self.requests.push(Request {
                name: name.to_vec(),
                asker,
                outcome,
            });
        }
        place
    }
}
