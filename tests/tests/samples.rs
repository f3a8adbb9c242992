//! Each sample, built in each way, does after the rewrite what it did before: stdout, stderr and
//! exit status.

use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Command, Dir, Rewrite, trial};
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
    rewritten.assert_same_as(&original);
}
