//! A function's rules for unwinding (DWARF 5, section 6.4.2), as far as its first instructions go, for the place
//! that those have now.

use super::cursor::Cursor;

/// Rules that hold from one of a function's first instructions on, as they are encoded.
#[derive(Clone, Debug)]
pub(super) struct Step {
    /// The instruction's number.
    pub(super) from: usize,
    pub(super) rules: Vec<u8>,
}

const ADVANCE: u8 = 0x40;

/// The `rules` of a function at `start`, by the instruction that they begin with: one of those at `places`, of which
/// the last is what the moved ones are followed by. `factor` is that of the distances. `None` if there are others
/// than compilers make.
pub(super) fn steps(rules: &[u8], start: u64, factor: u64, places: &[u64]) -> Option<Vec<Step>> {
    let (&first, &last) = (places.first()?, places.last()?);
    let mut cursor = Cursor::new(rules, 0, rules.len());
    let mut steps: Vec<Step> = Vec::new();
    let mut place = start;
    while cursor.at < rules.len() {
        let begin = cursor.at;
        let code = cursor.byte()?;
        if let Some(distance) = advance(code, &mut cursor)? {
            place = place.checked_add(distance.checked_mul(factor)?)?;
            if place > last {
                break;
            }
            continue;
        }
        operands(code, &mut cursor)?;
        let bytes = cursor.slice(begin..cursor.at)?;
        let from = match place <= first {
            true => 0,
            false => places.iter().position(|&other| other == place)?,
        };
        match steps.last_mut().filter(|step| step.from == from) {
            Some(step) => step.rules.extend(bytes),
            None => steps.push(Step {
                from,
                rules: bytes.to_vec(),
            }),
        }
    }
    Some(steps)
}

/// True if these `rules` hold all at once, and are what compilers make.
pub(super) fn are_known(rules: &[u8]) -> bool {
    let mut cursor = Cursor::new(rules, 0, rules.len());
    while cursor.at < rules.len() {
        let code = cursor.byte();
        if code.and_then(|code| operands(code, &mut cursor)).is_none() {
            return false;
        }
    }
    true
}

/// How far the rule `code` goes on, if that is what it does.
fn advance(code: u8, cursor: &mut Cursor<'_>) -> Option<Option<u64>> {
    let size = match code {
        0x40..=0x7f => return Some(Some(u64::from(code & 0x3f))),
        0x02 => 1,
        0x03 => 2,
        0x04 => 4,
        _ => return Some(None),
    };
    let bytes = cursor.take(size)?.iter().rev();
    Some(Some(bytes.fold(0, |sum, byte| sum << 8 | u64::from(*byte))))
}

/// Goes behind the operands of the rule `code`.
fn operands(code: u8, cursor: &mut Cursor<'_>) -> Option<()> {
    let (numbers, expression) = match code {
        0x80..=0xbf => (1, false),
        0xc0..=0xff | 0x00 | 0x0a | 0x0b | 0x2d => (0, false),
        0x06 | 0x07 | 0x08 | 0x0d | 0x0e | 0x13 | 0x2e => (1, false),
        0x05 | 0x09 | 0x0c | 0x11 | 0x12 | 0x14 | 0x15 | 0x2f => (2, false),
        0x0f => (0, true),        // def_cfa_expression
        0x10 | 0x16 => (1, true), // expression, val_expression
        _ => return None,         // set_loc has an address; others are of later days
    };
    for _ in 0..numbers {
        cursor.uleb()?;
    }
    if expression {
        let size = cursor.uleb()?;
        cursor.take(usize::try_from(size).ok()?)?;
    }
    Some(())
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
