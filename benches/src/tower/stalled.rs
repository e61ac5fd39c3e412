//! A thousand open streams, some of which nobody reads, while sixteen connections go on asking.

use std::{
    env,
    io::{ErrorKind, Read, Write},
    net::TcpStream,
    path::Path,
    process::Command,
    thread,
    time::Duration,
};

use socket2::SockRef;
use tempfile::TempDir;

use super::{
    ROUNDS,
    clients::wrk,
    median, roles, say,
    tunnels::{Kind, Place, Tunnel},
    usage::resident,
};
use crate::support::{free_port, process::Process};

const STREAMS: usize = 1000;
const STALLED: [usize; 4] = [0, 1, 16, 128];
const CONNECTIONS: usize = 16;
const SECONDS: usize = 2;
/// How long bytes may still move after a stream has been stalled.
const SETTLE: Duration = Duration::from_millis(700);

/// Which way the bytes go that nobody takes.
#[derive(Clone, Copy)]
enum Way {
    Down,
    Up,
}

/// What was found with so many stalled, in each round.
#[derive(Default)]
struct Samples {
    rate: Vec<f64>,
    p99: Vec<f64>,
    host: Vec<f64>,
    agent: Vec<f64>,
    failed: u64,
}

pub fn run() {
    let dir = TempDir::new().unwrap();
    let port = free_port();
    let upstream = format!("127.0.0.1:{port}");
    let mut holder = Command::new(env::current_exe().unwrap());
    let _holder = Process::start("holder", dir.path(), holder.arg(roles::HOLDER).arg(&upstream));
    for kind in Kind::all() {
        // The peers give the scale, ours is held against a budget.
        let ours = kind == Kind::Hansa;
        let ways = [(Way::Down, "answers"), (Way::Up, "requests")];
        for (way, name) in ways.into_iter().take(if ours { 2 } else { 1 }) {
            let rounds = if ours { ROUNDS } else { 1 };
            let mut samples: [Samples; STALLED.len()] = Default::default();
            for _ in 0..rounds {
                measure(kind, way, dir.path(), &upstream, &mut samples);
            }
            report(kind, name, &samples);
        }
    }
}

fn measure(kind: Kind, way: Way, dir: &Path, upstream: &str, samples: &mut [Samples]) {
    let tunnel = kind.start(dir, &Place::loopback(), upstream);
    let mut idle: Vec<TcpStream> = (0..STREAMS).map(|_| open_idle(&tunnel)).collect();
    let mut stalled: Vec<TcpStream> = Vec::new();
    for (wanted, samples) in STALLED.into_iter().zip(samples) {
        idle.truncate(STREAMS - wanted);
        while stalled.len() < wanted {
            stalled.push(open_stalled(&tunnel, way));
        }
        fill(&mut stalled, way);
        let load = wrk(&tunnel.url("1k"), CONNECTIONS, SECONDS, &[]);
        let [host, agent] = tunnel.sides().map(|side| resident(side).all);
        samples.failed += load.failed;
        samples.rate.push(load.rate);
        samples.p99.push(load.p99);
        samples.host.push(host);
        samples.agent.push(agent);
    }
}

fn report(kind: Kind, name: &str, samples: &[Samples]) {
    let none = &samples[0];
    for (stalled, found) in STALLED.iter().zip(samples) {
        let grown = |of: fn(&Samples) -> &Vec<f64>| median(of(found)) - median(of(none));
        let failed = match found.failed {
            0 => String::new(),
            failed => format!(", {failed} FAILED"),
        };
        say(
            "stalled",
            &format!("{STREAMS} streams, {stalled} stalled {name}, {}", kind.name()),
            &format!(
                "{:.0}/s, p99 {:.1} ms ({:+.1}), {:.0} + {:.0} MiB ({:+.0} {:+.0}){failed}",
                median(&found.rate),
                median(&found.p99),
                grown(|s| &s.p99),
                median(&found.host),
                median(&found.agent),
                grown(|s| &s.host),
                grown(|s| &s.agent),
            ),
        );
    }
}

fn connect(tunnel: &Tunnel) -> TcpStream {
    TcpStream::connect(("127.0.0.1", tunnel.port)).unwrap()
}

fn open_idle(tunnel: &Tunnel) -> TcpStream {
    let mut stream = connect(tunnel);
    write!(stream, "GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", roles::IDLE).unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 200");
    stream
}

fn open_stalled(tunnel: &Tunnel, way: Way) -> TcpStream {
    let mut stream = connect(tunnel);
    match way {
        Way::Down => write!(stream, "GET {} HTTP/1.1\r\nHost: bench\r\n\r\n", roles::ENDLESS).unwrap(),
        Way::Up => {
            // What the kernel keeps for those who send is the machine's trouble, not the tunnel's.
            SockRef::from(&stream).set_send_buffer_size(256 << 10).unwrap();
            let length = 1_u64 << 40;
            write!(
                stream,
                "POST {} HTTP/1.1\r\nHost: bench\r\nContent-Length: {length}\r\n\r\n",
                roles::SINK
            )
            .unwrap();
        }
    }
    stream.set_nonblocking(true).unwrap();
    stream
}

/// Lets bytes flow until none do.
fn fill(stalled: &mut [TcpStream], way: Way) {
    let chunk = vec![b'x'; 64 * 1024];
    let mut quiet = Duration::ZERO;
    while quiet < SETTLE {
        let mut moved = false;
        if let Way::Up = way {
            for stream in &mut *stalled {
                match stream.write(&chunk) {
                    Ok(written) => moved |= written > 0,
                    Err(error) => assert_eq!(error.kind(), ErrorKind::WouldBlock, "{error}"),
                }
            }
        }
        if moved {
            quiet = Duration::ZERO;
        } else {
            thread::sleep(Duration::from_millis(50));
            quiet += Duration::from_millis(50);
        }
    }
}
