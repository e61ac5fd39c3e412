//! Secrets that hold a token for their ServiceAccount (`kubernetes.io/service-account-token`).

use base64::{Engine, engine::general_purpose::STANDARD};
use hansa_machinery::Status;
use serde_json::{Value, json};

/// The type of these Secrets.
pub(crate) const TYPE: &str = "kubernetes.io/service-account-token";
const NAME: &str = "kubernetes.io/service-account.name";
const UID: &str = "kubernetes.io/service-account.uid";

/// What is to become of a Secret.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Verdict {
    /// It stays as it is.
    Keep,
    /// It becomes this.
    Fill(Value),
    /// Its ServiceAccount is gone, so it goes.
    Delete,
}

/// Decides about one Secret of this type. `account` finds the uid of a ServiceAccount of the namespace, `token` issues
/// a token for one.
///
/// # Errors
/// When no token can be issued.
pub(crate) fn judge(
    secret: &Value,
    account: impl Fn(&str) -> Option<String>,
    ca: &str,
    token: impl Fn(&str, &str) -> Result<String, Status>,
) -> Result<Verdict, Status> {
    let metadata = &secret["metadata"];
    let annotation = |key: &str| metadata["annotations"][key].as_str().unwrap_or_default();
    let (name, uid) = (annotation(NAME), annotation(UID));
    if secret["type"] != TYPE || name.is_empty() || metadata["deletionTimestamp"].is_string() {
        return Ok(Verdict::Keep);
    }
    let Some(live) = account(name).filter(|live| uid.is_empty() || uid == live) else {
        return Ok(Verdict::Delete);
    };
    let mut filled = secret.clone();
    filled["metadata"]["annotations"][UID] = live.as_str().into();
    let mut fill = |key: &str, value: &dyn Fn() -> Result<String, Status>, right: &dyn Fn(&str) -> bool| {
        if !right(secret["data"][key].as_str().unwrap_or_default()) {
            if !filled["data"].is_object() {
                filled["data"] = json!({});
            }
            filled["data"][key] = STANDARD.encode(value()?).into();
        }
        Ok::<(), Status>(())
    };
    let encoded_ca = STANDARD.encode(ca);
    fill("ca.crt", &|| Ok(ca.to_owned()), &|have| have == encoded_ca)?;
    let namespace = metadata["namespace"].as_str().unwrap_or_default();
    fill("namespace", &|| Ok(namespace.to_owned()), &|have| !have.is_empty())?;
    fill("token", &|| token(name, &live), &|have| !have.is_empty())?;
    Ok(if filled == *secret { Verdict::Keep } else { Verdict::Fill(filled) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(uid: Option<&str>) -> Value {
        let mut secret = json!({
            "type": TYPE, "metadata": {"name": "s", "namespace": "a", "annotations": {NAME: "sa"}},
        });
        if let Some(uid) = uid {
            secret["metadata"]["annotations"][UID] = uid.into();
        }
        secret
    }

    fn run(secret: &Value, live: Option<&str>) -> Verdict {
        let account = |name: &str| live.filter(|_| name == "sa").map(str::to_owned);
        judge(secret, account, "CA", |name, uid| Ok(format!("{name}/{uid}"))).unwrap()
    }

    #[test]
    fn an_empty_secret_is_filled_once() {
        let Verdict::Fill(filled) = run(&secret(None), Some("u1")) else { panic!() };
        let data = |key: &str| STANDARD.decode(filled["data"][key].as_str().unwrap()).unwrap();
        assert_eq!((data("ca.crt"), data("namespace")), (b"CA".to_vec(), b"a".to_vec()));
        assert_eq!(data("token"), b"sa/u1");
        assert_eq!(filled["metadata"]["annotations"][UID], "u1");
        assert_eq!(run(&filled, Some("u1")), Verdict::Keep);
    }

    #[test]
    fn another_authority_is_replaced_and_the_token_stays() {
        let Verdict::Fill(mut secret) = run(&secret(None), Some("u1")) else { panic!() };
        let token = secret["data"]["token"].clone();
        secret["data"]["ca.crt"] = "b2xk".into();
        let Verdict::Fill(again) = run(&secret, Some("u1")) else { panic!() };
        assert_eq!(
            (&again["data"]["ca.crt"], &again["data"]["token"]),
            (&STANDARD.encode("CA").into(), &token)
        );
    }

    #[test]
    fn a_secret_goes_with_its_service_account() {
        assert_eq!(run(&secret(None), None), Verdict::Delete);
        assert_eq!(run(&secret(Some("u1")), Some("u2")), Verdict::Delete, "another of the same name");
    }

    #[test]
    fn other_secrets_are_nobody_s_business() {
        let mut other = secret(None);
        other["type"] = "Opaque".into();
        assert_eq!(run(&other, None), Verdict::Keep);
        let mut nameless = secret(None);
        nameless["metadata"]["annotations"] = json!({});
        assert_eq!(run(&nameless, None), Verdict::Keep);
    }
}
