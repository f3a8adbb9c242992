//! Where the result goes: a file of its own, or the place of the program, or into the program.

use std::ffi::OsStr;
use std::fs::{self, Metadata};
use std::ops::ControlFlow;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use schemars::JsonSchema;
use serde::Serialize;

use crate::Progress;
use crate::attributes::{self, Inode};
use crate::copy::Copier;
use crate::direct::Direct;
use crate::error::{Error, ErrorKind, Result};
use crate::input::{CAPABILITIES, Input};
use crate::source::Source;
use crate::spans::Spans;
use crate::write::Output;

/// Where the result is to go.
#[derive(Clone, Debug)]
pub enum Destination {
    /// To this file; it may be the input itself.
    File(PathBuf),
    /// In the place of the input.
    InPlace,
    /// Into the input, if no byte of it has to move; otherwise in its place.
    Direct,
}

impl Destination {
    /// The path that the result has, where the input has `input`.
    pub fn path<'a>(&'a self, input: &'a Path) -> &'a Path {
        match self {
            Self::File(path) => path,
            Self::InPlace | Self::Direct => input,
        }
    }
}

/// How the result got there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum Written {
    /// As a file that took its name when it was whole.
    Whole,
    /// Byte by byte into the input.
    Direct,
}

/// The file to write, links resolved.
#[derive(Debug)]
pub(crate) struct Target {
    path: PathBuf,
    /// True if that is the input itself.
    replaces_input: bool,
    direct: bool,
    /// True if the whole tree is a copy, which has all that its original has, times too, and can be made
    /// again.
    in_copy: bool,
}

impl Target {
    /// A file in the copy of a tree.
    pub(crate) fn in_copy(path: PathBuf) -> Self {
        Self {
            path,
            replaces_input: false,
            direct: false,
            in_copy: true,
        }
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// Where the file will be, and with it $ORIGIN.
    pub(crate) fn directory(&self) -> &Path {
        crate::directory_of(&self.path)
    }
}

/// Finds the file to write.
pub(crate) fn resolve(destination: &Destination, input: &Input) -> Result<Target> {
    match destination {
        Destination::File(output) => resolve_file(output, input),
        Destination::InPlace | Destination::Direct => {
            let path = input.source.path();
            let real = fs::canonicalize(path).map_err(|source| Error::io(path, "find", source))?;
            Ok(Target {
                path: real,
                replaces_input: true,
                direct: matches!(destination, Destination::Direct),
                in_copy: false,
            })
        }
    }
}

/// As [`file_to_write`], and knows the input under another name.
fn resolve_file(output: &Path, input: &Input) -> Result<Target> {
    let (path, present) = file_to_write(output)?;
    let Some(metadata) = present else {
        return Ok(Target {
            path,
            replaces_input: false,
            direct: false,
            in_copy: false,
        });
    };
    let same = (metadata.dev(), metadata.ino()) == (input.metadata.dev(), input.metadata.ino());
    if same && entry(output) != entry(input.source.path()) {
        return Err(Error::new(
            output,
            ErrorKind::SameFile {
                prog: input.source.path().display().to_string(),
            },
        ));
    }
    Ok(Target {
        path,
        replaces_input: same,
        direct: false,
        in_copy: false,
    })
}

/// Follows a symbolic link to what it names, and refuses what is no file to write. Says what is there.
pub(crate) fn file_to_write(output: &Path) -> Result<(PathBuf, Option<Metadata>)> {
    let link = fs::symlink_metadata(output);
    let is_link = link.is_ok_and(|metadata| metadata.is_symlink());
    let path = match is_link {
        true => fs::canonicalize(output)
            .map_err(|source| Error::io(output, "follow the link", source))?,
        false => output.to_owned(),
    };
    let Ok(metadata) = fs::metadata(&path) else {
        return Ok((path, None));
    };
    let kind = metadata.file_type();
    let what = if kind.is_dir() {
        Some("a directory")
    } else if kind.is_char_device() || kind.is_block_device() {
        Some("a device")
    } else if kind.is_fifo() || kind.is_socket() {
        Some("a FIFO or socket")
    } else {
        None
    };
    match what {
        Some(what) => Err(Error::new(output, ErrorKind::OutputKind { what })),
        None => Ok((path, Some(metadata))),
    }
}

/// The directory entry that a path names: its directory without links, and its last component.
fn entry(path: &Path) -> Option<PathBuf> {
    let directory = fs::canonicalize(crate::directory_of(path)).ok()?;
    Some(directory.join(path.file_name()?))
}

/// Starts a result of which it is not yet known what it will be, if that saves time; whatever prevents it is said
/// when it is made.
pub(crate) fn begin(input: &Input, target: &Target) -> Option<Output> {
    if target.direct || !Copier::pays(&input.source) {
        return None;
    }
    let mut output = Output::create(&target.path).ok()?;
    output.begin(input).ok()?;
    Some(output)
}

/// A result that has not got its name yet.
#[derive(Debug)]
pub(crate) enum Pending {
    Whole(Output),
    Direct(Direct),
}

impl Pending {
    /// Makes what `spans` say of the input, up to the last step, where it may have `begun`; `progress` hears of bytes
    /// copied, and of how many. Says why a program that was to be edited has to be replaced.
    pub(crate) fn make(
        input: &Input,
        target: &Target,
        begun: Option<Output>,
        spans: &Spans,
        progress: &mut Progress<'_>,
    ) -> Result<(Self, Option<&'static str>)> {
        let mut why = None;
        if target.direct {
            match Direct::open(input, &target.path, spans)? {
                Ok(direct) => return Ok((Self::Direct(direct), None)),
                Err(reason) => why = Some(reason),
            }
        }
        let mut output = match begun {
            Some(begun) => begun,
            None => Output::create(&target.path)?,
        };
        let mut copied = 0;
        output.fill(input, spans, |bytes| {
            copied += bytes;
            go_on(&target.path, progress(copied, spans.len()))
        })?;
        Ok((Self::Whole(output), why))
    }

    /// The result, to read it back.
    pub(crate) fn source(&self, input: &Input, spans: &Spans) -> Result<Source> {
        match self {
            Self::Whole(output) => output.source(spans.len()),
            Self::Direct(_) => Ok(input.source.through(spans)),
        }
    }

    /// Takes the last step, if the input is still what was read, and no other file is in the place that
    /// the result is to have.
    pub(crate) fn finish(
        self,
        input: &Input,
        target: &Target,
        progress: &mut Progress<'_>,
    ) -> Result<Written> {
        let len = input.source.len();
        go_on(&target.path, progress(len, len))?;
        input.check_unchanged()?;
        if target.replaces_input {
            input.check_in_place(&target.path)?;
        }
        match self {
            Self::Whole(output) => {
                output.set_attributes(input, target)?;
                output.finish(!target.in_copy)?;
                Ok(Written::Whole)
            }
            Self::Direct(direct) => {
                direct.apply()?;
                Ok(Written::Direct)
            }
        }
    }
}

/// Fails if the run is to end before its result has a name.
fn go_on(output: &Path, progress: ControlFlow<()>) -> Result<()> {
    match progress {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(()) => Err(Error::new(output, ErrorKind::Stopped)),
    }
}

impl Output {
    /// The file as written so far, to read it back.
    fn source(&self, len: u64) -> Result<Source> {
        let file = self.file().try_clone();
        let file = file.map_err(|source| Error::io(self.path(), "read back", source))?;
        Source::new(file, self.path(), len).read_ahead()
    }

    /// Gives the file the input's mode. In the place of the input it has its owner and extended
    /// attributes, too (ACLs and labels are some); elsewhere owner and capabilities only where they
    /// are privileges that belong to that owner. In the copy of a tree it has everything.
    fn set_attributes(&self, input: &Input, target: &Target) -> Result<()> {
        let failed = |(action, source)| Error::io(self.path(), action, source);
        let (from, to) = (input.source.file(), self.file());
        let metadata = &input.metadata;
        if target.in_copy {
            return attributes::copy_all(from, metadata, to).map_err(failed);
        }
        if target.replaces_input || input.privileges.any() {
            to.set_owner(metadata.uid(), metadata.gid())
                .map_err(|error| failed(("give the input's owner to it", error)))?;
        }
        to.set_mode(metadata.mode() & 0o7777)
            .map_err(|error| failed(("set the mode", error)))?;
        let wanted = |name: &OsStr| target.replaces_input || name == CAPABILITIES;
        attributes::copy_xattrs(from, to, wanted)
            .map_err(|error| failed(("copy the extended attributes", error)))
    }
}
