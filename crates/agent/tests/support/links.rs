//! What stands on the way: a link that can go silent, and a proxy.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

/// A link on which bytes pass, until they are swallowed; its ends are not told.
pub struct Forwarder {
    pub address: SocketAddr,
    silent: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Forwarder {
    pub async fn to(target: SocketAddr) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (silent, _) = watch::channel(false);
        let watched = silent.clone();
        let task = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                let far = TcpStream::connect(target).await.unwrap();
                let (near_read, near_write) = near.into_split();
                let (far_read, far_write) = far.into_split();
                tokio::spawn(pass(near_read, far_write, watched.subscribe()));
                tokio::spawn(pass(far_read, near_write, watched.subscribe()));
            }
        });
        Self { address, silent, task }
    }

    pub fn silence(&self, silent: bool) {
        self.silent.send_replace(silent);
    }
}

impl Drop for Forwarder {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    silent: watch::Receiver<bool>,
) {
    let mut buffer = vec![0; 65_536];
    while let Ok(read) = from.read(&mut buffer).await {
        if *silent.borrow() {
            if read == 0 {
                // The other end is not told that this one has gone.
                std::future::pending::<()>().await;
            }
            continue;
        }
        if read == 0 || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// A proxy that connects whatever it is asked for to `target`, for those who know the password; what it was asked is kept.
pub async fn connect_proxy(target: SocketAddr, password: &str) -> (SocketAddr, Arc<Mutex<Vec<String>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let asked: Arc<Mutex<Vec<String>>> = Arc::default();
    let log = asked.clone();
    let wanted = format!("Proxy-Authorization: Basic {}", STANDARD.encode(format!("user:{password}")));
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (log, wanted) = (log.clone(), wanted.clone());
            tokio::spawn(async move {
                let mut stream = BufReader::new(stream);
                let mut lines = Vec::new();
                loop {
                    let mut line = String::new();
                    stream.read_line(&mut line).await.unwrap();
                    if line.trim().is_empty() {
                        break;
                    }
                    lines.push(line.trim().to_owned());
                }
                log.lock().unwrap().push(lines[0].clone());
                if !lines.contains(&wanted) {
                    let _ = stream.write_all(b"HTTP/1.1 407 Proxy Authentication Required\r\n\r\n").await;
                    return;
                }
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await.unwrap();
                let mut far = TcpStream::connect(target).await.unwrap();
                let _ = copy_bidirectional(&mut stream, &mut far).await;
            });
        }
    });
    (address, asked)
}

/// One address for several, which takes them by turns.
pub async fn balancer(targets: Vec<SocketAddr>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        for target in targets.iter().cycle() {
            let (mut near, _) = listener.accept().await.unwrap();
            let target = *target;
            tokio::spawn(async move {
                let Ok(mut far) = TcpStream::connect(target).await else { return };
                let _ = copy_bidirectional(&mut near, &mut far).await;
            });
        }
    });
    address
}
