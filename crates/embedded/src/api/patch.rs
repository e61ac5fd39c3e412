//! `patch`: JSON patch, merge patch, strategic merge patch and server-side apply.

use hansa_machinery::{Status, apply, json_patch, merge_patch, status::Cause, strategic};
use serde_json::Value;

use super::{
    call::{Answer, Call},
    decode::{self, Document, Format},
    metadata,
    options::{FieldValidation, WriteOptions},
    write::{Change, written},
};

/// How many operations a JSON patch may have (`maxJSONPatchOperations`).
const MAX_OPERATIONS: usize = 10_000;

/// The ways to patch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PatchKind {
    /// RFC 6902.
    Json,
    /// RFC 7396.
    Merge,
    /// Merge with lists merged by key, for built-in kinds.
    Strategic,
    /// Server-side apply.
    Apply,
}

impl PatchKind {
    /// The kind a `Content-Type` names.
    pub(crate) fn of(content_type: &str, custom: bool) -> Result<Self, Status> {
        let media_type = content_type.split(';').next().unwrap_or_default().trim();
        let kind = match media_type {
            "application/json-patch+json" => Some(Self::Json),
            "application/merge-patch+json" => Some(Self::Merge),
            "application/strategic-merge-patch+json" if !custom => Some(Self::Strategic),
            "application/apply-patch+yaml" => Some(Self::Apply),
            _ => None,
        };
        kind.ok_or_else(|| {
            let strategic = if custom { "" } else { ", application/strategic-merge-patch+json" };
            Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: \
                 application/json-patch+json, application/merge-patch+json{strategic}, application/apply-patch+yaml"
            ))
        })
    }
}

struct Patching {
    kind: PatchKind,
    patch: Value,
    duplicates: Vec<String>,
    options: WriteOptions,
    has_version: bool,
}

impl Change for Patching {
    fn desired(&self, call: &Call, live: Option<&Value>) -> Result<Value, Status> {
        let schema = call.resource.schema.as_ref();
        if self.kind == PatchKind::Apply {
            return self.applied(call, live);
        }
        let Some(live) = live else { return Err(call.not_found(&call.name)) };
        let mut object = live.clone();
        match self.kind {
            PatchKind::Json => {
                let operations =
                    json_patch::parse(&self.patch).map_err(|error| Status::bad_request(error.to_string()))?;
                json_patch::apply(&mut object, &operations)
                    .map_err(|error| unpatchable(&error.to_string()))?;
            }
            PatchKind::Merge => merge_patch::apply(&mut object, &self.patch),
            PatchKind::Strategic => object = strategic::apply(schema, &object, &self.patch)?,
            PatchKind::Apply => {}
        }
        if !object.is_object() {
            return Err(unpatchable("the patched value is not an object"));
        }
        let (kind, api_version) = (call.resource.kind.as_str(), call.resource.api_version());
        call.check_kind(&mut object, kind, &api_version)?;
        let unknown = call.conform(&mut object)?;
        match self.options.validation {
            FieldValidation::Strict => {
                let mut all: Vec<String> =
                    unknown.into_iter().map(|path| format!("unknown field {path:?}")).collect();
                all.extend(self.duplicates.iter().map(|path| format!("duplicate field {path:?}")));
                if !all.is_empty() {
                    let causes = vec![Cause {
                        reason: "FieldValueInvalid",
                        field: "patch".into(),
                        message: format!(
                            "Invalid value: {:?}: strict decoding error: {}",
                            self.patch.to_string(),
                            all.join(", ")
                        ),
                    }];
                    return Err(Status::invalid("", "", "", causes));
                }
            }
            _ => call.judge(self.duplicates.clone(), unknown, &self.options)?,
        }
        Ok(object)
    }

    fn manages_fields(&self) -> bool {
        self.kind == PatchKind::Apply
    }

    fn creates(&self, _: &Call) -> bool {
        self.kind == PatchKind::Apply
    }

    fn retries(&self) -> bool {
        !self.has_version
    }
}

impl Patching {
    fn applied(&self, call: &Call, live: Option<&Value>) -> Result<Value, Status> {
        let mut applied = self.patch.clone();
        let (kind, api_version) = (call.resource.kind.as_str(), call.resource.api_version());
        if !applied.is_object() {
            return Err(Status::bad_request("error decoding YAML: the patch is not an object"));
        }
        call.check_kind(&mut applied, kind, &api_version)?;
        let unknown = call.conform(&mut applied)?;
        call.judge(self.duplicates.clone(), unknown, &self.options)?;
        if applied["metadata"]["managedFields"].as_array().is_some_and(|list| !list.is_empty()) {
            return Err(Status::bad_request("metadata.managedFields must be nil"));
        }
        metadata::match_namespace(&mut applied, if call.resource.namespaced { &call.namespace } else { "" })?;
        let name = applied["metadata"]["name"].as_str().unwrap_or_default();
        if !name.is_empty() && name != call.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name
            )));
        }
        applied["metadata"]["name"] = call.name.clone().into();
        let manager = call.manager(&self.options);
        apply::apply(call.resource.schema.as_ref(), live, &applied, &manager, self.options.force)
    }
}

/// 422: the patch is well-formed, but does not fit the object. The status names no object, or kubectl would print its
/// name instead of the message.
fn unpatchable(why: &str) -> Status {
    let message = format!("the server rejected our request due to an error in our request: {why}");
    Status::new(422, "Invalid", message)
}

impl Call {
    /// Answers `PATCH`.
    pub(crate) async fn patch(
        &self,
        kind: PatchKind,
        document: Document,
        options: WriteOptions,
    ) -> Result<Answer, Status> {
        let patch = document.value;
        match kind {
            PatchKind::Json => match patch.as_array().map(Vec::len) {
                None => {
                    return Err(Status::bad_request(
                        "error decoding patch: a JSON patch is a list of operations",
                    ));
                }
                Some(count) if count > MAX_OPERATIONS => {
                    return Err(Status::too_large(format!(
                        "The allowed maximum operations in a JSON patch is {MAX_OPERATIONS}, got {count}"
                    )));
                }
                Some(_) => {}
            },
            _ if !patch.is_object() => {
                return Err(Status::bad_request("error decoding patch: a patch is an object"));
            }
            _ => {}
        }
        let has_version = kind != PatchKind::Json
            && !matches!(patch["metadata"]["resourceVersion"].as_str().unwrap_or_default(), "" | "0");
        let change =
            Patching { kind, patch, duplicates: document.duplicates, options: options.clone(), has_version };
        let (payload, created) = self.modify(&change, &options).await?;
        Ok(written(payload, created))
    }
}

/// Reads the body of a patch.
pub(crate) fn parse(kind: PatchKind, bytes: &[u8]) -> Result<Document, Status> {
    let format = if kind == PatchKind::Apply { Format::Yaml } else { Format::Json };
    let json = bytes.iter().find(|b| !b.is_ascii_whitespace()).is_some_and(|b| *b == b'{');
    let format = if json { Format::Json } else { format };
    if kind != PatchKind::Apply && serde_json::from_slice::<serde::de::IgnoredAny>(bytes).is_err() {
        return Err(Status::bad_request("invalid JSON patch"));
    }
    decode::parse(format, bytes).map_err(|why| {
        Status::bad_request(format!(
            "error decoding {}: {why}",
            match kind {
                PatchKind::Apply => "YAML",
                _ => "patch",
            }
        ))
    })
}
