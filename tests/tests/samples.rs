//! Each sample, built in each way, does after the rewrite what it did before: stdout, stderr and
//! exit status. One that asks the runtime gets the answers that it should.

use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Command, Dir, Outcome, Rewrite, trial};
use libtest_mimic::Trial;

pub(crate) fn trials() -> Vec<Trial> {
    let mut all = Vec::new();
    for sample in Sample::all() {
        for variant in sample.variants() {
            let sample = sample.clone();
            let name = format!("samples::{}::{variant}", sample.name);
            all.push(trial(name, move || same(&sample, variant)));
        }
    }
    all
}

fn same(sample: &Sample, variant: Variant) {
    let dir = Dir::new(&format!("{}-{variant}", sample.name));
    let program = sample.build(&dir.path(), variant, &[]);
    let original = Command::new(&program).dir(dir.path()).run();
    assert!(
        original.code().is_some(),
        "{original}the sample itself fails"
    );

    // Rewritten under the same name, beside the same libraries.
    let kept = dir.join("original");
    std::fs::rename(&program, &kept).expect("renamed");
    let result = Rewrite::new(&kept, &program).succeed();
    let rewritten = result.command().dir(dir.path()).run();
    assert_eq!(
        rewritten.ending(),
        original.ending(),
        "{rewritten}original:\n{original}"
    );
    let mut beside_answers = rewritten.clone();
    beside_answers.stdout = without(&sample.answers, &rewritten).into_bytes();
    beside_answers.assert_same_as(&original);
}

/// stdout without the lines that answer, all of which have to be there, in their order.
fn without(answers: &[String], outcome: &Outcome) -> String {
    let stdout = outcome.stdout();
    let mut due = answers.iter().peekable();
    let others = stdout
        .split_inclusive('\n')
        .filter(|line| due.next_if(|answer| *answer == line.trim_end()).is_none())
        .collect();
    assert_eq!(due.next(), None, "{outcome}is no answer");
    others
}
