//! `hansa join NAME --agent`: what it prints, and what a real cluster makes of it.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "this is how tests fail")]

mod support;

use std::{env, path::PathBuf, process::Output};

use serde_json::Value;
use support::{Federation, embedded::Embedded, eventually, free_port, real::Cluster};
use tempfile::TempDir;

/// A host that has been told of a tower, should it run none of its own.
fn host(dir: &TempDir, members: usize) -> Embedded {
    let listen = format!("127.0.0.1:{}", free_port());
    let up = Embedded::start_in(&dir.path().join("data"), &listen, members);
    let announce = [
        "create",
        "configmap",
        "hansa-tower",
        "-n",
        "kube-federation-system",
        "--from-literal=server=https://tower.example.org:8443",
        "--from-literal=ca.crt=-----BEGIN CERTIFICATE-----",
    ];
    if let Err(error) = up.kubectl().try_run("host", &announce) {
        assert!(error.contains("already exists"), "{error}");
    }
    up
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// The token that a manifest holds, which must not be said anywhere else.
fn token(printed: &Output) -> String {
    assert!(printed.status.success(), "{printed:?}");
    let manifest = text(&printed.stdout);
    let line = manifest.lines().find_map(|line| line.trim().strip_prefix("token: ")).unwrap();
    let token = line.trim_matches(['"', '\'']).to_owned();
    assert_eq!(token.len(), 43, "256 bits in base64url");
    assert!(!text(&printed.stderr).contains(&token));
    token
}

#[test]
fn a_cluster_is_invited_shown_and_taken_out_at_the_command_line() {
    let dir = TempDir::new().unwrap();
    let up = host(&dir, 1);
    let first = up.hansa(&["join", "m2", "--agent", "--labels", "tier=edge"]);
    let second =
        up.hansa(&["join", "m2", "--agent", "--replicas", "2", "--image", "registry.example.org/hansa:x"]);
    assert_ne!(token(&first), token(&second), "each call gives a token of its own");
    assert!(text(&first.stderr).contains("kubectl"), "{first:?}");
    let manifest = text(&second.stdout);
    assert!(
        manifest.contains("replicas: 2") && manifest.contains("image: registry.example.org/hansa:x"),
        "{manifest}"
    );
    let list: Value =
        serde_json::from_slice(&up.hansa(&["join", "m2", "--agent", "-o", "json"]).stdout).unwrap();
    assert_eq!(list["kind"], "List");

    let shown = text(&up.hansa(&["get", "clusters"]).stdout);
    let line = shown.lines().find(|line| line.starts_with("m2")).unwrap_or_else(|| panic!("{shown}"));
    assert!(line.contains("agent") && line.contains("False"), "{shown}");
    let cluster: Value =
        serde_json::from_slice(&up.hansa(&["get", "clusters", "m2", "-o", "json"]).stdout).unwrap();
    assert_eq!(cluster["items"][0]["metadata"]["labels"]["tier"], "edge");
    // Nothing that is said on the host tells a token.
    for kind in ["clusters", "events", "secrets"] {
        let all = up.kubectl().ok("host", &["get", kind, "-A", "-o", "yaml"]);
        assert!(!all.contains(&token(&first)) && !all.contains(&token(&second)), "{kind}");
    }
    assert!(!up.process.output().contains(&token(&first)));

    for (args, code, expected) in [
        (&["join", "member1", "--agent"][..], 1, "connected directly"),
        (&["join", "m 2", "--agent"], 1, "cannot be the name"),
        (&["join", "m3", "--agent", "--kubeconfig", "x"], 2, "cannot be used with"),
        (&["join", "m3", "--agent", "--expires", "1s"], 2, "at least 1m"),
        (&["join", "m3", "--image", "x"], 2, "--agent"),
        (
            &[
                "join",
                "m2",
                "--update",
                "--kubeconfig",
                dir.path().join("data/member1.kubeconfig").to_str().unwrap(),
            ],
            1,
            "--agent",
        ),
    ] {
        let refused = up.hansa(args);
        assert_eq!(refused.status.code(), Some(code), "{args:?}: {refused:?}");
        assert!(text(&refused.stderr).contains(expected), "{args:?}: {refused:?}");
        assert!(refused.stdout.is_empty(), "{refused:?}");
    }
    let out = up.hansa(&["unjoin", "m2"]);
    assert!(out.status.success(), "{out:?}");
    let left = up
        .kubectl()
        .ok("host", &["get", "secrets,serviceaccounts", "-n", "kube-federation-system", "-o", "name"]);
    assert!(!left.contains("m2"), "{left}");
}

#[test]
fn a_real_cluster_takes_the_manifest_without_a_warning_and_each_new_one_after_it() {
    let Some(assets) = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
        assert!(env::var_os("HANSA_REQUIRE_REAL_CLUSTERS").is_none(), "KUBEBUILDER_ASSETS is not set");
        eprintln!("SKIPPED: no real clusters without KUBEBUILDER_ASSETS; run `cargo xtask test`");
        return;
    };
    let dir = TempDir::new().unwrap();
    let up = host(&dir, 0);
    let member = Cluster::start("m2", &dir.path().join("m2"), &assets);
    let apply = |flags: &[&str]| {
        let printed = up.hansa(&[&["join", "m2", "--agent"], flags].concat());
        assert!(printed.status.success(), "{printed:?}");
        let applied = member.kubectl.run("", &["apply", "-f", "-"], &text(&printed.stdout));
        assert!(applied.status.success(), "{applied:?}");
        assert!(!text(&applied.stderr).contains("Warning"), "{applied:?}");
    };
    let get = |what: &str| {
        member.kubectl.try_run("", &["get", "deployment", "hansa-agent", "-n", "hansa-agent", "-o", what])
    };
    apply(&[]);
    let before = get("jsonpath={.spec.template.metadata.annotations}").unwrap();
    // Its Pods are made: what they ask for is admitted under the namespace's own restrictions.
    eventually("the Pod is admitted", || {
        let pods = member.kubectl.try_run("", &["get", "pods", "-n", "hansa-agent", "-o", "name"])?;
        if pods.contains("pod/") { Ok(()) } else { Err(pods) }
    });
    apply(&[]);
    assert_ne!(get("jsonpath={.spec.template.metadata.annotations}").unwrap(), before);

    // The agent may do there what management needs.
    let may = |verb: &str, what: &str| {
        let agent = "--as=system:serviceaccount:hansa-agent:hansa-agent";
        member.kubectl.run("", &["auth", "can-i", verb, what, "-A", agent], "").status.success()
    };
    assert!(
        may("create", "deployments.apps") && may("impersonate", "users") && may("escalate", "clusterroles")
    );

    // With a role of the cluster's own it may do that and keep its credential, and no more.
    let names = ["clusterrolebinding", "hansa:agent", "hansa:agent:admins"];
    member.kubectl.ok("", &[&["delete"], &names[..]].concat());
    member.kubectl.ok("", &["create", "clusterrole", "edge", "--verb=get,list", "--resource=configmaps"]);
    apply(&["--agent-role", "edge"]);
    eventually("the rights are in force", || {
        let told =
            may("list", "configmaps") && !may("create", "deployments.apps") && !may("impersonate", "users");
        told.then_some(()).ok_or("not yet")
    });
    let own = |verb: &str, name: &str| {
        let agent = "--as=system:serviceaccount:hansa-agent:hansa-agent";
        let what = format!("secrets/{name}");
        member
            .kubectl
            .run("", &["auth", "can-i", verb, &what, "-n", "hansa-agent", agent], "")
            .status
            .success()
    };
    assert!(own("update", "agent-credential") && own("get", "agent-credential"));
    assert!(!own("get", "another"));
}
