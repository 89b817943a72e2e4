//! Stores the objects of a job: under which names, in which format, as whose.
//!
//! A closed epoch stays in memory or on the local disk until it is stored, for as long as the store
//! is out of reach, because its operator holds the capability of the epoch.
//! [`retry`](crate::outputs::retry) repeats the requests.

use std::sync::Arc;

use tokio::runtime::Handle;

use super::format::Format;
use super::layout::Layout;
use super::marker_content::{MARKER_BYTES_MAX, Marker};
use super::ownership::Ownership;
use crate::crash::crash_point;
use crate::epoch::Epoch;
use crate::error::Error;
use crate::lines::BlockPool;
use crate::outputs::commit_log::{Attempt, CommitLog};
use crate::outputs::retry::Retrier;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::store::{Body, Results, Store, StoreError, StoreErrorKind, StoreResult, Stored};

/// The settings by which the rows of a job become objects.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The names of objects.
    pub layout: Layout,
    /// The format of a row.
    pub format: Format,
    /// The order of rows within a part.
    pub order: RowOrder,
    /// The objects of an epoch without rows.
    pub empty_epochs: EmptyEpochs,
    /// Hash of the job's identity, for the marker.
    pub job: String,
    /// The job's state id, for the marker.
    pub state: String,
    /// Unix milliseconds of the run's start, for the marker.
    pub started: u64,
}

/// Stores the objects of a job, with retries. Clones share the store.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// The settings by which rows become objects.
    pub publication: Arc<Publication>,
    store: Arc<dyn Store>,
    ownership: Ownership,
    /// Notes epochs before their marker is stored. `None` in a job without state.
    commits: Option<CommitLog>,
    runtime: Handle,
    retrier: Retrier,
    /// The results that are not stored yet.
    results: Results,
}

impl Publisher {
    /// Returns a publisher to `store` whose requests run on `runtime`. It shares the output with
    /// nobody and has no limit of results.
    pub fn new(publication: Publication, store: Arc<dyn Store>, runtime: Handle) -> Self {
        let publication = Arc::new(publication);
        let (ownership, commits) = (Ownership::Unshared, None);
        let results = Results::unlimited();
        let retrier = Retrier::new(Arc::clone(&store), results.clone());
        Publisher { publication, store, ownership, commits, runtime, retrier, results }
    }

    /// Returns a publisher whose results are counted and limited by `results`.
    #[must_use]
    pub fn bounded_by(self, results: Results) -> Self {
        let retrier = Retrier::new(Arc::clone(&self.store), results.clone());
        Publisher { results, retrier, ..self }
    }

    /// Returns a publisher that stores nothing unless `ownership` is confirmed, and that notes
    /// epochs in `commits` before they are committed.
    #[must_use]
    pub fn owned(self, ownership: Ownership, commits: Option<CommitLog>) -> Self {
        Publisher { ownership, commits, ..self }
    }

    /// Returns a publisher to another store, which only this process uses. Its outages are logged
    /// separately.
    #[must_use]
    pub fn into(&self, store: Arc<dyn Store>) -> Self {
        let retrier = Retrier::new(Arc::clone(&store), self.results.clone());
        Publisher { store, ownership: Ownership::Unshared, retrier, ..self.clone() }
    }

    /// Returns the runtime of the requests. Operators never block on them.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Returns the results that are not stored yet.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Keeps the limits of the results that are not stored yet. While there is no room for more, it
    /// holds the room of `pool`, so that reading stops. Never returns.
    pub async fn bound_results(self, pool: BlockPool) -> Result<(), Error> {
        loop {
            self.results.watch().await;
            tracing::warn!(
                "results wait for the store and there is no room for more: reading stops until \
                 they are stored; see --results-memory and --journal-max"
            );
            let paused = async {
                let _room = pool.pause().await;
                std::future::pending::<()>().await;
            };
            tokio::select! {
                () = self.results.until_room() => {}
                () = paused => {}
            }
            tracing::info!("there is room for results again: reading goes on");
        }
    }

    /// Returns the store, for requests that are not retried.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Stores `body` under `key` and replaces an object that exists. An error is final.
    pub async fn put(&self, key: &str, body: Body) -> Result<Stored, Error> {
        crash_point("sink.before_put");
        self.results.admit(&body);
        self.confirm(key).await?;
        let put = || async {
            // Bodies on disk are read back one after the other, within a limit of memory.
            let _room = self.results.room_to_read(&body).await;
            self.store.put(key, body.clone()).await
        };
        let stored = self.retrier.run(key, put).await;
        crash_point("sink.after_put");
        stored
    }

    /// Creates the object `key`, a part or the marker of `epoch`, from `body`. Succeeds if it
    /// exists with the same bytes. An error is final.
    ///
    /// # Errors
    ///
    /// `Configuration` if the object exists with other bytes or another run owns the output. The
    /// message names the owner if it is known.
    pub async fn create(&self, epoch: Epoch, key: &str, body: Body) -> Result<Stored, Error> {
        crash_point("sink.before_put");
        self.results.admit(&body);
        self.confirm(key).await?;
        let put = || async {
            let _room = self.results.room_to_read(&body).await;
            self.put_new(epoch, key, body.clone()).await
        };
        let stored = self.retrier.run(key, put).await;
        crash_point("sink.after_put");
        stored
    }

    /// Creates an object. After a conflict the error names the owner.
    async fn put_new(&self, epoch: Epoch, key: &str, body: Body) -> StoreResult<Stored> {
        match self.store.put_new(key, body).await {
            Err(error) if error.kind == StoreErrorKind::Exists => {
                // The claim names the owner if it has changed, and else the marker does.
                self.ownership.confirm().await?;
                let marker = self.publication.layout.marker(epoch);
                let owner = match self.store.get(&marker, MARKER_BYTES_MAX).await {
                    Ok(bytes) => format!("the epoch is that of {}", Marker::owner_of(&bytes)),
                    Err(_) => "another job writes there, too".to_owned(),
                };
                let message = format!("{}: {owner}", error.message);
                Err(StoreError::new(StoreErrorKind::Exists, message).hint(
                    "nothing was overwritten; give --to a prefix of its own, or see that the \
                     other job has ended and start again",
                ))
            }
            stored => stored,
        }
    }

    /// Succeeds if this run owns the output. An error is final.
    async fn confirm(&self, key: &str) -> Result<(), Error> {
        self.retrier.run(key, || self.ownership.confirm()).await
    }

    /// Notes durably that `epoch`, whose `parts` parts are durable, is about to be committed.
    pub async fn note_attempt(&self, epoch: Epoch, parts: usize) -> Result<(), Error> {
        match &self.commits {
            Some(commits) => commits.note(Attempt { epoch, parts: parts as u32 }).await,
            None => Ok(()),
        }
    }

    /// Notes that `epoch` is committed.
    pub fn note_commit(&self, epoch: Epoch) {
        self.ownership.committed(epoch);
    }

    /// Makes the names in `dir` durable. An error is final.
    pub async fn seal(&self, dir: &str) -> Result<(), Error> {
        self.retrier.run(dir, || self.store.seal(dir)).await
    }
}
