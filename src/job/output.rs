//! Opening the output: the store, whether it takes objects, who else writes there, and what stands
//! there already.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt, TryStreamExt};

use crate::epoch::{Clock, Epoch, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Layout, MARKER, Marker};
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::stdout::StdoutStore;
use crate::store::{
    self, ConditionalPuts, Environment, Listing, Probe, Store, StoreErrorKind, StoreResult,
    StoreSettings, Target, Versioning,
};

/// How long a store may be out of reach when a job starts.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// First pause between two tries at the start; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A marker of another program may be of any length; ours are shorter.
const MARKER_BYTES_MAX: u64 = 64 << 20;
/// So many of the newest epochs are looked at for markers of others, so many at a time: a prefix
/// may hold any number of epochs that are named after a clock which ran ahead.
const MARKERS_MAX: usize = 16;
const MARKERS_AT_A_TIME: usize = 8;

/// An opened output. A local one is locked by process 0 for as long as this lives.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) store: Arc<dyn Store>,
    lock: Option<(PrefixLock, String)>,
}

impl Output {
    /// Opens the output as process 0.
    pub(super) fn open(target: &Target, settings: &StoreSettings) -> Result<Output> {
        if *target == Target::Stdout {
            StdoutStore::check()?;
        }
        let mut output = Output::connect(target, settings)?;
        if let Target::Local { root, prefix } = target {
            let (pid, now) = (std::process::id(), SystemClock::new().wall_ms());
            let note = format!("pid {pid} since {now}");
            output.lock = Some((LocalStore::open(root)?.lock_prefix(prefix, &note)?, note));
        }
        Ok(output)
    }

    /// Opens the output as another process. A local one must show what process 0 wrote there.
    pub(super) fn join(
        target: &Target,
        settings: &StoreSettings,
        lock_note: Option<&str>,
    ) -> Result<Output> {
        let output = Output::connect(target, settings)?;
        if let Target::Local { root, prefix } = target
            && LocalStore::open(root)?.lock_note(prefix)?.as_deref() != lock_note
        {
            let message = format!("{target} is not the directory that process 0 writes to");
            return Err(Error::new(ErrorKind::Configuration, message)
                .hint("give --to a directory that all processes share, or an object store"));
        }
        Ok(output)
    }

    fn connect(target: &Target, settings: &StoreSettings) -> Result<Output> {
        let store = store::open(target, settings, &Environment::of_process())?;
        let store = store.unwrap_or_else(|| Arc::new(StdoutStore::new(MARKER)));
        Ok(Output { store, lock: None })
    }

    /// Makes sure that the store takes objects, before anything is read that it would refuse.
    pub(super) async fn probe(&self, target: &Target) -> Result<()> {
        let (Target::Oss { prefix, .. } | Target::S3 { prefix, .. }) = target else {
            return Ok(());
        };
        let probe = Probe::beside(prefix);
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

    /// What the lock of a local output says.
    pub(super) fn lock_note(&self) -> Option<String> {
        self.lock.as_ref().map(|(_, note)| note.clone())
    }
}

/// Tries again while the store is merely out of reach, but at a start not for ever.
pub(super) async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let (clock, mut pause, mut told) = (SystemClock::new(), PAUSE_MIN, false);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if !error.is_transient() || clock.monotonic() > START_PATIENCE => {
                return Err(error.into());
            }
            Err(error) if !std::mem::replace(&mut told, true) => {
                let patience = START_PATIENCE.as_secs();
                tracing::warn!("{error}; tried again for {patience} s before giving up");
            }
            Err(error) => tracing::debug!("tried again: {error}"),
        }
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(PAUSE_MAX);
    }
}

/// The newest epoch from `from` on that has a directory, committed or not. New epochs begin behind
/// it, so nothing that stands there is ever written into. Older ones are of no interest: names
/// follow the clock.
pub(super) async fn newest_from(
    store: &dyn Store,
    layout: &Layout,
    from: Epoch,
) -> Result<Option<Epoch>> {
    Ok(epochs_from(store, layout, from).await?.into_iter().max())
}

/// The epochs from `from` on that have a directory.
async fn epochs_from(store: &dyn Store, layout: &Layout, from: Epoch) -> Result<Vec<Epoch>> {
    let prefix = layout.dir_prefix();
    let mut after = Some(layout.dir(from - 1));
    let mut epochs = Vec::new();
    while let Some(name) = after {
        let page = patiently(|| store.list_dirs(Listing::new(&prefix).after(Some(&name)))).await?;
        epochs.extend(page.items.iter().filter_map(|dir| layout.epoch_of(dir)));
        after = page.next;
    }
    epochs.retain(|epoch| *epoch >= from);
    Ok(epochs)
}

/// Refuses to start beside another job that seems to run on the same prefix: one that has committed
/// an epoch from `from` on. Object stores have no locks, so its markers are all there is to see.
pub(super) async fn refuse_foreign(
    store: &dyn Store,
    layout: &Layout,
    from: Epoch,
    job: &str,
) -> Result<()> {
    let mut epochs = epochs_from(store, layout, from).await?;
    epochs.sort_unstable_by(|a, b| b.cmp(a));
    let newest = epochs.into_iter().take(MARKERS_MAX).map(|epoch| layout.marker(epoch));
    stream::iter(newest)
        .map(async |key| Ok(is_foreign(store, &key, job).await?.then_some(key)))
        .buffered(MARKERS_AT_A_TIME)
        .try_for_each(async |foreign| match foreign {
            None => Ok(()),
            Some(key) => {
                let message = format!("{key} was committed by another job a short while ago");
                Err(Error::new(ErrorKind::Configuration, message).hint(
                    "give --to a prefix of its own, or --take-over if that job has ended for good",
                ))
            }
        })
        .await
}

/// The bytes of the marker under `key`, if there is one.
pub(super) async fn find_marker(store: &dyn Store, key: &str) -> Result<Option<Bytes>> {
    patiently(|| async {
        match store.get(key, MARKER_BYTES_MAX).await {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            found => found.map(Some),
        }
    })
    .await
}

/// Whether there is a marker under `key` that `job` did not write.
async fn is_foreign(store: &dyn Store, key: &str, job: &str) -> Result<bool> {
    let marker = find_marker(store, key).await?;
    Ok(marker.is_some_and(|bytes| Marker::parse(&bytes).is_none_or(|marker| marker.job != job)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::Body;
    use crate::store::memory::MemoryStore;

    async fn commit(store: &MemoryStore, layout: &Layout, epoch: Epoch, job: &str) {
        let (program, job) = ("wordtide".to_owned(), job.to_owned());
        let marker = Marker { program, job, epoch, lines: 0, words: 0, rows: 0, parts: Vec::new() };
        store.put(&layout.marker(epoch), Body::from(marker.to_bytes())).await.unwrap();
    }

    #[tokio::test(flavor = "current_thread")]
    async fn only_a_recent_marker_of_another_job_stops_the_start() {
        let (store, layout) = (MemoryStore::new(), Layout::new("a/counts", Some("txt".into())));
        commit(&store, &layout, 1_795_345_210_000, "theirs").await;
        commit(&store, &layout, 1_795_345_220_000, "ours").await;
        store.put(&layout.part(1_795_345_230_000, 0), "('x', 1)\n".into()).await.unwrap();
        let check = async |from| refuse_foreign(&store, &layout, from, "ours").await;
        check(1_795_345_220_000).await.unwrap();
        let error = check(1_795_345_210_000).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let text = error.to_string();
        assert!(
            text.contains(&layout.marker(1_795_345_210_000)) && text.contains("--take-over"),
            "{text}"
        );
        store.put(&layout.marker(1_795_345_230_000), Body::from_chunks([])).await.unwrap();
        check(1_795_345_220_000).await.expect_err("Spark's empty marker is another's too");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_long_future_costs_a_bounded_number_of_requests() {
        let (store, layout) = (MemoryStore::new(), Layout::new("counts", None));
        for epoch in 1_795_345_210_000..1_795_345_210_100 {
            commit(&store, &layout, epoch, "ours").await;
        }
        let before = store.log().len();
        refuse_foreign(&store, &layout, 1_795_345_210_000, "ours").await.unwrap();
        let asked = store.log().len() - before;
        assert_eq!(asked, 1 + MARKERS_MAX, "one listing and the newest markers");
    }
}
