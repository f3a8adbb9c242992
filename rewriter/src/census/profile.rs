//! A report as a pprof profile.
//!
//! The messages are those parts of profile.proto (github.com/google/pprof) that the runtime writes.

use std::collections::HashMap;

use prost::Message;

use super::counts::{self, Counts, Totals};
use super::place::{Mapping, Places};
use super::read::{Contents, MOST_FRAMES, Site};
use crate::loader::as_text;

#[derive(Message)]
struct Profile {
    #[prost(message, repeated, tag = "1")]
    sample_types: Vec<ValueType>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    mappings: Vec<MappingMessage>,
    #[prost(message, repeated, tag = "4")]
    locations: Vec<Location>,
    #[prost(bytes = "vec", repeated, tag = "6")]
    strings: Vec<Vec<u8>>,
}

/// Strings are indices into the profile's.
#[derive(Message)]
struct ValueType {
    #[prost(int64, tag = "1")]
    kind: i64,
}

#[derive(Message)]
struct Sample {
    /// Innermost first.
    #[prost(uint64, repeated, tag = "1")]
    location_ids: Vec<u64>,
    #[prost(int64, repeated, tag = "2")]
    values: Vec<i64>,
}

#[derive(Message)]
struct MappingMessage {
    #[prost(uint64, tag = "1")]
    id: u64,
    #[prost(uint64, tag = "2")]
    start: u64,
    #[prost(uint64, tag = "3")]
    limit: u64,
    #[prost(uint64, tag = "4")]
    file_offset: u64,
    #[prost(int64, tag = "5")]
    file: i64,
    #[prost(int64, tag = "6")]
    build_id: i64,
}

#[derive(Message)]
struct Location {
    #[prost(uint64, tag = "1")]
    id: u64,
    /// The last byte of the call.
    #[prost(uint64, tag = "3")]
    address: u64,
}

/// Reads a report, or says what is wrong with it.
pub(crate) fn read(bytes: &[u8], places: &mut Places) -> Result<Contents, String> {
    let profile = Profile::decode(bytes).map_err(|error| error.to_string())?;
    let kinds = [
        "inuse_space",
        "inuse_objects",
        "alloc_space",
        "alloc_objects",
    ];
    let mut columns = [0; 4];
    for (column, kind) in columns.iter_mut().zip(kinds) {
        let found = profile.column(kind);
        *column = found.ok_or_else(|| format!("it has no samples of {kind}"))?;
    }
    if profile.locations.len() > MOST_FRAMES {
        return Err(format!("it has {} locations", profile.locations.len()));
    }
    let mut mappings = Vec::new();
    for mapping in &profile.mappings {
        let build_id = Some(as_text(profile.string(mapping.build_id))).filter(|id| !id.is_empty());
        mappings.push(Mapping {
            object: places.object(as_text(profile.string(mapping.file)), build_id),
            begin: mapping.start,
            end: mapping.limit,
            file_offset: mapping.file_offset,
            base: None,
        });
    }
    mappings.sort_by_key(|mapping| mapping.begin);
    let numbers: HashMap<u64, usize> = profile
        .locations
        .iter()
        .map(|location| {
            let address = location.address.saturating_add(1);
            (location.id, places.number(&mappings, address))
        })
        .collect();
    let mut sites = Vec::new();
    for sample in &profile.samples {
        let mut stack = Vec::new();
        for id in &sample.location_ids {
            let number = numbers.get(id);
            stack.push(*number.ok_or_else(|| format!("it has no location {id}"))?);
        }
        let mut values = [0; 4];
        for ((value, column), kind) in values.iter_mut().zip(columns).zip(kinds) {
            let found = sample.values.get(column).filter(|count| **count >= 0);
            *value = *found.ok_or_else(|| format!("a sample has no {kind}"))?;
        }
        let [live_bytes, live_chunks, bytes, calls] = values;
        sites.push(Site {
            stack,
            counts: Counts {
                live_bytes,
                live_chunks,
                bytes,
                calls,
                peak_bytes: None,
            },
        });
    }
    let total = counts::sum(sites.iter().map(|site| site.counts))?;
    // The first mapping is the program's.
    let program = profile.mappings.first();
    Ok(Contents {
        pid: None,
        program: program.map(|mapping| as_text(profile.string(mapping.file))),
        totals: Totals {
            live_chunks: Some(total.live_chunks),
            live_bytes: Some(total.live_bytes),
            peak_bytes: None,
        },
        sites: Some(sites),
    })
}

impl Profile {
    /// A string; empty if there is none at this index.
    fn string(&self, index: i64) -> &[u8] {
        let index = usize::try_from(index).ok();
        let string = index.and_then(|index| self.strings.get(index));
        string.map_or(&[], Vec::as_slice)
    }

    /// Which value of a sample is of this kind.
    fn column(&self, kind: &str) -> Option<usize> {
        let mut types = self.sample_types.iter();
        types.position(|one| self.string(one.kind) == kind.as_bytes())
    }
}
