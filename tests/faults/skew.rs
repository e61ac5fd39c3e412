//! The clocks of the controller managers are wrong, and differ.

use std::{ffi::OsStr, process::Command};

use hansa_api::time::Time;

use crate::{
    wishes::wish,
    world::{BOTH, World},
};

const LOCK: &str =
    "/apis/coordination.k8s.io/v1/namespaces/kube-federation-system/leases/kubefed-controller-manager";

/// One is a day ahead, one behind. Who leads is not decided by the hour, nor is what is propagated.
pub async fn clocks_that_are_wrong_change_nothing(w: &mut World) {
    let library = w.dir().join("clock.so");
    let source = crate::support::root().join("tests/faults/clock.c");
    let mut compile = Command::new("cc");
    compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(source).arg("-ldl");
    let compiled = compile.output().unwrap();
    assert!(compiled.status.success(), "{compiled:?}");
    // The certificates of an embedded cluster that was made a moment ago were not valid an hour ago, as they should not be.
    let behind = if w.host.is_real() { "-86400" } else { "-200" };
    w.dismiss().await;
    for (name, offset) in [("ahead", "86400"), ("behind", behind)] {
        let preload = [("LD_PRELOAD", library.as_os_str()), ("CLOCK_OFFSET", OsStr::new(offset))];
        w.start_manager(name, &[], preload);
        w.leader().await;
    }
    let record = async |w: &mut World| {
        w.until("the lock is there", async |w| w.host.get(LOCK).await?.ok_or("there is none".to_owned()))
            .await
    };
    let off = |lock: &serde_json::Value| {
        let renewed: Time = serde_json::from_value(lock["spec"]["renewTime"].clone()).unwrap();
        renewed.0.duration_since(k8s_openapi::jiff::Timestamp::now()).as_secs()
    };
    let first = record(w).await;
    assert!(off(&first) > 86_000, "{first}");
    for round in 0..2 {
        for name in ["timely", "gone"] {
            let wish = wish(round.to_string(), BOTH);
            w.ask(name, (round == 0 || name == "timely").then_some(wish)).await;
        }
        w.settle().await;
    }
    let now = record(w).await;
    // The other has not taken a lead that was never given up.
    assert_eq!(now["spec"]["leaseTransitions"], first["spec"]["leaseTransitions"], "{now}");
    assert_eq!(now["spec"]["holderIdentity"], first["spec"]["holderIdentity"], "{now}");
    // The first ends, and does not come back.
    drop(w.managers.remove(0));
    w.ask("timely", Some(wish("by the other", BOTH))).await;
    w.settle().await;
    let other = record(w).await;
    assert!(off(&other) < -100, "{other}");
    assert_ne!(other["spec"]["holderIdentity"], first["spec"]["holderIdentity"], "{other}");
    w.together().await;
}
