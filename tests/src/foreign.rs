//! Other machines: their compilers, the emulator that runs their programs, and real programs of theirs, which
//! `tests/trees` unpacks.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::tool::{self, RUNTIME};
use crate::{Command, Dir, elf, needs, tree};

/// A machine, and what there is for it.
#[derive(Debug, Clone, Copy)]
pub struct Machine {
    /// Debian's name.
    pub name: &'static str,
    /// What its tools begin with.
    pub triplet: &'static str,
    /// What its compiler has to be told.
    pub flags: &'static [&'static str],
    /// qemu's name of it.
    pub emulator: &'static str,
    /// Who makes its programs.
    pub tools: Tools,
    /// Where real programs for it come from.
    pub programs: Programs,
}

/// Where the programs in a machine's tree come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Programs {
    /// Debian's packages, which `tests/trees` unpacks.
    Packages,
    /// Debian's sources, which `tests/ppc64` builds: a few, or more where it was asked to.
    Sources,
    /// There is no tree.
    None,
}

/// Compiler, linker and strip.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tools {
    /// Debian's cross compilers and their libraries.
    Gnu,
    /// clang and lld, with the headers and libraries of the machine's tree: where Debian has no cross compiler.
    Llvm,
}

const fn machine(name: &'static str, triplet: &'static str, emulator: &'static str) -> Machine {
    Machine {
        name,
        triplet,
        flags: &[],
        emulator,
        tools: Tools::Gnu,
        programs: Programs::Packages,
    }
}

/// All whose programs are rewritten, but x86-64.
pub const ALL: [Machine; 14] = [
    machine("arm64", "aarch64-linux-gnu", "aarch64"),
    machine("armel", "arm-linux-gnueabi", "arm"),
    machine("armhf", "arm-linux-gnueabihf", "arm"),
    machine("i386", "i686-linux-gnu", "i386"),
    Machine {
        tools: Tools::Llvm,
        ..machine("loong64", "loongarch64-linux-gnu", "loongarch64")
    },
    Machine {
        programs: Programs::None, // not in the release
        ..machine("mips", "mips-linux-gnu", "mips")
    },
    Machine {
        programs: Programs::None,
        ..machine("mips64", "mips64-linux-gnuabi64", "mips64")
    },
    machine("mips64el", "mips64el-linux-gnuabi64", "mips64el"),
    machine("mipsel", "mipsel-linux-gnu", "mipsel"),
    Machine {
        flags: &["-mabi=n32"],
        programs: Programs::None, // none of Debian's architectures
        ..machine("mipsn32el", "mips64el-linux-gnuabi64", "mipsn32el")
    },
    machine("ppc64el", "powerpc64le-linux-gnu", "ppc64le"),
    machine("s390x", "s390x-linux-gnu", "s390x"),
    Machine {
        programs: Programs::Sources,
        ..machine("ppc64", "powerpc64-linux-gnu", "ppc64")
    },
    machine("riscv64", "riscv64-linux-gnu", "riscv64"),
];

/// The machine that the project has a runtime for, beside x86-64.
pub const AARCH64: Machine = ALL[0];

/// The project as it is installed with that runtime.
pub fn installed() -> &'static Path {
    static PREFIX: OnceLock<PathBuf> = OnceLock::new();
    PREFIX.get_or_init(|| {
        let tool = tool::binary();
        let prefix = tool.with_file_name("allocs-tests").join("machines");
        let lib = prefix.join("lib").join(AARCH64.triplet);
        let bin = prefix.join("bin");
        for directory in [&lib, &bin] {
            fs::create_dir_all(directory).expect("a directory beside the binary");
        }
        let sources = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
        let built = build_runtime(&mut std::process::Command::new(sources.join(BUILD)));
        fs::copy(built, lib.join(RUNTIME)).expect("the runtime");
        let installed = bin.join("allocs-rewrite");
        let _ = fs::remove_file(&installed); // that of an older build
        fs::hard_link(tool, &installed).expect("a link");
        prefix
    })
}

/// What builds the runtime, in the sources.
pub const BUILD: &str = "rewriter/dist/runtime";

/// Has `build` build it, and says where it is.
pub fn build_runtime(build: &mut std::process::Command) -> PathBuf {
    let built = build
        .env("RUSTC", tree::made("rust").join("rustc"))
        .output()
        .expect("a shell");
    let said = String::from_utf8_lossy(&built.stderr);
    assert!(built.status.success(), "cannot build the runtime: {said}");
    let built = String::from_utf8(built.stdout).expect("a path");
    PathBuf::from(built.trim_end())
}

/// The runtime there.
pub fn installed_runtime() -> PathBuf {
    let lib = installed().join("lib").join(AARCH64.triplet);
    lib.join(RUNTIME)
}

/// The loader and the libraries of musl for it.
pub fn musl() -> PathBuf {
    tree::made("musl-arm64")
}

/// A compiler for that, with what it has to be told in `dir`.
pub fn musl_compiler(dir: &Dir) -> Command {
    let root = musl();
    let lib = root.join("lib/aarch64-linux-musl");
    let specs = root.join("usr/lib/aarch64-linux-musl/musl-gcc.specs");
    let text = fs::read_to_string(specs).expect("musl's");
    let text = text.replace("/usr/", &format!("{}/usr/", root.display()));
    let specs = dir.write("musl.specs", &text);
    AARCH64
        .compiler()
        .arg(format!("-specs={}", specs.display()))
        .arg(format!("-L{}", lib.display()))
        .arg("-mno-outline-atomics") // of which libgcc's asks libc
}

impl Machine {
    /// True for all with MIPS's ABIs.
    pub fn is_mips(&self) -> bool {
        self.name.starts_with("mips")
    }

    /// Its compiler.
    pub fn compiler(&self) -> Command {
        match self.tools {
            Tools::Gnu => Command::new(needs(&format!("{}-gcc", self.triplet))).args(self.flags),
            Tools::Llvm => Command::new(needs("clang-19"))
                .arg(format!("--target={}", self.triplet))
                .arg(format!("--sysroot={}", self.root().display()))
                .arg(format!("-fuse-ld={}", needs("ld.lld-19").display())),
        }
    }

    /// Its strip.
    pub fn strip(&self) -> Command {
        Command::new(match self.tools {
            Tools::Gnu => needs(&format!("{}-strip", self.triplet)),
            Tools::Llvm => needs("llvm-strip-14"),
        })
    }

    /// qemu for it.
    fn emulator(&self) -> PathBuf {
        let name = format!("qemu-{}", self.emulator);
        match self.tools {
            Tools::Gnu => needs(&name),
            // Debian 12's knows no vector instructions of LoongArch.
            Tools::Llvm => tree::made(&name),
        }
    }

    /// A command that runs `program` with the libraries below `root`; `variables` are set for the program only, not
    /// for the emulator.
    pub fn run_with(&self, variables: &[(&str, String)], root: &Path, program: &Path) -> Command {
        let emulator = Command::new(self.emulator());
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
        match self.tools {
            Tools::Gnu => Path::new("/usr").join(self.triplet),
            Tools::Llvm => self.root(),
        }
    }

    /// The runtime for it: in the directory, as `liballocs_other.so`.
    pub fn runtime(&self, dir: &Dir) -> PathBuf {
        let runtime = dir.join("liballocs_other.so");
        self.compiler()
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
        tree::made(&format!("machines/{}", self.name))
    }

    /// The executables in the tree, of which /bin and /sbin are links.
    pub fn executables(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for dir in ["usr/bin", "usr/sbin"] {
            let entries = fs::read_dir(self.root().join(dir));
            for entry in entries.expect("a directory of programs") {
                let path = entry.expect("an entry").path();
                if path.is_file() && !path.is_symlink() && elf::has_interpreter(&path) {
                    all.push(path);
                }
            }
        }
        all.sort();
        let least = match self.programs {
            Programs::Packages => 200,
            Programs::Sources => 3,
            Programs::None => 0,
        };
        assert!(all.len() >= least, "{} in the tree", all.len());
        all
    }

    /// Python, in the tree.
    pub fn python(&self) -> PathBuf {
        // As `tests/trees` names it: that of the machine's release.
        self.root().join(match self.name {
            "riscv64" => "usr/bin/python3.13",
            "loong64" => "usr/bin/python3.14",
            _ => "usr/bin/python3.11",
        })
    }
}
