//! The report for people: a few lines, a table of the hooks that were called, and a table of the sites
//! that have most memory alive.

use crate::census::{self, SiteCounts};
use crate::counters::{self, Totals};
use crate::digits::Digits;
use crate::file;
use crate::heap;
use crate::hook::Hook;
use crate::report::output::Output;
use crate::report::{Turn, phase};
use crate::site::Site;
use crate::sync::{AtomicU32, AtomicUsize, Ordering::Relaxed};
use crate::sys;

/// How many sites are shown. The others are in the JSON and pprof reports.
const SHOWN: usize = 20;

/// Writes it.
pub(crate) fn write(output: &mut Output<'_>) {
    output
        .put(b"allocations of process ")
        .number(sys::process_id());
    output.put(b"\nstarted: ").put(phase()).put(b"; ");
    if counters::are_running() {
        totals(output);
        hooks(output);
    } else {
        output.put(b"without ALLOCS_REPORT nothing is counted, only what lives\n");
    }
    let sites = Largest::find(output.turn());
    if sites.count != 0 {
        sites.write(output);
    }
}

fn totals(output: &mut Output<'_>) {
    let totals = Totals::now();
    output
        .put(b"hook calls before that: ")
        .number(totals.before_init);
    output.put(b"\nlive: ").number(totals.live_chunks);
    output.put(b" chunks, ");
    size(output, totals.live_bytes).put(b" bytes; peak: ");
    size(output, totals.peak_bytes).put(b" bytes\n");
}

/// A number of bytes that only the program's allocator can tell.
fn size<'o, 'a>(output: &'o mut Output<'a>, bytes: usize) -> &'o mut Output<'a> {
    if heap::know_sizes() {
        output.number(bytes)
    } else {
        output.put(b"unknown")
    }
}

fn hooks(output: &mut Output<'_>) {
    /// The longest name, and a space.
    const WIDTH: usize = 19;
    output.put(b"hook");
    spaces(output, WIDTH.wrapping_sub(b"hook".len()));
    heading(output, b"calls bytes\n");
    for hook in Hook::ALL {
        let (calls, bytes) = counters::of(hook);
        if calls != 0 {
            output.put(hook.name());
            spaces(output, WIDTH.wrapping_sub(hook.name().len()));
            right(output, calls);
            right(output, bytes);
            output.put(b"\n");
        }
    }
}

/// Width of a column of numbers up to 15 digits, with a space before it.
const COLUMN: usize = 16;

/// The words of `line`, each at the right of a column.
fn heading(output: &mut Output<'_>, line: &[u8]) {
    for word in line.split(|byte| *byte == b' ') {
        let shown = word.iter().filter(|byte| **byte != b'\n').count();
        spaces(output, COLUMN.wrapping_sub(shown));
        for byte in word {
            // A column's name may have two words.
            output.byte(if *byte == b'_' { b' ' } else { *byte });
        }
    }
}

fn right(output: &mut Output<'_>, number: usize) {
    let digits = Digits::of(number, 10);
    spaces(output, COLUMN.saturating_sub(digits.get().len()).max(1));
    output.put(digits.get());
}

fn spaces(output: &mut Output<'_>, count: usize) {
    for _ in 0..count {
        output.byte(b' ');
    }
}

/// The sites that have most memory alive, those with most first.
struct Largest {
    /// How many there are, also those that are not shown, and what those have alive.
    count: usize,
    left_out: usize,
}

/// A site in that order. There is one report at a time.
struct Row {
    site: AtomicU32,
    numbers: [AtomicUsize; 5],
}

static ROWS: [Row; SHOWN] = [const {
    Row {
        site: AtomicU32::new(0),
        numbers: [const { AtomicUsize::new(0) }; 5],
    }
}; SHOWN];

impl Row {
    fn set(&self, site: u32, numbers: [usize; 5]) {
        self.site.store(site, Relaxed);
        for (place, number) in self.numbers.iter().zip(numbers) {
            place.store(number, Relaxed);
        }
    }

    fn numbers(&self) -> [usize; 5] {
        let [a, b, c, d, e] = &self.numbers;
        [
            a.load(Relaxed),
            b.load(Relaxed),
            c.load(Relaxed),
            d.load(Relaxed),
            e.load(Relaxed),
        ]
    }
}

impl Largest {
    fn find(turn: &Turn<'_>) -> Self {
        let mut largest = Self {
            count: 0,
            left_out: 0,
        };
        census::sites(turn, |site, counts| largest.insert(site.number(), counts));
        largest
    }

    fn insert(&mut self, site: u32, counts: &SiteCounts) {
        let (mut site, mut numbers) = (
            site,
            [
                counts.live_bytes,
                counts.live_chunks,
                counts.bytes,
                counts.calls,
                counts.peak_bytes,
            ],
        );
        let filled = self.count.min(SHOWN);
        self.count = self.count.wrapping_add(1);
        // Whatever is smaller moves one down.
        for row in ROWS.iter().take(filled) {
            if numbers > row.numbers() {
                let (next, moved) = (row.site.load(Relaxed), row.numbers());
                row.set(site, numbers);
                (site, numbers) = (next, moved);
            }
        }
        match ROWS.get(filled) {
            Some(row) => row.set(site, numbers),
            None => {
                let [live_bytes, ..] = numbers;
                self.left_out = self.left_out.wrapping_add(live_bytes);
            }
        }
    }

    fn write(&self, output: &mut Output<'_>) {
        heading(output, b"live_bytes live_chunks bytes calls peak_bytes");
        output.put(b"  site\n");
        for row in ROWS.iter().take(self.count) {
            for number in row.numbers() {
                right(output, number);
            }
            let mut frames = Site::from_number(row.site.load(Relaxed)).frames();
            output.put(b"  ");
            match frames.next() {
                Some(frame) => place(output, frame),
                None => output.put(b"unknown"),
            }
            .put(b"\n");
            for frame in frames {
                spaces(output, 5 * COLUMN);
                output.put(b"    called from ");
                place(output, frame).put(b"\n");
            }
        }
        if let Some(more) = self.count.checked_sub(SHOWN).filter(|more| *more != 0) {
            output.number(more).put(b" more sites have ");
            output.number(self.left_out).put(b" bytes alive\n");
        }
    }
}

/// The place of a return address: function and distance from its beginning, and the same for the file,
/// by the addresses that the file itself has. What is not known is left out.
fn place<'o, 'a>(output: &'o mut Output<'a>, address: usize) -> &'o mut Output<'a> {
    // The call is what counts; what follows it may be another function.
    let Some(place) = file::place(address.wrapping_sub(1)) else {
        return output.put(b"0x").hexadecimal(address);
    };
    if let Some(symbol) = place.symbol {
        output.string(symbol.name);
        distance(output, address.wrapping_sub(symbol.base)).put(b" ");
    }
    if let Some(path) = place.file {
        output.string(path);
    }
    distance(output, address.wrapping_sub(place.load_base))
}

fn distance<'o, 'a>(output: &'o mut Output<'a>, bytes: usize) -> &'o mut Output<'a> {
    output.put(b"+0x").hexadecimal(bytes)
}
