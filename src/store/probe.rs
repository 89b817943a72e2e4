//! Asking a store, before the first epoch, whether it will take one.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Body, Listing, Outcome, Store, StoreError, StoreErrorKind, StoreResult};

/// What a store knows of how it is reached. Nothing in it is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Facts {
    /// Scheme and host.
    pub endpoint: Option<String>,
    /// The region that signatures name.
    pub region: Option<String>,
    /// How requests name the bucket.
    pub addressing: Option<&'static str>,
    /// The signature's version.
    pub signature: Option<&'static str>,
    /// Where the keys were found.
    pub credentials: Option<&'static str>,
    /// The store's clock, to a second, as far as an answer has told it.
    pub store_time: Option<SystemTime>,
    /// Whether old versions of objects are kept.
    pub versioning: Versioning,
    /// Whether the store refuses to create an object that exists.
    pub conditional_puts: ConditionalPuts,
}

impl Facts {
    /// How far this machine's clock, which says `now`, is ahead of the store's, in ms; stores
    /// refuse requests beyond 15 minutes.
    pub fn skew_ms(&self, now: SystemTime) -> Option<i64> {
        let store = self.store_time?;
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Some(match now.duration_since(store) {
            Ok(ahead) => ms(ahead),
            Err(behind) => -ms(behind.duration()),
        })
    }
}

/// Whether a bucket keeps old versions. Where it does, creating without overwriting is no longer
/// refused by OSS, and every retry leaves a version that is paid for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// It does not.
    Off,
    /// It does.
    Enabled,
    /// It did, and keeps what it has.
    Suspended,
    /// These credentials may not ask, or this kind of store has no such thing.
    #[default]
    Unknown,
}

/// A store's answer to a request that creates an object which exists.
///
/// OSS takes `x-oss-forbid-overwrite`, S3 takes `If-None-Match: *`. Not every compatible store
/// knows them, and OSS itself ignores its header in a bucket with versioning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConditionalPuts {
    /// The request is refused and the object stays as it is.
    Honoured,
    /// The object is replaced, or the store does not take such requests at all.
    Ignored,
    /// Not probed yet.
    #[default]
    Unknown,
}

/// How long removing an object may take that most likely is not there.
const TIDY_TIMEOUT: Duration = Duration::from_secs(2);

/// One object that a store is tried with, beside the results in `_wordtide/`, which readers of
/// results ignore.
#[derive(Clone, Debug)]
pub struct Probe {
    key: String,
    text: String,
}

impl Probe {
    /// A probe beside the epochs of `prefix`, under a name that no other process uses.
    pub fn beside(prefix: &str) -> Probe {
        let beside = &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)];
        let nonce = RandomState::new().hash_one(std::process::id());
        Probe {
            key: format!("{beside}_wordtide/probe-{nonce:016x}"),
            text: format!("wordtide probe {nonce:016x}"),
        }
    }

    /// Creates the object, tries to create it again with different bytes, lists, reads back and
    /// deletes it. An operation that fails here would fail at the first epoch. The same probe can
    /// be run again after a failure; a run that succeeds leaves nothing in the store.
    ///
    /// Returns whether the second creation was refused.
    ///
    /// # Errors
    /// Those of the store; `Denied` if other bytes are read than were stored.
    pub async fn run(&self, store: &dyn Store) -> StoreResult<ConditionalPuts> {
        let Probe { key, text } = self;
        // Of equal length, so that a store which compares lengths only is found out too.
        let [first, second] = ["first ", "second"].map(|try_| format!("{text} {try_}\n"));
        let bytes_max = first.len() as u64;
        let created =
            store.probe_put_new(key, Body::from(first.clone()), Body::from(second.clone())).await;
        let conditional_puts = match created {
            Ok(conditional_puts) => conditional_puts,
            Err(error) => {
                if error.outcome == Outcome::Indeterminate {
                    // The object may exist. A store that is away is not waited for twice, and one
                    // that cannot delete has been reported by then.
                    let tidied = tokio::time::timeout(TIDY_TIMEOUT, store.delete(key)).await;
                    drop(tidied);
                }
                return Err(error);
            }
        };
        let read = self.read_back(store, bytes_max).await;
        let deleted = store.delete(key).await;
        let expected = match conditional_puts {
            ConditionalPuts::Ignored => second,
            ConditionalPuts::Honoured | ConditionalPuts::Unknown => first,
        };
        let matches = match read {
            Ok(bytes) => bytes == expected,
            // It is longer than what was stored.
            Err(error) if error.kind == StoreErrorKind::Invalid => false,
            Err(error) => return Err(error),
        };
        if !matches {
            let message = format!("{key} was read back with other content than it was stored with");
            return Err(StoreError::new(StoreErrorKind::Denied, message)
                .hint("check what stands between this machine and the store in --to"));
        }
        deleted.map(|()| conditional_puts)
    }

    /// Lists the object and returns its bytes.
    async fn read_back(&self, store: &dyn Store, bytes_max: u64) -> StoreResult<Bytes> {
        store.list(Listing::new(&self.key).limit(1)).await?;
        store.get(&self.key, bytes_max).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::{Fault, MemoryStore, OpKind};
    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn a_probe_leaves_nothing_behind() {
        let store = MemoryStore::new();
        let found = Probe::beside("a/b/counts").run(&store).await.unwrap();
        assert_eq!(found, ConditionalPuts::Honoured);
        assert!(store.objects().is_empty());
        let log = store.log();
        let kinds: Vec<_> = log.iter().map(|op| op.kind).collect();
        use OpKind::{Delete, Get, List, PutNew};
        assert_eq!(kinds, [PutNew, PutNew, List, Get, Delete]);
        assert!(log.iter().all(|op| op.key.starts_with("a/b/_wordtide/probe-")));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn whatever_is_refused_comes_back() {
        for kind in [OpKind::PutNew, OpKind::List, OpKind::Get, OpKind::Delete] {
            let store = MemoryStore::new();
            let fault = Fault::Refused(StoreErrorKind::Denied);
            store.fail_next(1, fault, move |op| op.kind == kind);
            let error = Probe::beside("").run(&store).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Denied, "{kind:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_probe_whose_answer_was_lost_leaves_nothing_either() {
        let store = MemoryStore::new();
        let lost = Fault::AnswerLost(StoreErrorKind::Unavailable);
        store.fail_next(1, lost, |op| op.kind == OpKind::PutNew);
        Probe::beside("").run(&store).await.unwrap_err();
        assert!(store.objects().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_probe_that_is_tried_again_takes_away_what_its_first_try_left() {
        let store = MemoryStore::new();
        store.fail_next(1, Fault::Refused(StoreErrorKind::Unavailable), |op| {
            op.kind == OpKind::Delete
        });
        let probe = Probe::beside("");
        probe.run(&store).await.unwrap_err();
        assert_eq!(store.objects().len(), 1);
        probe.run(&store).await.unwrap();
        assert!(store.objects().is_empty());
    }

    #[test]
    fn skew_has_a_sign() {
        let store = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let facts = Facts { store_time: Some(store), ..Facts::default() };
        assert_eq!(facts.skew_ms(store + Duration::from_secs(2)), Some(2000));
        assert_eq!(facts.skew_ms(store - Duration::from_secs(2)), Some(-2000));
        assert_eq!(Facts::default().skew_ms(store), None);
    }
}
