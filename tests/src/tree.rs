//! Root trees of other Debian releases, with their glibc: made by `tests/trees`.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use crate::{Command, Outcome};

/// A root tree.
#[derive(Debug)]
pub struct Tree {
    /// Debian's name of the release.
    pub release: &'static str,
    /// Its loader says that it initialises an object even where that has no constructor.
    pub announces_all: bool,
    /// Where it is.
    pub root: PathBuf,
}

/// The trees, oldest first.
pub fn all() -> &'static [Tree] {
    static TREES: OnceLock<Vec<Tree>> = OnceLock::new();
    TREES.get_or_init(|| {
        let releases = [
            ("bullseye", false),
            ("bookworm", true),
            ("trixie", true),
            ("sid", true),
        ];
        let tree = |(release, announces_all)| Tree {
            release,
            announces_all,
            root: place().join(release),
        };
        releases.map(tree).into()
    })
}

/// A tree with Debian's essential packages, installed and configured by dpkg.
pub fn essential() -> PathBuf {
    made("essential")
}

/// Debian's kernel, which runs programs for x32.
pub fn kernel() -> PathBuf {
    made("kernel")
}

/// What `tests/trees` made under that name.
pub(crate) fn made(name: &str) -> PathBuf {
    existing(place().join(name))
}

fn existing(path: PathBuf) -> PathBuf {
    assert!(
        path.exists(),
        "{} is missing: run tests/run, or tests/trees",
        path.display()
    );
    path
}

/// As in `tests/trees`.
fn place() -> PathBuf {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let target = || {
        let target = variable("CARGO_TARGET_DIR");
        target.unwrap_or_else(|| Path::new(env!("CARGO_MANIFEST_DIR")).join("../target"))
    };
    let place = variable("ALLOCS_TREES").unwrap_or_else(|| target().join("trees"));
    // tests/run names it relative to the project's root.
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(place)
}

impl Tree {
    /// Fails unless the tree is there.
    pub fn needed(&self) -> &Self {
        existing(self.root.clone());
        self
    }

    /// The dynamically linked executables in its /usr/bin and /usr/sbin: real paths in the tree.
    pub fn programs(&self) -> Vec<PathBuf> {
        let mut all = Vec::new();
        for dir in ["usr/bin", "usr/sbin"] {
            let Ok(entries) = std::fs::read_dir(self.root.join(dir)) else {
                continue;
            };
            for entry in entries {
                let path = entry.expect("an entry").path();
                if path.is_file() && !path.is_symlink() && crate::elf::is_dynamic_executable(&path)
                {
                    all.push(path);
                }
            }
        }
        all.sort();
        all
    }

    /// The path of `file`, which is below the tree, as programs in the tree see it.
    pub fn inside(&self, file: &Path) -> PathBuf {
        Path::new("/").join(file.strip_prefix(&self.root).expect("a file in the tree"))
    }

    /// Runs a program of the tree as if the tree were the machine: with /proc, and with the
    /// directory of temporary files under its own name. `variables` are set for the program only, not
    /// for what brings it there.
    pub fn run(&self, variables: &[(&str, String)], program: &Path, args: &[&str]) -> Outcome {
        const ENTER: &str = "set -e; mkdir -p \"$0$1\"; mount --rbind /proc \"$0/proc\"
            mount --rbind \"$1\" \"$0$1\"; mount --rbind /dev \"$0/dev\"; cd \"$1\"
            root=$0; shift; exec chroot \"$root\" /usr/bin/env \"$@\"";
        let temporary = std::env::temp_dir();
        let variables = variables
            .iter()
            .map(|(name, value)| format!("{name}={value}"));
        Command::new(crate::needs("unshare"))
            .args(["--user", "--map-root-user", "--mount", "sh", "-c", ENTER])
            .args([&self.needed().root, &temporary])
            .args(variables)
            .arg(program)
            .args(args)
            .limit(std::time::Duration::from_secs(30))
            .run()
    }
}
