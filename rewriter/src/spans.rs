//! The result as a sequence of spans: from the input, new bytes, or zeros.
//!
//! The spans cover the result from its first byte to its last, without overlap: what is not put
//! there on purpose is the input's, and the writer has nothing left to decide.

use crate::elf::FileOffset;

/// Where a span's bytes come from.
#[derive(Clone, Debug)]
pub(crate) enum Content {
    /// From the input, starting there.
    Input(FileOffset),
    /// New.
    Bytes(Vec<u8>),
    /// Zeros, left as a hole.
    Zero,
}

/// Pages of the result that are inserted in front of what is at `at` in the input; none by default.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Gap {
    pub(crate) at: FileOffset,
    /// In bytes.
    pub(crate) len: u64,
}

impl Gap {
    /// Where in the result the input's byte at `offset` is.
    pub(crate) fn moved(self, offset: FileOffset) -> FileOffset {
        match offset < self.at {
            true => offset,
            false => FileOffset(offset.0.saturating_add(self.len)),
        }
    }

    /// The other way round; `None` in the gap.
    pub(crate) fn origin(self, offset: FileOffset) -> Option<FileOffset> {
        match offset < self.at {
            true => Some(offset),
            false => offset.checked_sub(self.len).filter(|&at| at >= self.at),
        }
    }
}

/// Consecutive bytes of the result.
#[derive(Clone, Debug)]
pub(crate) struct Span {
    pub(crate) at: FileOffset,
    pub(crate) len: u64,
    pub(crate) content: Content,
}

impl Span {
    fn end(&self) -> u64 {
        self.at.0 + self.len
    }

    /// The part of the span in `[start, end)`, if any.
    fn slice(&self, start: u64, end: u64) -> Option<Self> {
        let (from, to) = (start.max(self.at.0), end.min(self.end()));
        if from >= to {
            return None;
        }
        let skip = from - self.at.0;
        let content = match &self.content {
            Content::Input(at) => Content::Input(FileOffset(at.0 + skip)),
            Content::Zero => Content::Zero,
            Content::Bytes(bytes) => {
                let skip = usize::try_from(skip).ok()?;
                let len = usize::try_from(to - from).ok()?;
                Content::Bytes(bytes.get(skip..skip + len)?.to_vec())
            }
        };
        Some(Self {
            at: FileOffset(from),
            len: to - from,
            content,
        })
    }
}

/// The spans of a result, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Spans(Vec<Span>);

impl Spans {
    /// A copy of `len` bytes of input.
    pub(crate) fn copy(len: u64) -> Self {
        let mut spans = Self::default();
        spans.push(len, Content::Input(FileOffset(0)));
        spans
    }

    /// Puts `content` at the present end.
    pub(crate) fn push(&mut self, len: u64, content: Content) {
        let at = FileOffset(self.len());
        if let (Some(last), Content::Input(next)) = (self.0.last_mut(), &content)
            && let Content::Input(from) = last.content
            && from.checked_add(last.len) == Some(*next)
        {
            last.len += len;
        } else if len > 0 {
            self.0.push(Span { at, len, content });
        }
    }

    /// Replaces `[at, at+len)`; `None` if that is not all inside.
    pub(crate) fn put(&mut self, at: FileOffset, len: u64, content: Content) -> Option<()> {
        let end = at.0.checked_add(len).filter(|&end| end <= self.len())?;
        if len == 0 {
            return Some(());
        }
        let first = self.0.partition_point(|span| span.end() <= at.0);
        let behind = self.0.partition_point(|span| span.at.0 < end);
        let replaced = self.0.get(first..behind)?;
        let before = replaced.first().and_then(|span| span.slice(0, at.0));
        let after = replaced.last().and_then(|span| span.slice(end, u64::MAX));
        let new = [before, Some(Span { at, len, content }), after];
        self.0.splice(first..behind, new.into_iter().flatten());
        Some(())
    }

    /// What is in `[at, at+len)`.
    pub(crate) fn slice(&self, at: FileOffset, len: u64) -> impl Iterator<Item = Span> {
        let end = at.0.saturating_add(len);
        let first = self.0.partition_point(|span| span.end() <= at.0);
        let rest = self.0.iter().skip(first);
        rest.map_while(move |span| span.slice(at.0, end))
    }

    /// The same file made from another: these make C of B, `inner` makes B of A, the answer C of A.
    pub(crate) fn over(&self, inner: &Self) -> Self {
        let mut spans = Self::default();
        for span in &self.0 {
            match &span.content {
                Content::Input(from) => {
                    for piece in inner.slice(*from, span.len) {
                        spans.push(piece.len, piece.content);
                    }
                }
                own => spans.push(span.len, own.clone()),
            }
        }
        spans
    }

    /// The input of `len` bytes, made from what these make of it. What is not in there is
    /// [`Content::Zero`].
    pub(crate) fn inverse(&self, len: u64) -> Option<Self> {
        let mut inverse = Self::default();
        inverse.push(len, Content::Zero);
        // A byte that is there twice is taken from its first place.
        for span in self.0.iter().rev() {
            if let Content::Input(from) = span.content {
                inverse.put(from, span.len, Content::Input(span.at))?;
            }
        }
        Some(inverse)
    }

    /// What differs from an input of the same length: offsets and bytes. `None` if the length is
    /// another, or anything of the input is at another place.
    pub(crate) fn edits(&self, len: u64) -> Option<Vec<(FileOffset, &[u8])>> {
        let stays = self.0.iter().all(|span| match span.content {
            Content::Input(from) => from == span.at,
            Content::Bytes(_) => true,
            Content::Zero => false,
        });
        let edits = self.0.iter().filter_map(|span| match &span.content {
            Content::Bytes(bytes) => Some((span.at, bytes.as_slice())),
            _ => None,
        });
        (stays && self.len() == len).then(|| edits.collect())
    }

    /// Length of the result, in bytes.
    pub(crate) fn len(&self) -> u64 {
        self.0.last().map_or(0, Span::end)
    }

    pub(crate) fn ends_in_zeros(&self) -> bool {
        { self.0.last() }.is_some_and(|last| matches!(last.content, Content::Zero))
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Span> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn put_splits_what_it_overlaps() {
        let mut spans = Spans::default();
        spans.push(10, Content::Input(FileOffset(0)));
        spans.push(4, Content::Zero);
        let put = |spans: &mut Spans, at, bytes: &[u8]| {
            let content = Content::Bytes(bytes.to_vec());
            spans.put(FileOffset(at), bytes.len() as u64, content)
        };
        assert!(put(&mut spans, 8, &[1, 2, 3, 4]).is_some());
        assert!(put(&mut spans, 9, &[9]).is_some());
        let shape: Vec<(u64, u64)> = spans.iter().map(|span| (span.at.0, span.len)).collect();
        assert_eq!(shape, [(0, 8), (8, 1), (9, 1), (10, 2), (12, 2)]);
        assert_eq!(spans.len(), 14);
        assert!(put(&mut spans, 13, &[0, 0]).is_none());
    }

    #[test]
    fn an_inverse_gives_the_input_back() {
        let mut spans = Spans::copy(10);
        spans.push(4, Content::Zero);
        spans.put(FileOffset(2), 3, Content::Bytes(vec![7; 3]));
        spans.put(FileOffset(11), 2, Content::Input(FileOffset(3)));
        let inverse = spans.inverse(10).unwrap_or_default();
        let round = inverse.over(&spans);
        let shape: Vec<_> = (round.iter())
            .map(|span| (span.at.0, span.len, matches!(span.content, Content::Zero)))
            .collect();
        assert_eq!(shape, [(0, 2, false), (2, 1, true), (3, 7, false)]);
        assert!(spans.edits(10).is_none());
    }
}
