//! A program for debuggers, profilers and packaging tools to look at, as it was built and rewritten:
//! `programs/looked_at.c`, with debug information, a build-id and package metadata.

use std::fs;
use std::path::{Path, PathBuf};

use crate::tool::{self, RUNTIME, Rewritten};
use crate::{Command, Dir, Rewrite, needs};

/// Its file name, before and after.
pub const NAME: &str = "looked_at";

/// What `--package-metadata` puts into the section .note.package (systemd.io/ELF_PACKAGE_METADATA).
pub const METADATA: &str = r#"{"type":"deb","os":"debian","name":"answer","version":"1.0"}"#;

/// The program before and after one way of rewriting it.
#[derive(Debug)]
pub struct LookedAt {
    /// What was built.
    pub original: PathBuf,
    /// What was made of it, in a directory of its own.
    pub result: Rewritten,
    /// The runtime that it starts first.
    pub runtime: PathBuf,
}

impl LookedAt {
    /// All of them, in `dir`: a PIE that kept its size, and a PIE and a non-PIE that grew.
    pub fn all(dir: &Dir) -> Vec<Self> {
        let pie = build(dir, "pie", &["-fPIE", "-pie"]);
        let non_pie = build(dir, "non-pie", &["-fno-pie", "-no-pie"]);
        vec![
            Self::kept(dir, &pie),
            Self::grown(dir, &pie, "pie-grown"),
            Self::grown(dir, &non_pie, "non-pie-grown"),
        ]
    }

    fn kept(dir: &Dir, original: &Path) -> Self {
        let out = dir.make("kept").join(NAME);
        let result = Rewrite::new(original, &out).succeed();
        assert!(
            result.recycled(),
            "this was to keep its size: {}",
            result.json
        );
        Self {
            original: original.to_owned(),
            result,
            runtime: out.with_file_name(RUNTIME),
        }
    }

    /// With a runtime path that no old string has room for.
    pub fn grown(dir: &Dir, original: &Path, name: &str) -> Self {
        let long = dir.make("a/path/that/is/longer/than/any/string/that/can/be/recycled");
        let runtime = long.join(RUNTIME);
        fs::copy(tool::runtime(), &runtime).expect("the runtime copied");
        let result = Rewrite::new(original, dir.make(name).join(NAME))
            .arg("--runtime")
            .arg(&runtime)
            .succeed();
        assert!(!result.recycled(), "this was to grow: {}", result.json);
        Self {
            original: original.to_owned(),
            result,
            runtime,
        }
    }

    /// Original and result.
    pub fn both(&self) -> [&Path; 2] {
        [&self.original, &self.result.path]
    }

    /// What `command` prints about the result must be what it prints about the original, which is not
    /// nothing, in that part of it that `compared` gives.
    pub fn same(&self, command: impl Fn(&Path) -> Command, compared: impl Fn(&str) -> String) {
        let [before, after] = self.both().map(|file| command(file).succeed());
        assert!(!before.stdout().is_empty(), "{before}printed nothing");
        assert!(
            compared(&before.stdout()) == compared(&after.stdout())
                && before.stderr == after.stderr,
            "a tool says something else\n== original\n{before}== rewritten\n{after}"
        );
    }
}

/// Builds the program in a directory of its own below `dir`, and its library in `dir`.
pub fn build(dir: &Dir, name: &str, flags: &[&str]) -> PathBuf {
    let library = dir.join("liblooked_at.so");
    let soname = "-Wl,-soname,liblooked_at.so";
    compile("liblooked_at.c", &["-shared", "-fPIC", soname], &library);
    let out = dir.make(name).join(NAME);
    let metadata = format!("--package-metadata={METADATA}");
    let rpath = format!("-Wl,-rpath,{}", dir.path().display());
    let library = library.display().to_string();
    let common = [
        "-Wl,-z,now",
        "-fcf-protection=full",
        "-Xlinker",
        &metadata,
        &rpath,
        &library,
    ];
    compile("looked_at.c", &[&common, flags].concat(), &out);
    out
}

fn compile(source: &str, flags: &[&str], out: &Path) {
    Command::new(needs("gcc"))
        .args(["-g", "-O1", "-fno-omit-frame-pointer", "-Wall", "-Wextra"])
        .args(["-Werror", "-Wl,--build-id=sha1"])
        .arg(self::source(source))
        .args(flags)
        .arg("-o")
        .arg(out)
        .succeed();
}

/// The place of the line in looked_at.c that ends with `comment`, as debuggers write it.
pub fn place(comment: &str) -> String {
    let text = fs::read_to_string(source("looked_at.c")).expect("the source");
    let line = text.lines().position(|line| line.ends_with(comment));
    format!("looked_at.c:{}", line.expect("the comment") + 1)
}

fn source(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("programs")
        .join(name)
}
