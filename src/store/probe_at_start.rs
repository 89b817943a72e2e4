//! Tests, before the first epoch, if a store can be written to and read from.

use std::hash::{BuildHasher, RandomState};
use std::time::{Duration, SystemTime};

use bytes::Bytes;

use super::{Body, Listing, Outcome, Store, StoreError, StoreErrorKind, StoreResult};

/// The properties of a store that `wordtide check` shows. None of them is secret.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct StoreFacts {
    /// Scheme and host.
    pub endpoint: Option<String>,
    /// The region in signatures.
    pub region: Option<String>,
    /// How requests name the bucket.
    pub addressing: Option<&'static str>,
    /// The version of signatures.
    pub signature: Option<&'static str>,
    /// The source of the keys.
    pub credentials: Option<&'static str>,
    /// The store's clock, to a second, computed from its last answer.
    pub store_time: Option<SystemTime>,
    /// The versioning of the bucket.
    pub versioning: Versioning,
    /// The store's answer to the creation of an object that exists.
    pub conditional_puts: ConditionalPuts,
}

impl StoreFacts {
    /// Returns the milliseconds by which this machine's clock, which shows `now`, is ahead of the
    /// store's. Stores refuse requests if the difference is above 15 minutes.
    pub fn skew_ms(&self, now: SystemTime) -> Option<i64> {
        let store = self.store_time?;
        let ms = |span: Duration| i64::try_from(span.as_millis()).unwrap_or(i64::MAX);
        Some(match now.duration_since(store) {
            Ok(ahead) => ms(ahead),
            Err(lagging) => -ms(lagging.duration()),
        })
    }
}

/// The versioning of a bucket, which keeps old versions of objects.
///
/// With versioning, OSS ignores the condition that an object must not exist, and every retry leaves
/// a version that costs money.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Versioning {
    /// Old versions are not kept.
    Off,
    /// Old versions are kept.
    Enabled,
    /// Old versions were kept until now and remain.
    Suspended,
    /// The credentials may not ask, or this kind of store has no versions.
    #[default]
    Unknown,
}

/// A store's answer to a request that creates an object that exists.
///
/// OSS takes `x-oss-forbid-overwrite`, S3 takes `If-None-Match: *`. Not every compatible store
/// knows them, and OSS itself ignores its header in a bucket with versioning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ConditionalPuts {
    /// The request is refused and the object stays as it is.
    Honoured,
    /// The object is replaced, or the store does not support such requests.
    Ignored,
    /// Not probed yet.
    #[default]
    Unknown,
}

/// The longest time for removing an object after a failed probe.
const CLEANUP_TIMEOUT: Duration = Duration::from_secs(2);

/// A test object in `_wordtide/`, which readers of results ignore.
#[derive(Clone, Debug)]
pub struct StoreProbe {
    /// The key of the object that is written.
    key: String,
    /// Its content, which is read back.
    text: String,
}

impl StoreProbe {
    /// Returns a probe beside the epochs of `prefix`, under a name that no other process uses.
    pub fn beside(prefix: &str) -> StoreProbe {
        let beside = &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)];
        let nonce = RandomState::new().hash_one(std::process::id());
        StoreProbe {
            key: format!("{beside}_wordtide/probe-{nonce:016x}"),
            text: format!("wordtide probe {nonce:016x}"),
        }
    }

    /// Creates the object, tries to create it again with different bytes, lists it, reads it and
    /// deletes it. Returns the store's answer to the second creation.
    ///
    /// An operation that fails here would fail at the first epoch. The probe can be run again after
    /// a failure. A run that succeeds leaves nothing in the store.
    ///
    /// # Errors
    /// The errors of the store, and `Denied` if it returns other bytes than it stored.
    pub async fn run(&self, store: &dyn Store) -> StoreResult<ConditionalPuts> {
        let StoreProbe { key, text } = self;
        // Both have the same length, so that a comparison of lengths alone is not enough.
        let [first, second] = ["first ", "second"].map(|try_| format!("{text} {try_}\n"));
        let bytes_max = first.len() as u64;
        let created =
            store.probe_put_new(key, Body::from(first.clone()), Body::from(second.clone())).await;
        let conditional_puts = match created {
            Ok(conditional_puts) => conditional_puts,
            Err(error) => {
                if error.outcome == Outcome::Indeterminate {
                    // The object may exist. The result is ignored, because the caller gets the
                    // first error; the time is short, because the store is probably out of reach.
                    let _ = tokio::time::timeout(CLEANUP_TIMEOUT, store.delete(key)).await;
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
            // The object is longer than the one that was stored.
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
    async fn probe_leaves_nothing() {
        let store = MemoryStore::new();
        let found = StoreProbe::beside("a/b/counts").run(&store).await.unwrap();
        assert_eq!(found, ConditionalPuts::Honoured);
        assert!(store.objects().is_empty());
        let log = store.log();
        let kinds: Vec<_> = log.iter().map(|op| op.kind).collect();
        use OpKind::{Delete, Get, List, PutNew};
        assert_eq!(kinds, [PutNew, PutNew, List, Get, Delete]);
        assert!(log.iter().all(|op| op.key.starts_with("a/b/_wordtide/probe-")));
    }

    #[tokio::test(flavor = "current_thread")]
    async fn refused_operations_fail_the_probe() {
        for kind in [OpKind::PutNew, OpKind::List, OpKind::Get, OpKind::Delete] {
            let store = MemoryStore::new();
            let fault = Fault::Refused(StoreErrorKind::Denied);
            store.fail_next(1, fault, move |op| op.kind == kind);
            let error = StoreProbe::beside("").run(&store).await.unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::Denied, "{kind:?}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn probe_with_lost_answer_leaves_nothing() {
        let store = MemoryStore::new();
        let lost = Fault::AnswerLost(StoreErrorKind::Unavailable);
        store.fail_next(1, lost, |op| op.kind == OpKind::PutNew);
        StoreProbe::beside("").run(&store).await.unwrap_err();
        assert!(store.objects().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn repeated_probe_removes_the_first_object() {
        let store = MemoryStore::new();
        store.fail_next(1, Fault::Refused(StoreErrorKind::Unavailable), |op| {
            op.kind == OpKind::Delete
        });
        let probe = StoreProbe::beside("");
        probe.run(&store).await.unwrap_err();
        assert_eq!(store.objects().len(), 1);
        probe.run(&store).await.unwrap();
        assert!(store.objects().is_empty());
    }

    #[test]
    fn skew_has_a_sign() {
        let store = SystemTime::UNIX_EPOCH + Duration::from_secs(100);
        let facts = StoreFacts { store_time: Some(store), ..StoreFacts::default() };
        assert_eq!(facts.skew_ms(store + Duration::from_secs(2)), Some(2000));
        assert_eq!(facts.skew_ms(store - Duration::from_secs(2)), Some(-2000));
        assert_eq!(StoreFacts::default().skew_ms(store), None);
    }
}
