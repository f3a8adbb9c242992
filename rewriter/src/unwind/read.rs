//! .eh_frame and the table by which it is searched (LSB 5.0 core, chapter 10): where they are, their records,
//! and the pointers in them that count from their own place.

use std::collections::HashMap;
use std::ops::Range;

use object::elf::{PF_W, PT_GNU_EH_FRAME, SHT_NOBITS};

use super::cursor::{Cursor, PC_RELATIVE, SDATA4, UDATA4};
use crate::elf::{Segment, Vaddr};
use crate::error::Result;
use crate::parse::{Image, Table};
use crate::source::Source;

/// Size of an entry of the search table, in bytes.
pub(super) const ENTRY: u64 = 8;
/// How a search table begins: its version, and how what follows is encoded.
pub(super) const SEARCHED: [u8; 4] = [1, PC_RELATIVE | SDATA4, UDATA4, DATA_RELATIVE | SDATA4];
const DATA_RELATIVE: u8 = 0x30;
/// A record of this length has one of 64 bits.
const LONG: u32 = 0xffff_ffff;

/// What a program has for unwinding.
#[derive(Clone, Debug)]
pub(crate) struct Frames {
    /// .eh_frame, and its bytes.
    pub(super) records: Table,
    pub(super) bytes: Vec<u8>,
    /// Where in it further records go: in front of what ends it.
    pub(super) end: usize,
    /// The pointers in it that count from their own place: where they are, and how many bytes they have.
    pub(super) pointers: Vec<(usize, usize)>,
    /// .eh_frame_hdr, and its entries: the distances to functions and their FDEs.
    pub(super) search: Table,
    pub(super) entries: Vec<[i32; 2]>,
    cies: HashMap<usize, Cie>,
    fdes: Vec<Fde>,
}

/// The search table, its entries, and .eh_frame.
struct Tables {
    search: Table,
    entries: Vec<[i32; 2]>,
    records: Table,
}

/// What functions have in common.
#[derive(Clone, Debug)]
pub(super) struct Cie {
    /// Its version.
    pub(super) version: u8,
    /// The bytes that say how rules count, and where the return address is.
    pub(super) factors: Vec<u8>,
    /// The factor of code's distances.
    pub(super) code_factor: u64,
    /// The rules at the beginning of a function.
    pub(super) rules: Vec<u8>,
    augmented: bool,
    /// How a function's addresses, and that of its exceptions' table, are encoded.
    addresses: u8,
    exceptions: Option<u8>,
}

/// A function.
#[derive(Clone, Debug)]
pub(super) struct Fde {
    pub(super) start: u64,
    len: u64,
    /// Where its CIE is.
    cie: usize,
    /// It may have handlers of exceptions.
    pub(super) handles: bool,
    /// Where its rules are.
    pub(super) rules: Range<usize>,
}

/// What is there, or why it cannot be added to.
pub(crate) type Read = std::result::Result<Frames, String>;

impl Frames {
    /// Reads what `image` has.
    pub(crate) fn read(source: &Source, image: &Image) -> Result<Read> {
        let mut segments = image.segments.iter();
        let Some(search) = segments.rfind(|segment| segment.kind == PT_GNU_EH_FRAME) else {
            return Ok(Err("no program header says where .eh_frame is".to_owned()));
        };
        let Some(tables) = find(source, image, search)? else {
            return Ok(Err("its .eh_frame_hdr is of no usual kind".to_owned()));
        };
        let Tables {
            search,
            entries,
            records,
        } = tables;
        let mut frames = Self {
            bytes: source.bytes(records.at, records.size, ".eh_frame")?,
            records,
            end: 0,
            pointers: Vec::new(),
            search,
            entries,
            cies: HashMap::new(),
            fdes: Vec::new(),
        };
        match frames.read_records(image) {
            Some(()) => Ok(Ok(frames)),
            None => Ok(Err("its .eh_frame is of no usual kind".to_owned())),
        }
    }

    /// The function that has the code at `at`.
    pub(super) fn of(&self, at: Vaddr) -> Option<(&Fde, &Cie)> {
        let mut fdes = self.fdes.iter();
        let fde = fdes.find(|fde| at.0.wrapping_sub(fde.start) < fde.len)?;
        Some((fde, self.cies.get(&fde.cie)?))
    }

    fn read_records(&mut self, image: &Image) -> Option<()> {
        let bytes = std::mem::take(&mut self.bytes);
        let mut at = 0;
        while at < bytes.len() {
            let mut cursor = Cursor::new(&bytes, at, bytes.len());
            let len = cursor.u32()?;
            if len == 0 {
                at = cursor.at; // linkers put one such at the end, and link what has one
                continue;
            }
            if len == LONG {
                return None;
            }
            let end = cursor.at.checked_add(usize::try_from(len).ok()?)?;
            let end = (end <= bytes.len()).then_some(end)?;
            let mut record = Cursor::new(&bytes, cursor.at, end);
            let place = record.at;
            match record.u32()? {
                0 => {
                    let cie = self.read_cie(&mut record)?;
                    self.cies.insert(at, cie);
                }
                back => {
                    let cie = place.checked_sub(usize::try_from(back).ok()?)?;
                    self.read_fde(&mut record, cie)?;
                }
            }
            at = end;
            self.end = end;
        }
        // No section says how long it is where there are none; then it ends with a length of 0.
        let closed = !image.sections.is_empty() || self.end < bytes.len();
        self.bytes = bytes;
        closed.then_some(())
    }

    fn read_cie(&mut self, cursor: &mut Cursor<'_>) -> Option<Cie> {
        let version = cursor.byte()?;
        let augmentation = cursor.string()?;
        let factors = cursor.at;
        let code_factor = cursor.uleb()?;
        cursor.uleb()?; // signed, and of the same length
        match version {
            1 => u64::from(cursor.byte()?),
            3 => cursor.uleb()?,
            _ => return None,
        };
        let factors = cursor.slice(factors..cursor.at)?.to_vec();
        let mut cie = Cie {
            version,
            factors,
            code_factor,
            rules: Vec::new(),
            augmented: false,
            addresses: 0,
            exceptions: None,
        };
        if let Some((b'z', kinds)) = augmentation.split_first() {
            cie.augmented = true;
            let len = usize::try_from(cursor.uleb()?).ok()?;
            let behind = cursor.at.checked_add(len)?;
            for kind in kinds {
                match kind {
                    b'L' => cie.exceptions = Some(cursor.byte()?),
                    b'R' => cie.addresses = cursor.byte()?,
                    b'P' => {
                        let encoding = cursor.byte()?;
                        self.note(cursor.pointer(encoding)?);
                    }
                    b'S' | b'B' | b'G' => {}
                    _ => return None,
                }
            }
            cursor.at = behind;
        } else if !augmentation.is_empty() {
            return None;
        }
        cie.rules = cursor.rest()?.to_vec();
        Some(cie)
    }

    fn read_fde(&mut self, cursor: &mut Cursor<'_>, cie: usize) -> Option<()> {
        let known = self.cies.get(&cie)?;
        let (addresses, exceptions, augmented) =
            (known.addresses, known.exceptions, known.augmented);
        let start = cursor.pointer(addresses)?;
        let len = cursor.number(addresses)?;
        let mut handles = false;
        let mut rules = cursor.at;
        if augmented {
            let size = usize::try_from(cursor.uleb()?).ok()?;
            rules = cursor.at.checked_add(size)?;
            if let Some(encoding) = exceptions {
                let table = cursor.pointer(encoding)?;
                handles = table.value != 0;
                self.note(table);
            }
        }
        cursor.slice(rules..cursor.end)?;
        let here = self.records.vaddr.0.wrapping_add(start.at as u64);
        self.fdes.push(Fde {
            start: match start.relative {
                true => here.wrapping_add_signed(start.value),
                false => start.value.cast_unsigned(),
            },
            len: len.cast_unsigned(),
            cie,
            handles,
            rules: rules..cursor.end,
        });
        self.note(start);
        Some(())
    }

    /// 0 stands for none, wherever it is.
    fn note(&mut self, pointer: super::cursor::Pointer) {
        if pointer.relative && pointer.value != 0 {
            self.pointers.push((pointer.at, pointer.size));
        }
    }
}

/// The search table that `segment` leads to, .eh_frame and the table's entries; `None` if it is unlike what
/// linkers make.
fn find(source: &Source, image: &Image, segment: &Segment) -> Result<Option<Tables>> {
    let mapped = |vaddr: Vaddr, size: u64| {
        let mut loads = image.loads().filter(|(_, load)| load.flags.0 & PF_W.0 == 0);
        let (at, load) = loads.find_map(|(_, load)| Some((load.locate(vaddr, size)?, load)))?;
        Some((Table { vaddr, at, size }, load))
    };
    let search = mapped(segment.vaddr, segment.filesz);
    let Some((search, _)) = search.filter(|_| segment.filesz == segment.memsz) else {
        return Ok(None);
    };
    let bytes = source.bytes(search.at, search.size, ".eh_frame_hdr")?;
    let words = image
        .format
        .words(bytes.get(SEARCHED.len()..).unwrap_or(&[]));
    let [distance, count, table @ ..] = &words[..] else {
        return Ok(None);
    };
    let count = usize::try_from(*count).unwrap_or(usize::MAX);
    let (pairs, _) = table.as_chunks::<2>();
    let Some(pairs) = pairs.get(..count).filter(|_| bytes.starts_with(&SEARCHED)) else {
        return Ok(None);
    };
    let entries = pairs.iter().map(|pair| pair.map(u32::cast_signed));
    let start = search.vaddr.0.wrapping_add(SEARCHED.len() as u64);
    let start = Vaddr(start.wrapping_add_signed(i64::from(distance.cast_signed())));
    // The section has what follows a length of 0, too.
    let mut sections = image.sections.iter();
    let section = sections.find(|section| {
        section.vaddr == start && section.is_loaded() && section.kind != SHT_NOBITS
    });
    let records = match section {
        Some(section) => mapped(start, section.size),
        None => match mapped(start, 0) {
            Some((_, load)) => {
                let left = load.file_backed_end().since(start).unwrap_or(0);
                mapped(
                    start,
                    length(source, mapped(start, left).map(|(table, _)| table))?,
                )
            }
            None => None,
        },
    };
    let records = records.filter(|(records, _)| records.size > 0);
    Ok(records.map(|(records, _)| Tables {
        search,
        entries: entries.collect(),
        records,
    }))
}

/// How long .eh_frame is that is in `most`: as far as a length of 0.
fn length(source: &Source, most: Option<Table>) -> Result<u64> {
    let Some(most) = most else {
        return Ok(0);
    };
    let bytes = source.bytes(most.at, most.size, ".eh_frame")?;
    let mut cursor = Cursor::new(&bytes, 0, bytes.len());
    while let Some(len) = cursor.u32() {
        let end = usize::try_from(len).ok();
        let end = end.and_then(|len| cursor.at.checked_add(len));
        match end.filter(|_| len > 0) {
            Some(end) => cursor.at = end,
            None => break,
        }
    }
    Ok(cursor.at.min(bytes.len()) as u64)
}
