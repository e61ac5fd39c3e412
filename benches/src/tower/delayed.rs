//! A round trip of 50 ms, without loss and with one packet in a hundred lost.

use std::{fs, path::Path, time::Duration};

use tempfile::TempDir;

use super::{
    ROUNDS,
    clients::{curl, wrk},
    line, median,
    nginx::{GIB, Nginx, SIXTEENTH, SMALL},
    say,
    tunnels::{Kind, Place, Tunnel},
    within,
};

const ROUND_TRIP: Duration = Duration::from_millis(50);
/// Large packets where every packet arrives, so that the line takes little of the processors.
const LARGE: u32 = 65_000;
/// What packets are on real lines, which is what loss is counted in.
const USUAL: u32 = 1500;
const CONNECTIONS: usize = 16;
/// A transfer is cut off after so many seconds; some take many times as long as others.
const CUT: u32 = 4;
const CONGESTION_CONTROL: &str = "/proc/sys/net/ipv4/tcp_congestion_control";

pub fn run() {
    within::enter("delay");
}

/// The part itself, in its namespace; with loss in one more.
pub fn within() {
    match std::env::var_os(LOSSY) {
        None => {
            line::lay(ROUND_TRIP, LARGE, 0);
            whole();
            let this = std::env::current_exe().unwrap();
            let mut again = std::process::Command::new("unshare");
            again.arg("--net").arg(this).args(std::env::args().skip(1)).env(LOSSY, "1");
            assert!(again.status().unwrap().success());
        }
        Some(_) => {
            line::lay(ROUND_TRIP, USUAL, 10);
            lossy();
        }
    }
}

/// Set where the line is to lose packets.
const LOSSY: &str = "HANSA_BENCH_LOSSY";

fn place() -> Place {
    Place { listen: line::HERE, dial: line::THERE, agent: Vec::new() }
}

fn whole() {
    let dir = TempDir::new().unwrap();
    let (nginx, tunnels) = start(dir.path(), Kind::all());
    let direct = |file: &str| format!("http://{}:{}/{file}", line::THERE, nginx.http);
    let mut rates: Vec<Vec<f64>> = vec![Vec::new(); tunnels.len() + 1];
    for _ in 0..ROUNDS {
        let urls =
            std::iter::once(direct(SIXTEENTH)).chain(tunnels.iter().map(|tunnel| tunnel.url(SIXTEENTH)));
        for (rates, url) in rates.iter_mut().zip(urls) {
            rates.push(curl(&url, Some(CUT)));
        }
    }
    let base = median(&rates[0]);
    let names = std::iter::once("direct HTTP").chain(tunnels.iter().map(|tunnel| tunnel.kind.name()));
    let small = std::iter::once(direct(SMALL)).chain(tunnels.iter().map(|tunnel| tunnel.url(SMALL)));
    for ((name, rates), small) in names.zip(&rates).zip(small) {
        let rate = median(rates);
        say(
            "delay",
            &format!("64 MiB at 50 ms, {name}"),
            &format!("{rate:.0} MB/s, {:.0} % of direct", rate / base * 100.0),
        );
        let load = wrk(&small, CONNECTIONS, 2, &[]);
        say(
            "delay",
            &format!("1 KiB at 50 ms on {CONNECTIONS} connections, {name}"),
            &format!("p50 {:.0} ms, p99 {:.0} ms", load.p50, load.p99),
        );
    }
}

/// With the congestion control that this machine uses, and with the one that most do; it decides what loss means.
fn lossy() {
    let usual = fs::read_to_string(CONGESTION_CONTROL).unwrap();
    let mut controls = vec![usual.trim()];
    if fs::write(CONGESTION_CONTROL, "cubic").is_ok() && controls != ["cubic"] {
        controls.push("cubic");
    }
    for control in controls {
        // Connections keep the one that they began with.
        fs::write(CONGESTION_CONTROL, control).unwrap();
        let dir = TempDir::new().unwrap();
        let (nginx, tunnels) = start(dir.path(), vec![Kind::Hansa]);
        let urls = [format!("http://{}:{}/{GIB}", line::THERE, nginx.http), tunnels[0].url(GIB)];
        let mut rates = [const { Vec::new() }; 2];
        for _ in 0..ROUNDS {
            for (rates, url) in rates.iter_mut().zip(&urls) {
                rates.push(curl(url, Some(CUT)));
            }
        }
        let base = median(&rates[0]);
        for (name, rates) in ["one direct TCP connection", Kind::Hansa.name()].iter().zip(&rates) {
            let rate = median(rates);
            say(
                "delay",
                &format!("50 ms and 1 % loss with {control}, {name}"),
                &format!("{rate:.2} MB/s, {:.0} % of direct", rate / base * 100.0),
            );
        }
    }
}

fn start(dir: &Path, kinds: Vec<Kind>) -> (Nginx, Vec<Tunnel>) {
    let nginx = Nginx::start(dir, &[]);
    let upstream = format!("127.0.0.1:{}", nginx.http);
    let tunnels = kinds.into_iter().map(|kind| kind.start(dir, &place(), &upstream)).collect();
    (nginx, tunnels)
}
