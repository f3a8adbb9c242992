//! Make and Meson build the sample `concordance` and rewrite it, each with the recipe of its documentation.

use std::fs;
use std::path::Path;

use allocs_tests::prefix::{Prefix, TEXT, copy_directory, stamp, starts_first};
use allocs_tests::{Command, Dir, needs, trials};
use libtest_mimic::Trial;

/// The sample.
pub(crate) const SAMPLE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../samples/concordance");

pub(crate) fn trials() -> Vec<Trial> {
    trials!["build_systems": make, meson]
}

/// A change to the source at `path` that changes the program.
pub(crate) fn edit(path: &Path) {
    let text = fs::read_to_string(path).expect("a source");
    let edited = text.replace("nobody knows who allocated", "nobody knows");
    assert_ne!(edited, text);
    fs::write(path, edited).expect("written");
}

fn make() {
    let dir = Dir::new("make");
    let prefix = Prefix::new(&dir);
    let source = dir.make("source");
    copy_directory(Path::new(SAMPLE), &source);
    needs("gcc");
    needs("pkg-config");
    let make = |arguments: &str| {
        let runtime = format!("ALLOCS_RUNTIME={}", prefix.runtime().display());
        let make = prefix.command(needs("make")).arg(runtime).dir(&source);
        make.args(arguments.split_whitespace())
    };
    make("-j2").succeed();
    let program = source.join("concordance.allocs");
    starts_first(&program, &prefix.runtime());
    let original = Command::new(source.join("concordance")).stdin(TEXT);
    assert!(
        original
            .succeed()
            .stdout()
            .ends_with("nobody knows who allocated\n")
    );

    let files = [&program, &source.join("main.c"), &prefix.runtime()];
    rebuilds(files.map(|file| file.as_path()), &prefix, || make(""));

    let stage = format!(
        "install PREFIX=/usr DESTDIR={}",
        dir.join("stage").display()
    );
    make(&stage).succeed();
    starts_first(&dir.join("stage/usr/bin/concordance"), &prefix.runtime());
}

/// A build does nothing where nothing has changed, and rewrites the program again when its source or the
/// tool has changed.
pub(crate) fn rebuilds(
    [program, source, runtime]: [&Path; 3],
    prefix: &Prefix,
    build: impl Fn() -> Command,
) {
    let built = stamp(program);
    let outcome = build().succeed();
    assert_eq!(stamp(program), built, "{outcome}nothing was to be done");

    edit(source);
    let outcome = build().succeed();
    let edited = stamp(program);
    assert_ne!(edited, built, "{outcome}the source has changed");
    starts_first(program, runtime);

    prefix.upgrade("allocs-rewrite");
    let outcome = build().succeed();
    assert_ne!(stamp(program), edited, "{outcome}the tool has changed");
    starts_first(program, runtime);

    let upgraded = stamp(program);
    let outcome = build().succeed();
    assert_eq!(stamp(program), upgraded, "{outcome}nothing was to be done");
}

fn meson() {
    let dir = Dir::new("meson");
    let prefix = Prefix::new(&dir);
    let (source, build) = (dir.make("source"), dir.join("build"));
    copy_directory(Path::new(SAMPLE), &source);
    needs("gcc");
    needs("ninja");
    let meson = || prefix.command(needs("meson"));
    let runtime = format!("-Dallocs_runtime={}", prefix.runtime().display());
    meson()
        .args(["setup", "--prefix=/usr", "--libdir=lib", &runtime])
        .args([&build, &source])
        .succeed();
    let compile = || meson().args(["compile", "-C"]).arg(&build);
    compile().succeed();
    let program = build.join("concordance.allocs");
    starts_first(&program, &prefix.runtime());
    let files = [&program, &source.join("main.c"), &prefix.runtime()];
    rebuilds(files.map(|file| file.as_path()), &prefix, compile);

    // What is installed has no trace of the build directory, however often it is installed.
    let installed = dir.join("stage/usr/bin/concordance");
    for arguments in [&["--no-rebuild"], &["--only-changed"], &["--quiet"]] {
        let install = meson().args(["install", "-C"]).arg(&build).args(arguments);
        install.env("DESTDIR", dir.join("stage")).succeed();
        starts_first(&installed, &prefix.runtime());
        let dynamic = Command::new(needs("readelf"))
            .arg("-d")
            .arg(&installed)
            .succeed();
        assert!(dynamic.stdout().contains("[$ORIGIN/../lib]"), "{dynamic}");
    }
}
