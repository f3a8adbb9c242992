//! A machine that a test may change: a root tree, and a layer over it that takes every change.

use std::path::{Path, PathBuf};

use crate::{Command, Dir};

/// A root tree whose files stay as they are, whatever is installed there.
#[derive(Debug)]
pub struct Machine {
    tree: PathBuf,
    layer: Dir,
}

impl Machine {
    /// One that begins as `tree`; `/` is this machine. Needs root.
    pub fn over(tree: &Path) -> Self {
        let layer = Dir::new("machine");
        for directory in ["upper", "work", "root"] {
            layer.make(directory);
        }
        Self {
            tree: tree.to_owned(),
            layer,
        }
    }

    /// A command there, which sees the directory of temporary files under its own name. What is run
    /// is the program that the machine has.
    pub fn command(&self, program: impl AsRef<Path>) -> Command {
        const ENTER: &str = "set -e; tree=$1 layer=$2 temporary=$3; shift 3; root=$layer/root
            mount -t overlay -o \"lowerdir=$tree,upperdir=$layer/upper,workdir=$layer/work\" machine \"$root\"
            mkdir -p \"$root$temporary\" \"$root/proc\" \"$root/dev\"
            mount --rbind \"$temporary\" \"$root$temporary\"
            mount --rbind /proc \"$root/proc\"; mount --rbind /dev \"$root/dev\"
            exec chroot \"$root\" env --chdir=\"$PWD\" \"$@\"";
        Command::new(crate::needs("unshare"))
            .args(["--mount", "sh", "-c", ENTER, "sh"])
            .args([&self.tree, &self.layer.path(), &std::env::temp_dir()])
            .arg(program.as_ref())
            .dir(self.layer.path())
    }

    /// A copy of `file` that programs there can read, too.
    pub fn take(&self, file: impl AsRef<Path>) -> PathBuf {
        let copy = self.layer.join(file.as_ref().file_name().expect("a file"));
        std::fs::copy(&file, &copy).expect("a copy");
        copy
    }

    /// Installs Debian packages there, as dpkg does: they have what they depend on, or this fails.
    pub fn install(&self, packages: impl IntoIterator<Item = PathBuf>) {
        self.command("dpkg")
            .args(["--force-unsafe-io", "--install"])
            .args(packages.into_iter().map(|package| self.take(package)))
            .succeed();
    }
}
