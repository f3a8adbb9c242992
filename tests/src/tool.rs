//! The rewriter's binary, as a user runs it.

use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use serde_json::Value;

use crate::{Command, Dir, Outcome};

/// The file name of the embedded runtime, which is its soname.
pub const RUNTIME: &str = "liballocs_rt.so.1";
/// The runtime's init symbol.
pub const INIT: &str = "allocs_preinit";

/// `allocs-rewrite`, built once per process: it is up to date whichever way the tests were started.
pub fn binary() -> &'static Path {
    static BINARY: OnceLock<PathBuf> = OnceLock::new();
    BINARY.get_or_init(|| {
        build(&["--bin", "allocs-rewrite", "--bin", "cargo-allocs-rewrite"])
            .into_iter()
            .find(|path| path.ends_with("allocs-rewrite"))
            .expect("cargo names the binary that it built")
    })
}

/// Builds what `targets` name, as these tests were built; the executables that it is.
pub fn build(targets: &[&str]) -> Vec<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = std::process::Command::new(cargo);
    build
        .args(["build", "--workspace", "--locked"])
        .args(["--message-format", "json-render-diagnostics"])
        .args(targets)
        // As cargo builds tests: all that both need is there already.
        .env("CARGO_PROFILE_DEV_PANIC", "unwind")
        .current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
    if !cfg!(debug_assertions) {
        build.arg("--release");
    }
    let output = build.output().expect("cargo starts");
    assert!(
        output.status.success(),
        "cannot build {targets:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout)
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok())
        .filter_map(|message| Some(PathBuf::from(message["executable"].as_str()?)))
        .collect()
}

/// Both programs that are installed: `allocs-rewrite` and `cargo-allocs-rewrite`.
pub fn binaries() -> [PathBuf; 2] {
    let tool = binary();
    [tool.to_owned(), tool.with_file_name("cargo-allocs-rewrite")]
}

/// The runtime as a file, for `--runtime` with an absolute path.
pub fn runtime() -> &'static Path {
    static FILE: OnceLock<PathBuf> = OnceLock::new();
    FILE.get_or_init(|| {
        let dir = binary().with_file_name("allocs-tests");
        std::fs::create_dir_all(&dir).expect("a directory beside the binary");
        Rewrite::new("/bin/true", dir.join("true"))
            .arg("--force")
            .succeed();
        dir.join(RUNTIME)
    })
}

/// A copy of the runtime in `dir`.
pub fn runtime_in(dir: &Dir) -> PathBuf {
    let path = dir.join(RUNTIME);
    std::fs::copy(runtime(), &path).expect("a copy of the runtime");
    path
}

/// The bytes that `undo` makes of `file`.
pub fn undo(file: &Path) -> Vec<u8> {
    let mut out = file.as_os_str().to_owned();
    out.push(".undone");
    Command::new(binary())
        .args(["undo", "-q", "-o"])
        .arg(&out)
        .arg(file)
        .succeed();
    let bytes = std::fs::read(&out).expect("the original");
    std::fs::remove_file(&out).expect("removed");
    bytes
}

/// Whether a program runs with other rights than those of who starts it.
pub fn is_privileged(path: &Path) -> bool {
    let capabilities = rustix::fs::getxattr(path, "security.capability", &mut [0_u8; 64]);
    let mode = std::fs::metadata(path).expect("metadata").mode();
    mode & 0o6000 != 0 || capabilities.is_ok()
}

/// One run of `allocs-rewrite PROG -o OUT`.
#[derive(Debug, Clone)]
pub struct Rewrite {
    command: Command,
    prog: PathBuf,
    out: PathBuf,
}

impl Rewrite {
    /// Rewrites `prog` to `out`.
    pub fn new(prog: impl AsRef<Path>, out: impl AsRef<Path>) -> Self {
        Self::by(binary(), prog, out)
    }

    /// The same by `tool`, which is that program in another place.
    pub fn by(tool: &Path, prog: impl AsRef<Path>, out: impl AsRef<Path>) -> Self {
        let (prog, out) = (prog.as_ref(), out.as_ref());
        Self {
            command: Command::new(tool)
                .arg(prog)
                .arg("-o")
                .arg(out)
                .arg("--json")
                .limit(Duration::from_secs(60)),
            prog: prog.to_owned(),
            out: out.to_owned(),
        }
    }

    /// One more argument.
    pub fn arg(mut self, arg: impl AsRef<OsStr>) -> Self {
        self.command = self.command.arg(arg);
        self
    }

    /// More arguments, in a line.
    pub fn args_line(mut self, line: &str) -> Self {
        self.command = self.command.args(line.split_whitespace());
        self
    }

    /// Changes the command line.
    pub fn map(mut self, change: impl FnOnce(Command) -> Command) -> Self {
        self.command = change(self.command);
        self
    }

    /// Runs it.
    pub fn run(&self) -> Outcome {
        self.command.run()
    }

    /// Runs it; it must succeed and say so.
    pub fn succeed(&self) -> Rewritten {
        self.result(&self.command.succeed())
    }

    /// What a run of it that succeeded has made.
    pub fn result(&self, outcome: &Outcome) -> Rewritten {
        let json: Value = serde_json::from_slice(&outcome.stdout)
            .unwrap_or_else(|e| panic!("{outcome}--json printed no JSON: {e}"));
        assert!(self.out.is_file(), "{outcome}wrote nothing");
        Rewritten {
            original: self.prog.clone(),
            path: self.out.clone(),
            json,
        }
    }

    /// Runs it; it must refuse: exit status 1, nothing on stdout, exactly one line on stderr, which
    /// names the tool, `file`, and each of `words`; and nothing below `dir` may have changed.
    pub fn refuse(&self, dir: &Path, file: &Path, words: &[&str]) -> Outcome {
        let before = crate::dir::listing(dir);
        let outcome = self.command.run();
        let after = crate::dir::listing(dir);
        let stderr = outcome.stderr();
        assert_eq!(outcome.code(), Some(1), "{outcome}should have been refused");
        assert_eq!(outcome.stdout(), "", "{outcome}a refusal has no result");
        assert!(
            stderr.starts_with("allocs-rewrite: ") && stderr.lines().count() == 1,
            "{outcome}one message is expected"
        );
        assert!(stderr.ends_with('\n'), "{outcome}the message is no line");
        assert!(
            stderr.contains(&*file.to_string_lossy()),
            "{outcome}the message should name {}",
            file.display()
        );
        for word in words {
            assert!(
                stderr.contains(word),
                "{outcome}the message should say `{word}`"
            );
        }
        assert_eq!(before, after, "{outcome}something was written");
        outcome
    }
}

/// A rewritten program.
#[derive(Debug, Clone)]
pub struct Rewritten {
    /// What it was made from.
    pub original: PathBuf,
    /// Where it is.
    pub path: PathBuf,
    /// What `--json` said.
    pub json: Value,
}

impl Rewritten {
    /// Whether everything was done within the file's old bytes.
    pub fn recycled(&self) -> bool {
        self.json["size"]["before"] == self.json["size"]["after"]
    }

    /// The tables that were moved.
    pub fn moved(&self) -> Vec<String> {
        let tables = self.json["tables"].as_array().expect("a list of tables");
        tables
            .iter()
            .filter(|table| table["action"] == "moved")
            .map(|table| table["table"].as_str().expect("a name").to_owned())
            .collect()
    }

    /// The bytes that `undo` makes of it.
    pub fn undo(&self) -> Vec<u8> {
        undo(&self.path)
    }

    /// A command that runs it.
    pub fn command(&self) -> Command {
        Command::new(&self.path)
    }
}
