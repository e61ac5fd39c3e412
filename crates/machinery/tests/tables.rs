//! Tables against those that a real kube-apiserver gave for the same objects.

// The helpers of a test may fail as it may.
#![allow(clippy::unwrap_used)]

use std::collections::HashMap;

use hansa_machinery::{
    printers,
    table::{Column, Printer},
};
use serde_json::{Value, json};

fn recorded() -> Vec<Value> {
    let file: Value = serde_json::from_str(include_str!("data/tables.json")).unwrap();
    file["tables"].as_array().unwrap().clone()
}

/// The printer columns of the custom resources whose definitions are among the objects.
fn custom(tables: &[Value]) -> HashMap<String, Value> {
    let definitions = tables.iter().filter(|table| table["kind"] == "CustomResourceDefinition");
    let specs =
        definitions.flat_map(|table| table["rows"].as_array().unwrap()).map(|row| &row["object"]["spec"]);
    let columns = |spec: &Value| spec["versions"][0]["additionalPrinterColumns"].clone();
    specs.map(|spec| (spec["names"]["kind"].as_str().unwrap().into(), columns(spec))).collect()
}

#[test]
fn tables_are_those_of_a_real_kube_apiserver() {
    let tables = recorded();
    let custom = custom(&tables);
    let mut differences = Vec::new();
    for table in &tables {
        let kind = table["kind"].as_str().unwrap();
        let printer = match custom.get(kind) {
            Some(columns) => Printer::custom(columns),
            None => printers::table(table["group"].as_str().unwrap(), kind).unwrap_or_else(Printer::minimal),
        };
        let column = |column: &Column| json!([column.name, column.kind, column.format, column.priority]);
        let columns: Value = printer.columns.iter().map(column).collect();
        if columns != table["columns"] {
            differences.push(format!("{kind}\n   is {columns}\n  not {}", table["columns"]));
        }
        let rows = table["rows"].as_array().unwrap();
        let objects: Vec<&Value> = rows.iter().map(|row| &row["object"]).collect();
        let now = table["now"].as_str().unwrap().parse().unwrap();
        for (ours, theirs) in printer.rows(&objects, true, now).into_iter().zip(rows) {
            let conditions = theirs.get("conditions").cloned().unwrap_or_else(|| json!([]));
            let (ours, theirs) = (json!([ours.cells, ours.conditions]), json!([theirs["cells"], conditions]));
            if ours != theirs {
                differences.push(format!("{kind}\n   is {ours}\n  not {theirs}"));
            }
        }
    }
    assert!(tables.len() > 50 && differences.is_empty(), "{}", differences.join("\n"));
}
