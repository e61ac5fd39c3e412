//! One stream of a gibibyte: how fast, and what it costs each side.

use tempfile::TempDir;

use super::{
    ROUNDS,
    clients::curl,
    median,
    nginx::{GIB, Nginx},
    say,
    tunnels::{Kind, Place, Tunnel},
    usage::processor,
};

pub fn run() {
    let dir = TempDir::new().unwrap();
    let nginx = Nginx::start(dir.path(), &[]);
    let upstream = format!("127.0.0.1:{}", nginx.http);
    let tunnels: Vec<Tunnel> =
        Kind::all().into_iter().map(|kind| kind.start(dir.path(), &Place::loopback(), &upstream)).collect();
    let direct = [
        ("direct HTTP", format!("http://{upstream}/{GIB}")),
        ("direct HTTPS", format!("https://127.0.0.1:{}/{GIB}", nginx.https)),
    ];
    // From here on the file is in memory.
    curl(&direct[0].1, None);
    let mut plain = [const { Vec::new() }; 2];
    let mut through: Vec<[Vec<f64>; 3]> = tunnels.iter().map(|_| Default::default()).collect();
    for _ in 0..ROUNDS {
        for (samples, (_, url)) in plain.iter_mut().zip(&direct) {
            samples.push(curl(url, None));
        }
        for ([rates, host, agent], tunnel) in through.iter_mut().zip(&tunnels) {
            let before = tunnel.sides().map(processor);
            rates.push(curl(&tunnel.url(GIB), None));
            let [of_host, of_agent] = tunnel.sides().map(processor);
            host.push(of_host - before[0]);
            agent.push(of_agent - before[1]);
        }
    }
    let https = median(&plain[1]);
    for (samples, (name, _)) in plain.iter().zip(&direct) {
        say("bulk", &format!("1 GiB on one stream, {name}"), &format!("{:.0} MB/s", median(samples)));
    }
    for ([rates, host, agent], tunnel) in through.iter().zip(&tunnels) {
        let (rate, host, agent) = (median(rates), median(host), median(agent));
        say(
            "bulk",
            &format!("1 GiB on one stream, {}", tunnel.kind.name()),
            &format!(
                "{rate:.0} MB/s, {:.0} % of direct HTTPS, {host:.2} + {agent:.2} CPU s/GiB",
                rate / https * 100.0
            ),
        );
    }
}
