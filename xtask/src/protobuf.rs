//! Regenerates `crates/machinery/data/protobuf.json.gz`: how Kubernetes' own types are encoded as protobuf, which typed
//! Go clients send whatever a server says it accepts.
//!
//! The `.proto` files know numbers and types; the Go structs know which fields JSON has under which name, which are
//! written into their parent, and which tell zero from absent.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

/// What the Go struct says about a field: its JSON name (empty: written into the parent), flags.
type GoFields = BTreeMap<(String, u32), (String, String)>;

/// All messages: name → fields `[number, JSON name, type, flags]`. Flags: `r`epeated, `p`ointer (zero is
/// a value), `o`mitted from JSON when zero; no flags object for a message that is a bare list.
pub(crate) fn messages(modules: &[PathBuf]) -> Result<Value> {
    let mut messages = BTreeMap::new();
    for module in modules {
        visit(module, &mut messages)?;
    }
    Ok(json!(served(messages)))
}

/// The messages of stable versions, which are what is served, and those of others that they refer to.
fn served(mut all: BTreeMap<String, Value>) -> BTreeMap<String, Value> {
    let stable = |name: &&String| !name.contains("alpha") && !name.contains("beta");
    let mut wanted: Vec<String> = all.keys().filter(stable).cloned().collect();
    let mut served = BTreeMap::new();
    while let Some(name) = wanted.pop() {
        let Some(message) = all.remove(&name) else { continue };
        let kinds = message.as_array().into_iter().flatten().filter_map(|field| field[2].as_str());
        wanted.extend(kinds.map(str::to_owned));
        served.insert(name, message);
    }
    served
}

fn visit(dir: &Path, messages: &mut BTreeMap<String, Value>) -> Result<()> {
    let name = dir.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    if matches!(name, "testdata" | "testapigroup" | "vendor") {
        return Ok(());
    }
    let mut entries: Vec<_> = fs::read_dir(dir)?.map(|e| e.map(|e| e.path())).collect::<Result<_, _>>()?;
    entries.sort();
    for entry in &entries {
        if entry.is_dir() {
            visit(entry, messages)?;
        }
    }
    let proto = dir.join("generated.proto");
    if proto.is_file() {
        let mut fields = GoFields::new();
        for file in entries.iter().filter(|file| file.extension().is_some_and(|e| e == "go")) {
            let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
            if !name.starts_with("generated") && !name.ends_with("_test.go") {
                go_fields(&fs::read_to_string(file)?, &mut fields);
            }
        }
        let text = fs::read_to_string(&proto)?;
        proto_messages(&text, &fields, messages).with_context(|| proto.display().to_string())?;
    }
    Ok(())
}

fn go_fields(source: &str, fields: &mut GoFields) {
    let mut current = String::new();
    for line in source.lines() {
        if let Some(rest) = line.strip_prefix("type ") {
            current = rest.strip_suffix(" struct {").unwrap_or_default().to_owned();
        }
        let Some((declaration, tags)) = line.trim().split_once('`') else { continue };
        let tag = |name: &str| {
            let (_, rest) = tags.split_once(&format!("{name}:\""))?;
            rest.split_once('"').map(|(value, _)| value)
        };
        let (Some(json), Some(wire)) = (tag("json"), tag("protobuf")) else { continue };
        let Some(number) = wire.split(',').nth(1).and_then(|n| n.parse().ok()) else { continue };
        let mut json = json.split(',');
        let name = json.next().unwrap_or_default().to_owned();
        let mut flags = String::new();
        if declaration.split_whitespace().last().is_some_and(|kind| kind.starts_with('*')) {
            flags.push('p');
        }
        if json.any(|option| option == "omitempty") {
            flags.push('o');
        }
        fields.insert((current.clone(), number), (name, flags));
    }
}

fn proto_messages(text: &str, go: &GoFields, messages: &mut BTreeMap<String, Value>) -> Result<()> {
    let package = text.lines().find_map(|line| line.strip_prefix("package ")?.strip_suffix(';'));
    let package = package.context("no package")?;
    let mut current: Option<(String, Vec<Value>)> = None;
    for line in text.lines().map(str::trim).filter(|line| !line.starts_with("//")) {
        if let Some(name) = line.strip_prefix("message ").and_then(|rest| rest.strip_suffix(" {")) {
            current = Some((name.to_owned(), Vec::new()));
        } else if line == "}" {
            if let Some((name, fields)) = current.take() {
                messages.insert(format!("{package}.{name}"), fields.into());
            }
        } else if let (Some((message, fields)), Some((left, number))) = (&mut current, line.split_once(" = "))
        {
            let number: u32 = number.trim_end_matches(';').parse().with_context(|| line.to_owned())?;
            let (left, name) = left.rsplit_once(' ').with_context(|| line.to_owned())?;
            let (json, mut flags) = match go.get(&(message.clone(), number)) {
                Some((json, flags)) => (json.clone(), flags.clone()),
                None => (name.to_owned(), String::new()),
            };
            let resolve = |kind: &str| match kind.strip_prefix('.') {
                Some(full) => full.to_owned(),
                None if kind.starts_with(|c: char| c.is_ascii_uppercase()) => format!("{package}.{kind}"),
                None => kind.to_owned(),
            };
            let kind = match left.strip_prefix("map<").and_then(|rest| rest.strip_suffix('>')) {
                Some(pair) => {
                    let (_, value) = pair.split_once(", ").with_context(|| line.to_owned())?;
                    flags.push('m');
                    resolve(value)
                }
                None => {
                    let (label, kind) = left.split_once(' ').with_context(|| line.to_owned())?;
                    if label == "repeated" {
                        flags.push('r');
                    }
                    resolve(kind)
                }
            };
            fields.push(json!([number, json, kind, flags]));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_of_other_versions_stay_where_they_are_referred_to() {
        let all = [
            ("x.v1.Job", json!([[1, "policy", "x.v1beta1.Policy", "p"]])),
            ("x.v1beta1.Policy", json!([[1, "name", "string", ""]])),
            ("x.v1beta1.Job", json!([])),
        ];
        let served = served(all.map(|(name, message)| (name.to_owned(), message)).into());
        assert_eq!(served.keys().collect::<Vec<_>>(), ["x.v1.Job", "x.v1beta1.Policy"]);
    }

    #[test]
    fn a_message_has_the_numbers_of_protobuf_and_the_names_of_json() {
        let go = "type Probe struct {
\t// What to do.
\tHandler `json:\",inline\" protobuf:\"bytes,1,opt,name=handler\"`
\tDelay *int32 `json:\"delay,omitempty\" protobuf:\"varint,2,opt,name=delay\"`
\tLimits List `json:\"limits,omitempty\" protobuf:\"bytes,3,rep,name=limits\"`
}
";
        let proto = "package x.v1;

// A Probe { is not a message.
message Probe {
  // handler = 7
  optional Handler handler = 1;

  optional int32 delay = 2;

  map<string, .y.v1.Quantity> limits = 3;

  repeated string names = 4;
}
";
        let (mut fields, mut messages) = (GoFields::new(), BTreeMap::new());
        go_fields(go, &mut fields);
        proto_messages(proto, &fields, &mut messages).unwrap();
        let expected = json!([
            [1, "", "x.v1.Handler", ""],
            [2, "delay", "int32", "po"],
            [3, "limits", "y.v1.Quantity", "om"],
            [4, "names", "string", "r"],
        ]);
        assert_eq!(messages, BTreeMap::from([("x.v1.Probe".to_owned(), expected)]));
    }
}
