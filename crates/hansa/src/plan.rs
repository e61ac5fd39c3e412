//! `hansa plan`: what a change would change on which member.

use std::{
    fs,
    io::{self, Read},
    path::{Path, PathBuf},
    process::ExitCode,
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, bail};
use futures::FutureExt;
use hansa_api::KubeFedCluster;
use hansa_federation::{
    key::Key,
    preview::{self, Connect, Host, Outlook, Preview, Proposal, Reach, diff},
};
use hansa_transport::{Endpoint, Limits, Target, Transport};
use k8s_openapi::api::core::v1::Secret;
use kube::{Api, Client};
use serde_json::{Value, json};

use crate::{
    cli::{self, Format},
    output::{self, Table, say, yaml},
};

/// As `kubectl diff`: 0 without a difference, 1 with one, more for what went wrong.
pub(crate) async fn run(args: cli::Plan) -> ExitCode {
    match plan(&args).await {
        Ok(previews) if previews.iter().any(is_trouble) => ExitCode::from(2),
        Ok(previews) if outlooks(&previews).any(|(_, outlook)| outlook.effect.is_change()) => {
            ExitCode::from(1)
        }
        Ok(_) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::from(2)
        }
    }
}

fn is_trouble(preview: &Preview) -> bool {
    preview.failed || preview.clusters.iter().any(|outlook| outlook.effect.is_trouble())
}

async fn plan(args: &cli::Plan) -> Result<Vec<Preview>> {
    let objects = args.files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?.concat();
    let client = args.of.host.client()?;
    let host = Host::read(client.clone(), &args.of.kubefed_namespace).await?;
    let mut proposals = Vec::new();
    if let [r#type, name] = args.object.as_slice() {
        let types = host.find_type(r#type)?;
        proposals.push(Proposal { key: args.of.key(types, name), types: types.clone(), wanted: None });
    }
    for object in objects {
        proposals.extend(proposal(args, &host, object)?);
    }
    let reach = Reach { connect: connect_by(args, client)?, patience: Duration::from_secs(args.timeout) };
    let previews = preview::preview(&host, &reach, proposals).await;
    print(args.of.output.output, &previews)?;
    Ok(previews)
}

/// An object of a file as a proposal; objects of other kinds stay on the host and change nothing on members.
fn proposal(args: &cli::Plan, host: &Host, mut object: Value) -> Result<Option<Proposal>> {
    let kind = object["kind"].as_str().unwrap_or_default().to_owned();
    let name = object["metadata"]["name"]
        .as_str()
        .with_context(|| format!("an object of kind {kind:?} has no metadata.name"))?
        .to_owned();
    let Some(types) = host.type_of(&object).cloned() else {
        eprintln!("{kind} {name}: not a federated object, left out");
        return Ok(None);
    };
    let namespace = match object["metadata"]["namespace"].as_str() {
        _ if !types.federated_namespaced => String::new(),
        Some(namespace) => namespace.to_owned(),
        None => {
            let namespace = args.of.default_namespace();
            object["metadata"]["namespace"] = namespace.clone().into();
            namespace
        }
    };
    let key = Key::new(&namespace, &name);
    Ok(Some(Proposal { types, key, wanted: Some(object) }))
}

/// The objects in a file, in the files of a directory by their names, or on the input stream.
fn read(path: &Path) -> Result<Vec<Value>> {
    if path.is_dir() {
        let entries = fs::read_dir(path).with_context(|| format!("cannot read {}", path.display()))?;
        let mut files =
            entries.map(|entry| entry.map(|entry| entry.path())).collect::<io::Result<Vec<PathBuf>>>()?;
        files.retain(|file| {
            file.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known))
        });
        files.sort();
        return Ok(files.iter().map(|file| read(file)).collect::<Result<Vec<_>>>()?.concat());
    }
    let text = if path == Path::new("-") {
        let mut text = String::new();
        io::stdin().read_to_string(&mut text).map(|_| text)
    } else {
        fs::read_to_string(path)
    };
    let text = text.with_context(|| format!("cannot read {}", path.display()))?;
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(&text).with_context(|| format!("{} is not YAML", path.display()))?;
    let mut objects = Vec::new();
    for document in documents {
        match document {
            Value::Null => {}
            Value::Object(mut list) if list.get("items").is_some_and(Value::is_array) => {
                if let Some(Value::Array(items)) = list.remove("items") {
                    objects.extend(items);
                }
            }
            Value::Object(_) => objects.push(document),
            _ => bail!("{}: each document must be an object of Kubernetes", path.display()),
        }
    }
    Ok(objects)
}

/// The way to members: where the host is reached through a gateway they are, too, under the caller's own rights; else with the
/// credentials that the control plane has for them.
fn connect_by(args: &cli::Plan, host: Client) -> Result<Connect> {
    let target = args.of.host.target()?;
    if let Some((before, _)) = target.endpoint.path.rsplit_once("/clusters/").filter(|_| !args.direct) {
        let (before, target) = (before.to_owned(), target.clone());
        return Ok(Arc::new(move |cluster: KubeFedCluster| {
            let name = cluster.metadata.name.unwrap_or_default();
            let endpoint = Endpoint { path: format!("{before}/clusters/{name}"), ..target.endpoint.clone() };
            let client = connect(Target { endpoint, ..target.clone() });
            async move { client }.boxed()
        }));
    }
    let namespace = args.of.kubefed_namespace.clone();
    Ok(Arc::new(move |cluster| {
        let secrets: Api<Secret> = Api::namespaced(host.clone(), &namespace);
        async move {
            let secret = secrets.get(&cluster.spec.secret_ref.name).await;
            let secret = secret.map_err(|error| {
                format!("its Secret cannot be read: {}", hansa_transport::explain(&error))
            })?;
            let token = secret.data.and_then(|mut data| String::from_utf8(data.remove("token")?.0).ok());
            connect(hansa_cluster::target_of(&cluster, token)?)
        }
        .boxed()
    }))
}

fn connect(target: Target) -> Result<Client, String> {
    let transport = Transport::new(target, Limits::default()).map_err(|error| error.to_string())?;
    Ok(transport.client("default"))
}

fn outlooks(previews: &[Preview]) -> impl Iterator<Item = (&Preview, &Outlook)> {
    previews.iter().flat_map(|preview| preview.clusters.iter().map(move |outlook| (preview, outlook)))
}

fn title(preview: &Preview) -> String {
    let slash = if preview.namespace.is_empty() { "" } else { "/" };
    format!("{} {}{slash}{}", preview.kind, preview.namespace, preview.name)
}

fn print(format: Format, previews: &[Preview]) -> Result<()> {
    if matches!(format, Format::Table | Format::Wide) {
        for (preview, outlook) in outlooks(previews).filter(|(_, outlook)| outlook.effect.is_change()) {
            say(&difference(preview, outlook)?)?;
        }
        for preview in previews {
            preview.notes.iter().try_for_each(|note| say(&format!("{}: {note}\n", title(preview))))?;
        }
    }
    let items = previews.iter().map(|preview| {
        let mut value = preview.to_value();
        for (outlook, value) in
            preview.clusters.iter().zip(value["clusters"].as_array_mut().into_iter().flatten())
        {
            if outlook.effect.is_change() {
                value["diff"] = difference(preview, outlook)?.into();
            }
        }
        Ok(value)
    });
    let list = json!({"kind": "Plan", "items": items.collect::<Result<Vec<_>>>()?});
    let changed = || outlooks(previews).filter(|(_, outlook)| outlook.effect.is_change());
    let names =
        || changed().map(|(preview, outlook)| format!("{}: {}\n", outlook.cluster, title(preview))).collect();
    let row = |(preview, outlook): (&Preview, &Outlook)| {
        vec![
            outlook.cluster.clone(),
            title(preview),
            outlook.effect.as_str().to_owned(),
            outlook.message.clone(),
        ]
    };
    let table = || Table {
        headers: vec!["CLUSTER", "OBJECT", "EFFECT", "MESSAGE"],
        rows: outlooks(previews).map(row).collect(),
        wide: 0,
    };
    output::print(format, &list, names, table)
}

fn difference(preview: &Preview, outlook: &Outlook) -> Result<String> {
    let text = |value: &Option<Value>| value.as_ref().map_or(Ok(String::new()), yaml);
    let name = |side: &str| format!("{} {} ({side})", outlook.cluster, title(preview));
    Ok(diff::unified(&text(&outlook.before)?, &text(&outlook.after)?, [&name("live"), &name("planned")]))
}
