//! A bound on how many requests are made in a second, for those who were told to keep one.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// So many requests a second in the long run, and so many at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// The time from one request to the next, when they come without end.
    pub interval: Duration,
    /// How many may be made at once after a pause.
    pub burst: u32,
}

impl Rate {
    /// `None` where nothing is bounded: at rates that are not above zero, as in client-go.
    pub fn new(per_second: f64, burst: u32) -> Option<Self> {
        let interval = Duration::try_from_secs_f64(per_second.recip()).ok()?;
        (per_second > 0.0).then_some(Self { interval, burst: burst.max(1) })
    }

    /// When a request may be made that is asked for `now`, and what to remember for the next: the time at which all that were made are paid for.
    fn admit(self, paid: Option<Instant>, now: Instant) -> (Instant, Instant) {
        let paid = paid.map_or(now, |paid| paid.max(now));
        let credit = self.interval * (self.burst - 1);
        let at = paid.checked_sub(credit).map_or(now, |at| at.max(now));
        (at, paid + self.interval)
    }
}

/// Keeps a [`Rate`].
#[derive(Debug)]
pub(crate) struct Gate {
    rate: Rate,
    paid: Mutex<Option<Instant>>,
}

impl Gate {
    pub(crate) fn new(rate: Rate) -> Self {
        Self { rate, paid: Mutex::default() }
    }

    /// Waits until a request may be made.
    pub(crate) async fn pass(&self) {
        let now = Instant::now();
        let at = {
            let mut paid = self.paid.lock().unwrap_or_else(PoisonError::into_inner);
            let (at, next) = self.rate.admit(*paid, now);
            *paid = Some(next);
            at
        };
        if at > now {
            tokio::time::sleep_until(at).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rate_bounds_the_long_run_and_a_burst_the_moment() {
        let rate = Rate::new(10.0, 3).unwrap();
        let start = Instant::now();
        let mut paid = None;
        let mut after = |asked: u64| {
            let now = start + Duration::from_millis(asked);
            let (at, next) = rate.admit(paid, now);
            paid = Some(next);
            (at - start).as_millis()
        };
        let waits: Vec<u128> = [0, 0, 0, 0, 0, 1000, 1000, 1000, 1000].map(&mut after).into();
        assert_eq!(waits, [0, 0, 0, 100, 200, 1000, 1000, 1000, 1100]);
    }

    #[test]
    fn what_is_no_rate_bounds_nothing() {
        for none in [0.0, -1.0, f64::NAN] {
            assert_eq!(Rate::new(none, 1), None);
        }
        assert_eq!(Rate::new(0.5, 0), Some(Rate { interval: Duration::from_secs(2), burst: 1 }));
    }
}
