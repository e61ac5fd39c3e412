//! Subresources that do something: bindings, evictions, tokens.

use hansa_machinery::{Status, status::Cause};
use serde_json::{Value, json};

use super::{
    call::{Answer, Call},
    decode::Document,
    metadata,
    options::WriteOptions,
    write::Change,
};
use crate::webhooks::Admission;

struct Bind {
    node: String,
    binding: Value,
}

impl Change for Bind {
    fn desired(&self, call: &Call, live: Option<&Value>) -> Result<Value, Status> {
        let Some(live) = live else { return Err(call.not_found(&call.name)) };
        let refuse = |why: String| Status::conflict("", "pods/binding", &call.name, &why);
        if metadata::is_deleting(live) {
            return Err(refuse(format!("pod {} is being deleted, cannot be assigned to a host", call.name)));
        }
        let node = live["spec"]["nodeName"].as_str().unwrap_or_default();
        if !node.is_empty() {
            return Err(refuse(format!("pod {} is already assigned to node {node:?}", call.name)));
        }
        let mut pod = live.clone();
        pod["spec"]["nodeName"] = self.node.clone().into();
        for (key, value) in self.binding["metadata"]["annotations"].as_object().into_iter().flatten() {
            if !pod["metadata"]["annotations"].is_object() {
                pod["metadata"]["annotations"] = json!({});
            }
            pod["metadata"]["annotations"][key] = value.clone();
        }
        let mut conditions = pod["status"]["conditions"].as_array().cloned().unwrap_or_default();
        conditions.retain(|c| c["type"] != "PodScheduled");
        conditions.push(json!({
            "type": "PodScheduled", "status": "True", "lastProbeTime": null, "lastTransitionTime": metadata::now(),
        }));
        pod["status"]["conditions"] = conditions.into();
        Ok(pod)
    }

    fn creates(&self, _: &Call) -> bool {
        false
    }

    fn retries(&self) -> bool {
        true
    }

    fn obeys_update_rules(&self) -> bool {
        false
    }

    fn asks_webhooks(&self) -> bool {
        false
    }
}

impl Call {
    /// Answers `POST …/pods/{name}/binding` and `POST …/bindings`.
    pub(crate) async fn bind(&self, document: Document, options: &WriteOptions) -> Result<Answer, Status> {
        let binding = self.admitted(document.value, options.dry_run).await?;
        let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
        let kind = binding["target"]["kind"].as_str().unwrap_or_default();
        if !matches!(kind, "" | "Node") || node.is_empty() {
            let cause = Cause {
                reason: "FieldValueRequired",
                field: "target.name".into(),
                message: "Required value".into(),
            };
            return Err(Status::invalid("", "Binding", &self.name, vec![cause]));
        }
        let name = binding["metadata"]["name"].as_str().unwrap_or_default();
        let name = if self.name.is_empty() { name } else { self.name.as_str() };
        let pods = self.catalogue.stored("pods").cloned().ok_or_else(Status::no_such_resource)?;
        let call = Self { resource: pods, subresource: "binding".into(), ..self.at(&self.namespace, name) };
        call.modify(&Bind { node, binding }, options).await?;
        Ok(Answer::Plain {
            code: 201,
            value: json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}),
        })
    }

    /// What is posted to a subresource, after the webhooks.
    async fn admitted(&self, body: Value, dry_run: bool) -> Result<Value, Status> {
        let webhooks = Admission::create(self, &self.name, dry_run);
        let body = webhooks.mutate(Some(body), None).await?.unwrap_or_default();
        webhooks.validate(Some(&body), None).await?;
        Ok(body)
    }

    /// Answers `POST` to a subresource.
    pub(crate) async fn create_subresource(
        &self,
        document: Document,
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        match (&*self.resource.storage, self.subresource.as_str()) {
            ("pods", "binding") => self.bind(document, options).await,
            ("pods", "eviction") => {
                let eviction = self.admitted(document.value, options.dry_run).await?;
                self.evict(&eviction).await
            }
            ("serviceaccounts", "token") => {
                let request = self.admitted(document.value, options.dry_run).await?;
                let answer = self.server.auth().token_request(&self.namespace, &self.name, &request)?;
                Ok(Answer::Plain { code: 201, value: answer })
            }
            _ => Err(Status::method_not_allowed(&self.resource.group, &self.resource.name, "create")),
        }
    }

    /// Answers `POST` to a resource whose objects are not kept.
    pub(crate) async fn create_transient(
        &self,
        document: Document,
        options: &WriteOptions,
    ) -> Result<Answer, Status> {
        if &*self.resource.storage == "bindings" {
            return self.bind(document, options).await;
        }
        let object = self.object(document, options)?;
        let named = (self.resource.group.as_str(), self.resource.name.as_str());
        match self.server.auth().review(&self.user, named, &self.namespace, &object) {
            Some(answer) => answer.map(|value| Answer::Plain { code: 201, value }),
            None => Err(Status::method_not_allowed(&self.resource.group, &self.resource.name, "create")),
        }
    }
}
