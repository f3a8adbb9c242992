//! Which executables are to be rewritten.

use std::path::Path;

use glob::{MatchOptions, Pattern};

use super::TreeOptions;
use super::links::Item;
use crate::error::{Error, ErrorKind, Result};

/// `*` and `?` match no slash, and dots are like other characters.
const OPTIONS: MatchOptions = MatchOptions {
    case_sensitive: true,
    require_literal_separator: true,
    require_literal_leading_dot: false,
};

/// The globs of --include and --exclude.
#[derive(Debug)]
pub(crate) struct Selection {
    include: Vec<Glob>,
    exclude: Vec<Glob>,
}

#[derive(Debug)]
struct Glob {
    pattern: Pattern,
    /// Of a path from the top of the tree; otherwise of a name.
    of_path: bool,
}

impl Selection {
    pub(crate) fn new(options: &TreeOptions) -> Result<Self> {
        Ok(Self {
            include: parse(&options.include)?,
            exclude: parse(&options.exclude)?,
        })
    }

    /// Whether a file is to be rewritten: none of its names may be excluded, and where there is something
    /// to include, one of them is.
    pub(crate) fn selects(&self, item: &Item<'_>) -> bool {
        let any = |globs: &[Glob]| item.paths().any(|path| matches(globs, path));
        !any(&self.exclude) && (self.include.is_empty() || any(&self.include))
    }
}

/// A glob may be that of a directory, and then all that is in it is meant.
fn matches(globs: &[Glob], path: &Path) -> bool {
    globs.iter().any(|glob| {
        path.ancestors().any(|place| match glob.of_path {
            true => glob.pattern.matches_path_with(place, OPTIONS),
            false => {
                let name = place.file_name().unwrap_or_default();
                glob.pattern.matches_with(&name.to_string_lossy(), OPTIONS)
            }
        })
    })
}

fn parse(globs: &[String]) -> Result<Vec<Glob>> {
    let parse = |glob: &String| {
        let text = glob.trim_end_matches('/');
        let pattern = Pattern::new(text.trim_start_matches('/'));
        let pattern = pattern.map_err(|error| {
            let what = error.msg;
            Error::new(Path::new(glob), ErrorKind::Glob { what })
        })?;
        let of_path = text.contains('/');
        Ok(Glob { pattern, of_path })
    };
    globs.iter().map(parse).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn selects(glob: &str, path: &str) -> bool {
        parse(&[glob.to_owned()]).is_ok_and(|globs| matches(&globs, Path::new(path)))
    }

    #[test]
    fn names_paths_and_directories() {
        assert!(selects("ls", "usr/bin/ls") && !selects("ls", "usr/bin/lsof"));
        assert!(selects("ls*", "usr/bin/lsof") && selects("bin", "usr/bin/ls"));
        assert!(selects("usr/bin/*", "usr/bin/ls") && !selects("usr/*", "bin/ls"));
        assert!(selects("usr/libexec", "usr/libexec/a/b"));
        assert!(selects("/usr/bin/ls", "usr/bin/ls") && !selects("bin/ls", "usr/bin/ls"));
        assert!(selects("**/bin/ls", "usr/bin/ls") && selects("**/bin/ls", "bin/ls"));
        assert!(selects("/bin/", "bin/ls") && !selects("/bin", "usr/bin/ls"));
        assert!(selects("/ls", "ls") && selects("bin/", "usr/bin/ls"));
        assert!(!selects("u*n/ls", "usr/bin/ls"));
        assert!(parse(&["[a".to_owned()]).is_err());
    }
}
