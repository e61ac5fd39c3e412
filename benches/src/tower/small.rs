//! Requests for 1 KiB: as many as go on 64 connections, and a thousand a second.

use std::{net::TcpStream, time::Duration};

use tempfile::TempDir;

use super::{
    ROUNDS,
    clients::wrk,
    median,
    nginx::{Nginx, SMALL},
    open_loop, say,
    tunnels::{Kind, Place, Tunnel},
    usage::processor,
};
use crate::percentile;

const CONNECTIONS: usize = 64;
const SECONDS: usize = 3;
/// What the open loop asks a second.
pub const RATE: u32 = 1000;

/// What was found in each round.
#[derive(Default)]
struct Samples {
    rate: Vec<f64>,
    p50: Vec<f64>,
    p99: Vec<f64>,
    host: Vec<f64>,
    agent: Vec<f64>,
    steady_p50: Vec<f64>,
    steady_p99: Vec<f64>,
}

/// Something that is measured: directly, or through a tunnel.
struct Subject<'a> {
    name: &'static str,
    port: u16,
    url: String,
    tunnel: Option<&'a Tunnel>,
    samples: Samples,
}

pub fn run() {
    let dir = TempDir::new().unwrap();
    let nginx = Nginx::start(dir.path(), &[]);
    let upstream = format!("127.0.0.1:{}", nginx.http);
    let tunnels: Vec<Tunnel> =
        Kind::all().into_iter().map(|kind| kind.start(dir.path(), &Place::loopback(), &upstream)).collect();
    let direct = |name, port, url| Subject { name, port, url, tunnel: None, samples: Samples::default() };
    let mut subjects = vec![
        direct("direct HTTP", nginx.http, format!("http://{upstream}/{SMALL}")),
        direct("direct HTTPS", 0, format!("https://127.0.0.1:{}/{SMALL}", nginx.https)),
    ];
    subjects.extend(tunnels.iter().map(|tunnel| Subject {
        tunnel: Some(tunnel),
        ..direct(tunnel.kind.name(), tunnel.port, tunnel.url(SMALL))
    }));
    for _ in 0..ROUNDS {
        for subject in &mut subjects {
            subject.at_full_speed();
        }
        // A thousand a second is asked of plain HTTP only: TLS of the client's is not what is compared.
        for subject in subjects.iter_mut().filter(|subject| subject.port != 0) {
            subject.at_a_fixed_rate();
        }
    }
    for subject in &subjects {
        let samples = &subject.samples;
        let cost = subject.tunnel.map(|_| {
            format!(", {:.0} + {:.0} CPU µs a request", median(&samples.host), median(&samples.agent))
        });
        say(
            "small",
            &format!("1 KiB on {CONNECTIONS} connections, {}", subject.name),
            &format!(
                "{:.0}/s, p50 {:.1} ms, p99 {:.1} ms{}",
                median(&samples.rate),
                median(&samples.p50),
                median(&samples.p99),
                cost.unwrap_or_default()
            ),
        );
    }
    let base = (median(&subjects[0].samples.steady_p50), median(&subjects[0].samples.steady_p99));
    for subject in subjects.iter().filter(|subject| subject.port != 0) {
        let (p50, p99) = (median(&subject.samples.steady_p50), median(&subject.samples.steady_p99));
        let added = subject.tunnel.map(|_| format!(", added {:.2} and {:.2} ms", p50 - base.0, p99 - base.1));
        say(
            "small",
            &format!("1 KiB at {RATE}/s, {}", subject.name),
            &format!("p50 {p50:.2} ms, p99 {p99:.2} ms{}", added.unwrap_or_default()),
        );
    }
}

impl Subject<'_> {
    fn at_full_speed(&mut self) {
        let used = |tunnel: &Tunnel| tunnel.sides().map(processor);
        let before = self.tunnel.map(used);
        let load = wrk(&self.url, CONNECTIONS, SECONDS, &[]);
        self.samples.rate.push(load.rate);
        self.samples.p50.push(load.p50);
        self.samples.p99.push(load.p99);
        if let (Some(before), Some(after)) = (before, self.tunnel.map(used)) {
            self.samples.host.push((after[0] - before[0]) / load.requests * 1e6);
            self.samples.agent.push((after[1] - before[1]) / load.requests * 1e6);
        }
    }

    fn at_a_fixed_rate(&mut self) {
        let connect = || {
            let connection = TcpStream::connect(("127.0.0.1", self.port)).unwrap();
            connection.set_nodelay(true).unwrap();
            connection
        };
        let request = format!("GET /{SMALL} HTTP/1.1\r\nHost: bench\r\n\r\n");
        let time = Duration::from_secs(SECONDS as u64);
        let latencies = open_loop::run(connect, request.as_bytes(), RATE, CONNECTIONS as u32, time);
        self.samples.steady_p50.push(percentile(&latencies, 0.5));
        self.samples.steady_p99.push(percentile(&latencies, 0.99));
    }
}
