//! How often the status of one object is written for nothing but a change of how its copies are: a copy that changes its mind ten times a
//! second must not flood the host.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use crate::key::Key;

/// Two such writes of one object are so far apart.
const PAUSE: Duration = Duration::from_secs(1);
/// How many objects are remembered before those whose pause is over are looked for.
const FEW: usize = 1_024;

/// When the statuses were last written.
#[derive(Debug, Default)]
pub(crate) struct Pace(Mutex<Written>);

#[derive(Debug, Default)]
struct Written {
    last: HashMap<Key, Instant>,
    sweep_at: usize,
}

impl Pace {
    /// Takes note of a write, or says how long it has to wait.
    pub(crate) fn hold(&self, key: &Key, urgent: bool, now: Instant) -> Option<Duration> {
        let mut written = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if !urgent && let Some(last) = written.last.get(key) {
            let passed = now.saturating_duration_since(*last);
            if passed < PAUSE {
                return Some(PAUSE - passed);
            }
        }
        if written.last.len() >= written.sweep_at.max(FEW) {
            written.last.retain(|_, last| now.saturating_duration_since(*last) < PAUSE);
            written.sweep_at = written.last.len() * 2;
        }
        written.last.insert(key.clone(), now);
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn what_is_urgent_is_written_at_once_and_the_rest_once_a_second() {
        let (pace, key, start) = (Pace::default(), Key::new("shop", "web"), Instant::now());
        let at = |millis: u64| start + Duration::from_millis(millis);
        assert_eq!(pace.hold(&key, true, at(0)), None);
        assert_eq!(pace.hold(&key, true, at(1)), None);
        assert_eq!(pace.hold(&key, false, at(101)), Some(Duration::from_millis(900)));
        assert_eq!(pace.hold(&Key::new("shop", "other"), false, at(101)), None);
        assert_eq!(pace.hold(&key, false, at(1_001)), None);
        assert_eq!(pace.hold(&key, false, at(1_002)), Some(Duration::from_millis(999)));
    }

    #[tokio::test(start_paused = true)]
    async fn objects_that_were_written_long_ago_are_forgotten() {
        let (pace, start) = (Pace::default(), Instant::now());
        for number in 0..u32::try_from(4 * FEW).unwrap() {
            pace.hold(&Key::new("shop", &number.to_string()), true, start + PAUSE * number);
        }
        assert!(pace.0.lock().unwrap().last.len() <= FEW);
    }
}
