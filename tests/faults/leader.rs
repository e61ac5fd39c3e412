//! The leader ends without a word, or stands still and does not know that it did.

use crate::{
    wishes::wish,
    world::{BOTH, World},
};

/// How many objects are rolled out.
const OBJECTS: u64 = 200;

fn names() -> Vec<String> {
    (0..OBJECTS).map(|number| format!("many{number}")).collect()
}

/// In the middle of a roll-out, once more while its successor is at it, and in the middle of a deletion.
pub async fn killed_at_any_moment_it_is_succeeded(w: &mut World) {
    for (value, kills) in [(Some("1"), 2), (None, 1)] {
        let wish = |_: &str| value.map(|value| wish(value, BOTH).but("m1", "here"));
        w.leader().await;
        let asking = w.begin_to_ask(&names(), wish);
        for _ in 0..kills {
            // There are two operations an object, so that enough are left for whoever comes.
            let operations = w.random(OBJECTS / 2);
            w.dispatches(operations).await;
            w.kill_leader().await;
        }
        asking.await.unwrap();
        w.is_right().await;
    }
}

/// It is stopped in the middle of a roll-out for longer than its lease, and then goes on with what it was about to write.
pub async fn frozen_and_thawed_it_gives_way_to_its_successor(w: &mut World) {
    w.ask_all(&names(), |_| Some(wish("1", BOTH))).await;
    w.is_right().await;
    let leader = w.leader().await;
    let asking = w.begin_to_ask(&names(), |_| Some(wish("2", BOTH)));
    let operations = w.random(OBJECTS / 2);
    w.dispatches(operations).await;
    w.managers[leader].process.pause(true);
    asking.await.unwrap();
    w.until("the other leads", async |w| match w.managers[1 - leader].leads().await {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    })
    .await;
    w.ask_all(&names(), |_| Some(wish("3", BOTH))).await;
    w.arrives("m1", "many0").await;
    w.managers[leader].process.pause(false);
    w.until("it notices", async |w| match w.managers[leader].process.output().contains("lost lease") {
        true => Ok(()),
        false => Err("not yet".to_owned()),
    })
    .await;
    w.is_right().await;
    w.ask_all(&names(), |_| None).await;
}
