//! Holds the credential: makes the key, has it certified and renewed, and keeps both on the member, as [`credential::step`] decides.

use std::time::Duration;

use hansa_transport::{Proxy, Transport};
use tokio::time::Instant;

use crate::Clock;
use crate::credential::{self, Kept, Step};
use crate::dial::Dialler;
use crate::error::Error;
use crate::join::Join;
use crate::store::{Found, Store, StoreError};

/// How long it takes until a renewal that failed is tried again; there are days for it.
const RENEW_AGAIN: Duration = Duration::from_secs(600);
/// More steps than any way to a credential has; others may be changing it at the same time.
const STEPS: usize = 8;

pub(crate) struct Keeper {
    store: Store,
    clock: Clock,
    /// Sets the renewals of agents apart that joined together, 0 to 1.
    spread: f64,
    kept: Option<Kept>,
    /// `kept` may not be what the member keeps.
    stale: bool,
    /// `kept` is newer than what the member keeps.
    unsaved: bool,
    /// The digest of a token that the tower did not take.
    refused: Option<String>,
    renew_not_before: Option<Instant>,
    /// Counts the tries, so that each address of the tower's name has its turn.
    turn: usize,
}

impl Keeper {
    pub(crate) fn new(store: Store, clock: Clock, spread: f64) -> Self {
        Self {
            store,
            clock,
            spread,
            kept: None,
            stale: true,
            unsaved: false,
            refused: None,
            renew_not_before: None,
            turn: 0,
        }
    }

    /// Which of the tower's addresses is dialled first this time.
    pub(crate) fn next_turn(&mut self) -> usize {
        self.turn = self.turn.wrapping_add(1);
        self.turn
    }

    /// The tower did not take the credential: another agent of this cluster may have a newer one.
    pub(crate) fn doubt(&mut self) {
        self.stale = true;
    }

    /// A credential that can be used now.
    pub(crate) async fn ready(
        &mut self,
        api: &Transport,
        join: &Join,
        proxy: Option<&Proxy>,
    ) -> Result<Kept, Error> {
        if self.unsaved && self.save_later(api).await {
            self.unsaved = false;
        }
        if self.stale && !self.unsaved {
            match self.store.load(api).await {
                Ok(found) => self.adopt(found.kept),
                // One that is known can be used without asking again.
                Err(error) if self.kept.is_none() => return Err(error.into()),
                Err(error) => tracing::debug!(%error, "the kept credential cannot be read again"),
            }
        }
        for _ in 0..STEPS {
            let now = (self.clock)();
            match credential::step(self.kept.as_ref(), join, self.refused.as_deref(), now, self.spread) {
                Step::MakeKey => self.make_key(api, join).await?,
                Step::Stuck(stuck) => {
                    self.stale = true;
                    return Err(stuck.into());
                }
                Step::Redeem => self.redeem(api, join, proxy).await?,
                Step::Renew => {
                    self.renew(api, join, proxy).await;
                    break;
                }
                Step::Use(_) => break,
            }
        }
        self.kept.clone().ok_or_else(|| StoreError::Unreachable("others keep changing it".to_owned()).into())
    }

    fn adopt(&mut self, kept: Option<Kept>) {
        if kept.is_some() {
            self.kept = kept;
        }
        self.stale = false;
    }

    /// A key that the member keeps: ours, or that of another agent that was first.
    async fn make_key(&mut self, api: &Transport, join: &Join) -> Result<(), Error> {
        let found = self.store.load(api).await?;
        if found.kept.as_ref().is_some_and(|kept| kept.cluster == join.cluster) {
            self.adopt(found.kept);
            return Ok(());
        }
        let kept = Kept::make(&join.cluster)?;
        if self.store.save(api, &kept, &found).await? {
            tracing::info!(cluster = join.cluster, "made a key for this cluster's agents");
            self.kept = Some(kept);
        }
        Ok(())
    }

    async fn redeem(&mut self, api: &Transport, join: &Join, proxy: Option<&Proxy>) -> Result<(), Error> {
        let (Some(kept), Some(token)) = (self.kept.clone(), &join.token) else { return Ok(()) };
        // Another agent of this cluster may have done it a moment ago.
        let found = self.store.load(api).await?;
        if found.kept.as_ref().is_some_and(|found| found != &kept && found.cluster == join.cluster) {
            self.adopt(found.kept);
            return Ok(());
        }
        let dialler = Dialler { join, kept: &kept, proxy, clock: &self.clock, turn: self.turn };
        match dialler.redeem(token).await {
            Ok(next) => {
                tracing::info!(cluster = join.cluster, "joined: the token was exchanged for a certificate");
                self.take(api, next, found).await;
                Ok(())
            }
            Err(error @ Error::Token { .. }) => {
                self.refused = Some(token.digest());
                let without =
                    credential::step(Some(&kept), join, self.refused.as_deref(), (self.clock)(), self.spread);
                if matches!(without, Step::Use(_) | Step::Renew) {
                    tracing::warn!(%error, "the token is not used; the certificate that is there still is");
                    return Ok(());
                }
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// A renewal that fails is tried again later; the certificate is good for days.
    async fn renew(&mut self, api: &Transport, join: &Join, proxy: Option<&Proxy>) {
        let Some(kept) = self.kept.clone() else { return };
        if self.renew_not_before.is_some_and(|at| Instant::now() < at) {
            return;
        }
        let found = match self.store.load(api).await {
            Ok(found) => found,
            Err(error) => return self.renewal_failed(&error.into()),
        };
        // Another agent of this cluster may have renewed it.
        if found
            .kept
            .as_ref()
            .is_some_and(|found| found.key == kept.key && found.certificate != kept.certificate)
        {
            return self.adopt(found.kept);
        }
        let dialler = Dialler { join, kept: &kept, proxy, clock: &self.clock, turn: self.turn };
        match dialler.renew().await {
            Ok(next) => {
                tracing::info!(cluster = join.cluster, "the certificate was renewed");
                self.take(api, next, found).await;
            }
            Err(error) => self.renewal_failed(&error),
        }
    }

    fn renewal_failed(&mut self, error: &Error) {
        self.renew_not_before = Some(Instant::now() + RENEW_AGAIN);
        tracing::warn!(%error, "the certificate could not be renewed; it is used on, and renewing is tried again");
    }

    /// Uses a new credential from now on and keeps it; where that fails it is kept later, for it can be had again.
    async fn take(&mut self, api: &Transport, next: Kept, found: Found) {
        self.kept = Some(next.clone());
        self.refused = None;
        self.renew_not_before = None;
        match self.store.save(api, &next, &found).await {
            Ok(true) => {}
            Ok(false) => self.unsaved = true,
            Err(error) => {
                tracing::warn!(%error, "the certificate is used, and kept later");
                self.unsaved = true;
            }
        }
    }

    /// Keeps what could not be kept before; `false` if that is still so. A certificate of another agent that holds longer stays.
    async fn save_later(&mut self, api: &Transport) -> bool {
        let (Some(kept), Ok(found)) = (self.kept.clone(), self.store.load(api).await) else { return false };
        let until = |kept: &Kept| {
            let certificate = kept.certificate.as_deref()?;
            credential::Certificate::read(certificate).ok().map(|certificate| certificate.until)
        };
        if let Some(other) =
            found.kept.clone().filter(|other| other.key != kept.key || until(other) >= until(&kept))
        {
            self.adopt(Some(other));
            return true;
        }
        self.store.save(api, &kept, &found).await.unwrap_or(false)
    }
}
