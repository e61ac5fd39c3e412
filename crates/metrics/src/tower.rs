//! What a tower counts.

use std::time::Duration;

use crate::Metrics;
use crate::families::{ByDirection, ByMember, ByReason};

/// The counters of a tower.
#[derive(Clone, Debug)]
pub struct Tower {
    metrics: Metrics,
}

/// How the agents of one cluster are, all together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Agents {
    /// How many are connected.
    pub connected: usize,
    /// Requests under way.
    pub streams: usize,
    /// How long ago the most silent of them was heard.
    pub silence: Duration,
    /// Bytes sent to them since this was last told.
    pub sent: u64,
    /// Bytes received from them since this was last told.
    pub received: u64,
}

impl Metrics {
    /// The counters of a tower.
    pub fn tower(&self) -> Tower {
        Tower { metrics: self.clone() }
    }
}

impl Tower {
    /// Tells how the agents of a cluster are. Of a cluster without agents only what has passed is kept.
    pub fn agents(&self, cluster: &str, agents: Agents) {
        let families = &self.metrics.inner.families;
        let by = ByMember { cluster: cluster.to_owned() };
        let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
        families.agents.get_or_create(&by).set(count(agents.connected));
        families.streams.get_or_create(&by).set(count(agents.streams));
        if agents.connected == 0 {
            families.silence.remove(&by);
        } else {
            families.silence.get_or_create(&by).set(agents.silence.as_secs_f64());
        }
        for (direction, bytes) in [("sent", agents.sent), ("received", agents.received)] {
            families
                .bytes
                .get_or_create(&ByDirection { cluster: cluster.to_owned(), direction })
                .inc_by(bytes);
        }
    }

    /// A cluster is gone: nothing more is said of it.
    pub fn forget(&self, cluster: &str) {
        let families = &self.metrics.inner.families;
        let by = ByMember { cluster: cluster.to_owned() };
        families.agents.remove(&by);
        families.streams.remove(&by);
        families.silence.remove(&by);
        for direction in ["sent", "received"] {
            families.bytes.remove(&ByDirection { cluster: cluster.to_owned(), direction });
        }
    }

    /// An agent's tunnel stands.
    pub fn connected(&self, took: Duration) {
        self.metrics.inner.families.handshakes.observe(took.as_secs_f64());
    }

    /// A request waited for an agent.
    pub fn waited(&self, took: Duration) {
        self.metrics.inner.families.waits.observe(took.as_secs_f64());
    }

    /// The answer to a request began.
    pub fn answered(&self, took: Duration) {
        self.metrics.inner.families.dials.observe(took.as_secs_f64());
    }

    /// Something was refused, for a reason that is one of a few fixed words.
    pub fn rejected(&self, reason: &'static str) {
        self.metrics.inner.families.rejections.get_or_create(&ByReason { reason }).inc();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_is_told_of_while_it_is_there() {
        let metrics = Metrics::default();
        let tower = metrics.tower();
        let agents =
            Agents { connected: 2, streams: 3, silence: Duration::from_secs(1), sent: 5, received: 7 };
        tower.agents("m1", agents);
        tower.agents("m1", agents);
        tower.rejected("Unauthorized");
        tower.answered(Duration::from_millis(3));
        let has = |line: &str| metrics.text().lines().any(|each| each == line);
        for line in [
            "hansa_tower_agents{cluster=\"m1\"} 2",
            "hansa_tower_streams{cluster=\"m1\"} 3",
            "hansa_tower_bytes_total{cluster=\"m1\",direction=\"sent\"} 10",
            "hansa_tower_bytes_total{cluster=\"m1\",direction=\"received\"} 14",
            "hansa_tower_heartbeat_age_seconds{cluster=\"m1\"} 1.0",
            "hansa_tower_rejections_total{reason=\"Unauthorized\"} 1",
            "hansa_tower_dial_duration_seconds_count 1",
        ] {
            assert!(has(line), "{line} is not in\n{}", metrics.text());
        }
        tower.agents("m1", Agents::default());
        assert!(!metrics.text().contains("heartbeat_age_seconds{"), "nobody is silent where nobody is");
        tower.forget("m1");
        assert!(!metrics.text().contains("m1"));
    }
}
