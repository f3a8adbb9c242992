//! .eh_frame and the table by which it is searched (LSB 5.0 core, chapter 10): where they are, their records,
//! and the pointers in them that count from their own place.
//!
//! What is read here can be moved, and searched as it was: all else is refused.

use std::collections::HashMap;
use std::ops::Range;

use gimli::{LittleEndian, Reader};
use object::elf::{DF_TEXTREL, DT_FLAGS, DT_TEXTREL, PF_W, PT_GNU_EH_FRAME, SHT_NOBITS};

use super::pointer::{self, PC_RELATIVE, Pointer, SDATA4, Slice, UDATA4};
use super::rules;
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
#[derive(Debug)]
pub(crate) struct Frames {
    pub(super) tables: Tables,
    cies: HashMap<usize, Cie>,
    /// The functions of the search table, in its order.
    fdes: Vec<Fde>,
}

/// What of it moves.
#[derive(Clone, Debug)]
pub(super) struct Tables {
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
}

/// What functions have in common.
#[derive(Debug)]
pub(super) struct Cie {
    /// Its version.
    pub(super) version: u8,
    /// The bytes that say how rules count, and where the return address is.
    pub(super) factors: Vec<u8>,
    /// The factor of code's distances.
    pub(super) code_factor: u64,
    /// The rules at the beginning of a function.
    pub(super) rules: Vec<u8>,
    /// It is for what a signal's handler returns to.
    pub(super) signal: bool,
    augmented: bool,
    /// How a function's addresses, and that of its exceptions' table, are encoded.
    addresses: u8,
    exceptions: Option<u8>,
}

/// A function.
#[derive(Clone, Debug)]
pub(super) struct Fde {
    /// Where it is in .eh_frame.
    at: usize,
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
        let flags = image.dynamic.get(DT_FLAGS).unwrap_or(0);
        if image.dynamic.get(DT_TEXTREL).is_some() || flags & DF_TEXTREL.0 != 0 {
            return Ok(Err("its .eh_frame may be relocated".to_owned()));
        }
        let Some(tables) = find(source, image, search)? else {
            return Ok(Err("its .eh_frame_hdr is of no usual kind".to_owned()));
        };
        let highest = image.loads().map(|(_, load)| load.end().0).max();
        let highest = highest.unwrap_or(0);
        let (tables, cies, fdes) = match read_records(tables, image, highest) {
            Ok(found) => found,
            Err(reason) => return Ok(Err(reason)),
        };
        match in_order(&tables, &fdes, highest) {
            Some(fdes) => Ok(Ok(Self { tables, cies, fdes })),
            None => Ok(Err("its .eh_frame_hdr is not in order".to_owned())),
        }
    }

    /// What is `known` already, or what `image` has, which is then known.
    pub(crate) fn once<'a>(
        known: &'a mut Option<Read>,
        source: &Source,
        image: &Image,
    ) -> Result<&'a Read> {
        match known {
            Some(read) => Ok(read),
            none => Ok(none.insert(Self::read(source, image)?)),
        }
    }

    /// The first address of the function that has the code at `at`, and the first one behind it, which is in no
    /// other function.
    pub(crate) fn bounds(&self, at: Vaddr) -> Option<(u64, u64)> {
        let (fde, _) = self.of(at)?;
        let next = self.fdes.partition_point(|other| other.start <= at.0);
        let next = self.fdes.get(next).map_or(u64::MAX, |next| next.start);
        Some((fde.start, fde.start.saturating_add(fde.len).min(next)))
    }

    /// The function that has the code at `at`, as the search table leads to it.
    pub(super) fn of(&self, at: Vaddr) -> Option<(&Fde, &Cie)> {
        let behind = self.fdes.partition_point(|fde| fde.start <= at.0);
        let fde = self.fdes.get(behind.checked_sub(1)?)?;
        let inside = at.0.wrapping_sub(fde.start) < fde.len;
        Some((fde, self.cies.get(&fde.cie).filter(|_| inside)?))
    }
}

/// The functions that the entries of the search table lead to, if they do: each to another one, by their addresses,
/// all below `highest`.
fn in_order(tables: &Tables, fdes: &[Fde], highest: u64) -> Option<Vec<Fde>> {
    let (search, records) = (tables.search.vaddr.0, tables.records);
    let mut found: Vec<Fde> = Vec::with_capacity(tables.entries.len());
    for &[function, record] in &tables.entries {
        let [function, record] =
            [function, record].map(|distance| search.wrapping_add_signed(distance.into()));
        let at = usize::try_from(Vaddr(record).since(records.vaddr)?).ok()?;
        let fde = fdes.get(fdes.binary_search_by_key(&at, |fde| fde.at).ok()?)?;
        let follows = found.last().is_none_or(|last| last.start < fde.start);
        let code = fde.start < highest && fde.start.checked_add(fde.len).is_some();
        let stays = Vaddr(fde.start).since(records.vaddr);
        let stays = stays.is_none_or(|skip| skip >= records.size);
        if fde.start != function || !follows || !code || !stays {
            return None;
        }
        found.push(fde.clone());
    }
    Some(found)
}

/// .eh_frame being read.
struct Records<'a> {
    frame: Slice<'a>,
    vaddr: Vaddr,
    /// Where the program's memory ends.
    highest: u64,
    pointers: Vec<(usize, usize)>,
    /// A pointer that leads nowhere.
    lost: Option<Vaddr>,
    cies: HashMap<usize, Cie>,
    fdes: Vec<Fde>,
}

/// The tables, and the CIEs and FDEs in them.
type Found = (Tables, HashMap<usize, Cie>, Vec<Fde>);

/// `tables` with what its .eh_frame is said to have, the CIEs and the FDEs in it, all below `highest`. An error says
/// how it is unlike what linkers and compilers make.
fn read_records(
    mut tables: Tables,
    image: &Image,
    highest: u64,
) -> std::result::Result<Found, String> {
    let mut records = Records {
        frame: Slice::new(&tables.bytes, LittleEndian),
        vaddr: tables.records.vaddr,
        highest,
        pointers: Vec::new(),
        lost: None,
        cies: HashMap::new(),
        fdes: Vec::new(),
    };
    let end = records.read(image);
    let Records {
        pointers,
        lost,
        cies,
        fdes,
        ..
    } = records;
    tables.pointers = pointers;
    tables.end = end.ok_or_else(|| match lost {
        Some(at) => format!("its .eh_frame has a pointer at {at} that leads out of the program"),
        None => "its .eh_frame is of no usual kind".to_owned(),
    })?;
    Ok((tables, cies, fdes))
}

impl<'a> Records<'a> {
    /// Reads all records, and gives where they end; `None` if one is unlike what linkers and compilers make.
    fn read(&mut self, image: &Image) -> Option<usize> {
        let frame = self.frame;
        let mut rest = frame;
        let mut end = 0;
        while !rest.is_empty() {
            let at = rest.offset_from(frame);
            let len = match rest.read_u32().ok()? {
                0 => continue, // linkers put one such at the end, and link what has one
                LONG => return None,
                len => usize::try_from(len).ok()?,
            };
            let mut record = rest.split(len).ok()?;
            let place = record.offset_from(frame);
            match record.read_u32().ok()? {
                0 => {
                    let cie = self.cie(record)?;
                    self.cies.insert(at, cie);
                }
                back => {
                    let cie = place.checked_sub(usize::try_from(back).ok()?)?;
                    let fde = self.fde(record, at, cie)?;
                    self.fdes.push(fde);
                }
            }
            end = rest.offset_from(frame);
        }
        // No section says how long it is where there are none; then it ends with a length of 0.
        let closed = !image.sections.is_empty() || end < frame.len();
        closed.then_some(end)
    }

    fn cie(&mut self, mut record: Slice<'a>) -> Option<Cie> {
        let version = record.read_u8().ok()?;
        let augmentation = record.read_null_terminated_slice().ok()?;
        let factors = record;
        let code_factor = record.read_uleb128().ok()?;
        record.read_sleb128().ok()?;
        match version {
            1 => u16::from(record.read_u8().ok()?),
            3 => record.read_uleb128_u16().ok()?,
            _ => return None,
        };
        let factors = factors.range_to(..record.offset_from(factors));
        let mut cie = Cie {
            version,
            factors: factors.to_vec(),
            code_factor,
            rules: Vec::new(),
            signal: false,
            augmented: false,
            addresses: 0,
            exceptions: None,
        };
        if let Some((b'z', kinds)) = augmentation.split_first() {
            cie.augmented = true;
            let len = record.read_uleb128().ok()?;
            let mut data = record.split(usize::try_from(len).ok()?).ok()?;
            for (number, kind) in kinds.iter().enumerate() {
                match kind {
                    _ if kinds[..number].contains(kind) => return None,
                    b'L' => cie.exceptions = Some(data.read_u8().ok()?),
                    b'R' => cie.addresses = data.read_u8().ok()?,
                    b'P' => {
                        let encoding = data.read_u8().ok()?;
                        self.pointer(&mut data, encoding)?;
                    }
                    b'S' => cie.signal = true,
                    _ => return None, // others are of other machines
                }
            }
        } else if !augmentation.is_empty() {
            return None;
        }
        cie.rules = record.to_vec();
        Some(cie)
    }

    fn fde(&mut self, mut record: Slice<'a>, at: usize, cie: usize) -> Option<Fde> {
        let known = self.cies.get(&cie)?;
        let (addresses, augmented, exceptions) =
            (known.addresses, known.augmented, known.exceptions);
        let start = self.pointer(&mut record, addresses)?;
        let len = pointer::number(&mut record, addresses)?;
        let mut handles = false;
        if augmented {
            let size = record.read_uleb128().ok()?;
            let mut data = record.split(usize::try_from(size).ok()?).ok()?;
            if let Some(encoding) = exceptions {
                handles = self.pointer(&mut data, encoding)?.value != 0;
            }
        }
        let rules = record.offset_from(self.frame);
        let here = self.vaddr.0.wrapping_add(start.at as u64);
        rules::are_known(record.slice()).then(|| Fde {
            at,
            start: match start.relative {
                true => here.wrapping_add_signed(start.value),
                false => start.value.cast_unsigned(),
            },
            len: len.cast_unsigned(),
            cie,
            handles,
            rules: rules..rules + record.len(),
        })
    }

    /// A pointer that leads somewhere else in the program or, with the value 0, nowhere.
    fn pointer(&mut self, input: &mut Slice<'a>, encoding: u8) -> Option<Pointer> {
        let pointer = Pointer::read(self.frame, input, encoding)?;
        if pointer.relative && pointer.value != 0 {
            let target = i64::try_from(pointer.at).ok()?.wrapping_add(pointer.value);
            let inside = usize::try_from(target).is_ok_and(|target| target < self.frame.len());
            let address = i128::from(self.vaddr.0).checked_add(target.into())?;
            if !(0..=i128::from(self.highest)).contains(&address) {
                self.lost = Some(Vaddr(self.vaddr.0.wrapping_add(pointer.at as u64)));
                return None;
            }
            (!inside).then(|| self.pointers.push((pointer.at, pointer.size)))?;
        }
        Some(pointer)
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
    let Some((records, _)) = records.filter(|(records, _)| records.size > 0) else {
        return Ok(None);
    };
    Ok(Some(Tables {
        bytes: source.bytes(records.at, records.size, ".eh_frame")?,
        records,
        end: 0,
        pointers: Vec::new(),
        search,
        entries: entries.collect(),
    }))
}

/// How long .eh_frame is that is in `most`: as far as a length of 0.
fn length(source: &Source, most: Option<Table>) -> Result<u64> {
    let Some(most) = most else {
        return Ok(0);
    };
    let bytes = source.bytes(most.at, most.size, ".eh_frame")?;
    let mut rest = Slice::new(&bytes, LittleEndian);
    while let Ok(len) = rest.read_u32() {
        let len = usize::try_from(len).unwrap_or(usize::MAX);
        if len == 0 || rest.skip(len).is_err() {
            break;
        }
    }
    Ok(rest.offset_from(Slice::new(&bytes, LittleEndian)) as u64)
}
