//! Regenerates what is taken from Kubernetes' source as data: `crates/machinery/data/kubernetes.json.gz`, every stable
//! group's resources (discovery) and schemas (OpenAPI v3), `protobuf.json.gz` beside it, and
//! `crates/embedded/data/rbac.json.gz`, the roles and bindings every cluster starts with.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use flate2::{Compression, GzBuilder};
use serde_json::{Map, Value, json};

use crate::{k8s::KUBERNETES_VERSION, protobuf};

/// Groups whose resources would need conversion between versions, an aggregator, or a scheduler of their own.
const LEFT_OUT: &[&str] =
    &["apiregistration.k8s.io", "events.k8s.io", "internal.apiserver.k8s.io", "resource.k8s.io"];

pub(crate) fn run(root: &Path) -> Result<()> {
    let module = module_dir("kubernetes", &format!("v{KUBERNETES_VERSION}"))?;
    let document = json!({
        "version": KUBERNETES_VERSION,
        "schemas": schemas(&module.join("api/openapi-spec/v3"))?,
        "groups": groups(&module.join("api/discovery"))?,
    });
    write(&root.join("crates/machinery/data/kubernetes.json.gz"), &document)?;
    // The libraries of Kubernetes 1.x.y are versioned 0.x.y.
    let library = format!("v0{}", KUBERNETES_VERSION.trim_start_matches('1'));
    let libraries = ["api", "apimachinery", "apiextensions-apiserver"];
    let libraries = libraries.iter().map(|name| module_dir(name, &library)).collect::<Result<Vec<_>>>()?;
    write(&root.join("crates/machinery/data/protobuf.json.gz"), &protobuf::messages(&libraries)?)?;
    let policy = module.join("plugin/pkg/auth/authorizer/rbac/bootstrappolicy/testdata");
    write(&root.join("crates/embedded/data/rbac.json.gz"), &Value::Array(policy_objects(&policy)?))
}

fn write(target: &Path, document: &Value) -> Result<()> {
    if let Some(dir) = target.parent() {
        fs::create_dir_all(dir)?;
    }
    let mut out = GzBuilder::new().mtime(0).write(fs::File::create(target)?, Compression::best());
    serde_json::to_writer(&mut out, document)?;
    out.finish()?;
    println!("wrote {}", target.display());
    Ok(())
}

/// The default roles and bindings, without those of Kubernetes' own controllers, which do not run here.
fn policy_objects(dir: &Path) -> Result<Vec<Value>> {
    let mut objects = Vec::new();
    for file in ["cluster-roles", "cluster-role-bindings", "namespace-roles", "namespace-role-bindings"] {
        let file = dir.join(file).with_extension("yaml");
        let text = fs::read_to_string(&file).with_context(|| file.display().to_string())?;
        let list: Value = serde_saphyr::from_str(&text).with_context(|| file.display().to_string())?;
        let items = list["items"].as_array().with_context(|| format!("{} has no items", file.display()))?;
        let controller = |object: &Value| {
            let name = object["metadata"]["name"].as_str().unwrap_or_default();
            name.starts_with("system:controller:")
        };
        objects.extend(items.iter().filter(|object| !controller(object)).cloned());
    }
    Ok(objects)
}

fn module_dir(name: &str, version: &str) -> Result<PathBuf> {
    let output = Command::new("go")
        .args(["mod", "download", "-json", &format!("k8s.io/{name}@{version}")])
        .output()
        .context("`go` is needed to fetch the Kubernetes module")?;
    if !output.status.success() {
        bail!("go mod download failed: {}", String::from_utf8_lossy(&output.stderr));
    }
    let answer: Value = serde_json::from_slice(&output.stdout)?;
    Ok(PathBuf::from(answer["Dir"].as_str().context("no Dir in the answer of go mod download")?))
}

fn schemas(dir: &Path) -> Result<BTreeMap<String, Value>> {
    let mut all: BTreeMap<String, Value> = BTreeMap::new();
    let mut files: Vec<_> =
        fs::read_dir(dir)?.map(|entry| entry.map(|e| e.path())).collect::<Result<_, _>>()?;
    files.sort();
    for file in files.iter().filter(|f| f.extension().is_some_and(|e| e == "json")) {
        let mut document: Value = serde_json::from_slice(&fs::read(file)?)?;
        let Some(Value::Object(found)) = document.pointer_mut("/components/schemas").map(Value::take) else {
            continue;
        };
        for (name, schema) in found {
            // The same type is listed in several documents; they differ only in how many GVKs they name.
            let gvks = |s: &Value| s["x-kubernetes-group-version-kind"].as_array().map_or(0, Vec::len);
            match all.get(&name) {
                Some(known) if gvks(known) >= gvks(&schema) => {}
                _ => drop(all.insert(name, schema)),
            }
        }
    }
    Ok(all)
}

fn groups(dir: &Path) -> Result<Vec<Value>> {
    let mut groups = vec![group("", &read(&dir.join("api__v1.json"))?)];
    let aggregated = read(&dir.join("aggregated_v2.json"))?;
    for item in aggregated["items"].as_array().context("aggregated discovery has no items")? {
        let name = item["metadata"]["name"].as_str().unwrap_or_default();
        if LEFT_OUT.contains(&name) {
            continue;
        }
        // One stable version of a group is stored and served; others would need conversion.
        let stable = item["versions"]
            .as_array()
            .into_iter()
            .flatten()
            .find(|v| v["version"].as_str().is_some_and(|v| !v.contains("alpha") && !v.contains("beta")));
        if let Some(version) = stable {
            let version = version["version"].as_str().unwrap_or_default();
            groups.push(group(name, &read(&dir.join(format!("apis__{name}__{version}.json")))?));
        }
    }
    Ok(groups)
}

fn read(file: &Path) -> Result<Value> {
    serde_json::from_slice(&fs::read(file).with_context(|| file.display().to_string())?).map_err(Into::into)
}

/// Folds an `APIResourceList` into resources with their subresources.
fn group(name: &str, list: &Value) -> Value {
    let version = list["groupVersion"].as_str().unwrap_or_default().rsplit('/').next().unwrap_or_default();
    let mut resources: BTreeMap<String, Map<String, Value>> = BTreeMap::new();
    let mut subresources: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for entry in list["resources"].as_array().into_iter().flatten() {
        let Some(full) = entry["name"].as_str() else { continue };
        let mut fields = entry.as_object().cloned().unwrap_or_default();
        fields.remove("storageVersionHash");
        match full.split_once('/') {
            None => drop(resources.insert(full.to_owned(), fields)),
            Some((resource, sub)) => {
                fields.insert("name".into(), sub.into());
                subresources.entry(resource.to_owned()).or_default().push(fields.into());
            }
        }
    }
    let resources: Vec<Value> = resources
        .into_iter()
        .map(|(name, mut fields)| {
            fields.insert("subresources".into(), subresources.remove(&name).unwrap_or_default().into());
            fields.into()
        })
        .collect();
    json!({ "group": name, "version": version, "resources": resources })
}
