//! Facades that have no name: the program was stripped, or calls its malloc as nobody else does.
//!
//! About one call in 64 is a sample; with one thread, one in 512 once there are many: who called the function
//! that called, and so on. A function is taken for a facade if
//! - an eighth of all samples so far were made there, and no fewer than [`ENOUGH`];
//! - it is small, for whoever only hands memory on has not much code;
//! - it was called by [`SEVERAL`] different functions at least, or if it is [`TINY`] by two.
//!
//! A function that has been called by one function only, as an allocator is by what dispatches to it,
//! counts as a part of that one, which then has to be small and be called by several.
//! What was found stays so: the sites that are in such a function turn into facades. Then its callers
//! are sampled, of which some may be found in turn.

use crate::site::step::Frame;
use crate::site::table::{Key, Table};
use crate::site::{self, Site, kind, names, stack};
use crate::sync::{
    AtomicBool, AtomicUsize,
    Ordering::{Acquire, Relaxed, Release},
};

/// After so many samples no more are taken. A program with threads that has a chunk made at the same address again and
/// again may make a sample of each.
const ALL: usize = 1 << 13;
/// So many are taken at a high rate.
const FREQUENT: usize = 1 << 10;
/// One call in so many is a sample then, and one in eight times as many later.
pub(crate) const EVERY: u32 = 64;
const ENOUGH: usize = 16;
/// The smallest part of the samples, one in so many.
const SHARE: usize = 8;
const SEVERAL: usize = 4;
/// Bytes of code.
const SMALL: usize = 1024;
/// With so few, two callers are enough.
const TINY: usize = 128;
/// How many functions are one, if each is only called by the next.
const CHAIN: usize = 4;
/// How many functions are told apart.
const FUNCTIONS: usize = 1 << 11;

/// What samples have shown of one function. Where it begins and ends is written before anybody else gets its number.
struct Function {
    begin: AtomicUsize,
    size: AtomicUsize,
    /// How many were made there.
    samples: AtomicUsize,
    is_facade: AtomicBool,
    /// Different functions that called it, by their numbers; 0 behind the last.
    callers: [AtomicUsize; SEVERAL],
}

static SAMPLES: AtomicUsize = AtomicUsize::new(0);
/// The functions; 0 is no number of one.
static SEEN: [Function; FUNCTIONS] = [const {
    Function {
        begin: AtomicUsize::new(0),
        size: AtomicUsize::new(0),
        samples: AtomicUsize::new(0),
        is_facade: AtomicBool::new(false),
        callers: [const { AtomicUsize::new(0) }; SEVERAL],
    }
}; FUNCTIONS];
static NUMBERS: AtomicUsize = AtomicUsize::new(1);
/// Numbers of functions by return addresses, or 0 if it is in none; by the second keys of their beginnings, too.
static CALLS: Table = Table::new();

/// How many calls there should be from one sample to the next.
pub(crate) fn calls_to_next_sample() -> u32 {
    match SAMPLES.load(Relaxed) {
        ..FREQUENT => EVERY,
        FREQUENT..ALL => 8 * EVERY,
        _ => u32::MAX,
    }
}

/// Takes the call with `frame`, the direct caller's, for a sample.
pub(crate) fn sample(frame: Frame) {
    if !names::are_sought() || SAMPLES.load(Relaxed) >= ALL {
        return;
    }
    let total = SAMPLES.fetch_add(1, Relaxed).wrapping_add(1);
    let mut callers = stack::callers(frame);
    let Some(call) = callers.next() else {
        return;
    };
    let callers = callers.map(function_at);
    let Some(innermost) = function_at(call) else {
        return;
    };
    if innermost.is_facade.load(Relaxed) {
        // Seen before that was found, but not as a site.
        return site::skip(call);
    }
    let samples = innermost.samples.fetch_add(1, Relaxed).wrapping_add(1);
    let mut function = innermost;
    for caller in callers.take(CHAIN) {
        let Some(caller) = caller else {
            break;
        };
        function.note_caller(caller);
        function = caller;
    }
    if samples >= ENOUGH && samples.saturating_mul(SHARE) >= total {
        judge(innermost);
    }
}

/// Whether `innermost`, by itself or as a part of its only caller, is a facade.
fn judge(innermost: &Function) {
    let mut function = innermost;
    for length in 1..=CHAIN {
        let size = function.size.load(Relaxed);
        if size > SMALL {
            return;
        }
        let several = if size <= TINY { 2 } else { SEVERAL };
        match function.callers().count() {
            1 => {}
            callers if callers >= several => return condemn(innermost, length),
            _ => return,
        }
        let Some(caller) = function.callers().next() else {
            return;
        };
        function = caller;
    }
}

/// Makes facades of `innermost` and its only callers, `length` functions in all.
#[cold]
fn condemn(innermost: &Function, length: usize) {
    let mut function = innermost;
    for _ in 0..length {
        let begin = function.begin.load(Relaxed);
        let size = function.size.load(Relaxed);
        function.is_facade.store(true, Relaxed);
        names::add(begin);
        for caller in site::all().map(Site::address) {
            if caller.wrapping_sub(1).wrapping_sub(begin) < size {
                site::skip(caller);
            }
        }
        let Some(caller) = function.callers().next() else {
            return;
        };
        function = caller;
    }
}

impl Function {
    fn of(number: usize) -> Option<&'static Self> {
        SEEN.get(number).filter(|_| number != 0)
    }

    /// Its number.
    fn number(&self) -> usize {
        let first = SEEN.as_ptr().addr();
        let own = (&raw const *self).addr();
        own.wrapping_sub(first) / size_of::<Self>()
    }

    fn callers(&self) -> impl Iterator<Item = &'static Self> {
        self.callers
            .iter()
            .map_while(|caller| Self::of(caller.load(Acquire)))
    }

    fn note_caller(&self, caller: &Self) {
        let (own, number) = (self.number(), caller.number());
        if number == own {
            return;
        }
        for place in &self.callers {
            let before = place.compare_exchange(0, number, Release, Relaxed);
            if before.is_ok() || before == Err(number) {
                return;
            }
        }
    }
}

/// The function that `caller` is in.
fn function_at(caller: usize) -> Option<&'static Function> {
    let key = Key::of_address(caller);
    let number = CALLS.find(key).or_else(|| {
        let number = kind(caller).map_or(0, |kind| number_of(kind.function));
        CALLS.add(key, number)
    })?;
    Function::of(number as usize)
}

/// The number of the function with that beginning and size; 0 if there are too many.
fn number_of((begin, size): (usize, usize)) -> u32 {
    let key = Key::of_address(begin).second();
    let new = || {
        let next = |number: usize| Some(number.wrapping_add(1)).filter(|next| *next <= FUNCTIONS);
        let number = NUMBERS.fetch_update(Relaxed, Relaxed, next).ok()?;
        let function = Function::of(number)?;
        function.begin.store(begin, Relaxed);
        function.size.store(size, Relaxed);
        CALLS.add(key, u32::try_from(number).ok()?)
    };
    CALLS.find(key).or_else(new).unwrap_or(0)
}
