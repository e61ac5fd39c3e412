//! The command line as people and scripts use it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::process::Command;

use serde_json::Value;
use support::{Federation, embedded, embedded::Embedded, eventually, free_port};
use tempfile::TempDir;

#[test]
fn a_first_session_at_the_command_line() {
    let dir = TempDir::new().unwrap();
    let data = dir.path().join("data");
    let listen = format!("127.0.0.1:{}", free_port());
    let mut up = Embedded::start_in(&data, &listen, 2);
    let output = up.process.output();
    assert!(output.contains("kubectl --context host apply -f examples/guestbook/"), "{output}");
    assert!(output.contains(data.join("kubeconfig").to_str().unwrap()), "{output}");

    // No secret is said aloud, and files with secrets are their owner's alone.
    let token = fs_json(&data.join("kubeconfig"))["users"][0]["user"]["token"].as_str().unwrap().to_owned();
    assert!(!output.contains(&token));
    use std::os::unix::fs::PermissionsExt;
    for file in std::fs::read_dir(&data).unwrap() {
        let file = file.unwrap();
        let mode = file.metadata().unwrap().permissions().mode() & 0o077;
        assert_eq!(mode, 0, "{:?} can be read by others", file.file_name());
    }

    let clusters = up.hansa(&["get", "clusters"]);
    let text = String::from_utf8_lossy(&clusters.stdout).into_owned();
    for name in ["host", "member1", "member2"] {
        let line = text.lines().find(|l| l.starts_with(name)).unwrap_or_else(|| panic!("{text}"));
        assert!(line.contains("True"), "{text}");
    }
    let json: Value = serde_json::from_slice(&up.hansa(&["get", "clusters", "-o", "json"]).stdout).unwrap();
    assert_eq!(json["items"].as_array().unwrap().len(), 3);
    assert!(!json.to_string().contains("kubeconfig\":\""), "a kubeconfig is never listed");
    let yaml = String::from_utf8(up.hansa(&["get", "clusters", "member1", "-o", "yaml"]).stdout).unwrap();
    assert!(yaml.contains("name: member1"), "{yaml}");

    let printed =
        Command::new(embedded::binary()).args(["kubeconfig", "--data-dir"]).arg(&data).output().unwrap();
    let printed = String::from_utf8(printed.stdout).unwrap();
    for name in ["host", "member1", "member2"] {
        assert!(printed.contains(&format!("https://{listen}/clusters/{name}")), "{printed}");
    }

    // A member gets a new kubeconfig, but only one of its own.
    let file = |member: &str| data.join(format!("{member}.kubeconfig")).to_str().unwrap().to_owned();
    let updated = up.hansa(&["join", "member1", "--update", "--kubeconfig", &file("member1")]);
    assert!(updated.status.success(), "{updated:?}");
    let refused = up.hansa(&["join", "member1", "--update", "--kubeconfig", &file("member2")]);
    assert!(String::from_utf8_lossy(&refused.stderr).contains("another cluster"), "{refused:?}");

    let version: Value = serde_json::from_slice(&up.hansa(&["version", "-o", "json"]).stdout).unwrap();
    assert_eq!(version["hansa"], env!("CARGO_PKG_VERSION"));
    assert!(version["host"].as_str().unwrap().starts_with("v1."), "{version}");

    // Ctrl-C ends it cleanly, and the next start goes on with the same state.
    up.kubectl().ok("host", &["create", "configmap", "kept"]);
    up.kubectl().ok("member1", &["create", "configmap", "kept"]);
    assert!(up.process.interrupt().success());
    let up = Embedded::start_in(&data, &listen, 2);
    up.kubectl().ok("host", &["get", "cm", "kept"]);
    eventually("the member is back", || up.kubectl().try_run("member1", &["get", "cm", "kept"]));
    let again = fs_json(&data.join("kubeconfig"))["users"][0]["user"]["token"].as_str().unwrap().to_owned();
    assert_eq!(again, token, "a kubeconfig handed out before still works");
}

fn fs_json(file: &std::path::Path) -> Value {
    serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap()
}

#[test]
fn mistakes_at_the_command_line_say_what_to_do() {
    let run = |args: &[&str]| {
        let dir = TempDir::new().unwrap();
        let output = Command::new(embedded::binary())
            .args(args)
            .env("HOME", dir.path())
            .env_remove("KUBECONFIG")
            .env_remove("XDG_DATA_HOME")
            .output()
            .unwrap();
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (code, said) = run(&["get", "clusters"]);
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("--kubeconfig") && said.contains("hansa up"), "{said}");
    let (code, said) = run(&["get", "clusters", "--kubeconfig", "/absent"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("/absent"), "{said}");
    let (code, _) = run(&["nonsense"]);
    assert_eq!(code, Some(2));
    let (code, said) = run(&["kubeconfig", "--data-dir", "/absent"]);
    assert_eq!(code, Some(1));
    assert!(said.contains("hansa up"), "{said}");
}

#[test]
fn completions_and_manifests_need_no_host() {
    let run = |args: &[&str]| Command::new(embedded::binary()).args(args).output().unwrap();
    for shell in ["bash", "zsh", "fish"] {
        assert!(String::from_utf8_lossy(&run(&["completions", shell]).stdout).contains("kubeconfig"));
    }
    let manifests = String::from_utf8(run(&["manifests"]).stdout).unwrap();
    assert!(manifests.contains("federateddeployments.types.kubefed.io"));
}

#[test]
fn the_generated_manifests_are_up_to_date() {
    let dir = TempDir::new().unwrap();
    let output = Command::new(embedded::binary())
        .args(["manifests", "--output-dir"])
        .arg(dir.path())
        .output()
        .unwrap();
    assert!(output.status.success(), "{output:?}");
    let deploy = support::root().join("deploy");
    let mut files: Vec<_> =
        std::fs::read_dir(dir.path().join("crds")).unwrap().map(|f| f.unwrap().path()).collect();
    files.extend(["defaults.yaml", "tower.yaml"].map(|name| dir.path().join(name)));
    for file in files {
        let relative = file.strip_prefix(dir.path()).unwrap();
        let kept = std::fs::read_to_string(deploy.join(relative)).unwrap_or_default();
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            kept,
            "deploy/{} is stale: run `cargo xtask crds`",
            relative.display()
        );
    }
}
