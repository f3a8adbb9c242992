//! Sites: where allocations are made. A site is a number, small enough to be kept in each chunk's
//! record, that stands for a return address, or with ALLOCS_STACK for several.
//!
//! The direct caller of malloc seldom is what a person looks for: it is operator new, xmalloc,
//! strdup, a container. Such functions are *facades* (`names` knows them by name, `found` finds those
//! that have none). The site is the first return address outside of them.
//!
//! ```text
//!  hook ─▶ Site::of ─▶ table     return address ─▶ site, or facade and the step out of its frame
//!                       │ new
//!                       ├──▶ file      the object that contains it
//!                       ├──▶ frame ─▶ cfa ─▶ step     out of the frame, by .eh_frame
//!                       ├──▶ names ─▶ file, glob, rust      is the function a facade?
//!                       └──▶ numbers   a number for the site
//! ```
//!
//! The distance from the stack pointer to the next return address is the same each time that a call
//! site is reached, so it is read once. What is on the stack is never searched for return addresses:
//! where .eh_frame does not tell, or where a frame is counted from a frame pointer that is not known,
//! that frame is the site even if it is a facade's. If there are facades only, down to the first function
//! of the thread, the site is in the innermost one.
//!
//! An object that is unloaded leaves its return addresses in the table. Should another come to the
//! same place, and should a call in it end at the very same address, it is taken for the old one.

mod cached;
pub(crate) mod cfa;
mod cursor;
mod found;
mod frame;
mod glob;
mod names;
mod numbers;
mod objects;
mod rust;
mod stack;
pub(crate) mod step;
mod table;

pub(crate) use found::{EVERY, calls_to_next_sample};

use crate::auxv::InitialStack;
use crate::site::cached::Cached;
use crate::site::frame::Function;
use crate::site::step::{Frame, Outer, Step};
use crate::site::table::Key;
use crate::sync::{AtomicUsize, Ordering::Relaxed};

/// Where an allocation was made.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Site(u32);

/// Return addresses. The value is the site's number, or this and the step out of a facade.
static CALLERS: Cached = Cached::new();
const FACADE: u32 = 1 << 23;

/// How many return addresses a site stands for; 0 is as good as 1.
static DEPTH: AtomicUsize = AtomicUsize::new(0);
const DEEPEST: usize = 64;

/// How many facades can stand one behind the other.
const FACADES: usize = 32;
/// How many functions can be between an operator new and malloc.
const PARTS: usize = 4;

const FACADES_VARIABLE: &[u8] = b"ALLOCS_FACADES=";
const STACK_VARIABLE: &[u8] = b"ALLOCS_STACK=";

/// Notes what the environment asks for.
pub(crate) fn configure(stack: &InitialStack) {
    if stack.auxv().secure {
        return;
    }
    if let Some(facades) = stack.variable(FACADES_VARIABLE) {
        names::configure(facades);
    }
    if let Some(depth) = stack.variable(STACK_VARIABLE) {
        let digits = (0..3)
            .map(|at| depth.add(at).byte())
            .take_while(u8::is_ascii_digit);
        let depth = digits.fold(0, |depth: usize, digit| {
            depth.wrapping_mul(10).wrapping_add(usize::from(digit & 15))
        });
        DEPTH.store(depth.min(DEEPEST), Relaxed);
    }
}

impl Site {
    /// Nobody knows where.
    pub(crate) const UNKNOWN: Self = Self(0);

    /// The site of the call of a hook with `frame`.
    ///
    /// # Safety
    /// So it must be: the stack is read.
    #[inline(always)]
    pub(crate) unsafe fn of(frame: Frame) -> Self {
        let behind = |known| {
            // SAFETY: as the caller says.
            let site = unsafe { Self::behind(known, frame) };
            // SAFETY: as above.
            site.unwrap_or_else(|| unsafe { Self::learn(frame) })
        };
        Self::at_hand(frame.caller).unwrap_or_else(behind)
    }

    /// The site of a call that returns to `caller`, if that is the site and is known: the usual case, in few
    /// instructions. Else what is known of it.
    #[inline(always)]
    pub(crate) fn at_hand(caller: usize) -> Result<Self, Known> {
        let known = CALLERS.at_hand(caller);
        if known < u64::from(FACADE) {
            return Ok(Self(known as u32));
        }
        Err(Known(known))
    }

    /// The site, if the caller is `known` to be a facade, and all others on the way to it are, too.
    ///
    /// # Safety
    /// As for [`Self::of`].
    #[inline(always)]
    pub(crate) unsafe fn behind(known: Known, frame: Frame) -> Option<Self> {
        walk(known, frame, |_| None).ok()
    }

    /// The site of a call of which not all is known.
    ///
    /// # Safety
    /// As for [`Self::of`].
    #[inline(never)]
    pub(crate) unsafe fn learn(innermost: Frame) -> Self {
        let depth = DEPTH.load(Relaxed);
        if depth > 1 {
            return Self(stack::number(innermost, depth).unwrap_or_default());
        }
        let meet = |frame: Frame| CALLERS.meet(frame.caller).or_else(|| enter(frame));
        match walk(Known(CALLERS.at_hand(innermost.caller)), innermost, meet) {
            Ok(site) => site,
            Err(End::Unknown) => Self::UNKNOWN,
            Err(End::Facade(frame)) => {
                // A facade all the same: its entry is about others.
                let key = Key::of_address(frame.caller).second();
                let known = CALLERS.find(key).or_else(|| add_site(key, frame.caller));
                Self(known.unwrap_or_default())
            }
        }
    }

    /// The site with that number, as a record holds it. Any number may be asked for.
    pub(crate) fn from_number(number: u32) -> Self {
        Self(number)
    }

    /// Whether it is one that there is, and not what was read from a record that somebody has written over.
    #[cfg(target_arch = "x86_64")] // for operators new of allocators in the executable
    pub(crate) fn is_taken(self) -> bool {
        (1..=numbers::taken()).contains(&self.0)
    }

    /// Its number, less than 2^23.
    pub(crate) fn number(self) -> u32 {
        self.0
    }

    /// The return address; 0 if the site is unknown.
    pub(crate) fn address(self) -> usize {
        numbers::frame(self.0, 0)
    }

    /// The return addresses of its stack, innermost first.
    pub(crate) fn frames(self) -> impl Iterator<Item = usize> {
        (0..numbers::length(self.0)).map(move |index| numbers::frame(self.0, index))
    }
}

/// All sites that there are; one or the other may stand for nothing.
pub(crate) fn all() -> impl Iterator<Item = Site> {
    (1..=numbers::taken()).map(Site)
}

/// Learns from the call of a hook.
///
/// # Safety
/// As for [`Site::of`].
pub(crate) unsafe fn sample(frame: Frame) {
    found::sample(frame);
}

/// Makes `caller`, of which there may be a site, one of a facade.
fn skip(caller: usize) {
    if let Some(step) = kind(caller).and_then(|kind| kind.step) {
        CALLERS.change(caller, FACADE | step.bits());
        stack::skip(caller);
    }
}

/// What is known of a return address: [`Cached::at_hand`].
#[derive(Clone, Copy)]
pub(crate) struct Known(u64);

/// Where a walk ends that has met facades only.
enum End {
    /// There is nothing known about a return address, nor can be.
    Unknown,
    /// At this frame, a facade's: it is the last one, or its step cannot be taken.
    Facade(Frame),
}

/// Walks from the frame of a hook's call, of whose return address that is `known`, to the first one outside of facades.
/// `meet` gives the value of the return address of a frame that is not at hand.
#[inline(always)]
fn walk(
    Known(mut value): Known,
    innermost: Frame,
    meet: impl Fn(Frame) -> Option<u32>,
) -> Result<Site, End> {
    let mut frame = innermost;
    for _ in 0..FACADES {
        if value >= u64::from(2 * FACADE) {
            value = meet(frame).ok_or(End::Unknown)?.into();
        }
        let facade = match value as u32 {
            site if site < FACADE => return Ok(Site(site)),
            facade => facade - FACADE,
        };
        // SAFETY: the frame is that of the hook's call, or was stepped to.
        match unsafe { Step::from_bits(facade).take(frame) } {
            Outer::Frame(next) => frame = next,
            Outer::Nothing => return Err(End::Facade(innermost)),
            Outer::Unknown => break,
        }
        value = CALLERS.at_hand(frame.caller);
    }
    Err(End::Facade(frame))
}

/// Enters the return address of `frame`, which is not in the table. `None` if there is no room.
#[cold]
#[inline(never)]
fn enter(frame: Frame) -> Option<u32> {
    let caller = frame.caller;
    let key = Key::of_address(caller);
    let kind = names::are_sought().then(|| kind(caller)).flatten();
    let facade = kind.filter(|kind| kind.facade || is_part_of_operator(kind, frame));
    match facade.and_then(|kind| kind.step) {
        Some(step) => CALLERS.add(key, FACADE | step.bits()),
        None => add_site(key, caller),
    }
}

/// Whether the function of `kind`, which made the call with `frame`, is one that an operator new of the program's own
/// calls to get memory: then it is a facade, too.
fn is_part_of_operator(kind: &Kind, frame: Frame) -> bool {
    if !names::have_operators() {
        return false;
    }
    let caller = frame.caller;
    let (mut frame, mut step) = (frame, kind.step);
    for _ in 0..PARTS {
        // SAFETY: the frame is that of the hook's call, or was stepped to.
        let outer = step.map(|step| unsafe { step.take(frame) });
        let Some(Outer::Frame(next)) = outer else {
            return false;
        };
        let Some(kind_of_next) = self::kind(next.caller) else {
            return false;
        };
        if names::is_operator(kind_of_next.function.0) {
            names::add(kind.function.0);
            stack::skip(caller);
            return true;
        }
        (frame, step) = (next, kind_of_next.step);
    }
    false
}

fn add_site(key: Key, caller: usize) -> Option<u32> {
    let number = numbers::of_address(caller)?;
    let value = CALLERS.add(key, number);
    if value != Some(number) {
        numbers::give_back(number);
    }
    value
}

/// What is found out about a return address.
struct Kind {
    /// Where its function begins and ends.
    function: (usize, usize),
    facade: bool,
    step: Option<Step>,
}

/// `None` for code that no object describes.
fn kind(caller: usize) -> Option<Kind> {
    // It may be behind the end of a function that ends with the call.
    let call = caller.wrapping_sub(1);
    let object = objects::find(call)?;
    let function = Function::find(object.unwind_table, object.unwind_table_size, call)?;
    Some(Kind {
        function: (function.begin, function.size),
        facade: object.all_facades || names::is_facade(function.begin),
        step: function.row(call).and_then(Step::of),
    })
}

#[cfg(test)]
mod tests;
