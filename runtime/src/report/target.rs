//! Where a report goes: what FILE of `ALLOCS_REPORT=FILE` stands for, and how a file gets there whole.
//!
//! A regular file is made under a name of its own, exclusively, and then takes FILE's place: FILE is
//! always one whole report, and no link is followed. A FIFO or a device is written to. A symbolic link
//! is left alone, and there is no report.

use crate::digits::Digits;
use crate::memory::Mapped;
use crate::report::output::Turn;
use crate::sync::{AtomicU8, AtomicUsize, Ordering::Relaxed};
use crate::sys;
use crate::sys::File;
use crate::sys::path::{Kind, Path};

/// Longest path that the kernel takes, with its NUL.
const PATH_MAX: usize = 4096;
/// Longest name of a file.
const NAME_MAX: usize = 255;
/// How many names are tried for the new file. One is taken where a process with the same number (in
/// another container, or long ago) is writing a file, or has left one.
const TRIES: usize = 100;

/// FILE, and its length; 0 for no report. A copy: programs overwrite their initial environment to
/// change their title.
static FILE: [AtomicU8; PATH_MAX] = [const { AtomicU8::new(0) }; PATH_MAX];
#[unsafe(link_section = ".data")]
static LENGTH: AtomicUsize = AtomicUsize::new(0);
/// The program's name, a copy for the same reason.
static PROGRAM: [AtomicU8; NAME_MAX] = [const { AtomicU8::new(0) }; NAME_MAX];
/// What FILE stands for, and the new file's name, while a report is written.
static NAME: [AtomicU8; PATH_MAX] = [const { AtomicU8::new(0) }; PATH_MAX];
static NEW_NAME: [AtomicU8; PATH_MAX] = [const { AtomicU8::new(0) }; PATH_MAX];

/// Notes FILE, and the path that the program was started by.
pub(crate) fn configure(file: Mapped, program: Option<Mapped>) {
    let Some(length) = (0..PATH_MAX).find(|at| file.add(*at).byte() == 0) else {
        return;
    };
    if let Some(program) = program {
        let directories = program.bytes().zip(1..).filter(|(byte, _)| *byte == b'/');
        let name = program.add(directories.last().map_or(0, |(_, behind)| behind));
        for (kept, byte) in PROGRAM.iter().zip(name.bytes()) {
            kept.store(byte, Relaxed);
        }
    }
    for (kept, byte) in FILE.iter().zip(file.bytes()) {
        kept.store(byte, Relaxed);
    }
    LENGTH.store(length, Relaxed);
    if is_stderr() {
        keep_stderr();
    }
}

/// FILE. `None` for no report.
pub(crate) fn file() -> Option<&'static [AtomicU8]> {
    FILE.get(..LENGTH.load(Relaxed))
        .filter(|file| !file.is_empty())
}

/// The bytes before the first NUL, if there is one.
fn string(bytes: &[AtomicU8]) -> impl Iterator<Item = u8> {
    let bytes = bytes.iter().map(|byte| byte.load(Relaxed));
    bytes.take_while(|byte| *byte != 0)
}

/// Whether FILE is `-`.
fn is_stderr() -> bool {
    string(&FILE).take(2).eq(*b"-")
}

/// Many programs close standard error at exit to see whether all was written, and they do so before
/// the report is. The second descriptor is trusted as long as it leads to the same file: a program
/// that closes all descriptors may have got its number again for another one.
fn keep_stderr() {
    if let Some(kept) = File::STDERR.duplicate()
        && let Some((device, inode)) = kept.identity()
    {
        STDERR.device.store(device, Relaxed);
        STDERR.inode.store(inode, Relaxed);
        STDERR.number.store(kept.number(), Relaxed);
    }
}

/// Standard error as it was at the start.
struct Stderr {
    number: AtomicUsize,
    device: AtomicUsize,
    inode: AtomicUsize,
}

static STDERR: Stderr = Stderr {
    number: AtomicUsize::new(0),
    device: AtomicUsize::new(0),
    inode: AtomicUsize::new(0),
};

/// Standard error as far as it can be had now.
fn stderr() -> File {
    let kept = File::from_number(STDERR.number.load(Relaxed));
    let identity = (STDERR.device.load(Relaxed), STDERR.inode.load(Relaxed));
    if kept.identity() == Some(identity) {
        kept
    } else {
        File::STDERR
    }
}

/// Where one report goes.
pub(crate) struct Target {
    pub(crate) file: File,
    kind: Opened,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Opened {
    /// It was open, and stays so.
    Before,
    /// What FILE is.
    Here,
    /// A file under another name that is to be FILE.
    New,
}

impl Target {
    /// Opens it, for the report at exit or for the snapshot with that number.
    pub(crate) fn open(_turn: &Turn<'_>, snapshot: Option<usize>) -> Option<Self> {
        if is_stderr() {
            let (file, kind) = (stderr(), Opened::Before);
            return Some(Self { file, kind });
        }
        let template = file()?;
        let path = Name::new(&NAME).expand(template, None).end()?;
        let path = match (snapshot, path.kind()) {
            (_, Kind::Other) => {
                let (file, kind) = (path.open_to_write()?, Opened::Here);
                return Some(Self { file, kind });
            }
            (None, _) => path,
            (Some(_), _) => Name::new(&NAME).expand(template, snapshot).end()?,
        };
        if !matches!(path.kind(), Kind::Nothing | Kind::Regular) {
            return None;
        }
        let create = |attempt| new_name(attempt)?.create();
        let (file, kind) = ((0..TRIES).find_map(create)?, Opened::New);
        Some(Self { file, kind })
    }

    /// Ends it. A file that does not hold the whole report does not get its name.
    pub(crate) fn close(self, complete: bool) {
        if self.kind == Opened::Before {
            return;
        }
        self.file.close();
        if self.kind == Opened::New
            && let (Some(path), Some(new)) = (Path::new(&NAME), Path::new(&NEW_NAME))
            && !(complete && new.rename(path))
        {
            new.unlink();
        }
    }
}

/// The name under which a report is written: in FILE's directory, with the process's number in it.
fn new_name(attempt: usize) -> Option<Path<'static>> {
    let directory = string(&NAME)
        .zip(1..)
        .filter(|(byte, _)| *byte == b'/')
        .last()
        .map_or(0, |(_, behind)| behind);
    let mut name = Name::new(&NEW_NAME);
    for byte in string(&NAME).take(directory) {
        name.byte(byte);
    }
    name.put(b".allocs-report.").number(sys::process_id());
    name.put(b".").number(attempt);
    name.end()
}

/// A path in the making.
struct Name {
    bytes: &'static [AtomicU8],
    length: usize,
}

impl Name {
    fn new(bytes: &'static [AtomicU8]) -> Self {
        Self { bytes, length: 0 }
    }

    fn byte(&mut self, byte: u8) -> &mut Self {
        if let Some(place) = self.bytes.get(self.length) {
            place.store(byte, Relaxed);
        }
        self.length = self.length.wrapping_add(1);
        self
    }

    fn put(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes {
            self.byte(*byte);
        }
        self
    }

    fn number(&mut self, number: usize) -> &mut Self {
        self.put(Digits::of(number, 10).get())
    }

    /// What `template` stands for: `%p` is the process's number, `%e` the program's name, `%%` a %; any
    /// other % is one. A snapshot's number comes before the ending.
    fn expand(&mut self, template: &[AtomicU8], snapshot: Option<usize>) -> &mut Self {
        let ending = ending(template);
        let mut rest = template.iter().map(|byte| byte.load(Relaxed)).enumerate();
        while let Some((at, byte)) = rest.next() {
            if at == ending {
                self.snapshot(snapshot);
            }
            let next = rest.clone().next().map(|(_, byte)| byte);
            match (byte, next) {
                (b'%', Some(b'p')) => self.number(sys::process_id()),
                (b'%', Some(b'e')) => string(&PROGRAM).fold(&mut *self, Self::byte),
                (b'%', Some(b'%')) => self.byte(b'%'),
                _ => {
                    self.byte(byte);
                    continue;
                }
            };
            rest.next();
        }
        if ending == template.len() {
            self.snapshot(snapshot);
        }
        self
    }

    fn snapshot(&mut self, number: Option<usize>) {
        if let Some(number) = number {
            self.byte(b'.').number(number);
        }
    }

    /// The path, if it is not too long.
    fn end(&mut self) -> Option<Path<'static>> {
        self.byte(0);
        Path::new(self.bytes.get(..self.length)?)
    }
}

/// Where in `template` the ending of the file's name begins: `.txt`, `.json`, `.pb.gz`. At the end if
/// there is none; `.%p` is none.
fn ending(template: &[AtomicU8]) -> usize {
    if ends_with(template, b".pb.gz") {
        return template.len().wrapping_sub(b".pb.gz".len());
    }
    let byte = |at: usize| template.get(at).map_or(0, |byte| byte.load(Relaxed));
    let last = (0..template.len())
        .rev()
        .find(|at| [b'.', b'/', b'%'].contains(&byte(*at)));
    // A name may begin with a dot.
    let is_ending =
        |at: &usize| byte(*at) == b'.' && ![0, b'/'].contains(&byte(at.wrapping_sub(1)));
    last.filter(is_ending).unwrap_or(template.len())
}

/// Whether the file's name ends in that.
pub(crate) fn ends_with(name: &[AtomicU8], end: &[u8]) -> bool {
    let bytes = name.iter().map(|byte| byte.load(Relaxed));
    name.len() >= end.len()
        && bytes
            .rev()
            .zip(end.iter().rev())
            .all(|(byte, end)| byte == *end)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::tests::TURN;

    /// What `template` stands for in a program called `prog`.
    fn expanded(template: &str, snapshot: Option<usize>) -> Option<String> {
        let _alone = TURN.lock();
        for (place, byte) in PROGRAM.iter().zip(*b"prog\0") {
            place.store(byte, Relaxed);
        }
        let template: Vec<AtomicU8> = template.bytes().map(AtomicU8::new).collect();
        Name::new(&NAME).expand(&template, snapshot).end()?;
        Some(String::from_utf8_lossy(&string(&NAME).collect::<Vec<_>>()).into_owned())
    }

    #[test]
    fn names_are_expanded() {
        let pid = std::process::id();
        for (template, expected) in [
            ("report.json", "report.json".to_owned()),
            ("/tmp/%e-%p.pb.gz", format!("/tmp/prog-{pid}.pb.gz")),
            ("%p%%p%%", format!("{pid}%p%")),
            ("100%.txt", "100%.txt".to_owned()),
            ("%", "%".to_owned()),
        ] {
            assert_eq!(expanded(template, None), Some(expected), "{template}");
        }
    }

    #[test]
    fn snapshots_have_their_number_before_the_ending() {
        let pid = std::process::id();
        for (template, expected) in [
            ("report.json", "report.7.json".to_owned()),
            ("a.b/report", "a.b/report.7".to_owned()),
            ("a/.report", "a/.report.7".to_owned()),
            (".report", ".report.7".to_owned()),
            ("a.b.pb.gz", "a.b.7.pb.gz".to_owned()),
            ("report.%p", format!("report.{pid}.7")),
            ("report.%p.pb", format!("report.{pid}.7.pb")),
        ] {
            assert_eq!(expanded(template, Some(7)), Some(expected), "{template}");
        }
    }

    #[test]
    fn a_path_that_is_too_long_is_none() {
        let most = PATH_MAX - 1;
        assert!(expanded(&"x".repeat(most), None).is_some());
        assert!(expanded(&"x".repeat(most + 1), None).is_none());
        assert!(expanded(&"%e".repeat(most / 2), None).is_none());
    }
}
