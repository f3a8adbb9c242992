//! Sites that stand for several return addresses (ALLOCS_STACK).

use core::iter;

use crate::site::numbers;
use crate::site::step::{Frame, Step};
use crate::site::table::{Key, Table};
use crate::site::{FACADE, FACADES, kind};

/// Return addresses with their step, or 0 if there is none; and [`FACADE`] for facades.
static STEPS: Table = Table::new();
/// Sites by the hash of their return addresses.
static STACKS: Table = Table::new();
/// How many sites may have one hash.
const COLLISIONS: u64 = 8;

/// The number of the site of the call with `frame`: `depth` return addresses, or as many as there are.
pub(crate) fn number(frame: Frame, depth: usize) -> Option<u32> {
    let frames = || callers(frame).take(depth);
    let hash = frames().fold(0, |hash: u64, caller| {
        (hash ^ caller as u64)
            .wrapping_mul(0x9e37_79b9_7f4a_7c15)
            .rotate_left(29)
    });
    let hash = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let is_site = |number: u32| {
        let kept = (0..numbers::length(number)).map(|index| numbers::frame(number, index));
        frames().eq(kept)
    };
    let mut own = None;
    let site = (0..COLLISIONS).find_map(|collision| {
        let key = Key::of_hash(hash.wrapping_add(collision << 32));
        let known = STACKS.find(key).or_else(|| {
            own = own.or_else(|| numbers::of_list(frames().count(), frames()));
            STACKS.add(key, own?)
        })?;
        is_site(known).then_some(known)
    });
    if let Some(own) = own.filter(|own| site != Some(*own)) {
        numbers::give_back(own);
    }
    site
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
    STEPS.find(key).or_else(enter).unwrap_or(0)
}

/// Makes `caller` one of a facade.
pub(crate) fn skip(caller: usize) {
    let key = Key::of_address(caller);
    if let Some(step) = STEPS.find(key).filter(|step| *step != 0) {
        STEPS.change(key, step | FACADE);
    }
}
