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

/// How far the workers are.
#[derive(Default)]
struct State {
    next: AtomicUsize,
    done: AtomicU64,
    stop: AtomicBool,
    /// Threads that have not ended.
    working: AtomicUsize,
    /// Whether the first failure is the end.
    strict: bool,
}

/// A thread that works; when it ends, in whatever way, the one that waits hears of it.
struct Working<'s> {
    state: &'s State,
    main: &'s Thread,
}

impl Drop for Working<'_> {
    fn drop(&mut self) {
        self.state.working.fetch_sub(1, Ordering::Release);
        self.main.unpark();
    }
}

/// Does what `act` does with each item. The answers are in no order.
pub(crate) fn run(
    tree: &Tree<'_>,
    items: &[&Item<'_>],
    progress: &mut Progress<'_>,
    act: impl Fn(&Item<'_>, &mut Progress<'_>) -> Done + Sync,
) -> Result<Vec<Done>> {
    let total = items.iter().map(|item| item.entry.work()).sum();
    let threads = threads(tree).min(items.len());
    let state = State {
        strict: tree.options.strict,
        working: AtomicUsize::new(threads),
        ..State::default()
    };
    let main = thread::current();
    let mut stopped = false;
    let mut all: Vec<Done> = thread::scope(|scope| {
        let (main, state, act) = (&main, &state, &act);
        let work = || {
            scope.spawn(move || {
                let _ended = Working { state, main };
                state.work(items, act)
            })
        };
        let workers: Vec<_> = (0..threads).map(|_| work()).collect();
        while state.working.load(Ordering::Acquire) > 0 {
            thread::park_timeout(PATIENCE);
            stopped |= progress(state.done.load(Ordering::Relaxed), total).is_break();
            if stopped {
                state.stop.store(true, Ordering::Relaxed);
            }
        }
        let done = workers.into_iter().map(ScopedJoinHandle::join);
        let done = done.map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    });
    if stopped {
        return Err(Error::new(&tree.output, ErrorKind::TreeStopped));
    }
    if state.strict {
        // Where one fails, the others are stopped.
        let failed = |error: &mut Error| !matches!(error.kind(), ErrorKind::Stopped);
        let failure = all.iter_mut().find_map(|done| done.error.take_if(failed));
        if let Some(error) = failure {
            return Err(error);
        }
    }
    Ok(all)
}

fn threads(tree: &Tree<'_>) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    match tree.in_place() {
        true => processors * WAITING,
        false => processors,
    }
}

impl State {
    /// What one thread does.
    fn work(
        &self,
        items: &[&Item<'_>],
        act: impl Fn(&Item<'_>, &mut Progress<'_>) -> Done,
    ) -> Vec<Done> {
        let mut all = Vec::new();
        while let Some(item) = self.next(items) {
            let done = self.watch(item, &act);
            if self.strict && done.error.is_some() {
                self.stop.store(true, Ordering::Relaxed);
            }
            all.push(done);
        }
        all
    }

    fn next<'i>(&self, items: &[&'i Item<'i>]) -> Option<&'i Item<'i>> {
        if self.stop.load(Ordering::Relaxed) {
            return None;
        }
        items
            .get(self.next.fetch_add(1, Ordering::Relaxed))
            .copied()
    }

    /// Acts, and counts the bytes meanwhile.
    fn watch(&self, item: &Item<'_>, act: impl Fn(&Item<'_>, &mut Progress<'_>) -> Done) -> Done {
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
        done
    }
}
