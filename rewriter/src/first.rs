//! Whether the runtime will be first in the result, asked before the result gets its name.

use std::path::Path;

use crate::error::{Error, ErrorKind, Result};
use crate::explain::{Conditions, explain_at};
use crate::input::Input;
use crate::output::Target;
use crate::phase::Phase;
use crate::source::Source;
use crate::{Options, directory_of};

/// Fails if the runtime has to be first and would not be. Otherwise returns a warning, if a library
/// of the program comes before an init function that is called at preinit.
pub(crate) fn check(
    options: &Options,
    input: &Input,
    result: &Source,
    target: &Target,
    phase: Phase,
) -> Result<Option<String>> {
    if !options.require_first && phase != Phase::Preinit {
        return Ok(None);
    }
    let conditions = Conditions {
        sysroot: options.sysroot.clone(),
        ..Conditions::default()
    };
    let secure = input.privileges.any();
    let explained =
        real_path(target.path()).and_then(|real| explain_at(result, &real, secure, &conditions));
    match explained {
        Err(error) if options.require_first => Err(error),
        Err(_) => Ok(None), // a warning that cannot be given
        Ok(explanation) if explanation.verdict.first => Ok(None),
        Ok(explanation) if options.require_first => Err(Error::new(
            target.path(),
            ErrorKind::NotFirst {
                verdict: explanation.verdict.text,
                remedy: explanation.verdict.remedy.unwrap_or_default(),
            },
        )),
        Ok(explanation) if explanation.rivals.is_empty() => Ok(None),
        Ok(explanation) => Ok(Some(explanation.verdict.text)),
    }
}

/// The path that the file will have, without symbolic links.
fn real_path(path: &Path) -> Result<std::path::PathBuf> {
    let directory = directory_of(path);
    let directory = directory
        .canonicalize()
        .map_err(|source| Error::io(directory, "find", source))?;
    Ok(directory.join(path.file_name().unwrap_or_default()))
}
