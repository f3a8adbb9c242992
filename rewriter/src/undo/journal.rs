//! Going back where something grew: a journal at the end of the ELF part, or in what is left of inserted
//! pages.
//!
//! It says of every byte of the original where in the result it is; what the result does not have
//! any more is at the journal's end.
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | `ALLOCSJ1` |
//! | 8 | size of the result |
//! | 8 | number of runs |
//! | 8 | CRC-32 of all that follows, and of all that the result has and the original has not |
//! | 16 each | runs of the original, in order: length, and offset in the result |
//! | | the bytes that the rest of the result does not have |
//!
//! Numbers are little-endian. The checksum tells whether another tool has changed the result since:
//! what that did would be lost.

use crate::elf::FileOffset;
use crate::error::Result;
use crate::source::Source;
use crate::spans::{Content, Spans};

const MAGIC: u64 = u64::from_le_bytes(*b"ALLOCSJ1");
const HEAD: u64 = 32;
const RUN: u64 = 16;

/// The original, made from the result.
pub(super) struct Journal {
    /// Length and offset in the result; without one, the next of `lost`.
    runs: Vec<(u64, Option<FileOffset>)>,
    /// What the result does not have.
    lost: Vec<u8>,
}

impl Journal {
    /// How to make `source` from what `result` makes of it.
    pub(super) fn of(source: &Source, result: &Spans) -> Result<Self> {
        let inverse = result.inverse(source.len());
        let inverse = inverse.ok_or_else(|| source.malformed("a table lies outside its file"))?;
        let mut journal = Self {
            runs: Vec::new(),
            lost: Vec::new(),
        };
        for span in inverse.iter() {
            // A copy that is no longer than its run is better among the bytes.
            let copy = match span.content {
                Content::Input(from) if span.len > RUN => Some(from),
                _ => None,
            };
            if copy.is_none() {
                let bytes = source.bytes(span.at, span.len, "changed bytes")?;
                journal.lost.extend(bytes);
            }
            match journal.runs.last_mut() {
                Some((len, None)) if copy.is_none() => *len += span.len,
                _ => journal.runs.push((span.len, copy)),
            }
        }
        Ok(journal)
    }

    /// Bytes that it takes in the file.
    pub(super) fn size(&self) -> u64 {
        HEAD + RUN * self.runs.len() as u64 + self.lost.len() as u64
    }

    /// As it stands at `at` in `result`.
    pub(super) fn encode(&self, result: &Source, at: FileOffset) -> Result<Vec<u8>> {
        let mut lost = at.0 + HEAD + RUN * self.runs.len() as u64;
        let mut runs = Vec::new();
        for &(len, from) in &self.runs {
            let from = from.unwrap_or(FileOffset(lost));
            lost = if from.0 == lost { lost + len } else { lost };
            runs.push((len, from));
        }
        let mut body: Vec<u8> = runs
            .iter()
            .flat_map(|(len, from)| [len.to_le_bytes(), from.0.to_le_bytes()].concat())
            .collect();
        body.extend(&self.lost);
        let own = (at, HEAD + body.len() as u64);
        let sum = u64::from(checksum(&body, &runs, result, own)?);
        let head = [MAGIC, result.len(), runs.len() as u64, sum];
        let mut bytes = head.map(u64::to_le_bytes).concat();
        bytes.extend(body);
        Ok(bytes)
    }

    /// Reads the journal at `at` of a rewritten file; `None` if there is none, or if the file is not
    /// what it was.
    pub(super) fn decode(result: &Source, at: FileOffset) -> Result<Option<Spans>> {
        let head = words(result, at, 4)?;
        let Some(&[magic, size, count, sum]) = head.as_deref() else {
            return Ok(None);
        };
        let body = FileOffset(at.0 + HEAD);
        if magic != MAGIC || size != result.len() {
            return Ok(None);
        }
        let Some(numbers) = count.checked_mul(2) else {
            return Ok(None);
        };
        let Some(numbers) = words(result, body, numbers)? else {
            return Ok(None);
        };
        let runs: Vec<(u64, FileOffset)> = numbers
            .chunks_exact(2)
            .map(|run| (run[0], FileOffset(run[1])))
            .collect();
        let mut spans = Spans::default();
        let mut end = body.0 + RUN * count;
        for &(len, from) in &runs {
            let inside = from.checked_add(len).is_some_and(|end| end.0 <= size);
            // Nothing makes an original that is longer than its result.
            if len == 0 || !inside || spans.len().saturating_add(len) > size {
                return Ok(None);
            }
            end = if from.0 == end { end + len } else { end };
            spans.push(len, Content::Input(from));
        }
        let bytes = result.bytes(body, end - body.0, "the undo journal")?;
        let own = (at, end - at.0);
        let same = u64::from(checksum(&bytes, &runs, result, own)?) == sum;
        Ok(same.then_some(spans))
    }
}

/// `count` numbers at `at`; `None` if the file has not as many.
fn words(result: &Source, at: FileOffset, count: u64) -> Result<Option<Vec<u64>>> {
    let size = count.checked_mul(8);
    let inside = |size: &u64| {
        at.checked_add(*size)
            .is_some_and(|end| end.0 <= result.len())
    };
    let Some(size) = size.filter(inside) else {
        return Ok(None);
    };
    let bytes = result.bytes(at, size, "the undo journal")?;
    let (numbers, _) = bytes.as_chunks();
    Ok(Some(
        numbers
            .iter()
            .map(|number| u64::from_le_bytes(*number))
            .collect(),
    ))
}

/// CRC-32 of `body`, and of what is in `result` but neither in a run nor in the journal (`own`).
fn checksum(
    body: &[u8],
    runs: &[(u64, FileOffset)],
    result: &Source,
    own: (FileOffset, u64),
) -> Result<u32> {
    let mut sum = crc32fast::Hasher::new();
    sum.update(body);
    let copies = runs.iter().map(|&(len, from)| (from.0, len));
    let mut known: Vec<(u64, u64)> = copies
        .chain([(own.0.0, own.1), (result.len(), 0)])
        .collect();
    known.sort_unstable();
    let mut at = 0;
    for (start, len) in known {
        if let Some(gap) = start.checked_sub(at) {
            result.for_each_window(FileOffset(at), gap, "changed bytes", |_, window| {
                sum.update(window);
                Ok(())
            })?;
        }
        at = at.max(start + len);
    }
    Ok(sum.finalize())
}
