//! Generated graphs of libraries: chains, diamonds, cycles and whatever else chance brings, with
//! DF_1_INITFIRST at any depth, and with every way to say where a library is.
//!
//! No object needs libc: the program ends at its entry point by a system call, so that one build runs
//! under every version of the loader.

use std::fmt::Write;
use std::path::PathBuf;

use crate::{Command, Dir, needs};

/// A source of choices: `choose(n)` is a number below `n`.
pub trait Choose {
    /// A number below `below`.
    fn choose(&mut self, below: usize) -> usize;

    /// True in `percent` of a hundred cases.
    fn chance(&mut self, percent: usize) -> bool {
        self.choose(100) < percent
    }
}

/// Directories that libraries may be in.
const DIRS: [&str; 3] = ["d0", "d1", "d2"];

/// Where one of them has libraries for better processors: some loaders look there on some processors.
const BETTER: [&str; 6] = [
    "glibc-hwcaps/x86-64-v2",
    "glibc-hwcaps/x86-64-v3",
    "glibc-hwcaps/x86-64-v4",
    "tls",
    "tls/x86_64",
    "x86_64",
];

/// A program with its libraries.
#[derive(Debug)]
pub struct Graph {
    dir: Dir,
    /// The executable.
    pub program: PathBuf,
    /// LD_LIBRARY_PATH, empty for none.
    pub library_path: String,
    /// LD_PRELOAD, empty for none.
    pub preload: String,
}

/// What one object is like.
struct Plan {
    needs: Vec<usize>,
    home: &'static str,
    flags: Vec<String>,
    constructor: bool,
}

impl Graph {
    /// Builds one. The same choices give the same graph.
    pub fn build(name: &str, choices: &mut impl Choose) -> Self {
        let dir = Dir::new(name);
        for sub in DIRS.iter().chain(&["stub"]) {
            dir.make(sub);
        }
        let count = 2 + choices.choose(12);
        let shape = choices.choose(4);
        let plans: Vec<Plan> = (0..count)
            .map(|index| Plan {
                needs: needs_of(index, count, shape, choices),
                home: DIRS[choices.choose(DIRS.len())],
                flags: [flags(choices), filters(index, count, choices)].concat(),
                constructor: choices.chance(70),
            })
            .collect();
        let roots = 1 + choices.choose(3);
        let program = Plan {
            needs: (0..roots).map(|_| choices.choose(count)).collect(),
            home: ".",
            flags: flags(choices),
            constructor: true,
        };
        let builder = Builder { dir: &dir };
        builder.compile();
        for (index, plan) in plans.iter().enumerate() {
            builder.stub(index, plan);
        }
        for (index, plan) in plans.iter().enumerate() {
            builder.link(
                &format!("{}/lib{index}.so", plan.home),
                Some(index),
                plan,
                choices,
            );
            if choices.chance(15) {
                builder.twin(index, plan, choices);
            }
        }
        builder.link("program", None, &program, choices);
        let library_path = search_path(&dir, choices);
        let preload = preload(&dir, &plans, choices);
        Self {
            program: dir.join("program"),
            library_path,
            preload,
            dir,
        }
    }

    /// The directory that has it all.
    pub fn dir(&self) -> PathBuf {
        self.dir.path()
    }
}

/// Builds a program that needs a chain of `count` libraries, each of which needs the next two: made
/// from one library by writing other names over those in it, which is quicker than a linker.
pub fn many(dir: &Dir, count: usize) -> PathBuf {
    let builder = Builder { dir };
    dir.make("stub");
    builder.compile();
    let linker = needs("ld");
    let name = |index: usize| format!("lib{index:05}.so");
    let linked = |kind: &[&str], soname: Option<&str>, needs: &[String], file: &str| {
        let mut command = Command::new(&linker)
            .args(["--no-as-needed", "-o", file])
            .args(kind);
        command = soname.map_or(command.clone(), |soname| command.args(["-soname", soname]));
        builder.run(command.args(needs.iter().map(|need| format!("stub/{need}"))));
    };
    for index in 0..3 {
        let stub = format!("stub/{}", name(index));
        linked(&["-shared", "plain.o"], Some(&name(index)), &[], &stub);
    }
    let two = [name(1), name(2)];
    linked(
        &["-shared", "constructor.o"],
        Some(&name(0)),
        &two,
        "template",
    );
    let start = [
        "-pie",
        "-dynamic-linker",
        "/lib64/ld-linux-x86-64.so.2",
        "start.o",
    ];
    let path = ["--disable-new-dtags", "-rpath", "$ORIGIN/many"];
    linked(&[&start[..], &path].concat(), None, &[name(0)], "program");

    let template = std::fs::read(dir.join("template")).expect("the template");
    let place = |name: &str| {
        let at = template
            .windows(name.len())
            .position(|bytes| bytes == name.as_bytes());
        at.expect("the name in the template")
    };
    let places = [place(&name(0)), place(&name(1)), place(&name(2))];
    dir.make("many");
    for index in 0..count {
        let mut bytes = template.clone();
        for (step, at) in places.iter().enumerate() {
            // The last ones need themselves: there is nothing behind them.
            let named = name((index + step).min(count - 1));
            bytes[*at..at + named.len()].copy_from_slice(named.as_bytes());
        }
        dir.write(format!("many/{}", name(index)), bytes);
    }
    dir.join("program")
}

/// Indices of the libraries that the one at `index` needs.
fn needs_of(index: usize, count: usize, shape: usize, choices: &mut impl Choose) -> Vec<usize> {
    let next = index + 1;
    let mut needs: Vec<usize> = match shape {
        0 => vec![next],           // a chain
        1 => vec![next, next + 1], // diamonds
        2 => vec![next % count],   // a cycle
        _ => (0..choices.choose(4))
            .map(|_| choices.choose(count))
            .collect(),
    };
    if choices.chance(20) {
        needs.push(choices.choose(count));
    }
    needs.retain(|need| *need < count && *need != index);
    needs
}

/// Linker flags: which of DT_RPATH and DT_RUNPATH, if any, and what else changes the order.
fn flags(choices: &mut impl Choose) -> Vec<String> {
    let mut flags = Vec::new();
    if choices.chance(12) {
        flags.push("-z initfirst".to_owned());
    }
    if choices.chance(8) {
        flags.push("-z nodefaultlib".to_owned());
    }
    if choices.chance(55) {
        let tags = ["--enable-new-dtags", "--disable-new-dtags"][choices.choose(2)];
        let mut parts: Vec<String> = Vec::new();
        for _ in 0..=choices.choose(3) {
            let sub = DIRS[choices.choose(DIRS.len())];
            parts.push(match choices.choose(6) {
                0 => format!("$ORIGIN/{sub}"),
                1 => format!("${{ORIGIN}}/../{sub}//"),
                2 => "/nonexistent".to_owned(),
                3 => "$ORIGIN".to_owned(),
                4 => format!("$ORIGIN/../{sub}/$LIB/$UNKNOWN"),
                _ => format!("$ORIGIN/../{sub}:$ORIGIN/{sub}"),
            });
        }
        flags.push(format!("{tags} -rpath {}", parts.join(":")));
    }
    flags
}

/// Now and then a library is a filter for a later one, which may be missing if it is an auxiliary one.
/// (Filters in a circle crash the loader, in each of its versions.)
fn filters(index: usize, count: usize, choices: &mut impl Choose) -> Vec<String> {
    let mut flags = Vec::new();
    for (flag, end) in [("-F", count), ("-f", count + 2)] {
        let later = end.saturating_sub(index + 1);
        if later > 0 && choices.chance(6) {
            let filtered = index + 1 + choices.choose(later);
            flags.push(format!("{flag} lib{filtered}.so"));
        }
    }
    flags
}

fn search_path(dir: &Dir, choices: &mut impl Choose) -> String {
    // Mostly everything can be found.
    let shown = match choices.choose(10) {
        0 => 0,
        1 => 1,
        _ => DIRS.len(),
    };
    let mut path = String::new();
    for sub in &DIRS[..shown] {
        let separator = [":", ";"][choices.choose(2)];
        let _ = write!(path, "{}/{separator}", dir.join(sub).display());
    }
    path.pop();
    path
}

fn preload(dir: &Dir, plans: &[Plan], choices: &mut impl Choose) -> String {
    if !choices.chance(30) {
        return String::new();
    }
    let mut names = Vec::new();
    for _ in 0..=choices.choose(2) {
        let index = choices.choose(plans.len());
        names.push(match choices.choose(3) {
            0 => format!("lib{index}.so"),
            1 => "libmissing.so".to_owned(),
            _ => dir
                .join(plans[index].home)
                .join(format!("lib{index}.so"))
                .display()
                .to_string(),
        });
    }
    names.join([" ", ":"][choices.choose(2)])
}

struct Builder<'a> {
    dir: &'a Dir,
}

impl Builder<'_> {
    fn compile(&self) {
        let sources = [
            ("plain.s", ".text\nnop\n"),
            (
                "constructor.s",
                ".text\nrun: ret\n.section .init_array,\"aw\",@init_array\n.quad run\n",
            ),
            (
                "start.s",
                ".globl _start\n.text\n_start: mov $60, %eax\nxor %edi, %edi\nsyscall\n",
            ),
        ];
        for (name, text) in sources {
            let text = format!("{text}.section .note.GNU-stack,\"\",@progbits\n");
            self.dir.write(name, text);
            let object = name.replace(".s", ".o");
            self.run(Command::new(needs("as")).args([name, "-o", object.as_str()]));
        }
    }

    fn run(&self, command: Command) {
        command.dir(self.dir.path()).succeed();
    }

    /// What others are linked to: the library's name, and its path as another name of it.
    fn stub(&self, index: usize, plan: &Plan) {
        let name = format!("lib{index}.so");
        let path = format!("$ORIGIN/../{}/{name}", plan.home);
        for (file, soname) in [
            (format!("stub/{name}"), &name),
            (format!("stub/path{index}.so"), &path),
        ] {
            self.run(
                Command::new(needs("ld"))
                    .args(["-shared", "plain.o", "-soname", soname, "-o", &file]),
            );
        }
    }

    fn link(&self, file: &str, index: Option<usize>, plan: &Plan, choices: &mut impl Choose) {
        let object = if plan.constructor {
            "constructor.o"
        } else {
            "plain.o"
        };
        let mut command = Command::new(needs("ld")).args(["--no-as-needed", object, "-o", file]);
        command = match index {
            Some(index) => command.args(["-shared", "-soname", &format!("lib{index}.so")]),
            None => command.args([
                "-pie",
                "-dynamic-linker",
                "/lib64/ld-linux-x86-64.so.2",
                "start.o",
            ]),
        };
        for flag in plan.flags.iter().flat_map(|flags| flags.split(' ')) {
            command = command.arg(flag);
        }
        for need in &plan.needs {
            // The program is not beside the libraries, so a path from there leads elsewhere.
            let stub = match index.is_some() && choices.chance(10) {
                true => format!("stub/path{need}.so"),
                false => format!("stub/lib{need}.so"),
            };
            command = command.arg(stub);
        }
        self.run(command);
    }

    /// The library once more elsewhere: another file, or another name of the same file; now and then
    /// in a directory for better processors.
    fn twin(&self, index: usize, plan: &Plan, choices: &mut impl Choose) {
        let name = format!("lib{index}.so");
        let from = self.dir.join(plan.home).join(&name);
        let sub = DIRS[choices.choose(DIRS.len())];
        let better = match choices.chance(40) {
            true => BETTER[choices.choose(BETTER.len())],
            false => ".",
        };
        let place = self.dir.make(format!("{sub}/{better}")).canonicalize();
        let to = place.expect("the directory").join(name);
        if from == to {
            return;
        }
        match choices.choose(3) {
            0 => {
                std::fs::copy(&from, &to).expect("a copy");
            }
            1 => std::os::unix::fs::symlink(&from, &to).expect("a link"),
            _ => std::fs::hard_link(&from, &to).expect("a link"),
        }
    }
}
