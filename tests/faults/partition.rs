//! The line to a member fails.

use crate::{
    wishes::{federated_path, wish},
    world::{BOTH, World},
};

/// The cable is pulled out. What happens meanwhile is caught up with, and a deletion that could not wait is owed, whoever leads by then.
pub async fn a_member_cut_off_is_left_as_it_is_and_catches_up(w: &mut World) {
    for name in ["updated", "deleted", "widget-deleted"] {
        w.ask(name, Some(wish("1", BOTH))).await;
    }
    w.ask("shrunk", Some(wish("1", BOTH))).await;
    w.ask("grown", Some(wish("1", &["m1"]))).await;
    w.settle().await;
    let before = w.in_member("m2").await.unwrap();

    w.member("m2").link.cut();
    w.ask("created", Some(wish("2", BOTH))).await;
    w.ask("updated", Some(wish("2", BOTH).but("m2", "two"))).await;
    w.ask("shrunk", Some(wish("2", &["m1"]))).await;
    w.ask("grown", Some(wish("2", BOTH))).await;
    w.ask("widget", Some(wish("2", BOTH))).await;
    for name in ["deleted", "widget-deleted"] {
        w.ask(name, None).await;
    }
    for name in ["created", "updated", "shrunk", "grown", "widget", "deleted", "widget-deleted"] {
        w.arrives("m1", name).await;
    }
    w.ready("m2", false).await;
    for name in ["created", "updated", "shrunk", "grown", "widget"] {
        w.says(name, "m2", "ClusterNotReady").await;
    }
    let is_owed = async |w: &World| {
        for name in ["deleted", "widget-deleted"] {
            if w.host.get(&federated_path(name)).await?.is_some() {
                return Err(format!("{name} is still on the host"));
            }
            let owed = w.owed().await?.remove(name);
            if owed.as_deref() != Some(&["m2".to_owned()]) {
                return Err(format!("{name} is owed by {owed:?}"));
            }
        }
        Ok(())
    };
    w.until("the deletions end without the member, and are owed", is_owed).await;
    w.kill_leader().await;
    w.leader().await;
    w.ask("grown", Some(wish("3", BOTH))).await;
    w.arrives("m1", "grown").await;
    is_owed(w).await.unwrap();
    assert_eq!(w.in_member("m2").await.unwrap(), before);
    w.member("m2").link.heal();
}

/// Connections break, again and again, while much is under way.
pub async fn a_line_that_comes_and_goes_loses_nothing(w: &mut World) {
    let names: Vec<String> = (0..100).map(|number| format!("flaky{number}")).collect();
    for value in [Some("1"), Some("2"), None] {
        w.leader().await;
        let asking = w.begin_to_ask(&names, |_| value.map(|value| wish(value, BOTH)));
        for number in [5, 35, 65] {
            w.arrives("m1", &names[number]).await;
            w.member("m1").link.refuse();
            // The other gets on meanwhile.
            w.arrives("m2", &names[number + 20]).await;
            w.member("m1").link.heal();
        }
        asking.await.unwrap();
        w.is_right().await;
    }
}
