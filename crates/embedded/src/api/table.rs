//! Tables: what `kubectl get` shows.

use hansa_machinery::{Status, jsonpath::JsonPath};
use jiff::Timestamp;
use serde_json::{Value, json};

use super::render::partial;
use crate::registry::Resource;

/// What a row carries besides its cells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Include {
    Nothing,
    Metadata,
    Object,
}

/// Makes tables of one resource.
pub(crate) struct Table {
    version: String,
    include: Include,
    columns: Value,
    cells: Cells,
    told: bool,
}

enum Cells {
    Default,
    Custom(Vec<(String, Option<JsonPath>)>),
}

impl Table {
    pub(crate) fn new(resource: &Resource, version: &str, include: &str) -> Result<Self, Status> {
        let include = match include {
            "" | "Metadata" => Include::Metadata,
            "None" => Include::Nothing,
            "Object" => Include::Object,
            other => {
                return Err(Status::bad_request(format!("unrecognized includeObject value: {other:?}")));
            }
        };
        let (columns, cells) = match &resource.custom {
            None => (json!([name_column(), column("Created At", "date", "", CREATED, 0)]), Cells::Default),
            Some(custom) => custom_columns(&custom.columns),
        };
        Ok(Self { version: version.to_owned(), include, columns, cells, told: false })
    }

    /// A table of these objects.
    pub(crate) fn whole(&mut self, objects: &[Value], metadata: Value) -> Value {
        self.told = true;
        self.make(objects, metadata, self.columns.clone())
    }

    /// A table of one object; only the first has columns.
    pub(crate) fn next(&mut self, object: &Value) -> Value {
        let columns = if self.told { Value::Null } else { self.columns.clone() };
        self.told = true;
        self.make(
            std::slice::from_ref(object),
            json!({"resourceVersion": object["metadata"]["resourceVersion"]}),
            columns,
        )
    }

    fn make(&self, objects: &[Value], metadata: Value, columns: Value) -> Value {
        let now = Timestamp::now();
        let rows: Vec<Value> = objects
            .iter()
            .map(|object| {
                let mut row = json!({"cells": self.cells(object, now)});
                match self.include {
                    Include::Nothing => {}
                    Include::Metadata => row["object"] = partial(object, &self.version),
                    Include::Object => row["object"] = object.clone(),
                }
                row
            })
            .collect();
        json!({
            "kind": "Table", "apiVersion": format!("meta.k8s.io/{}", self.version), "metadata": metadata,
            "columnDefinitions": columns, "rows": rows,
        })
    }

    fn cells(&self, object: &Value, now: Timestamp) -> Vec<Value> {
        let name = object["metadata"]["name"].clone();
        match &self.cells {
            Cells::Default => vec![name, object["metadata"]["creationTimestamp"].clone()],
            Cells::Custom(columns) => {
                let cell = |(kind, path): &(String, Option<JsonPath>)| {
                    let found = path.as_ref().and_then(|path| path.find(object).ok()).unwrap_or_default();
                    cell(kind, &found, now)
                };
                std::iter::once(name).chain(columns.iter().map(cell)).collect()
            }
        }
    }
}

const CREATED: &str = "CreationTimestamp is a timestamp representing the server time when this object was created. It \
                       is not guaranteed to be set in happens-before order across separate operations. Clients may not \
                       set this value. It is represented in RFC3339 form and is in UTC.";

fn column(name: &str, kind: &str, format: &str, description: &str, priority: i64) -> Value {
    json!({"name": name, "type": kind, "format": format, "description": description, "priority": priority})
}

fn name_column() -> Value {
    column("Name", "string", "name", "Name must be unique within a namespace.", 0)
}

/// The columns of a custom resource: its name, then what its definition asks for, else its age.
fn custom_columns(printer_columns: &Value) -> (Value, Cells) {
    let given = printer_columns.as_array().map(Vec::as_slice).unwrap_or_default();
    let age = [
        json!({"name": "Age", "type": "date", "jsonPath": ".metadata.creationTimestamp", "description": CREATED}),
    ];
    let given = if given.is_empty() { &age } else { given };
    let text = |column: &Value, field: &str| column[field].as_str().unwrap_or_default().to_owned();
    let columns = given.iter().map(|c| {
        column(
            &text(c, "name"),
            &text(c, "type"),
            &text(c, "format"),
            &text(c, "description"),
            c["priority"].as_i64().unwrap_or(0),
        )
    });
    let paths = given
        .iter()
        .map(|c| (text(c, "type"), JsonPath::parse(&format!("{{{}}}", text(c, "jsonPath"))).ok()));
    (std::iter::once(name_column()).chain(columns).collect(), Cells::Custom(paths.collect()))
}

/// One cell of a custom column, from what its path found (`cellForJSONValue`).
fn cell(kind: &str, found: &[&Value], now: Timestamp) -> Value {
    let Some(first) = found.first() else { return Value::Null };
    if found.len() > 1 && kind == "string" {
        let texts: Vec<String> =
            found.iter().map(|v| v.as_str().map_or_else(|| v.to_string(), str::to_owned)).collect();
        return format!("[{}]", texts.join(",")).into();
    }
    match (kind, *first) {
        (_, Value::Null) => Value::Null,
        ("integer", Value::Number(n)) => {
            n.as_i64().map_or_else(|| n.as_f64().map_or(Value::Null, |f| json!(f as i64)), Value::from)
        }
        ("integer", _) => Value::Null,
        ("number", Value::Number(n)) => n.clone().into(),
        ("number", _) => Value::Null,
        ("boolean", Value::Bool(b)) => (*b).into(),
        ("boolean", _) => Value::Null,
        ("string", Value::String(text)) => text.clone().into(),
        ("string", other) => other.to_string().into(),
        ("date", Value::String(text)) => match text.parse::<Timestamp>() {
            Ok(time) => hansa_machinery::duration::human(now.duration_since(time)).into(),
            Err(_) => "<invalid>".into(),
        },
        ("date", _) => "<invalid>".into(),
        (_, other) => other.to_string().into(),
    }
}
