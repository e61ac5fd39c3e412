//! The product: a client with a token, `hansa tower`, `hansa agent`, and an API server behind it, beside the same request made
//! directly.

use std::{net::TcpStream, sync::Arc, time::Duration};

use rustls::{
    ClientConfig, ClientConnection, RootCertStore, StreamOwned,
    pki_types::{CertificateDer, pem::PemObject},
};
use tempfile::TempDir;

use super::{
    ROUNDS,
    clients::wrk,
    median, open_loop, say,
    site::Site,
    small::RATE,
    usage::{processor, resident},
};
use crate::{
    client::{block_on, config_map},
    fleet::TOKEN,
    percentile,
};

const CONNECTIONS: usize = 64;
const SECONDS: usize = 3;
const PATH: &str = "/api/v1/namespaces/default/configmaps/one";

/// A way to the object.
struct Way {
    name: &'static str,
    url: String,
    authority: String,
    rate: Vec<f64>,
    p99: Vec<f64>,
    steady_p50: Vec<f64>,
    steady_p99: Vec<f64>,
}

impl Way {
    fn new(name: &'static str, url: String, authority: &str) -> Self {
        let authority = authority.to_owned();
        let (rate, p99, steady_p50, steady_p99) = Default::default();
        Self { name, url, authority, rate, p99, steady_p50, steady_p99 }
    }

    /// Asks a thousand times a second, over TLS as wrk does.
    fn at_a_fixed_rate(&mut self) {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.authority.as_bytes()).unwrap()).unwrap();
        let config = Arc::new(ClientConfig::builder().with_root_certificates(roots).with_no_client_auth());
        let (address, path) =
            self.url.strip_prefix("https://").and_then(|rest| rest.split_once('/')).unwrap();
        let connect = || {
            let stream = TcpStream::connect(address).unwrap();
            stream.set_nodelay(true).unwrap();
            let name = "127.0.0.1".try_into().unwrap();
            StreamOwned::new(ClientConnection::new(config.clone(), name).unwrap(), stream)
        };
        let request =
            format!("GET /{path} HTTP/1.1\r\nHost: {address}\r\nAuthorization: Bearer {TOKEN}\r\n\r\n");
        let time = Duration::from_secs(SECONDS as u64);
        let latencies = open_loop::run(connect, request.as_bytes(), RATE, CONNECTIONS as u32, time);
        self.steady_p50.push(percentile(&latencies, 0.5));
        self.steady_p99.push(percentile(&latencies, 0.99));
    }
}

pub fn run() {
    let dir = TempDir::new().unwrap();
    block_on(async {
        let site = Site::start(dir.path()).await;
        site.joined(0).await;
        let agent = site.agent_process(0);
        site.answers(0).await;
        let object = serde_json::from_str(&config_map("one")).unwrap();
        site.member.create("configmaps", "default", object).await;
        let direct = format!("{}{PATH}", site.member.address);
        let mut ways = [
            Way::new("directly", direct, &site.member.server.ca_pem()),
            Way::new("through tower and agent", site.url(0, PATH), site.authority()),
        ];
        let (mut of_tower, mut of_agent) = (Vec::new(), Vec::new());
        let header = format!("Authorization: Bearer {TOKEN}");
        for _ in 0..ROUNDS {
            for way in &mut ways {
                let before = [&site.tower, &agent].map(|process| processor(process.id()));
                let load = wrk(&way.url, CONNECTIONS, SECONDS, std::slice::from_ref(&header));
                let after = [&site.tower, &agent].map(|process| processor(process.id()));
                way.rate.push(load.rate);
                way.p99.push(load.p99);
                of_tower.push((after[0] - before[0]) / load.requests * 1e6);
                of_agent.push((after[1] - before[1]) / load.requests * 1e6);
                way.at_a_fixed_rate();
            }
        }
        // The first of each two was made directly.
        let through =
            |samples: &[f64]| median(&samples.iter().skip(1).step_by(2).copied().collect::<Vec<_>>());
        let costs = [
            "".to_owned(),
            format!(", {:.0} + {:.0} CPU µs a request", through(&of_tower), through(&of_agent)),
        ];
        for (way, cost) in ways.iter().zip(costs) {
            let (rate, p99) = (median(&way.rate), median(&way.p99));
            let name = format!("get of 1 KiB on {CONNECTIONS} connections, {}", way.name);
            say("product", &name, &format!("{rate:.0}/s, p99 {p99:.1} ms{cost}"));
        }
        for way in &ways {
            let (p50, p99) = (median(&way.steady_p50), median(&way.steady_p99));
            let added = (p50 - median(&ways[0].steady_p50), p99 - median(&ways[0].steady_p99));
            say(
                "product",
                &format!("get of 1 KiB at {RATE}/s, {}", way.name),
                &format!("p50 {p50:.2} ms, p99 {p99:.2} ms, added {:.2} and {:.2} ms", added.0, added.1),
            );
        }
        say("product", "resident, the agent after that", &resident(agent.id()).to_string());
        say("product", "resident, the tower after that", &resident(site.tower.id()).to_string());
        drop(agent);
        site.end().await;
    });
}
