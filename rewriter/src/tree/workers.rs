//! Everything that is to be done, on all processors.

use std::ops::ControlFlow;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle, Thread};
use std::time::Duration;

use super::Tree;
use super::entry::Done;
use super::links::Item;
use crate::Progress;
use crate::error::{Error, ErrorKind, Result};

/// How often it is asked whether to go on.
const PATIENCE: Duration = Duration::from_millis(50);
/// In place each file is flushed to disk, which is waiting: as many wait for one turn of the disk's.
const WAITING: usize = 8;

/// A thread that works; when it ends, in whatever way, the one that waits hears of it.
struct Working<'s> {
    working: &'s AtomicUsize,
    main: &'s Thread,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.working.fetch_sub(1, Ordering::Release);
        self.main.unpark();
    }
}

/// What `act` gives for each of `items`, in their order, on so many threads for each processor. `meanwhile` is called
/// now and then.
pub(crate) fn on_all<T: Sync, D: Send>(
    per_processor: usize,
    items: &[T],
    act: impl Fn(&T) -> D + Sync,
    mut meanwhile: impl FnMut(),
) -> Vec<D> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = (processors * per_processor).min(items.len());
    let (next, working) = (AtomicUsize::new(0), AtomicUsize::new(threads));
    let main = thread::current();
    let mut all: Vec<(usize, D)> = thread::scope(|scope| {
        let (next, working, main, act) = (&next, &working, &main, &act);
        let work = || {
            scope.spawn(move || {
                let _ended = Working { working, main };
                let taken = || Some(next.fetch_add(1, Ordering::Relaxed));
                std::iter::from_fn(taken)
                    .map_while(|index| Some((index, act(items.get(index)?))))
                    .collect::<Vec<_>>()
            })
        };
        let workers: Vec<_> = (0..threads).map(|_| work()).collect();
        while working.load(Ordering::Acquire) > 0 {
            thread::park_timeout(PATIENCE);
            meanwhile();
        }
        let done = workers.into_iter().map(ScopedJoinHandle::join);
        let done = done.map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    });
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, done)| done).collect()
}

/// How far the workers are.
#[derive(Default)]
struct State {
    done: AtomicU64,
    stop: AtomicBool,
}

/// Does what `act` does with each item.
pub(crate) fn run(
    tree: &Tree<'_>,
    items: &[&Item<'_>],
    progress: &mut Progress<'_>,
    act: impl Fn(&Item<'_>, &mut Progress<'_>) -> Done + Sync,
) -> Result<Vec<Done>> {
    let total = items.iter().map(|item| item.entry.work()).sum();
    let state = State::default();
    let strict = tree.options.strict;
    let mut stopped = false;
    let per_processor = match tree.in_place() {
        true => WAITING,
        false => 1,
    };
    let all = on_all(
        per_processor,
        items,
        |item| {
            let done = state.watch(item, &act)?;
            if strict && done.error.is_some() {
                state.stop.store(true, Ordering::Relaxed);
            }
            Some(done)
        },
        || {
            stopped |= progress(state.done.load(Ordering::Relaxed), total).is_break();
            if stopped {
                state.stop.store(true, Ordering::Relaxed);
            }
        },
    );
    let mut all: Vec<Done> = all.into_iter().flatten().collect();
    if stopped {
        return Err(Error::new(&tree.output, ErrorKind::TreeStopped));
    }
    if strict {
        // Where one fails, the others are stopped.
        let failed = |error: &mut Error| !matches!(error.kind(), ErrorKind::Stopped);
        let failure = all.iter_mut().find_map(|done| done.error.take_if(failed));
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Ok(all)
}

impl State {
    /// Acts, and counts the bytes meanwhile; `None` if it is to stop.
    fn watch(
        &self,
        item: &Item<'_>,
        act: impl Fn(&Item<'_>, &mut Progress<'_>) -> Done,
    ) -> Option<Done> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        let work = item.entry.work();
        let mut counted = 0;
        let done = act(item, &mut |copied, _| {
            // A file that grows meanwhile, or is looked at twice, counts as what it was.
            let new = copied.min(work).saturating_sub(counted);
            counted += new;
            self.done.fetch_add(new, Ordering::Relaxed);
            match self.stop.load(Ordering::Relaxed) {
                true => ControlFlow::Break(()),
                false => ControlFlow::Continue(()),
            }
        });
        self.done.fetch_add(work - counted, Ordering::Relaxed);
        Some(done)
    }
}
