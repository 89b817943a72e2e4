//! Stores the objects of a job: under which names, in which format, as whose.
//!
//! A closed epoch stays in memory or on the local disk until it is stored, for as long as the store
//! is out of reach, because its operator holds the capability of the epoch.
//! [`retry_until_stored`](crate::outputs::retry_until_stored) repeats the requests.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::check_ownership::Ownership;
use super::marker_json::{MARKER_BYTES_MAX, Marker};
use super::object_form::ObjectForm;
use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::error::Error;
use crate::meters::{Meters, OutputOp};
use crate::outputs::commit_log::{Attempt, CommitLog};
use crate::outputs::durable_epochs::SyncRounds;
use crate::outputs::output::BegunPart;
use crate::outputs::publication::Publication;
use crate::outputs::retry_until_stored::Retrier;
use crate::store::{
    Body, Creation, OnWritten, PendingResults, Store, StoreError, StoreErrorKind, StoreResult,
    Stored,
};
use crate::supervise;

/// Stores the objects of a job, with retries. Clones share the store.
#[derive(Clone, Debug)]
pub struct Publisher {
    /// The names of objects and the bytes of rows.
    pub form: Arc<ObjectForm>,
    /// The settings of what is published.
    pub publication: Arc<Publication>,
    /// The store of the objects.
    store: Arc<dyn Store>,
    /// The right of this process to write.
    ownership: Ownership,
    /// True if the store looks at the right before an object gets its name.
    is_checked: bool,
    /// Notes epochs before their marker is stored. `None` in a job without state.
    commits: Option<CommitLog>,
    /// The runtime of the requests.
    runtime: Handle,
    /// Repeats requests while the store is away.
    retrier: Retrier,
    /// The results that are not stored yet.
    results: PendingResults,
    /// The figures of the process.
    meters: Meters,
    /// A permit for each processor: objects are encoded on no more threads.
    encoders: Arc<Semaphore>,
}

/// A part that is about to be synced.
pub struct WrittenPart<'a> {
    /// The key of its object.
    key: &'a str,
    /// Its bytes.
    body: Body,
    /// The rest of the first attempt, or its error. `None` if nothing was written yet.
    first: Option<StoreResult<Creation<'a>>>,
}

impl fmt::Debug for WrittenPart<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WrittenPart").field("key", &self.key).finish_non_exhaustive()
    }
}

impl Publisher {
    /// Returns a publisher to `store` whose requests run on `runtime`. It
    /// shares the output with no other job and has no limit of results.
    pub fn new(
        form: ObjectForm,
        publication: Publication,
        store: Arc<dyn Store>,
        runtime: Handle,
    ) -> Self {
        let (form, publication) = (Arc::new(form), Arc::new(publication));
        let (ownership, is_checked, commits) = (Ownership::Unshared, false, None);
        let results = PendingResults::unlimited();
        let meters = Meters::default();
        let retrier = Retrier::new(store.describe(), results.clone(), meters.clone());
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Publisher {
            form,
            publication,
            store,
            ownership,
            is_checked,
            commits,
            runtime,
            retrier,
            results,
            meters,
            encoders: Arc::new(Semaphore::new(processors)),
        }
    }

    /// Returns a publisher whose results are counted and limited by `results`.
    #[must_use]
    pub fn bounded_by(self, results: PendingResults) -> Self {
        let retrier = Retrier::new(self.store.describe(), results.clone(), self.meters.clone());
        Publisher { results, retrier, ..self }
    }

    /// Returns a publisher that writes its figures to `meters`.
    #[must_use]
    pub fn metered(self, meters: Meters) -> Self {
        let retrier = Retrier::new(self.store.describe(), self.results.clone(), meters.clone());
        Publisher { meters, retrier, ..self }
    }

    /// Returns a publisher that stores nothing unless `ownership` is confirmed, and that notes
    /// epochs in `commits` before they are committed.
    #[must_use]
    pub fn owned(self, ownership: Ownership, commits: Option<CommitLog>) -> Self {
        let checked = ownership.check().and_then(|check| self.store.checked_by(check));
        let is_checked = checked.is_some();
        let store = checked.unwrap_or_else(|| Arc::clone(&self.store));
        Publisher { ownership, is_checked, commits, store, ..self }
    }

    /// Returns a publisher to another store, which only this process uses. Its outages are logged
    /// separately.
    #[must_use]
    pub fn to_store(&self, store: Arc<dyn Store>) -> Self {
        let retrier = Retrier::new(store.describe(), self.results.clone(), self.meters.clone());
        let (ownership, is_checked) = (Ownership::Unshared, false);
        Publisher { store, ownership, is_checked, retrier, ..self.clone() }
    }

    /// Returns the runtime of the requests. Operators never block on them.
    pub fn runtime(&self) -> &Handle {
        &self.runtime
    }

    /// Returns the right of this process to write.
    pub fn ownership(&self) -> &Ownership {
        &self.ownership
    }

    /// Returns the store, for requests that are not retried.
    pub fn store(&self) -> &dyn Store {
        &*self.store
    }

    /// Makes the object of a part of the bytes that a worker has written, on a thread that may
    /// block.
    ///
    /// # Errors
    ///
    /// `Failed` if the encoder refuses the rows.
    pub async fn finish(&self, written: Body) -> Result<Body, Error> {
        let encoding = self.form.encoding;
        if encoding.is_immediate() {
            return Ok(written);
        }
        // Counted while they wait for a thread, and the object before they are dropped.
        self.results.admit(&written);
        // The semaphore is never closed. Permits are given in the order of asking.
        let _turn = self.encoders.acquire().await;
        let results = self.results.clone();
        supervise::blocking(move || {
            let object = encoding.finish(&written)?;
            results.admit(&object);
            Ok(object)
        })
        .await
    }

    /// Stores `body` under `key` and replaces an object that exists. An error is final.
    pub async fn put(&self, key: &str, body: Body) -> Result<Stored, Error> {
        self.begin(key, &body).await?;
        let put = || async {
            // Bodies on disk are read back one after the other, within a limit of memory.
            let _room = self.results.room_to_read(&body).await;
            self.store.put(key, body.clone()).await
        };
        let stored = self.retrier.counted(OutputOp::Put, key, put).await;
        crash_point("output.after_put");
        self.count_bytes(stored)
    }

    /// Creates the object `key`, a part of `epoch`, from `body`, and makes its name durable.
    /// Succeeds if it exists with the same bytes. An error is final. A store that writes before it
    /// syncs waits between the two until `rounds` lets the epoch be synced. `begun` is the part, if
    /// it is written already.
    ///
    /// # Errors
    ///
    /// `Configuration` if the object exists with other bytes or another run owns the output. The
    /// message names the owner if it is known.
    pub async fn create_part(
        &self,
        epoch: Epoch,
        key: &str,
        body: Body,
        (rounds, begun): (&SyncRounds, Option<BegunPart>),
    ) -> Result<Stored, Error> {
        let written = match begun {
            Some(BegunPart(first)) => WrittenPart { key, body, first: Some(first) },
            None => self.write_part(key, body, !rounds.has_begun(epoch)).await?,
        };
        if matches!(written.first, Some(Ok(_))) {
            // Between the steps, where it is no silence of the store and holds no memory to read
            // bodies back. A part that could not be written does not wait.
            rounds.wait(epoch).await;
        }
        self.sync_part(epoch, written).await
    }

    /// Writes the object `key`, a part, from `body`, on this thread, which may block. An error is
    /// the result of the first attempt of [`Publisher::create_part`]. Returns `None` if only a
    /// request can do that.
    pub fn begin_part(&self, key: &str, body: &Body) -> Option<BegunPart> {
        let is_here = self.form.encoding.is_immediate() && self.store.writes_before_sync();
        if !is_here || !(self.is_checked || matches!(self.ownership, Ownership::Unshared)) {
            return None;
        }
        crash_point("output.before_put");
        self.results.admit(body);
        self.store.write_part_here(key, body).map(BegunPart)
    }

    /// Waits for `work`, which writes objects of `epoch` and returns false if that failed. Logs a
    /// store that does not answer.
    pub async fn answered(&self, epoch: Epoch, work: impl Future<Output = bool>) {
        let work = async { if work.await { Ok(()) } else { Err(()) } };
        // The error of each object is the result of its first attempt.
        let _ = self.retrier.step(&self.form.layout.dir(epoch), work).await;
    }

    /// Begins to create the object `key`, a part, from `body`. If `is_ahead`, writes what the store
    /// can write without a sync; an error of that is the result of the first attempt of
    /// [`Publisher::sync_part`].
    ///
    /// # Errors
    ///
    /// `Configuration` if another run owns the output.
    pub async fn write_part<'a>(
        &'a self,
        key: &'a str,
        body: Body,
        is_ahead: bool,
    ) -> Result<WrittenPart<'a>, Error> {
        self.begin(key, &body).await?;
        let first = if is_ahead && self.store.writes_before_sync() {
            let _room = self.results.room_to_read(&body).await;
            Some(self.retrier.step(key, self.store.write_part(key, body.clone())).await)
        } else {
            None
        };
        Ok(WrittenPart { key, body, first })
    }

    /// Makes a part of `epoch` and its name durable.
    ///
    /// # Errors
    ///
    /// As [`Publisher::create_part`].
    pub async fn sync_part(
        &self,
        epoch: Epoch,
        WrittenPart { key, body, first }: WrittenPart<'_>,
    ) -> Result<Stored, Error> {
        let first = Mutex::new(first);
        let create = || {
            let first = first.lock().unwrap_or_else(PoisonError::into_inner).take();
            async {
                let written = match first {
                    Some(written) => written?,
                    None => self.store.write_part(key, body.clone()).await?,
                };
                written.await
            }
        };
        self.create(epoch, key, &body, create).await
    }

    /// Creates the object of `marker` when `ready` succeeds. It is prepared meanwhile, and
    /// `written` is called before its sync, or at once by a store that prepares nothing. Dropped if
    /// that fails. Succeeds if a former run has created the object: a request of a run that was
    /// killed may arrive late.
    ///
    /// # Errors
    ///
    /// Those of `ready`, and as [`Publisher::create_part`].
    pub async fn create_marker(
        &self,
        marker: &Marker,
        written: OnWritten,
        ready: impl Future<Output = Result<(), Error>>,
    ) -> Result<Stored, Error> {
        let (key, body) = (self.form.layout.marker(marker.epoch), Body::from(marker.to_bytes()));
        let prepare = self.store.prepare_new(&key, body.clone(), written);
        let (prepared, is_ready) = futures::join!(prepare, ready);
        is_ready?;
        // An object that could not be prepared is created from its bytes, as in each attempt after
        // the first. These are repeated, counted and logged.
        let prepared = Mutex::new(prepared.ok());
        self.begin(&key, &body).await?;
        let create = || {
            let prepared = prepared.lock().unwrap_or_else(PoisonError::into_inner).take();
            let created = prepared.unwrap_or_else(|| self.store.put_new(&key, body.clone()));
            let (store, key, body) = (&self.store, &key, &body);
            async move {
                let created = created.await;
                if !matches!(&created, Err(error) if error.kind == StoreErrorKind::Exists) {
                    return created;
                }
                // A right that is lost has this kind, too: the marker is then not the own.
                self.ownership.confirm().await?;
                match store.get(key, MARKER_BYTES_MAX).await {
                    Ok(bytes) if marker.is_repeated_by(&bytes) => Ok(Stored::of(body, None)),
                    // The attempt is repeated.
                    Err(error) if error.kind == StoreErrorKind::Unavailable => Err(error),
                    Err(error) if error.kind == StoreErrorKind::Denied => Err(error),
                    _ => created,
                }
            }
        };
        self.create(marker.epoch, &key, &body, create).await
    }

    /// Counts `body`, which is to be stored under `key`. Succeeds if this run owns the output.
    async fn begin(&self, key: &str, body: &Body) -> Result<(), Error> {
        crash_point("output.before_put");
        self.results.admit(body);
        self.confirm(key).await
    }

    /// Creates an object of `epoch` by `create`, a request that is repeated.
    async fn create<F>(
        &self,
        epoch: Epoch,
        key: &str,
        body: &Body,
        create: impl Fn() -> F,
    ) -> Result<Stored, Error>
    where
        F: Future<Output = StoreResult<Stored>>,
    {
        let put = || async {
            let _room = self.results.room_to_read(body).await;
            self.explain_conflict(epoch, create().await).await
        };
        let stored = self.retrier.counted(OutputOp::Create, key, put).await;
        crash_point("output.after_put");
        self.count_bytes(stored)
    }

    /// Adds the length of a stored object to the figures.
    fn count_bytes(&self, stored: Result<Stored, Error>) -> Result<Stored, Error> {
        stored.inspect(|stored| self.meters.output().bytes.add(stored.bytes))
    }

    /// Names the owner in the error of a conflict.
    async fn explain_conflict(
        &self,
        epoch: Epoch,
        created: StoreResult<Stored>,
    ) -> StoreResult<Stored> {
        match created {
            Err(error) if error.kind == StoreErrorKind::Exists => {
                // The claim names the owner if it has changed, and else the marker does.
                self.ownership.confirm().await?;
                let marker = self.form.layout.marker(epoch);
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
        if self.is_checked {
            return Ok(());
        }
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
        self.retrier.counted(OutputOp::Seal, dir, || self.store.seal(dir)).await
    }

    /// Makes the names of `epoch`, which has its marker, durable. Succeeds if its folder is
    /// missing: a reader may have moved or removed it. An error is final.
    pub async fn seal_epoch(&self, epoch: Epoch) -> Result<(), Error> {
        let dir = self.form.layout.dir(epoch);
        let seal = || async {
            match self.store.seal(&dir).await {
                Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
                sealed => sealed,
            }
        };
        self.retrier.counted(OutputOp::Seal, &dir, seal).await
    }
}

#[cfg(test)]
pub mod tests;
