//! The life of a replica: it listens, tells of itself, and lets go in good order.

use std::{sync::Arc, time::Duration};

use hansa_listener::serve::{Limits, Strangers, serve};
use rustls::ServerConfig;
use tokio::{
    net::TcpListener,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{Shared, Tower, lease, revocation};

/// How often it is told how the agents are.
const SAMPLE: Duration = Duration::from_secs(1);
/// How long what ends at once may take.
const LAST: Duration = Duration::from_secs(5);

impl Tower {
    /// Serves on `listener` until `stop`, and then until what is under way has ended or [`Options::drain`](crate::Options::drain)
    /// has passed.
    ///
    /// On `stop` the agents are told to connect elsewhere, requests go on and are accepted no longer, and watches end at once, so
    /// that they begin again at another replica.
    pub async fn serve(self, listener: TcpListener, tls: Arc<ServerConfig>, stop: CancellationToken) {
        let (closed, end) = (CancellationToken::new(), CancellationToken::new());
        let limits = Limits {
            handshake: self.shared.options.handshake,
            drain: self.shared.options.drain,
            strangers: Some(Strangers {
                at_once: self.shared.options.strangers,
                time: self.shared.options.handshake,
            }),
            ..Limits::default()
        };
        let tower = self.clone();
        let handler = move |peer, request| tower.clone().handle(peer, request);
        let listening = tokio::spawn(serve(listener, tls, limits, closed.clone(), handler));
        let shared = self.shared.clone();
        let leased = closed.clone();
        let lease = tokio::spawn(async move { lease::keep(&shared, leased).await });
        let shared = self.shared.clone();
        let watching = tokio::spawn(end.clone().run_until_cancelled_owned(async move {
            let host = &shared.host;
            tokio::join!(
                lease::follow(&shared, host.clone()),
                revocation::follow(&shared, host.clone()),
                sample(&shared)
            );
        }));

        stop.cancelled().await;
        self.drain(&closed).await;
        end.cancel();
        for task in [listening, lease] {
            // A task that panicked has ended as well.
            let _ = timeout(LAST, task).await;
        }
        let _ = watching.await;
    }

    async fn drain(&self, closed: &CancellationToken) {
        let Shared { options, sessions, draining, tasks, .. } = &*self.shared;
        tracing::info!("the tower lets go of its agents");
        draining.cancel();
        sleep(options.notice).await;
        sessions.drain();
        closed.cancel();
        tasks.close();
        if timeout(options.drain, async { tokio::join!(sessions.ended(), tasks.wait()) }).await.is_err() {
            tracing::info!("some requests are cut off");
        }
        sessions.close();
        let _ = timeout(LAST, tasks.wait()).await;
    }
}

async fn sample(tower: &Shared) {
    loop {
        sleep(SAMPLE).await;
        for (cluster, agents) in tower.sessions.sample(Instant::now()) {
            tower.metrics.agents(&cluster, agents);
        }
    }
}
