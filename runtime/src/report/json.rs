//! The report for programs: one JSON object, on one line.

use crate::census::{self, SiteCounts};
use crate::counters::{self, Totals};
use crate::file::{self, LoadedObject};
use crate::heap;
use crate::hook::Hook;
use crate::memory::Mapped;
use crate::report::output::Output;
use crate::report::phase;
use crate::sys;

/// Of the format. A member more does not change it.
const VERSION: usize = 1;

/// Writes it.
pub(crate) fn write(output: &mut Output<'_>) {
    output.put(b"{\"version\":").number(VERSION);
    output.put(b",\"pid\":").number(sys::process_id());
    output.put(b",\"program\":");
    string(output, file::executable_path());
    totals(output);
    output.put(b",\"hooks\":{");
    let mut separator = Separator::default();
    for hook in Hook::ALL.into_iter().filter(|_| counters::are_running()) {
        let (calls, bytes) = counters::of(hook);
        separator.put(output).put(b"\"").put(hook.name());
        output.put(b"\":{\"calls\":").number(calls);
        output.put(b",\"bytes\":").number(bytes).put(b"}");
    }
    output.put(b"},\"objects\":[");
    let mut separator = Separator::default();
    for loaded in file::objects() {
        object(separator.put(output), &loaded);
    }
    output.put(b"],\"sites\":[");
    let mut separator = Separator::default();
    census::sites(output.turn(), |at, counts| {
        site(separator.put(output), at.frames(), counts)
    });
    output.put(b"]}\n");
}

/// A comma, but not the first time.
#[derive(Default)]
struct Separator {
    is_needed: bool,
}

impl Separator {
    fn put<'o, 'a>(&mut self, output: &'o mut Output<'a>) -> &'o mut Output<'a> {
        if self.is_needed {
            output.byte(b',');
        }
        self.is_needed = true;
        output
    }
}

fn totals(output: &mut Output<'_>) {
    let totals = Totals::now();
    output.put(b",\"init\":{\"phase\":\"").put(phase());
    output.put(b"\",\"hooks_before_init\":");
    output.number(totals.before_init);
    let has_chunks = counters::are_running();
    let has_bytes = has_chunks && heap::know_sizes();
    output.put(b"},\"live\":{\"chunks\":");
    known(output, totals.live_chunks, has_chunks);
    output.put(b",\"bytes\":");
    known(output, totals.live_bytes, has_bytes);
    output.put(b",\"peak_bytes\":");
    known(output, totals.peak_bytes, has_bytes);
    output.put(b"}");
}

fn known(output: &mut Output<'_>, number: usize, is_known: bool) {
    if is_known {
        output.number(number);
    } else {
        output.put(b"null");
    }
}

fn object(output: &mut Output<'_>, loaded: &LoadedObject) {
    output.put(b"{\"path\":");
    string(output, loaded.path());
    output.put(b",\"base\":").number(loaded.object.base);
    output.put(b",\"begin\":").number(loaded.begin);
    output.put(b",\"end\":").number(loaded.end);
    output.put(b",\"build_id\":");
    if let Some((id, size)) = loaded.build_id() {
        output.put(b"\"");
        for at in 0..size {
            output.two_digits(id.add(at).byte());
        }
        output.put(b"\"");
    } else {
        output.put(b"null");
    }
    output.put(b",\"text\":[");
    let mut separator = Separator::default();
    for (begin, end, offset) in loaded.executable_segments() {
        separator.put(output).put(b"{\"begin\":").number(begin);
        output.put(b",\"end\":").number(end);
        output.put(b",\"offset\":").number(offset).put(b"}");
    }
    output.put(b"]}");
}

fn site(output: &mut Output<'_>, frames: impl Iterator<Item = usize>, counts: &SiteCounts) {
    output.put(b"{\"frames\":[");
    let mut separator = Separator::default();
    for frame in frames {
        separator.put(output).number(frame);
    }
    output.put(b"],\"live_chunks\":").number(counts.live_chunks);
    output.put(b",\"live_bytes\":").number(counts.live_bytes);
    output.put(b",\"calls\":").number(counts.calls);
    output.put(b",\"bytes\":").number(counts.bytes);
    output.put(b",\"peak_bytes\":").number(counts.peak_bytes);
    output.put(b"}");
}

/// A string of bytes as one of JSON, which has characters: what is no UTF-8 becomes U+FFFD.
fn string(output: &mut Output<'_>, string: Option<Mapped>) {
    let Some(mut rest) = string else {
        output.put(b"null");
        return;
    };
    output.put(b"\"");
    for _ in 0..Output::LONGEST_STRING {
        let first = rest.byte();
        let size = match first {
            0 => break,
            b'"' | b'\\' => {
                output.put(b"\\").byte(first);
                1
            }
            1..b' ' => {
                output.put(b"\\u00").two_digits(first);
                1
            }
            _ => character(output, rest),
        };
        rest = rest.add(size);
    }
    output.put(b"\"");
}

/// The character that begins there. How many bytes it has.
fn character(output: &mut Output<'_>, at: Mapped) -> usize {
    let mut bytes = [0; 4];
    for (place, byte) in bytes.iter_mut().zip(at.bytes()) {
        *place = byte;
    }
    let is_one = |size: &usize| {
        let bytes = bytes.get(..*size).unwrap_or_default();
        str::from_utf8(bytes).is_ok_and(|text| text.chars().count() == 1)
    };
    if let Some(size) = (1..=bytes.len()).find(is_one) {
        output.put(bytes.get(..size).unwrap_or_default());
        size
    } else {
        output.put(b"\\ufffd");
        1
    }
}

#[cfg(test)]
#[allow(
    clippy::expect_used,
    reason = "a test says that something is wrong by panicking"
)]
mod tests {
    use core::ffi::CStr;

    use super::*;
    use crate::report::tests::written;

    fn quoted(text: &CStr) -> String {
        let bytes = written(false, |output| {
            // SAFETY: a string.
            string(
                output,
                Some(unsafe { Mapped::new(text.as_ptr().expose_provenance()) }),
            );
        });
        String::from_utf8(bytes).expect("UTF-8")
    }

    #[test]
    fn strings_are_strings_of_json() {
        assert_eq!(quoted(c"/usr/bin/a b"), r#""/usr/bin/a b""#);
        assert_eq!(quoted(c"\"\\\n\x1f"), r#""\"\\\u000a\u001f""#);
        assert_eq!(
            quoted(c"\xc3\xa4\xe2\x82\xac\xf0\x9f\x98\x80"),
            "\"\u{e4}\u{20ac}\u{1f600}\""
        );
        assert_eq!(quoted(c"a\xe4b\xf0\x9f"), r#""a\ufffdb\ufffd\ufffd""#);
    }

    #[test]
    fn a_site_has_its_frames() {
        let counts = SiteCounts {
            live_chunks: 1,
            live_bytes: 2,
            calls: 3,
            bytes: 4,
            peak_bytes: 5,
        };
        let text = |frames: &[usize]| {
            written(false, |output| {
                site(output, frames.iter().copied(), &counts)
            })
        };
        let rest = r#""live_chunks":1,"live_bytes":2,"calls":3,"bytes":4,"peak_bytes":5}"#;
        assert_eq!(text(&[]), format!("{{\"frames\":[],{rest}").as_bytes());
        assert_eq!(
            text(&[7, 8]),
            format!("{{\"frames\":[7,8],{rest}").as_bytes()
        );
    }
}
