//! Admission webhooks and policies.

use jiff::Timestamp;
use serde_json::Value;

use super::{AGE, Heading, NAME, Sheet, age, count, has, text};
use crate::table::{Row, name_of};

pub(super) static WEBHOOKS: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new(
            "Webhooks",
            "Webhooks indicates the number of webhooks registered in this configuration",
        )
        .integer(),
        AGE,
    ],
    |object, now| vec![name_of(object), count(object, "/webhooks").into(), age(object, now)].into(),
);

const PARAM_KIND: Heading =
    Heading::new("ParamKind", "ParamKind specifies the kind of resources used to parameterize this policy");

pub(super) static VALIDATING_POLICY: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new(
            "Validations",
            "Validations indicates the number of validation rules defined in this configuration",
        )
        .integer(),
        PARAM_KIND,
        AGE,
    ],
    |object, now| policy(object, "/spec/validations", now),
);

pub(super) static MUTATING_POLICY: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new(
            "Mutations",
            "Mutation indicates the number of mutations rules defined in this configuration",
        )
        .integer(),
        PARAM_KIND,
        AGE,
    ],
    |object, now| policy(object, "/spec/mutations", now),
);

fn policy(object: &Value, rules: &str, now: Timestamp) -> Row {
    let param = match has(object, "/spec/paramKind") {
        true => {
            format!("{}/{}", text(object, "/spec/paramKind/apiVersion"), text(object, "/spec/paramKind/kind"))
        }
        false => "<unset>".into(),
    };
    vec![name_of(object), count(object, rules).into(), param.into(), age(object, now)].into()
}

pub(super) static POLICY_BINDING: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new(
            "PolicyName",
            "PolicyName indicates the policy definition which the policy binding binded to",
        ),
        Heading::new("ParamRef", "ParamRef indicates the param resource which sets the configuration param"),
        AGE,
    ],
    |object, now| {
        let param = match (text(object, "/spec/paramRef/name"), text(object, "/spec/paramRef/namespace")) {
            ("", _) if has(object, "/spec/paramRef/selector") => {
                super::selector(&object["spec"]["paramRef"]["selector"])
            }
            ("", _) => "<unset>".into(),
            (name, "") => format!("*/{name}"),
            (name, namespace) => format!("{namespace}/{name}"),
        };
        vec![name_of(object), text(object, "/spec/policyName").into(), param.into(), age(object, now)].into()
    },
);
