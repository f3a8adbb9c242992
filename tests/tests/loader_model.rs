//! `explain` predicts what the loader does: each line that LD_DEBUG=files,reloc prints before a
//! program starts (what is asked for by whom, what is mapped, relocated and initialised, in order) is
//! the line that the explanation says, for every program of this system and of the other releases'
//! trees, and for generated graphs of libraries (ALLOCS_SEEDS=FIRST..END runs others). There is no list
//! of known exceptions.

use std::path::{Path, PathBuf};

use allocs_tests::explain::{self, Explanation};
use allocs_tests::graph::{Choose, Graph};
use allocs_tests::loader;
use allocs_tests::tool;
use allocs_tests::tree::{self, Tree};
use allocs_tests::trial::seeds;
use allocs_tests::{Command, Dir, trial};
use libtest_mimic::Trial;

use crate::system;

/// What is printed for the objects; "libs" would add where each was looked for.
pub(crate) const LINES: &str = "files,reloc";

pub(crate) fn trials() -> Vec<Trial> {
    let mut all: Vec<Trial> = system::programs()
        .iter()
        .filter(|program| system::may_start(program))
        .map(|program| {
            let name = format!("loader_model::system::{}", program.display());
            trial(name, || of_system(program))
        })
        .collect();
    for seed in seeds("0..60") {
        all.push(trial(format!("loader_model::graph::{seed}"), move || {
            of_graph(seed);
        }));
    }
    for tree in tree::all() {
        all.push(trial(format!("loader_model::{}", tree.release), || {
            assert!(
                tree.needed().programs().len() > 100,
                "{} has no programs: remove it and run tests/trees",
                tree.root.display()
            );
        }));
        for program in tree.programs().into_iter().filter(|p| system::may_start(p)) {
            let name = tree.inside(&program);
            let name = format!("loader_model::{}::{}", tree.release, name.display());
            all.push(trial(name, move || of_tree(tree, &program)));
        }
    }
    all
}

fn of_system(program: &Path) {
    let dir = Dir::new("loader-model");
    // A copy: for setuid programs LD_DEBUG does nothing.
    let copy = match tool::is_privileged(program) {
        false => None,
        true => {
            let copy = dir.join(program.file_name().expect("a name"));
            Command::line("cp --no-preserve=mode --")
                .args([program, &copy])
                .succeed();
            Command::line("chmod 755").arg(&copy).succeed();
            Some(copy)
        }
    };
    let program: PathBuf = copy.unwrap_or_else(|| program.to_owned());
    let explanation = explain::of(&program);
    let events = loader::trace(LINES, |variables| {
        let command = Command::new(&program)
            .arg("--version")
            .dir(dir.path())
            .env("HOME", dir.path())
            .limit(system::LIMIT)
            .file_size_limit(system::OUTPUT_LIMIT);
        let with = |command: Command, (name, value): &(&str, String)| command.env(name, value);
        variables.iter().fold(command, with).run()
    });
    let predicted = explanation.events(&program.display().to_string(), true);
    explain::assert_same(&predicted, &events, &explanation);
}

fn of_tree(tree: &Tree, program: &Path) {
    let explanation = Explanation::new([Path::new("--sysroot"), &tree.root, program]);
    let inside = tree.inside(program);
    let events = loader::trace(LINES, |variables| {
        tree.run(variables, &inside, &["--version"])
    });
    let predicted = explanation.events(&inside.display().to_string(), tree.announces_all);
    explain::assert_same(&predicted, &events, &explanation);
}

struct Seeded(fastrand::Rng);

impl Choose for Seeded {
    fn choose(&mut self, below: usize) -> usize {
        self.0.usize(..below)
    }
}

/// One generated graph, under this system's loader and the trees'.
fn of_graph(seed: u64) {
    let mut choices = Seeded(fastrand::Rng::with_seed(seed));
    let graph = Graph::build(&format!("graph-{seed}"), &mut choices);
    let program = graph.program.display().to_string();
    let arguments = |sysroot: &[&str]| -> Vec<String> {
        let settings = [
            "--ld-library-path",
            &graph.library_path,
            "--ld-preload",
            &graph.preload,
        ];
        let named = [program.as_str()];
        let all = sysroot.iter().chain(&settings).chain(&named);
        all.map(|argument| (*argument).to_owned()).collect()
    };
    let environment = [
        ("LD_LIBRARY_PATH", graph.library_path.clone()),
        ("LD_PRELOAD", graph.preload.clone()),
    ];

    let explanation = Explanation::new(arguments(&[]));
    let events = loader::trace(LINES, |variables| {
        let all = variables.iter().chain(&environment);
        let command = Command::new(&graph.program).dir(graph.dir());
        all.fold(command, |command, (name, value)| command.env(name, value))
            .run()
    });
    explain::assert_same(&explanation.events(&program, true), &events, &explanation);

    for tree in tree::all() {
        let root = tree.needed().root.display().to_string();
        let explanation = Explanation::new(arguments(&["--sysroot", &root]));
        let events = loader::trace(LINES, |variables| {
            let all: Vec<_> = variables.iter().chain(&environment).cloned().collect();
            tree.run(&all, &graph.program, &[])
        });
        let predicted = explanation.events(&program, tree.announces_all);
        explain::assert_same(&predicted, &events, &explanation);
    }
}
