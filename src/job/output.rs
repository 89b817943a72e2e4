//! Opening the output: the store, whether it takes objects, who else writes there, and what stands
//! there already.

use std::sync::Arc;
use std::time::Duration;

use futures::future::BoxFuture;

use crate::epoch::{Clock, Epoch, SystemClock};
use crate::error::{Error, ErrorKind, Result};
use crate::sink::{Layout, MARKER, Marker};
use crate::store::local::{LocalStore, PrefixLock};
use crate::store::stdout::StdoutStore;
use crate::store::{self, Environment, Listing, Store, StoreResult, StoreSettings, Target, probe};

/// How long a store may be out of reach when a job starts.
const START_PATIENCE: Duration = Duration::from_secs(30);
/// First pause between two tries at the start; it doubles.
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// A marker of another program may be of any length; ours are shorter.
const MARKER_BYTES_MAX: u64 = 16 << 20;

/// An opened output. A local one is locked by process 0 for as long as this lives.
#[derive(Debug)]
pub(super) struct Output {
    pub(super) store: Arc<dyn Store>,
    stdout: Option<StdoutStore>,
    lock: Option<(PrefixLock, String)>,
}

impl Output {
    /// Opens the output as process 0.
    pub(super) fn open(target: &Target, settings: &StoreSettings) -> Result<Output> {
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
        match store::open(target, settings, &Environment::of_process())? {
            Some(store) => Ok(Output { store, stdout: None, lock: None }),
            None => {
                let stdout = StdoutStore::new(MARKER);
                Ok(Output { store: Arc::new(stdout.clone()), stdout: Some(stdout), lock: None })
            }
        }
    }

    /// Makes sure that the store takes objects, before anything is read that it would refuse.
    pub(super) async fn probe(&self, target: &Target) -> Result<()> {
        match target {
            Target::Oss { prefix, .. } | Target::S3 { prefix, .. } => {
                patiently(|| probe(&*self.store, prefix)).await
            }
            _ => Ok(()),
        }
    }

    /// Resolves once whoever reads the output has gone; `None` for an output that nobody can leave.
    pub(super) fn reader_gone(&self) -> Option<BoxFuture<'static, ()>> {
        self.stdout.as_ref().map(StdoutStore::closed)
    }

    /// What the lock of a local output says.
    pub(super) fn lock_note(&self) -> Option<String> {
        self.lock.as_ref().map(|(_, note)| note.clone())
    }
}

/// Tries again while the store is merely out of reach, but at a start not for ever.
async fn patiently<T, F>(attempt: impl Fn() -> F) -> Result<T>
where
    F: Future<Output = StoreResult<T>>,
{
    let (clock, mut pause) = (SystemClock::new(), PAUSE_MIN);
    loop {
        match attempt().await {
            Ok(done) => return Ok(done),
            Err(error) if !error.is_transient() || clock.monotonic() > START_PATIENCE => {
                return Err(error.into());
            }
            Err(error) => tracing::debug!("the store is tried again: {error}"),
        }
        tokio::time::sleep(pause).await;
        pause *= 2;
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
    for epoch in epochs_from(store, layout, from).await? {
        let key = layout.marker(epoch);
        if patiently(|| store.head(&key)).await?.is_none() {
            continue;
        }
        let bytes = patiently(|| store.get(&key, MARKER_BYTES_MAX)).await?;
        if Marker::parse(&bytes).is_none_or(|marker| marker.job != job) {
            let message = format!("{key} was committed by another job a short while ago");
            return Err(Error::new(ErrorKind::Configuration, message).hint(
                "give --to a prefix of its own, or --take-over if that job has ended for good",
            ));
        }
    }
    Ok(())
}
