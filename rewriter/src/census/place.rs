//! Where code is, independent of the process: an object and an offset in its file. The loader puts
//! objects at other addresses in each process, so that sites are the same when these are.

use std::collections::HashMap;
use std::sync::Arc;

/// A file that was mapped.
#[derive(Debug)]
pub(crate) struct Object {
    pub(crate) path: Arc<str>,
    /// In hexadecimal.
    pub(crate) build_id: Option<String>,
}

/// A call: the byte before its return address, which belongs to the same line as the call itself. The
/// return address may belong to the next line, or to the next function.
#[derive(Debug)]
pub(crate) struct Place {
    /// Index of its object; `None` for code in no known object.
    pub(crate) object: Option<usize>,
    /// In the object's file; in memory if there is no object.
    pub(crate) offset: u64,
    /// As the object's own tables have it, if the report says where the object was loaded.
    pub(crate) address: Option<u64>,
}

/// All objects and places of one or more reports, each once.
#[derive(Debug, Default)]
pub(crate) struct Places {
    pub(crate) objects: Vec<Object>,
    pub(crate) places: Vec<Place>,
    /// By build-id or, if there is none, by path.
    object_numbers: HashMap<(Option<String>, Option<String>), usize>,
    place_numbers: HashMap<(Option<usize>, u64), usize>,
}

/// An executable segment of an object in one process.
#[derive(Debug)]
pub(crate) struct Mapping {
    /// Index in [`Places::objects`].
    pub(crate) object: usize,
    /// First address, and the one behind the last.
    pub(crate) begin: u64,
    pub(crate) end: u64,
    /// Of `begin`, in the file.
    pub(crate) file_offset: u64,
    /// What is added to the addresses in the file.
    pub(crate) base: Option<u64>,
}

impl Places {
    /// The number of an object.
    pub(crate) fn object(&mut self, path: String, build_id: Option<String>) -> usize {
        let path_key = Some(path.clone()).filter(|_| build_id.is_none());
        let objects = &mut self.objects;
        let number = self.object_numbers.entry((build_id.clone(), path_key));
        *number.or_insert_with(|| {
            let path = Arc::from(path);
            objects.push(Object { path, build_id });
            objects.len() - 1
        })
    }

    /// The number of the place before the return address `address` in a process with `mappings`, which
    /// are in the order of their addresses.
    pub(crate) fn number(&mut self, mappings: &[Mapping], address: u64) -> usize {
        let call = address.saturating_sub(1);
        let behind = mappings.partition_point(|mapping| mapping.begin <= call);
        let mapping = behind.checked_sub(1).and_then(|index| mappings.get(index));
        let mapping = mapping.filter(|mapping| call < mapping.end);
        let offset = mapping.and_then(|mapping| {
            let offset = mapping.file_offset.checked_add(call - mapping.begin)?;
            Some((mapping, offset))
        });
        let place = match offset {
            Some((mapping, offset)) => Place {
                object: Some(mapping.object),
                offset,
                address: mapping.base.and_then(|base| call.checked_sub(base)),
            },
            None => Place {
                object: None,
                offset: call,
                address: None,
            },
        };
        let places = &mut self.places;
        let number = self.place_numbers.entry((place.object, place.offset));
        *number.or_insert_with(|| {
            places.push(place);
            places.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_call_in_two_processes_is_one_place() {
        let mut places = Places::default();
        let object = places.object("/lib/a.so".to_owned(), Some("ab".to_owned()));
        let mapping = |base: u64| {
            [Mapping {
                object,
                begin: base + 0x1000,
                end: base + 0x2000,
                file_offset: 0x800,
                base: Some(base),
            }]
        };
        let first = places.number(&mapping(0x7000_0000), 0x7000_1235);
        let second = places.number(&mapping(0x5000_0000), 0x5000_1235);
        assert_eq!(first, second);
        assert_eq!(places.places[first].offset, 0xa34);
        assert_eq!(places.places[first].address, Some(0x1234));
        // A call that is the last instruction returns to behind the segment.
        let last = places.number(&mapping(0x5000_0000), 0x5000_2000);
        assert_eq!(places.places[last].object, Some(object));
        let outside = places.number(&mapping(0x5000_0000), 0x5000_2001);
        assert_eq!(places.places[outside].object, None);
    }
}
