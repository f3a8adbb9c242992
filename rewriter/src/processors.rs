//! Work on all processors.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, Builder, ScopedJoinHandle, Thread};
use std::time::Duration;

/// A file as long as this is worth a thread, in bytes: to copy it takes a millisecond, and to start one a twentieth
/// of that.
pub(crate) const LARGE: u64 = 2 << 20;
/// How often `meanwhile` is called.
const PATIENCE: Duration = Duration::from_millis(50);

/// Whether all processors have their work: what is then to be done on all is a part of that.
static BUSY: AtomicBool = AtomicBool::new(false);

/// That they have, until it ends in whatever way.
struct Busy;

impl Drop for Busy {
    fn drop(&mut self) {
        BUSY.store(false, Ordering::Release);
    }
}

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

/// Whether one more thread would have a processor to itself, as far as this process knows.
pub(crate) fn is_one_free() -> bool {
    let several = thread::available_parallelism().is_ok_and(|all| all.get() > 1);
    several && !BUSY.load(Ordering::Acquire)
}

/// What `act` gives for each of `items`, in their order, on so many threads for each processor; on this one alone where
/// the system gives no other, and while something else is done on all, of which it may be a part. `meanwhile` is called
/// now and then.
pub(crate) fn on_all<T: Sync, D: Send>(
    per_processor: usize,
    items: &[T],
    act: impl Fn(&T) -> D + Sync,
    mut meanwhile: impl FnMut(),
) -> Vec<D> {
    let processors = thread::available_parallelism().map_or(1, usize::from);
    let threads = (processors * per_processor).min(items.len());
    if BUSY.swap(true, Ordering::Acquire) {
        return alone(items, act, meanwhile);
    }
    let _busy = Busy;
    let (next, working) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let main = thread::current();
    let mut all: Vec<(usize, D)> = thread::scope(|scope| {
        let (next, working, main, act) = (&next, &working, &main, &act);
        let work = || {
            working.fetch_add(1, Ordering::Relaxed);
            let ended = Working { working, main };
            let worker = move || {
                let _ended = ended;
                let taken = || Some(next.fetch_add(1, Ordering::Relaxed));
                std::iter::from_fn(taken)
                    .map_while(|index| Some((index, act(items.get(index)?))))
                    .collect::<Vec<_>>()
            };
            Builder::new().spawn_scoped(scope, worker).ok()
        };
        let workers: Vec<_> = (0..threads).map_while(|_| work()).collect();
        while working.load(Ordering::Acquire) > 0 {
            thread::park_timeout(PATIENCE);
            meanwhile();
        }
        let done = workers.into_iter().map(ScopedJoinHandle::join);
        let done = done.map(|done| done.unwrap_or_else(|panic| resume_unwind(panic)));
        done.flatten().collect()
    });
    if all.len() < items.len() {
        return alone(items, act, meanwhile); // no thread could be had
    }
    all.sort_unstable_by_key(|(index, _)| *index);
    all.into_iter().map(|(_, done)| done).collect()
}

fn alone<T, D>(items: &[T], act: impl Fn(&T) -> D, mut meanwhile: impl FnMut()) -> Vec<D> {
    let one = |item| {
        meanwhile();
        act(item)
    };
    items.iter().map(one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Also of what is itself done on all.
    #[test]
    fn answers_are_in_the_order_of_the_items() {
        let inner: Vec<u64> = (0..50).collect();
        let outer: Vec<u64> = (0..100).collect();
        let sums = |times: &u64| on_all(1, &inner, |item| item * times, || ());
        let expected: Vec<Vec<u64>> = (outer.iter())
            .map(|times| inner.iter().map(|item| item * times).collect())
            .collect();
        assert_eq!(on_all(2, &outer, sums, || ()), expected);
        assert!(on_all(1, &[0; 0], |item| *item, || ()).is_empty());
    }
}
