//! Whether a member is well: what a run of probes means, and how it is written down (`spec/kubefed.md §2.2`).
//!
//! Unlike KubeFed's, the thresholds count consecutive probes (`spec/kubefed.md §6`, item 1): one lost probe takes no member offline.

use hansa_api::kubefed::{KubeFedClusterCondition, condition};
use hansa_api::settings::Health as Thresholds;
use hansa_api::time::Time;

/// What one probe found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// `/healthz` answered `ok`.
    Ok,
    /// `/healthz` answered something else.
    NotOk,
    /// There was no answer, or a refusal.
    Unreachable(String),
    /// No client can be made from what the KubeFedCluster and its Secret say.
    Malformed(String),
}

/// What is held to be true of a member.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum State {
    /// Nothing has been found out yet.
    #[default]
    Unknown,
    /// It is well.
    Ready,
    /// It answers and says that it is not well.
    NotReady,
    /// It does not answer.
    Offline(String),
    /// It cannot be asked.
    Malformed(String),
}

/// A run of probes.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    state: State,
    /// Consecutive probes that speak against `state`.
    against: u32,
}

impl Health {
    /// Begins with what was written down before, so that a restart by itself changes nothing.
    pub fn resume(conditions: &[KubeFedClusterCondition]) -> Self {
        let is =
            |r#type: &str, status: &str| conditions.iter().find(|c| c.r#type == r#type && c.status == status);
        let message = |c: &KubeFedClusterCondition| c.message.clone().unwrap_or_default();
        let state = if is(condition::READY, "True").is_some() {
            State::Ready
        } else if let Some(found) = is(condition::OFFLINE, "True") {
            State::Offline(message(found))
        } else if let Some(found) = is(condition::CONFIG_MALFORMED, "True") {
            State::Malformed(message(found))
        } else if is(condition::READY, "False").is_some() {
            State::NotReady
        } else {
            State::Unknown
        };
        Self { state, against: 0 }
    }

    /// What is held to be true.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Whether the member is held to be well.
    pub fn is_ready(&self) -> bool {
        self.state == State::Ready
    }

    /// Takes a probe into account.
    ///
    /// A member leaves `Ready` after `failure_threshold` consecutive probes that were not good, and comes back after `success_threshold` good
    /// ones. Of a member of which nothing is known, and of one that cannot be asked, a single probe decides.
    pub fn observe(&mut self, outcome: Outcome, thresholds: &Thresholds) {
        let found = match outcome {
            Outcome::Ok => State::Ready,
            Outcome::NotOk => State::NotReady,
            Outcome::Unreachable(reason) => State::Offline(reason),
            Outcome::Malformed(reason) => State::Malformed(reason),
        };
        let needed = match (&self.state, &found) {
            (State::Unknown | State::Malformed(_), _) | (_, State::Malformed(_)) => 1,
            (State::Ready, State::Ready) => {
                self.against = 0;
                return;
            }
            (State::Ready, _) => thresholds.failure_threshold,
            (_, State::Ready) => thresholds.success_threshold,
            // In one way or another it is not well; the last word counts.
            _ => {
                self.state = found;
                self.against = 0;
                return;
            }
        };
        self.against += 1;
        if self.against >= needed {
            self.state = found;
            self.against = 0;
        }
    }
}

/// The conditions of a state. Each keeps its transition time for as long as its status does.
pub fn conditions(
    state: &State,
    before: &[KubeFedClusterCondition],
    now: &Time,
) -> Vec<KubeFedClusterCondition> {
    let one = |r#type: &str, status: &str, reason: &str, message: String| {
        let since = before
            .iter()
            .find(|former| former.r#type == r#type && former.status == status)
            .and_then(|former| former.last_transition_time.clone())
            .unwrap_or_else(|| now.clone());
        KubeFedClusterCondition {
            r#type: r#type.to_owned(),
            status: status.to_owned(),
            last_probe_time: now.clone(),
            last_transition_time: Some(since),
            reason: Some(reason.to_owned()),
            message: Some(message),
        }
    };
    match state {
        State::Unknown => Vec::new(),
        State::Ready => {
            vec![one(condition::READY, "True", "ClusterReady", "/healthz responded with ok".to_owned())]
        }
        State::NotReady => vec![
            one(condition::READY, "False", "ClusterNotReady", "/healthz responded without ok".to_owned()),
            one(condition::OFFLINE, "False", "ClusterReachable", "cluster is reachable".to_owned()),
        ],
        State::Offline(reason) => {
            let message = format!("cluster is not reachable: {reason}");
            vec![one(condition::OFFLINE, "True", "ClusterNotReachable", message)]
        }
        State::Malformed(reason) => {
            let message = format!("cluster's configuration may be malformed: {reason}");
            vec![one(condition::CONFIG_MALFORMED, "True", "ClusterConfigMalformed", message)]
        }
    }
}

/// Whether two sets of conditions say the same, whenever they were probed.
pub fn say_the_same(a: &[KubeFedClusterCondition], b: &[KubeFedClusterCondition]) -> bool {
    let timeless = |c: &KubeFedClusterCondition| {
        (c.r#type.clone(), c.status.clone(), c.reason.clone(), c.message.clone())
    };
    a.len() == b.len() && a.iter().zip(b).all(|(a, b)| timeless(a) == timeless(b))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn thresholds(failure: u32, success: u32) -> Thresholds {
        let second = Duration::from_secs(1);
        Thresholds { period: second, timeout: second, failure_threshold: failure, success_threshold: success }
    }

    /// `+` a good probe, `-` none, `0` an answer that is not ok, `m` no way to ask; the expected state after each.
    fn run(thresholds: &Thresholds, probes: &str) -> String {
        let mut health = Health::default();
        probes
            .chars()
            .map(|probe| {
                health.observe(
                    match probe {
                        '+' => Outcome::Ok,
                        '0' => Outcome::NotOk,
                        'm' => Outcome::Malformed("no token".into()),
                        _ => Outcome::Unreachable("refused".into()),
                    },
                    thresholds,
                );
                match health.state() {
                    State::Unknown => '?',
                    State::Ready => 'R',
                    State::NotReady => 'N',
                    State::Offline(_) => 'O',
                    State::Malformed(_) => 'M',
                }
            })
            .collect()
    }

    #[test]
    fn only_consecutive_probes_change_a_state() {
        for (failure, success, probes, expected) in [
            (3, 1, "+++-", "RRRR"),
            (3, 1, "+---", "RRRO"),
            (3, 1, "+--+--+--+", "RRRRRRRRRR"),
            (3, 1, "+-0-", "RRRO"),
            (3, 1, "+--0", "RRRN"),
            (3, 3, "+---++-+++", "RRROOOOOOR"),
            (1, 1, "+-+-", "RORO"),
            (3, 2, "-++", "OOR"),
            (3, 1, "-0-", "ONO"),
            (3, 3, "+m+", "RMR"),
            (3, 1, "m-", "MO"),
            (3, 3, "0", "N"),
        ] {
            assert_eq!(
                run(&thresholds(failure, success), probes),
                expected,
                "{probes} with {failure}/{success}"
            );
        }
    }

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let first = conditions(&State::Ready, &[], &at(10));
        let second = conditions(&State::Ready, &first, &at(20));
        assert_eq!(second[0].last_transition_time, Some(at(10)));
        assert_eq!(second[0].last_probe_time, at(20));
        assert!(say_the_same(&first, &second));
        let offline = conditions(&State::Offline("x".into()), &second, &at(30));
        assert_eq!(offline[0].last_transition_time, Some(at(30)));
        let still = conditions(&State::Offline("y".into()), &offline, &at(40));
        assert_eq!(still[0].last_transition_time, Some(at(30)));
        assert!(!say_the_same(&offline, &still));
    }

    #[test]
    fn an_unreachable_member_has_no_ready_condition() {
        let types = |state: State| -> Vec<(String, String)> {
            conditions(&state, &[], &at(1)).into_iter().map(|c| (c.r#type, c.status)).collect()
        };
        let pair = |a: &str, b: &str| (a.to_owned(), b.to_owned());
        assert_eq!(types(State::Offline(String::new())), [pair("Offline", "True")]);
        assert_eq!(types(State::NotReady), [pair("Ready", "False"), pair("Offline", "False")]);
        assert_eq!(types(State::Malformed(String::new())), [pair("ConfigMalformed", "True")]);
    }

    #[test]
    fn a_restart_goes_on_from_what_was_written() {
        for state in [State::Ready, State::NotReady, State::Unknown] {
            let resumed = Health::resume(&conditions(&state, &[], &at(1)));
            assert_eq!(resumed.state(), &state);
        }
        let mut resumed = Health::resume(&conditions(&State::Ready, &[], &at(1)));
        resumed.observe(Outcome::Unreachable("x".into()), &thresholds(3, 1));
        assert!(resumed.is_ready());
    }
}
