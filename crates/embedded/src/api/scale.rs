//! The `scale` subresource: `autoscaling/v1 Scale` of workloads and of custom resources that define it.

use hansa_machinery::{Status, json_patch, jsonpath::JsonPath, merge_patch, status::Cause};
use serde_json::{Value, json};

use super::{
    call::{Answer, Call, Payload},
    decode::Document,
    metadata,
    options::WriteOptions,
    patch::PatchKind,
    write::Change,
};
use crate::registry::custom::ScalePaths;

impl Call {
    fn scale_paths(&self) -> ScalePaths {
        self.resource.custom.as_ref().and_then(|custom| custom.scale.clone()).unwrap_or_else(|| ScalePaths {
            spec_replicas: ".spec.replicas".into(),
            status_replicas: ".status.replicas".into(),
            selector: None,
        })
    }

    /// The `Scale` of an object.
    fn scale_of(&self, object: &Value) -> Value {
        let paths = self.scale_paths();
        let at = |path: &str| JsonPath::parse(path).ok().and_then(|path| path.first(object).cloned());
        let number = |path: &str| at(path).and_then(|v| v.as_i64()).unwrap_or(0);
        let selector = match (&self.resource.custom, paths.selector.as_deref()) {
            (Some(_), Some(path)) => at(path).and_then(|v| v.as_str().map(str::to_owned)).unwrap_or_default(),
            (Some(_), None) => String::new(),
            (None, _) => selector_text(&object["spec"]["selector"]),
        };
        let meta = &object["metadata"];
        let mut metadata = json!({});
        for field in ["name", "namespace", "uid", "resourceVersion", "creationTimestamp"] {
            if !meta[field].is_null() {
                metadata[field] = meta[field].clone();
            }
        }
        let mut spec = json!({});
        match number(&paths.spec_replicas) {
            0 => {}
            replicas => spec["replicas"] = replicas.into(),
        }
        let mut status = json!({"replicas": number(&paths.status_replicas)});
        if !selector.is_empty() {
            status["selector"] = selector.into();
        }
        json!({"kind": "Scale", "apiVersion": "autoscaling/v1", "metadata": metadata, "spec": spec, "status": status})
    }

    /// Answers `GET …/scale`.
    pub(crate) fn get_scale(&self) -> Result<Answer, Status> {
        let object = self.show(&*self.entry()?)?.into_value()?;
        Ok(Answer::made(200, self.scale_of(&object)))
    }

    /// Answers `PUT …/scale`.
    pub(crate) async fn update_scale(
        &self,
        document: Document,
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        self.write_scale(ScaleChange::Replace(document.value), options).await
    }

    /// Answers `PATCH …/scale`.
    pub(crate) async fn patch_scale(
        &self,
        kind: PatchKind,
        document: Document,
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        self.write_scale(ScaleChange::Patch(kind, document.value), options).await
    }

    async fn write_scale(&self, change: ScaleChange, options: &WriteOptions) -> Result<Answer, Status> {
        let main = Self { subresource: String::new(), ..self.at(&self.namespace, &self.name) };
        let entry_call = ScaleWrite { change, scale: self };
        let (payload, _): (Payload, bool) = main.modify(&entry_call, options).await?;
        Ok(Answer::made(200, self.scale_of(&payload.into_value()?)))
    }
}

enum ScaleChange {
    Replace(Value),
    Patch(PatchKind, Value),
}

struct ScaleWrite<'a> {
    change: ScaleChange,
    scale: &'a Call,
}

impl ScaleWrite<'_> {
    fn set_replicas(&self, object: &mut Value, replicas: i64) -> Result<(), Status> {
        let path = JsonPath::parse(&self.scale.scale_paths().spec_replicas).map_err(Status::internal)?;
        path.set(object, replicas.into()).map_err(Status::internal)
    }
}

impl Change for ScaleWrite<'_> {
    fn desired(&self, call: &Call, live: Option<&Value>) -> Result<Value, Status> {
        let Some(live) = live else { return Err(call.not_found(&call.name)) };
        let current = self.scale.scale_of(live);
        let wanted = match &self.change {
            ScaleChange::Replace(scale) => scale.clone(),
            ScaleChange::Patch(PatchKind::Json, patch) => {
                let mut scale = current;
                let operations = json_patch::parse(patch).map_err(|e| Status::bad_request(e.to_string()))?;
                json_patch::apply(&mut scale, &operations).map_err(|e| Status::bad_request(e.to_string()))?;
                scale
            }
            ScaleChange::Patch(_, patch) => {
                let mut scale = current;
                merge_patch::apply(&mut scale, patch);
                scale
            }
        };
        let kind = wanted["kind"].as_str().unwrap_or("Scale");
        if kind != "Scale" || !wanted.is_object() {
            return Err(Status::bad_request(format!("{kind} cannot be handled as a Scale")));
        }
        let name = wanted["metadata"]["name"].as_str().unwrap_or_default();
        if !name.is_empty() && name != call.name {
            return Err(Status::bad_request(format!(
                "the name of the object ({name}) does not match the name on the URL ({})",
                call.name
            )));
        }
        let replicas = match &wanted["spec"]["replicas"] {
            Value::Null => 0,
            value => value.as_i64().ok_or_else(|| {
                Status::bad_request(
                    "Scale in version \"v1\" cannot be handled as a Scale: spec.replicas is not an integer",
                )
            })?,
        };
        if !(0..=i64::from(i32::MAX)).contains(&replicas) {
            return Err(Status::invalid(
                "autoscaling",
                "Scale",
                &call.name,
                vec![Cause {
                    reason: "FieldValueInvalid",
                    field: "spec.replicas".into(),
                    message: format!("Invalid value: {replicas}: must be greater than or equal to 0"),
                }],
            ));
        }
        let mut object = live.clone();
        self.set_replicas(&mut object, replicas)?;
        for field in ["resourceVersion", "uid"] {
            match wanted["metadata"][field].as_str().filter(|text| !text.is_empty()) {
                Some(text) => object["metadata"][field] = text.into(),
                // Without one, the live one holds: custom resources know no unconditional update otherwise.
                None => {
                    metadata::of(&mut object).insert(field.into(), live["metadata"][field].clone());
                }
            }
        }
        Ok(object)
    }

    fn creates(&self, _: &Call) -> bool {
        false
    }

    fn shown(&self, object: &Value) -> Option<(&str, Value)> {
        Some(("scale", self.scale.scale_of(object)))
    }

    fn absorb(&self, shown: Value, object: &mut Value) -> Result<(), Status> {
        self.set_replicas(object, shown["spec"]["replicas"].as_i64().unwrap_or(0))
    }

    fn retries(&self) -> bool {
        match &self.change {
            ScaleChange::Replace(scale) => {
                scale["metadata"]["resourceVersion"].as_str().is_none_or(str::is_empty)
            }
            ScaleChange::Patch(_, patch) => patch["metadata"]["resourceVersion"].is_null(),
        }
    }
}

/// A selector as the text form of the API: `a=b,c in (d,e)`.
fn selector_text(selector: &Value) -> String {
    let labels = |labels: &Value| -> Vec<String> {
        let labels = labels.as_object().into_iter().flatten();
        labels.map(|(key, value)| format!("{key}={}", value.as_str().unwrap_or_default())).collect()
    };
    if selector["matchLabels"].is_null() && selector["matchExpressions"].is_null() {
        return labels(selector).join(",");
    }
    let mut terms = labels(&selector["matchLabels"]);
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values: Vec<&str> =
            expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        terms.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({})", values.join(",")),
            Some("NotIn") => format!("{key} notin ({})", values.join(",")),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    terms.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_are_written_as_text() {
        assert_eq!(selector_text(&json!({"app": "web"})), "app=web");
        let selector = json!({"matchLabels": {"a": "b"}, "matchExpressions": [{"key": "c", "operator": "In", "values": ["d", "e"]}]});
        assert_eq!(selector_text(&selector), "a=b,c in (d,e)");
    }
}
