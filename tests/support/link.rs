//! The line between a program and a server, which can be pulled out, blocked, and made slow.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{mpsc, watch},
    task::JoinHandle,
    time::{Instant, sleep_until},
};

/// How many pieces may be on their way at once in one direction of a connection.
const UNDER_WAY: usize = 1024;

/// A port that leads to a server on this machine, for as long as the link is well. What is said over TLS stays valid, since the
/// address is the same.
pub struct Link {
    pub port: u16,
    state: watch::Sender<State>,
    task: JoinHandle<()>,
}

#[derive(Clone, Copy, Debug)]
struct State {
    way: Way,
    /// How long each byte takes, in either direction.
    delay: Duration,
    /// How often it was pulled out: a connection does not outlive that.
    cuts: u64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Open,
    Silent,
    Closed,
}

impl Link {
    pub async fn to(server: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (state, seen) = watch::channel(State { way: Way::Open, delay: Duration::ZERO, cuts: 0 });
        let task = tokio::spawn(async move {
            loop {
                let (client, _) = listener.accept().await.unwrap();
                tokio::spawn(connection(client, server, seen.clone()));
            }
        });
        Self { port, state, task }
    }

    /// Pulls the cable out: what is sent is lost, no connection is closed, and a new one is never answered. Connections that there
    /// are stay silent for ever, as when a router on the way has forgotten them.
    pub fn cut(&self) {
        self.state.send_modify(|state| {
            state.way = Way::Silent;
            state.cuts += 1;
        });
    }

    /// Closes every connection, and each new one at once.
    pub fn refuse(&self) {
        self.state.send_modify(|state| state.way = Way::Closed);
    }

    /// From now on each byte takes so long.
    pub fn slow(&self, delay: Duration) {
        self.state.send_modify(|state| state.delay = delay);
    }

    /// All is well with what is connected from now on.
    pub fn heal(&self) {
        self.state.send_modify(|state| {
            state.way = Way::Open;
            state.delay = Duration::ZERO;
        });
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn connection(mut client: TcpStream, server: u16, mut link: watch::Receiver<State>) {
    let born = *link.borrow_and_update();
    let mut server = match born.way {
        Way::Open => TcpStream::connect(("127.0.0.1", server)).await.ok(),
        Way::Silent => return lose(&mut client).await,
        Way::Closed => None,
    };
    let Some(server) = &mut server else { return };
    let seen = link.clone();
    let both = async {
        let ((from_client, to_client), (from_server, to_server)) = (client.split(), server.split());
        tokio::select! {
            () = carry(from_client, to_server, &seen) => {}
            () = carry(from_server, to_client, &seen) => {}
        }
    };
    let changed = link.wait_for(|now| now.cuts != born.cuts || now.way == Way::Closed);
    let is_cut = tokio::select! {
        () = both => return,
        state = changed => state.is_ok_and(|now| now.cuts != born.cuts),
    };
    if is_cut {
        // The server's end stays open as well: nobody tells it.
        lose(&mut client).await;
    }
}

/// Loses everything that is sent, until the sender gives up.
async fn lose(from: &mut TcpStream) {
    let mut lost = [0; 4096];
    while let Ok(1..) = from.read(&mut lost).await {}
}

/// Carries bytes in one direction until there are no more.
async fn carry(mut from: ReadHalf<'_>, mut to: WriteHalf<'_>, link: &watch::Receiver<State>) {
    let (queue, mut arriving) = mpsc::channel::<(Instant, Vec<u8>)>(UNDER_WAY);
    let take = async move {
        let mut piece = vec![0; 16 << 10];
        while let Ok(read @ 1..) = from.read(&mut piece).await {
            let due = Instant::now() + link.borrow().delay;
            if queue.send((due, piece[..read].to_vec())).await.is_err() {
                break;
            }
        }
    };
    let give = async move {
        while let Some((due, piece)) = arriving.recv().await {
            sleep_until(due).await;
            if to.write_all(&piece).await.is_err() {
                break;
            }
        }
    };
    tokio::pin!(give);
    tokio::select! {
        () = &mut give => return,
        () = take => {}
    }
    give.await;
}
