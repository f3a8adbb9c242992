//! Changes of a program that know its structure: fields of headers and tables, by name and number.
//!
//! Bytes that are changed blindly seldom get past the first check. These edits keep everything else
//! right, so that what is tested is what comes after it.

use arbitrary::Arbitrary;

/// Edits of one of the seeds.
#[derive(Arbitrary, Debug)]
pub struct Edits {
    seed: u8,
    edits: Vec<Edit>,
    /// Bytes behind the file, or cut off at its end.
    tail: i8,
}

#[derive(Arbitrary, Debug)]
struct Edit {
    table: Table,
    entry: u8,
    field: u8,
    value: Value,
}

#[derive(Arbitrary, Debug)]
enum Table {
    Header,
    Segments,
    Sections,
    Dynamic,
    /// What a dynamic entry with this number leads to: strings, symbols, relocations, hash tables,
    /// versions, arrays.
    Behind(u8),
    Interpreter,
    Note,
    /// .eh_frame_hdr.
    Search,
    /// .eh_frame, to which that leads.
    Frames,
}

#[derive(Arbitrary, Debug)]
enum Value {
    Zero,
    One,
    Most,
    Power(u8),
    Less(u8),
    More(u8),
    /// That of another field of the same table.
    Like(u8),
    Any(u64),
}

/// The fields of an entry: offset and size in bytes.
type Fields = &'static [(usize, usize)];

#[rustfmt::skip]
const HEADER: Fields = &[
    (4, 1), (5, 1), (6, 1), (7, 1), (16, 2), (18, 2), (24, 8), (32, 8), (40, 8), (52, 2), (54, 2),
    (56, 2), (58, 2), (60, 2), (62, 2),
];
#[rustfmt::skip]
const SEGMENT: Fields = &[
    (0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 8), (48, 8),
];
#[rustfmt::skip]
const SECTION: Fields = &[
    (0, 4), (4, 4), (8, 8), (16, 8), (24, 8), (32, 8), (40, 4), (44, 4), (48, 8), (56, 8),
];
const DYNAMIC: Fields = &[(0, 8), (8, 8)];
const WORD: Fields = &[(0, 4), (0, 2), (0, 8), (0, 1)];

impl Edits {
    /// The program with the edits.
    pub fn apply(&self, seeds: &[Vec<u8>]) -> Vec<u8> {
        let mut bytes = seeds[usize::from(self.seed) % seeds.len()].clone();
        for edit in self.edits.iter().take(8) {
            edit.apply(&mut bytes);
        }
        let len = bytes.len().saturating_add_signed(isize::from(self.tail));
        bytes.resize(len, 0x55);
        bytes
    }
}

impl Edit {
    fn apply(&self, bytes: &mut [u8]) {
        let found = match self.table {
            Table::Header => Some((0, 1, 64, HEADER)),
            Table::Segments => Some((read(bytes, 32, 8), read(bytes, 56, 2), 56, SEGMENT)),
            Table::Sections => Some((read(bytes, 40, 8), read(bytes, 60, 2), 64, SECTION)),
            Table::Dynamic => segment(bytes, 2).map(|(at, size)| (at, size / 16, 16, DYNAMIC)),
            Table::Behind(entry) => behind(bytes, entry).map(|at| (at, 256, 4, WORD)),
            Table::Interpreter => segment(bytes, 3).map(|(at, size)| (at, size, 1, WORD)),
            Table::Note => segment(bytes, 4).map(|(at, size)| (at, size / 4, 4, WORD)),
            Table::Search => search(bytes).map(|(at, size)| (at, size / 4, 4, WORD)),
            Table::Frames => frames(bytes).map(|at| (at, 256, 2, WORD)),
        };
        let Some((at, count, size, fields)) = found else {
            return;
        };
        let entry = u64::from(self.entry).checked_rem(count).unwrap_or(0);
        let place = at.wrapping_add(entry * size);
        let (skip, len) = fields[usize::from(self.field) % fields.len()];
        let at = place.wrapping_add(skip as u64);
        let old = read(bytes, at, len);
        let new = match self.value {
            Value::Zero => 0,
            Value::One => 1,
            Value::Most => u64::MAX,
            Value::Power(bits) => 1 << (bits % 64),
            Value::Less(by) => old.wrapping_sub(u64::from(by)),
            Value::More(by) => old.wrapping_add(u64::from(by)),
            Value::Like(other) => {
                let (skip, len) = fields[usize::from(other) % fields.len()];
                read(bytes, place.wrapping_add(skip as u64), len)
            }
            Value::Any(value) => value,
        };
        write(bytes, at, len, new);
    }
}

/// The number of `len` bytes at `at`; 0 outside.
pub(crate) fn read(bytes: &[u8], at: u64, len: usize) -> u64 {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    let field = bytes.get(at..at.saturating_add(len)).unwrap_or(&[]);
    field
        .iter()
        .rev()
        .fold(0, |sum, &byte| sum << 8 | u64::from(byte))
}

pub(crate) fn write(bytes: &mut [u8], at: u64, len: usize, value: u64) {
    let at = usize::try_from(at).unwrap_or(usize::MAX);
    if let Some(field) = bytes.get_mut(at..at.saturating_add(len)) {
        field.copy_from_slice(&value.to_le_bytes()[..len]);
    }
}

/// File offset and size of the first segment of a kind.
fn segment(bytes: &[u8], kind: u64) -> Option<(u64, u64)> {
    let (at, count) = (read(bytes, 32, 8), read(bytes, 56, 2));
    let headers = (0..count).map(|index| at.wrapping_add(56 * index));
    let mut found = headers.filter(|&at| read(bytes, at, 4) == kind);
    found.next().map(|at| {
        (
            read(bytes, at.wrapping_add(8), 8),
            read(bytes, at.wrapping_add(32), 8),
        )
    })
}

/// File offset and size of PT_GNU_EH_FRAME.
fn search(bytes: &[u8]) -> Option<(u64, u64)> {
    segment(bytes, 0x6474_e550)
}

/// File offset of .eh_frame: its distance is the second word of the search table.
fn frames(bytes: &[u8]) -> Option<u64> {
    let (at, _) = search(bytes)?;
    let at = at.wrapping_add(4);
    let distance = read(bytes, at, 4) as u32 as i32;
    at.checked_add_signed(distance.into())
}

/// File offset of what the value of a dynamic entry leads to, if it is an address.
fn behind(bytes: &[u8], entry: u8) -> Option<u64> {
    let (dynamic, size) = segment(bytes, 2)?;
    let entry = u64::from(entry).checked_rem(size / 16)?;
    let address = read(bytes, dynamic.wrapping_add(16 * entry + 8), 8);
    let (at, count) = (read(bytes, 32, 8), read(bytes, 56, 2));
    let headers = (0..count).map(|index| at.wrapping_add(56 * index));
    let mut loads = headers.filter(|&at| read(bytes, at, 4) == 1);
    loads.find_map(|at| {
        let [offset, vaddr, size] = [8, 16, 32].map(|skip| read(bytes, at.wrapping_add(skip), 8));
        let skip = address.checked_sub(vaddr).filter(|&skip| skip < size)?;
        offset.checked_add(skip)
    })
}
