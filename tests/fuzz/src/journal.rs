//! The checksum of an undo journal, made right again.
//!
//! It guards against tools that know nothing of the journal. Whoever means harm computes it, and so
//! do the targets: else nothing behind that check would be tested. The format is described in
//! rewriter/src/undo/journal.rs.

use crate::edits::{read, write};

const MAGIC: &[u8] = b"ALLOCSJ1";
const HEAD: u64 = 32;
const RUN: u64 = 16;

/// Corrects size and checksum of the last journal in `bytes`, if there is one.
pub fn correct_checksum(bytes: &mut [u8]) {
    let Some(at) = memchr::memmem::rfind(bytes, MAGIC) else {
        return;
    };
    let (at, size) = (at as u64, bytes.len() as u64);
    write(bytes, at + 8, 8, size);
    let body = at + HEAD;
    let count = read(bytes, at + 16, 8).min(size / RUN);
    let mut end = body + RUN * count;
    let mut known = Vec::new();
    for index in 0..count {
        let [len, from] = [0, 8].map(|skip| read(bytes, body + RUN * index + skip, 8));
        if from == end {
            end = end.saturating_add(len);
        }
        known.push((from, len));
    }
    let mut sum = crc32fast::Hasher::new();
    sum.update(part(bytes, body, end));
    known.extend([(at, end - at), (size, 0)]);
    known.sort_unstable();
    let mut covered = 0;
    for (start, len) in known {
        sum.update(part(bytes, covered, start));
        covered = covered.max(start.saturating_add(len));
    }
    write(bytes, at + 24, 8, u64::from(sum.finalize()));
}

/// The bytes in `[start, end)`, as far as there are any.
fn part(bytes: &[u8], start: u64, end: u64) -> &[u8] {
    let place = |at| usize::try_from(at).map_or(bytes.len(), |at: usize| at.min(bytes.len()));
    bytes.get(place(start)..place(end)).unwrap_or(&[])
}
