//! Other machines: their compilers, the emulator that runs their programs, and real programs of theirs, which
//! `tests/trees` unpacks.

use std::path::{Path, PathBuf};

use crate::{Command, Dir, needs, tree};

/// A machine, and what there is for it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Debian's name.
    pub name: &'static str,
    /// What its tools begin with.
    pub triplet: &'static str,
    /// qemu's name of it.
    pub emulator: &'static str,
    /// `tests/trees` unpacks programs for it.
    pub programs: bool,
}

const fn machine(name: &'static str, triplet: &'static str, emulator: &'static str) -> Machine {
    Machine {
        name,
        triplet,
        emulator,
        programs: true,
    }
}

/// All whose programs are rewritten, but x86-64.
pub const ALL: [Machine; 8] = [
    machine("arm64", "aarch64-linux-gnu", "aarch64"),
    machine("armel", "arm-linux-gnueabi", "arm"),
    machine("armhf", "arm-linux-gnueabihf", "arm"),
    machine("i386", "i686-linux-gnu", "i386"),
    machine("ppc64el", "powerpc64le-linux-gnu", "ppc64le"),
    machine("s390x", "s390x-linux-gnu", "s390x"),
    Machine {
        programs: false, // not in the release
        ..machine("ppc64", "powerpc64-linux-gnu", "ppc64")
    },
    Machine {
        programs: false,
        ..machine("riscv64", "riscv64-linux-gnu", "riscv64")
    },
];

impl Machine {
    /// One of its tools.
    pub fn tool(&self, name: &str) -> Command {
        Command::new(needs(&format!("{}-{name}", self.triplet)))
    }

    /// A command that runs `program` with the libraries below `root`; `variables` are set for the program only, not
    /// for the emulator.
    pub fn run_with(&self, variables: &[(&str, String)], root: &Path, program: &Path) -> Command {
        let emulator = Command::new(needs(&format!("qemu-{}", self.emulator)));
        let set = |command: Command, (name, value): &(&str, String)| {
            command.arg("-E").arg(format!("{name}={value}"))
        };
        let emulator = variables.iter().fold(emulator, set);
        emulator.arg("-L").arg(root).arg(program)
    }

    /// The same with the libraries that its compiler links to, and no variables.
    pub fn run(&self, program: &Path) -> Command {
        self.run_with(&[], &self.libraries(), program)
    }

    /// Where those are.
    pub fn libraries(&self) -> PathBuf {
        Path::new("/usr").join(self.triplet)
    }

    /// The runtime for it: in the directory, as `liballocs_other.so`.
    pub fn runtime(&self, dir: &Dir) -> PathBuf {
        let runtime = dir.join("liballocs_other.so");
        self.tool("gcc")
            .args([
                "-O1",
                "-shared",
                "-fPIC",
                "-Wl,-soname,liballocs_other.so,-z,initfirst",
            ])
            .arg(Path::new(env!("CARGO_MANIFEST_DIR")).join("programs/liballocs_other.c"))
            .arg("-o")
            .arg(&runtime)
            .succeed();
        runtime
    }

    /// The tree with its programs.
    pub fn root(&self) -> PathBuf {
        let root = tree::place().join("machines").join(self.name);
        assert!(
            root.is_dir(),
            "{} is missing: run tests/run, or tests/trees",
            root.display()
        );
        root
    }
}
