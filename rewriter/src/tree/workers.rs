//! Everything that is to be done in a tree, with its progress.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::Tree;
use super::entry::Done;
use super::links::Item;
use crate::Progress;
use crate::error::{Error, ErrorKind, Result};
use crate::processors::on_all;

/// In place each file is flushed to disk, which is waiting: as many wait for one turn of the disk's.
const WAITING: usize = 8;

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
