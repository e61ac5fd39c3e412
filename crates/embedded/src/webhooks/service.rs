//! A webhook behind a Service of this cluster: which address answers for it. There is no network of the cluster here, so the
//! endpoints themselves are dialled.

use hansa_machinery::Status;
use serde_json::Value;

use crate::store::{Key, Store};

/// The address of a ready endpoint of a Service's port.
pub(crate) fn resolve(
    store: &Store,
    namespace: &str,
    name: &str,
    port: u16,
) -> Result<(String, u16), String> {
    let key = Key::new("services", namespace, name);
    let entry = store.get(&key).ok_or_else(|| Status::not_found("", "services", name).message);
    let service: Value = serde_json::from_slice(&entry?.object).map_err(|error| error.to_string())?;
    let slices = store.list("endpointslices.discovery.k8s.io", Some(namespace), None, None, 0);
    let slices = slices.map_err(|gone| gone.to_string())?.entries;
    let slices = slices.iter().filter(|slice| {
        slice.facts.labels.get("kubernetes.io/service-name").is_some_and(|service| service == name)
    });
    let slices: Vec<Value> = slices.filter_map(|slice| serde_json::from_slice(&slice.object).ok()).collect();
    endpoint(&service, &slices, name, port)
}

fn endpoint(service: &Value, slices: &[Value], name: &str, port: u16) -> Result<(String, u16), String> {
    let mut ports = service["spec"]["ports"].as_array().into_iter().flatten();
    let wanted = ports.find(|p| p["port"].as_u64() == Some(port.into()));
    let wanted = wanted.ok_or_else(|| format!("no service port {port} found for service {name:?}"))?;
    if service["spec"]["type"] == "ExternalName" {
        let host = service["spec"]["externalName"].as_str().unwrap_or_default();
        return Ok((host.to_owned(), port));
    }
    let port_name = wanted["name"].as_str().unwrap_or_default();
    for slice in slices {
        let mut ports = slice["ports"].as_array().into_iter().flatten();
        let number = ports
            .find(|p| p["name"].as_str().unwrap_or_default() == port_name)
            .and_then(|p| p["port"].as_u64())
            .and_then(|number| u16::try_from(number).ok());
        let mut endpoints = slice["endpoints"].as_array().into_iter().flatten();
        // Readiness that is not known counts as ready.
        let ready = endpoints.find(|endpoint| endpoint["conditions"]["ready"] != false);
        if let (Some(number), Some(address)) = (number, ready.and_then(|e| e["addresses"][0].as_str())) {
            return Ok((address.to_owned(), number));
        }
    }
    Err(format!("no endpoints available for service {name:?}"))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_ready_endpoint_of_the_named_port_answers_for_the_service() {
        let service =
            json!({"spec": {"ports": [{"name": "web", "port": 80}, {"name": "hook", "port": 443}]}});
        let slice = json!({
            "ports": [{"name": "web", "port": 8080}, {"name": "hook", "port": 8443}],
            "endpoints": [
                {"addresses": ["10.0.0.1"], "conditions": {"ready": false}},
                {"addresses": ["10.0.0.2"], "conditions": {}},
            ],
        });
        assert_eq!(
            endpoint(&service, std::slice::from_ref(&slice), "s", 443),
            Ok(("10.0.0.2".to_owned(), 8443))
        );
        let refused = |slices: &[Value], port| endpoint(&service, slices, "s", port).expect_err("refused");
        assert_eq!(refused(&[slice], 444), "no service port 444 found for service \"s\"");
        assert_eq!(refused(&[], 443), "no endpoints available for service \"s\"");
    }
}
