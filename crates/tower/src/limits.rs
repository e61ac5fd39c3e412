//! How much one member and one caller may have under way (`spec/security-checklist.md`, line 20).

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

/// How much may be under way at once.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    /// Requests, from their beginning until the end of the answer or of the session they became.
    pub streams: usize,
    /// Those of them whose answer has not begun, because no agent is connected or it has not answered.
    pub pending: usize,
}

/// The bounds of a tower.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// For each member.
    pub member: Share,
    /// For each caller at each tower.
    pub caller: Share,
    /// Agents that one member may have connected.
    pub agents: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            member: Share { streams: 4096, pending: 1024 },
            caller: Share { streams: 2048, pending: 512 },
            agents: 16,
        }
    }
}

/// Whose share is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Over {
    Caller,
    Member,
}

/// What is under way, counted.
#[derive(Clone, Debug)]
pub(crate) struct UnderWay {
    limits: Limits,
    callers: Counts,
    members: Counts,
}

#[derive(Clone, Debug, Default)]
struct Counts {
    streams: Count,
    pending: Count,
}

impl UnderWay {
    pub(crate) fn new(limits: Limits) -> Self {
        Self { limits, callers: Counts::default(), members: Counts::default() }
    }

    /// Takes a place for a request, the caller's share first. The first half is let go when the answer begins, the second when
    /// everything has ended.
    pub(crate) fn enter(&self, caller: &str, member: &str) -> Result<(Places, Places), Over> {
        let of_caller = self.callers.enter(caller, self.limits.caller).ok_or(Over::Caller)?;
        let of_member = self.members.enter(member, self.limits.member).ok_or(Over::Member)?;
        Ok((Places(of_caller.0, of_member.0), Places(of_caller.1, of_member.1)))
    }
}

impl Counts {
    fn enter(&self, key: &str, share: Share) -> Option<(Place, Place)> {
        Some((self.pending.enter(key, share.pending)?, self.streams.enter(key, share.streams)?))
    }
}

/// Two places that are held together.
#[derive(Debug)]
pub(crate) struct Places(
    #[expect(dead_code, reason = "held")] Place,
    #[expect(dead_code, reason = "held")] Place,
);

/// How many are held of each; what nobody holds takes no memory.
#[derive(Clone, Debug, Default)]
struct Count(Arc<Mutex<HashMap<String, usize>>>);

impl Count {
    fn enter(&self, key: &str, limit: usize) -> Option<Place> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(key) {
            Some(count) if *count >= limit => return None,
            Some(count) => *count += 1,
            None if limit == 0 => return None,
            None => drop(held.insert(key.to_owned(), 1)),
        }
        Some(Place { of: self.clone(), key: key.to_owned() })
    }
}

#[derive(Debug)]
struct Place {
    of: Count,
    key: String,
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut held = self.of.0.lock().unwrap_or_else(PoisonError::into_inner);
        match held.get_mut(&self.key) {
            Some(count) if *count > 1 => *count -= 1,
            _ => drop(held.remove(&self.key)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn under_way(member: (usize, usize), caller: (usize, usize)) -> UnderWay {
        let share = |(streams, pending)| Share { streams, pending };
        UnderWay::new(Limits { member: share(member), caller: share(caller), agents: 1 })
    }

    #[test]
    fn one_caller_does_not_use_up_what_others_have_of_a_member() {
        let all = under_way((3, 3), (2, 2));
        let held = [all.enter("a", "m").unwrap(), all.enter("a", "m").unwrap()];
        assert_eq!(all.enter("a", "m").unwrap_err(), Over::Caller);
        assert_eq!(all.enter("a", "n").unwrap_err(), Over::Caller, "nor elsewhere");
        let b = all.enter("b", "m").unwrap();
        assert_eq!(all.enter("c", "m").unwrap_err(), Over::Member);
        assert!(all.enter("c", "n").is_ok(), "other members are none the worse");
        drop((held, b));
        assert!(all.enter("a", "m").is_ok());
        assert!(
            all.callers.pending.0.lock().unwrap().is_empty()
                && all.members.streams.0.lock().unwrap().is_empty()
        );
    }

    #[test]
    fn a_request_whose_answer_has_begun_is_pending_no_longer() {
        let all = under_way((9, 1), (9, 9));
        let (pending, stream) = all.enter("a", "m").unwrap();
        assert_eq!(all.enter("b", "m").unwrap_err(), Over::Member);
        drop(pending);
        let second = all.enter("b", "m").unwrap();
        drop((stream, second));
        assert!(all.members.streams.0.lock().unwrap().is_empty());
    }

    #[test]
    fn what_was_refused_holds_nothing() {
        let all = under_way((9, 0), (9, 9));
        assert_eq!(all.enter("a", "m").unwrap_err(), Over::Member);
        assert!(
            all.callers.pending.0.lock().unwrap().is_empty()
                && all.callers.streams.0.lock().unwrap().is_empty()
        );
    }
}
