//! `disable`: propagation of a type is stopped, and what `enable` made is removed.

use std::time::Duration;

use hansa_api::FederatedTypeConfig;
use hansa_api::kubefed::{ApiResource, ControllerStatus, Switch};
use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
use kube::Api;
use kube::api::{DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use serde_json::json;
use tokio::time::Instant;

use crate::enable::{Directive, Enabling};
use crate::error::{is_code, patiently};
use crate::resources::{lookup, served};
use crate::{Error, Host};

/// How long a controller may take to stop.
const STOP: Duration = Duration::from_secs(10);
/// How often its status is looked at.
const POLL: Duration = Duration::from_millis(100);

/// Disables the type of a directive. With `delete_crd` the federated type goes as well, which is refused while there are objects of it. `say`
/// is told what was done.
pub async fn disable(
    host: &Host,
    directive: &Directive,
    delete_crd: bool,
    mut say: impl FnMut(String),
) -> Result<(), Error> {
    let name = config_name(host, &directive.name).await?;
    let shown = format!("{}/{name}", host.namespace);
    let doing = |what: &str| Error::doing(format!("disabling {name}: cannot {what}"));
    let configs = Api::<FederatedTypeConfig>::namespaced(host.client.clone(), &host.namespace);
    let config = configs.get_opt(&name).await.map_err(doing("read the FederatedTypeConfig"))?;
    if config.is_none() {
        say(format!("FederatedTypeConfig {shown:?} does not exist"));
    }
    if host.dry_run {
        return Ok(());
    }
    if let Some(config) = &config {
        if delete_crd {
            refuse_in_use(host, &config.spec.federated_type).await?;
        }
        // Controllers stop before their type goes, so that they do not complain about watches that break off.
        if config.spec.propagation == Switch::Enabled {
            let patch = json!({ "spec": { "propagation": Switch::Disabled } });
            let patched = configs.patch(&name, &PatchParams::default(), &Patch::Merge(&patch)).await;
            patched.map_err(doing("turn propagation off"))?;
            say(format!("Disabled propagation for FederatedTypeConfig {shown:?}"));
        }
        say(format!("Verifying propagation controller is stopped for FederatedTypeConfig {shown:?}"));
        stopped(&configs, &name).await?;
        say(format!("Propagation controller for FederatedTypeConfig {shown:?} is stopped"));
    }
    if delete_crd {
        let federated = match &config {
            Some(config) => config.spec.federated_type.clone(),
            None => {
                let directive = Directive { name: name.clone(), ..directive.clone() };
                let resources = served(&host.client).await?;
                let resource = lookup(&resources, &directive.name, directive.version.as_deref())?;
                Enabling::generate(resource, &directive, false, &host.namespace).config.spec.federated_type
            }
        };
        refuse_in_use(host, &federated).await?;
        let crd = federated.qualified_plural();
        let crds = Api::<CustomResourceDefinition>::all(host.client.clone());
        match crds.delete(&crd, &DeleteParams::default()).await {
            Ok(_) => say(format!("customresourcedefinition {crd:?} deleted")),
            Err(error) if is_code(&error, 404) => {
                say(format!("customresourcedefinition {crd:?} does not exist"));
            }
            Err(error) => return Err(doing("delete the CRD")(error)),
        }
    }
    if config.is_some() {
        match configs.delete(&name, &DeleteParams::default()).await {
            Err(error) if !is_code(&error, 404) => {
                return Err(doing("delete the FederatedTypeConfig")(error));
            }
            _ => say(format!("federatedtypeconfig {shown:?} deleted")),
        }
    }
    Ok(())
}

/// The name of the FederatedTypeConfig. One with a group is taken as it is, since the type itself may be gone from the host.
async fn config_name(host: &Host, name: &str) -> Result<String, Error> {
    if name.contains('.') {
        return Ok(name.to_owned());
    }
    Ok(lookup(&served(&host.client).await?, name, None)?.target.qualified_plural())
}

async fn refuse_in_use(host: &Host, federated: &ApiResource) -> Result<(), Error> {
    let crd = federated.qualified_plural();
    let objects = Api::<DynamicObject>::all_with(host.client.clone(), &federated.to_kube());
    let one = ListParams::default().limit(1);
    match patiently(async || objects.list(&one).await).await {
        Ok(list) if list.items.is_empty() => Ok(()),
        Ok(_) => Err(Error::InUse(crd)),
        Err(error) if is_code(&error, 404) => Ok(()),
        Err(error) => Err(Error::doing(format!("cannot list the objects of {crd}"))(error)),
    }
}

async fn stopped(configs: &Api<FederatedTypeConfig>, name: &str) -> Result<(), Error> {
    let deadline = Instant::now() + STOP;
    loop {
        let said = match configs.get(name).await {
            Ok(config) => match config.status.map(|status| status.propagation_controller) {
                Some(ControllerStatus::NotRunning) => return Ok(()),
                Some(ControllerStatus::Running) => "its status is Running".to_owned(),
                None => "no controller has written its status".to_owned(),
            },
            Err(error) => hansa_transport::explain(&error),
        };
        if Instant::now() >= deadline {
            return Err(Error::Timeout(format!(
                "propagation of {name:?} has not stopped within {STOP:?}: {said}; check that the controller manager runs"
            )));
        }
        tokio::time::sleep(POLL).await;
    }
}
