//! The loader model's answers, in the order of time and in the words of the [`Explanation`].

use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use object::elf::{DF_1_INITFIRST, STT_GNU_IFUNC};

use super::{
    Binding, Call, Conditions, Explanation, Malloc, MallocBinding, Phase, Request, Resolvers,
    Runtime,
};
use crate::divert::{self, OwnAllocator};
use crate::elf::Format;
use crate::error::Result;
use crate::loader::as_text;
use crate::loader::binding::Definition;
use crate::loader::closure::{Asker, Closure, EXECUTABLE, LOADER, Loaded, Outcome};
use crate::loader::ldso::{Flavour, Loader};
use crate::loader::object::{Function, Object};
use crate::loader::order::Order;
use crate::loader::preload::Preloads;
use crate::loader::search::{Rule, Search};
use crate::loader::system::System;
use crate::parse;
use crate::source::Source;

/// Explains the executable in `source`, which is (or will be) at `place` in `system`. `secure` says
/// that it has more rights than whoever starts it.
pub(crate) fn examine(
    system: &System,
    source: &Source,
    place: &Path,
    secure: bool,
    conditions: &Conditions,
) -> Result<Explanation> {
    let (interpreter, object) = parse::executable(source)?;
    let loader = Loader::read(system, &interpreter, source, &conditions.hwcaps)?;
    let executable = Loaded {
        path: place.as_os_str().as_bytes().to_vec(),
        name: Vec::new(),
        asker: Asker::Kernel,
        rule: Rule::Kernel,
        object,
        needs: Vec::new(),
    };
    let library_path = conditions.library_path.as_bytes();
    let mut search = Search::new(
        system,
        &loader,
        secure,
        library_path,
        &executable,
        source.format(),
    )?;
    let preload = conditions.preload.as_bytes();
    let preloads = Preloads::read(system, &loader.flavour, secure, preload)?;
    let itself = loader_object(system, &loader, source.format());
    let closure = Closure::load(&mut search, executable, itself, &preloads);
    let order = Order::new(&closure, &loader.flavour);
    let view = View {
        closure: &closure,
        order: &order,
        loader: &loader,
        program: source.path(),
        // What a rewrite would refuse is not what is asked here.
        own: divert::explained(source).unwrap_or_default(),
    };
    Ok(view.explanation())
}

/// The loader as an object of the process. What is odd in its file does no harm: it has started
/// every program on that system.
fn loader_object(system: &System, loader: &Loader, format: Format) -> Loaded {
    let path = loader.path.as_os_str().as_bytes().to_vec();
    let opened = system.open(&loader.path).ok();
    let object = opened.and_then(|opened| Object::read(opened, &loader.path, format).ok());
    Loaded {
        name: path.clone(),
        path,
        asker: Asker::Kernel,
        rule: Rule::Kernel,
        object: object.unwrap_or_default(),
        needs: Vec::new(),
    }
}

pub(super) struct View<'a> {
    pub(super) closure: &'a Closure,
    order: &'a Order,
    loader: &'a Loader,
    program: &'a Path,
    /// The allocators in the program's own file.
    own: Vec<OwnAllocator>,
}

/// The runtime's init as the program refers to it, and what that is bound to.
pub(super) struct Init {
    pub(super) symbol: String,
    index: u32,
    /// It is called through the PLT, which binds it when it is called.
    pub(super) lazy: bool,
    pub(super) definition: Option<Definition>,
    pub(super) phase: Phase,
}

impl View<'_> {
    fn explanation(&self) -> Explanation {
        let init = self.init();
        let runtime_place = init
            .as_ref()
            .and_then(|init| init.definition)
            .map(|found| found.place);
        let rivals = self.rivals(runtime_place);
        let init_order = self.init_order(init.as_ref());
        let malloc = self.malloc();
        let verdict = self.verdict(init.as_ref(), &init_order);
        Explanation {
            program: self.program.display().to_string(),
            interpreter: self.loader.path.display().to_string(),
            loader: self.loader.describe(),
            runtime: init.as_ref().map(|init| Runtime {
                init: init.symbol.to_string(),
                object: init.definition.map(|found| self.path(found.place)),
                phase: init.phase,
            }),
            load_order: self.load_order(),
            requests: self.requests(),
            relocation_order: self.paths(&self.order.relocation),
            initialised: self.paths(&self.order.initialisation),
            ifunc_resolvers: self.resolvers(init.as_ref()),
            copy_relocations: self.copies(),
            init_order,
            notes: self.notes(runtime_place, &rivals, &malloc),
            rivals,
            malloc,
            verdict,
        }
    }

    pub(super) fn path(&self, place: usize) -> String {
        match place {
            EXECUTABLE => self.program.display().to_string(),
            _ => as_text(&self.closure.objects[place].path),
        }
    }

    fn paths(&self, places: &[usize]) -> Vec<String> {
        places.iter().map(|&place| self.path(place)).collect()
    }

    fn object(&self, place: usize) -> &Object {
        &self.closure.objects[place].object
    }

    fn is_musl(&self) -> bool {
        matches!(self.loader.flavour, Flavour::Musl)
    }

    pub(super) fn asker(&self, asker: Asker) -> Option<String> {
        match asker {
            Asker::Kernel => None,
            Asker::Preload => Some("LD_PRELOAD".to_owned()),
            Asker::PreloadFile => Some("/etc/ld.so.preload".to_owned()),
            Asker::Object(place) => Some(self.path(place)),
        }
    }

    fn rule(&self, rule: Rule) -> String {
        match rule {
            Rule::Kernel => "kernel".to_owned(),
            Rule::Path => "path".to_owned(),
            Rule::Rpath(place) => format!("DT_RPATH of {}", self.path(place)),
            Rule::Runpath(place) => format!("DT_RUNPATH of {}", self.path(place)),
            Rule::LibraryPath => "LD_LIBRARY_PATH".to_owned(),
            Rule::Cache => "ld.so.cache".to_owned(),
            Rule::Default => "default directory".to_owned(),
        }
    }

    fn load_order(&self) -> Vec<super::Object> {
        let objects = self.closure.order.iter().map(|&place| {
            let loaded = &self.closure.objects[place];
            super::Object {
                path: self.path(place),
                name: as_text(&loaded.name),
                needed_by: self.asker(loaded.asker),
                found_by: self.rule(loaded.rule),
                needs: self.paths(&loaded.needs),
                initfirst: loaded.object.has(DF_1_INITFIRST),
            }
        });
        objects.collect()
    }

    fn requests(&self) -> Vec<Request> {
        let requests = self.closure.requests.iter().map(|request| {
            let (object, new, problem, required) = match &request.outcome {
                Outcome::Loaded(place) => (Some(*place), true, None, false),
                Outcome::Same(place) => (Some(*place), false, None, false),
                Outcome::Missing { reason, fatal } => (None, false, Some(reason.clone()), *fatal),
            };
            Request {
                name: as_text(&request.name),
                needed_by: self.asker(request.asker).unwrap_or_default(),
                object: object.map(|place| self.path(place)),
                new,
                problem,
                required,
            }
        });
        requests.collect()
    }

    /// A rewritten program has DF_1_INITFIRST, which no linker sets by itself, and a first preinit
    /// entry that is filled with somebody else's function; for musl, a trampoline that calls it. One that
    /// was linked with the object file may lack the flag; there the own runtime's symbol tells.
    fn init(&self) -> Option<Init> {
        let program = self.object(EXECUTABLE);
        let entry = match self.is_musl() {
            false => program.preinit_array.first(),
            true => program.trampoline.as_ref(),
        };
        let index = entry.and_then(|entry| entry.reference)?;
        let lazy = entry.is_some_and(|entry| entry.address.is_some()) && !program.now;
        let symbol = program.symbols.get(index)?;
        let name = as_text(program.symbols.name(index)?);
        let ours = program.has(DF_1_INITFIRST) || Phase::is_own_init(&name);
        if !symbol.is_undefined() || !ours {
            return None;
        }
        let definition = self.closure.bind(EXECUTABLE, index);
        let kind = definition.and_then(|definition| self.closure.kind(definition));
        Some(Init {
            symbol: name,
            index,
            lazy,
            definition,
            phase: match kind {
                _ if self.is_musl() => Phase::Entry,
                Some(STT_GNU_IFUNC) if !lazy => Phase::Relocation,
                _ => Phase::Preinit,
            },
        })
    }

    fn rivals(&self, runtime: Option<usize>) -> Vec<String> {
        if self.is_musl() {
            return Vec::new(); // it does not know the flag
        }
        let places = LOADER + 1..self.closure.objects.len();
        let rivals = places
            .filter(|&place| Some(place) != runtime && self.object(place).has(DF_1_INITFIRST));
        rivals.map(|place| self.path(place)).collect()
    }

    /// Resolvers that run before the runtime's own, or all of them if it has none.
    fn resolvers(&self, init: Option<&Init>) -> Vec<Resolvers> {
        if self.is_musl() {
            return Vec::new(); // it has no IFUNCs
        }
        let bound = self.closure.bound_ifuncs();
        let relocated = self.order.relocation.iter();
        let all = relocated.map(|&place| {
            let mine = bound.iter().filter(|(of, ..)| *of == place);
            let before = mine.take_while(|(_, index, _)| {
                !(place == EXECUTABLE && init.is_some_and(|init| init.index == *index))
            });
            let bindings = before.filter_map(|(_, index, definition)| {
                let symbol = self.object(place).symbols.name(*index)?;
                Some(Binding {
                    symbol: as_text(symbol),
                    object: self.path(definition.place),
                })
            });
            Resolvers {
                object: self.path(place),
                // The program's own are applied after all its other relocations.
                own: match (place, init) {
                    (EXECUTABLE, Some(_)) => 0,
                    _ => self.object(place).relocations.irelative,
                },
                bound: bindings.collect(),
            }
        });
        all.filter(|found| found.own > 0 || !found.bound.is_empty())
            .collect()
    }

    fn copies(&self) -> Vec<Binding> {
        let symbols = &self.object(EXECUTABLE).symbols;
        let copies = self.object(EXECUTABLE).relocations.copies.iter();
        let bindings = copies.filter_map(|&index| {
            let name = symbols.name(index)?;
            let from = self.closure.lookup_copied(name, symbols.version(index))?;
            Some(Binding {
                symbol: as_text(name),
                object: self.path(from.place),
            })
        });
        bindings.collect()
    }

    fn init_order(&self, init: Option<&Init>) -> Vec<Call> {
        let mut calls = Vec::new();
        if let Some(init) = init.filter(|init| init.phase != Phase::Preinit)
            && let Some(definition) = init.definition
        {
            let symbol = self.object(definition.place).symbols.get(definition.index);
            calls.push(Call {
                object: self.path(definition.place),
                entry: match init.phase {
                    Phase::Entry => "entry point".to_owned(),
                    _ => "IFUNC resolver".to_owned(),
                },
                address: symbol.map(|symbol| format!("{:#x}", symbol.value)),
                symbol: Some(init.symbol.to_string()),
                runtime: true,
            });
        }
        let mut places = self.order.initialisation.clone();
        let first = places
            .first()
            .copied()
            .filter(|first| self.order.initfirst == Some(*first));
        if let Some(first) = first {
            self.add_constructors(first, &mut calls);
            places.remove(0);
        }
        if !self.is_musl() {
            self.add_preinit(init, &mut calls);
        }
        for place in places {
            self.add_constructors(place, &mut calls);
        }
        calls
    }

    fn add_preinit(&self, init: Option<&Init>, calls: &mut Vec<Call>) {
        let entries = self.object(EXECUTABLE).preinit_array.iter().enumerate();
        calls.extend(entries.map(|(index, function)| {
            let entry = format!("DT_PREINIT_ARRAY[{index}]");
            Call {
                runtime: index == 0 && init.is_some(),
                ..self.call(EXECUTABLE, entry, function)
            }
        }));
    }

    fn add_constructors(&self, place: usize, calls: &mut Vec<Call>) {
        let object = self.object(place);
        let init = object.init.iter();
        calls.extend(init.map(|function| self.call(place, "DT_INIT".to_owned(), function)));
        let array = object.init_array.iter().enumerate();
        calls.extend(array.map(|(index, function)| {
            self.call(place, format!("DT_INIT_ARRAY[{index}]"), function)
        }));
    }

    fn call(&self, place: usize, entry: String, function: &Function) -> Call {
        Call {
            object: self.path(place),
            entry,
            address: function.address.map(|address| address.to_string()),
            symbol: function.name.clone(),
            runtime: false,
        }
    }

    fn malloc(&self) -> Malloc {
        const NAME: &[u8] = b"malloc";
        let order = self.closure.order.iter().copied();
        let defines = |place: &usize| self.object(*place).symbols.find(NAME, None).is_some();
        let definitions: Vec<usize> = order.clone().filter(defines).collect();
        let bindings = order.filter_map(|place| {
            let symbols = &self.object(place).symbols;
            let index = symbols.reference(NAME)?;
            let definition = self.closure.bind(place, index);
            Some(MallocBinding {
                object: self.path(place),
                definition: definition.map(|found| self.path(found.place)),
            })
        });
        Malloc {
            bindings: bindings.collect(),
            own: self.own.clone(),
            definitions: self.paths(&definitions),
        }
    }
}
