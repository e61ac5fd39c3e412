//! `hansa get`: what the host knows.

use anyhow::{Result, bail};
use hansa_api::{Cluster, cluster::condition};
use jiff::Timestamp;
use kube::{Api, Client, ResourceExt, api::ListParams};
use serde_json::{Value, json};

use crate::{
    cli::{Format, GetWhat},
    output::{self, Table},
};

pub(crate) async fn run(what: GetWhat) -> Result<()> {
    let GetWhat::Clusters { names, host, output } = what;
    let mut clusters = clusters(&host.client()?).await?;
    for name in &names {
        if !clusters.iter().any(|c| c.name_any() == *name) {
            bail!("there is no cluster {name:?}; `hansa get clusters` lists them");
        }
    }
    if !names.is_empty() {
        clusters.retain(|c| names.contains(&c.name_any()));
    }
    if clusters.is_empty() && output.output == Format::Table {
        return output::say("No clusters yet: `hansa join NAME --kubeconfig FILE` adds one.\n");
    }
    print_clusters(output.output, &clusters)
}

pub(crate) fn print_clusters(format: Format, clusters: &[Cluster]) -> Result<()> {
    let list =
        json!({"apiVersion": "v1", "kind": "List", "items": clusters.iter().map(shown).collect::<Vec<_>>()});
    let names =
        || clusters.iter().map(|c| format!("cluster.cluster.kubesphere.io/{}\n", c.name_any())).collect();
    output::print(format, &list, names, || table(clusters, Timestamp::now()))
}

/// The host first, then the members by name.
pub(crate) async fn clusters(client: &Client) -> Result<Vec<Cluster>> {
    let mut clusters = Api::<Cluster>::all(client.clone()).list(&ListParams::default()).await?.items;
    clusters.sort_by_key(|c| (!c.is_host(), c.name_any()));
    Ok(clusters)
}

/// The object without what nobody should copy from a terminal.
fn shown(cluster: &Cluster) -> Value {
    let mut cluster = cluster.clone();
    cluster.metadata.managed_fields = None;
    cluster.spec.connection.kubeconfig = None;
    cluster.spec.connection.token = String::new();
    serde_json::to_value(cluster).unwrap_or_default()
}

fn table(clusters: &[Cluster], now: Timestamp) -> Table {
    let row = |c: &Cluster| {
        let status = c.status.clone().unwrap_or_default();
        let ready = c.condition(condition::READY);
        let connection = c.spec.connection.r#type.map_or("", |t| match t {
            hansa_api::cluster::ConnectionType::Direct => "direct",
            hansa_api::cluster::ConnectionType::Proxy => "agent",
        });
        let age = c.creation_timestamp().map(|t| hansa_machinery::duration::human(now.duration_since(t.0)));
        vec![
            c.name_any(),
            if c.is_host() { "host" } else { "member" }.to_owned(),
            ready.map_or("Unknown", |r| r.status.as_str()).to_owned(),
            status.kubernetes_version,
            status.node_count.map_or_else(|| "-".to_owned(), |n| n.to_string()),
            connection.to_owned(),
            age.unwrap_or_default(),
            c.spec.connection.kubernetes_api_endpoint.clone(),
            ready.filter(|r| r.status != "True").map_or_else(String::new, |r| r.message.clone()),
        ]
    };
    Table {
        headers: vec![
            "NAME",
            "ROLE",
            "READY",
            "VERSION",
            "NODES",
            "CONNECTION",
            "AGE",
            "ENDPOINT",
            "MESSAGE",
        ],
        rows: clusters.iter().map(row).collect(),
        wide: 2,
    }
}
