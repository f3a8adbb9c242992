//! What tools say about a program is the same after the rewrite, but for the runtime: file, ldd, the
//! readelfs, checksec, the kernel's own memory map, and those that packagers run. And it runs wherever the
//! original runs: with any stack limit, at fixed addresses, in little memory.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use allocs_tests::elf::Elf;
use allocs_tests::looked_at::{LookedAt, METADATA, NAME};
use allocs_tests::tool::{self, RUNTIME};
use allocs_tests::{Command, Dir, Outcome, Rewrite, needs, trials};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["tools":
        file_says_the_same,
        ldd_lists_the_runtime_first,
        readelf_has_nothing_to_complain_about,
        notes_and_build_id,
        checksec_says_the_same,
        memory_is_protected_as_before,
        stack_limits_and_fixed_addresses,
        little_memory,
        dpkg_shlibdeps,
        rpm_requirements,
        abidiff_sees_no_change,
    ]
}

fn file_says_the_same() {
    let dir = Dir::new("file");
    for case in LookedAt::all(&dir) {
        let file = |path: &Path| Command::new(needs("file")).arg("-b").arg(path);
        case.same(file, str::to_owned);
    }
}

fn ldd_lists_the_runtime_first() {
    let dir = Dir::new("ldd");
    // Without the addresses, which differ each time.
    let list = |file: &Path| -> Vec<String> {
        let outcome = Command::new(needs("ldd")).arg(file).succeed();
        assert_eq!(outcome.stderr(), "", "{outcome}");
        let lines = outcome.stdout();
        let lines = lines.lines().map(|line| line.split(" (").next());
        lines.map(|line| line.unwrap_or("").to_owned()).collect()
    };
    for case in LookedAt::all(&dir) {
        let [mut before, after] = case.both().map(list);
        // Behind the vDSO, which is no file.
        before.insert(1, format!("\t{}", case.runtime.display()));
        assert_eq!(after, before, "{}", case.result.path.display());
    }
}

fn readelf_has_nothing_to_complain_about() {
    const READERS: [(&str, &[&str]); 4] = [
        ("readelf", &["-aW", "--lint"]),
        ("readelf", &["-W", "--debug-dump"]),
        ("eu-readelf", &["-a"]),
        ("llvm-readelf-14", &["-a"]),
    ];
    let complaints = |outcome: &Outcome| -> usize {
        let text = outcome.stdout() + &outcome.stderr();
        let complains = |line: &&str| {
            let words = ["corrupt", "invalid", "warning", "error", "<unknown", "bad "];
            let line = line.to_lowercase();
            words.iter().any(|word| line.contains(word))
        };
        text.lines().filter(complains).count()
    };
    let dir = Dir::new("readelf");
    for case in LookedAt::all(&dir) {
        for (reader, arguments) in READERS {
            let read = |file| Command::new(needs(reader)).args(arguments).arg(file);
            let [before, after] = case.both().map(|file| read(file).succeed());
            assert_eq!(after.stderr(), "", "{after}");
            assert_eq!(complaints(&after), complaints(&before), "{after}");
        }
    }
}

/// Where the notes are may differ, and does where the program grew.
fn notes_and_build_id() {
    let dir = Dir::new("notes");
    let readelf = |file: &Path| Command::new(needs("readelf")).arg("-nW").arg(file);
    let inspect = |file: &Path| {
        Command::new(needs("systemd-analyze"))
            .arg("inspect-elf")
            .arg(file)
    };
    let unstrip = |file: &Path| {
        Command::new(needs("eu-unstrip"))
            .args(["-n", "-e"])
            .arg(file)
    };
    for case in LookedAt::all(&dir) {
        case.same(readelf, str::to_owned);
        let notes = readelf(&case.result.path).succeed();
        assert!(notes.stdout().contains(METADATA), "{notes}");
        case.same(inspect, |text| {
            let lines = text.lines().filter(|line| !line.contains("path: "));
            lines.collect()
        });
        let name = inspect(&case.result.path).succeed();
        assert!(name.stdout().contains("name: answer"), "{name}");
        // START+SIZE BUILD-ID@ADDRESS FILE DEBUG-FILE
        case.same(unstrip, |text| {
            let id = text
                .split_whitespace()
                .nth(1)
                .and_then(|word| word.split('@').next());
            id.expect("a build-id").to_owned()
        });
    }
}

fn checksec_says_the_same() {
    let dir = Dir::new("checksec");
    for case in LookedAt::all(&dir) {
        let check = |file: &Path| {
            Command::new(needs("checksec"))
                .arg("--output=csv")
                .arg(format!("--file={NAME}"))
                .dir(file.parent().expect("a directory"))
        };
        case.same(check, str::to_owned);
        let facts = check(&case.result.path).succeed();
        for fact in ["Full RELRO", "NX enabled"] {
            assert!(facts.stdout().contains(fact), "{facts}");
        }
    }
}

/// As the kernel has it: each page of the program that was there before has the permissions that it had, the
/// others are read-only, and no page of the process is both writable and executable.
fn memory_is_protected_as_before() {
    let dir = Dir::new("memory");
    for case in LookedAt::all(&dir) {
        let [before, after] = case.both().map(|file| {
            let maps = Command::new(file).arg("maps").succeed().stdout();
            for line in maps.lines() {
                let permissions = line.split(' ').nth(1).expect("permissions");
                let both = permissions.contains('w') && permissions.contains('x');
                assert!(!both, "writable and executable: {line}");
            }
            pages(&maps, file)
        });
        for (page, permissions) in &after {
            let had = before.get(page).map_or("r--p", String::as_str);
            assert_eq!(permissions, had, "page {page:#x} of {:?}", case.result.path);
        }
        let lost = before.keys().find(|page| !after.contains_key(page));
        assert_eq!(lost, None, "{:?}", case.result.path);

        // What the loader makes read-only when it has relocated the program, .dynamic among it.
        let elf = Elf::read(&case.result.path);
        let relro = elf.relro().expect("PT_GNU_RELRO");
        let (start, end) = (relro.start & !0xfff, relro.end & !0xfff);
        assert!(start < end, "{relro:x?}");
        for page in (start..end).step_by(4096) {
            let page = page - lowest(&elf);
            assert_eq!(after[&page], "r--p", "page {page:#x} is under RELRO");
        }
    }
}

fn lowest(elf: &Elf) -> u64 {
    let load = elf.segment(object::elf::PT_LOAD.0).expect("PT_LOAD");
    load.memory.start & !0xfff
}

/// The pages that map `file`, counted in bytes from its first, and their permissions.
fn pages(maps: &str, file: &Path) -> BTreeMap<u64, String> {
    let file = file.to_str().expect("a path in UTF-8");
    let mut pages = BTreeMap::new();
    let mut first = None;
    for line in maps.lines().filter(|line| line.ends_with(file)) {
        let (range, rest) = line.split_once(' ').expect("a range");
        let (start, end) = range.split_once('-').expect("a range");
        let [start, end] = [start, end].map(|at| u64::from_str_radix(at, 16).expect("hex"));
        let first = *first.get_or_insert(start);
        for page in (start..end).step_by(4096) {
            pages.insert(page - first, rest[..4].to_owned());
        }
    }
    pages
}

/// Without a stack limit, the kernel lays libraries out from the other end of memory; without
/// randomisation, all is where it always is, close together.
fn stack_limits_and_fixed_addresses() {
    let dir = Dir::new("addresses");
    let setarch = needs("setarch").display().to_string();
    for case in LookedAt::all(&dir) {
        for script in [
            "ulimit -s unlimited && exec \"$0\"",
            "ulimit -s 128 && exec \"$0\"",
            &format!("exec {setarch} -R \"$0\""),
            &format!("exec {setarch} -R -L \"$0\""),
            &format!("exec {setarch} --read-implies-exec \"$0\""),
            &format!("ulimit -s unlimited && exec {setarch} -R \"$0\""),
        ] {
            case.same(
                |file| Command::new("sh").args(["-c", script]).arg(file),
                str::to_owned,
            );
        }
    }
}

/// The limits on memory in which the original runs leave room for the rewritten program, too: the runtime
/// is small, and takes its memory when it needs it.
fn little_memory() {
    const ROOM: u64 = 4 << 20;
    let dir = Dir::new("little-memory");
    let prlimit = |file: &Path, limit: &str, bytes: u64| {
        Command::new(needs("prlimit"))
            .arg(format!("--{limit}={bytes}"))
            .arg(file)
            .run()
    };
    for case in LookedAt::all(&dir) {
        for limit in ["as", "data"] {
            let mut enough = 64 << 10;
            while prlimit(&case.original, limit, enough).code() != Some(0) {
                enough += 64 << 10;
                assert!(enough < 64 << 20, "the original does not run");
            }
            let outcome = prlimit(&case.result.path, limit, enough + ROOM);
            assert_eq!(outcome.stdout(), "42\n", "{outcome}{limit} {enough}");
        }
    }
}

/// docs/limits.md: with a soname, the runtime's package is a dependency like any other; with a path,
/// dpkg-shlibdeps stops, as it does with every path in DT_NEEDED.
fn dpkg_shlibdeps() {
    let dir = Dir::new("shlibdeps");
    dir.write(
        "debian/control",
        "Source: answer\nMaintainer: A <a@example.org>\n\nPackage: answer\nArchitecture: any\n",
    );
    // In the place of what the runtime's own package says of it.
    dir.write(
        "debian/shlibs.local",
        "liballocs_rt 1 allocs-runtime (>= 1.0)\n",
    );
    let program = dir.join("program");
    fs::copy("/bin/ls", &program).expect("a copy");
    let runtime = dir.make("lib").join(RUNTIME);
    fs::copy(tool::runtime(), &runtime).expect("a copy");
    let depends = |file: &Path| {
        let command = Command::new(needs("dpkg-shlibdeps"))
            .args(["-O", "-llib"])
            .arg(file);
        command.dir(dir.path())
    };

    let soname = dir.join("soname");
    Rewrite::new(&program, &soname)
        .arg("--runtime")
        .arg(RUNTIME)
        .map(|command| command.env("LD_LIBRARY_PATH", dir.join("lib")))
        .succeed();
    let [before, after] = [&program, &soname].map(|file| {
        let outcome = depends(file).succeed();
        let line = outcome.stdout();
        let list = line.trim().strip_prefix("shlibs:Depends=");
        let list = list.unwrap_or_else(|| panic!("{outcome}no dependencies"));
        list.split(", ").map(str::to_owned).collect::<Vec<_>>()
    });
    let (new, kept): (Vec<_>, Vec<_>) = after
        .into_iter()
        .partition(|package| package.starts_with("allocs-runtime"));
    assert_eq!(new, ["allocs-runtime (>= 1.0)"]);
    assert_eq!(kept, before);

    for (name, runtime) in [
        ("absolute", runtime.display().to_string()),
        ("origin", format!("$ORIGIN/lib/{RUNTIME}")),
    ] {
        let path = dir.join(name);
        let rewrite = Rewrite::new(&program, &path).arg("--runtime");
        rewrite.arg(&runtime).succeed();
        let outcome = depends(&path).run();
        let message = format!("cannot find library {runtime} needed by ");
        assert!(outcome.stderr().contains(&message), "{outcome}");
    }
}

/// The runtime is required where it is named by its soname, and a path is the packager's own business.
fn rpm_requirements() {
    let dir = Dir::new("rpm");
    let requires = |file: &Path| -> Vec<String> {
        let outcome = Command::new(needs("/usr/lib/rpm/elfdeps"))
            .arg("--requires")
            .arg(file)
            .succeed();
        let mut list: Vec<_> = outcome.stdout().lines().map(str::to_owned).collect();
        list.sort();
        list
    };
    for case in LookedAt::all(&dir) {
        let [before, after] = case.both().map(requires);
        assert_eq!(after, before);

        let lib = case.runtime.parent().expect("a directory");
        let soname = case.result.path.with_file_name("soname");
        Rewrite::new(&case.original, &soname)
            .arg("--runtime")
            .arg(RUNTIME)
            .map(|command| command.env("LD_LIBRARY_PATH", lib))
            .succeed();
        let new: Vec<_> = requires(&soname)
            .into_iter()
            .filter(|requirement| !before.contains(requirement))
            .collect();
        let provided = Command::new(needs("/usr/lib/rpm/elfdeps"))
            .arg("--provides")
            .arg(&case.runtime)
            .succeed();
        assert_eq!(new.join("\n") + "\n", provided.stdout());
    }
}

fn abidiff_sees_no_change() {
    let dir = Dir::new("abidiff");
    for case in LookedAt::all(&dir) {
        let outcome = Command::new(needs("abidiff")).args(case.both()).succeed();
        assert_eq!(outcome.stdout(), "", "{outcome}");
    }
}
