//! Reports as the runtime writes them, made by hand: a real program is said to have been loaded
//! somewhere, and to have allocated where it really calls a function. objdump knows the return addresses
//! of its calls, and comments in its source mark their lines.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use crate::elf::Elf;
use crate::{Command, Dir, Outcome, needs, sample, tool};

/// `allocs-rewrite report` with `args`.
pub fn command<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> Command {
    Command::new(tool::binary()).arg("report").args(args)
}

/// What `allocs-rewrite report --json` prints with `args`.
pub fn json<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) -> (Outcome, Value) {
    let outcome = command(args).arg("--json").succeed();
    let json = serde_json::from_slice(&outcome.stdout);
    let json = json.unwrap_or_else(|e| panic!("{outcome}--json printed no JSON: {e}"));
    (outcome, json)
}

/// A program and its source.
#[derive(Debug, Clone)]
pub struct Program {
    /// Where it is.
    pub path: PathBuf,
    /// Where its source is.
    pub source: PathBuf,
}

impl Program {
    /// Builds the source `name` in `dir` with `text` in it, by the compiler for its extension and with
    /// the flags in a line.
    pub fn build(dir: &Dir, name: &str, text: &str, flags: &str) -> Self {
        let source = dir.write(name, text);
        let compiler = match source.extension().and_then(OsStr::to_str) {
            Some("c") => needs("gcc"),
            Some("cpp") => needs("g++"),
            _ => sample::rustc(),
        };
        let path = source.with_extension("");
        Command::new(compiler)
            .args(flags.split_whitespace())
            .arg("-o")
            .args([&path, &source])
            .succeed();
        Self { path, source }
    }

    /// The line of its source that has `mark` in it.
    pub fn line(&self, mark: &str) -> u64 {
        let text = std::fs::read_to_string(&self.source).expect("the source");
        let line = text.lines().position(|line| line.contains(mark));
        line.unwrap_or_else(|| panic!("no line has {mark}")) as u64 + 1
    }

    /// The return addresses of the calls of `callee` in `function`, whose demangled names begin so.
    pub fn calls(&self, function: &str, callee: &str) -> Vec<u64> {
        let listing = Command::new(needs("objdump"))
            .args(["-d", "--demangle", "--no-show-raw-insn"])
            .arg(&self.path)
            .succeed();
        let text = listing.stdout();
        let begin = format!("<{function}");
        let begins = |line: &&str| line.ends_with(">:") && line.contains(&begin);
        let body = text.lines().skip_while(|line| !begins(line));
        let body: Vec<&str> = body.take_while(|line| !line.is_empty()).collect();
        let calls = body.windows(2).filter(|lines| {
            let call = lines[0].contains("call") && lines[0].contains(callee);
            call && lines[1].contains(':')
        });
        let address = |lines: &[&str]| {
            let (address, _) = lines[1].split_once(':').expect("an address");
            u64::from_str_radix(address.trim(), 16).expect("an address")
        };
        let found: Vec<u64> = calls.map(address).collect();
        assert!(
            !found.is_empty(),
            "{listing}{function} never calls {callee}"
        );
        found
    }

    /// Its build-id in hexadecimal.
    pub fn build_id(&self) -> Option<String> {
        let notes = Command::new(needs("readelf"))
            .arg("-n")
            .arg(&self.path)
            .succeed();
        let text = notes.stdout();
        let id = text
            .lines()
            .find_map(|line| line.trim().strip_prefix("Build ID: "));
        id.map(str::to_owned)
    }
}

/// An object in a report's process.
#[derive(Debug, Clone)]
pub struct Mapping {
    /// The path that the report gives.
    pub path: PathBuf,
    /// What is added to the addresses in the file.
    pub base: u64,
    /// In hexadecimal.
    pub build_id: Option<String>,
    /// Its executable segment: address in the file, size and file offset.
    pub text: (u64, u64, u64),
}

/// A report: objects, and sites with return addresses in memory.
#[derive(Debug, Clone, Default)]
pub struct Report {
    /// The process.
    pub pid: u64,
    /// What is mapped, the program first.
    pub objects: Vec<Mapping>,
    sites: Vec<(Vec<u64>, Counts)>,
}

/// Live bytes, live chunks, bytes since the start, calls, and peak.
pub type Counts = [u64; 5];

impl Report {
    /// A report of a process where `program` was loaded at `base`.
    pub fn of(program: &Program, base: u64) -> Self {
        let mut report = Self {
            pid: 42,
            ..Self::default()
        };
        report.load(program, base);
        report
    }

    /// One more object.
    pub fn load(&mut self, object: &Program, base: u64) {
        let elf = Elf::read(&object.path);
        let executable = elf
            .segments
            .iter()
            .find(|s| s.kind == 1 && s.flags & 1 != 0);
        let text = executable.expect("an executable segment");
        self.objects.push(Mapping {
            path: object.path.clone(),
            base,
            build_id: object.build_id(),
            text: (
                text.memory.start,
                text.file.end - text.file.start,
                text.file.start,
            ),
        });
    }

    /// A site whose stack has these return addresses in the program's file.
    pub fn site(&mut self, addresses: &[u64], counts: Counts) {
        let base = self.objects[0].base;
        let frames = addresses.iter().map(|address| base + address).collect();
        self.sites.push((frames, counts));
    }

    /// A site whose stack has these return addresses in memory.
    pub fn site_in_memory(&mut self, addresses: &[u64], counts: Counts) {
        self.sites.push((addresses.to_vec(), counts));
    }

    fn sum(&self, column: usize) -> u64 {
        self.sites.iter().map(|(_, counts)| counts[column]).sum()
    }

    /// As the runtime writes it to a file that ends in .json.
    pub fn json(&self) -> Value {
        let objects = self.objects.iter().map(|object| {
            let (address, size, offset) = object.text;
            let begin = object.base + address;
            json!({
                "path": object.path.to_str(), "base": object.base, "begin": object.base,
                "end": begin + size + 0x2000, "build_id": object.build_id,
                "text": [{ "begin": begin, "end": begin + size, "offset": offset }],
            })
        });
        let sites = self.sites.iter().map(|(frames, counts)| {
            let [live_bytes, live_chunks, bytes, calls, peak] = counts;
            json!({
                "frames": frames, "live_chunks": live_chunks, "live_bytes": live_bytes,
                "calls": calls, "bytes": bytes, "peak_bytes": peak,
            })
        });
        json!({
            "version": 1, "pid": self.pid,
            "program": self.objects.first().and_then(|object| object.path.to_str()),
            "init": { "phase": "relocation", "hooks_before_init": 0 },
            "live": { "chunks": self.sum(1), "bytes": self.sum(0), "peak_bytes": self.sum(4) },
            "hooks": { "malloc": { "calls": self.sum(3), "bytes": self.sum(2) } },
            "objects": objects.collect::<Value>(),
            "sites": sites.collect::<Value>(),
        })
    }

    /// As the runtime writes it to a file that ends in .pb.
    pub fn profile(&self) -> Vec<u8> {
        let mut strings: Vec<String> = vec![String::new()];
        let mut string = |text: &str| {
            strings.push(text.to_owned());
            strings.len() as u64 - 1
        };
        let mut out = Message::default();
        for (kind, unit) in [
            ("alloc_objects", "count"),
            ("alloc_space", "bytes"),
            ("inuse_objects", "count"),
            ("inuse_space", "bytes"),
        ] {
            let (kind, unit) = (string(kind), string(unit));
            out = out.message(1, Message::default().number(1, kind).number(2, unit));
        }
        let mut locations: Vec<u64> = Vec::new();
        for (frames, [live_bytes, live_chunks, bytes, calls, _]) in &self.sites {
            let first = locations.len() as u64 + 1;
            locations.extend(frames);
            let ids: Vec<u64> = (first..=locations.len() as u64).collect();
            let values = [*calls, *bytes, *live_chunks, *live_bytes];
            out = out.message(2, Message::default().packed(1, &ids).packed(2, &values));
        }
        for (id, object) in (1..).zip(&self.objects) {
            let (address, size, offset) = object.text;
            let begin = object.base + address;
            let mapping = Message::default()
                .number(1, id)
                .number(2, begin)
                .number(3, begin + size)
                .number(4, offset)
                .number(5, string(object.path.to_str().expect("a path in UTF-8")))
                .number(6, object.build_id.as_deref().map_or(0, &mut string));
            out = out.message(3, mapping);
        }
        for (id, address) in (1..).zip(&locations) {
            let location = Message::default().number(1, id).number(3, address - 1);
            out = out.message(4, location);
        }
        for text in &strings {
            out = out.bytes(6, text.as_bytes());
        }
        out.0
    }

    /// Writes it to `name`, in the format that its extension says.
    pub fn write(&self, dir: &Dir, name: &str) -> PathBuf {
        if let Some(plain) = name.strip_suffix(".gz") {
            let path = dir.write(plain, self.profile());
            Command::new(needs("gzip")).arg(&path).succeed();
            return dir.join(name);
        }
        match Path::new(name).extension().and_then(OsStr::to_str) {
            Some("pb") => dir.write(name, self.profile()),
            _ => dir.write(name, self.json().to_string()),
        }
    }
}

/// A message of protocol buffers.
#[derive(Debug, Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value.to_le_bytes()[0] | 0x80);
            value >>= 7;
        }
        self.0.push(value.to_le_bytes()[0]);
    }

    fn number(mut self, field: u64, value: u64) -> Self {
        self.varint(field << 3);
        self.varint(value);
        self
    }

    fn bytes(mut self, field: u64, bytes: &[u8]) -> Self {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend(bytes);
        self
    }

    fn message(self, field: u64, message: Self) -> Self {
        self.bytes(field, &message.0)
    }

    fn packed(self, field: u64, values: &[u64]) -> Self {
        let mut all = Self::default();
        values.iter().for_each(|value| all.varint(*value));
        self.bytes(field, &all.0)
    }
}
