//! JSON Patch as Kubernetes and KubeFed apply it: RFC 6902 with the leniency of the library both use
//! (evanphx/json-patch v4), which existing manifests depend on (`spec/kubefed.md` §0.3).
//!
//! - `replace` of a missing object member adds it; only its parent must exist. `copy` of one copies `null`.
//! - `add`, `replace` and `test` without a `value` mean `null`, and a missing member passes a `test` for `null`.
//! - Array indices below zero count from the end.
//! - What stands before the first `/` of a path is ignored.

use serde_json::Value;

use crate::status::Status;

/// The most operations one patch may have, as in kube-apiserver.
pub const MAX_OPERATIONS: usize = 10_000;

/// How much `copy` may add in one patch, in bytes of JSON, as in kube-apiserver.
pub const MAX_COPIED: usize = 3 * 1024 * 1024;

/// One step of a patch.
#[derive(Clone, Debug, PartialEq)]
pub struct Operation {
    /// What is done: `add`, `remove`, `replace`, `move`, `copy` or `test`; anything else fails when applied.
    pub op: String,
    /// Where.
    pub path: String,
    /// Where from, for `move` and `copy`.
    pub from: Option<String>,
    /// With what.
    pub value: Option<Value>,
}

/// Why a patch was not applied.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch is not a list.
    #[error("a JSON patch must be a list of operations")]
    NotAList,
    /// Too long.
    #[error("The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {0}")]
    TooManyOperations(usize),
    /// An operation is not written as one.
    #[error("operation {index} of the JSON patch {problem}")]
    Malformed {
        /// Its position in the patch.
        index: usize,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// An operation does not fit the document.
    #[error("operation {index} ({op} {path:?}) does not apply: {problem}")]
    Failed {
        /// Its position in the patch.
        index: usize,
        /// Its kind.
        op: String,
        /// Its path.
        path: String,
        /// Why.
        problem: Problem,
    },
}

/// Why one operation does not fit the document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// `op` is none of the six.
    #[error("the operation must be add, remove, replace, move, copy or test")]
    UnknownOperation,
    /// The parent of the path is absent or has no members.
    #[error("the document has no such path")]
    MissingPath,
    /// The parent of `from` is absent or has no members.
    #[error("the document has no such path to take the value from")]
    MissingFrom,
    /// There is nothing to remove or move.
    #[error("there is no such member")]
    MissingMember,
    /// The last segment is no index of the array.
    #[error("the array has no such index")]
    InvalidIndex,
    /// `test` found another value.
    #[error("the value is another one")]
    TestFailed,
    /// The whole document can be replaced by an object or array only.
    #[error("the document can only be replaced by an object or a list")]
    NotADocument,
    /// `copy` made too much.
    #[error("the patch copies more than {MAX_COPIED} bytes")]
    CopiesTooMuch,
}

impl From<PatchError> for Status {
    /// The codes and reasons kube-apiserver answers with.
    fn from(error: PatchError) -> Self {
        match error {
            PatchError::NotAList | PatchError::Malformed { .. } => Self::bad_request(error.to_string()),
            PatchError::TooManyOperations(_) => Self::too_large(error.to_string()),
            PatchError::Failed { .. } => {
                let message =
                    format!("the server rejected our request due to an error in our request: {error}");
                Self::new(422, "Invalid", message)
            }
        }
    }
}

/// Reads a patch.
pub fn parse(patch: &Value) -> Result<Vec<Operation>, PatchError> {
    let items = patch.as_array().ok_or(PatchError::NotAList)?;
    if items.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(items.len()));
    }
    let read = |(index, item): (usize, &Value)| {
        let malformed = |problem| PatchError::Malformed { index, problem };
        let item = item.as_object().ok_or(malformed("is not an object"))?;
        let text = |key: &str, problem| match item.get(key) {
            None | Some(Value::Null) => Ok(None),
            Some(Value::String(text)) => Ok(Some(text.clone())),
            Some(_) => Err(malformed(problem)),
        };
        let op = text("op", "has an \"op\" that is not a string")?.ok_or(malformed("has no \"op\""))?;
        let path =
            text("path", "has a \"path\" that is not a string")?.ok_or(malformed("has no \"path\""))?;
        let from = text("from", "has a \"from\" that is not a string")?;
        if from.is_none() && matches!(op.as_str(), "move" | "copy") {
            return Err(malformed("has no \"from\""));
        }
        Ok(Operation { op, path, from, value: item.get("value").cloned() })
    };
    items.iter().enumerate().map(read).collect()
}

/// Applies a patch: all of it, or nothing.
pub fn apply(target: &mut Value, patch: &[Operation]) -> Result<(), PatchError> {
    if patch.len() > MAX_OPERATIONS {
        return Err(PatchError::TooManyOperations(patch.len()));
    }
    let mut document = target.clone();
    let mut copied = 0;
    for (index, operation) in patch.iter().enumerate() {
        step(&mut document, operation, &mut copied).map_err(|problem| PatchError::Failed {
            index,
            op: operation.op.clone(),
            path: operation.path.clone(),
            problem,
        })?;
    }
    *target = document;
    Ok(())
}

fn step(document: &mut Value, operation: &Operation, copied: &mut usize) -> Result<(), Problem> {
    let path = operation.path.as_str();
    let value = || operation.value.clone().unwrap_or(Value::Null);
    let from = operation.from.as_deref().unwrap_or_default();
    match operation.op.as_str() {
        "add" => Place::find(document, path).ok_or(Problem::MissingPath)?.add(value()),
        "remove" => Place::find(document, path).ok_or(Problem::MissingPath)?.remove().map(drop),
        "replace" if path.is_empty() => match value() {
            value @ (Value::Object(_) | Value::Array(_)) => {
                *document = value;
                Ok(())
            }
            _ => Err(Problem::NotADocument),
        },
        "replace" => Place::find(document, path).ok_or(Problem::MissingPath)?.replace(value()),
        "move" => {
            let value = Place::find(document, from).ok_or(Problem::MissingFrom)?.remove()?;
            Place::find(document, path).ok_or(Problem::MissingPath)?.add(value)
        }
        "copy" => {
            let value = Place::find(document, from)
                .ok_or(Problem::MissingFrom)?
                .get()?
                .cloned()
                .unwrap_or(Value::Null);
            *copied += encoded_length(&value);
            if *copied > MAX_COPIED {
                return Err(Problem::CopiesTooMuch);
            }
            Place::find(document, path).ok_or(Problem::MissingPath)?.add(value)
        }
        "test" => {
            let expected = operation.value.as_ref().unwrap_or(&Value::Null);
            let found = if path.is_empty() {
                Some(&*document)
            } else {
                Place::find(document, path).ok_or(Problem::MissingPath)?.get()?
            };
            if found.unwrap_or(&Value::Null) == expected { Ok(()) } else { Err(Problem::TestFailed) }
        }
        _ => Err(Problem::UnknownOperation),
    }
}

/// A member of the document that need not exist yet, with its parent, which does.
enum Place<'a> {
    Member(&'a mut serde_json::Map<String, Value>, String),
    Item(&'a mut Vec<Value>, String),
}

impl<'a> Place<'a> {
    fn find(document: &'a mut Value, path: &str) -> Option<Self> {
        let (_, path) = path.split_once('/')?;
        let mut keys = path.split('/').map(unescape);
        let mut key = keys.next()?;
        let mut parent = document;
        for next in keys {
            parent = match parent {
                Value::Object(fields) => fields.get_mut(&key)?,
                Value::Array(items) => {
                    let index = existing_index(&key, items.len()).ok()?;
                    items.get_mut(index)?
                }
                _ => return None,
            };
            key = next;
        }
        match parent {
            Value::Object(fields) => Some(Self::Member(fields, key)),
            Value::Array(items) => Some(Self::Item(items, key)),
            _ => None,
        }
    }

    fn get(self) -> Result<Option<&'a Value>, Problem> {
        match self {
            Self::Member(fields, key) => Ok(fields.get(&key)),
            Self::Item(items, key) => existing_index(&key, items.len()).map(|index| items.get(index)),
        }
    }

    fn add(self, value: Value) -> Result<(), Problem> {
        match self {
            Self::Member(fields, key) => drop(fields.insert(key, value)),
            Self::Item(items, key) if key == "-" => items.push(value),
            Self::Item(items, key) => {
                // Counted from the end of the list as it will be, so that -1 appends.
                let index = existing_index(&key, items.len() + 1)?;
                items.insert(index, value);
            }
        }
        Ok(())
    }

    fn replace(self, value: Value) -> Result<(), Problem> {
        match self {
            Self::Member(fields, key) => drop(fields.insert(key, value)),
            Self::Item(items, key) => {
                let index = existing_index(&key, items.len())?;
                if let Some(item) = items.get_mut(index) {
                    *item = value;
                }
            }
        }
        Ok(())
    }

    fn remove(self) -> Result<Value, Problem> {
        match self {
            Self::Member(fields, key) => fields.remove(&key).ok_or(Problem::MissingMember),
            Self::Item(items, key) => existing_index(&key, items.len()).map(|index| items.remove(index)),
        }
    }
}

/// The index a key means in an array of this length.
fn existing_index(key: &str, length: usize) -> Result<usize, Problem> {
    let index: i64 = key.parse().map_err(|_| Problem::InvalidIndex)?;
    let length = i64::try_from(length).map_err(|_| Problem::InvalidIndex)?;
    let index = if index < 0 { index + length } else { index };
    if (0..length).contains(&index) {
        usize::try_from(index).map_err(|_| Problem::InvalidIndex)
    } else {
        Err(Problem::InvalidIndex)
    }
}

/// A key without the escapes of RFC 6901.
fn unescape(key: &str) -> String {
    // In this order "~01" becomes "~1" and not "/".
    key.replace("~1", "/").replace("~0", "~")
}

fn encoded_length(value: &Value) -> usize {
    struct Counter(usize);
    impl std::io::Write for Counter {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0 += bytes.len();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }
    let mut counter = Counter(0);
    match serde_json::to_writer(&mut counter, value) {
        Ok(()) => counter.0,
        Err(_) => usize::MAX,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    fn patched(mut document: Value, patch: Value) -> Result<Value, PatchError> {
        apply(&mut document, &parse(&patch)?)?;
        Ok(document)
    }

    fn problem(document: Value, patch: Value) -> Problem {
        match patched(document.clone(), patch.clone()) {
            Err(PatchError::Failed { problem, .. }) => problem,
            other => panic!("{patch} on {document} gave {other:?}"),
        }
    }

    #[test]
    fn operations_do_what_the_library_of_kubernetes_does() {
        let cases = [
            (json!({"a": 1}), json!([{"op": "add", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!([{"op": "add", "path": "/b"}]), json!({"a": 1, "b": null})),
            (json!({"a": 1}), json!([{"op": "remove", "path": "/a"}]), json!({})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/b", "value": 2}]), json!({"a": 1, "b": 2})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "/a"}]), json!({"a": null})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "ignored/a", "value": 2}]), json!({"a": 2})),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": {"b": 1}}]), json!({"b": 1})),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-", "value": 3}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/0", "value": 3}]),
                json!({"a": [3, 1, 2]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-1", "value": 3}]),
                json!({"a": [1, 2, 3]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "add", "path": "/a/-3", "value": 3}]),
                json!({"a": [3, 1, 2]}),
            ),
            (
                json!({"a": [1, 2]}),
                json!([{"op": "replace", "path": "/a/-1", "value": 3}]),
                json!({"a": [1, 3]}),
            ),
            (json!({"a": [1, 2]}), json!([{"op": "remove", "path": "/a/-2"}]), json!({"a": [2]})),
            (
                json!({"a": [{"b": 1}]}),
                json!([{"op": "replace", "path": "/a/+0/b", "value": 3}]),
                json!({"a": [{"b": 3}]}),
            ),
            (
                json!({"a/b": {"~1": 1}}),
                json!([{"op": "replace", "path": "/a~1b/~01", "value": 2}]),
                json!({"a/b": {"~1": 2}}),
            ),
            (json!({"": 1}), json!([{"op": "replace", "path": "/", "value": 2}]), json!({"": 2})),
            (
                json!({"a": 1, "b": {}}),
                json!([{"op": "move", "from": "/a", "path": "/b/c"}]),
                json!({"b": {"c": 1}}),
            ),
            (
                json!({"a": {"x": 1}}),
                json!([{"op": "copy", "from": "/a", "path": "/b"}]),
                json!({"a": {"x": 1}, "b": {"x": 1}}),
            ),
            (
                json!({"a": 1}),
                json!([{"op": "copy", "from": "/z", "path": "/b"}]),
                json!({"a": 1, "b": null}),
            ),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 1}]), json!({"a": 1})),
            (json!({"a": 1}), json!([{"op": "test", "path": "/z", "value": null}]), json!({"a": 1})),
            (json!({"a": 1}), json!([{"op": "test", "path": "/z"}]), json!({"a": 1})),
            (json!({"a": 1}), json!([{"op": "test", "path": "", "value": {"a": 1}}]), json!({"a": 1})),
            (json!([1]), json!([{"op": "add", "path": "/1", "value": 2}]), json!([1, 2])),
        ];
        for (document, patch, expected) in cases {
            assert_eq!(patched(document, patch.clone()), Ok(expected), "{patch}");
        }
    }

    #[test]
    fn operations_that_do_not_fit_fail_with_the_reason() {
        let cases = [
            (json!({}), json!([{"op": "add", "path": "/a/b", "value": 1}]), Problem::MissingPath),
            (json!({}), json!([{"op": "add", "path": "a", "value": 1}]), Problem::MissingPath),
            (json!({}), json!([{"op": "add", "path": "", "value": 1}]), Problem::MissingPath),
            (
                json!({"a": null}),
                json!([{"op": "replace", "path": "/a/b", "value": 1}]),
                Problem::MissingPath,
            ),
            (
                json!({"a": "text"}),
                json!([{"op": "replace", "path": "/a/b", "value": 1}]),
                Problem::MissingPath,
            ),
            (json!({}), json!([{"op": "remove", "path": "/a"}]), Problem::MissingMember),
            (json!({"a": [1]}), json!([{"op": "remove", "path": "/a/1"}]), Problem::InvalidIndex),
            (json!({"a": [1]}), json!([{"op": "remove", "path": "/a/-2"}]), Problem::InvalidIndex),
            (
                json!({"a": [1]}),
                json!([{"op": "replace", "path": "/a/1", "value": 1}]),
                Problem::InvalidIndex,
            ),
            (
                json!({"a": [1]}),
                json!([{"op": "replace", "path": "/a/-", "value": 1}]),
                Problem::InvalidIndex,
            ),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/3", "value": 1}]), Problem::InvalidIndex),
            (json!({"a": [1]}), json!([{"op": "add", "path": "/a/x", "value": 1}]), Problem::InvalidIndex),
            (json!({"a": [1]}), json!([{"op": "copy", "from": "/a/7", "path": "/b"}]), Problem::InvalidIndex),
            (json!({}), json!([{"op": "move", "from": "/a/b", "path": "/c"}]), Problem::MissingFrom),
            (json!({}), json!([{"op": "move", "from": "/a", "path": "/c"}]), Problem::MissingMember),
            (json!({"a": {}}), json!([{"op": "move", "from": "/a", "path": "/a/b"}]), Problem::MissingPath),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a", "value": 2}]), Problem::TestFailed),
            (json!({"a": 1}), json!([{"op": "test", "path": "/a"}]), Problem::TestFailed),
            (json!({"a": 1}), json!([{"op": "replace", "path": "", "value": 2}]), Problem::NotADocument),
            (json!({}), json!([{"op": "merge", "path": "/a"}]), Problem::UnknownOperation),
        ];
        for (document, patch, expected) in cases {
            assert_eq!(problem(document, patch.clone()), expected, "{patch}");
        }
    }

    #[test]
    fn a_failing_patch_changes_nothing_and_names_the_operation() {
        let mut document = json!({"a": 1});
        let patch = parse(&json!([{"op": "remove", "path": "/a"}, {"op": "remove", "path": "/a"}])).unwrap();
        let error = apply(&mut document, &patch).unwrap_err();
        assert_eq!(document, json!({"a": 1}));
        assert_eq!(error.to_string(), "operation 1 (remove \"/a\") does not apply: there is no such member");
        assert_eq!(Status::from(error).code, 422);
    }

    #[test]
    fn malformed_patches_are_refused() {
        for patch in [
            json!({"op": "add"}),
            json!([1]),
            json!([{"path": "/a"}]),
            json!([{"op": 1, "path": "/a"}]),
            json!([{"op": "add"}]),
            json!([{"op": "add", "path": 1}]),
            json!([{"op": "move", "path": "/a"}]),
        ] {
            assert_eq!(Status::from(parse(&patch).unwrap_err()).code, 400, "{patch}");
        }
    }

    #[test]
    fn patches_are_bounded() {
        let many: Value = vec![json!({"op": "add", "path": "/a"}); MAX_OPERATIONS + 1].into();
        assert_eq!(Status::from(parse(&many).unwrap_err()).code, 413);
        let doubling: Value = (0..64).map(|_| json!({"op": "copy", "from": "/a", "path": "/a/-"})).collect();
        assert_eq!(problem(json!({"a": ["seed"]}), doubling), Problem::CopiesTooMuch);
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]
        #[test]
        fn no_patch_panics(steps in prop::collection::vec(("(add|remove|replace|move|copy|test)", "(/|/a|/b|/-|/0|/-1|/1|/99999999999999999999|~0|x){0,4}", "(/|/a|/b|/0|/-1){0,3}"), 0..8)) {
            let patch: Value = steps.iter().map(|(op, path, from)| json!({"op": op, "path": path, "from": from, "value": {"a": [1, {"b": 2}]}})).collect();
            let before = json!({"a": [1, {"b": [2]}], "b": {"a": 1}});
            let mut document = before.clone();
            if apply(&mut document, &parse(&patch).unwrap()).is_err() {
                prop_assert_eq!(document, before);
            }
        }
    }
}
