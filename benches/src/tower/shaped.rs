//! A link of 1 Gbit/s between two namespaces: how much of it a tunnel uses.

use tempfile::TempDir;

use super::{
    ROUNDS,
    clients::{curl, skipped},
    median,
    nginx::{Nginx, QUARTER},
    say,
    tunnels::{Kind, Place},
    within::{self, Beyond, configure, ip},
};

const HOST: &str = "10.8.0.1";
const MEMBER: &str = "10.8.0.2";
const SHAPE: [&str; 7] = ["tbf", "rate", "1gbit", "burst", "256kb", "latency", "20ms"];

pub fn run() {
    within::enter("shaped");
}

/// The part itself, in the host's namespace.
pub fn within() {
    let dir = TempDir::new().unwrap();
    let beyond = Beyond::new(dir.path());
    ip(&["link", "add", "host0", "type", "veth", "peer", "name", "member0", "netns", &beyond.id()]);
    ip(&["address", "add", &format!("{HOST}/24"), "dev", "host0"]);
    ip(&["link", "set", "host0", "up"]);
    let prefix = beyond.prefix();
    let there = |program: &str, args: &[&str]| {
        let mut all: Vec<&str> = prefix.iter().skip(1).map(String::as_str).collect();
        all.push(program);
        all.extend(args);
        configure("nsenter", &all)
    };
    there("ip", &["link", "set", "lo", "up"]).unwrap();
    there("ip", &["address", "add", &format!("{MEMBER}/24"), "dev", "member0"]).unwrap();
    there("ip", &["link", "set", "member0", "up"]).unwrap();
    let add = |device: &'static str| [&["qdisc", "add", "dev", device, "root"][..], &SHAPE].concat();
    if let Err(why) = configure("tc", &add("host0")).and_then(|()| there("tc", &add("member0"))) {
        return skipped("tower shaped", &format!("the link cannot be shaped: {why}"));
    }
    let nginx = Nginx::start(dir.path(), &prefix);
    let place = Place { listen: HOST, dial: HOST, agent: prefix.clone() };
    let upstream = format!("127.0.0.1:{}", nginx.http);
    let tunnels: Vec<_> =
        Kind::all().into_iter().map(|kind| kind.start(dir.path(), &place, &upstream)).collect();
    let mut subjects = vec![
        ("direct HTTP", format!("http://{MEMBER}:{}/{QUARTER}", nginx.http)),
        ("direct HTTPS", format!("https://{MEMBER}:{}/{QUARTER}", nginx.https)),
    ];
    subjects.extend(tunnels.iter().map(|tunnel| (tunnel.kind.name(), tunnel.url(QUARTER))));
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); subjects.len()];
    for _ in 0..ROUNDS {
        for (rates, (_, url)) in rates.iter_mut().zip(&subjects) {
            rates.push(curl(url, None));
        }
    }
    let base = median(&rates[0]);
    for (rates, (name, _)) in rates.iter().zip(&subjects) {
        let rate = median(rates);
        say(
            "shaped",
            &format!("256 MiB at 1 Gbit/s, {name}"),
            &format!("{rate:.1} MB/s, {:.1} % of direct HTTP", rate / base * 100.0),
        );
    }
}
