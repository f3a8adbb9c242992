//! A rewritten file → the file that it was made from.
//!
//! The slot of the new preinit entry has eight bytes in the file that nobody reads: the loader
//! fills the slot from a relocation with an explicit addend. They hold a [`Word`], which says how to
//! go back. Where nothing grew, the result and the word imply the rest, so that this works after
//! strip and objcopy as well ([`implied`]). Otherwise the word leads to a journal at the end of the
//! ELF part ([`journal`]).

mod implied;
mod journal;

use self::implied::{Hints, Implied};
use self::journal::Journal;
use crate::elf::FileOffset;
use crate::error::{ErrorKind, Result};
use crate::layout::Layout;
use crate::parse::{Image, locate, longs};
use crate::plan::Plan;
use crate::recycle::Findings;
use crate::rewritten::{self, Rewritten};
use crate::runtime::Request;
use crate::source::Source;
use crate::spans::{Content, Spans};

/// The slot's eight bytes in the file. The two lowest bits say which of these it is; 0 is none.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Word {
    /// What the result does not say of the original, and a part of a checksum.
    Implied(Implied, u32),
    /// Where the journal is in the file.
    Journal(FileOffset),
}

impl Word {
    fn encode(self) -> u64 {
        match self {
            Self::Implied(implied, sum) => {
                1 | implied.encode() << 2 | u64::from(sum) << (2 + Implied::BITS)
            }
            Self::Journal(at) => 2 | at.0 << 2,
        }
    }

    fn decode(word: u64) -> Option<Self> {
        match word & 3 {
            1 => {
                let sum = u32::try_from(word >> (2 + Implied::BITS)).ok()?;
                Some(Self::Implied(Implied::decode(word >> 2), sum))
            }
            2 => Some(Self::Journal(FileOffset(word >> 2))),
            _ => None,
        }
    }
}

/// The part of a checksum that fits a [`Word`].
fn short(sum: u32) -> u32 {
    sum >> (2 + Implied::BITS - 32)
}

/// The layout, with what it takes to go back from its result.
pub(crate) fn record(
    source: &Source,
    image: &Image,
    findings: &Findings,
    plan: &Plan,
    request: Request<'_>,
) -> Result<Layout> {
    let mut layout = Layout::make(source, image, findings, plan, request, 0)?;
    let grows = layout.spans.len() > source.len();
    let word = if let Some(word) = implied::find(source, image, plan, &layout)? {
        word
    } else if !grows && image.elf_end.0 < source.len() {
        return Ok(layout); // data behind the ELF part does not move for this alone
    } else {
        let size = Journal::of(source, &layout.spans)?.size();
        layout = Layout::make(source, image, findings, plan, request, size)?;
        Word::Journal(layout.journal)
    };
    layout.leads_back = true;
    let bytes = word.encode().to_le_bytes().to_vec();
    put(source, &mut layout.spans, layout.slot_at, bytes)?;
    if let Word::Journal(at) = word {
        let journal = Journal::of(source, &layout.spans)?;
        let bytes = journal.encode(&source.through(&layout.spans)?, at)?;
        put(source, &mut layout.spans, at, bytes)?;
    }
    Ok(layout)
}

fn put(source: &Source, spans: &mut Spans, at: FileOffset, bytes: Vec<u8>) -> Result<()> {
    let put = spans.put(at, bytes.len() as u64, Content::Bytes(bytes));
    put.ok_or_else(|| source.malformed("it has no room for an undo journal"))
}

/// A rewritten file's runtime, and its original as spans of it.
pub(crate) fn original(source: &Source) -> Result<(Rewritten, Spans)> {
    let image = Image::parse(source)?;
    let found = rewritten::recognise(source, &image, None)?;
    let found = found.filter(|found| !found.linked);
    let found = found.ok_or_else(|| source.error(ErrorKind::NotRewritten))?;
    let lost = || source.error(ErrorKind::NoUndo);
    let at = locate(&image.segments, found.slot, 8).ok_or_else(lost)?;
    let bytes = source.bytes(at, 8, "the preinit entry")?;
    let spans = match longs(&bytes).first().and_then(|&word| Word::decode(word)) {
        None => None,
        Some(Word::Implied(implied, sum)) => {
            let hints = Hints::search(source, &image, &found)?;
            let edits = implied.edits(source, &image, &hints)?;
            let edits = edits.filter(|edits| short(edits.sum()) == sum);
            edits.and_then(|edits| edits.spans(source))
        }
        Some(Word::Journal(at)) => Journal::decode(source, at)?,
    };
    Ok((found, spans.ok_or_else(lost)?))
}
