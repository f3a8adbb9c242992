//! What is counted at a site, and its sums and differences.

use schemars::JsonSchema;
use serde::Serialize;

/// Why reports are not added up.
pub(crate) const TOO_MUCH: &str = "its counts add up to more than there can be";

/// What is counted at a site; also the change between two reports. Sizes are in bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Counts {
    /// Sum of the sizes of live allocations.
    pub live_bytes: i64,
    /// Number of live allocations.
    pub live_chunks: i64,
    /// Sum of the sizes of all allocations since the start.
    pub bytes: i64,
    /// Number of allocations since the start.
    pub calls: i64,
    /// The most live bytes that there were; pprof files do not say it.
    pub peak_bytes: Option<i64>,
}

/// What is live in a process, and was at most; also the change between two reports. Sizes are in
/// bytes. Members are `None` if they are not known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, JsonSchema)]
pub struct Totals {
    /// Number of live allocations.
    pub live_chunks: Option<i64>,
    /// Their size.
    pub live_bytes: Option<i64>,
    /// The most that this size was. Of several processes it is the sum, though they need not have had
    /// it at the same time.
    pub peak_bytes: Option<i64>,
}

/// By which of its counts a site comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum By {
    /// Live bytes.
    Live,
    /// Live allocations.
    Chunks,
    /// Bytes since the start.
    Bytes,
    /// Calls since the start.
    Calls,
    /// The most live bytes that there were.
    Peak,
}

impl By {
    /// What it is called in a heading.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Live => "live bytes",
            Self::Chunks => "live chunks",
            Self::Bytes => "bytes since start",
            Self::Calls => "calls",
            Self::Peak => "peak bytes",
        }
    }
}

impl Counts {
    /// The count that `by` names.
    pub(crate) fn get(&self, by: By) -> Option<i64> {
        match by {
            By::Live => Some(self.live_bytes),
            By::Chunks => Some(self.live_chunks),
            By::Bytes => Some(self.bytes),
            By::Calls => Some(self.calls),
            By::Peak => self.peak_bytes,
        }
    }

    /// The sum; `None` if it is more than there can be.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            live_bytes: self.live_bytes.checked_add(other.live_bytes)?,
            live_chunks: self.live_chunks.checked_add(other.live_chunks)?,
            bytes: self.bytes.checked_add(other.bytes)?,
            calls: self.calls.checked_add(other.calls)?,
            peak_bytes: plus(self.peak_bytes, other.peak_bytes)?,
        })
    }
}

/// The sum of all counts, or why there is none.
pub(crate) fn sum(counts: impl Iterator<Item = Counts>) -> Result<Counts, String> {
    let mut sum = Counts {
        peak_bytes: Some(0),
        ..Counts::default()
    };
    for counts in counts {
        sum = sum.plus(counts).ok_or(TOO_MUCH)?;
    }
    Ok(sum)
}

/// A site that a report does not have has nothing, at its peak as well if the other says that.
pub(crate) fn both(before: Option<Counts>, after: Option<Counts>) -> (Counts, Counts) {
    let other = before.or(after).and_then(|counts| counts.peak_bytes);
    let nothing = Counts {
        peak_bytes: other.map(|_| 0),
        ..Counts::default()
    };
    (before.unwrap_or(nothing), after.unwrap_or(nothing))
}

/// What was added from `before` to `after`. Counts are not negative, so that no difference is out of
/// range.
pub(crate) fn change(before: Option<Counts>, after: Option<Counts>) -> Counts {
    let (before, after) = both(before, after);
    Counts {
        live_bytes: after.live_bytes - before.live_bytes,
        live_chunks: after.live_chunks - before.live_chunks,
        bytes: after.bytes - before.bytes,
        calls: after.calls - before.calls,
        peak_bytes: minus(after.peak_bytes, before.peak_bytes),
    }
}

impl Totals {
    /// The sum; `None` if it is more than there can be.
    pub(crate) fn plus(self, other: Self) -> Option<Self> {
        Some(Self {
            live_chunks: plus(self.live_chunks, other.live_chunks)?,
            live_bytes: plus(self.live_bytes, other.live_bytes)?,
            peak_bytes: plus(self.peak_bytes, other.peak_bytes)?,
        })
    }

    /// What was added since `before`.
    pub(crate) fn since(self, before: Self) -> Self {
        Self {
            live_chunks: minus(self.live_chunks, before.live_chunks),
            live_bytes: minus(self.live_bytes, before.live_bytes),
            peak_bytes: minus(self.peak_bytes, before.peak_bytes),
        }
    }
}

/// The sum of two numbers, if both are known; `None` if it is too large.
fn plus(one: Option<i64>, other: Option<i64>) -> Option<Option<i64>> {
    match one.zip(other) {
        Some((one, other)) => one.checked_add(other).map(Some),
        None => Some(None),
    }
}

fn minus(one: Option<i64>, other: Option<i64>) -> Option<i64> {
    one.zip(other).map(|(one, other)| one - other)
}
