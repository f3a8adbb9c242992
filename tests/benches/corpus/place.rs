//! Where programs are started: in a root tree that is as it was before at each start, with nothing
//! else of the machine: no network, no other processes, no devices that could be written to.
//!
//! `tests/corpus` has already made a user namespace, so that root here has no rights outside, and
//! `dev`. For each start, an overlay takes what the program writes to memory.

use std::path::{Path, PathBuf};
use std::time::Duration;

use allocs_tests::tool::RUNTIME;
use allocs_tests::{Command, Outcome};

/// No program needs more to print its version; one that prints for ever is stopped.
const OUTPUT_LIMIT: u64 = 64 << 20;

/// Where, in each tree, the runtime is that programs find by an absolute path.
pub(crate) const SHARED: &str = "/mnt";

/// What a start of a program leaves behind, in the tree.
const REPORT: &str = "/mnt/out/report.json";

const ENTER: &str = r#"set -e
tree=$1 top=$2 program=$3 runtime=$4 dev=$5 out=$6 file=$7; shift 7
mount -t tmpfs -o size=1g,mode=755 corpus "$top"
cd "$top"
mkdir -p "upper${program%/*}" upper/usr/lib/x86_64-linux-gnu upper/mnt/out upper/dev upper/proc work root
cp "$runtime" "upper${program%/*}"
cp "$runtime" upper/usr/lib/x86_64-linux-gnu
cp "$runtime" upper/mnt
mount -t overlay -o lowerdir="$tree",upperdir=upper,workdir=work corpus root
mount -t tmpfs -o size=1g corpus root/tmp
mount -t proc proc root/proc
mount --rbind "$dev" root/dev
mount --bind "$out" root/mnt/out
mount --bind "$file" "root$program"
set +e
unshare --root root --wd /tmp "$program" "$@"
exit $?"#;

/// A root tree, and what a start in it needs.
#[derive(Debug)]
pub(crate) struct Place {
    /// What it is called.
    pub(crate) name: String,
    /// The tree.
    pub(crate) root: PathBuf,
    /// The directory of `tests/corpus`.
    pub(crate) work: PathBuf,
}

/// One way to start one program.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Start<'a> {
    /// Its path in the tree.
    pub(crate) program: &'a Path,
    /// The file that is put there: the original, or what was made of it.
    pub(crate) file: &'a Path,
    /// Its argument, if any.
    pub(crate) option: Option<&'a str>,
    /// Its time limit.
    pub(crate) limit: Duration,
    /// The directory that gets the runtime's report.
    pub(crate) out: &'a Path,
}

impl Place {
    /// Where `program` is, outside of the tree.
    pub(crate) fn path(&self, program: &Path) -> PathBuf {
        self.root
            .join(program.strip_prefix("/").expect("a path in the tree"))
    }

    /// Starts a program and waits for its end; everything that it started ends with it.
    pub(crate) fn start(&self, start: Start<'_>) -> Outcome {
        Command::new("unshare")
            .args(["--mount", "--pid", "--fork", "--kill-child", "sh", "-c"])
            .args([ENTER, "enter"])
            .arg(&self.root)
            .arg(self.work.join("top"))
            .arg(start.program)
            .arg(Path::new(SHARED).join(RUNTIME))
            .arg(self.work.join("dev"))
            .arg(start.out)
            .arg(start.file)
            .args(start.option)
            .env("HOME", "/tmp")
            .env("ALLOCS_REPORT", REPORT)
            .limit(start.limit)
            .file_size_limit(OUTPUT_LIMIT)
            .run()
    }
}
