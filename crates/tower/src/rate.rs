//! How often somebody may try to join: whoever has no credential yet costs the host two reads each time.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// Attempts that may come at once from one address.
const BURST: u32 = 30;
/// After how long one more may.
const REFILL: Duration = Duration::from_millis(200);
/// Addresses that are remembered; beyond, those that have been quiet for long are forgotten.
const ADDRESSES: usize = 4096;

/// The attempts of late. For each address it is known when all of them will be forgiven (generic cell rate algorithm).
#[derive(Debug, Default)]
pub(crate) struct Attempts(Mutex<HashMap<IpAddr, Instant>>);

impl Attempts {
    /// Counts an attempt; `Err` with how long to wait if there were too many.
    pub(crate) fn count(&self, from: IpAddr, now: Instant) -> Result<(), Duration> {
        let mut forgiven = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if forgiven.len() >= ADDRESSES && !forgiven.contains_key(&from) {
            forgiven.retain(|_, until| *until > now);
            if forgiven.len() >= ADDRESSES {
                return Err(REFILL);
            }
        }
        let until = forgiven.entry(from).or_insert(now);
        let next = (*until).max(now) + REFILL;
        let allowed = now + REFILL * BURST;
        if next > allowed {
            return Err(next - allowed);
        }
        *until = next;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_then_only_as_many_as_time_allows() {
        let attempts = Attempts::default();
        let (one, other): (IpAddr, IpAddr) = ([10, 0, 0, 1].into(), [10, 0, 0, 2].into());
        let now = Instant::now();
        for _ in 0..BURST {
            attempts.count(one, now).unwrap();
        }
        assert_eq!(attempts.count(one, now), Err(REFILL));
        assert!(attempts.count(other, now).is_ok(), "each address for itself");
        assert!(attempts.count(one, now + REFILL).is_ok());
        assert!(attempts.count(one, now + REFILL).is_err(), "who was refused did not use anything up");
    }

    #[test]
    fn many_addresses_take_no_more_memory_than_some() {
        let attempts = Attempts::default();
        let now = Instant::now();
        for n in 0..u32::try_from(ADDRESSES).unwrap() * 2 {
            let _ = attempts.count(IpAddr::from(n.to_be_bytes()), now);
        }
        assert_eq!(attempts.0.lock().unwrap().len(), ADDRESSES);
        assert!(attempts.count([200, 0, 0, 1].into(), now + REFILL * 2).is_ok(), "and they are forgotten");
        assert_eq!(attempts.0.lock().unwrap().len(), 1);
    }
}
