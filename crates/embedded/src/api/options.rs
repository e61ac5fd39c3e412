//! What a caller asks of a write: `CreateOptions`, `UpdateOptions`, `PatchOptions`, `DeleteOptions`.

use hansa_machinery::{Status, status::Cause};
use serde_json::{Value, json};

use super::query::Query;

/// What happens to fields the schema does not know, or that are given twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum FieldValidation {
    /// They are dropped.
    Ignore,
    /// They are dropped with a warning.
    #[default]
    Warn,
    /// The request fails.
    Strict,
}

/// The options of create, update and patch.
#[derive(Clone, Debug, Default)]
pub(crate) struct WriteOptions {
    pub(crate) dry_run: bool,
    /// The field manager: as asked for, else the start of the `User-Agent`.
    pub(crate) manager: String,
    pub(crate) validation: FieldValidation,
    /// Of server-side apply: take over fields of other managers.
    pub(crate) force: bool,
}

/// The longest field manager name (`FieldManagerMaxLength`).
const MAX_MANAGER: usize = 128;

impl WriteOptions {
    /// Reads the options of a request whose options type is called `kind`.
    pub(crate) fn parse(query: &Query, user_agent: &str, kind: &str, is_apply: bool) -> Result<Self, Status> {
        let mut causes = Vec::new();
        let dry_run = dry_run(query.all("dryRun"), &mut causes);
        let manager = query.text("fieldManager");
        if manager.chars().count() > MAX_MANAGER {
            causes.push(Cause {
                reason: "FieldValueTooLong",
                field: "fieldManager".into(),
                message: format!("Too long: may not be more than {MAX_MANAGER} bytes"),
            });
        }
        if let Some(odd) = manager.chars().find(|c| c.is_control()) {
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: "fieldManager".into(),
                message: format!("Invalid value: {manager:?}: invalid character {odd:?} (at position 0)"),
            });
        }
        let validation = match query.text("fieldValidation") {
            "" | "Warn" => FieldValidation::Warn,
            "Ignore" => FieldValidation::Ignore,
            "Strict" => FieldValidation::Strict,
            other => {
                causes.push(unsupported("fieldValidation", other, "\"\", \"Ignore\", \"Strict\", \"Warn\""));
                FieldValidation::Warn
            }
        };
        let force = query.flag("force");
        if is_apply && manager.is_empty() {
            causes.push(Cause {
                reason: "FieldValueRequired",
                field: "fieldManager".into(),
                message: "Required value: is required for apply patch".into(),
            });
        }
        if !is_apply && force.is_some() && kind == "PatchOptions" {
            causes.push(Cause {
                reason: "FieldValueForbidden",
                field: "force".into(),
                message: "Forbidden: may not be specified for non-apply patch".into(),
            });
        }
        if !causes.is_empty() {
            return Err(Status::invalid("meta.k8s.io", kind, "", causes));
        }
        let manager = if manager.is_empty() { manager_of_agent(user_agent) } else { manager.to_owned() };
        Ok(Self { dry_run, manager, validation, force: force.unwrap_or_default() })
    }
}

/// `kubectl/v1.37.2 (linux/amd64)` writes as `kubectl`.
pub(crate) fn manager_of_agent(user_agent: &str) -> String {
    let name = user_agent.split('/').next().unwrap_or_default();
    let mut manager = String::new();
    for c in name.chars().filter(|c| !c.is_control()) {
        if manager.len() + c.len_utf8() > MAX_MANAGER {
            break;
        }
        manager.push(c);
    }
    manager
}

fn dry_run<'a>(values: impl Iterator<Item = &'a str>, causes: &mut Vec<Cause>) -> bool {
    let mut dry = false;
    for value in values {
        match value {
            "All" => dry = true,
            other => causes.push(unsupported("dryRun", other, "\"All\"")),
        }
    }
    dry
}

fn unsupported(field: &str, value: &str, supported: &str) -> Cause {
    Cause {
        reason: "FieldValueNotSupported",
        field: field.into(),
        message: format!("Unsupported value: {value:?}: supported values: {supported}"),
    }
}

/// How dependents fare when their owner is deleted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Propagation {
    /// They are deleted afterwards.
    Background,
    /// They are deleted first.
    Foreground,
    /// They stay, without their owner.
    Orphan,
}

/// `meta/v1 DeleteOptions`.
#[derive(Clone, Debug, Default)]
pub struct DeleteOptions {
    /// Checks everything and deletes nothing.
    pub dry_run: bool,
    /// How long a Pod may take to stop.
    pub grace_period_seconds: Option<i64>,
    /// How dependents fare; `None` for what is usual for the kind.
    pub propagation: Option<Propagation>,
    /// The older way to say the same.
    pub(crate) orphan_dependents: Option<bool>,
    /// Only if the object still has this uid.
    pub uid: Option<String>,
    /// Only if the object still has this resource version.
    pub resource_version: Option<String>,
}

impl DeleteOptions {
    /// The options as an object.
    pub(crate) fn to_value(&self) -> Value {
        let mut options = json!({"kind": "DeleteOptions", "apiVersion": "meta.k8s.io/v1"});
        let propagation = self.propagation.map(|propagation| format!("{propagation:?}"));
        let fields: [(&str, Value); 4] = [
            ("gracePeriodSeconds", self.grace_period_seconds.into()),
            ("propagationPolicy", propagation.into()),
            ("orphanDependents", self.orphan_dependents.into()),
            ("dryRun", self.dry_run.then(|| json!(["All"])).into()),
        ];
        for (field, value) in fields.into_iter().filter(|(_, value)| !value.is_null()) {
            options[field] = value;
        }
        for (field, value) in [("uid", &self.uid), ("resourceVersion", &self.resource_version)] {
            if let Some(value) = value {
                options["preconditions"][field] = value.as_str().into();
            }
        }
        options
    }

    /// Reads the options from the body if there is one, else from the query.
    pub(crate) fn parse(body: Option<&Value>, query: &Query) -> Result<Self, Status> {
        let mut causes = Vec::new();
        let mut options = Self::default();
        let propagation;
        if let Some(body) = body {
            let kind = body["kind"].as_str().unwrap_or("DeleteOptions");
            if kind != "DeleteOptions" || !body.is_object() {
                return Err(Status::bad_request("decoded object cannot be converted to DeleteOptions"));
            }
            let typed = |field: &str, ok: bool| {
                let wrong = format!("json: cannot unmarshal DeleteOptions.{field}: unexpected type");
                if ok { Ok(()) } else { Err(Status::bad_request(wrong)) }
            };
            let grace = &body["gracePeriodSeconds"];
            typed("gracePeriodSeconds", grace.is_null() || grace.is_i64() || grace.is_u64())?;
            options.grace_period_seconds = grace.as_i64();
            typed(
                "orphanDependents",
                body["orphanDependents"].is_null() || body["orphanDependents"].is_boolean(),
            )?;
            options.orphan_dependents = body["orphanDependents"].as_bool();
            typed(
                "propagationPolicy",
                body["propagationPolicy"].is_null() || body["propagationPolicy"].is_string(),
            )?;
            propagation = body["propagationPolicy"].as_str().map(str::to_owned);
            typed("dryRun", body["dryRun"].is_null() || body["dryRun"].is_array())?;
            let directives = body["dryRun"].as_array().into_iter().flatten();
            options.dry_run = dry_run(directives.map(|v| v.as_str().unwrap_or_default()), &mut causes);
            options.uid = body["preconditions"]["uid"].as_str().map(str::to_owned);
            options.resource_version = body["preconditions"]["resourceVersion"].as_str().map(str::to_owned);
        } else {
            options.grace_period_seconds = query.number("gracePeriodSeconds")?;
            options.orphan_dependents = query.flag("orphanDependents");
            propagation = query.get("propagationPolicy").filter(|p| !p.is_empty()).map(str::to_owned);
            options.dry_run = dry_run(query.all("dryRun"), &mut causes);
        }
        match propagation.as_deref() {
            None => {}
            Some("Background") => options.propagation = Some(Propagation::Background),
            Some("Foreground") => options.propagation = Some(Propagation::Foreground),
            Some("Orphan") => options.propagation = Some(Propagation::Orphan),
            Some(other) => causes.push(Cause {
                reason: "FieldValueNotSupported",
                field: "propagationPolicy".into(),
                message: format!(
                    "Unsupported value: {other:?}: supported values: \"Background\", \"Foreground\", \"Orphan\", \"nil\""
                ),
            }),
        }
        if options.propagation.is_some() && options.orphan_dependents.is_some() {
            causes.push(Cause {
                reason: "FieldValueInvalid",
                field: "propagationPolicy".into(),
                message: format!(
                    "Invalid value: {:?}: orphanDependents and deletionPropagation cannot be both set",
                    propagation.unwrap_or_default()
                ),
            });
        }
        // Kubernetes takes a negative grace period for the shortest one.
        options.grace_period_seconds = options.grace_period_seconds.map(|s| if s < 0 { 1 } else { s });
        match causes.is_empty() {
            true => Ok(options),
            false => Err(Status::invalid("meta.k8s.io", "DeleteOptions", "", causes)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_field_manager_comes_from_the_user_agent_unless_given() {
        let parse = |query: &str| {
            WriteOptions::parse(&Query::parse(query), "kubectl/v1.37.2 (linux)", "CreateOptions", false)
        };
        assert_eq!(parse("").expect("valid").manager, "kubectl");
        assert_eq!(parse("fieldManager=me").expect("valid").manager, "me");
        let refused = parse("dryRun=Some").expect_err("not All");
        assert_eq!(refused.code, 422);
        assert_eq!(
            refused.message,
            "CreateOptions.meta.k8s.io \"\" is invalid: dryRun: Unsupported value: \"Some\": supported values: \"All\""
        );
    }

    #[test]
    fn apply_needs_a_field_manager_and_others_must_not_force() {
        let parse =
            |query: &str, apply| WriteOptions::parse(&Query::parse(query), "x/1", "PatchOptions", apply);
        assert_eq!(parse("", true).expect_err("no manager").code, 422);
        assert_eq!(parse("force=true", false).expect_err("force").code, 422);
        assert!(parse("force=true&fieldManager=a", true).expect("valid").force);
    }

    #[test]
    fn the_body_wins_over_the_query_in_delete() {
        let body = json!({"kind": "DeleteOptions", "propagationPolicy": "Orphan", "gracePeriodSeconds": -5});
        let options =
            DeleteOptions::parse(Some(&body), &Query::parse("propagationPolicy=Foreground")).expect("valid");
        assert_eq!(options.propagation, Some(Propagation::Orphan));
        assert_eq!(options.grace_period_seconds, Some(1));
        let both = json!({"propagationPolicy": "Orphan", "orphanDependents": true});
        assert_eq!(DeleteOptions::parse(Some(&both), &Query::default()).expect_err("both").code, 422);
        assert_eq!(
            DeleteOptions::parse(Some(&json!({"kind": "Pod"})), &Query::default()).expect_err("kind").code,
            400
        );
    }
}
