//! Sites that stand for several return addresses (ALLOCS_STACK).

use core::iter;
use core::mem::MaybeUninit;
use core::slice;

use crate::site::cached::Cached;
use crate::site::numbers;
use crate::site::step::{Frame, Outer, Step};
use crate::site::table::{Key, Table};
use crate::site::{DEEPEST, FACADE, FACADES, kind};

/// Return addresses with their step, or [`NO_STEP`]; and [`FACADE`] for facades.
static STEPS: Cached = Cached::new();
/// Nothing is known of a frame. (No step is so long.)
const NO_STEP: u32 = FACADE - 1;
/// Sites by the hash of their return addresses.
static STACKS: Table = Table::new();
/// How many sites may have one hash.
const COLLISIONS: u64 = 8;

/// The number of the site of the call with `frame`: `depth` return addresses, or as many as there are.
pub(crate) fn number(frame: Frame, depth: usize) -> Option<u32> {
    // Only what is used is written to.
    let mut places = [const { MaybeUninit::<usize>::uninit() }; DEEPEST];
    let mut count = 0_usize;
    let mut hash = 0_u64;
    for (place, caller) in places.iter_mut().take(depth).zip(callers(frame)) {
        place.write(caller);
        hash = mixed(hash ^ caller as u64);
        count = count.wrapping_add(1);
    }
    // SAFETY: the first `count` were written to.
    let frames = unsafe { slice::from_raw_parts(places.as_ptr().cast::<usize>(), count) };
    let mut own = None;
    let site = (0..COLLISIONS).find_map(|collision| {
        let key = Key::of_hash(mixed(hash.wrapping_add(collision)));
        let known = STACKS.find(key).or_else(|| {
            own = own.or_else(|| numbers::of_list(frames));
            STACKS.add(key, own?)
        })?;
        numbers::is_list(known, frames).then_some(known)
    });
    if let Some(own) = own.filter(|own| site != Some(*own)) {
        numbers::give_back(own);
    }
    site
}

fn mixed(hash: u64) -> u64 {
    hash.wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(29)
}

/// The return addresses from the first one outside of facades on.
pub(crate) fn callers(innermost: Frame) -> impl Iterator<Item = usize> {
    let mut first = innermost;
    for _ in 0..FACADES {
        if step(first.caller) < FACADE {
            break;
        }
        match out_of(first) {
            Outer::Frame(outer) => first = outer,
            Outer::Nothing => {
                first = innermost;
                break;
            }
            Outer::Unknown => break,
        }
    }
    let outer = |frame: &Frame| match out_of(*frame) {
        Outer::Frame(outer) => Some(outer),
        Outer::Nothing | Outer::Unknown => None,
    };
    iter::successors(Some(first), outer).map(|frame| frame.caller)
}

/// The frame that called.
fn out_of(frame: Frame) -> Outer {
    match step(frame.caller) {
        NO_STEP => Outer::Unknown,
        // SAFETY: the frame is that of the hook's call, or was stepped to.
        step => unsafe { Step::from_bits(step & !FACADE).take(frame) },
    }
}

/// What is known about a return address.
fn step(caller: usize) -> u32 {
    let key = Key::of_address(caller);
    let enter = || {
        let value = kind(caller).and_then(|kind| {
            let facade = if kind.facade { FACADE } else { 0 };
            Some(kind.step?.bits() | facade)
        });
        STEPS.add(key, value.unwrap_or(NO_STEP))
    };
    match STEPS.at_hand(caller) {
        step if step < u64::from(2 * FACADE) => step as u32,
        _ => STEPS.meet(caller).or_else(enter).unwrap_or(NO_STEP),
    }
}

/// Makes `caller` one of a facade.
pub(crate) fn skip(caller: usize) {
    let key = Key::of_address(caller);
    if let Some(step) = STEPS.find(key).filter(|step| *step != NO_STEP) {
        STEPS.change(caller, step | FACADE);
    }
}
