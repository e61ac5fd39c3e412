//! `strategicMergePatch`: Kubernetes' own merge patch. Lists of built-in kinds merge by the keys of their schemas; custom kinds have
//! none, and are merged as JSON (RFC 7386), as kubectl does it.

use hansa_machinery::{Status, kubernetes::KUBERNETES, merge_patch, strategic};
use serde_json::{Value, json};

use super::{METADATA, OverrideError};

/// What a strategic merge patch may say of a list beside the list.
const PARALLEL: [&str; 2] = ["$deleteFromPrimitiveList/", "$setElementOrder/"];

/// Reads a patch, which must leave the identity of the object alone.
pub(super) fn parse(at: &str, patch: &Value) -> Result<Option<Value>, OverrideError> {
    let shape = |at: String, expected| Err(OverrideError::Shape { at, expected });
    let fields = match patch {
        Value::Null => return Ok(None),
        Value::Object(fields) => fields,
        _ => return shape(at.to_owned(), "an object"),
    };
    let forbidden = |path: String| Err(OverrideError::Forbidden { at: at.to_owned(), path });
    for (field, value) in fields {
        match (field.as_str(), value) {
            // A directive at the root would replace the object, identity and all.
            ("kind", _) => return forbidden(field.clone()),
            (field, _) if field.starts_with('$') => return forbidden(field.to_owned()),
            ("apiVersion", Value::String(_)) => {}
            ("apiVersion", _) => return shape(format!("{at}.apiVersion"), "a string"),
            ("metadata", Value::Object(metadata)) => {
                let mut names = metadata.keys();
                let named = |name: &str| {
                    PARALLEL.iter().find_map(|prefix| name.strip_prefix(prefix)).unwrap_or(name).to_owned()
                };
                if let Some(name) = names.find(|name| !METADATA.contains(&named(name).as_str())) {
                    return forbidden(format!("metadata.{name}"));
                }
            }
            ("metadata", _) => return shape(format!("{at}.metadata"), "an object"),
            _ => {}
        }
    }
    Ok(Some(patch.clone()))
}

/// The part of a patch that is about metadata.
pub(super) fn of_metadata(patch: &Value) -> Option<Value> {
    patch.get("metadata").map(|metadata| json!({ "metadata": metadata }))
}

/// Merges a patch into the copy.
pub(super) fn apply(object: &mut Value, patch: &Value) -> Result<(), Status> {
    let group = object["apiVersion"].as_str().and_then(|version| version.split_once('/'));
    let kind = object["kind"].as_str().unwrap_or_default();
    let Some(schema) = KUBERNETES.schema(group.map_or("", |(group, _)| group), kind) else {
        if let Some(directive) = directive(patch) {
            let message = format!(
                "{directive} means nothing for the custom kind {kind}, whose lists are replaced as a whole"
            );
            return Err(Status::bad_request(message));
        }
        merge_patch::apply(object, patch);
        return Ok(());
    };
    *object = strategic::apply(Some(&schema), object, patch)?;
    Ok(())
}

/// A directive somewhere in a patch; where nobody carries it out it would end up in the object.
fn directive(patch: &Value) -> Option<&str> {
    match patch {
        Value::Object(fields) => fields.iter().find_map(|(field, value)| {
            let is_directive = matches!(field.as_str(), "$patch" | "$retainKeys")
                || PARALLEL.iter().any(|prefix| field.starts_with(prefix));
            if is_directive { Some(field.as_str()) } else { directive(value) }
        }),
        Value::Array(items) => items.iter().find_map(directive),
        _ => None,
    }
}
