//! The join record of a member that is connected by agent: which tokens may still be redeemed, and whose key is accepted. Pure decisions; the
//! record is written back by [`super::store`] (`spec/security-checklist.md`, lines 8 and 9).
//!
//! A token is known here by its digest alone, and so is the agent's key.

use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use jiff::Timestamp;
use rand::CryptoRng;
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use subtle::{Choice, ConstantTimeEq};

/// How long a join token may be redeemed unless somebody says otherwise.
pub const LIFETIME: Duration = Duration::from_secs(24 * 3600);
/// How many tokens may be outstanding for one cluster; minting one more forgets the oldest.
pub const OUTSTANDING: usize = 8;

/// A join token as its bearer holds it. It cannot be printed by accident.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(String);

impl Token {
    /// The secret itself, for the one place it is handed over.
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// What tells two tokens apart without giving either away: their digest, in hexadecimal.
    pub fn digest(&self) -> String {
        digest(self.0.as_bytes())
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Token(…)")
    }
}

/// Everything the host keeps about the joining of one cluster's agents.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// The UID of the Cluster it belongs to: one that was made anew under the same name starts from nothing.
    pub cluster: String,
    /// The tokens that may be redeemed, the oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    tokens: Vec<Invited>,
    /// The digest of the agent's public key (SubjectPublicKeyInfo, DER), once one has joined.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    key: Option<String>,
    /// The token that key joined with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    redeemed: Option<Invited>,
    /// Whether somebody else has shown the redeemed token since.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    replayed: bool,
}

/// A token by its digest.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Invited {
    sha256: String,
    expires: Timestamp,
}

impl Invited {
    fn is(&self, shown: &str) -> Choice {
        self.sha256.as_bytes().ct_eq(shown.as_bytes())
    }
}

/// What became of a token that was accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Redeemed {
    /// It is spent now, and the key is the cluster's.
    Now,
    /// The same agent had redeemed it before, and may not have got the answer.
    Before,
}

/// Why a token was not accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No such token was given out for this cluster, or it has been replaced.
    #[error(
        "the join token is not valid for this cluster, or a newer one has been used; get a new manifest on the host (hansa join NAME --agent) and apply it"
    )]
    Unknown,
    /// It was not used in time.
    #[error(
        "the join token has expired; get a new manifest on the host (hansa join NAME --agent) and apply it"
    )]
    Expired,
    /// It was used by another agent.
    #[error(
        "the join token has been used by another agent; if that was none of yours, somebody else has your manifest: get a new one on the host \
         (hansa join NAME --agent) and apply it, which shuts the other out"
    )]
    Replayed,
}

impl Refusal {
    /// The word for programs.
    pub fn reason(self) -> &'static str {
        match self {
            Self::Unknown => "JoinTokenUnknown",
            Self::Expired => "JoinTokenExpired",
            Self::Replayed => "JoinTokenReplayed",
        }
    }
}

impl Record {
    /// The record of a Cluster, by its UID, that nobody has joined.
    pub fn new(cluster: &str) -> Self {
        Self { cluster: cluster.to_owned(), ..Self::default() }
    }

    /// Makes a token that may be redeemed once until `lifetime` has passed: 256 bits from `rng`. Whoever has joined before stays joined until
    /// it is redeemed.
    pub fn mint(&mut self, now: Timestamp, lifetime: Duration, rng: &mut impl CryptoRng) -> Token {
        let mut secret = [0; 32];
        rng.fill_bytes(&mut secret);
        let token = Token(URL_SAFE_NO_PAD.encode(secret));
        self.tokens.retain(|invited| invited.expires > now);
        let spare = self.tokens.len().saturating_sub(OUTSTANDING - 1);
        self.tokens.drain(..spare);
        let expires = jiff::SignedDuration::try_from(lifetime)
            .ok()
            .and_then(|lifetime| now.checked_add(lifetime).ok())
            .unwrap_or(Timestamp::MAX);
        self.tokens.push(Invited { sha256: token.digest(), expires });
        token
    }

    /// Spends `token` for the holder of the key `spki` (SubjectPublicKeyInfo, DER). After it no other outstanding token is good, and no other key.
    ///
    /// The same key may show the same token again while that lasts. Another key that shows it is refused, which the record remembers.
    pub fn redeem(&mut self, token: &str, spki: &[u8], now: Timestamp) -> Result<Redeemed, Refusal> {
        let shown = digest(token.as_bytes());
        // All are compared, so that the time tells nothing of which.
        let mut found: Option<&Invited> = None;
        for invited in &self.tokens {
            if bool::from(invited.is(&shown)) {
                found = Some(invited);
            }
        }
        if let Some(redeemed) = self.redeemed.as_ref().filter(|redeemed| bool::from(redeemed.is(&shown))) {
            if !self.accepts(spki) {
                self.replayed = true;
                return Err(Refusal::Replayed);
            }
            return if redeemed.expires > now { Ok(Redeemed::Before) } else { Err(Refusal::Expired) };
        }
        let found = found.ok_or(Refusal::Unknown)?;
        if found.expires <= now {
            return Err(Refusal::Expired);
        }
        self.redeemed = Some(found.clone());
        self.key = Some(digest(spki));
        self.tokens.clear();
        self.replayed = false;
        Ok(Redeemed::Now)
    }

    /// Whether the holder of the key `spki` (SubjectPublicKeyInfo, DER) is the agent that joined.
    pub fn accepts(&self, spki: &[u8]) -> bool {
        let shown = digest(spki);
        self.key.as_ref().is_some_and(|key| key.as_bytes().ct_eq(shown.as_bytes()).into())
    }

    /// The digest of the key that is accepted: sessions of another one end when it changes.
    pub fn key(&self) -> Option<&str> {
        self.key.as_deref()
    }
}

/// SHA-256 in hexadecimal.
pub(crate) fn digest(bytes: &[u8]) -> String {
    use std::fmt::Write;
    Sha256::digest(bytes).iter().fold(String::with_capacity(64), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand::rngs::StdRng;

    use super::*;

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_second(1_800_000_000 + seconds).unwrap()
    }

    fn rng() -> StdRng {
        StdRng::seed_from_u64(7)
    }

    #[test]
    fn a_token_is_good_once_and_for_one_key() {
        let mut record = Record::new("u");
        let (token, spare) = {
            let mut rng = rng();
            (record.mint(at(0), HOUR, &mut rng), record.mint(at(0), HOUR, &mut rng))
        };
        assert_ne!(token, spare);
        assert!(!record.accepts(b"ours"));
        assert_eq!(record.redeem(token.reveal(), b"ours", at(1)), Ok(Redeemed::Now));
        assert!(record.accepts(b"ours") && !record.accepts(b"theirs"));
        // The answer was lost: the same agent asks again.
        assert_eq!(record.redeem(token.reveal(), b"ours", at(2)), Ok(Redeemed::Before));
        assert_eq!(record.redeem(token.reveal(), b"theirs", at(3)), Err(Refusal::Replayed));
        // The others went with it.
        assert_eq!(record.redeem(spare.reveal(), b"ours", at(4)), Err(Refusal::Unknown));
        assert!(record.accepts(b"ours"));
    }

    #[test]
    fn a_replay_is_remembered_once_and_told_even_after_the_token_has_ended() {
        let mut record = Record::new("u");
        let token = record.mint(at(0), HOUR, &mut rng());
        record.redeem(token.reveal(), b"ours", at(1)).unwrap();
        let before = record.clone();
        assert_eq!(record.redeem(token.reveal(), b"theirs", at(9999)), Err(Refusal::Replayed));
        assert_ne!(record, before);
        let told = record.clone();
        assert_eq!(record.redeem(token.reveal(), b"others", at(9999)), Err(Refusal::Replayed));
        assert_eq!(record, told);
        assert_eq!(record.redeem(token.reveal(), b"ours", at(9999)), Err(Refusal::Expired));
    }

    #[test]
    fn a_new_token_takes_the_place_of_the_agent_when_it_is_redeemed_and_not_before() {
        let mut record = Record::new("u");
        let mut rng = rng();
        let first = record.mint(at(0), HOUR, &mut rng);
        record.redeem(first.reveal(), b"old", at(1)).unwrap();
        let second = record.mint(at(2), HOUR, &mut rng);
        assert!(record.accepts(b"old"));
        assert_eq!(record.redeem(second.reveal(), b"new", at(3)), Ok(Redeemed::Now));
        assert!(record.accepts(b"new") && !record.accepts(b"old"));
        assert_eq!(record.redeem(first.reveal(), b"old", at(4)), Err(Refusal::Unknown));
    }

    #[test]
    fn a_token_ends() {
        let mut record = Record::new("u");
        let token = record.mint(at(0), HOUR, &mut rng());
        let before = record.clone();
        assert_eq!(record.redeem(token.reveal(), b"k", at(3600)), Err(Refusal::Expired));
        assert_eq!(record, before);
        assert_eq!(record.redeem(token.reveal(), b"k", at(3599)), Ok(Redeemed::Now));
    }

    #[test]
    fn at_most_eight_are_outstanding_and_those_that_ended_do_not_count() {
        let mut record = Record::new("u");
        let mut rng = rng();
        let short = record.mint(at(0), Duration::from_secs(1), &mut rng);
        let tokens: Vec<_> = (0..OUTSTANDING).map(|_| record.mint(at(2), HOUR, &mut rng)).collect();
        assert_eq!(record.tokens.len(), OUTSTANDING);
        assert_eq!(record.clone().redeem(tokens[0].reveal(), b"k", at(3)), Ok(Redeemed::Now));
        assert_eq!(record.clone().redeem(short.reveal(), b"k", at(0)), Err(Refusal::Unknown));
        record.mint(at(3), HOUR, &mut rng);
        assert_eq!(record.tokens.len(), OUTSTANDING);
        assert_eq!(record.redeem(tokens[0].reveal(), b"k", at(3)), Err(Refusal::Unknown));
    }

    #[test]
    fn a_token_has_256_bits_and_is_not_printed() {
        let token = Record::new("u").mint(at(0), HOUR, &mut rng());
        assert_eq!(URL_SAFE_NO_PAD.decode(token.reveal()).unwrap().len(), 32);
        assert!(!format!("{token:?}").contains(token.reveal()));
    }

    #[derive(Clone, Debug)]
    enum Act {
        Mint { lifetime: u64 },
        Redeem { token: usize, key: u8 },
        Guess { key: u8 },
        Wait { seconds: i64 },
    }

    fn act() -> impl Strategy<Value = Act> {
        prop_oneof![
            (1..200u64).prop_map(|lifetime| Act::Mint { lifetime }),
            (0..12usize, 0..3u8).prop_map(|(token, key)| Act::Redeem { token, key }),
            (0..3u8).prop_map(|key| Act::Guess { key }),
            (0..80i64).prop_map(|seconds| Act::Wait { seconds }),
        ]
    }

    proptest! {
        /// Whatever happens in whatever order: a token makes at most one key the cluster's, never after its end, and the record never holds a token.
        #[test]
        fn no_token_is_ever_good_for_two(acts in proptest::collection::vec(act(), 1..60)) {
            let (mut record, mut rng, mut now) = (Record::new("u"), rng(), 0);
            let mut given: Vec<(Token, i64, Option<u8>)> = Vec::new();
            for act in acts {
                match act {
                    Act::Wait { seconds } => now += seconds,
                    Act::Mint { lifetime } => {
                        let before = record.key().map(str::to_owned);
                        let token = record.mint(at(now), Duration::from_secs(lifetime), &mut rng);
                        given.push((token, now + i64::try_from(lifetime).unwrap(), None));
                        prop_assert_eq!(record.key().map(str::to_owned), before);
                    }
                    Act::Guess { key } => {
                        let before = record.clone();
                        prop_assert_eq!(record.redeem("guess", &[key], at(now)), Err(Refusal::Unknown));
                        prop_assert_eq!(&record, &before);
                    }
                    Act::Redeem { token, key } => {
                        let Some(index) = given.len().checked_sub(1 + token) else { continue };
                        let before = record.clone();
                        let (token, end, owner) = &mut given[index];
                        match record.redeem(token.reveal(), &[key], at(now)) {
                            Ok(outcome) => {
                                prop_assert!(now < *end);
                                prop_assert!(record.accepts(&[key]));
                                prop_assert!(owner.is_none_or(|owner| owner == key));
                                prop_assert_eq!(outcome == Redeemed::Now, owner.is_none());
                                *owner = Some(key);
                            }
                            Err(_) => prop_assert_eq!(record.key(), before.key()),
                        }
                    }
                }
                prop_assert!(record.tokens.len() <= OUTSTANDING);
                let kept = serde_json::to_string(&record).unwrap();
                prop_assert!(given.iter().all(|(token, ..)| !kept.contains(token.reveal())));
                prop_assert_eq!(&serde_json::from_str::<Record>(&kept).unwrap(), &record);
            }
        }
    }
}
