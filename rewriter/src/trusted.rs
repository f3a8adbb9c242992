//! Whether only root can put another file in a runtime's place.
//!
//! A setuid program runs with its owner's rights whatever its libraries do. The loader looks for a
//! library of such a program only where an absolute path or the system's directories say; who can
//! write there has the owner's rights as well. So it is asked here, before the runtime becomes the
//! first library of all.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::loader::system::System;

/// Says what is wrong with `runtime` as a library of a privileged program; `None` if nothing is. It is
/// looked for in the `trees` ahead of this machine. What is above a tree will not be above the program.
pub(crate) fn flaw(runtime: &str, trees: &[System]) -> Option<String> {
    let path = Path::new(runtime);
    if !path.is_absolute() {
        return Some(format!("{runtime} is not an absolute path"));
    }
    for tree in trees {
        if let Ok(real) = tree.real_path(path) {
            let directories = path.ancestors().skip(1);
            let directories = directories.filter_map(|place| tree.real_path(place).ok());
            let places = directories.chain(real.ancestors().map(Path::to_owned));
            return first_flaw(places.filter(|place| tree.is_below_root(place)));
        }
    }
    // The links of the path count, and what they lead to.
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => return Some(format!("{runtime} cannot be looked at ({error})")),
    };
    first_flaw(path.ancestors().skip(1).chain(real.ancestors()))
}

fn first_flaw<P: AsRef<Path>>(mut places: impl Iterator<Item = P>) -> Option<String> {
    places.find_map(|place| {
        let ours = fs::metadata(&place).is_ok_and(|metadata| only_roots(&metadata));
        (!ours).then(|| {
            let place = place.as_ref().display();
            format!("others than root can write to {place}")
        })
    })
}

fn only_roots(metadata: &Metadata) -> bool {
    metadata.uid() == 0 && metadata.mode() & 0o022 == 0
}
