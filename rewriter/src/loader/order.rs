//! In which order the objects of a closure are relocated and initialised.
//!
//! glibc sorts the load order so that what an object needs comes behind it, and walks the result
//! backwards, once to relocate and once to initialise (elf/dl-deps.c, elf/rtld.c, elf/dl-init.c).
//! From 2.35 on the sort is a depth-first search, before that a sequence of moves (elf/dl-sort-maps.c).
//! Relocation dependencies do not matter at start-up: `_dl_sort_maps` looks at them only for
//! finalisers. The last object mapped that has DF_1_INITFIRST is initialised ahead of all others.
//!
//! musl searches depth first from the executable, once (ldso/dynlink.c, `queue_ctors`).

use object::elf::DF_1_INITFIRST;

use super::closure::{Closure, EXECUTABLE, LOADER};
use super::ldso::{Flavour, Glibc};

/// The orders, as places in the closure.
#[derive(Debug)]
pub(crate) struct Order {
    /// The executable is last. The loader has relocated itself before.
    pub(crate) relocation: Vec<usize>,
    /// The object that comes first because it has DF_1_INITFIRST.
    pub(crate) initfirst: Option<usize>,
    /// All objects; the executable is last.
    pub(crate) initialisation: Vec<usize>,
}

impl Order {
    pub(crate) fn new(closure: &Closure, flavour: &Flavour) -> Self {
        match flavour {
            Flavour::Glibc(glibc) => Self::of_glibc(closure, glibc),
            Flavour::Musl => Self::of_musl(closure),
        }
    }

    fn of_glibc(closure: &Closure, glibc: &Glibc) -> Self {
        let mut maps = closure.order.clone();
        // Filters of the executable stand before it in the load order.
        if let Some(at) = maps.iter().position(|&place| place == EXECUTABLE) {
            maps[..=at].rotate_right(1);
        }
        let mut sorted = match glibc.since(35) {
            true => depth_first(closure, &maps),
            false => by_moves(closure, &maps),
        };
        sorted.reverse();
        let mut relocation = sorted.clone();
        relocation.retain(|&place| place != LOADER);
        let is_libc = |place: &usize| {
            let soname = closure.objects[*place].object.soname.as_deref();
            soname == Some(b"libc.so.6")
        };
        // From 2.41 on, libc is relocated ahead of all others (elf/rtld.c, `dl_main`).
        if let Some(at) = relocation
            .iter()
            .position(is_libc)
            .filter(|_| glibc.since(41))
        {
            relocation[..=at].rotate_right(1);
        }
        // The one variable that each of them overwrites when it is mapped (elf/dl-load.c).
        let asks = |&place: &usize| closure.objects[place].object.has(DF_1_INITFIRST);
        let initfirst = (LOADER + 1..closure.objects.len()).rev().find(asks);
        let mut initialisation = sorted;
        if let Some(at) = initialisation
            .iter()
            .position(|&place| Some(place) == initfirst)
        {
            initialisation[..=at].rotate_right(1);
        }
        Self {
            relocation,
            initfirst,
            initialisation,
        }
    }

    fn of_musl(closure: &Closure) -> Self {
        let mut relocation = closure.order.clone();
        relocation.retain(|&place| place != EXECUTABLE && place != LOADER);
        relocation.push(EXECUTABLE);
        let mut sorted = Vec::new();
        let mut visited = vec![false; closure.objects.len()];
        let needs = |place: usize| -> Vec<usize> {
            match place {
                EXECUTABLE => closure.pseudo_needs().collect(),
                _ => closure.objects[place].needs.clone(),
            }
        };
        visit(EXECUTABLE, &mut visited, &needs, &mut |place| {
            sorted.push(place)
        });
        Self {
            relocation,
            initfirst: None,
            initialisation: sorted,
        }
    }
}

/// `_dl_sort_maps_dfs`: from the end of the load order backwards, each object behind what it needs,
/// then all of it turned around. Nothing leads to the executable, whose own needs are not known yet.
fn depth_first(closure: &Closure, maps: &[usize]) -> Vec<usize> {
    let mut sorted = Vec::new();
    let mut visited = vec![false; closure.objects.len()];
    visited[EXECUTABLE] = true;
    let needs = |place: usize| closure.objects[place].needs.clone();
    for &place in maps.iter().rev().filter(|&&place| place != EXECUTABLE) {
        visit(place, &mut visited, &needs, &mut |place| sorted.push(place));
    }
    sorted.push(EXECUTABLE);
    sorted.reverse();
    sorted
}

/// Depth-first search from `start`, which calls `leave` for each object after all that it needs. A
/// stack of its own: a chain of libraries may be longer than the thread's stack is deep.
fn visit(
    start: usize,
    visited: &mut [bool],
    needs: &impl Fn(usize) -> Vec<usize>,
    leave: &mut impl FnMut(usize),
) {
    if std::mem::replace(&mut visited[start], true) {
        return;
    }
    let mut stack = vec![(start, needs(start).into_iter())];
    while let Some((place, rest)) = stack.last_mut() {
        match rest.find(|&needed| !visited[needed]) {
            Some(needed) => {
                visited[needed] = true;
                stack.push((needed, needs(needed).into_iter()));
            }
            None => {
                leave(*place);
                stack.pop();
            }
        }
    }
}

/// `_dl_sort_maps_original`, which was `_dl_sort_maps` up to 2.34: each object moves behind the last
/// one that needs it, unless it has been moved more often than there are objects.
fn by_moves(closure: &Closure, all: &[usize]) -> Vec<usize> {
    let mut maps: Vec<usize> = all.iter().copied().skip(1).collect();
    let count = maps.len();
    let mut needed_by = vec![Vec::new(); closure.objects.len()];
    for &place in &maps {
        for &needed in &closure.objects[place].needs {
            needed_by[needed].push(place);
        }
    }
    let mut at = vec![0; closure.objects.len()];
    for (index, &place) in maps.iter().enumerate() {
        at[place] = index;
    }
    let mut seen = vec![0_usize; count];
    let mut i = 0;
    while i < count {
        seen[i] += 1;
        let this = maps[i];
        let last = needed_by[this].iter().map(|&place| at[place]).max();
        let Some(k) = last.filter(|&k| k > i) else {
            i += 1;
            seen[i.min(count)..].fill(0);
            continue;
        };
        maps[i..=k].rotate_left(1);
        for (index, &place) in maps.iter().enumerate().take(k + 1).skip(i) {
            at[place] = index;
        }
        if seen[i + 1] > count - i {
            i += 1;
            seen[i..].fill(0);
        } else {
            seen[i..=k].rotate_left(1);
        }
    }
    all.iter().take(1).copied().chain(maps).collect()
}
