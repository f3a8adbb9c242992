//! The programs of `samples/`, built by real compilers.
//!
//! Every source there whose name does not begin with `lib` is a program. The comment at its top says
//! what it shows, and then, in lines that begin with `//#`, how it is built and what is known of it:
//!
//! | directive | meaning |
//! | --- | --- |
//! | `flags: FLAG...` | passed to the compiler, behind the source file |
//! | `flags-gcc: FLAG...` | the same, for gcc alone |
//! | `pkg-config: NAME...` | with the flags that pkg-config gives for these |
//! | `library: FILE FLAG...` | linked with a shared object that is built from FILE |
//! | `plugin: FILE FLAG...` | the same, but not linked: the program loads it |
//! | `constructors: HOOK N calls M bytes` | constructors alone call HOOK at least this often, for at least so many bytes |
//! | `before-init: N` | the program has code that calls hooks N times before anything can start |
//! | `answer: LINE` | the program asks the runtime, and prints LINE if it is there |
//!
//! Shared objects go beside the program, which finds them through `$ORIGIN`.

use std::fmt;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Command, needs};

/// Where the samples are.
const SAMPLES: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples");

/// A program of `samples/`.
#[derive(Debug, Clone)]
pub struct Sample {
    /// Its file name without the extension.
    pub name: String,
    source: PathBuf,
    language: Language,
    flags: Vec<String>,
    flags_gcc: Vec<String>,
    pkg_config: Vec<String>,
    libraries: Vec<Library>,
    /// What its constructors are known to allocate.
    pub constructors: Option<Constructors>,
    /// How often it calls hooks before anything can start.
    pub before_init: u64,
    /// The lines that it prints, in this order, of what the runtime answers.
    pub answers: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Language {
    C,
    Cxx,
    Rust,
}

#[derive(Debug, Clone)]
struct Library {
    source: PathBuf,
    flags: Vec<String>,
    linked: bool,
}

/// What constructors are known to allocate.
#[derive(Debug, Clone)]
pub struct Constructors {
    /// By which hook.
    pub hook: String,
    /// At least so many calls.
    pub calls: u64,
    /// At least so many bytes.
    pub bytes: u64,
}

/// One way to build a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Variant {
    /// `gcc`, `clang`, `g++`, `clang++` or `rustc`.
    pub compiler: &'static str,
    /// Position-independent or not.
    pub pie: bool,
    /// Bound at once (`-z now`) or lazily.
    pub now: bool,
}

impl fmt::Display for Variant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let pie = if self.pie { "pie" } else { "non-pie" };
        let now = if self.now { "now" } else { "lazy" };
        write!(f, "{}-{pie}-{now}", self.compiler)
    }
}

impl Variant {
    /// What Debian's gcc does by itself.
    pub const GCC: Self = Self {
        compiler: "gcc",
        pie: true,
        now: false,
    };

    fn flags(self) -> Vec<&'static str> {
        let mut flags = Vec::new();
        if self.compiler == "rustc" {
            let pie = ["relocation-model=static", "relocation-model=pie"];
            let now = ["relro-level=partial", "relro-level=full"];
            flags.extend(["-C", pie[usize::from(self.pie)]]);
            flags.extend(["-C", now[usize::from(self.now)]]);
        } else {
            let pie = [["-fno-pie", "-no-pie"], ["-fPIE", "-pie"]];
            let now = ["-Wl,-z,lazy", "-Wl,-z,now"];
            flags.extend(pie[usize::from(self.pie)]);
            flags.extend(["-O1", now[usize::from(self.now)]]);
        }
        flags
    }
}

impl Sample {
    /// All of them, by name.
    pub fn all() -> Vec<Self> {
        let mut sources: Vec<PathBuf> = fs::read_dir(SAMPLES)
            .expect("samples/")
            .map(|entry| entry.expect("an entry").path())
            .filter(|path| path.extension().is_some() && !file_name(path).starts_with("lib"))
            .collect();
        sources.sort();
        assert!(!sources.is_empty(), "no samples");
        sources.iter().map(|path| Self::read(path)).collect()
    }

    /// The one called `name`.
    pub fn named(name: &str) -> Self {
        let all = Self::all().into_iter();
        let mut found = all.filter(|sample| sample.name == name);
        found.next().unwrap_or_else(|| panic!("no sample {name}"))
    }

    fn read(source: &Path) -> Self {
        let text = fs::read_to_string(source).expect("a readable sample");
        let extension = source.extension().unwrap_or_default();
        let mut sample = Self {
            name: source
                .file_stem()
                .unwrap_or_default()
                .to_string_lossy()
                .into(),
            source: source.to_owned(),
            language: match extension.to_str() {
                Some("c") => Language::C,
                Some("cpp") => Language::Cxx,
                Some("rs") => Language::Rust,
                _ => panic!("{}: no language known", source.display()),
            },
            flags: Vec::new(),
            flags_gcc: Vec::new(),
            pkg_config: Vec::new(),
            libraries: Vec::new(),
            constructors: None,
            before_init: 0,
            answers: Vec::new(),
        };
        assert!(
            text.starts_with("// "),
            "{}: begins by saying what it shows",
            source.display()
        );
        let header = text.lines().take_while(|line| line.starts_with("//"));
        for line in header.filter_map(|line| line.strip_prefix("//#")) {
            let (name, value) = line.split_once(':').unwrap_or((line, ""));
            let mut words = value.split_whitespace().map(str::to_owned);
            match name.trim() {
                "flags" => sample.flags.extend(words),
                "flags-gcc" => sample.flags_gcc.extend(words),
                "pkg-config" => sample.pkg_config.extend(words),
                kind @ ("library" | "plugin") => sample.libraries.push(Library {
                    source: source.with_file_name(words.next().expect("a file")),
                    flags: words.collect(),
                    linked: kind == "library",
                }),
                "constructors" => {
                    let words: Vec<String> = words.collect();
                    sample.constructors = Some(Constructors {
                        hook: words[0].clone(),
                        calls: words[1].parse().expect("a number of calls"),
                        bytes: words[3].parse().expect("a number of bytes"),
                    });
                }
                "answer" => sample.answers.push(value.trim().to_owned()),
                "before-init" => sample.before_init = value.trim().parse().expect("a number"),
                other => panic!("{}: unknown directive {other}", source.display()),
            }
        }
        sample
    }

    /// Every variant that makes sense for it.
    pub fn variants(&self) -> Vec<Variant> {
        let compilers: &[&str] = match self.language {
            Language::C => &["gcc", "clang"],
            Language::Cxx => &["g++", "clang++"],
            Language::Rust => &["rustc"],
        };
        let mut all = Vec::new();
        for compiler in compilers {
            for (pie, now) in [(true, false), (true, true), (false, false), (false, true)] {
                all.push(Variant { compiler, pie, now });
            }
        }
        all
    }

    /// Builds it in `dir`, with `extra` flags, as `dir/NAME`.
    pub fn build(&self, dir: &Path, variant: Variant, extra: &[&str]) -> PathBuf {
        let compiler = match variant.compiler {
            "rustc" => Command::new(rustc()),
            "clang++" => Command::new(needs("clang").with_file_name("clang++")),
            compiler => Command::new(needs(compiler)),
        };
        let own: &[String] = match variant.compiler {
            "gcc" => &self.flags_gcc,
            _ => &[],
        };
        let mut compiler = compiler.args(variant.flags()).args(own).args(extra);
        if self.language != Language::Rust {
            compiler = compiler.args(["-Wall", "-Wextra", "-Werror"]);
        }
        let gcc = Command::new(needs("gcc")).args(["-Wall", "-Werror"]);
        self.compile(dir, compiler, &gcc)
    }

    /// Builds it with gcc and 6 MiB of data, which is enough to be copied while a plan is made.
    pub fn build_large(&self, dir: &Path) -> PathBuf {
        let data = dir.join("large.c");
        fs::write(&data, "const char large[6 << 20] = {1};\n").expect("its source");
        self.build(dir, Variant::GCC, &[&data.to_string_lossy()])
    }

    /// True for those in C that need no library of the machine beside libc.
    pub fn is_portable(&self) -> bool {
        let sanitized = self.flags.iter().any(|flag| flag.contains("sanitize"));
        self.language == Language::C && self.pkg_config.is_empty() && !sanitized
    }

    /// Builds it in `dir` as `dir/NAME`, and beside it what it loads, which `gcc` compiles.
    pub fn compile(&self, dir: &Path, compiler: Command, gcc: &Command) -> PathBuf {
        let mut linked = Vec::new();
        for library in &self.libraries {
            let file = Path::new(file_name(&library.source)).with_extension("so");
            gcc.clone()
                .args(["-O1", "-shared", "-fPIC"])
                .arg(&library.source)
                .arg(format!("-Wl,-soname,{}", file.display()))
                .arg("-o")
                .arg(dir.join(&file))
                .args(&library.flags)
                .succeed();
            if library.linked {
                linked.push(dir.join(&file).display().to_string());
            }
        }
        let program = dir.join(&self.name);
        let mut compiler = compiler
            .arg(&self.source)
            .arg("-o")
            .arg(&program)
            .args(&self.flags);
        if self.language != Language::Rust {
            compiler = compiler
                .arg("-Wl,-rpath,$ORIGIN")
                .args(linked)
                .args(self.pkg_config_flags());
        }
        compiler.succeed();
        program
    }

    fn pkg_config_flags(&self) -> Vec<String> {
        if self.pkg_config.is_empty() {
            return Vec::new();
        }
        let outcome = Command::new(needs("pkg-config"))
            .args(["--cflags", "--libs"])
            .args(&self.pkg_config)
            .succeed();
        let flags = outcome.stdout();
        flags.split_whitespace().map(str::to_owned).collect()
    }
}

/// The compiler itself, which needs nothing of rustup's environment.
pub fn rustc() -> PathBuf {
    static RUSTC: OnceLock<PathBuf> = OnceLock::new();
    let find = || {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let mut ask = std::process::Command::new(rustc);
        let answer = ask
            .args(["--print", "sysroot"])
            .output()
            .expect("rustc starts");
        let sysroot = String::from_utf8(answer.stdout).expect("a path in UTF-8");
        Path::new(sysroot.trim()).join("bin/rustc")
    };
    RUSTC.get_or_init(find).clone()
}

fn file_name(path: &Path) -> &str {
    path.file_name()
        .and_then(|name| name.to_str())
        .expect("a name in ASCII")
}
