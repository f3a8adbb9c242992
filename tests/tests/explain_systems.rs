//! `explain` for another system than this one: programs for musl, and a sysroot.

use std::path::{Path, PathBuf};

use allocs_tests::explain::{self, Explanation};
use allocs_tests::{Command, Dir, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["explain_systems":
        musl_order,
        musl_path_file,
        sysroot_links,
        better_processors,
    ]
}

/// Libraries for musl, whose constructors print their own names.
fn musl_libraries(dir: &Dir) -> PathBuf {
    let musl = |args: &str| {
        let command = Command::new(needs("musl-gcc")).dir(dir.path());
        command.args(args.split_whitespace())
    };
    dir.make("sub");
    let tell = |name: &str, stubs: &str, more: &str| {
        let text = format!(
            "#include <unistd.h>\n__attribute__((constructor)) static void tell(void) \
             {{ write(1, \"{name}\\n\", {}); }}\n",
            name.len() + 1
        );
        let source = dir.write(format!("{name}.c"), text);
        let library = "-shared -fPIC -Wl,--no-as-needed";
        musl(&format!("{library} {more} -Wl,-soname,{name} -o {name}"))
            .arg(source)
            .args(stubs.split_whitespace())
            .succeed();
    };
    tell("libd.so", "", "");
    tell("libc2.so", "-L. -l:libd.so", "");
    tell(
        "libb.so",
        "-L. -l:libd.so -l:libc2.so",
        "-Wl,-rpath,$ORIGIN/sub",
    );
    tell("libd.so", "-L. -l:libb.so", "");
    std::fs::rename(dir.join("libc2.so"), dir.join("sub/libc2.so")).expect("moved");
    let main = dir.write("main.c", "int main(void) { return 0; }\n");
    musl("-Wl,--no-as-needed,-rpath,$ORIGIN,-rpath-link,sub -o main")
        .arg(main)
        .args(["-L.", "-l:libb.so", "-l:libd.so"])
        .succeed();
    dir.join("main")
}

/// musl has no LD_DEBUG: its own list, and what the constructors print, are compared.
fn musl_order() {
    let dir = Dir::new("explain-musl");
    let original = musl_libraries(&dir);
    let rewritten = Rewrite::new(&original, dir.join("rewritten"))
        .succeed()
        .path;
    for prog in [&original, &rewritten] {
        let explanation = explain::of(prog);
        let list = Command::new("/lib/ld-musl-x86_64.so.1")
            .arg("--list")
            .arg(prog)
            .succeed();
        let list = list.stdout();
        // "\tNAME => PATH (ADDRESS)"; the loader itself has its own line, whenever it is needed.
        let listed: Vec<_> = list
            .lines()
            .filter_map(|line| line.split_once(" => ")?.1.split_once(" ("))
            .map(|(path, _)| path.to_owned())
            .filter(|path| !path.contains("ld-musl"))
            .collect();
        let order = explanation.json["load_order"]
            .as_array()
            .expect("a list")
            .iter();
        let order = order.filter_map(|object| object["path"].as_str()).skip(1);
        let order: Vec<_> = order.filter(|path| !path.contains("ld-musl")).collect();
        assert_eq!(order, listed, "{}", explanation.outcome);

        let printed = Command::new(prog).succeed().stdout();
        let initialised = explanation.strings("initialised");
        let names = initialised
            .iter()
            .filter_map(|path| path.rsplit('/').next());
        let told: Vec<_> = names.filter(|name| printed.contains(*name)).collect();
        assert_eq!(
            told,
            printed.lines().collect::<Vec<_>>(),
            "{}",
            explanation.outcome
        );
        assert_eq!(told.len(), 3, "{printed}");
    }
    assert_eq!(explain::of(&rewritten).json["runtime"]["phase"], "entry");
}

/// `name` in the sysroot `root` of the directory.
fn in_root(dir: &Dir, name: &str) -> Explanation {
    let root = dir.join("root");
    Explanation::new([Path::new("--sysroot"), &root, &root.join(name)])
}

/// In a sysroot, musl's path file there counts.
fn musl_path_file() {
    let dir = Dir::new("explain-musl-path");
    let source = dir.write("empty.c", "");
    let musl = || Command::new(needs("musl-gcc")).dir(dir.path());
    musl()
        .args(["-shared", "-o", "libodd.so"])
        .arg(&source)
        .succeed();
    let main = dir.write("main.c", "int main(void) { return 0; }\n");
    let args = ["-Wl,--no-as-needed", "-o", "main"];
    musl().args(args).arg(main).args(["-L.", "-lodd"]).succeed();
    dir.make("root/lib");
    dir.make("root/odd/place");
    std::fs::copy(dir.join("libodd.so"), dir.join("root/odd/place/libodd.so")).expect("a copy");
    std::fs::copy(dir.join("main"), dir.join("root/main")).expect("a copy");
    let explained = || in_root(&dir, "main");
    assert_eq!(explained().missing(), ["libodd.so"]);
    dir.write("root/etc/ld-musl-x86_64.path", "/nowhere:\n/odd/place\n");
    let explanation = explained();
    assert_eq!(
        explanation.missing(),
        Vec::<String>::new(),
        "{}",
        explanation.outcome
    );
    assert_eq!(
        explanation.json["load_order"][1]["path"],
        "/odd/place/libodd.so"
    );
}

/// An absolute link in a sysroot leads to a place in the sysroot, and never out of it.
fn sysroot_links() {
    let dir = Dir::new("explain-sysroot");
    dir.make("root/lib64");
    dir.make("root/real");
    let copy = |from: &str, to: &str| std::fs::copy(from, dir.join(to)).expect("a copy");
    copy("/lib64/ld-linux-x86-64.so.2", "root/real/ld.so");
    copy("/lib/x86_64-linux-gnu/libc.so.6", "root/real/libc.so.6");
    copy("/bin/true", "root/true");
    let link = |to: &str, at: &str| std::os::unix::fs::symlink(to, dir.join(at)).expect("a link");
    link("/real/ld.so", "root/lib64/ld-linux-x86-64.so.2");
    dir.make("root/usr/lib");
    let explained = || in_root(&dir, "true");
    // The host has a libc.so.6 in its directories; the tree does not.
    assert_eq!(explained().missing(), ["libc.so.6"]);
    link("../../../../../../real/libc.so.6", "root/usr/lib/libc.so.6");
    let explanation = explained();
    assert_eq!(
        explanation.missing(),
        Vec::<String>::new(),
        "{}",
        explanation.outcome
    );
    assert_eq!(
        explanation.json["load_order"][1]["path"],
        "/usr/lib/libc.so.6"
    );
    assert_eq!(
        explanation.json["load_order"][1]["found_by"],
        "default directory"
    );
}

/// Of the entries that ld.so.cache has for a name, the one for the best processor that this is, as the
/// loader in that tree takes it.
fn better_processors() {
    let dir = Dir::new("explain-hwcaps");
    let root = dir.make("root");
    let libraries = "root/usr/lib/x86_64-linux-gnu";
    for place in ["root/lib64", "root/etc", libraries] {
        dir.make(place);
    }
    let copy = |from: &str, to: &str| std::fs::copy(from, dir.join(to)).expect("a copy");
    copy(
        "/lib64/ld-linux-x86-64.so.2",
        "root/lib64/ld-linux-x86-64.so.2",
    );
    let libc = "/lib/x86_64-linux-gnu/libc.so.6";
    copy(libc, &format!("{libraries}/libc.so.6"));
    let library = dir.write("odd.c", "int odd(void) { return 0; }\n");
    let main = dir.write(
        "main.c",
        "int odd(void); int main(void) { return odd(); }\n",
    );
    let gcc = || Command::new(needs("gcc")).dir(dir.path());
    let soname = "-Wl,-soname,libodd.so.1";
    gcc()
        .args(["-shared", "-fPIC", soname, "-o", "libodd.so"])
        .arg(library)
        .succeed();
    gcc()
        .args(["-o", "root/main"])
        .arg(main)
        .args(["-L.", "-lodd"])
        .succeed();
    let built = std::fs::read(dir.join("libodd.so")).expect("the library");
    let levels = [
        "",
        "glibc-hwcaps/x86-64-v2/",
        "glibc-hwcaps/x86-64-v3/",
        "glibc-hwcaps/x86-64-v4/",
    ];
    let mut found = Vec::new();
    for level in levels {
        dir.write(format!("{libraries}/{level}libodd.so.1"), &built);
        Command::new(needs("ldconfig"))
            .arg("-r")
            .arg(&root)
            .succeed();
        let explanation = in_root(&dir, "main");
        let path = explanation.json["load_order"][1]["path"].clone();
        assert_eq!(explanation.json["load_order"][1]["found_by"], "ld.so.cache");
        let list = Command::new(needs("unshare"))
            .args(["--user", "--map-root-user", "--root"])
            .arg(&root)
            .args(["/lib64/ld-linux-x86-64.so.2", "--list", "/main"])
            .succeed();
        let path = path.as_str().expect("a path");
        assert!(
            list.stdout().contains(&format!("libodd.so.1 => {path} (")),
            "{path}: {list}"
        );
        found.push(path.to_owned());
    }
    // Every processor that Debian's tests run on has the second level.
    assert_ne!(found[0], found[1], "{found:?}");
}
