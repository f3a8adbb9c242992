//! Sites that stand for several return addresses (ALLOCS_STACK).

use core::iter;
use core::mem::MaybeUninit;
use core::slice;

use crate::site::numbers;
use crate::site::step::{Frame, Step};
use crate::site::table::{Key, Table};
use crate::site::{DEEPEST, FACADE, FACADES, kind};

/// Return addresses with their step, or 0 if there is none; and [`FACADE`] for facades.
static STEPS: Table = Table::new();
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
pub(crate) fn callers(frame: Frame) -> impl Iterator<Item = usize> {
    let mut next = Some(frame);
    for _ in 0..FACADES {
        let Some(frame) = next.filter(|frame| step(frame.caller) > FACADE) else {
            break;
        };
        let Some(outer) = out_of(frame) else {
            break;
        };
        next = Some(outer);
    }
    iter::from_fn(move || {
        let frame = next?;
        next = out_of(frame);
        Some(frame.caller)
    })
}

/// The frame that called.
fn out_of(frame: Frame) -> Option<Frame> {
    let step = Some(step(frame.caller) & !FACADE).filter(|step| *step != 0)?;
    // SAFETY: the frame is that of the hook's call, or was stepped to.
    let next = unsafe { Step::from_bits(step).take(frame) };
    next.filter(|next| next.caller != 0)
}

/// What is known about a return address.
fn step(caller: usize) -> u32 {
    let key = Key::of_address(caller);
    let enter = || {
        let value = kind(caller).map_or(0, |kind| {
            let facade = if kind.facade { FACADE } else { 0 };
            kind.step.map_or(0, |step| step.bits() | facade)
        });
        STEPS.add(key, value)
    };
    match STEPS.at_hand(key) {
        step if step < u64::from(2 * FACADE) => step as u32,
        _ => STEPS.find(key).or_else(enter).unwrap_or(0),
    }
}

/// Makes `caller` one of a facade.
pub(crate) fn skip(caller: usize) {
    let key = Key::of_address(caller);
    if let Some(step) = STEPS.find(key).filter(|step| *step != 0) {
        STEPS.change(key, step | FACADE);
    }
}
