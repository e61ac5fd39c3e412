//! Ingress and network policy.

use serde_json::Value;

use super::{
    AGE, Heading, NAME, Sheet, age, has, join, list, selector, services::load_balancer, text, text_or,
};
use crate::table::name_of;

pub(super) static INGRESS: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new(
            "Class",
            "The name of the IngressClass resource that should be used for additional configuration",
        ),
        Heading::new("Hosts", "Hosts that incoming requests are matched against before the ingress rule"),
        Heading::new("Address", "Address is a list containing ingress points for the load-balancer"),
        Heading::new("Ports", "Ports of TLS configurations that open"),
        AGE,
    ],
    |object, now| {
        let ports = if list(object, "/spec/tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name_of(object),
            text_or(object, "/spec/ingressClassName", "<none>").into(),
            hosts(list(object, "/spec/rules")).into(),
            load_balancer(object).into(),
            ports.into(),
            age(object, now),
        ]
        .into()
    },
);

fn hosts(rules: &[Value]) -> String {
    const SHOWN: usize = 3;
    let all: Vec<&str> = rules.iter().map(|rule| text(rule, "/host")).collect();
    let named: Vec<&str> = all.iter().copied().filter(|host| !host.is_empty()).take(SHOWN).collect();
    // Rules after the third host count, whether they name one or not.
    let third =
        all.iter().enumerate().filter(|(_, host)| !host.is_empty()).map(|(index, _)| index).nth(SHOWN - 1);
    match third {
        _ if named.is_empty() => "*".into(),
        Some(third) if third + 1 < all.len() => {
            format!("{} + {} more...", named.join(","), all.len() - SHOWN)
        }
        _ => named.join(","),
    }
}

pub(super) static INGRESS_CLASS: Sheet = Sheet::new(
    &[
        NAME,
        Heading::new("Controller", "Controller that is responsible for handling this class"),
        Heading::new("Parameters", "A reference to a resource with additional parameters"),
        AGE,
    ],
    |object, now| {
        let mut name = text(object, "/metadata/name").to_owned();
        if text(object, "/metadata/annotations/ingressclass.kubernetes.io~1is-default-class") == "true" {
            name.push_str(" (default)");
        }
        let reference = |field: &str| text(object, &format!("/spec/parameters/{field}"));
        let parameters = match (has(object, "/spec/parameters"), has(object, "/spec/parameters/apiGroup")) {
            (false, _) => "<none>".into(),
            (true, false) => format!("{}/{}", reference("kind"), reference("name")),
            (true, true) => format!("{}.{}/{}", reference("kind"), reference("apiGroup"), reference("name")),
        };
        vec![name.into(), text(object, "/spec/controller").into(), parameters.into(), age(object, now)].into()
    },
);

pub(super) static NETWORK_POLICY: Sheet = Sheet::new(
    &[NAME, Heading::of("Pod-Selector", "networking.v1.NetworkPolicySpec", "podSelector"), AGE],
    |object, now| {
        // Not a pointer in Go: an absent selector is an empty one.
        let pods = object.pointer("/spec/podSelector").map_or_else(|| "<none>".into(), selector);
        vec![name_of(object), pods.into(), age(object, now)].into()
    },
);

pub(super) static SERVICE_CIDR: Sheet = Sheet::new(
    &[NAME, Heading::of("CIDRs", "networking.v1.ServiceCIDRSpec", "cidrs"), AGE],
    |object, now| {
        let cidrs = join(list(object, "/spec/cidrs").iter().filter_map(Value::as_str), ",");
        vec![name_of(object), cidrs.into(), age(object, now)].into()
    },
);

pub(super) static IP_ADDRESS: Sheet = Sheet::new(
    &[NAME, Heading::of("ParentRef", "networking.v1.IPAddressSpec", "parentRef")],
    |object, now| {
        let field = |name: &str| text(object, &format!("/spec/parentRef/{name}"));
        let parent = if has(object, "/spec/parentRef") {
            let resource = [field("resource"), field("group")];
            let resource = join(resource.into_iter().filter(|part| !part.is_empty()), ".").to_lowercase();
            join(
                [resource.as_str(), field("namespace"), field("name")]
                    .into_iter()
                    .filter(|part| !part.is_empty()),
                "/",
            )
        } else {
            "<none>".into()
        };
        vec![name_of(object), parent.into(), age(object, now)].into()
    },
);
