//! What happened while nobody could watch, of which the server has no history any more.

use serde_json::json;

use crate::{
    wishes::{Kind, copy_path, wish},
    world::{BOTH, World},
};

/// Objects are changed, deleted and let go of in a member behind our back while the watch is broken; when it could go on, the member's history is
/// compacted, and tells so (410).
pub async fn drift_that_no_watch_tells_of_is_corrected(w: &mut World) {
    for name in ["drifted", "lost", "freed", "changed"] {
        w.ask(name, Some(wish("1", BOTH))).await;
    }
    w.settle().await;
    // One line breaks; on the other there is silence.
    let mut versions = Vec::new();
    for member in BOTH {
        versions.push(w.member(member).version_of(Kind::ConfigMap.copies()).await);
    }
    w.member("m1").link.cut();
    w.member("m2").link.refuse();
    for member in BOTH {
        w.meddle(member, "drifted", Some(json!({"data": {"key": "drifted"}}))).await;
        w.meddle(member, "lost", None).await;
        w.meddle(member, "freed", Some(json!({"metadata": {"labels": {"kubefed.io/managed": null}}}))).await;
    }
    w.ask("changed", Some(wish("2", BOTH))).await;
    for (member, version) in BOTH.iter().zip(versions) {
        w.member_mut(member).forget(Kind::ConfigMap.copies(), &version).await;
        assert_eq!(w.member(member).get(&copy_path("lost")).await.unwrap(), None, "{member} is not cut off");
    }
    // Which history is lost first makes no difference to the other member.
    w.member("m2").link.heal();
    for name in ["drifted", "lost", "freed", "changed"] {
        w.arrives("m2", name).await;
    }
    w.member("m1").link.heal();
}
