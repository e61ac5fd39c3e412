//! The conditions of a `Cluster`: a condition is written when it says something new, and its transition time moves with its status alone
//! (`spec/kubesphere-multicluster.md §1.2`).

use hansa_api::cluster::ClusterCondition;
use hansa_api::time::Time;

/// What a condition is to say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Said {
    pub(crate) r#type: &'static str,
    pub(crate) status: bool,
    pub(crate) reason: String,
    pub(crate) message: String,
}

impl Said {
    pub(crate) fn new(r#type: &'static str, status: bool, reason: &str, message: impl Into<String>) -> Self {
        Self { r#type, status, reason: reason.to_owned(), message: message.into() }
    }
}

/// `before`, with what is `said` now. Conditions of other types stay as they are, and so does the order.
pub(crate) fn merge(before: &[ClusterCondition], said: &[Said], now: &Time) -> Vec<ClusterCondition> {
    let mut after = before.to_vec();
    for said in said {
        let status = if said.status { "True" } else { "False" };
        // Writers of old appended: of several entries of a type the last one holds.
        let former = after.iter().rev().find(|condition| condition.r#type == said.r#type).cloned();
        let same_status = former.as_ref().is_some_and(|former| former.status == status);
        let same = same_status
            && former
                .as_ref()
                .is_some_and(|former| former.reason == said.reason && former.message == said.message);
        let condition = match former {
            Some(former) if same => former,
            former => ClusterCondition {
                r#type: said.r#type.to_owned(),
                status: status.to_owned(),
                last_update_time: Some(now.clone()),
                last_transition_time: former
                    .filter(|_| same_status)
                    .and_then(|former| former.last_transition_time)
                    .or_else(|| Some(now.clone())),
                reason: said.reason.clone(),
                message: said.message.clone(),
            },
        };
        match after.iter().position(|condition| condition.r#type == said.r#type) {
            Some(first) => {
                after[first] = condition;
                let mut index = 0;
                after.retain(|condition| {
                    index += 1;
                    index - 1 == first || condition.r#type != said.r#type
                });
            }
            None => after.push(condition),
        }
    }
    after
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Time {
        Time(k8s_openapi::jiff::Timestamp::from_second(seconds).unwrap())
    }

    fn said(status: bool, message: &str) -> Vec<Said> {
        vec![Said::new("Ready", status, "R", message)]
    }

    #[test]
    fn what_is_said_again_is_not_written_again() {
        let first = merge(&[], &said(true, "ok"), &at(1));
        assert_eq!(merge(&first, &said(true, "ok"), &at(2)), first);
    }

    #[test]
    fn a_transition_time_moves_only_with_the_status() {
        let first = merge(&[], &said(false, "a"), &at(1));
        let second = merge(&first, &said(false, "b"), &at(2));
        assert_eq!(second[0].last_transition_time, Some(at(1)));
        assert_eq!(second[0].last_update_time, Some(at(2)));
        let third = merge(&second, &said(true, "b"), &at(3));
        assert_eq!(third[0].last_transition_time, Some(at(3)));
    }

    #[test]
    fn conditions_of_others_stay_and_doubles_go() {
        let mut before = merge(&[], &[Said::new("AgentAvailable", true, "A", "")], &at(1));
        before.extend(merge(&[], &said(true, "old"), &at(1)));
        before.extend(merge(&[], &said(false, "new"), &at(2)));
        let after = merge(&before, &said(false, "new"), &at(3));
        let shown: Vec<_> = after.iter().map(|c| (c.r#type.as_str(), c.status.as_str())).collect();
        assert_eq!(shown, [("AgentAvailable", "True"), ("Ready", "False")]);
        assert_eq!(after[1].last_transition_time, Some(at(2)));
    }
}
