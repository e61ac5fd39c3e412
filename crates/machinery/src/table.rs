//! `metav1.Table`: what kubectl prints, computed by the server.

use jiff::Timestamp;
use serde_json::{Map, Value, json};

use crate::{
    duration,
    jsonpath::{self, JsonPath},
    kubernetes::KUBERNETES,
    status::Status,
};

/// The definition of a column.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Column {
    /// The heading.
    pub name: String,
    /// The OpenAPI type of the cells: `string`, `integer`, `number`, `boolean`, `date`.
    pub kind: String,
    /// The OpenAPI format; `name` marks the column that identifies the object.
    pub format: String,
    /// For people.
    pub description: String,
    /// 0 is always shown, more only by `-o wide`.
    pub priority: i64,
}

impl Column {
    fn to_value(&self) -> Value {
        json!({
            "name": self.name, "type": self.kind, "format": self.format,
            "description": self.description, "priority": self.priority,
        })
    }
}

/// The cells of one object.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Row {
    /// One per column.
    pub cells: Vec<Value>,
    /// `metav1.TableRowCondition`s, such as that a pod has completed.
    pub conditions: Vec<Value>,
}

impl From<Vec<Value>> for Row {
    fn from(cells: Vec<Value>) -> Self {
        Self { cells, conditions: Vec::new() }
    }
}

/// Computes the cells of a built-in kind.
pub type RowOf = fn(&Value, Timestamp) -> Row;

/// Corrects rows by what only the whole list tells (which StorageClass is the default).
pub type ListRows = fn(&[&Value], &mut [Row]);

#[derive(Clone, Debug)]
enum Source {
    BuiltIn(RowOf, Option<ListRows>),
    Custom(Vec<JsonPath>),
}

/// How objects of one kind are printed.
#[derive(Clone, Debug)]
pub struct Printer {
    /// The columns.
    pub columns: Vec<Column>,
    source: Source,
}

impl Printer {
    /// A printer of a built-in kind.
    pub(crate) fn built_in(columns: Vec<Column>, row: RowOf, list: Option<ListRows>) -> Self {
        Self { columns, source: Source::BuiltIn(row, list) }
    }

    /// The printer of a kind without columns of its own: name and time of creation.
    pub fn minimal() -> Self {
        let row: RowOf = |object, _| vec![name_of(object), created(object)].into();
        let time = Column { kind: "date".into(), ..column("Created At", created_at()) };
        Self::built_in(vec![name_column(), time], row, None)
    }

    /// The printer of a custom resource from its version's `additionalPrinterColumns`; without any, name and age
    /// (apiextensions `tableconvertor`). Columns from the first unreadable path on are left out, as there.
    pub fn custom(additional: &Value) -> Self {
        let (mut columns, mut paths) = (vec![name_column()], Vec::new());
        let age = [json!({
            "name": "Age", "type": "date", "description": created_at(), "jsonPath": ".metadata.creationTimestamp",
        })];
        let additional =
            additional.as_array().map(Vec::as_slice).filter(|columns| !columns.is_empty()).unwrap_or(&age);
        for definition in additional {
            let text = |key: &str| definition[key].as_str().unwrap_or_default().to_owned();
            let path = text("jsonPath");
            let Ok(parsed) = JsonPath::parse(&path) else { break };
            let description = match text("description") {
                none if none.is_empty() => {
                    format!("Custom resource definition column (in JSONPath format): {path}")
                }
                description => description,
            };
            let priority = definition["priority"].as_i64().unwrap_or_default();
            columns.push(Column {
                name: text("name"),
                kind: text("type"),
                format: text("format"),
                description,
                priority,
            });
            paths.push(parsed);
        }
        Self { columns, source: Source::Custom(paths) }
    }

    /// The rows of objects. `whole` says that these are a list and not one object asked for alone.
    pub fn rows(&self, objects: &[&Value], whole: bool, now: Timestamp) -> Vec<Row> {
        match &self.source {
            Source::BuiltIn(row, list) => {
                let mut rows: Vec<Row> = objects.iter().map(|object| row(object, now)).collect();
                if let (Some(list), true) = (list, whole) {
                    list(objects, &mut rows);
                }
                rows
            }
            Source::Custom(paths) => {
                let cells = |object: &Value| {
                    let columns = self.columns.iter().skip(1).zip(paths);
                    let cells =
                        columns.map(|(column, path)| custom_cell(&column.kind, path.first(object), now));
                    std::iter::once(name_of(object)).chain(cells).collect::<Vec<_>>().into()
                };
                objects.iter().map(|object| cells(object)).collect()
            }
        }
    }
}

/// The cell of a custom column: the value if it has the type that was promised, else nothing.
fn custom_cell(kind: &str, value: Option<&Value>, now: Timestamp) -> Value {
    match (kind, value) {
        (_, None) => Value::Null,
        ("string", Some(value)) => jsonpath::print(value).into(),
        ("integer", Some(Value::Number(number))) => match number.as_f64() {
            // A fraction is cut off, as Go converts.
            Some(float) if number.is_f64() => (float as i64).into(),
            _ => number.clone().into(),
        },
        ("number", Some(number @ Value::Number(_))) => number.clone(),
        ("boolean", Some(flag @ Value::Bool(_))) => flag.clone(),
        ("date", Some(Value::String(time))) => duration::age(time, now).into(),
        _ => Value::Null,
    }
}

/// What stands in a row's `object`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IncludeObject {
    /// Nothing.
    None,
    /// Its metadata, as PartialObjectMetadata. The default.
    #[default]
    Metadata,
    /// All of it.
    Object,
}

impl IncludeObject {
    /// Reads the query parameter `includeObject`.
    pub fn parse(text: Option<&str>) -> Result<Self, Status> {
        match text {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Status::bad_request(format!(
                "Unable to convert to Table as requested: includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// The `metav1.PartialObjectMetadata` of an object.
pub fn partial_metadata(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// What surrounds the rows of a table.
#[derive(Clone, Debug, Default)]
pub struct Options {
    /// What stands in a row's `object`.
    pub include: IncludeObject,
    /// Whether the columns are left out: in every event of a watch after the first.
    pub no_headers: bool,
    /// The time ages are counted to.
    pub now: Timestamp,
}

/// The table of one object, as a get, a write or a watch event answers.
pub fn of_object(printer: &Printer, object: &Value, options: &Options) -> Value {
    let metadata = json!({"resourceVersion": object["metadata"]["resourceVersion"]});
    build(printer, &[object], metadata, false, options)
}

/// The table of a list with that list's `metadata` (resourceVersion, continue, remainingItemCount).
pub fn of_list(printer: &Printer, objects: &[&Value], metadata: Value, options: &Options) -> Value {
    build(printer, objects, metadata, true, options)
}

fn build(printer: &Printer, objects: &[&Value], metadata: Value, whole: bool, options: &Options) -> Value {
    let row = |(row, object): (Row, &&Value)| {
        let mut fields = Map::new();
        fields.insert("cells".into(), row.cells.into());
        if !row.conditions.is_empty() {
            fields.insert("conditions".into(), row.conditions.into());
        }
        let object = match options.include {
            IncludeObject::None => Value::Null,
            IncludeObject::Metadata => partial_metadata(object),
            IncludeObject::Object => (*object).clone(),
        };
        fields.insert("object".into(), object);
        Value::Object(fields)
    };
    let rows: Vec<Value> =
        printer.rows(objects, whole, options.now).into_iter().zip(objects).map(row).collect();
    let columns = match options.no_headers {
        true => Value::Null,
        false => printer.columns.iter().map(Column::to_value).collect(),
    };
    json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": metadata,
        "columnDefinitions": columns, "rows": rows,
    })
}

/// The description of a field of a built-in type, from Kubernetes' own schemas.
pub(crate) fn description(schema: &str, field: &str) -> String {
    let schema = &KUBERNETES.documents[schema];
    let text =
        if field.is_empty() { &schema["description"] } else { &schema["properties"][field]["description"] };
    text.as_str().unwrap_or_default().to_owned()
}

pub(crate) const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

fn created_at() -> String {
    description(OBJECT_META, "creationTimestamp")
}

fn column(name: &str, description: String) -> Column {
    Column { name: name.into(), kind: "string".into(), format: String::new(), description, priority: 0 }
}

fn name_column() -> Column {
    Column { format: "name".into(), ..column("Name", description(OBJECT_META, "name")) }
}

/// The cell of the `Name` column.
pub(crate) fn name_of(object: &Value) -> Value {
    object["metadata"]["name"].as_str().unwrap_or_default().into()
}

/// The cell of the `Created At` column.
pub(crate) fn created(object: &Value) -> Value {
    object["metadata"]["creationTimestamp"].as_str().unwrap_or("0001-01-01T00:00:00Z").into()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn now() -> Timestamp {
        "2026-01-01T01:00:00Z".parse().unwrap()
    }

    fn options() -> Options {
        Options { now: now(), ..Options::default() }
    }

    #[test]
    fn custom_columns_take_what_their_type_promises() {
        let column =
            |name: &str, kind: &str| json!({"name": name, "type": kind, "jsonPath": format!(".spec.{name}")});
        let columns = json!([
            column("s", "string"), column("i", "integer"), column("n", "number"), column("b", "boolean"),
            column("d", "date"), {"name": "w", "type": "string", "jsonPath": ".spec.w", "priority": 1, "format": "x", "description": "Wide."}]);
        let printer = Printer::custom(&columns);
        assert_eq!(
            printer.columns[6],
            Column {
                name: "w".into(),
                kind: "string".into(),
                format: "x".into(),
                description: "Wide.".into(),
                priority: 1
            }
        );
        assert_eq!(
            printer.columns[1].description,
            "Custom resource definition column (in JSONPath format): .spec.s"
        );
        let cells = |spec: Value| {
            let object = json!({"metadata": {"name": "x"}, "spec": spec});
            printer.rows(&[&object], true, now()).remove(0).cells
        };
        assert_eq!(
            cells(
                json!({"s": "text", "i": 1, "n": 1.5, "b": true, "d": "2026-01-01T00:00:00Z", "w": {"a": [1]}})
            ),
            [
                json!("x"),
                json!("text"),
                json!(1),
                json!(1.5),
                json!(true),
                json!("60m"),
                json!("{\"a\":[1]}")
            ]
        );
        assert_eq!(
            cells(json!({"s": 1.5, "i": 2.9, "n": 2, "b": "true", "d": "soon", "w": null})),
            [
                json!("x"),
                json!("1.5"),
                json!(2),
                json!(2),
                Value::Null,
                json!("<invalid>"),
                json!("<no value>")
            ]
        );
        let nothing = cells(json!({}));
        assert!(nothing[1..].iter().all(Value::is_null), "{nothing:?}");
    }

    #[test]
    fn custom_resources_without_columns_have_name_and_age() {
        let printer = Printer::custom(&Value::Null);
        let names: Vec<&str> = printer.columns.iter().map(|column| column.name.as_str()).collect();
        assert_eq!(names, ["Name", "Age"]);
        let object = json!({"metadata": {"name": "x", "creationTimestamp": "2026-01-01T00:59:00Z"}});
        assert_eq!(printer.rows(&[&object], false, now())[0].cells, [json!("x"), json!("60s")]);
        let broken = json!([{"name": "A", "type": "string", "jsonPath": ".a["}, {"name": "B", "type": "string", "jsonPath": ".b"}]);
        assert_eq!(Printer::custom(&broken).columns.len(), 1);
    }

    #[test]
    fn tables_carry_headers_rows_and_objects() {
        let object = json!({
            "kind": "Role", "apiVersion": "rbac.authorization.k8s.io/v1", "rules": [],
            "metadata": {"name": "r", "resourceVersion": "7", "creationTimestamp": "2026-01-01T00:00:00Z"}});
        let printer = Printer::minimal();
        let table = of_object(&printer, &object, &options());
        assert_eq!(table["metadata"], json!({"resourceVersion": "7"}));
        assert_eq!(table["columnDefinitions"][1]["name"], "Created At");
        assert_eq!(table["columnDefinitions"][1]["type"], "date");
        assert_eq!(table["rows"][0]["cells"], json!(["r", "2026-01-01T00:00:00Z"]));
        assert_eq!(table["rows"][0]["object"]["kind"], "PartialObjectMetadata");
        assert_eq!(table["rows"][0]["object"]["metadata"], object["metadata"]);

        let options = Options { include: IncludeObject::Object, no_headers: true, ..options() };
        let table = of_list(
            &printer,
            &[&object, &object],
            json!({"resourceVersion": "9", "continue": "x"}),
            &options,
        );
        assert_eq!((&table["columnDefinitions"], &table["rows"][1]["object"]), (&Value::Null, &object));
        assert_eq!(table["metadata"]["continue"], "x");
        assert_eq!(IncludeObject::parse(Some("None")), Ok(IncludeObject::None));
        assert_eq!(IncludeObject::parse(Some("All")).unwrap_err().code, 400);
    }
}
