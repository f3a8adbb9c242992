//! The report for pprof: a message `Profile` of google/pprof's proto/profile.proto, written in one pass.
//!
//! Members of a message may come in any order, and a repeated one is a member more each time. So a
//! string goes into the string table when it is needed first, a location ahead of the sample that
//! refers to it, and only a part's own length must be known beforehand.

use crate::census::{self, SiteCounts};
use crate::file::{self, LoadedObject};
use crate::report::output::Output;
use crate::sync::{AtomicUsize, Ordering::Relaxed};
use crate::sys;

/// Members of `Profile` by number.
const SAMPLE_TYPE: usize = 1;
const SAMPLE: usize = 2;
const MAPPING: usize = 3;
const LOCATION: usize = 4;
const FUNCTION: usize = 5;
const STRING_TABLE: usize = 6;
const TIME_NANOS: usize = 9;
const PERIOD_TYPE: usize = 11;
const PERIOD: usize = 12;
const DEFAULT_SAMPLE_TYPE: usize = 14;

/// How many frames of a stack are written.
const FRAMES: usize = 256;
/// The location ids of one sample's frames.
static IDS: [AtomicUsize; FRAMES] = [const { AtomicUsize::new(0) }; FRAMES];

/// How many segments with code are remembered; locations in others have no mapping.
const MAPPINGS: usize = 1024;
/// Begin and end of each; the index is the mapping's id less one.
static CODE: [[AtomicUsize; 2]; MAPPINGS] =
    [const { [const { AtomicUsize::new(0) }; 2] }; MAPPINGS];

/// A power of two.
const KNOWN: usize = 4096;
/// Locations that were written already: address and id, the last one for each place. One that had to
/// make way is written again, by another id, when it comes again.
static WRITTEN: [[AtomicUsize; 2]; KNOWN] = [const { [const { AtomicUsize::new(0) }; 2] }; KNOWN];

/// Writes it.
pub(crate) fn write(output: &mut Output<'_>) {
    let mut profile = Profile::new(output);
    profile.types();
    for object in file::objects() {
        profile.mapping(&object);
    }
    let turn = profile.output.turn();
    census::sites(turn, |site, counts| profile.sample(site.frames(), counts));
}

struct Profile<'o, 'a> {
    output: &'o mut Output<'a>,
    /// How many there are of each; what a new one is called by.
    strings: usize,
    mappings: usize,
    locations: usize,
    /// The location of allocations whose site is not known.
    unknown: Option<usize>,
}

impl<'o, 'a> Profile<'o, 'a> {
    fn new(output: &'o mut Output<'a>) -> Self {
        for [address, _] in &WRITTEN {
            address.store(0, Relaxed);
        }
        Self {
            output,
            strings: 0,
            mappings: 0,
            locations: 0,
            unknown: None,
        }
    }
}

impl Profile<'_, '_> {
    /// What is measured. Readers expect these four, in this order, of a heap profile.
    fn types(&mut self) {
        self.string(b"");
        let count = self.string(b"count");
        let bytes = self.string(b"bytes");
        let allocated = [self.string(b"alloc_objects"), self.string(b"alloc_space")];
        let in_use = [self.string(b"inuse_objects"), self.string(b"inuse_space")];
        for [objects, space] in [allocated, in_use] {
            self.message(SAMPLE_TYPE, &[objects, count]);
            self.message(SAMPLE_TYPE, &[space, bytes]);
        }
        let [_, default] = in_use;
        self.number(DEFAULT_SAMPLE_TYPE, default);
        let space = self.string(b"space");
        self.message(PERIOD_TYPE, &[space, bytes]);
        self.number(PERIOD, 1);
        self.number(TIME_NANOS, sys::time());
    }

    /// The object's code: as a rule one segment.
    fn mapping(&mut self, object: &LoadedObject) {
        let path = object.path();
        let name = path.map_or(0, |path| {
            let length = path.bytes().take(Output::LONGEST_STRING).count();
            self.begin_string(length);
            self.output.string(path);
            self.end_string()
        });
        let build_id = object.build_id().map_or(0, |(id, size)| {
            self.begin_string(size.wrapping_mul(2));
            for at in 0..size {
                self.output.two_digits(id.add(at).byte());
            }
            self.end_string()
        });
        for (begin, end, offset) in object.executable_segments() {
            let Some(code) = CODE.get(self.mappings) else {
                return;
            };
            for (place, address) in code.iter().zip([begin, end]) {
                place.store(address, Relaxed);
            }
            self.mappings = self.mappings.wrapping_add(1);
            self.message(
                MAPPING,
                &[self.mappings, begin, end, offset, name, build_id],
            );
        }
    }

    fn sample(&mut self, frames: impl Iterator<Item = usize>, counts: &SiteCounts) {
        let mut length = 0_usize;
        for (place, frame) in IDS.iter().zip(frames) {
            place.store(self.location(frame.wrapping_sub(1)), Relaxed);
            length = length.wrapping_add(1);
        }
        if let Some(place) = IDS.first().filter(|_| length == 0) {
            place.store(self.unknown(), Relaxed);
            length = 1;
        }
        let ids = IDS.get(..length).unwrap_or_default();
        let ids = || ids.iter().map(|id| id.load(Relaxed));
        let values = [
            counts.calls,
            counts.bytes,
            counts.live_chunks,
            counts.live_bytes,
        ];
        let sizes = [sum_of_sizes(ids()), sum_of_sizes(values.into_iter())];
        let whole = sizes.into_iter().fold(0_usize, |sum, size| {
            sum.wrapping_add(1)
                .wrapping_add(size_of_varint(size))
                .wrapping_add(size)
        });
        let [size_of_ids, size_of_values] = sizes;
        self.begin(SAMPLE, whole);
        self.begin(1, size_of_ids);
        for id in ids() {
            self.varint(id);
        }
        self.begin(2, size_of_values);
        for value in values {
            self.varint(value);
        }
    }

    /// The location of `address`. Its id.
    fn location(&mut self, address: usize) -> usize {
        let hash = address.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32 & (KNOWN - 1);
        let Some([known, id]) = WRITTEN.get(hash) else {
            return 0;
        };
        if known.load(Relaxed) == address {
            return id.load(Relaxed);
        }
        let contains = |code: &&[AtomicUsize; 2]| {
            let [begin, end] = code;
            (begin.load(Relaxed)..end.load(Relaxed)).contains(&address)
        };
        let code = CODE.iter().take(self.mappings);
        let mapping = code.zip(1..).find(|(code, _)| contains(code));
        self.locations = self.locations.wrapping_add(1);
        self.message(
            LOCATION,
            &[self.locations, mapping.map_or(0, |(_, id)| id), address],
        );
        known.store(address, Relaxed);
        id.store(self.locations, Relaxed);
        self.locations
    }

    /// The location that stands for none. Its id.
    fn unknown(&mut self) -> usize {
        if let Some(id) = self.unknown {
            return id;
        }
        const ONLY_FUNCTION: usize = 1;
        let name = self.string(b"[unknown]");
        self.message(FUNCTION, &[ONLY_FUNCTION, name]);
        self.locations = self.locations.wrapping_add(1);
        let id = self.locations;
        // Its member 1 is the id, its member 4 a message `Line`, whose member 1 is the function's id.
        self.begin(LOCATION, size_of_varint(id).wrapping_add(5));
        self.number(1, id);
        self.begin(4, 2);
        self.number(1, ONLY_FUNCTION);
        self.unknown = Some(id);
        id
    }

    /// A new string. Its index in the table.
    fn string(&mut self, text: &[u8]) -> usize {
        self.begin_string(text.len());
        self.output.put(text);
        self.end_string()
    }

    fn begin_string(&mut self, length: usize) {
        self.begin(STRING_TABLE, length);
    }

    fn end_string(&mut self) -> usize {
        let index = self.strings;
        self.strings = index.wrapping_add(1);
        index
    }

    /// A message as a member; its own members are numbers, from member 1 on. Those that are 0 are left
    /// out, which means the same.
    fn message(&mut self, member: usize, values: &[usize]) {
        let size = values.iter().filter(|value| **value != 0);
        let size = size.fold(0_usize, |sum, value| {
            sum.wrapping_add(1).wrapping_add(size_of_varint(*value))
        });
        self.begin(member, size);
        for (value, member) in values.iter().zip(1..) {
            if *value != 0 {
                self.number(member, *value);
            }
        }
    }

    /// A number as a member. There are less than 16 of them, so the tag is one byte.
    fn number(&mut self, member: usize, value: usize) {
        const VARINT: usize = 0;
        self.varint(member << 3 | VARINT);
        self.varint(value);
    }

    /// Begins a member that is `size` bytes: a string, a message, or numbers.
    fn begin(&mut self, member: usize, size: usize) {
        const LENGTH_DELIMITED: usize = 2;
        self.varint(member << 3 | LENGTH_DELIMITED);
        self.varint(size);
    }

    /// Seven bits a byte, the lowest first; the eighth says that there are more.
    fn varint(&mut self, value: usize) {
        let mut rest = value;
        while rest >= 0x80 {
            self.output.byte(rest.to_le_bytes()[0] | 0x80);
            rest >>= 7;
        }
        self.output.byte(rest.to_le_bytes()[0]);
    }
}

fn size_of_varint(value: usize) -> usize {
    // 0 has one digit, too.
    let bits = (value | 1).ilog2().wrapping_add(1);
    bits.div_ceil(7) as usize
}

fn sum_of_sizes(values: impl Iterator<Item = usize>) -> usize {
    values.fold(0, |sum, value| sum.wrapping_add(size_of_varint(value)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::written;

    fn profile(work: impl FnOnce(&mut Profile<'_, '_>)) -> Vec<u8> {
        written(false, |output| {
            work(&mut Profile::new(output));
        })
    }

    #[test]
    fn numbers_are_varints() {
        for (value, bytes) in [
            (0, &[0][..]),
            (127, &[127]),
            (128, &[0x80, 1]),
            (300, &[0xac, 2]),
            (
                usize::MAX,
                &[0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1],
            ),
        ] {
            assert_eq!(profile(|profile| profile.varint(value)), bytes, "{value}");
            assert_eq!(size_of_varint(value), bytes.len(), "{value}");
        }
    }

    #[test]
    fn members_that_are_0_are_left_out() {
        let bytes = profile(|profile| profile.message(LOCATION, &[1, 0, 300]));
        assert_eq!(bytes, [0x22, 5, 0x08, 1, 0x18, 0xac, 2]);
    }

    #[test]
    fn a_location_comes_once_and_ahead_of_its_samples() {
        let counts = SiteCounts {
            live_chunks: 1,
            live_bytes: 200,
            calls: 3,
            bytes: 4,
            peak_bytes: 5,
        };
        let bytes = profile(|profile| {
            profile.sample([8, 9].into_iter(), &counts);
            profile.sample([9].into_iter(), &counts);
        });
        let locations = [0x22, 4, 0x08, 1, 0x18, 7, 0x22, 4, 0x08, 2, 0x18, 8];
        let first = [0x12, 11, 0x0a, 2, 1, 2, 0x12, 5, 3, 4, 1, 0xc8, 1];
        let second = [0x12, 10, 0x0a, 1, 2, 0x12, 5, 3, 4, 1, 0xc8, 1];
        assert_eq!(bytes, [&locations[..], &first, &second].concat());
    }
}
