//! `explain` of a tree for another machine says what that tree's ld.so says that it did, under an emulator.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use allocs_tests::explain::{self, Explanation};
use allocs_tests::foreign::{self, Machine, Programs};
use allocs_tests::{Command, Dir, loader, tool, trial};
use libtest_mimic::Trial;

/// What is true of `explain` for a machine.
type Test = fn(Machine);

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for machine in foreign::ALL {
        let tests: &[(&str, Test)] = match machine.programs {
            Programs::Packages => &[("programs", programs), ("cache", cache)],
            Programs::Sources => &[("programs", programs)],
            Programs::None => &[],
        };
        for &(what, test) in tests {
            let name = format!("machines_explained::{}::{what}", machine.name);
            all.push(trial(name, move || test(machine)));
        }
    }
    for (name, processors) in PROCESSORS {
        let name_of_test = format!("machines_explained::{name}::processors");
        all.push(trial(name_of_test, move || better(name, processors)));
    }
    all
}

/// Some fifty programs of the tree, or all where it has fewer.
fn programs(machine: Machine) {
    let unprivileged = |program: &PathBuf| !tool::is_privileged(program);
    let all: Vec<_> = { machine.executables().into_iter() }
        .filter(unprivileged)
        .collect();
    let some = all.iter().step_by((all.len() / 50).max(1));
    // The one with libraries of its own.
    let python = (machine.programs == Programs::Packages).then(|| machine.python());
    for program in some.chain(&python) {
        same_as_loader(machine, &machine.root(), program, None);
    }
}

/// What `explain` says of the program below `root` is what the loader there does. It is told the subdirectories of
/// glibc-hwcaps that `processor`, one that qemu knows, has according to that loader.
fn same_as_loader(
    machine: Machine,
    root: &Path,
    program: &Path,
    processor: Option<&str>,
) -> Explanation {
    let mut args: Vec<OsString> = vec!["--sysroot".into(), root.into(), program.into()];
    if let Some(processor) = processor {
        let searched = searched_first(machine, root, program, processor);
        args.extend(["--glibc-hwcaps-prepend".into(), searched.join(":").into()]);
    }
    let explanation = Explanation::new(args);
    let events = loader::trace("files:libs:reloc", |variables| {
        let command = machine.run_with(variables, root, program);
        on(command, processor).arg("--version").run()
    });
    let called = program.display().to_string();
    explain::assert_same(&explanation.events(&called, true), &events, &explanation);
    explanation
}

fn on(emulator: Command, processor: Option<&str>) -> Command {
    match processor {
        Some(name) => emulator.env("QEMU_CPU", name),
        None => emulator,
    }
}

/// The subdirectories of glibc-hwcaps that `ld.so --help` has as "supported, searched".
fn searched_first(machine: Machine, root: &Path, program: &Path, processor: &str) -> Vec<String> {
    let loader = interpreter(root, program);
    let command = machine.run_with(&[], root, &loader).arg("--help");
    let help = on(command, Some(processor)).succeed().stdout();
    let list = help.split_once("Subdirectories of glibc-hwcaps directories");
    let list = list.map_or("", |(_, list)| list.split("\n\n").next().unwrap_or(""));
    let searched = list
        .lines()
        .filter_map(|line| line.strip_suffix(" (supported, searched)"));
    searched.map(|name| name.trim().to_owned()).collect()
}

/// The loader's file, in the tree.
fn interpreter(root: &Path, program: &Path) -> PathBuf {
    let explanation = Explanation::new([Path::new("--sysroot"), root, program]);
    let path = explanation.json["interpreter"].as_str().expect("a path");
    root.join(path.trim_start_matches('/'))
}

/// A system of one program, libodd.so.1 in /odd/place, and libc; its ld.so.cache is not made yet.
fn system(machine: Machine, dir: &Dir) -> (PathBuf, PathBuf) {
    let tree = machine.root();
    let root = dir.make("root");
    for place in ["root/etc", "root/odd/place"] {
        dir.make(place);
    }
    let sed = Explanation::new([Path::new("--sysroot"), &tree, &tree.join("usr/bin/sed")]);
    let loaded = sed.json["load_order"].as_array().expect("a list");
    let paths = loaded.iter().filter_map(|object| object["path"].as_str());
    let paths = paths.chain(sed.json["interpreter"].as_str());
    for path in paths.filter(|path| path.contains("libc.so.") || path.contains("/ld")) {
        let path = path.trim_start_matches('/');
        let parent = Path::new(path).parent().expect("a directory");
        std::fs::create_dir_all(root.join(parent)).expect("a directory");
        std::fs::copy(tree.join(path), root.join(path)).expect("a copy");
    }
    let library = dir.write("odd.c", "int odd(void) { return 0; }\n");
    let main = dir.write(
        "main.c",
        "int odd(void);\nint main(void) { return odd(); }\n",
    );
    let compiler = || machine.compiler().dir(dir.path());
    compiler()
        .args(["-shared", "-fPIC", "-Wl,-soname,libodd.so.1", "-o"])
        .arg(root.join("odd/place/libodd.so.1"))
        .arg(library)
        .succeed();
    compiler()
        .args(["-o", "root/main"])
        .arg(main)
        .arg("root/odd/place/libodd.so.1")
        .succeed();
    (root.clone(), root.join("main"))
}

/// Has the tree's own ldconfig make the cache.
fn make_cache(machine: Machine, dir: &Dir, root: &Path) {
    dir.write("root/etc/ld.so.conf", "/odd/place\n");
    let tree = machine.root();
    machine
        .run_with(&[], &tree, &tree.join("usr/sbin/ldconfig"))
        .arg("-r")
        .arg(root)
        .succeed();
}

/// A library that only the cache knows.
fn cache(machine: Machine) {
    let dir = Dir::new(&format!("cache-{}", machine.name));
    let (root, program) = system(machine, &dir);
    dir.write("root/etc/ld.so.cache", ""); // or the emulator shows the one of this machine
    let explanation = Explanation::new([Path::new("--sysroot"), &root, &program]);
    assert_eq!(explanation.missing(), ["libodd.so.1"]);
    make_cache(machine, &dir, &root);
    let explanation = same_as_loader(machine, &root, &program, None);
    let found = &explanation.json["load_order"][1];
    assert_eq!(found["path"], "/odd/place/libodd.so.1");
    assert_eq!(found["found_by"], "ld.so.cache");
}

/// qemu's processors of a machine, the plainest first, and what of glibc-hwcaps each takes. qemu 7.2 has z13, and not
/// all of z14.
type Processors = &'static [(&'static str, Option<&'static str>)];

const PROCESSORS: [(&str, Processors); 2] = [
    (
        "ppc64el",
        &[
            ("power8", None),
            ("power9", Some("power9")),
            ("power10", Some("power10")),
        ],
    ),
    ("s390x", &[("z900", None), ("max", Some("z13"))]),
];

/// The library for the best processor that this is, in the loader's directories and from the cache.
fn better(name: &str, processors: Processors) {
    let find = foreign::ALL
        .into_iter()
        .find(|machine| machine.name == name);
    let machine = find.expect("a machine");
    let dir = Dir::new(&format!("processors-{name}"));
    let (root, program) = system(machine, &dir);
    let library = std::fs::read(root.join("odd/place/libodd.so.1")).expect("the library");
    for hwcaps in processors.iter().filter_map(|(_, hwcaps)| *hwcaps) {
        dir.write(
            format!("root/odd/place/glibc-hwcaps/{hwcaps}/libodd.so.1"),
            &library,
        );
    }
    make_cache(machine, &dir, &root);
    for &(processor, hwcaps) in processors {
        let explanation = same_as_loader(machine, &root, &program, Some(processor));
        let expected = match hwcaps {
            Some(hwcaps) => format!("/odd/place/glibc-hwcaps/{hwcaps}/libodd.so.1"),
            None => "/odd/place/libodd.so.1".to_owned(),
        };
        assert_eq!(explanation.json["load_order"][1]["path"], *expected);
    }
}
