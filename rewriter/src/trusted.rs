//! Whether only root can put another file in a runtime's place.
//!
//! A setuid program runs with its owner's rights whatever its libraries do. The loader looks for a
//! library of such a program only where an absolute path or the system's directories say; who can
//! write there has the owner's rights as well. So it is asked here, before the runtime becomes the
//! first library of all.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Says what is wrong with `runtime` as a library of a privileged program; `None` if nothing is.
pub(crate) fn flaw(runtime: &str) -> Option<String> {
    let path = Path::new(runtime);
    if !path.is_absolute() {
        return Some(format!("{runtime} is not an absolute path"));
    }
    // The links of the path count, and what they lead to.
    let real = match path.canonicalize() {
        Ok(real) => real,
        Err(error) => return Some(format!("{runtime} cannot be looked at ({error})")),
    };
    let places = path.ancestors().skip(1).chain(real.ancestors());
    places.into_iter().find_map(|place| {
        let ours = fs::metadata(place).is_ok_and(|metadata| only_roots(&metadata));
        (!ours).then(|| format!("others than root can write to {}", place.display()))
    })
}

fn only_roots(metadata: &Metadata) -> bool {
    metadata.uid() == 0 && metadata.mode() & 0o022 == 0
}
