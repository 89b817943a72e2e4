//! A store in memory, with faults by script: for tests of what stands above a store.
//!
//! A fault has two dials, after Materialize's `unreliable`: did the operation *happen*, and was its
//! success *reported*. All four combinations occur in real life; a lost acknowledgement is
//! "happened, not reported". Delays are [gates](MemoryStore::close_gate) that the test opens,
//! never times. Every operation is logged in order.

// Included by the unit tests of the crate, too: neither side uses all of it.
#![allow(dead_code, unreachable_pub)]

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::ops::Bound;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::watch;

use wordtide::internals::store::{
    Body, Listing, ObjectEntry, Page, Store, StoreError, StoreErrorKind, StoreResult, Stored,
};

/// The log forgets its oldest operations beyond so many.
const LOG_MAX: usize = 1 << 20;

/// The operation of [`Store`] that was called.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// `put`.
    Put,
    /// `put_new`.
    PutNew,
    /// `get`.
    Get,
    /// `list` and `list_dirs`.
    List,
    /// `delete`.
    Delete,
    /// `clear`.
    Clear,
    /// `seal`.
    Seal,
}

/// One operation, as the log keeps it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Op {
    /// The kind of the operation.
    pub kind: OpKind,
    /// The key, directory or prefix it was called with.
    pub key: String,
    /// Length of what was to be stored, else 0.
    pub bytes: u64,
    /// The effect of the script on it.
    pub fault: Option<Fault>,
}

/// The effect of a script on one operation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It does not happen and reports this kind.
    Refused(StoreErrorKind),
    /// It happens, and reports this kind all the same: the answer was lost.
    AnswerLost(StoreErrorKind),
    /// It does not happen, and the caller cannot know: the request was lost.
    RequestLost(StoreErrorKind),
}

type Script = Box<dyn FnMut(&Op) -> Option<Fault> + Send>;

struct Inner {
    objects: BTreeMap<String, Body>,
    log: VecDeque<Op>,
    script: Option<Script>,
    outage: bool,
}

/// Objects in memory. Clones share them.
#[derive(Clone)]
pub struct MemoryStore {
    inner: Arc<Mutex<Inner>>,
    /// The operations that wait: `true` is a closed gate.
    gate: watch::Sender<Option<OpKind>>,
    /// How many operations have begun, and of these wait at the gate.
    begun: watch::Sender<(u64, u64)>,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore::new()
    }
}

impl MemoryStore {
    /// An empty store without faults.
    pub fn new() -> Self {
        MemoryStore {
            inner: Arc::new(Mutex::new(Inner {
                objects: BTreeMap::new(),
                log: VecDeque::new(),
                script: None,
                outage: false,
            })),
            gate: watch::Sender::new(None),
            begun: watch::Sender::new((0, 0)),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // No invariant spans two statements, so a panicking test thread leaves nothing broken.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets `script` decide each operation's fault from now on.
    pub fn script(&self, script: impl FnMut(&Op) -> Option<Fault> + Send + 'static) {
        self.lock().script = Some(Box::new(script));
    }

    /// Lets the next `count` operations that `which` is true of meet `fault`, and all others pass.
    pub fn fail_next(
        &self,
        mut count: u64,
        fault: Fault,
        which: impl Fn(&Op) -> bool + Send + 'static,
    ) {
        self.script(move |op| {
            let hit = count > 0 && which(op);
            count -= u64::from(hit);
            hit.then_some(fault)
        });
    }

    /// Seeded faults in `per_mille` of all operations, of all three sorts; the same seed gives the
    /// same faults for the same order of calls.
    pub fn fail_at_random(&self, seed: u64, per_mille: u64) {
        let mut state = seed;
        self.script(move |_| {
            let kind = StoreErrorKind::Unavailable;
            (random(&mut state) % 1000 < per_mille).then(|| match random(&mut state) % 3 {
                0 => Fault::Refused(kind),
                1 => Fault::AnswerLost(kind),
                _ => Fault::RequestLost(kind),
            })
        });
    }

    /// Takes the store away, or brings it back: in an outage no operation happens.
    pub fn outage(&self, away: bool) {
        self.lock().outage = away;
    }

    /// Makes operations of this kind wait, before they happen, until [`MemoryStore::open_gate`].
    pub fn close_gate(&self, kind: OpKind) {
        self.gate.send_replace(Some(kind));
    }

    /// Lets all that waits at the gate pass.
    pub fn open_gate(&self) {
        self.gate.send_replace(None);
    }

    /// Waits until `count` operations wait at the gate.
    pub async fn waiting(&self, count: u64) {
        let mut begun = self.begun.subscribe();
        // The sender lives in `self`, so waiting cannot fail.
        begun.wait_for(|&(_, held)| held >= count).await.ok();
    }

    /// Waits until `count` operations have begun since the store was made.
    pub async fn begun(&self, count: u64) {
        let mut begun = self.begun.subscribe();
        begun.wait_for(|&(begun, _)| begun >= count).await.ok();
    }

    /// All objects, by key.
    pub fn objects(&self) -> BTreeMap<String, Vec<u8>> {
        let inner = self.lock();
        let joined = |body: &Body| body.load().unwrap_or_default().concat();
        inner.objects.iter().map(|(key, body)| (key.clone(), joined(body))).collect()
    }

    /// Every operation that got past the gate, in order.
    pub fn log(&self) -> Vec<Op> {
        self.lock().log.iter().cloned().collect()
    }

    async fn operate<T>(
        &self,
        kind: OpKind,
        key: &str,
        bytes: u64,
        happen: impl FnOnce(&mut Inner) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.begun.send_modify(|(begun, _)| *begun += 1);
        self.pass_gate(kind).await;
        let mut inner = self.lock();
        let op = Op { kind, key: key.to_owned(), bytes, fault: None };
        let scripted = inner.script.as_mut().and_then(|script| script(&op));
        let fault = match inner.outage {
            true => Some(Fault::Refused(StoreErrorKind::Unavailable)),
            false => scripted,
        };
        inner.log.push_back(Op { fault, ..op });
        if inner.log.len() > LOG_MAX {
            inner.log.pop_front();
        }
        let told = |kind_of_error| {
            StoreError::new(kind_of_error, format!("scripted fault in {kind:?} of {key}"))
        };
        match fault {
            None => happen(&mut inner),
            Some(Fault::Refused(kind)) => Err(told(kind)),
            Some(Fault::RequestLost(kind)) => Err(told(kind).indeterminate()),
            Some(Fault::AnswerLost(kind)) => {
                happen(&mut inner)?;
                Err(told(kind).indeterminate())
            }
        }
    }

    async fn pass_gate(&self, kind: OpKind) {
        let mut gate = self.gate.subscribe();
        if *gate.borrow() != Some(kind) {
            return;
        }
        /// Counts one waiting operation for as long as it waits, its future dropped or not.
        struct Held<'a>(&'a watch::Sender<(u64, u64)>);
        impl Drop for Held<'_> {
            fn drop(&mut self) {
                self.0.send_modify(|(_, held)| *held -= 1);
            }
        }
        self.begun.send_modify(|(_, held)| *held += 1);
        let _held = Held(&self.begun);
        gate.wait_for(|closed| *closed != Some(kind)).await.ok();
    }
}

/// SplitMix64, so that a seed is enough to repeat a test.
fn random(state: &mut u64) -> u64 {
    *state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let mut z = *state;
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("objects", &self.lock().objects.len())
            .finish_non_exhaustive()
    }
}

fn stored(body: &Body) -> Stored {
    Stored { bytes: body.bytes(), md5: body.md5_hex(), etag: None }
}

fn invalid(message: String) -> StoreError {
    StoreError::new(StoreErrorKind::Invalid, message)
}

/// Refuses keys that could leave the root of a store.
fn check_key(key: &str) -> StoreResult<()> {
    let is_segment = |name: &str| !matches!(name, "" | "." | "..") && !name.contains('\0');
    if key.split('/').all(is_segment) { Ok(()) } else { Err(invalid(format!("key {key:?}"))) }
}

fn not_found(key: &str) -> StoreError {
    StoreError::new(StoreErrorKind::NotFound, format!("no object {key} in memory"))
}

impl Inner {
    fn from<'a>(&'a self, ask: &Listing<'a>) -> impl Iterator<Item = (&'a String, &'a Body)> {
        let start = match ask.after {
            Some(after) if after >= ask.prefix => Bound::Excluded(after),
            _ => Bound::Included(ask.prefix),
        };
        let prefix = ask.prefix;
        self.objects
            .range::<str, _>((start, Bound::Unbounded))
            .take_while(move |(key, _)| key.starts_with(prefix))
    }

    fn list(&self, ask: &Listing<'_>) -> Page<ObjectEntry> {
        let found = self.from(ask).map(|(key, body)| ObjectEntry {
            key: key.clone(),
            bytes: body.bytes(),
            modified: None,
            etag: None,
        });
        page(found, ask.limit, |entry| entry.key.clone())
    }

    fn list_dirs(&self, ask: &Listing<'_>) -> Page<String> {
        let known = ask.prefix.rfind('/').map_or(0, |at| at + 1);
        let mut last = ask.after.unwrap_or_default().to_owned();
        let found = self.from(ask).filter_map(move |(key, _)| {
            let end = known + key[known..].find('/')? + 1;
            let dir = &key[..end];
            (dir > last.as_str()).then(|| {
                last = dir.to_owned();
                last.clone()
            })
        });
        page(found, ask.limit, String::clone)
    }
}

fn page<T>(
    mut found: impl Iterator<Item = T>,
    limit: usize,
    name: impl Fn(&T) -> String,
) -> Page<T> {
    let items: Vec<T> = found.by_ref().take(limit.max(1)).collect();
    let next = found.next().and(items.last().map(name));
    Page { items, next }
}

impl Store for MemoryStore {
    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move {
            check_key(key)?;
            self.operate(OpKind::Put, key, body.bytes(), |inner| {
                inner.objects.insert(key.to_owned(), body.clone());
                Ok(stored(&body))
            })
            .await
        }
        .boxed()
    }

    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        async move {
            check_key(key)?;
            self.operate(OpKind::PutNew, key, body.bytes(), |inner| {
                match inner.objects.get(key) {
                    Some(old) if old.md5() != body.md5() => {
                        let told = format!("{key} already stands there with other content");
                        return Err(StoreError::new(StoreErrorKind::Exists, told));
                    }
                    Some(_) => {}
                    None => {
                        inner.objects.insert(key.to_owned(), body.clone());
                    }
                }
                Ok(stored(&body))
            })
            .await
        }
        .boxed()
    }

    fn get<'a>(&'a self, key: &'a str, bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>> {
        self.operate(OpKind::Get, key, 0, move |inner| {
            let body = inner.objects.get(key).ok_or_else(|| not_found(key))?;
            if body.bytes() > bytes_max {
                let told = format!("{key} is longer than the {bytes_max} bytes asked for");
                return Err(invalid(told));
            }
            let read = |error| invalid(format!("cannot read {key}: {error}"));
            Ok(body.load().map_err(read)?.concat().into())
        })
        .boxed()
    }

    fn list<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<ObjectEntry>>> {
        self.operate(OpKind::List, ask.prefix, 0, move |inner| Ok(inner.list(&ask))).boxed()
    }

    fn list_dirs<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>> {
        self.operate(OpKind::List, ask.prefix, 0, move |inner| Ok(inner.list_dirs(&ask))).boxed()
    }

    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.operate(OpKind::Delete, key, 0, move |inner| {
            inner.objects.remove(key);
            Ok(())
        })
        .boxed()
    }

    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>> {
        self.operate(OpKind::Clear, dir, 0, move |inner| {
            let inside = format!("{}/", dir.trim_end_matches('/'));
            let before = inner.objects.len();
            inner.objects.retain(|key, _| !key.starts_with(&inside));
            Ok((before - inner.objects.len()) as u64)
        })
        .boxed()
    }

    fn seal<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        self.operate(OpKind::Seal, dir, 0, |_| Ok(())).boxed()
    }

    fn describe(&self) -> String {
        "memory".to_owned()
    }
}
#[cfg(test)]
mod tests {
    use wordtide::internals::store::Outcome;

    use super::*;

    #[tokio::test(flavor = "current_thread")]
    async fn happened_and_reported_are_two_dials() {
        let store = MemoryStore::new();
        let kind = StoreErrorKind::Unavailable;
        for (fault, outcome, happened) in [
            (Fault::Refused(kind), Outcome::Determinate, false),
            (Fault::RequestLost(kind), Outcome::Indeterminate, false),
            (Fault::AnswerLost(kind), Outcome::Indeterminate, true),
        ] {
            store.fail_next(1, fault, |op| op.kind == OpKind::PutNew);
            store.delete("k").await.unwrap();
            let error = store.put_new("k", "v".into()).await.unwrap_err();
            assert_eq!(error.outcome, outcome, "{fault:?}");
            assert_eq!(store.objects().contains_key("k"), happened, "{fault:?}");
            store.put_new("k", "v".into()).await.unwrap();
        }
        let put_new = store.log();
        let faults: Vec<_> = put_new.iter().filter_map(|op| op.fault).collect();
        assert_eq!(faults.len(), 3);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn gate_holds_one_operation_until_opened() {
        let store = MemoryStore::new();
        store.close_gate(OpKind::Put);
        let writer = store.clone();
        let put = tokio::spawn(async move { writer.put("k", "v".into()).await });
        store.waiting(1).await;
        assert!(!put.is_finished() && store.objects().is_empty());
        store.open_gate();
        put.await.unwrap().unwrap();
        let kinds: Vec<_> = store.log().iter().map(|op| op.kind).collect();
        assert_eq!(kinds, [OpKind::Put]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn nothing_happens_in_an_outage() {
        let store = MemoryStore::new();
        store.outage(true);
        let error = store.put("k", "v".into()).await.unwrap_err();
        assert!(error.is_transient());
        store.outage(false);
        assert!(store.objects().is_empty());
    }

    #[tokio::test(flavor = "current_thread")]
    async fn random_faults_repeat_with_their_seed() {
        let run = async |seed| {
            let store = MemoryStore::new();
            store.fail_at_random(seed, 300);
            for n in 0..200 {
                let key = format!("k{n}");
                store.put(&key, key.clone().into()).await.ok();
            }
            let log: Vec<_> = store.log().iter().map(|op| op.fault).collect();
            log
        };
        let first = run(7).await;
        assert_eq!(first, run(7).await);
        assert_ne!(first, run(8).await);
        let faults = first.iter().flatten().count();
        assert!((30..90).contains(&faults), "{faults}");
    }
}
