//! Which addresses the packed relative relocations of DT_RELR cover.
//!
//! An even entry is an address to relocate; an odd one is a bitmap of the 63 words that follow
//! the last address (gABI, "Relative Relocation Table"; glibc elf/dl-relocate-ld.h).

use object::elf::{DT_RELR, DT_RELRSZ};

use crate::elf::{FileOffset, Vaddr, overlap};
use crate::error::Result;
use crate::parse::{Image, Table, locate};
use crate::source::Source;

/// Numbers of the 8-byte entries of `array` that DT_RELR relocates.
pub(crate) fn covered(source: &Source, image: &Image, array: Table) -> Result<Vec<u64>> {
    let (Some(address), Some(size)) = (image.dynamic.get(DT_RELR), image.dynamic.get(DT_RELRSZ))
    else {
        return Ok(Vec::new());
    };
    let at: FileOffset = locate(&image.segments, Vaddr(address), size)
        .ok_or_else(|| source.malformed("DT_RELR lies in no PT_LOAD segment"))?;
    let mut found = Vec::new();
    let mut next = 0_u64;
    let mut note = |place: u64| {
        if overlap(array.vaddr.0, array.size, place, 1) {
            found.push((place - array.vaddr.0) / 8);
        }
    };
    source.for_each_window(at, size, "the DT_RELR table", |_, window| {
        for word in window.chunks_exact(8) {
            let word = word
                .iter()
                .rev()
                .fold(0, |sum, &byte| sum << 8 | u64::from(byte));
            if word & 1 == 0 {
                note(word);
                next = word.wrapping_add(8);
            } else {
                (0..63)
                    .filter(|bit| word >> (bit + 1) & 1 == 1)
                    .for_each(|bit| note(next.wrapping_add(8 * bit)));
                next = next.wrapping_add(8 * 63);
            }
        }
        Ok(())
    })?;
    Ok(found)
}
