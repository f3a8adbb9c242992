//! A checker of what threads do to each other by atomics: [`interleave`] runs threads one at a time, and each operation
//! is a step, before which another thread may take its turn. A seed says who does, so that an order in which something
//! fails can be had again.
//!
//! The memory is that of x86: a store that is not sequentially consistent waits in its thread's buffer, where nobody
//! else sees it, until the thread's next locked operation or for as long as the seed says. So an order that only an
//! [`Ordering::SeqCst`] forbids comes up as well. Orders that only other machines have (loads before loads, stores
//! before stores) do not.
//!
//! On threads that are not the checker's, operations are the language's own.

use std::cell::RefCell;
use std::collections::VecDeque;
use std::ptr;
use std::sync::atomic::{self, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// Whose turn it is.
struct Turns {
    state: Mutex<State>,
    changed: Condvar,
}

struct State {
    turn: usize,
    /// The threads that have not ended.
    alive: Vec<usize>,
    random: u64,
    /// One in so many steps is followed by another thread's, and by a store that waited.
    every: usize,
}

impl State {
    /// A number below `limit`, by xorshift.
    fn random(&mut self, limit: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 33) as usize % limit
    }

    /// Gives the turn to any thread that has not ended.
    fn pass(&mut self) {
        if !self.alive.is_empty() {
            let next = self.random(self.alive.len());
            self.turn = self.alive[next];
        }
    }
}

impl Turns {
    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait(&self, number: usize, state: MutexGuard<'_, State>) {
        self.changed.notify_all();
        let is_others = |state: &mut State| state.turn != number;
        drop(self.changed.wait_while(state, is_others));
    }
}

/// A store that waits: where, what, and how it is done.
struct Store {
    address: usize,
    bits: u64,
    commit: fn(usize, u64),
}

/// One of the checker's threads.
struct Thread {
    turns: Arc<Turns>,
    number: usize,
    stores: VecDeque<Store>,
}

impl Thread {
    fn step(&mut self) {
        let mut state = self.turns.lock();
        let every = state.every;
        if state.random(every) == 0
            && let Some(store) = self.stores.pop_front()
        {
            (store.commit)(store.address, store.bits);
        }
        if state.random(every) == 0 {
            state.pass();
            self.turns.wait(self.number, state);
        }
    }

    fn commit_all(&mut self) {
        for store in self.stores.drain(..) {
            (store.commit)(store.address, store.bits);
        }
    }
}

impl Drop for Thread {
    fn drop(&mut self) {
        self.commit_all();
        let mut state = self.turns.lock();
        state.alive.retain(|number| *number != self.number);
        state.pass();
        self.turns.changed.notify_all();
    }
}

thread_local! {
    static OWN: RefCell<Option<Thread>> = const { RefCell::new(None) };
}

/// Runs `bodies`, each on a thread of its own, in an order of steps that `seed` says.
pub(crate) fn interleave(seed: u64, bodies: &[&(dyn Fn() + Sync)]) {
    let state = State {
        turn: 0,
        alive: (0..bodies.len()).collect(),
        random: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        every: 2 + seed as usize % 8,
    };
    let turns = Arc::new(Turns {
        state: Mutex::new(state),
        changed: Condvar::new(),
    });
    thread::scope(|scope| {
        for (number, body) in bodies.iter().enumerate() {
            let turns = Arc::clone(&turns);
            scope.spawn(move || {
                turns.wait(number, turns.lock());
                let own = Thread {
                    turns,
                    number,
                    stores: VecDeque::new(),
                };
                OWN.set(Some(own));
                let _end = End;
                body();
            });
        }
    });
}

/// Ends a thread of the checker's, even if it panics.
struct End;

impl Drop for End {
    fn drop(&mut self) {
        drop(OWN.take());
    }
}

/// Calls `what` with this thread, if it is the checker's.
fn own<T>(what: impl FnOnce(&mut Thread) -> T) -> Option<T> {
    OWN.with(|own| own.borrow_mut().as_mut().map(what))
}

/// Another thread may take its turn here.
pub(crate) fn step() {
    own(Thread::step);
}

/// A step that no store waits beyond.
pub(crate) fn locked() {
    own(|own| {
        own.step();
        own.commit_all();
    });
}

/// As that of `core`.
pub(crate) fn fence(ordering: Ordering) {
    if ordering == Ordering::SeqCst {
        locked();
    }
    atomic::fence(ordering);
}

/// What this thread's own waiting stores have at `address`.
fn waiting(address: usize) -> Option<u64> {
    own(|own| {
        own.step();
        let mut stores = own.stores.iter().rev();
        Some(stores.find(|store| store.address == address)?.bits)
    })?
}

/// Has a store wait, if this thread is the checker's.
fn wait(store: Store) -> bool {
    own(|own| {
        own.step();
        own.stores.push_back(store);
    })
    .is_some()
}

macro_rules! checked {
    ($name:ident$(<$parameter:ident>)?, $value:ty, $to_bits:expr, $from_bits:expr) => {
        #[repr(transparent)]
        pub(crate) struct $name$(<$parameter>)?(atomic::$name$(<$parameter>)?);

        #[allow(dead_code, reason = "each type has what one of them needs")]
        impl$(<$parameter>)? $name$(<$parameter>)? {
            pub(crate) const fn new(value: $value) -> Self {
                Self(atomic::$name::new(value))
            }

            fn address(&self) -> usize {
                ptr::from_ref(self).expose_provenance()
            }

            fn commit(address: usize, bits: u64) {
                let place = ptr::with_exposed_provenance::<Self>(address);
                // SAFETY: an atomic that a thread of the checker's has stored to; they lie in statics.
                let place = unsafe { &*place };
                place.0.store($from_bits(bits), Ordering::SeqCst);
            }

            pub(crate) fn load(&self, ordering: Ordering) -> $value {
                waiting(self.address()).map_or_else(|| self.0.load(ordering), $from_bits)
            }

            pub(crate) fn store(&self, value: $value, ordering: Ordering) {
                let store = Store {
                    address: self.address(),
                    bits: $to_bits(value),
                    commit: Self::commit,
                };
                if ordering == Ordering::SeqCst || !wait(store) {
                    locked();
                    self.0.store(value, ordering);
                }
            }

            pub(crate) fn swap(&self, value: $value, ordering: Ordering) -> $value {
                locked();
                self.0.swap(value, ordering)
            }

            pub(crate) fn compare_exchange(
                &self,
                old: $value,
                new: $value,
                success: Ordering,
                failure: Ordering,
            ) -> Result<$value, $value> {
                locked();
                self.0.compare_exchange(old, new, success, failure)
            }
        }
    };
}

macro_rules! checked_number {
    ($name:ident, $value:ty) => {
        checked!($name, $value, |value| value as u64, |bits| bits as $value);

        #[allow(dead_code, reason = "each type has what one of them needs")]
        impl $name {
            checked_number!($value: fetch_add fetch_sub fetch_and fetch_or fetch_max);

            pub(crate) const fn as_ptr(&self) -> *mut $value {
                self.0.as_ptr()
            }

            pub(crate) fn fetch_update(
                &self,
                success: Ordering,
                failure: Ordering,
                change: impl FnMut($value) -> Option<$value>,
            ) -> Result<$value, $value> {
                locked();
                self.0.fetch_update(success, failure, change)
            }
        }
    };
    ($value:ty: $($operation:ident)*) => {
        $(
            pub(crate) fn $operation(&self, operand: $value, ordering: Ordering) -> $value {
                locked();
                self.0.$operation(operand, ordering)
            }
        )*
    };
}

checked_number!(AtomicU8, u8);
checked_number!(AtomicU32, u32);
checked_number!(AtomicU64, u64);
checked_number!(AtomicUsize, usize);
checked!(AtomicBool, bool, u64::from, |bits| bits != 0);
checked!(
    AtomicPtr<T>,
    *mut T,
    |value: *mut T| value.expose_provenance() as u64,
    |bits| ptr::with_exposed_provenance_mut(bits as usize)
);
