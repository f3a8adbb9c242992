//! A rewritten file → the file that it was made from.
//!
//! The slot of the new preinit entry has eight bytes in the file that nobody reads: the loader
//! fills the slot from a relocation with an explicit addend. They hold a [`Word`], which says how to
//! go back. Where addends are implicit, the slot has to hold 0, and the value of the first DT_NULL has the word;
//! and where it has 32 bits, it always leads to a journal. Where nothing grew, the result and the word imply the rest, so that this works after
//! strip and objcopy as well ([`implied`]). Otherwise the word leads to a journal at the end of the
//! ELF part ([`journal`]).

mod implied;
mod journal;

use self::implied::{Hints, Implied};
use self::journal::Journal;
use crate::elf::{Addends, FileOffset};
use crate::error::{ErrorKind, Result};
use crate::layout::Layout;
use crate::parse::{Image, locate};
use crate::plan::Plan;
use crate::recycle::Findings;
use crate::rewritten::{self, Rewritten};
use crate::runtime::Request;
use crate::source::Source;
use crate::spans::{Content, Spans};

/// What leads back. The two lowest bits say which of these it is; 0 is none.
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
            // It lies at a multiple of 8.
            Self::Journal(at) => 2 | at.0,
        }
    }

    fn decode(word: u64) -> Option<Self> {
        match word & 3 {
            1 => {
                let sum = u32::try_from(word >> (2 + Implied::BITS)).ok()?;
                Some(Self::Implied(Implied::decode(word >> 2), sum))
            }
            2 => Some(Self::Journal(FileOffset(word & !3))),
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
    let bytes = source.format().address(word.encode());
    put(source, &mut layout.spans, layout.word_at, bytes)?;
    if let Word::Journal(at) = word {
        let journal = Journal::of(source, &layout.spans)?;
        let bytes = journal.encode(&source.through(&layout.spans), at)?;
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
    let format = source.format();
    let at = match format.relocations.addends {
        Addends::Explicit => found.slot,
        Addends::Implicit => image.dynamic.first_null(format),
    };
    let at = locate(&image.segments, at, format.word()).ok_or_else(lost)?;
    let bytes = source.bytes(at, format.word(), "what leads back")?;
    let word = format.addresses(&bytes).first().copied();
    let spans = match word.and_then(Word::decode) {
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
