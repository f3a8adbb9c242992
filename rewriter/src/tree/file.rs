//! A file that may be executed: is it an executable, and what becomes of it?

use std::fs;
use std::path::Path;

use super::entry::{check_same, input_stamp};
use super::links::{self, Item, Marker};
use super::manifest::{Outcome, Stamp, Starts, TreeFile, modified, text};
use super::{Tree, kind, same};
use crate::elf::FileOffset;
use crate::error::{ErrorKind, Result};
use crate::input::{self, Input};
use crate::output::{self, Target};
use crate::parse::Image;
use crate::rewritten::{self, Rewritten};
use crate::runtime::SONAME;
use crate::{Destination, Error, Job, Options, Progress, undo};

/// What became of a file.
#[derive(Debug)]
pub(crate) struct Considered {
    pub(crate) verdict: Verdict,
    /// What it was, if the manifest is to say that.
    pub(crate) input: Option<Stamp>,
}

#[derive(Debug)]
pub(crate) enum Verdict {
    /// A script, say.
    NoProgram,
    /// `now` if it was not before.
    Rewritten { starts: Starts, now: bool },
    /// It is none of the executables that are to be rewritten; or is that already, in the source.
    Left {
        reason: String,
        starts: Option<Starts>,
    },
    /// It should have been.
    Refused(Error),
}

/// What an earlier run made of the item for a copy, if that is still so.
pub(crate) fn made_before(tree: &Tree<'_>, item: &Item<'_>) -> Result<Option<TreeFile>> {
    if tree.in_place() || item.is_new {
        return Ok(None);
    }
    let path = &item.entry.path;
    let known = tree
        .previous
        .as_ref()
        .and_then(|previous| previous.file(path));
    let Some(known) = known else {
        return Ok(None);
    };
    let original = &item.entry.metadata;
    let same_input = known.input.as_ref().is_some_and(|input| {
        input.size == original.len() && input.modified == Some(modified(original))
    });
    let links = item.links.iter().map(|link| text(&link.path));
    if !same_input || !links.eq(known.links.iter().cloned()) {
        return Ok(None);
    }
    let to = tree.output.join(path);
    let same = match known.outcome {
        Outcome::Failed => false,
        Outcome::Unchanged => {
            let same = same::copied(&tree.source.join(path), original, &to);
            same.map_err(|source| Error::io(&to, "read", source))?
                && starts_now(&to) == known.starts
        }
        Outcome::Rewritten => {
            let size = known.output.as_ref().map(|output| output.size);
            let found = fs::symlink_metadata(&to).ok();
            found.is_some_and(|found| {
                same::belongings(original, &found) && Some(found.len()) == size
            }) && starts_now(&to) == known.starts
        }
    };
    Ok(Some(known).filter(|_| same).cloned())
}

/// The runtime that the file starts as it is; none if it is no rewritten program. An earlier run that was
/// asked for something else may have made it, and size and time do not say that.
pub(crate) fn starts_now(path: &Path) -> Option<Starts> {
    let input = input::open(path).ok()?;
    let image = Image::parse(&input.source).ok()?;
    let found = rewritten::recognise(&input.source, &image, None).ok()?;
    found.map(starts)
}

fn starts(found: Rewritten) -> Starts {
    Starts {
        needed: found.needed,
        init: found.init,
    }
}

/// Rewrites the item if it is an executable that is to be rewritten.
pub(crate) fn consider(
    tree: &Tree<'_>,
    item: &Item<'_>,
    progress: &mut Progress<'_>,
) -> Result<Considered> {
    let path = tree.source.join(&item.entry.path);
    let input = input::open_to_change(&path)?;
    check_same(&input, item)?;
    // The runtimes that we wrote are not part of the tree.
    if path.ends_with(SONAME) || !is_elf(&input)? {
        return Ok(Considered {
            verdict: Verdict::NoProgram,
            input: None,
        });
    }
    let verdict = match tree.selection.selects(item) {
        true => rewrite(tree, item, &input, progress),
        false => Ok(Verdict::Left {
            reason: "is left out by --include or --exclude".to_owned(),
            starts: None,
        }),
    };
    let verdict =
        verdict.unwrap_or_else(
            |error| match kind::is_executable(&input.source, error.kind()) {
                true => Verdict::Refused(error),
                false => Verdict::Left {
                    reason: error.kind().to_string(),
                    starts: None,
                },
            },
        );
    let stamp = match (tree.in_place(), &verdict) {
        (true, Verdict::Rewritten { .. }) => original_stamp(tree, &input)?,
        (true, _) => Some(Stamp::of(&input.source, tree.wants_digests())?),
        (false, _) => Some(input_stamp(tree, &input)?),
    };
    Ok(Considered {
        verdict,
        input: stamp,
    })
}

fn is_elf(input: &Input) -> Result<bool> {
    let len = input.source.len().min(4);
    let start = input
        .source
        .bytes(FileOffset(0), len, "the file's beginning")?;
    Ok(start == object::elf::ELFMAG)
}

fn rewrite(
    tree: &Tree<'_>,
    item: &Item<'_>,
    input: &Input,
    progress: &mut Progress<'_>,
) -> Result<Verdict> {
    let options = options(tree, item);
    let target = match tree.in_place() {
        true => output::resolve(&Destination::InPlace, input)?,
        false => Target::in_copy(tree.output.join(&item.entry.path)),
    };
    let job = Job {
        options: &options,
        input,
        target: &target,
        surroundings: &tree.runtimes,
    };
    let mut marker = None;
    if tree.in_place() && !item.links.is_empty() {
        if let Some(found) = job.nothing_to_do()? {
            return Ok(already(tree, found));
        }
        marker = Some(Marker::make(tree, item, input.source.file())?);
    }
    let report = match job.rewrite(progress) {
        Err(error) if matches!(error.kind(), ErrorKind::AlreadyRewritten { .. }) => {
            match job.nothing_to_do()? {
                Some(found) => return Ok(already(tree, found)),
                None => job.refresh(progress)?,
            }
        }
        report => report?,
    };
    if let Some(marker) = marker {
        let first = tree.output.join(&item.entry.path);
        let names = item.links.iter().map(|link| tree.output.join(&link.path));
        for name in names {
            if let Err(error) = links::link(&first, &name) {
                marker.leave();
                return Err(error);
            }
        }
    }
    Ok(Verdict::Rewritten {
        starts: Starts {
            needed: report.runtime.needed,
            init: report.runtime.init,
        },
        now: true,
    })
}

/// A file that starts the runtime as it is: in place, an earlier run's; in a copy, the original.
fn already(tree: &Tree<'_>, found: Rewritten) -> Verdict {
    let starts = starts(found);
    match tree.in_place() {
        true => Verdict::Rewritten { starts, now: false },
        false => Verdict::Left {
            reason: "is rewritten already".to_owned(),
            starts: Some(starts),
        },
    }
}

/// In place, the original is what undo gives back, if it can be had.
fn original_stamp(tree: &Tree<'_>, input: &Input) -> Result<Option<Stamp>> {
    if !tree.wants_digests() {
        return Ok(None);
    }
    let source = match undo::original(&input.source) {
        Ok((_, spans)) => &input.source.through(&spans),
        Err(error) if matches!(error.kind(), ErrorKind::NotRewritten) => &input.source,
        Err(_) => return Ok(None),
    };
    Stamp::of(source, true).map(Some)
}

fn options(tree: &Tree<'_>, item: &Item<'_>) -> Options {
    let asked = tree.options;
    let path = &item.entry.path;
    let destination = match tree.in_place() {
        true => Destination::InPlace,
        false => Destination::File(tree.output.join(path)),
    };
    Options {
        runtime: asked.runtime.clone(),
        init: asked.init.clone(),
        phase: asked.phase,
        force: asked.force,
        allow_setuid: asked.allow_setuid,
        partial: asked.partial,
        ..Options::new(tree.source.join(path), destination)
    }
}
