//! Executables of other machines, which are not started: what the checkers say of the result, and whether `undo`
//! gives the original.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use allocs_tests::complaints::Complaints;
use allocs_tests::{Dir, Rewrite, elf};
use serde_json::{Value, json};

use crate::examine::Subject;
use crate::place::Place;
use crate::{results, subjects};

/// How the runtime is named. The first fits in what a program has already; the second needs a longer table of strings.
const RUNTIMES: [(&str, &str); 2] = [
    ("soname", "liballocs_rt.so.1"),
    ("path", "/usr/lib/allocs-rewrite/liballocs_rt.so.1"),
];

/// Rewrites all executables of the place, and prints the table of all machines so far.
pub(crate) fn look_at_all(work: &Path, place: &Place) {
    let places = std::slice::from_ref(place);
    let subjects = subjects(places, &[Path::new("/usr")], elf::has_interpreter);
    let lines = results::of(&subjects, &work.join("machines.jsonl"), look_at);
    print(&lines);
}

/// A line of the results.
fn look_at(subject: &Subject<'_>) -> Value {
    let original = subject.place.path(&subject.program);
    let before = Complaints::of(&original);
    let mut line = json!({ "place": subject.place.name, "program": subject.program });
    for (name, runtime) in RUNTIMES {
        let dir = Dir::new("corpus");
        let rewrite = Rewrite::new(&original, dir.join("rewritten"))
            .args_line(&format!("--init allocs_preinit --runtime {runtime}"));
        let outcome = rewrite.run();
        if outcome.code() != Some(0) {
            line[name] = json!({ "refused": outcome.stderr().trim() });
            continue;
        }
        let result = rewrite.result(&outcome);
        let undone = result.undo() == fs::read(&original).expect("the original");
        line[name] = json!({
            "grown": !result.recycled(),
            "moved": result.moved(),
            "complaints": Complaints::of(&result.path).beyond(&before),
            "undone": undone,
        });
    }
    line
}

/// The table of docs/corpus.md, and below it everything that is not as promised.
fn print(lines: &[Value]) {
    let places = lines.iter().filter_map(|line| line["place"].as_str());
    let places: BTreeSet<&str> = places.collect();
    println!(
        "| machine | executables | refused | grow for the soname | for the path | get a new complaint | not given back |"
    );
    println!("| --- | --- | --- | --- | --- | --- | --- |");
    for place in places {
        let of = lines.iter().filter(|line| line["place"] == place);
        let of: Vec<&Value> = of.collect();
        let number = |is: &dyn Fn(&Value) -> bool| of.iter().filter(|line| is(line)).count();
        let any = |is: fn(&Value) -> bool| {
            number(&|line| RUNTIMES.iter().any(|(name, _)| is(&line[name])))
        };
        println!(
            "| {place} | {} | {} | {} | {} | {} | {} |",
            of.len(),
            any(|result| result["refused"].is_string()),
            number(&|line| line["soname"]["grown"] == true),
            number(&|line| line["path"]["grown"] == true),
            any(has_complaints),
            any(|result| result["undone"] == false),
        );
    }
    for line in lines {
        for (name, _) in RUNTIMES {
            let result = &line[name];
            if result["refused"].is_string() || has_complaints(result) || result["undone"] == false
            {
                println!("{} {} by {name}: {result}", line["place"], line["program"]);
            }
        }
    }
}

fn has_complaints(result: &Value) -> bool {
    result["complaints"]
        .as_array()
        .is_some_and(|all| !all.is_empty())
}
