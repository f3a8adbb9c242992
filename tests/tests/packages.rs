//! What users install: the tarballs of a release, the project's Debian packages, and packages that are rewritten while
//! they are built. All of them are made here by the commands in docs/packaging.md and installed where nothing else is.
//!
//! The release is built with less optimisation, by cargo's own variables, to save minutes; nothing else differs.

use std::fs;
use std::io::Write;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use allocs_tests::machine::Machine;
use allocs_tests::{Command, Dir, Outcome, elf, needs, tool, tree, trials};
use libtest_mimic::Trial;

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");
const VERSION: &str = env!("CARGO_PKG_VERSION");
const SONAME: &str = "liballocs_rt.so.1";

pub(crate) fn trials() -> Vec<Trial> {
    trials!["packages":
        debian,
        debhelper,
        debhelper_bad,
        debhelper_files,
        release,
        release_refused,
    ]
}

/// A shell with cargo in its PATH, and with builds that take less time than a user's.
fn shell(script: &str, dir: &Path) -> Command {
    let variable = |name| std::env::var_os(name).map(PathBuf::from);
    let cargo = variable("CARGO").expect("cargo runs this");
    let toolchain = cargo.parent().expect("a directory").display();
    let home = || variable("HOME").expect("HOME").join(".cargo");
    Command::new("sh")
        .args(["-euc", script])
        .dir(dir)
        .limit(Duration::from_secs(1800))
        .env("PATH", format!("{toolchain}:/usr/bin:/bin:/usr/sbin:/sbin"))
        .env("CARGO_HOME", variable("CARGO_HOME").unwrap_or_else(home))
        .env("CARGO_PROFILE_RELEASE_LTO", "off")
        .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")
        .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "1")
}

/// The commands in docs/packaging.md that have `words` among them.
fn documented(words: &str) -> String {
    let text = fs::read_to_string(format!("{ROOT}/docs/packaging.md")).expect("the document");
    let mut blocks = text
        .split("```")
        .filter_map(|block| block.strip_prefix("sh\n"));
    let block = blocks.find(|block| block.contains(words));
    block
        .unwrap_or_else(|| panic!("no commands with {words}"))
        .to_owned()
}

/// A command in a copy of the sources as they are here, with the repository of a release.
fn in_sources(script: &str, dir: &Path) -> Command {
    needs("/usr/bin/git");
    let git = |script: &str| {
        let command = shell(script, dir).env("GIT_CONFIG_GLOBAL", "/dev/null");
        ["AUTHOR", "COMMITTER"]
            .iter()
            .fold(command, |command, who| {
                let command = command.env(format!("GIT_{who}_NAME"), "a");
                command.env(format!("GIT_{who}_EMAIL"), "a@example.org")
            })
    };
    fs::create_dir(dir).expect("a new directory");
    let copy = "here=$PWD; cd \"$1\"
        git ls-files -z --cached --others --exclude-standard |
            xargs -0 cp --parents --no-dereference --target-directory=\"$here\"
        cd \"$here\"; git init --quiet; sed -i \"s/^## Unreleased/## $2/\" CHANGELOG.md
        git add --all; git commit --quiet --message=all";
    git(copy).args(["sh", ROOT, VERSION]).succeed();
    git(script)
}

/// A new directory that is kept, for what is made once; the next run makes it anew.
fn place(name: &str) -> PathBuf {
    let place = tool::binary().with_file_name("allocs-packages").join(name);
    if place.exists() {
        fs::remove_dir_all(&place).expect("what an earlier run left");
    }
    fs::create_dir_all(&place).expect("a directory beside the binary");
    place
}

/// The tarballs of a release.
fn tarballs() -> &'static Path {
    static OUT: OnceLock<PathBuf> = OnceLock::new();
    OUT.get_or_init(|| {
        let dir = Dir::new("release");
        let out = place("release");
        in_sources("rewriter/dist/release \"$1\"", &dir.join("sources"))
            .args([Path::new("sh"), &out])
            .succeed();
        out
    })
}

/// The project's Debian packages, with what dpkg-buildpackage and lintian said.
fn packages() -> &'static (PathBuf, Outcome) {
    static OUT: OnceLock<(PathBuf, Outcome)> = OnceLock::new();
    OUT.get_or_init(|| {
        for program in ["dh", "dpkg-buildpackage", "lintian", "pod2man"] {
            needs(program);
        }
        let out = place("debian");
        for file in entries(tarballs()) {
            symlink(&file, out.join(file.file_name().expect("a name"))).expect("a link");
        }
        let outcome = shell(&documented("orig-vendor"), &out).succeed();
        fs::remove_dir_all(out.join(format!("allocs-rewrite-{VERSION}"))).expect("removed");
        (out, outcome)
    })
}

fn entries(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).expect("a directory");
    let mut all: Vec<PathBuf> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    all.sort();
    all
}

fn package(name: &str) -> PathBuf {
    packages().0.join(format!("{name}_{VERSION}-1_amd64.deb"))
}

/// A machine with nothing but Debian's essential packages.
fn clean() -> Machine {
    Machine::over(&tree::essential())
}

/// This machine, with the project's packages installed.
fn builder() -> Machine {
    let machine = Machine::over(Path::new("/"));
    machine.install(["liballocs-rt1", "liballocs-rt-dev", "allocs-rewrite"].map(package));
    machine
}

/// The tarball of the program works below any prefix, and has everything that docs/packaging.md says.
fn release() {
    let dir = Dir::new("prefix");
    let name = format!("allocs-rewrite-{VERSION}-x86_64-linux-gnu.tar.gz");
    Command::line("tar --strip-components=1 -xf")
        .arg(tarballs().join(name))
        .arg("-C")
        .arg(dir.path())
        .succeed();
    let program = dir.join("true");
    let library = dir.join("lib").join(SONAME);
    Command::new(dir.join("bin/allocs-rewrite"))
        .args(["/bin/true", "--runtime"])
        .arg(&library)
        .arg("-o")
        .arg(&program)
        .succeed();
    let outcome = Command::new(&program).env("ALLOCS_REPORT", "-").succeed();
    assert!(
        outcome.stderr().contains("started: relocation"),
        "{outcome}"
    );

    // What is embedded is what is installed.
    Command::new(dir.join("bin/allocs-rewrite"))
        .args([
            Path::new("/bin/true"),
            Path::new("-o"),
            &dir.make("embedded").join("true"),
        ])
        .succeed();
    assert_eq!(
        fs::read(dir.join("embedded").join(SONAME)).expect("the embedded runtime"),
        fs::read(&library).expect("the installed runtime"),
    );
    assert_eq!(
        fs::read_link(dir.join("lib/liballocs_rt.so")).expect("a link"),
        Path::new(SONAME)
    );

    let source = dir.write(
        "asks.c",
        "#include <allocs.h>\nint main(void) { return alloc_get_size != 0; }\n",
    );
    let flags = Command::line("pkg-config --cflags allocs-rt")
        .env("PKG_CONFIG_PATH", dir.join("share/pkgconfig"))
        .succeed();
    Command::new(needs("gcc"))
        .arg("-fsyntax-only")
        .arg(source)
        .args(flags.stdout().split_whitespace())
        .succeed();
    for schema in ["explain", "rewrite", "runtime-report"] {
        let schema = dir.join(format!("share/allocs-rewrite/schema/{schema}.schema.json"));
        assert!(schema.is_file(), "{} is missing", schema.display());
    }
    let licences =
        fs::read_to_string(dir.join("share/doc/allocs-rewrite/THIRD-PARTY")).expect("THIRD-PARTY");
    for crate_ in ["clap", "goblin", "iced-x86", "object", "serde_json"] {
        assert!(
            licences.contains(&format!("\n{crate_}-")),
            "{crate_} is missing"
        );
    }
}

/// No release of what is not committed, or of a version that the changelogs have not.
fn release_refused() {
    let refused = |change: &str, says: &str| {
        let dir = Dir::new("release");
        let script = format!("{change}; exec rewriter/dist/release ../out");
        let outcome = in_sources(&script, &dir.join("sources")).run();
        assert_eq!(outcome.code(), Some(1), "{outcome}");
        let stderr = outcome.stderr();
        assert!(
            stderr.contains(says) && stderr.lines().count() == 1,
            "{outcome}"
        );
        assert!(entries(&dir.join("out")).is_empty(), "{outcome}");
    };
    let commit = "git commit --quiet --all --message=change";
    refused("echo >>README.md", "the working tree has changes");
    refused("touch new", "the working tree has changes");
    refused(
        &format!("sed -i s/^##/#/ CHANGELOG.md; {commit}"),
        "CHANGELOG.md has no section",
    );
    refused(
        &format!("sed -i s/{VERSION}-1/9-1/ rewriter/dist/debian/changelog; {commit}"),
        "rewriter/dist/debian/changelog does not begin with",
    );
}

/// The packages pass lintian, depend on what they need, work where they are installed, and go away again.
fn debian() {
    let (_, outcome) = packages();
    assert!(!outcome.stdout().contains("\nW: "), "{outcome}");
    let field = |name, field| {
        let outcome = Command::line("dpkg-deb --field")
            .arg(package(name))
            .arg(field)
            .succeed();
        outcome.stdout().trim().to_owned()
    };
    assert_eq!(field("liballocs-rt1", "Multi-Arch"), "same");
    let depends = field("allocs-rewrite", "Depends");
    assert!(
        depends.contains(&format!("liballocs-rt1 (= {VERSION}-1)")),
        "{depends}"
    );

    let machine = clean();
    machine.install(["liballocs-rt1", "liballocs-rt-dev", "allocs-rewrite"].map(package));
    let dir = Dir::new("autopkgtest");
    machine
        .command("sh")
        .arg(machine.take(Path::new(ROOT).join("rewriter/dist/debian/tests/rewrite")))
        .env("AUTOPKGTEST_TMP", dir.path())
        .succeed();
    machine
        .command("dpkg")
        .args([
            "--purge",
            "allocs-rewrite",
            "liballocs-rt-dev",
            "liballocs-rt1",
        ])
        .succeed();
}

/// The sample's packages, built on a machine that has the project's.
fn sample(machine: &Machine, dir: &Dir) -> Outcome {
    Command::line("cp -r")
        .args([Path::new(ROOT).join("samples"), dir.join("samples")])
        .succeed();
    dir.make("build");
    let build = documented("debian-longest");
    machine
        .command("sh")
        .args(["-euc", &format!("cd {}; {build}", dir.path().display())])
        .succeed()
}

/// A package whose programs were rewritten while it was built: it depends on the runtime's package, passes lintian,
/// fits its dbgsym package, is the same bytes wherever it is built, and works in a clean root.
fn debhelper() {
    let machine = builder();
    let [dir, elsewhere] = ["debhelper", "debhelper-built-elsewhere"].map(Dir::new);
    let outcome = sample(&machine, &dir);
    assert!(!outcome.stdout().contains("\nW: "), "{outcome}");
    sample(&machine, &elsewhere);
    let name = |package: &str| format!("build/{package}_1.0_amd64.deb");
    let [built, dbgsym] = ["longest", "longest-dbgsym"].map(|package| dir.join(name(package)));
    for package in ["longest", "longest-dbgsym"] {
        let [one, other] =
            [&dir, &elsewhere].map(|dir| fs::read(dir.join(name(package))).expect("a package"));
        assert!(
            one == other,
            "{package} differs from one directory to another"
        );
    }
    let depends = Command::line("dpkg-deb --field")
        .arg(&built)
        .arg("Depends")
        .succeed();
    assert!(
        depends
            .stdout()
            .contains(&format!("liballocs-rt1 (>= {VERSION})")),
        "{depends}"
    );

    let unpacked = dir.make("unpacked");
    for package in [&built, &dbgsym] {
        Command::line("dpkg-deb --extract")
            .args([package, &unpacked])
            .succeed();
    }
    let [longest, shortest] =
        ["longest", "shortest"].map(|name| unpacked.join("usr/bin").join(name));
    assert_eq!(elf::Elf::read(&longest).needed()[0], SONAME);
    assert!(
        !elf::Elf::read(&shortest)
            .needed()
            .iter()
            .any(|name| name == SONAME)
    );
    let lines = Command::new(needs("gdb"))
        .args(["-nx", "-batch", "-ex"])
        .arg(format!(
            "set debug-file-directory {}",
            unpacked.join("usr/lib/debug").display()
        ))
        .arg("-ex")
        .arg(format!("file {}", longest.display()))
        .args(["-ex", "info line main"])
        .succeed();
    assert!(lines.stdout().contains("longest.c\""), "{lines}");

    let machine = clean();
    let missing = machine
        .command("dpkg")
        .arg("--install")
        .arg(machine.take(&built))
        .run();
    assert!(
        missing.stderr().contains("depends on liballocs-rt1"),
        "{missing}"
    );
    machine.install([package("liballocs-rt1"), built]);
    for program in ["longest", "shortest"] {
        let outcome = machine
            .command(program)
            .stdin("one\nthree\n")
            .env("ALLOCS_REPORT", "-")
            .succeed();
        let rewritten = program == "longest";
        assert_eq!(
            outcome.stdout(),
            if rewritten { "three\n" } else { "one\n" }
        );
        assert_eq!(
            outcome.stderr().contains("started: relocation"),
            rewritten,
            "{outcome}"
        );
    }
}

/// Hard links stay links of one file, and a library that can be run is no program.
fn debhelper_files() {
    let machine = builder();
    let dir = Dir::new("debhelper-files");
    let rules = "execute_after_dh_fixperms:
\tln debian/longest/usr/bin/longest debian/longest/usr/bin/again
\tcp -L /lib/x86_64-linux-gnu/libc.so.6 debian/longest/usr/bin/library
";
    changed_sample(&machine, &dir, "usr/bin", rules).succeed();
    let bin = dir.join("longest/debian/longest/usr/bin");
    let [longest, again] =
        ["longest", "again"].map(|name| fs::metadata(bin.join(name)).expect("a program").ino());
    assert_eq!(longest, again);
    assert_eq!(elf::Elf::read(bin.join("again")).needed()[0], SONAME);
    assert!(
        !elf::Elf::read(bin.join("library"))
            .needed()
            .contains(&SONAME.to_owned())
    );
}

/// A configuration that names nothing, and a program that cannot be rewritten, end the build, which says why.
fn debhelper_bad() {
    let machine = builder();
    for (config, rules, says) in [
        (
            "usr/bin/longset",
            "",
            "Cannot find (any matches for) \"usr/bin/longset\"",
        ),
        (
            "",
            "execute_after_dh_fixperms:\n\tchmod u+s debian/longest/usr/bin/longest\n",
            "--allow-setuid",
        ),
    ] {
        let outcome = changed_sample(&machine, &Dir::new("debhelper-bad"), config, rules).run();
        assert_ne!(outcome.code(), Some(0), "{outcome}");
        assert!(outcome.stderr().contains(says), "{outcome}");
    }
}

/// Builds the sample with another configuration and more rules.
fn changed_sample(machine: &Machine, dir: &Dir, config: &str, rules: &str) -> Command {
    let source = dir.join("longest");
    Command::line("cp -r")
        .args([&Path::new(ROOT).join("samples/debian-longest"), &source])
        .succeed();
    fs::write(source.join("debian/longest.allocs-rewrite"), config).expect("a configuration");
    let mut file = fs::OpenOptions::new()
        .append(true)
        .open(source.join("debian/rules"))
        .expect("debian/rules");
    write!(file, "\n{rules}").expect("more rules");
    let build = format!(
        "cd {}; dpkg-buildpackage --no-sign --build=binary",
        source.display()
    );
    machine.command("sh").args(["-c", &build])
}
