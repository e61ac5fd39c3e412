//! How long to wait before the next try.

use std::time::Duration;

use rand::Rng;

/// Waits that grow, each drawn anew between the least and a ceiling that doubles ("full jitter"), so that many who failed at the same moment
/// do not try again at the same moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Backoff {
    least: Duration,
    first: Duration,
    most: Duration,
    failures: u32,
}

impl Backoff {
    /// Waits of at least `least`; at most `first` for the first, twice as much for each that follows, and never more than `most`.
    pub const fn new(least: Duration, first: Duration, most: Duration) -> Self {
        Self { least, first, most, failures: 0 }
    }

    /// The most that the next wait can be.
    pub fn ceiling(&self) -> Duration {
        self.first.saturating_mul(1_u32.checked_shl(self.failures).unwrap_or(u32::MAX)).min(self.most)
    }

    /// The wait after a failure.
    pub fn next(&mut self, rng: &mut impl Rng) -> Duration {
        let ceiling = self.ceiling();
        self.failures = self.failures.saturating_add(1);
        between(self.least, ceiling, rng)
    }

    /// It went well: the next failure is the first again.
    pub fn reset(&mut self) {
        self.failures = 0;
    }
}

/// A time between two, each as likely as the others.
pub(crate) fn between(least: Duration, most: Duration, rng: &mut impl Rng) -> Duration {
    if most <= least { least } else { least + (most - least).mul_f64(rng.random::<f64>()) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::{SeedableRng, rngs::StdRng};

    use super::*;

    const LEAST: Duration = Duration::from_millis(200);
    const FIRST: Duration = Duration::from_secs(2);
    const MOST: Duration = Duration::from_secs(30);

    #[test]
    fn the_ceiling_doubles_and_stays() {
        let mut backoff = Backoff::new(LEAST, FIRST, MOST);
        let mut rng = StdRng::seed_from_u64(1);
        let ceilings: Vec<u64> = (0..40)
            .map(|_| {
                let ceiling = backoff.ceiling().as_secs();
                backoff.next(&mut rng);
                ceiling
            })
            .collect();
        assert_eq!(ceilings[..6], [2, 4, 8, 16, 30, 30]);
        assert!(ceilings[6..].iter().all(|ceiling| *ceiling == 30));
        backoff.reset();
        assert_eq!(backoff.ceiling(), FIRST);
    }

    #[test]
    fn a_thousand_that_lost_the_same_tower_come_back_spread_over_the_first_two_seconds() {
        let mut counts = [0; 10];
        for seed in 0..1000 {
            let mut rng = StdRng::seed_from_u64(seed);
            let wait = Backoff::new(LEAST, FIRST, MOST).next(&mut rng);
            counts[usize::try_from((wait - LEAST).as_millis() / 180).unwrap().min(9)] += 1;
        }
        assert!(counts.iter().all(|count| (60..150).contains(count)), "{counts:?}");
    }

    proptest! {
        #[test]
        fn every_wait_is_between_the_least_and_the_ceiling(failures in 0_u32..200, seed: u64) {
            let mut backoff = Backoff { failures, ..Backoff::new(LEAST, FIRST, MOST) };
            let ceiling = backoff.ceiling();
            let wait = backoff.next(&mut StdRng::seed_from_u64(seed));
            prop_assert!(wait >= LEAST && wait <= ceiling && ceiling <= MOST);
        }
    }
}
