//! Everything that is to be done, on all processors.

use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
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
}

/// Does what `act` does with each item. The answers are in no order.
pub(crate) fn run(
    tree: &Tree<'_>,
    items: &[&Item<'_>],
    progress: &mut Progress<'_>,
    act: impl Fn(&Item<'_>, &mut Progress<'_>) -> Done + Sync,
) -> Result<Vec<Done>> {
    let total = items.iter().map(|item| item.entry.work()).sum();
    let state = State::default();
    let mut all = Vec::with_capacity(items.len());
    let mut failure = None;
    let mut stopped = false;
    thread::scope(|scope| {
        let (sender, receiver) = mpsc::channel();
        for _ in 0..threads(tree).min(items.len()) {
            let (sender, state, act) = (sender.clone(), &state, &act);
            scope.spawn(move || {
                while let Some(item) = state.next(items) {
                    if sender.send(state.watch(item, act)).is_err() {
                        break;
                    }
                }
            });
        }
        drop(sender);
        loop {
            match receiver.recv_timeout(PATIENCE) {
                Ok(mut done) => {
                    if tree.options.strict && failure.is_none() {
                        failure = done.error.take();
                    }
                    all.push(done);
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => break,
            }
            stopped |= progress(state.done.load(Ordering::Relaxed), total).is_break();
            if stopped || failure.is_some() {
                state.stop.store(true, Ordering::Relaxed);
            }
        }
    });
    match failure {
        _ if stopped => Err(Error::new(&tree.output, ErrorKind::TreeStopped)),
        Some(error) => Err(error),
        None => Ok(all),
    }
}

fn threads(tree: &Tree<'_>) -> usize {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    match tree.in_place() {
        true => processors * WAITING,
        false => processors,
    }
}

impl State {
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
