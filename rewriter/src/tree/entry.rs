//! One thing at a time: whether it is up to date, and if not, what makes it so.

use super::file::{self, Verdict};
use super::links::{self, Item};
use super::manifest::{Outcome, Stamp, Starts, TreeFile, modified, text};
use super::{Tree, same, special};
use crate::error::{Error, ErrorKind, Result};
use crate::output::{Pending, Target};
use crate::runtime::SONAME;
use crate::spans::Spans;
use crate::{Progress, directory_of, input};

/// What came of an entry.
#[derive(Debug, Default)]
pub(crate) struct Done {
    /// For the manifest: an executable, or what went wrong.
    pub(crate) file: Option<TreeFile>,
    /// True if this run made it.
    pub(crate) made: bool,
    pub(crate) error: Option<Error>,
}

/// Does what there is to do for the item.
pub(crate) fn act(tree: &Tree<'_>, item: &Item<'_>, progress: &mut Progress<'_>) -> Done {
    let done = match item.entry.is_program() {
        true => program(tree, item, progress),
        false => copy_all(tree, item, progress).map(|made| Done {
            made,
            ..Done::default()
        }),
    };
    done.unwrap_or_else(|error| Done {
        file: Some(TreeFile {
            outcome: Outcome::Failed,
            reason: Some(error.kind().to_string()),
            ..described(item)
        }),
        made: false,
        error: Some(error),
    })
}

/// What the manifest says of each file.
fn described(item: &Item<'_>) -> TreeFile {
    TreeFile {
        path: text(&item.entry.path),
        links: item.links.iter().map(|link| text(&link.path)).collect(),
        outcome: Outcome::Unchanged,
        reason: None,
        starts: None,
        input: None,
        output: None,
    }
}

fn program(tree: &Tree<'_>, item: &Item<'_>, progress: &mut Progress<'_>) -> Result<Done> {
    if let Some(known) = file::made_before(tree, item)? {
        if let Some(starts) =
            (known.starts.as_ref()).filter(|_| known.outcome == Outcome::Rewritten)
        {
            provide(tree, item, starts)?;
        }
        let made = link_all(tree, item)?;
        return Ok(Done {
            file: Some(known),
            made,
            error: None,
        });
    }
    let considered = file::consider(tree, item, progress)?;
    let mut file = described(item);
    let mut done = Done::default();
    match considered.verdict {
        Verdict::NoProgram => {
            done.made = copy_all(tree, item, progress)?;
            return Ok(done);
        }
        Verdict::Rewritten { starts, now } => {
            provide(tree, item, &starts)?;
            done.made = now | link_all(tree, item)?;
            file.outcome = Outcome::Rewritten;
            file.starts = Some(starts);
            file.output = Some(output_stamp(tree, item)?);
        }
        Verdict::Left { reason, starts } => {
            done.made = copy_all(tree, item, progress)?;
            file.reason = Some(reason);
            file.starts = starts;
        }
        Verdict::Refused(error) => {
            // The copy is whole without the rewrite.
            done.made = copy_all(tree, item, progress)?;
            file.outcome = Outcome::Failed;
            file.reason = Some(error.kind().to_string());
            done.error = Some(error);
        }
    }
    file.input = considered.input;
    done.file = Some(file);
    Ok(done)
}

fn output_stamp(tree: &Tree<'_>, item: &Item<'_>) -> Result<Stamp> {
    let output = input::open(&tree.output.join(&item.entry.path))?;
    Stamp::of(&output.source, tree.wants_digests())
}

/// Sees to it that the own runtime is beside each name of a program that starts it from there.
fn provide(tree: &Tree<'_>, item: &Item<'_>, starts: &Starts) -> Result<()> {
    if tree.options.runtime.is_some() {
        return Ok(());
    }
    let program = tree.output.join(&item.entry.path);
    for path in item.paths() {
        let name = tree.output.join(path);
        let directory = directory_of(&name);
        if crate::runtime::is_own(&starts.needed)
            || directory.join(SONAME).to_str() == Some(&starts.needed)
        {
            tree.runtimes
                .provide(directory, &program, tree.options.force)?;
        }
    }
    Ok(())
}

/// Copies what there is, under all its names; in place, nothing. True if anything was to do.
fn copy_all(tree: &Tree<'_>, item: &Item<'_>, progress: &mut Progress<'_>) -> Result<bool> {
    if tree.in_place() {
        return Ok(false);
    }
    let to = tree.output.join(&item.entry.path);
    if item.entry.path.ends_with(SONAME) && tree.runtimes.is_used(directory_of(&to)) {
        return Ok(false); // ours is there
    }
    let copied = copy(tree, item, progress)?;
    Ok(copied | link_all(tree, item)?)
}

fn copy(tree: &Tree<'_>, item: &Item<'_>, progress: &mut Progress<'_>) -> Result<bool> {
    let entry = item.entry;
    let (from, to) = (tree.source.join(&entry.path), tree.output.join(&entry.path));
    if !item.is_new {
        let same = same::copied(&from, &entry.metadata, &to);
        if same.map_err(|source| Error::io(&to, "read", source))?
            && (!entry.is_program() || file::starts_now(&from) == file::starts_now(&to))
        {
            return Ok(false);
        }
    }
    if !entry.metadata.is_file() {
        special::copy(tree, entry)?;
        return Ok(true);
    }
    let input = input::open_to_copy(&from)?;
    check_same(&input, item)?;
    let target = Target::in_copy(to);
    let all = Spans::copy(input.source.len());
    let (pending, _) = Pending::make(&input, &target, None, &all, progress)?;
    pending.finish(&input, &target, progress)?;
    Ok(true)
}

/// Fails if the name has another file by now: it may be a link that leads out of the tree.
pub(crate) fn check_same(input: &input::Input, item: &Item<'_>) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let (device, inode) = item.entry.inode();
    match (input.metadata.dev(), input.metadata.ino()) == (device, inode) {
        true => Ok(()),
        false => Err(input.source.error(ErrorKind::Changed)),
    }
}

/// Gives the copy its other names.
fn link_all(tree: &Tree<'_>, item: &Item<'_>) -> Result<bool> {
    let first = tree.output.join(&item.entry.path);
    let mut made = false;
    for link in &item.links {
        made |= links::link(&first, &tree.output.join(&link.path))?;
    }
    Ok(made)
}

/// What the manifest says of an input in another tree.
pub(crate) fn input_stamp(tree: &Tree<'_>, input: &input::Input) -> Result<Stamp> {
    Ok(Stamp {
        modified: Some(modified(&input.metadata)),
        ..Stamp::of(&input.source, tree.wants_digests())?
    })
}
