//! A cluster is away for a while, and comes back with what it had.

use crate::{
    cluster::Part,
    wishes::{Kind, wish},
    world::{BOTH, World},
};

const FEDERATED: &str = Kind::ConfigMap.federated();

/// What was asked is pending when the host goes, with or without its storage; of a host that cannot be read nothing follows. When it is back
/// it has no history (410) for whoever followed it.
pub async fn while_the_host_is_away_the_members_are_left_as_they_are(w: &mut World) {
    for name in ["updated", "shrunk", "deleted"] {
        w.ask(name, Some(wish("0", BOTH))).await;
    }
    // Whoever leads loses the lead meanwhile; who need not lead goes on.
    for part in [Part::Api, Part::All] {
        let is_alone = part == Part::All;
        if is_alone {
            w.alone().await;
        }
        w.settle().await;
        let mut before = Vec::new();
        for member in BOTH {
            before.push(w.in_member(member).await.unwrap());
        }
        let version = w.host.version_of(FEDERATED).await;
        w.host.link.refuse();
        w.ask("updated", Some(wish(format!("{part:?}"), BOTH))).await;
        w.ask("shrunk", Some(wish("1", if is_alone { BOTH } else { &["m2"] }))).await;
        w.ask(&format!("created-{is_alone}"), Some(wish("1", BOTH))).await;
        if is_alone {
            w.ask("deleted", None).await;
        }
        w.host.stop(part).await;
        w.host.link.heal();
        if is_alone {
            w.probes(4.0).await;
        } else {
            w.until("the leader gives up", async |w| {
                for manager in &w.managers {
                    if manager.process.output().contains("lost lease") {
                        return Ok(());
                    }
                }
                Err("nobody said so".to_owned())
            })
            .await;
        }
        for (member, before) in BOTH.iter().zip(before) {
            assert_eq!(w.in_member(member).await.unwrap(), before);
        }
        w.host.link.refuse();
        w.host.start().await;
        w.host.forget(FEDERATED, &version).await;
        w.host.link.heal();
    }
    w.settle().await;
    w.together().await;
}

/// A member ends in the middle of a roll-out, and of a deletion, and starts again.
pub async fn a_member_that_restarts_in_a_roll_out_gets_everything(w: &mut World) {
    let names: Vec<String> = (0..100).map(|number| format!("rolled{number}")).collect();
    for (value, part) in [(Some("1"), Part::Api), (None, Part::All)] {
        w.leader().await;
        let asking = w.begin_to_ask(&names, |_| value.map(|value| wish(value, BOTH)));
        let operations = w.random(50);
        w.dispatches(operations).await;
        w.member_mut("m1").stop(part).await;
        asking.await.unwrap();
        for name in &names {
            w.arrives("m2", name).await;
        }
        w.member_mut("m1").start().await;
        w.is_right().await;
    }
}
