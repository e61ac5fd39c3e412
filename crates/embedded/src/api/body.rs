//! From a request body to an object of the resource: the right kind, decoded as strictly as asked.

use hansa_machinery::{
    Schema, Status,
    kubernetes::KUBERNETES,
    structural::{self, Prune},
};
use serde_json::{Value, json};

use super::{
    call::Call,
    decode::Document,
    options::{FieldValidation, WriteOptions},
};

/// The schema of every object's metadata.
const OBJECT_META: &str = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta";

impl Call {
    /// The object in a body that must be of this resource's kind.
    pub(crate) fn object(&self, document: Document, options: &WriteOptions) -> Result<Value, Status> {
        let Document { mut value, duplicates } = document;
        let (kind, api_version) = (self.resource.kind.as_str(), self.resource.api_version());
        self.check_kind(&mut value, kind, &api_version)?;
        let unknown = self.conform(&mut value)?;
        self.judge(duplicates, unknown, options)?;
        Ok(value)
    }

    /// Checks `kind` and `apiVersion`, or fills them in where the URL says them already.
    pub(crate) fn check_kind(&self, value: &mut Value, kind: &str, api_version: &str) -> Result<(), Status> {
        if !value.is_object() {
            return Err(self.undecodable(&format!("cannot restore slice from {}", shorten(value))));
        }
        let text = |field: &str| value[field].as_str().unwrap_or_default().to_owned();
        let (given_kind, given_version) = (text("kind"), text("apiVersion"));
        if given_kind.is_empty() && self.resource.custom.is_some() {
            return Err(self.undecodable(&format!("Object 'Kind' is missing in '{}'", shorten(value))));
        }
        if !given_version.is_empty() && given_version != api_version {
            return Err(Status::bad_request(format!(
                "the API version in the data ({given_version}) does not match the expected API version ({api_version})"
            )));
        }
        if !given_kind.is_empty() && given_kind != kind {
            return Err(Status::bad_request(format!(
                "{given_kind} in version {:?} cannot be handled as a {kind}: the kind in the data ({given_kind}) does not \
                 match the expected kind ({kind})",
                self.resource.version
            )));
        }
        value["kind"] = kind.into();
        value["apiVersion"] = api_version.into();
        if value.get("metadata").is_none_or(Value::is_null) {
            value["metadata"] = json!({});
        }
        if !value["metadata"].is_object() {
            return Err(self
                .undecodable("json: cannot unmarshal into Go struct field .metadata of type v1.ObjectMeta"));
        }
        Ok(())
    }

    /// Fits a value to the resource's schema as decoding does; returns the paths of the fields it does not know.
    pub(crate) fn conform(&self, value: &mut Value) -> Result<Vec<String>, Status> {
        let Some(schema) = &self.resource.schema else { return Ok(Vec::new()) };
        match &self.resource.custom {
            None => {
                first_error(schema, value).map_err(|why| self.cannot_handle(&why))?;
                let unknown = structural::prune(schema, value, Prune::default());
                structural::normalize(schema, value);
                Ok(unknown)
            }
            Some(custom) => {
                if let Some(meta) = KUBERNETES.definitions.get(OBJECT_META) {
                    first_error(&meta, &value["metadata"]).map_err(|why| self.cannot_handle(&why))?;
                    structural::normalize(&meta, &mut value["metadata"]);
                }
                if custom.preserve_unknown {
                    return Ok(Vec::new());
                }
                Ok(structural::prune(schema, value, Prune::RESOURCE))
            }
        }
    }

    /// What becomes of unknown and repeated fields.
    pub(crate) fn judge(
        &self,
        duplicates: Vec<String>,
        unknown: Vec<String>,
        options: &WriteOptions,
    ) -> Result<(), Status> {
        let unknown = unknown.into_iter().map(|path| format!("unknown field {path:?}"));
        let complaints: Vec<String> =
            unknown.chain(duplicates.into_iter().map(|path| format!("duplicate field {path:?}"))).collect();
        match options.validation {
            _ if complaints.is_empty() => Ok(()),
            FieldValidation::Ignore => Ok(()),
            FieldValidation::Warn => {
                complaints.into_iter().for_each(|complaint| self.warn(complaint));
                Ok(())
            }
            FieldValidation::Strict => {
                Err(self.cannot_handle(&format!("strict decoding error: {}", complaints.join(", "))))
            }
        }
    }

    /// 400: the body is of the right kind, but does not decode.
    pub(crate) fn cannot_handle(&self, why: &str) -> Status {
        let (kind, version) = (&self.resource.kind, &self.resource.version);
        Status::bad_request(format!("{kind} in version {version:?} cannot be handled as a {kind}: {why}"))
    }

    /// 400: the body does not even say what it is.
    pub(crate) fn undecodable(&self, why: &str) -> Status {
        Status::bad_request(format!(
            "the object provided is unrecognized (must be of type {}): {why}",
            self.resource.kind
        ))
    }
}

fn first_error(schema: &Schema, value: &Value) -> Result<(), String> {
    structural::decode_errors(schema, value).into_iter().next().map_or(Ok(()), Err)
}

/// The beginning of a value, for messages.
fn shorten(value: &Value) -> String {
    value.to_string().chars().take(100).collect()
}
