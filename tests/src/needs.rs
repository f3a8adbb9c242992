//! Programs that must be installed. A test that lacks one fails: a test that is quietly left out
//! proves nothing.

use std::path::{Path, PathBuf};

use crate::tool;

/// Those of the tests, then those of the benchmarks.
const PACKAGES: [&str; 2] = [
    include_str!("../packages.txt"),
    include_str!("../bench-packages.txt"),
];

/// Where `program` is (a name, or an absolute path of any file). Fails with the name of the Debian
/// package if it is missing, and if no list has it.
pub fn needs(program: &str) -> PathBuf {
    let package = package_of(program).unwrap_or_else(|| {
        panic!("{program} has no line in tests/packages.txt or tests/bench-packages.txt")
    });
    find(program).unwrap_or_else(|| {
        panic!("{program} is missing: apt-get install {package}, or run tests/install, which installs all that tests/packages.txt or tests/bench-packages.txt lists")
    })
}

/// Where the linker `wild` is, which `tests/run` builds: Debian has none.
pub fn wild() -> PathBuf {
    built("wild")
}

/// Where `mdbook` is, which `tests/run` builds as well.
pub fn mdbook() -> PathBuf {
    built("mdbook")
}

fn built(program: &str) -> PathBuf {
    let path = tool::binary().with_file_name("../tools/bin").join(program);
    assert!(
        path.exists(),
        "{} is missing: run tests/run, which builds it",
        path.display()
    );
    path
}

fn package_of(program: &str) -> Option<&'static str> {
    PACKAGES
        .iter()
        .flat_map(|packages| packages.lines())
        .filter(|line| !line.starts_with('#'))
        .filter_map(|line| line.split_once(char::is_whitespace))
        .find(|(_, provides)| provides.trim() == program)
        .map(|(package, _)| package)
}

fn find(program: &str) -> Option<PathBuf> {
    ["/usr/bin", "/bin", "/usr/sbin", "/sbin", "/usr/local/bin"]
        .iter()
        .map(|dir| Path::new(dir).join(program))
        .find(|path| path.exists())
}
