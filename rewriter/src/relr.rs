//! Which addresses the packed relative relocations of DT_RELR cover.
//!
//! An even entry is an address to relocate; an odd one is a bitmap of the 63 words (31, where an address has 32 bits) that follow
//! the last address (gABI, "Relative Relocation Table"; glibc elf/dl-relocate-ld.h).

use object::elf::{DT_RELR, DT_RELRSZ};

use crate::elf::{FileOffset, Vaddr, overlap};
use crate::error::Result;
use crate::parse::{Image, Table, locate};
use crate::source::Source;

/// Numbers of the entries of `array` that DT_RELR relocates.
pub(crate) fn covered(source: &Source, image: &Image, array: Table) -> Result<Vec<u64>> {
    let (Some(address), Some(size)) = (image.dynamic.get(DT_RELR), image.dynamic.get(DT_RELRSZ))
    else {
        return Ok(Vec::new());
    };
    let at: FileOffset = locate(&image.segments, Vaddr(address), size)
        .ok_or_else(|| source.malformed("DT_RELR lies in no PT_LOAD segment"))?;
    let word = image.format.word();
    let bits = 8 * word - 1;
    let mut found = Vec::new();
    let mut next = 0_u64;
    let mut note = |place: u64| {
        if overlap(array.vaddr.0, array.size, place, 1) {
            found.push((place - array.vaddr.0) / word);
        }
    };
    source.for_each_window(at, size, "the DT_RELR table", |_, window| {
        for entry in image.format.addresses(window) {
            if entry & 1 == 0 {
                note(entry);
                next = entry.wrapping_add(word);
            } else {
                (0..bits)
                    .filter(|bit| entry >> (bit + 1) & 1 == 1)
                    .for_each(|bit| note(next.wrapping_add(word * bit)));
                next = next.wrapping_add(word * bits);
            }
        }
        Ok(())
    })?;
    Ok(found)
}
