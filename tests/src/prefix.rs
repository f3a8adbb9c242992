//! The project installed below a prefix, as packages install it.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};

use crate::dir::copy_program;
use crate::explain::Explanation;
use crate::loader::{self, Event};
use crate::tool::{self, RUNTIME};
use crate::{Command, Dir};

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// An installed project.
#[derive(Debug)]
pub struct Prefix {
    path: PathBuf,
}

impl Prefix {
    /// Installs the project in `dir`, as `dir/prefix`.
    pub fn new(dir: &Dir) -> Self {
        let path = dir.make("prefix");
        let lib = dir.make("prefix/lib");
        let bin = dir.make("prefix/bin");
        for program in tool::binaries() {
            let installed = bin.join(program.file_name().expect("a name"));
            // A link where that is possible: as built for the tests, they are large.
            if fs::hard_link(&program, &installed).is_err() {
                copy_program(&program, &installed);
            }
        }
        fs::copy(tool::runtime(), lib.join(RUNTIME)).expect("the runtime");
        for (from, to) in [
            ("rewriter/cmake", "prefix/lib/cmake/AllocsRewrite"),
            ("rewriter/bazel", "prefix/share/allocs-rewrite/bazel"),
            ("runtime/include", "prefix/include"),
        ] {
            copy_directory(&Path::new(ROOT).join(from), &dir.make(to));
        }
        let pkgconfig = dir.make("prefix/lib/pkgconfig").join("allocs-rt.pc");
        fs::copy(Path::new(ROOT).join("runtime/allocs-rt.pc"), pkgconfig).expect("allocs-rt.pc");
        for (link, to) in [
            ("allocs-rewrite", "../../../bin/allocs-rewrite"),
            ("liballocs_rt.so.1", "../../../lib/liballocs_rt.so.1"),
            ("allocs/allocs.h", "../../../../include/allocs.h"),
        ] {
            let link = path.join("share/allocs-rewrite/bazel").join(link);
            symlink(to, link).expect("a link");
        }
        Self { path }
    }

    /// The path of `name` in it.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// Its runtime, which is in no directory that the loader looks in by itself.
    pub fn runtime(&self) -> PathBuf {
        self.join("lib").join(RUNTIME)
    }

    /// A value of PATH for those who have it installed.
    pub fn search_path(&self) -> String {
        format!("{}:/usr/bin:/bin", self.join("bin").display())
    }

    /// `program` in the environment of somebody who has it installed.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        Command::new(program)
            .env("PATH", self.search_path())
            .env("PKG_CONFIG_PATH", self.join("lib/pkgconfig"))
    }

    /// Another version of a program in bin takes the place of the installed one. It does the same.
    pub fn upgrade(&self, program: &str) {
        let tool = self.join("bin").join(program);
        let new = self.join("bin/new");
        // Behind the ELF part, a byte of no effect.
        let append = Command::new("sh").args(["-c", "cp -- \"$0\" \"$1\" && echo >> \"$1\""]);
        append.args([&tool, &new]).succeed();
        fs::rename(new, tool).expect("replaced");
    }
}

/// What the sample `concordance` reads.
pub const TEXT: &str = "to be or\nnot to be\n";

/// The program of the sample has to start `runtime` before all else, and get its answers.
pub fn starts_first(program: &Path, runtime: &Path) {
    let command = Command::new(program).stdin(TEXT);
    answers(&command);
    is_first(&command, program, runtime);
}

/// The loader says that it calls `runtime` first when `command` runs `program`, and `explain` that it will.
pub fn is_first(command: &Command, program: &Path, runtime: &Path) {
    let inits = loader::events(command);
    let mut inits = inits.iter().filter(|event| matches!(event, Event::Init(_)));
    let first = Event::Init(runtime.display().to_string());
    assert_eq!(inits.next(), Some(&first), "{command}");
    let outcome = Explanation::new([program]).outcome;
    assert_eq!(outcome.code(), Some(0), "{outcome}");
}

/// The program of the sample has to do what it is for, and be told who allocated.
pub fn answers(command: &Command) {
    let outcome = command.succeed();
    let expected = "be: 2 times, lines 1 to 2\nto: 2 times, lines 1 to 2\n\
                    4 chunks of entry_new, 6 of entry_add\n";
    assert_eq!(outcome.stdout(), expected, "{outcome}");
}

/// What identifies the file, and when it was written: it is the same as long as nobody touches it.
pub fn stamp(file: &Path) -> (u64, i64, i64) {
    let metadata = fs::metadata(file).unwrap_or_else(|e| panic!("{}: {e}", file.display()));
    (metadata.ino(), metadata.mtime(), metadata.mtime_nsec())
}

/// Copies the files of one directory into another.
pub fn copy_directory(from: &Path, to: &Path) {
    Command::line("cp -r --")
        .arg(from.join("."))
        .arg(to)
        .succeed();
}
