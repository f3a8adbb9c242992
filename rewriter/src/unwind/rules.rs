//! A function's rules for unwinding (DWARF 5, section 6.4.2), as far as its first instructions go, for the place
//! that those have now.

use gimli::{Encoding, Expression, Format, Operation, Reader, X86_64};

use super::pointer::Slice;

/// Rules that hold from one of a function's first instructions on, as they are encoded.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// The instruction's number.
    pub(super) from: usize,
    pub(super) rules: Vec<u8>,
}

/// What one rule is.
enum Rule<'a> {
    /// What follows holds so many instruction bytes further on, in units of the CIE's factor.
    Advance(u64),
    /// An expression, if it has one.
    Other(Option<Slice<'a>>),
}

const ADVANCE: u8 = 0x40;

/// The `rules` of a function at `start`, by the instruction that they begin with: one of those at `places`, of which
/// the last is what the moved ones are followed by. `factor` is that of the distances. `None` if there are others
/// than compilers make.
pub(super) fn steps(rules: &[u8], start: u64, factor: u64, places: &[u64]) -> Option<Vec<Step>> {
    let (&first, &last) = (places.first()?, places.last()?);
    let mut rest = slice(rules);
    let mut steps: Vec<Step> = Vec::new();
    let mut place = start;
    while !rest.is_empty() {
        let before = rest;
        let expression = match Rule::read(&mut rest)? {
            Rule::Advance(distance) => {
                place = place.checked_add(distance.checked_mul(factor)?)?;
                if place > last {
                    break;
                }
                continue;
            }
            Rule::Other(expression) => expression,
        };
        if !expression.is_none_or(holds_anywhere) {
            return None;
        }
        let bytes = before.range_to(..rest.offset_from(before));
        let from = match place <= first {
            true => 0,
            false => places.iter().position(|&other| other == place)?,
        };
        match steps.last_mut().filter(|step| step.from == from) {
            Some(step) => step.rules.extend(bytes.slice()),
            None => steps.push(Step {
                from,
                rules: bytes.to_vec(),
            }),
        }
    }
    Some(steps)
}

/// True if these `rules` are what compilers make.
pub(super) fn are_known(rules: &[u8]) -> bool {
    let mut rest = slice(rules);
    let mut known = true;
    while known && !rest.is_empty() {
        known = Rule::read(&mut rest).is_some();
    }
    known
}

/// True if they hold all at once, and anywhere.
pub(super) fn hold_at_once(rules: &[u8]) -> bool {
    let mut rest = slice(rules);
    let mut hold = true;
    while hold && !rest.is_empty() {
        hold = match Rule::read(&mut rest) {
            Some(Rule::Other(expression)) => expression.is_none_or(holds_anywhere),
            Some(Rule::Advance(_)) | None => false,
        };
    }
    hold
}

impl<'a> Rule<'a> {
    /// The one that `rules` begin with.
    fn read(rules: &mut Slice<'a>) -> Option<Self> {
        let (numbers, expression) = match rules.read_u8().ok()? {
            code @ 0x40..=0x7f => return Some(Self::Advance(u64::from(code & 0x3f))),
            0x02 => return Some(Self::Advance(rules.read_u8().ok()?.into())),
            0x03 => return Some(Self::Advance(rules.read_u16().ok()?.into())),
            0x04 => return Some(Self::Advance(rules.read_u32().ok()?.into())),
            0x80..=0xbf => (1, false),
            0xc0..=0xff | 0x00 | 0x0a | 0x0b => (0, false),
            0x06 | 0x07 | 0x08 | 0x0d | 0x0e | 0x13 | 0x2e => (1, false),
            0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f => (2, false),
            0x0f => (0, true),        // def_cfa_expression
            0x10 | 0x16 => (1, true), // expression, val_expression
            _ => return None,         // set_loc has an address; others are of later days
        };
        for _ in 0..numbers {
            rules.skip_leb128().ok()?;
        }
        let expression = match expression {
            true => {
                let size = rules.read_uleb128().ok()?;
                Some(rules.split(usize::try_from(size).ok()?).ok()?)
            }
            false => None,
        };
        Some(Self::Other(expression))
    }
}

/// True if the expression has the same value wherever its function is: not so that of a PLT's entry, which looks at
/// the low bits of rip.
fn holds_anywhere(expression: Slice<'_>) -> bool {
    let encoding = Encoding {
        address_size: 8,
        format: Format::Dwarf32,
        version: 5,
    };
    let mut operations = Expression(expression).operations(encoding);
    loop {
        use Operation as O;
        match operations.next() {
            Ok(None) => return true,
            Ok(Some(O::RegisterOffset { register, .. })) if register != X86_64::RA => {}
            Ok(Some(O::Deref { .. } | O::UnsignedConstant { .. } | O::SignedConstant { .. })) => {}
            Ok(Some(O::PlusConstant { .. } | O::Plus | O::Minus | O::And | O::Mul | O::Shl)) => {}
            Ok(Some(_)) | Err(_) => return false,
        }
    }
}

fn slice(bytes: &[u8]) -> Slice<'_> {
    Slice::new(bytes, gimli::LittleEndian)
}

/// The rule that says that what follows holds `distance` bytes further on; below 64.
pub(super) fn advanced(distance: u8) -> Option<u8> {
    (distance < ADVANCE).then_some(ADVANCE | distance)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_follow_their_instructions() {
        // push %rbp; mov %rsp, %rbp; and more later
        let rules = [0x41, 0x0e, 16, 0x86, 2, 0x43, 0x0d, 6, 0x02, 70, 0x0c, 7, 8];
        let places = [0x1004, 0x1005, 0x1008, 0x100a];
        let found = steps(&rules, 0x1004, 1, &places).unwrap_or_default();
        let found: Vec<_> = found
            .into_iter()
            .map(|step| (step.from, step.rules))
            .collect();
        assert_eq!(found, [(1, vec![0x0e, 16, 0x86, 2]), (2, vec![0x0d, 6])]);
        // endbr64 is not moved
        let behind_endbr = steps(&[0x44, 0x0e, 24], 0x1000, 1, &places).unwrap_or_default();
        assert_eq!(behind_endbr.first().map(|step| step.from), Some(0));
        assert!(
            steps(&[0x42, 0x0e, 24], 0x1004, 1, &places).is_none(),
            "in an instruction"
        );
        assert!(steps(&[0x01, 0, 0, 0, 0, 0, 0, 0, 0], 0x1004, 1, &places).is_none());
        assert!(
            steps(&[0x0f, 200, 0], 0x1004, 1, &places).is_none(),
            "beyond the end"
        );
    }
}
