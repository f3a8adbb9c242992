//! Reads reports: which format it is, and what every format says. A report comes from anywhere.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use flate2::read::MultiGzDecoder;

use super::counts::{Counts, Totals};
use super::place::Places;
use super::{json, profile};
use crate::error::{Error, ErrorKind, Result};

/// Longest report in bytes, unpacked.
const LONGEST: u64 = 128 << 20;
/// Longest stack, and most frames in all.
const DEEPEST: usize = 4096;
pub(crate) const MOST_FRAMES: usize = 1 << 22;
/// Most objects, of all reports.
const MOST_OBJECTS: usize = 1 << 16;

const GZIP: &[u8] = b"\x1f\x8b";
/// How the runtime's text begins.
const TEXT: &[u8] = b"allocations of process";

/// What a report says.
#[derive(Debug)]
pub(crate) struct Contents {
    pub(crate) pid: Option<u64>,
    /// The executable's path.
    pub(crate) program: Option<String>,
    pub(crate) totals: Totals,
    /// `None` if the runtime did not count by site.
    pub(crate) sites: Option<Vec<Site>>,
}

/// Where allocations come from.
#[derive(Debug)]
pub(crate) struct Site {
    /// Numbers of places, innermost first; none if it is not known.
    pub(crate) stack: Vec<usize>,
    pub(crate) counts: Counts,
}

/// Reads the report at `path`.
pub(crate) fn read(path: &Path, places: &mut Places) -> Result<Contents> {
    let unfit = |what| Error::new(path, ErrorKind::NoReport { what });
    let mut bytes = read_bounded(path)?;
    if bytes.starts_with(GZIP) {
        let unpacked = MultiGzDecoder::new(&bytes[..]);
        bytes = bounded(unpacked).map_err(|error| unfit(error.to_string()))?;
    }
    if bytes.len() as u64 > LONGEST {
        return Err(unfit(format!("it is longer than {LONGEST} bytes")));
    }
    let contents = match bytes.first() {
        None => Err("it is empty".to_owned()),
        Some(b'{') => json::read(&bytes, places),
        Some(_) if bytes.starts_with(TEXT) => Err("it is the form for people".to_owned()),
        Some(_) => profile::read(&bytes, places),
    };
    let contents = contents.and_then(checked).map_err(unfit)?;
    match places.objects.len() {
        0..=MOST_OBJECTS => Ok(contents),
        more => Err(unfit(format!("it has {more} objects"))),
    }
}

fn read_bounded(path: &Path) -> Result<Vec<u8>> {
    let file = File::open(path).map_err(|source| Error::io(path, "open", source))?;
    bounded(file).map_err(|source| Error::io(path, "read", source))
}

/// Everything, or one byte more than a report may have.
fn bounded(from: impl Read) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    from.take(LONGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn checked(contents: Contents) -> std::result::Result<Contents, String> {
    let sites = contents.sites.iter().flatten();
    let mut all = 0_usize;
    for depth in sites.map(|site| site.stack.len()) {
        all = all.saturating_add(depth);
        if depth > DEEPEST || all > MOST_FRAMES {
            return Err(format!("it has a stack of {depth} frames, {all} in all"));
        }
    }
    Ok(contents)
}
