//! `hansa explain`: what the control plane decides, and why.

use anyhow::Result;
use hansa_federation::{key::Key, preview::Host, types::TypeConfig};
use serde_json::json;

use crate::{
    cli::{ExplainWhat, FederatedArgs},
    output::{self, Table},
};

pub(crate) async fn run(what: ExplainWhat) -> Result<()> {
    let ExplainWhat::Placement { r#type, name, of } = what;
    let host = Host::read(of.host.client()?, &of.kubefed_namespace).await?;
    let types = host.find_type(&r#type)?;
    let key = of.key(types, &name);
    let answers = host.explain(types, &key).await?;
    let chosen = |chosen: Option<bool>| match chosen {
        Some(true) => "True",
        Some(false) => "False",
        None => "Unknown",
    };
    let rows = || {
        answers
            .iter()
            .map(|a| vec![a.cluster.clone(), chosen(a.chosen).into(), a.reason.into(), a.message.clone()])
    };
    let value = json!({
        "kind": types.federated.kind, "namespace": &*key.namespace, "name": &*key.name,
        "clusters": answers.iter().map(hansa_federation::explain::Answer::to_value).collect::<Vec<_>>(),
    });
    let names =
        || answers.iter().filter(|a| a.chosen == Some(true)).map(|a| format!("{}\n", a.cluster)).collect();
    let table =
        || Table { headers: vec!["CLUSTER", "CHOSEN", "REASON", "WHY"], rows: rows().collect(), wide: 0 };
    output::print(of.output.output, &value, names, table)
}

impl FederatedArgs {
    /// The name of a federated object that was given on the command line.
    pub(crate) fn key(&self, types: &TypeConfig, name: &str) -> Key {
        let namespace = match (&self.namespace, types.federated_namespaced) {
            (_, false) => String::new(),
            // A FederatedNamespace lives in the namespace of its name.
            (None, true) if types.is_namespaces() => name.to_owned(),
            (Some(namespace), true) => namespace.clone(),
            (None, true) => self.default_namespace(),
        };
        Key::new(&namespace, name)
    }

    /// The namespace of objects that name none.
    pub(crate) fn default_namespace(&self) -> String {
        let of_context = || {
            let (config, name) = self.host.kubeconfig().ok()?;
            config.contexts.into_iter().find(|context| context.name == name)?.context?.namespace
        };
        self.namespace.clone().or_else(of_context).unwrap_or_else(|| "default".to_owned())
    }
}
