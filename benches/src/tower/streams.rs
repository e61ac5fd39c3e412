//! A million streams opened and closed: what stays resident.

use tempfile::TempDir;

use super::{
    clients::wrk,
    nginx::{Nginx, SMALL},
    say,
    tunnels::{Kind, Place},
    usage::resident,
};

const STREAMS: f64 = 1e6;
const CONNECTIONS: usize = 64;

pub fn run() {
    let dir = TempDir::new().unwrap();
    let nginx = Nginx::start(dir.path(), &[]);
    let tunnel = Kind::Hansa.start(dir.path(), &Place::loopback(), &format!("127.0.0.1:{}", nginx.http));
    // What is made once, and what the first burst needs, is there.
    wrk(&tunnel.url(SMALL), CONNECTIONS, 3, &[]);
    let before = tunnel.sides().map(resident);
    let (mut opened, mut seconds) = (0.0, 0.0);
    while opened < STREAMS {
        let load = wrk(&tunnel.url(SMALL), CONNECTIONS, 10, &[]);
        assert_eq!(load.failed, 0, "requests failed");
        opened += load.requests;
        seconds += load.requests / load.rate;
    }
    let after = tunnel.sides().map(resident);
    say(
        "streams",
        &format!("{opened:.0} streams opened and closed"),
        &format!("{:.0} new streams a second", opened / seconds),
    );
    for ((side, before), after) in ["host", "agent"].iter().zip(before).zip(after) {
        say("streams", &format!("resident before and after, {side}"), &format!("{before}, {after}"));
    }
}
