//! JSON Schemas of what `--json` prints, and of a tree's manifest: made of the same types, with their
//! documentation.

use schemars::JsonSchema;
use schemars::generate::SchemaSettings;
use serde_json::Value;

use crate::tree::Manifest;
use crate::{Census, Comparison, Explanation, ObjectFile, Report, TreeReport, Undone};

/// Each schema (JSON Schema, 2020-12) with its name: the command's, or what it is of. They say what is printed:
/// later versions may add members.
pub fn schemas() -> Vec<(&'static str, Value)> {
    vec![
        (
            "rewrite",
            of::<Report>("allocs-rewrite --json, allocs-rewrite refresh --json"),
        ),
        ("undo", of::<Undone>("allocs-rewrite undo --json")),
        ("object", of::<ObjectFile>("allocs-rewrite object --json")),
        ("tree", of::<TreeReport>("allocs-rewrite tree --json")),
        (
            "tree-manifest",
            of::<Manifest>("The manifest of allocs-rewrite tree"),
        ),
        (
            "explain",
            of::<Explanation>("allocs-rewrite explain --json"),
        ),
        ("report", of::<Census>("allocs-rewrite report --json")),
        (
            "report-diff",
            of::<Comparison>("allocs-rewrite report --diff --json"),
        ),
    ]
}

fn of<T: JsonSchema>(title: &str) -> Value {
    let settings = SchemaSettings::draft2020_12().for_serialize();
    let mut schema = settings.into_generator().into_root_schema_for::<T>();
    schema.insert("title".to_owned(), title.into());
    schema.to_value()
}
