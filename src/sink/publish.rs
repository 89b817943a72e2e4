//! Publishing: a store, the names in it, and the will to try again.
//!
//! A store makes a few quick tries by itself. Above it stands this: an epoch that is closed stays
//! until it is stored, however long the store is away, because the operator that asked still holds
//! the epoch's capability. Only what trying again cannot mend (a failed disk, a wrong request) is
//! given up, and then the job ends. What is said about an [outage](super::outage) is said when it
//! begins, every minute, and when it is over.

use std::hash::{BuildHasher, RandomState};
use std::pin::pin;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::runtime::Handle;

use super::commit_log::{Attempt, CommitLog};
use super::format::Format;
use super::layout::Layout;
use super::marker::{MARKER_BYTES_MAX, Marker};
use super::outage::{Outage, Trouble};
use super::ownership::Ownership;
use crate::crash::crash_point;
use crate::epoch::Epoch;
use crate::error::Error;
use crate::lines::BlockPool;
use crate::settings::{EmptyEpochs, RowOrder};
use crate::store::{Body, Results, Store, StoreError, StoreErrorKind, StoreResult, Stored};

/// First pause between two tries; it doubles up to [`PAUSE_MAX`].
const PAUSE_MIN: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// A store that has not answered for so long is told to be away, though its own tries go on.
const SILENCE_MAX: Duration = Duration::from_secs(15);

/// How the rows of a job become objects.
#[derive(Clone, Debug)]
pub struct Publication {
    /// The names.
    pub layout: Layout,
    /// The bytes of a row.
    pub format: Format,
    /// The order of rows within a part.
    pub order: RowOrder,
    /// What is written for an epoch without rows.
    pub empty_epochs: EmptyEpochs,
    /// Hash of the job's identity, for the marker.
    pub job: String,
    /// The job's state id, for the marker.
    pub state: String,
    /// Unix milliseconds of the run's start, for the marker.
    pub started: u64,
}

/// Stores objects, again and again until they are stored. Clones share the store.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// How rows become objects.
    pub publication: Arc<Publication>,
    store: Arc<dyn Store>,
    ownership: Ownership,
    /// Notes epochs before their marker is stored; none in a job without state.
    commits: Option<CommitLog>,
    runtime: Handle,
    /// What is known, and was said, of the store's being out of reach.
    outage: Arc<Mutex<Outage>>,
    /// What waits to be stored.
    results: Results,
}

impl Publisher {
    /// A publisher into `store`, whose requests run on `runtime`.
    pub fn new(publication: Publication, store: Arc<dyn Store>, runtime: Handle) -> Self {
        let (publication, outage) = (Arc::new(publication), Arc::default());
        let (ownership, commits) = (Ownership::Unshared, None);
        let results = Results::unlimited();
        Publisher { publication, store, ownership, commits, runtime, outage, results }
    }

    /// The same; what it is given to store is counted by `results`.
    #[must_use]
    pub fn bounded_by(self, results: Results) -> Self {
        Publisher { results, ..self }
    }

    /// The same for an output that is this run's as long as `ownership` says so, with epochs noted
    /// in `commits` before they are committed.
    #[must_use]
    pub fn owned(self, ownership: Ownership, commits: Option<CommitLog>) -> Self {
        Publisher { ownership, commits, ..self }
    }

    /// The same into another store of this process alone, whose outages are its own.
    #[must_use]
    pub fn into(&self, store: Arc<dyn Store>) -> Self {
        let (ownership, outage) = (Ownership::Unshared, Arc::default());
        Publisher { store, ownership, outage, ..self.clone() }
    }

    /// The runtime that requests run on; operators never block on them.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// What waits to be stored.
    pub fn results(&self) -> &Results {
        &self.results
    }

    /// Keeps the limits of the results that wait: takes the room of `pool`, so that reading stops,
    /// while there is none for more results. Never returns.
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

    /// The store itself, for what need not succeed.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Stores `body` under `key`, over whatever stands there. An error is final.
    pub async fn put(&self, key: &str, body: Body) -> Result<Stored, Error> {
        crash_point("sink.before_put");
        self.results.admit(&body);
        self.confirm(key).await?;
        let put = || async {
            // What has gone to disk takes turns to come back.
            let _room = self.results.room_to_read(&body).await;
            self.store.put(key, body.clone()).await
        };
        let stored = self.persist(key, put).await;
        crash_point("sink.after_put");
        stored
    }

    /// Stores `body` under `key`, a part or a marker of `epoch`, where nothing stands but perhaps
    /// the same bytes. An error is final: `Configuration`, naming the owner where it is known, if
    /// other bytes stand there or another run owns the output.
    pub async fn create(&self, epoch: Epoch, key: &str, body: Body) -> Result<Stored, Error> {
        crash_point("sink.before_put");
        self.results.admit(&body);
        self.confirm(key).await?;
        let put = || async {
            let _room = self.results.room_to_read(&body).await;
            self.put_new(epoch, key, body.clone()).await
        };
        let stored = self.persist(key, put).await;
        crash_point("sink.after_put");
        stored
    }

    async fn put_new(&self, epoch: Epoch, key: &str, body: Body) -> StoreResult<Stored> {
        match self.store.put_new(key, body).await {
            Err(error) if error.kind == StoreErrorKind::Exists => {
                // The claim knows best; else the marker of the one who was quicker does.
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

    /// Succeeds while this run owns the output. An error is final.
    async fn confirm(&self, key: &str) -> Result<(), Error> {
        self.persist(key, || self.ownership.confirm()).await
    }

    /// Notes durably that `epoch`, whose `parts` are durable, is about to be committed.
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
        self.persist(dir, || self.store.seal(dir)).await
    }

    async fn persist<T, F>(&self, what: &str, attempt: impl Fn() -> F) -> Result<T, Error>
    where
        F: Future<Output = StoreResult<T>>,
    {
        let mut pause = PAUSE_MIN;
        loop {
            let began = Instant::now();
            let error = match self.answered(what, began, attempt()).await {
                Ok(stored) => {
                    if let Some(lasted) = self.outage().passed(Instant::now()) {
                        self.results.set_away(false);
                        let (store, lasted) = (self.store.describe(), lasted.as_secs());
                        tracing::info!("{store} takes objects again, after {lasted} s");
                    }
                    if began.elapsed() >= SILENCE_MAX {
                        self.results.set_away(false);
                    }
                    return Ok(stored);
                }
                Err(error) => error,
            };
            match error.kind {
                // Credentials and rights get mended while we run: refused is not final here.
                StoreErrorKind::Denied | StoreErrorKind::NotFound => {
                    self.tell(began, Trouble::Refused, &error);
                }
                StoreErrorKind::Unavailable => self.tell(began, Trouble::Away, &error),
                _ => return Err(error.into()),
            }
            tokio::time::sleep(jittered(pause)).await;
            pause = (2 * pause).min(PAUSE_MAX);
        }
    }

    /// Waits for the store's own tries; one that never answers is told of before they have failed.
    async fn answered<T>(
        &self,
        what: &str,
        began: Instant,
        attempt: impl Future<Output = StoreResult<T>>,
    ) -> StoreResult<T> {
        let mut attempt = pin!(attempt);
        loop {
            match tokio::time::timeout(SILENCE_MAX, &mut attempt).await {
                Ok(done) => return done,
                Err(_) => {
                    // Even if others get through: to a pipe, parts do while a marker waits.
                    self.results.set_away(true);
                    let (store, silent) = (self.store.describe(), began.elapsed().as_secs());
                    let silence = format!("{store} has not taken {what} for {silent} s");
                    self.tell(began, Trouble::Away, &silence);
                }
            }
        }
    }

    /// Says what keeps an object from being stored, if it is time to say so.
    fn tell(&self, began: Instant, trouble: Trouble, error: &dyn std::fmt::Display) {
        if !self.outage().met(trouble, began, Instant::now()) {
            tracing::debug!("tried again: {error}");
            return;
        }
        self.results.set_away(true);
        tracing::warn!(
            "{error}; nothing is lost: closed epochs are kept and retried until they are stored"
        );
    }

    fn outage(&self) -> MutexGuard<'_, Outage> {
        // Plain values, each written at once: a panic elsewhere leaves nothing half-done.
        self.outage.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Between half of `pause` and all of it, so that all who met one failure do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = RandomState::new().hash_one(()) as u32;
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pause_is_never_longer_than_said_nor_shorter_than_half_of_it() {
        let pauses: Vec<_> = (0..100).map(|_| jittered(PAUSE_MAX)).collect();
        assert!(pauses.iter().all(|pause| (PAUSE_MAX / 2..=PAUSE_MAX).contains(pause)));
        assert!(pauses.iter().any(|pause| *pause != pauses[0]), "no jitter: {pauses:?}");
    }
}
