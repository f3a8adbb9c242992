//! The tables of docs/corpus.md, from the lines of the results.

use std::collections::BTreeMap;

use allocs_tests::others::Other;
use serde_json::Value;

/// Prints them.
pub(crate) fn print(lines: &[Value], others: &[Other]) {
    executables(lines);
    rewritten(lines);
    grown(lines);
    compared(lines, others);
    exceptions(lines);
}

fn executables(lines: &[Value]) {
    println!("| linker | executables | of them keep their size |\n| --- | --- | --- |");
    let all = count(lines, |line| text(&line["linker"]));
    let same = lines.iter().filter(|line| growth(line) == Some(0));
    let same = count(same, |line| text(&line["linker"]));
    for (linker, number) in all {
        println!(
            "| {linker} | {number} | {} |",
            same.get(&linker).unwrap_or(&0)
        );
    }
}

fn rewritten(lines: &[Value]) {
    let number = |holds: &dyn Fn(&Value) -> bool| lines.iter().filter(|line| holds(line)).count();
    let rows = [
        ("executables", lines.len()),
        (
            "rewritten, and read back by the rewriter's verifier",
            number(&|line| line["refused"].is_null()),
        ),
        (
            "found right by the tests' own reader, and given back byte for byte by `undo`",
            number(&|line| done(line) && line["structure"].is_null()),
        ),
        (
            "start as the original does",
            number(&|line| line["start"] == "same"),
        ),
        (
            "of them with `--version`",
            number(&|line| line["option"] == "--version"),
        ),
        (
            "of them with `--help`",
            number(&|line| line["option"] == "--help"),
        ),
        (
            "of them without arguments",
            number(&|line| line["option"].is_null()),
        ),
        (
            "of them before and after stopped by a missing library",
            number(&|line| line["first"]["lacks_libraries"] == true),
        ),
        (
            "of them before and after ended by the time limit",
            number(&|line| text(&line["first"]["ending"]).contains("time limit")),
        ),
        (
            "of them original's output varies",
            number(&|line| line["varies"] == true),
        ),
        (
            "reports of the runtime",
            number(&|line| !line["phase"].is_null()),
        ),
        (
            "of them started by relocation",
            number(&|line| line["phase"] == "relocation"),
        ),
    ];
    println!("\n| what | executables |\n| --- | --- |");
    for (what, number) in rows {
        println!("| {what} | {number} |");
    }
}

fn grown(lines: &[Value]) {
    println!("\n| bytes longer | tables that moved | executables |\n| --- | --- | --- |");
    let done = lines.iter().filter(|line| done(line));
    let kinds = count(done, |line| {
        let longer = match growth(line) {
            Some(0) => "0",
            Some(..=4096) => "up to 4 KiB",
            Some(..=8192) => "up to 8 KiB",
            Some(..=65536) => "up to 64 KiB",
            _ => "more",
        };
        let tables = line["tables"].as_array().map_or(&[][..], Vec::as_slice);
        let moved = tables.iter().filter(|table| table["action"] == "moved");
        let moved: Vec<_> = moved.map(|table| text(&table["table"])).collect();
        format!("{longer} | {}", moved.join(", "))
    });
    for (kind, number) in kinds {
        println!("| {kind} | {number} |");
    }
}

fn compared(lines: &[Value], others: &[Other]) {
    println!(
        "\n| rewriter | executables | refused or failed | stopped by the loader | ended by a signal | behave differently |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    let ours = lines
        .iter()
        .filter(|line| done(line))
        .map(|line| text(&line["start"]));
    let refused = lines
        .iter()
        .filter(|line| !done(line))
        .map(|_| "refused".to_owned());
    row("allocs-rewrite", ours.chain(refused).collect());
    for other in others {
        let verdicts = lines.iter().map(|line| &line["others"][&other.name]);
        row(
            &other.name,
            verdicts
                .filter(|verdict| verdict.is_string())
                .map(text)
                .collect(),
        );
    }
}

fn row(name: &str, verdicts: Vec<String>) {
    let number = |kind: &str| {
        verdicts
            .iter()
            .filter(|verdict| verdict.starts_with(kind))
            .count()
    };
    let kinds = ["refused", "loader", "signal", "differs"].map(|kind| number(kind).to_string());
    println!("| {name} | {} | {} |", verdicts.len(), kinds.join(" | "));
}

/// Everything that is not as promised, one a line.
fn exceptions(lines: &[Value]) {
    for line in lines {
        let program = format!("{} {}", text(&line["place"]), text(&line["program"]));
        for key in ["refused", "structure"] {
            if !line[key].is_null() {
                println!("{program}: {key}: {}", text(&line[key]));
            }
        }
        if done(line) && line["start"] != "same" {
            let by_path = text(&line["start_by_path"]);
            println!(
                "{program}: start: {} (by path: {by_path})",
                text(&line["start"])
            );
        }
    }
}

fn done(line: &Value) -> bool {
    line["refused"].is_null()
}

fn growth(line: &Value) -> Option<u64> {
    let size = &line["size"];
    Some(size["after"].as_u64()? - size["before"].as_u64()?)
}

fn text(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}

fn count<'a>(
    lines: impl IntoIterator<Item = &'a Value>,
    kind: impl Fn(&Value) -> String,
) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for line in lines {
        *counts.entry(kind(line)).or_default() += 1;
    }
    counts
}
