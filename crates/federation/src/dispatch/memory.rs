//! What is remembered of members between two writes.

use std::collections::{BTreeMap, HashMap};
use std::sync::Mutex;

use crate::engine::lock;
use crate::key::Key;

/// What one type's writes have taught.
#[derive(Debug, Default)]
pub(crate) struct Memory {
    /// Members that cannot apply objects of this type, and the connection over which they said so: behind another one there may be
    /// another version of the server. It is per type, as a type may be served by a server of its own behind the member's.
    plain: Mutex<BTreeMap<String, u64>>,
    /// The generation of the federated object for which a copy was made anew.
    recreated: Mutex<HashMap<(String, Key), i64>>,
}

impl Memory {
    /// Whether a member can, for all we know, apply.
    pub(super) fn applies(&self, member: &str, connection: u64) -> bool {
        lock(&self.plain).get(member) != Some(&connection)
    }

    /// Notes that it cannot.
    pub(super) fn cannot_apply(&self, member: &str, connection: u64) {
        lock(&self.plain).insert(member.to_owned(), connection);
    }

    /// Notes that a copy is made anew; `false` if it was already, for this generation.
    pub(super) fn recreates(&self, member: &str, key: &Key, generation: i64) -> bool {
        lock(&self.recreated).insert((member.to_owned(), key.clone()), generation) != Some(generation)
    }

    /// Forgets a copy that is gone.
    pub(super) fn forget(&self, member: &str, key: &Key) {
        lock(&self.recreated).remove(&(member.to_owned(), key.clone()));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_member_is_asked_once_per_connection() {
        let memory = Memory::default();
        assert!(memory.applies("m1", 1));
        memory.cannot_apply("m1", 1);
        assert!(!memory.applies("m1", 1) && memory.applies("m1", 2) && memory.applies("m2", 1));
    }

    #[test]
    fn a_copy_is_made_anew_once_per_generation() {
        let (memory, key) = (Memory::default(), Key::new("shop", "web"));
        assert!(memory.recreates("m1", &key, 1) && !memory.recreates("m1", &key, 1));
        assert!(memory.recreates("m2", &key, 1) && memory.recreates("m1", &key, 2));
        memory.forget("m1", &key);
        assert!(memory.recreates("m1", &key, 2));
    }
}
