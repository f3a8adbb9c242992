//! `explain` predicts what the loader does: each line that LD_DEBUG=files,reloc prints before a
//! program starts (what is asked for by whom, what is mapped, relocated and initialised, in order) is
//! the line that the explanation says, for every program of this system and of the other releases'
//! trees, and for generated graphs of libraries. There is no list of known exceptions.

use std::path::{Path, PathBuf};

use allocs_tests::explain::{self, Explanation};
use allocs_tests::loader;
use allocs_tests::tree::{self, Tree};
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
    let copy = match system::is_privileged(program) {
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
