//! Bad input gets an answer that says what is wrong and what to do, and loses nothing.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::json;
use support::{Federation, embedded, embedded::Embedded, free_port};
use tempfile::TempDir;

/// The host answers with a `Status`, and what was there before still is.
#[test]
fn what_cannot_be_read_is_refused_with_a_status() {
    let up = Embedded::start();
    let k = up.kubectl();
    let dir = TempDir::new().unwrap();
    k.ok("host", &["create", "configmap", "before", "--from-literal=a=b"]);
    let raw = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        let resource = if text.contains("PodTemplate") { "podtemplates" } else { "configmaps" };
        let path = format!("/api/v1/namespaces/default/{resource}");
        k.fails("host", &["create", "--raw", &path, "-f", file.to_str().unwrap()])
    };
    let config = |data: serde_json::Value| {
        json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": data}).to_string()
    };
    assert!(raw("malformed.json", r#"{"apiVersion":"v1","kind":"#).contains("BadRequest"));
    assert!(raw("array.json", "[]").contains("BadRequest"));
    assert!(
        raw("kind.json", r#"{"apiVersion":"v1","kind":"Secret","metadata":{"name":"x"}}"#)
            .contains("BadRequest")
    );
    let deep = format!("{}1{}", r#"{"a":"#.repeat(20_000), "}".repeat(20_000));
    assert!(raw("deep.json", &deep).contains("Error from server"));
    // A ConfigMap has a limit of its own; this kind has only the one that every object has.
    let env = json!([{"name": "A", "value": "x".repeat(1_700_000)}]);
    let containers = json!([{"name": "c", "image": "i", "env": env}]);
    let large = json!({"apiVersion": "v1", "kind": "PodTemplate", "metadata": {"name": "x"},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": containers}}});
    let refused = raw("large.json", &large.to_string());
    assert!(refused.contains("too large"), "{refused}");
    let unknown = k.fails_with(
        "host",
        &["create", "--validate=strict", "-f", "-"],
        &config(json!({})).replace("\"data\"", "\"dat\""),
    );
    assert!(unknown.contains("unknown field \"dat\""), "{unknown}");
    let yaml = k.fails_with("host", &["create", "-f", "-"], "apiVersion: v1\nkind: [ConfigMap\n");
    assert!(yaml.contains("error"), "{yaml}");
    assert_eq!(k.field("host", "default", "cm/before", ".data.a").unwrap(), "b");
}

#[test]
fn a_cluster_that_cannot_join_is_refused_before_anything_is_written() {
    let up = Embedded::start();
    let dir = TempDir::new().unwrap();
    let join = |name: &str, kubeconfig: &Path| {
        up.hansa(&["join", name, "--kubeconfig", kubeconfig.to_str().unwrap(), "--timeout", "20"])
    };
    let file = |name: &str, text: &str| {
        let file = dir.path().join(name);
        fs::write(&file, text).unwrap();
        file
    };
    let said = |output: &Output| {
        assert!(!output.status.success(), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };

    let answer = said(&join("m3", &file("broken", "not: [a kubeconfig")));
    assert!(answer.contains("kubeconfig"), "{answer}");
    let answer = said(&join("m3", &dir.path().join("absent")));
    assert!(answer.contains("absent"), "{answer}");

    let nowhere = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": format!("https://127.0.0.1:{}", free_port())}}],
        "users": [{"name": "u", "user": {"token": "secret-token-nobody-may-see"}}],
    });
    let answer = said(&join("m3", &file("nowhere", &nowhere.to_string())));
    assert!(answer.contains("127.0.0.1") && !answer.contains("secret-token"), "{answer}");

    let plugin = nowhere.to_string().replace(r#""token":"secret-token-nobody-may-see""#, r#""exec":{"apiVersion":"client.authentication.k8s.io/v1","command":"true","interactiveMode":"Never"}"#);
    let answer = said(&join("m3", &file("plugin", &plugin)));
    assert!(answer.contains("exec") || answer.contains("plugin"), "{answer}");

    let answer = said(&join("m3", &up.data.join("member1.kubeconfig")));
    assert!(answer.contains("already") && answer.contains("member1"), "{answer}");

    let host = json!({"kubeconfig": up.kubectl().kubeconfig});
    let answer = said(&join("m3", Path::new(host["kubeconfig"].as_str().unwrap())));
    assert!(answer.contains("host"), "{answer}");

    let answer = said(&join("Not_A_Name", &up.data.join("member1.kubeconfig")));
    assert!(answer.contains("Not_A_Name"), "{answer}");

    let clusters = up.hansa(&["get", "clusters", "-o", "name"]);
    assert_eq!(String::from_utf8_lossy(&clusters.stdout).lines().count(), 3, "{clusters:?}");
    let answer = said(&up.hansa(&["unjoin", "atlantis"]));
    assert!(answer.contains("atlantis"), "{answer}");
    let answer = said(&up.hansa(&["unjoin", "host"]));
    assert!(answer.contains("host"), "{answer}");
}

fn up_fails(data: &Path, prefix: &str) -> String {
    let script = format!(r#"{prefix} exec "$0" up --listen 127.0.0.1:0 --data-dir "$1""#);
    let output = Command::new("timeout")
        .args(["20", "sh", "-c", &script])
        .arg(embedded::binary())
        .arg(data)
        .output()
        .unwrap();
    assert!(
        !output.status.success() && output.status.code() != Some(124),
        "it should refuse to start: {output:?}"
    );
    String::from_utf8_lossy(&output.stderr).into_owned()
}

#[test]
fn a_data_directory_that_cannot_be_used_is_explained() {
    let dir = TempDir::new().unwrap();

    let file = dir.path().join("file");
    fs::write(&file, "").unwrap();
    let answer = up_fails(&file.join("data"), "");
    assert!(answer.contains(file.to_str().unwrap()), "{answer}");

    // Even root cannot write below /proc.
    let answer = up_fails(Path::new("/proc/hansa"), "");
    assert!(answer.contains("/proc/hansa"), "{answer}");

    let data = dir.path().join("foreign");
    fs::create_dir(&data).unwrap();
    fs::write(data.join("host.db"), "this is no database of ours").unwrap();
    let answer = up_fails(&data, "");
    assert!(answer.contains("host.db"), "{answer}");
    assert_eq!(
        fs::read(data.join("host.db")).unwrap(),
        b"this is no database of ours",
        "a foreign file is left alone"
    );
}

#[test]
fn a_data_directory_in_use_is_not_shared() {
    let up = Embedded::start();
    let answer = up_fails(&up.data, "");
    assert!(answer.contains("another process") || answer.contains("in use"), "{answer}");
    up.kubectl().ok("host", &["get", "namespaces"]);
}

/// A file-size limit stands in for a full disk: the write fails, the server says so and keeps what it has.
#[test]
fn a_full_disk_fails_the_write_and_loses_nothing() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    drop(Embedded::start_in(&data, &listen, 0));
    let size = fs::metadata(data.join("host.db")).unwrap().len();
    let blocks = size / 512 + 4096;
    let script = format!(
        r#"trap '' XFSZ; ulimit -f {blocks}; exec "$0" up --listen {listen} --data-dir "$1" > "$1/up.out" 2>&1"#
    );
    let mut command = Command::new("sh");
    command.args(["-c", &script]).arg(embedded::binary()).arg(&data);
    let process = support::process::Process::start("full", dir.path(), &mut command);
    support::eventually("it starts", || {
        let said = fs::read_to_string(data.join("up.out")).unwrap_or_default();
        said.contains("Hansa is up").then_some(()).ok_or(said)
    });
    let k = support::Kubectl::new(&data.join("kubeconfig"));
    let chunk = "x".repeat(900_000);
    let mut written = 0;
    let refused = loop {
        let name = format!("large-{written}");
        let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": {"a": chunk}}).to_string();
        let output = k.run("host", &["create", "-f", "-"], &object);
        if !output.status.success() {
            break String::from_utf8_lossy(&output.stderr).into_owned();
        }
        written += 1;
        assert!(written < 200, "the limit was never reached");
    };
    assert!(refused.contains("full") || refused.contains("space") || refused.contains("large"), "{refused}");
    assert_eq!(k.ok("host", &["get", "cm", "-o", "name"]).matches("large-").count(), written);
    drop(process);
    let up = Embedded::start_in(&data, &listen, 0);
    assert_eq!(up.kubectl().ok("host", &["get", "cm", "-o", "name"]).matches("large-").count(), written);
}
