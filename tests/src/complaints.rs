//! What readelf, eu-readelf and eu-elflint have to say against a file, of any machine.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;
use std::time::Duration;

use crate::{Command, needs};

/// Lines of the checkers, and how often each is there. Numbers are left out: where a thing is differs after a
/// rewrite, what is said of it does not.
#[derive(Debug, Default)]
pub struct Complaints(BTreeMap<String, usize>);

impl Complaints {
    /// Of the file.
    pub fn of(file: &Path) -> Self {
        let checks: [(&str, &[&str]); 3] = [
            ("readelf", &["-aW"]),
            ("eu-readelf", &["-hlSdrsVnIA"]), // all but unwind tables and debug information, slowly decoded
            ("eu-elflint", &["--gnu-ld"]),
        ];
        let bytes = fs::read(file).expect("a file");
        let mips = matches!(bytes.get(18..20), Some([8, 0] | [0, 8]));
        let mips64el = mips && bytes[4..6] == [2, 1];
        let mut complaints = Self::default();
        for (tool, args) in checks {
            let command = Command::new(needs(tool)).args(args).arg(file);
            let outcome = command.limit(Duration::from_secs(300)).run();
            let all = match tool {
                "eu-elflint" => outcome.stdout() + &outcome.stderr(),
                _ => outcome.stderr(),
            };
            let lines = all.lines().filter(|line| !line.contains("No errors"));
            // elfutils 0.188 says so of every relocation of MIPS, for it knows none, and takes the types of those of
            // little-endian MIPS with 64 bits for symbols: there r_info is not one number ("64-bit MIPS ELF Object File
            // Specification", 2.9).
            let of_mips = |line: &&str| {
                let types = mips && line.ends_with(": invalid type");
                let symbols = mips64el && line.ends_with(": invalid symbol index");
                line.contains("'.rel.dyn': relocation ") && (types || symbols)
            };
            let lines = lines.filter(|line| !of_mips(line));
            for line in lines {
                let line = line.replace(&file.display().to_string(), "FILE");
                complaints.count(format!("{tool}: {}", numberless(&line)));
            }
            complaints.count(format!("{tool}: {}", outcome.ending()));
        }
        complaints
    }

    fn count(&mut self, complaint: String) {
        *self.0.entry(complaint).or_default() += 1;
    }

    /// Those that are not in `before`, or oftener than there.
    pub fn beyond(&self, before: &Self) -> Vec<&str> {
        let known = |line: &String| before.0.get(line).copied().unwrap_or(0);
        let new = { self.0.iter() }.filter(|(line, number)| **number > known(line));
        new.map(|(line, _)| line.as_str()).collect()
    }
}

/// Fails if the checkers find anything in `rewritten` that they do not find in `original`.
pub fn assert_none_new(original: &Path, rewritten: &Path) {
    let after = Complaints::of(rewritten);
    let new = after.beyond(&Complaints::of(original));
    assert!(new.is_empty(), "{}: {new:#?}", rewritten.display());
}

/// The line without its numbers, hexadecimal ones, too.
fn numberless(line: &str) -> String {
    let (first, rest) = line.split_once("0x").unwrap_or((line, ""));
    let hexadecimal = rest.split("0x");
    let rest = hexadecimal.map(|part| part.trim_start_matches(|c: char| c.is_ascii_hexdigit()));
    let rest: String = rest.collect();
    [first, &rest]
        .concat()
        .replace(|c: char| c.is_ascii_digit(), "")
}
