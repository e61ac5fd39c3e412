//! The configurations by which a host's API server asks KubeFed's admission webhooks (`spec/kubefed.md §1.9`).

use k8s_openapi::ByteString;
use serde_json::{Value, json};

use crate::kubefed::Scope;

/// Fills in a KubeFedConfig's defaults.
pub const DEFAULT_CONFIG: &str = "/default-kubefedconfig";
/// Judges KubeFedConfigs.
pub const VALIDATE_CONFIG: &str = "/validate-kubefedconfig";
/// Judges KubeFedClusters and their status.
pub const VALIDATE_CLUSTER: &str = "/validate-kubefedcluster";
/// Judges FederatedTypeConfigs and their status.
pub const VALIDATE_TYPE_CONFIG: &str = "/validate-federatedtypeconfigs";
/// Tells whether the webhooks serve.
pub const READY: &str = "/readyz/";

/// The Service in front of the webhooks where they run in the host cluster.
pub const SERVICE: &str = "kubefed-admission-webhook";
/// The Secret with the certificate the webhooks show.
pub const SERVING_SECRET: &str = "kubefed-admission-webhook-serving-cert";

/// How the host's API server reaches the webhooks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reach {
    /// Through a Service in the control plane's namespace.
    Service {
        /// Its name.
        name: String,
        /// Its port.
        port: u16,
    },
    /// At a URL, to which the paths are added.
    Url(String),
}

/// What the configurations depend on.
#[derive(Clone, Debug)]
pub struct Registration<'a> {
    /// The control plane's namespace.
    pub namespace: &'a str,
    /// Whether it serves all namespaces; if it does not, the configurations bear its name and keep to the namespace that
    /// is labelled `name: <namespace>`.
    pub scope: Scope,
    /// Where the webhooks are.
    pub reach: &'a Reach,
    /// The authority, PEM, of the certificate they show.
    pub ca: &'a str,
}

impl Registration<'_> {
    /// The ValidatingWebhookConfiguration and the MutatingWebhookConfiguration.
    pub fn configurations(&self) -> [Value; 2] {
        let both: &[&str] = &["CREATE", "UPDATE"];
        let validating = [
            ("federatedtypeconfigs", VALIDATE_TYPE_CONFIG, true),
            ("kubefedclusters", VALIDATE_CLUSTER, true),
            ("kubefedconfigs", VALIDATE_CONFIG, false),
        ];
        let validating = validating.map(|(plural, path, status)| self.webhook(plural, path, both, status));
        let mutating = [self.webhook("kubefedconfigs", DEFAULT_CONFIG, &["CREATE"], false)];
        [
            self.configuration("ValidatingWebhookConfiguration", "validations.core.kubefed.io", &validating),
            self.configuration("MutatingWebhookConfiguration", "mutation.core.kubefed.io", &mutating),
        ]
    }

    fn configuration(&self, kind: &str, name: &str, webhooks: &[Value]) -> Value {
        let name = match self.scope {
            Scope::Cluster => name.to_owned(),
            Scope::Namespaced => format!("{name}-{}", self.namespace),
        };
        json!({
            "apiVersion": "admissionregistration.k8s.io/v1", "kind": kind,
            "metadata": {"name": name}, "webhooks": webhooks,
        })
    }

    fn webhook(&self, plural: &str, path: &str, operations: &[&str], status: bool) -> Value {
        let mut client = match self.reach {
            Reach::Service { name, port } => json!({
                "service": {"namespace": self.namespace, "name": name, "port": port, "path": path},
            }),
            Reach::Url(url) => json!({"url": format!("{}{path}", url.trim_end_matches('/'))}),
        };
        client["caBundle"] = json!(ByteString(self.ca.as_bytes().to_vec()));
        let mut resources = vec![plural.to_owned()];
        resources.extend(status.then(|| format!("{plural}/status")));
        let mut webhook = json!({
            "name": format!("{plural}.core.kubefed.io"),
            "admissionReviewVersions": ["v1"],
            "clientConfig": client,
            "rules": [{
                "operations": operations, "apiGroups": ["core.kubefed.io"], "apiVersions": ["v1beta1"],
                "resources": resources,
            }],
            "failurePolicy": "Fail",
            "sideEffects": "None",
        });
        if self.scope == Scope::Namespaced {
            webhook["namespaceSelector"] = json!({"matchLabels": {"name": self.namespace}});
        }
        webhook
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn configurations(scope: Scope, reach: &Reach) -> [Value; 2] {
        Registration { namespace: "fed", scope, reach, ca: "PEM" }.configurations()
    }

    #[test]
    fn the_configurations_are_named_and_shaped_as_kubefed_has_them() {
        let reach = Reach::Service { name: SERVICE.to_owned(), port: 443 };
        let [validating, mutating] = configurations(Scope::Cluster, &reach);
        assert_eq!(validating["metadata"]["name"], "validations.core.kubefed.io");
        assert_eq!(mutating["metadata"]["name"], "mutation.core.kubefed.io");
        let names: Vec<&str> =
            validating["webhooks"].as_array().unwrap().iter().filter_map(|w| w["name"].as_str()).collect();
        let expected = [
            "federatedtypeconfigs.core.kubefed.io",
            "kubefedclusters.core.kubefed.io",
            "kubefedconfigs.core.kubefed.io",
        ];
        assert_eq!(names, expected);
        let first = &validating["webhooks"][0];
        assert_eq!(
            first["rules"][0]["resources"],
            json!(["federatedtypeconfigs", "federatedtypeconfigs/status"])
        );
        assert_eq!(first["rules"][0]["operations"], json!(["CREATE", "UPDATE"]));
        assert_eq!(validating["webhooks"][2]["rules"][0]["resources"], json!(["kubefedconfigs"]));
        assert_eq!(first["clientConfig"]["service"]["name"], SERVICE);
        assert_eq!(first["clientConfig"]["caBundle"], "UEVN");
        assert_eq!((&first["failurePolicy"], &first["sideEffects"]), (&json!("Fail"), &json!("None")));
        assert!(first["namespaceSelector"].is_null());
        assert_eq!(mutating["webhooks"][0]["rules"][0]["operations"], json!(["CREATE"]));
    }

    #[test]
    fn a_namespaced_control_plane_keeps_to_its_namespace() {
        let [validating, mutating] =
            configurations(Scope::Namespaced, &Reach::Url("https://127.0.0.1:9443/".to_owned()));
        assert_eq!(validating["metadata"]["name"], "validations.core.kubefed.io-fed");
        assert_eq!(mutating["metadata"]["name"], "mutation.core.kubefed.io-fed");
        for webhook in validating["webhooks"].as_array().unwrap() {
            assert_eq!(webhook["namespaceSelector"], json!({"matchLabels": {"name": "fed"}}));
        }
        let url = &mutating["webhooks"][0]["clientConfig"]["url"];
        assert_eq!(url, "https://127.0.0.1:9443/default-kubefedconfig");
    }
}
