//! Opens the output: connects to the store, checks that it takes objects and that no other job
//! writes there, and lists the epochs that are there already.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::backoff::BackoffPolicy;
use crate::epoch::{self, AHEAD_MAX_MS, Clock, Epoch, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::outputs::{Layout, MARKER, MARKER_BYTES_MAX, Marker, Ownership};
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::stdout::StdoutStore;
use crate::store::{
    self, ConditionalPuts, Environment, Listing, Store, StoreErrorKind, StoreProbe, StoreResult,
    StoreSettings, Target, Versioning,
};

/// How long a store may be out of reach when a job starts.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// So many of the newest epochs are looked at for markers of others, so many at a time: a prefix
/// may hold any number of epochs that are named after a clock which ran ahead.
const MARKERS_MAX: usize = 16;
const MARKERS_AT_A_TIME: usize = 8;

/// An opened output. A local one is locked by process 0 for as long as this lives.
#[derive(Debug)]
pub(super) struct JobOutput {
    pub(super) store: Arc<dyn Store>,
    lock: Option<(Arc<PrefixLock>, String)>,
}

impl JobOutput {
    /// Opens the output as process 0.
    pub(super) fn open(target: &Target, settings: &StoreSettings) -> Result<JobOutput> {
        if *target == Target::Stdout {
            StdoutStore::check()?;
        }
        let mut output = JobOutput::connect(target, settings)?;
        if let Target::Local { root, prefix } = target {
            let (pid, now) = (std::process::id(), SystemClock::new().wall_ms());
            let note = format!("pid {pid} since {now}");
            let lock = LocalStore::open(root)?.lock_prefix(prefix, &note)?;
            output.lock = Some((Arc::new(lock), note));
        }
        Ok(output)
    }

    /// Releases the lock on a local output. Called when everything is committed.
    pub(super) fn release_lock(&self) {
        if let Some((lock, _)) = &self.lock {
            lock.release();
        }
    }

    /// Opens the output as another process. A local one must show what process 0 wrote there.
    pub(super) fn join(
        target: &Target,
        settings: &StoreSettings,
        lock_note: Option<&str>,
    ) -> Result<JobOutput> {
        let output = JobOutput::connect(target, settings)?;
        if let Target::Local { root, prefix } = target
            && LocalStore::open(root)?.lock_note(prefix)?.as_deref() != lock_note
        {
            let message = format!("{target} is not the directory that process 0 writes to");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give --to a directory that all processes share, or an object store"));
        }
        Ok(output)
    }

    fn connect(target: &Target, settings: &StoreSettings) -> Result<JobOutput> {
        let store = store::open(target, settings, &Environment::of_process())?;
        let store = store.unwrap_or_else(|| Arc::new(StdoutStore::new(MARKER)));
        Ok(JobOutput { store, lock: None })
    }

    /// Checks that the store takes objects, before anything is read that it would refuse.
    pub(super) async fn probe(&self, target: &Target) -> Result<()> {
        let (Target::Oss { prefix, .. } | Target::S3 { prefix, .. }) = target else {
            return Ok(());
        };
        let probe = StoreProbe::beside(prefix);
        patiently(|| probe.run(&*self.store)).await.map(drop)
    }

    /// Warns of a bucket with versioning, and of a store that ignores conditional requests.
    pub(super) async fn warn_of_limits(&self, target: &Target) {
        let facts = self.store.facts().await;
        if facts.conditional_puts == ConditionalPuts::Ignored {
            tracing::warn!(
                "{target} is in a store that does not refuse to create an object which exists: it \
                 cannot keep a second job from overwriting this one's objects; let no other job \
                 write below the prefix"
            );
        }
        if facts.versioning == Versioning::Enabled {
            tracing::warn!(
                "{target} is in a bucket with versioning: an object that is sent again after a \
                 fault leaves an old version, which is paid for; add a lifecycle rule that expires \
                 noncurrent versions"
            );
        }
    }

    /// Returns the right of this process to write to a local output, for which process 0 noted
    /// `note`.
    ///
    /// # Errors
    ///
    /// `Configuration` where the directory cannot be opened any more.
    pub(super) fn local_ownership(&self, target: &Target, note: Option<&str>) -> Result<Ownership> {
        Ok(match (target, &self.lock, note) {
            (Target::Local { .. }, Some((lock, _)), _) => Ownership::Locked(Arc::clone(lock)),
            (Target::Local { root, prefix }, None, Some(note)) => {
                let store = LocalStore::open(root)?;
                Ownership::LockedBy(store, prefix.clone(), note.to_owned())
            }
            _ => Ownership::Unshared,
        })
    }

    /// Returns the note in the lock of a local output.
    pub(super) fn lock_note(&self) -> Option<String> {
        self.lock.as_ref().map(|(_, note)| note.clone())
    }
}

/// Repeats `attempt` while the store is out of reach, for at most the patience of a start.
pub(super) async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let (clock, mut is_logged) = (SystemClock::new(), false);
    let mut backoff = BackoffPolicy::DEFAULT.start();
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if !error.is_transient() || clock.monotonic() > START_PATIENCE => {
                return Err(error.into());
            }
            Err(error) if !std::mem::replace(&mut is_logged, true) => {
                let patience = START_PATIENCE.as_secs();
                tracing::warn!("{error}; tried again for {patience} s before giving up");
            }
            Err(error) => tracing::debug!("tried again: {error}"),
        }
        tokio::time::sleep(backoff.next_pause()).await;
    }
}

/// A place in the output and time from which on epochs are of interest to a start.
#[derive(Clone, Copy, Debug)]
pub(super) struct NamedEpochs<'a> {
    pub(super) store: &'a dyn Store,
    pub(super) layout: &'a Layout,
    /// Older epochs are left alone: names follow the clock.
    pub(super) from: Epoch,
    /// Unix milliseconds by the job's clock.
    pub(super) wall_ms: u64,
    /// Length of an epoch.
    pub(super) interval_ms: u64,
}

impl NamedEpochs<'_> {
    /// Returns the newest epoch that has a directory, committed or not. New epochs begin after it,
    /// so nothing that stands there is ever written into.
    pub(super) async fn newest(&self) -> Result<Option<Epoch>> {
        let (epochs, ignored) = self.epochs().await?;
        if let Some(name) = ignored {
            tracing::warn!(
                "{name} is more than a day ahead of the clock or no time at all: it and others \
                 like it are ignored; see who made it, and this machine's clock"
            );
        }
        Ok(epochs.into_iter().max())
    }

    /// Returns the epochs that have a directory, and one name of those that are far from now.
    ///
    /// An epoch is at most a day ahead of the clock, or follows another one within one interval:
    /// runs that are started again within an interval take the names that follow.
    async fn epochs(&self) -> Result<(Vec<Epoch>, Option<String>)> {
        let NamedEpochs { store, layout, from, wall_ms, interval_ms } = *self;
        let prefix = layout.dir_prefix();
        let mut after = Some(layout.dir(from.saturating_sub(1)));
        let mut named = Vec::new();
        while let Some(name) = after {
            let ask = || store.list_dirs(Listing::new(&prefix).after(Some(&name)));
            let page = patiently(ask).await?;
            named.extend(page.items.iter().filter_map(|dir| layout.epoch_of(dir)));
            after = page.next;
        }
        named.retain(|epoch| *epoch >= from);
        named.sort_unstable();
        let mut now_ms = wall_ms;
        let mut is_far = |epoch: &Epoch| {
            let is_near = epoch::is_plausible(*epoch, now_ms);
            if is_near {
                let follows = epoch.saturating_add(interval_ms).saturating_sub(AHEAD_MAX_MS);
                now_ms = now_ms.max(follows);
            }
            !is_near
        };
        let far = named.iter().copied().position(|epoch| is_far(&epoch)).unwrap_or(named.len());
        let ignored = named.get(far).map(|epoch| format!("{}/", layout.dir(*epoch)));
        named.truncate(far);
        Ok((named, ignored))
    }

    /// Refuses to start after another job that has committed an epoch a short while ago and of
    /// which nothing else is known: it may be of a release, or on a store, without claims.
    ///
    /// `is_known` holds for the state ids of this job and of those whose end is known.
    pub(super) async fn refuse_foreign(
        &self,
        job: &str,
        is_known: impl Fn(&str) -> bool,
    ) -> Result<()> {
        let (mut epochs, _) = self.epochs().await?;
        epochs.sort_unstable_by(|a, b| b.cmp(a));
        let newest = epochs.into_iter().take(MARKERS_MAX).map(|epoch| self.layout.marker(epoch));
        let found: Vec<_> = stream::iter(newest)
            .map(async |key| Ok::<_, Error>((find_marker(self.store, &key).await?, key)))
            .buffered(MARKERS_AT_A_TIME)
            .try_collect()
            .await?;
        for (bytes, key) in found {
            let Some(bytes) = bytes else { continue };
            let is_own = Marker::parse(&bytes).is_some_and(|marker| {
                marker.job == job && marker.state.as_deref().is_none_or(&is_known)
            });
            if !is_own {
                return Err(recent(&key, &Marker::owner_of(&bytes)));
            }
        }
        Ok(())
    }
}

fn recent(key: &str, owner: &str) -> Error {
    let message = format!("{key} was committed by another job a short while ago: {owner}");
    Error::new(ErrorKind::Configuration, message)
        .hint("give --to a prefix of its own, or --take-over if that job has ended for good")
}

/// Returns the bytes of the marker under `key`, if there is one.
pub(super) async fn find_marker(store: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    patiently(|| async {
        match store.get(key, MARKER_BYTES_MAX).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    })
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Body;
    use crate::store::memory::MemoryStore;

    const FIRST: Epoch = 1_795_345_210_000;

    async fn commit(store: &MemoryStore, layout: &Layout, epoch: Epoch, job: &str, state: &str) {
        let (program, job, state) = ("wordtide".to_owned(), job.to_owned(), Some(state.to_owned()));
        let marker = Marker { program, job, state, epoch, ..Marker::default() };
        store.put(&layout.marker(epoch), Body::from(marker.to_bytes())).await.unwrap();
    }

    fn since<'a>(store: &'a MemoryStore, layout: &'a Layout, from: Epoch) -> NamedEpochs<'a> {
        NamedEpochs { store, layout, from, wall_ms: FIRST + 30_000, interval_ms: 10_000 }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn recent_marker_of_another_job_stops_start() {
        let (store, layout) = (MemoryStore::new(), Layout::new("a/counts", Some("txt".into())));
        commit(&store, &layout, FIRST, "theirs", "x").await;
        commit(&store, &layout, FIRST + 10_000, "ours", "y").await;
        store.put(&layout.part(FIRST + 20_000, 0), "('x', 1)\n".into()).await.unwrap();
        let check =
            async |from| since(&store, &layout, from).refuse_foreign("ours", |id| id == "y").await;
        check(FIRST + 10_000).await.unwrap();
        let error = check(FIRST).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        for said in [layout.marker(FIRST).as_str(), "job theirs with state x", "--take-over"] {
            assert!(text.contains(said), "{text}");
        }
        commit(&store, &layout, FIRST + 10_000, "ours", "z").await;
        check(FIRST + 10_000).await.expect_err("a job with the same flags is another one, too");
        store.put(&layout.marker(FIRST + 20_000), Body::from_chunks([])).await.unwrap();
        check(FIRST + 20_000).await.expect_err("Spark's empty marker is another's too");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_future_costs_bounded_number_of_requests() {
        let (store, layout) = (MemoryStore::new(), Layout::new("counts", None));
        for epoch in FIRST..FIRST + 100 {
            commit(&store, &layout, epoch, "ours", "y").await;
        }
        let before = store.log().len();
        since(&store, &layout, FIRST).refuse_foreign("ours", |_| true).await.unwrap();
        let asked = store.log().len() - before;
        assert_eq!(asked, 1 + MARKERS_MAX, "one listing and the newest markers");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn names_far_from_now_are_ignored() {
        let (store, layout) = (MemoryStore::new(), Layout::new("counts", None));
        for epoch in [9_300_000_000_000_000_000, 18_446_744_073_709_540_000, 4_102_444_800_000] {
            store.put(&layout.part(epoch, 0), "".into()).await.unwrap();
        }
        assert_eq!(since(&store, &layout, FIRST).newest().await.unwrap(), None);
        store.put(&layout.part(FIRST + 70_000, 0), "".into()).await.unwrap();
        assert_eq!(since(&store, &layout, FIRST).newest().await.unwrap(), Some(FIRST + 70_000));
    }
}
