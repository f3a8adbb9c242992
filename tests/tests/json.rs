//! JSON: what commands print, manifests and the runtime's reports fit the schemas that packages install, have
//! no member more, and docs/json.md has a table of each schema of what commands print.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use allocs_tests::sample::{Sample, Variant};
use allocs_tests::{Command, Dir, needs, tool, trials};
use libtest_mimic::Trial;
use serde_json::Value;

use crate::manuals::share;

pub(crate) fn trials() -> Vec<Trial> {
    trials!["json":
        what_is_printed_fits,
        manifests_fit,
        reports_fit,
        another_does_not_fit,
        tables,
    ]
}

const ROOT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/..");

/// The headings of docs/json.md, and the schemas that they are about.
const CHAPTERS: [(&str, &str); 8] = [
    ("rewrite, refresh", "rewrite"),
    ("undo", "undo"),
    ("object", "object"),
    ("tree", "tree"),
    ("the manifest of a tree", "tree-manifest"),
    ("explain", "explain"),
    ("report", "report"),
    ("report --diff", "report-diff"),
];

fn schema(name: &str) -> Value {
    let path = match name {
        "runtime-report" => Path::new(ROOT).join("runtime/runtime-report.schema.json"),
        name => share().join(format!("allocs-rewrite/schema/{name}.schema.json")),
    };
    let text = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    serde_json::from_slice(&text).expect("JSON")
}

/// Lets objects have the members only that the schema names. Who reads them has to expect more.
fn closed(mut schema: Value) -> Value {
    fn close(value: &mut Value) {
        match value {
            Value::Object(members) => {
                members.values_mut().for_each(close);
                if members.get("type") == Some(&"object".into())
                    && members.contains_key("properties")
                {
                    members.insert("additionalProperties".to_owned(), false.into());
                }
            }
            Value::Array(list) => list.iter_mut().for_each(close),
            _ => {}
        }
    }
    close(&mut schema);
    schema
}

/// Holds `values` against a schema, by somebody else's validator.
fn validate(dir: &Dir, name: &str, values: &[PathBuf]) -> allocs_tests::Outcome {
    let file = dir.join(format!("{name}.closed.json"));
    fs::write(&file, closed(schema(name)).to_string()).expect("written");
    let mut validator = Command::new(needs("jsonschema"));
    for value in values {
        validator = validator.arg("-i").arg(value);
    }
    validator.arg(file).run()
}

fn assert_fits(dir: &Dir, name: &str, values: &[PathBuf]) {
    let said = validate(dir, name, values);
    assert!(said.code() == Some(0), "{name}: {said}");
}

/// A program, and what came of it: `new` is its rewrite.
fn rewritten(dir: &Dir) -> String {
    let program = Sample::named("rival").build(&dir.path(), Variant::GCC, &["-g"]);
    let name = program
        .file_name()
        .expect("a name")
        .to_string_lossy()
        .into_owned();
    save(dir, "rewrite", &[&*name, "-o", "new"]);
    for report in ["a.json", "b.json"] {
        Command::new(dir.join("new"))
            .env("ALLOCS_REPORT", dir.join(report))
            .succeed();
    }
    name
}

/// Runs `allocs-rewrite ARGS --json`, and keeps what it prints in a file.
fn save(dir: &Dir, name: &str, args: &[&str]) -> PathBuf {
    let outcome = Command::new(tool::binary())
        .dir(dir.path())
        .args(args)
        .arg("--json")
        .run();
    let _: Value = serde_json::from_slice(&outcome.stdout)
        .unwrap_or_else(|error| panic!("{args:?}: {error}\n{outcome}"));
    let file = dir.join(format!("{name}.printed.json"));
    fs::write(&file, &outcome.stdout).expect("written");
    file
}

fn what_is_printed_fits() {
    let dir = Dir::new("json-printed");
    let name = &*rewritten(&dir);
    fs::create_dir(dir.join("tree")).expect("made");
    for program in [name, "new"] {
        fs::copy(dir.join(program), dir.join("tree").join(program)).expect("copied");
    }
    fs::write(dir.join("tree/script"), "#!/bin/sh\n").expect("written");
    let cases: &[(&str, &[&[&str]])] = &[
        (
            "rewrite",
            &[
                &[name, "-o", "other"],
                &[
                    "refresh",
                    "new",
                    "-o",
                    "refreshed",
                    "--runtime",
                    "/none/librt.so",
                    "--init",
                    "rt_init",
                ],
                &["/usr/bin/perl", "-o", "perl"],
            ],
        ),
        ("undo", &[&["undo", "new", "-o", "old"]]),
        ("object", &[&["object", "-o", "init.o"]]),
        (
            "tree",
            &[
                &["tree", "tree", "-o", "copy"],
                &["tree", "tree", "-o", "copy", "--exclude", "new"],
                &["tree", "tree", "--in-place"],
            ],
        ),
        (
            "explain",
            &[
                &["explain", "new"],
                &["explain", name],
                &["explain", "/usr/bin/python3"],
            ],
        ),
        (
            "report",
            &[&["report", "a.json"], &["report", "a.json", "b.json"]],
        ),
        ("report-diff", &[&["report", "--diff", "a.json", "b.json"]]),
    ];
    for (schema, commands) in cases {
        let printed: Vec<PathBuf> = (commands.iter().enumerate())
            .map(|(number, args)| save(&dir, &format!("{schema}-{number}"), args))
            .collect();
        assert_fits(&dir, schema, &printed);
    }
}

fn manifests_fit() {
    let dir = Dir::new("json-manifest");
    rewritten(&dir);
    fs::create_dir(dir.join("tree")).expect("made");
    fs::copy(dir.join("new"), dir.join("tree/new")).expect("copied");
    fs::copy("/bin/true", dir.join("tree/true")).expect("copied");
    fs::hard_link(dir.join("tree/true"), dir.join("tree/also")).expect("linked");
    save(&dir, "tree", &["tree", "tree", "-o", "copy"]);
    let in_place = ["tree", "tree", "--in-place", "--manifest", "manifest.json"];
    save(&dir, "tree", &in_place);
    let made = [dir.join("copy.allocs-tree.json"), dir.join("manifest.json")];
    assert_fits(&dir, "tree-manifest", &made);
}

fn reports_fit() {
    let dir = Dir::new("json-reports");
    rewritten(&dir);
    assert_fits(&dir, "runtime-report", &[dir.join("a.json")]);
    // Without /proc, the executable has no path.
    let mut report: Value =
        serde_json::from_slice(&fs::read(dir.join("a.json")).expect("a report")).expect("JSON");
    report["program"] = Value::Null;
    report["objects"][0]["path"] = Value::Null;
    fs::write(dir.join("b.json"), report.to_string()).expect("written");
    assert_fits(&dir, "runtime-report", &[dir.join("b.json")]);
    assert_fits(
        &dir,
        "report",
        &[save(&dir, "report", &["report", "b.json"])],
    );
}

/// The validator does find what is wrong.
fn another_does_not_fit() {
    let dir = Dir::new("json-other");
    rewritten(&dir);
    let printed = dir.join("rewrite.printed.json");
    let text = fs::read_to_string(&printed).expect("printed");
    assert_fits(&dir, "rewrite", std::slice::from_ref(&printed));
    for (from, to) in [
        ("\"bytes_changed\":", "\"bytes_changed\": 1, \"more\":"),
        ("\"bytes_changed\":", "\"changed_bytes\":"),
        ("\"before\": ", "\"before\": -"),
        ("\"relocation\"", "\"later\""),
    ] {
        assert!(text.contains(from), "no {from} in {text}");
        fs::write(&printed, text.replacen(from, to, 1)).expect("written");
        let said = validate(&dir, "rewrite", std::slice::from_ref(&printed));
        assert!(said.code() == Some(1), "{to}: {said}");
    }
}

/// Each member of a schema is in a row of its table, with its type, or below one that is an `object` there; and the
/// tables have no other rows.
fn tables() {
    let json = fs::read_to_string(Path::new(ROOT).join("docs/json.md")).expect("docs/json.md");
    let installed = fs::read_dir(share().join("allocs-rewrite/schema")).expect("schemas");
    let installed: BTreeSet<String> = installed
        .map(|file| file.expect("a file").file_name().display().to_string())
        .collect();
    let chapters = CHAPTERS
        .iter()
        .map(|(_, name)| format!("{name}.schema.json"));
    assert_eq!(installed, chapters.collect(), "a chapter for each schema");
    for (heading, name) in CHAPTERS {
        let section = json
            .split("\n## ")
            .find(|section| section.starts_with(&format!("{heading}\n")));
        let section = section.unwrap_or_else(|| panic!("docs/json.md: no {heading}"));
        let told = rows(section);
        let root = schema(name);
        let mut members = BTreeMap::new();
        collect(&root, &root, String::new(), &mut members);
        members.remove(""); // the whole
        for (member, kind) in &members {
            let covered = told.get(member) == Some(kind)
                || told
                    .iter()
                    .any(|(outer, kind)| kind.starts_with("object") && is_below(outer, member));
            assert!(
                covered || members.keys().any(|inner| is_below(member, inner)),
                "docs/json.md, {heading}: no {member}, {kind}"
            );
        }
        for (row, kind) in &told {
            assert!(
                members.get(row) == Some(kind),
                "docs/json.md, {heading}: {row} is {:?}, not {kind}",
                members.get(row)
            );
        }
    }
}

fn is_below(outer: &str, inner: &str) -> bool {
    let rest = inner.strip_prefix(outer);
    rest.is_some_and(|rest| rest.starts_with(['.', '[']))
}

/// The members that a table names, and their types.
fn rows(section: &str) -> BTreeMap<String, String> {
    let mut rows = BTreeMap::new();
    for line in section.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        for member in cells[1].split(", ") {
            rows.insert(member.trim_matches('`').to_owned(), cells[2].to_owned());
        }
    }
    rows
}

/// All members below `path`, and their types as docs/json.md has them.
fn collect(root: &Value, schema: &Value, path: String, members: &mut BTreeMap<String, String>) {
    let (schema, null) = resolved(root, schema);
    let kind = match &schema["type"] {
        Value::String(kind) => kind.as_str(),
        _ if schema["enum"].is_array() || schema["oneOf"].is_array() => "string",
        other => panic!("{path}: {other}"),
    };
    match kind {
        "array" => return collect(root, &schema["items"], path + "[]", members),
        "object" => {
            for (name, value) in schema["properties"].as_object().into_iter().flatten() {
                let inner = [&*path, name].into_iter().filter(|part| !part.is_empty());
                collect(root, value, inner.collect::<Vec<_>>().join("."), members);
            }
        }
        _ => {}
    }
    let kind = match kind {
        "integer" => "number",
        kind => kind,
    };
    members.insert(path, format!("{kind}{}", if null { "?" } else { "" }));
}

/// What the schema is without references and `null`, and whether it may be that.
fn resolved(root: &Value, schema: &Value) -> (Value, bool) {
    if let Some(reference) = schema["$ref"].as_str() {
        let pointer = reference.trim_start_matches('#');
        let found = root.pointer(pointer);
        return resolved(root, found.unwrap_or_else(|| panic!("no {reference}")));
    }
    let null = Value::from("null");
    if let Some(choices) = schema["anyOf"].as_array() {
        let [one, other] = &choices[..] else {
            panic!("a choice of {choices:?}");
        };
        assert!(other["type"] == null, "{choices:?}");
        return (resolved(root, one).0, true);
    }
    if let Some(kinds) = schema["type"].as_array() {
        assert!(kinds.len() == 2 && kinds[1] == null, "{kinds:?}");
        let mut one = schema.clone();
        one["type"] = kinds[0].clone();
        return (one, true);
    }
    (schema.clone(), false)
}
