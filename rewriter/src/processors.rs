//! Work on all processors.

use std::panic::resume_unwind;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::{self, ScopedJoinHandle, Thread};
use std::time::Duration;

/// How often `meanwhile` is called.
const PATIENCE: Duration = Duration::from_millis(50);

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
