//! The options that made a diversion, at the end of its segment, for `refresh`: one a line, padding, their
//! size, and a word that says what this is.

use object::elf::PF_X;

use crate::Options;
use crate::elf::{FileOffset, Format, Segment, align_up};
use crate::error::Result;
use crate::parse::Image;
use crate::source::Source;

const MAGIC: u64 = u64::from_le_bytes(*b"ALLOCSM1");
/// Size and magic.
const TAIL: u64 = 16;
const PARTIAL: &str = "--partial";

/// What is to be remembered of `options`: nothing, if they are the usual ones.
pub(super) fn encode(options: &Options) -> Vec<u8> {
    let partial = Some(PARTIAL).filter(|_| options.partial);
    let lines = options.malloc.iter().map(String::as_str).chain(partial);
    let text = lines.collect::<Vec<_>>().join("\n").into_bytes();
    if text.is_empty() {
        return text;
    }
    let size = text.len() as u64;
    let padded = align_up(size, 8).and_then(|padded| usize::try_from(padded).ok());
    let mut bytes = text;
    bytes.resize(padded.unwrap_or(bytes.len()), 0);
    bytes.extend(size.to_le_bytes());
    bytes.extend(MAGIC.to_le_bytes());
    bytes
}

/// `options` with what the rewritten program in `source` was made with, where they say nothing of it.
pub(crate) fn remember(options: Options, source: &Source, image: &Image) -> Result<Options> {
    if image.format != Format::X86_64 {
        return Ok(options);
    }
    for (_, load) in image.loads() {
        if load.flags.0 & PF_X.0 != 0
            && let Some(text) = read(source, load)?
        {
            let given = text.lines().filter(|line| *line != PARTIAL);
            let malloc = match options.malloc.is_empty() {
                true => given.map(str::to_owned).collect(),
                false => options.malloc.clone(),
            };
            let partial = options.partial || text.lines().any(|line| line == PARTIAL);
            return Ok(Options {
                malloc,
                partial,
                ..options
            });
        }
    }
    Ok(options)
}

fn read(source: &Source, load: &Segment) -> Result<Option<String>> {
    let Some(tail) = load.filesz.checked_sub(TAIL) else {
        return Ok(None);
    };
    let at = FileOffset(load.offset.0 + tail);
    let words = source
        .format()
        .addresses(&source.bytes(at, TAIL, "the end of a segment")?);
    let &[size, MAGIC] = &words[..] else {
        return Ok(None);
    };
    let text = align_up(size, 8).and_then(|padded| at.checked_sub(padded));
    let Some(text) = text.filter(|text| *text >= load.offset) else {
        return Ok(None);
    };
    let text = source.bytes(text, size, "the options of the rewrite")?;
    Ok(String::from_utf8(text).ok())
}
