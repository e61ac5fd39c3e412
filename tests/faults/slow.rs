//! A member at the end of a long line.

use std::time::Duration;

use crate::{
    wishes::wish,
    world::{BOTH, World},
};

/// At first everything takes a while there; then so long that it is not held to be ready. The other gets everything meanwhile.
pub async fn a_slow_member_delays_nobody_and_gets_everything(w: &mut World) {
    for (delay, is_ready) in [(Duration::from_millis(300), true), (Duration::from_secs(4), false)] {
        w.member("m1").link.slow(delay);
        let value = if is_ready { "slow" } else { "dead slow" };
        let names: Vec<String> = (0..20).map(|number| format!("parcel{number}")).collect();
        w.ask_all(&names, |_| Some(wish(value, BOTH))).await;
        for name in &names {
            w.arrives("m2", name).await;
        }
        w.ready("m1", is_ready).await;
        if is_ready {
            w.is_right().await;
        } else {
            // Who begins now waits for it no more than who knew it.
            w.kill_leader().await;
            w.ask("parcel0", Some(wish("express", BOTH))).await;
            w.arrives("m2", "parcel0").await;
        }
    }
    w.member("m1").link.heal();
}
