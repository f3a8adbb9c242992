//! A report in JSON.

use serde::Deserialize;

use super::counts::{Counts, Totals};
use super::place::{Mapping, Places};
use super::read::{Contents, Site};
use crate::loader::as_text;

/// The version of the format that this reads.
const VERSION: u64 = 1;

#[derive(Deserialize)]
struct Document {
    pid: u64,
    version: Option<u64>,
    program: Option<String>,
    live: Live,
    #[serde(default)]
    objects: Vec<Object>,
    sites: Option<Vec<JsonSite>>,
}

#[derive(Deserialize)]
struct Live {
    chunks: u64,
    bytes: Option<u64>,
    peak_bytes: Option<u64>,
}

#[derive(Deserialize)]
struct Object {
    /// Not known of the executable where /proc is not mounted.
    path: Option<String>,
    base: u64,
    build_id: Option<String>,
    /// The segments with its code.
    text: Vec<Text>,
}

#[derive(Deserialize)]
struct Text {
    begin: u64,
    end: u64,
    offset: u64,
}

#[derive(Deserialize)]
struct JsonSite {
    /// Return addresses, innermost first.
    frames: Vec<u64>,
    live_chunks: u64,
    live_bytes: u64,
    calls: u64,
    bytes: u64,
    peak_bytes: u64,
}

/// Reads a report, or says what is wrong with it.
pub(crate) fn read(bytes: &[u8], places: &mut Places) -> Result<Contents, String> {
    // Paths are bytes in any encoding.
    let text = String::from_utf8_lossy(bytes);
    let document: Document = serde_json::from_str(&text).map_err(|error| error.to_string())?;
    if let Some(version) = document.version.filter(|version| *version != VERSION) {
        return Err(format!("it has version {version} of the format"));
    }
    let mut mappings = Vec::new();
    for object in document.objects {
        let Some(path) = object.path else {
            continue;
        };
        let build_id = object.build_id.map(|id| as_text(id.as_bytes()));
        let number = places.object(as_text(path.as_bytes()), build_id);
        mappings.extend(object.text.iter().map(|text| Mapping {
            object: number,
            begin: text.begin,
            end: text.end,
            file_offset: text.offset,
            base: Some(object.base),
        }));
    }
    mappings.sort_by_key(|mapping| mapping.begin);
    let sites = document.sites.as_ref().map(|sites| {
        let sites = sites.iter().map(|site| {
            let addresses = site.frames.iter();
            Ok(Site {
                stack: addresses
                    .map(|address| places.number(&mappings, *address))
                    .collect(),
                counts: counts(site)?,
            })
        });
        sites.collect::<Result<_, String>>()
    });
    let live = document.live;
    Ok(Contents {
        pid: Some(document.pid),
        program: document.program.map(|path| as_text(path.as_bytes())),
        totals: Totals {
            live_chunks: Some(number(live.chunks)?),
            live_bytes: live.bytes.map(number).transpose()?,
            peak_bytes: live.peak_bytes.map(number).transpose()?,
        },
        sites: sites.transpose()?,
    })
}

fn counts(site: &JsonSite) -> Result<Counts, String> {
    Ok(Counts {
        live_bytes: number(site.live_bytes)?,
        live_chunks: number(site.live_chunks)?,
        bytes: number(site.bytes)?,
        calls: number(site.calls)?,
        peak_bytes: Some(number(site.peak_bytes)?),
    })
}

fn number(number: u64) -> Result<i64, String> {
    i64::try_from(number).map_err(|_| format!("{number} is too large for a count"))
}
