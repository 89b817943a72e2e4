//! Stores the changes of totals and windows beside the output, under a name that readers ignore.
//!
//! ```text
//! <place>/<job>-<begun>/<counts>-<part>/<epoch>.change   the input of a part in an epoch
//! <place>/<job>-<begun>/<counts>-<part>/<epoch>.base     its input up to an epoch
//! ```
//!
//! The changes of an epoch are stored before its marker. The changes of committed epochs can
//! therefore always be restored; those of other epochs are written again together with their epoch.
//! No other order matters, since an object is atomic and has a checksum. Each change names the one
//! before it, and the state folder names the newest ones, so a start notices one that is gone.
//!
//! The changes of totals are merged in the background: when the changes of a part are as large as
//! its base, base and changes up to the last committed epoch become the new base. The changes that
//! a window has left are removed. A crash during either leaves objects that the next start
//! recognizes as obsolete and removes.

mod change_bytes;
mod change_links;
mod changelog_place;
mod newest_changes;
mod part_objects;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::operators::{PartChange, Run};
use crate::store::{StoreError, StoreResult};
use crate::supervise::{self, supervise};
use change_links::find_gap;
pub use change_links::{LinkedChange, NewestChange};
pub use changelog_place::{ChangelogStore, StoredChange};
pub use newest_changes::{NewestChanges, NewestChangesLog};
use part_objects::{ChangelogObject, ChangelogPart, PartObjects};

/// Objects that are read at the same time.
const READS_IN_FLIGHT_MAX: usize = 16;
/// The longest object that is written or read. It is far longer than a part whose words fit into
/// memory. A base that would be longer is not made.
const OBJECT_BYTES_MAX: u64 = 8 << 30;

/// The epochs with a result. A change is needed until the result after its retraction is
/// committed, because a result is published as the difference from the one before.
#[derive(Debug, Default)]
struct ResultEpochs {
    /// The newest committed one.
    last: Epoch,
    /// Those that are not committed yet.
    open: BTreeSet<Epoch>,
}

impl ResultEpochs {
    /// Returns the newest epoch with a result, now that all up to `epoch` are committed.
    fn committed(&mut self, epoch: Epoch) -> Epoch {
        while let Some(first) = self.open.first().copied().filter(|first| *first <= epoch) {
            self.open.pop_first();
            self.last = self.last.max(first);
        }
        self.last
    }
}

/// The changelog of a job. Clones share it.
#[derive(Clone, Debug)]
pub struct Changelog {
    /// The place of the changes: objects, or a table of the database.
    store: Arc<dyn ChangelogStore>,
    /// The directory of this job's changelog.
    dir: String,
    /// The objects of each part.
    parts: Arc<Mutex<BTreeMap<ChangelogPart, PartObjects>>>,
    /// The epochs with a result.
    results: Arc<Mutex<ResultEpochs>>,
    /// The newest changes of all parts, and where process 0 notes them.
    newest: Arc<Mutex<(NewestChanges, Option<NewestChangesLog>)>>,
    /// One permit, because a merge needs memory for all changes that it merges.
    merges: Arc<Semaphore>,
    /// Ends the job if a change cannot be stored.
    failure: Failure,
    /// The runtime of the requests.
    runtime: Handle,
}

impl Changelog {
    /// Returns the changelog in the folder `dir` of `store`. `newest` are the newest changes that
    /// the state knows of, which process 0 notes in `log`. Background tasks run on `runtime`; a
    /// panic in one ends the job through `failure`.
    pub fn new(
        store: Arc<dyn ChangelogStore>,
        dir: String,
        (mut newest, log): (NewestChanges, Option<NewestChangesLog>),
        failure: Failure,
        runtime: Handle,
    ) -> Changelog {
        newest.dir.clone_from(&dir);
        let (merges, newest) = (Arc::new(Semaphore::new(1)), Arc::new(Mutex::new((newest, log))));
        let (parts, results) = (Arc::default(), Arc::default());
        Changelog { store, dir, parts, results, newest, merges, failure, runtime }
    }

    /// Returns the folder of the changelog of the job whose identity has the hash `job` and whose
    /// first epoch was `begun`.
    pub fn dir(job: &str, begun: Epoch) -> String {
        format!("{job}-{begun}")
    }

    /// Returns the changes up to and including the committed epoch `through` of the parts that this
    /// process `owns`, and removes all other objects of these parts. `result` is the newest of
    /// these epochs with a result; only if it is proven, changes of windows are missed. Called
    /// before the first [`Changelog::store`].
    ///
    /// # Errors
    ///
    /// `Disk` if an object is damaged or gone, and the errors of the store.
    pub async fn restore(
        &self,
        owns: impl Fn(u32) -> bool,
        through: Epoch,
        (result, is_proven): (Epoch, bool),
    ) -> StoreResult<Vec<PartChange>> {
        *self.results() = ResultEpochs { last: result, open: BTreeSet::new() };
        let mut found = self.find(&owns).await?;
        let newest = self.newest().0.clone();
        // A part of which all objects are gone is looked at, too.
        for change in newest.changes.iter().filter(|change| owns(change.part)) {
            found.entry(change.of_part()).or_default();
        }
        let mut restored = Vec::new();
        for (part, stored) in found {
            let mut objects = PartObjects::default();
            let obsolete = objects.adopt(stored, through);
            let changes = self.read(part, objects.stored()).await?;
            if let Some(epoch) = find_gap(&changes, newest.of(part), is_proven.then_some(result)) {
                return Err(self.gone(part, epoch));
            }
            self.remove(part, obsolete).await?;
            self.store.sweep(&self.part_dir(part)).await?;
            let changes = changes.into_iter().map(|linked| linked.change);
            let changes: Vec<PartChange> = changes.collect();
            objects.lasts_ms = changes.last().and_then(|change| change.lasts_ms);
            self.remove(part, objects.expire(result)).await?;
            restored.extend(changes.into_iter().filter(|change| !change.is_past(result)));
            self.parts().insert(part, objects);
        }
        Ok(restored)
    }

    /// Returns the error of a change that is gone, and so is a base in its place.
    fn gone(&self, part: ChangelogPart, epoch: Epoch) -> StoreError {
        let place = |object| self.store.place(&self.name(part, object));
        let base = place(ChangelogObject::base(epoch));
        let key = place(ChangelogObject::change(epoch));
        change_bytes::damaged(&key, &format!("it is not there, nor is {base} in its place"))
    }

    /// Names the change before each of `changes`, which are those of the next epoch. Called in
    /// order of the epochs, before [`Changelog::store`].
    pub fn link(&self, changes: Vec<PartChange>) -> Vec<LinkedChange> {
        let mut parts = self.parts();
        let link = |change: PartChange| {
            let objects = parts.entry(ChangelogPart::of(&change)).or_default();
            let before = Some(objects.link(change.run.epoch));
            LinkedChange { change, before }
        };
        changes.into_iter().map(link).collect()
    }

    /// Notes in the state, as process 0, the newest changes of all parts up to and in `epoch`. Its
    /// `changes` are durable, and it is about to be committed. Called in order of the epochs.
    pub async fn note_newest(&self, epoch: Epoch, changes: Vec<NewestChange>) {
        let changelog = self.clone();
        supervise::blocking(move || {
            let (newest, log) = &mut *changelog.newest();
            newest.advance(epoch, changes);
            log.iter_mut().for_each(|log| log.note(newest));
        })
        .await;
    }

    /// Stores the changes of an epoch. Returns when they are durable.
    ///
    /// # Errors
    ///
    /// The errors that a retry does not cure.
    pub async fn store(&self, changes: Vec<LinkedChange>) -> Result<()> {
        try_join_all(changes.into_iter().map(|change| self.store_one(change))).await.map(drop)
    }

    /// Stores one change and adds its object to the list of its part.
    async fn store_one(&self, linked: LinkedChange) -> Result<()> {
        let change = &linked.change;
        let (part, object) = (ChangelogPart::of(change), ChangelogObject::change(change.run.epoch));
        let (lasts_ms, encoded) = (change.lasts_ms, change_bytes::encode(&linked));
        // The store may be out of reach for long, and the encoded bytes are sufficient.
        drop(linked);
        crash_point("changelog.before_put");
        let bytes = encoded.len() as u64;
        let name = self.name(part, object);
        self.store.write_change(object.epoch, name, encoded).await?;
        let object = object.of(bytes);
        crash_point("changelog.after_put");
        let mut parts = self.parts();
        let objects = parts.entry(part).or_default();
        objects.lasts_ms = lasts_ms;
        objects.add(object);
        Ok(())
    }

    /// Called before `epoch`, which has a result, is committed.
    pub fn publishes(&self, epoch: Epoch) {
        self.results().open.insert(epoch);
    }

    /// Called when `epoch` and all earlier epochs are committed. Starts merges and removals that
    /// are due, in the background.
    pub fn committed(&self, epoch: Epoch) {
        let result = self.results().committed(epoch);
        for (part, objects) in self.parts().iter_mut() {
            let expired = objects.expire(result);
            let due = objects.take_due(epoch);
            if expired.is_empty() && due.is_empty() {
                continue;
            }
            let (changelog, part) = (self.clone(), *part);
            let compact = async move {
                let compacted = match changelog.remove(part, expired).await {
                    Ok(()) if !due.is_empty() => changelog.merge(part, due).await,
                    removed => removed.map_err(Into::into),
                };
                // Obsolete objects do no harm, so the job continues.
                if let Err(error) = compacted {
                    let place = changelog.store.place(&changelog.dir);
                    tracing::warn!("{error}; the changelog in {place} grows meanwhile");
                }
                Ok(())
            };
            supervise(&self.failure, &self.runtime, "compact", compact);
        }
    }

    /// Merges `due`, the oldest objects of a part, into one base and removes them.
    async fn merge(&self, part: ChangelogPart, due: Vec<ChangelogObject>) -> Result<()> {
        let Ok(_turn) = self.merges.acquire().await else { return Ok(()) };
        let merged = self.merged(part, &due).await;
        let mut obsolete = Vec::new();
        if let Some(objects) = self.parts().get_mut(&part) {
            obsolete = objects.merged(due, merged.as_ref().ok().copied());
        }
        merged?;
        crash_point("changelog.before_forget");
        Ok(self.remove(part, obsolete).await?)
    }

    /// Stores the base of the objects in `due`.
    async fn merged(
        &self,
        part: ChangelogPart,
        due: &[ChangelogObject],
    ) -> Result<ChangelogObject> {
        if due.iter().map(|object| object.bytes).sum::<u64>() > OBJECT_BYTES_MAX {
            let dir = self.store.place(&self.part_dir(part));
            let message =
                format!("the base of {dir} would be longer than {OBJECT_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Failed, message).hint("give more --parts"));
        }
        let changes = self.read(part, due).await?;
        let base = ChangelogObject::base(due.last().map_or(0, |object| object.epoch));
        let add_up = move || {
            let runs: Vec<Run> = changes.into_iter().map(|linked| linked.change.run).collect();
            let run = Run::add_up(runs, base.epoch);
            let ChangelogPart { counts, part } = part;
            let change = PartChange { counts, part, lasts_ms: None, run };
            change_bytes::encode(&LinkedChange { change, before: None })
        };
        let encoded = supervise::blocking(add_up).await;
        crash_point("changelog.before_base");
        let bytes = encoded.len() as u64;
        self.store.write_base(self.name(part, base), encoded).await?;
        let base = base.of(bytes);
        crash_point("changelog.after_base");
        Ok(base)
    }

    /// Lists the objects of the parts that this process owns.
    async fn find(
        &self,
        owns: impl Fn(u32) -> bool,
    ) -> StoreResult<BTreeMap<ChangelogPart, Vec<ChangelogObject>>> {
        let mut found: BTreeMap<ChangelogPart, Vec<ChangelogObject>> = BTreeMap::new();
        let prefix = format!("{}/", self.dir);
        for StoredChange { name, bytes } in self.store.list(&self.dir).await? {
            let Some(name) = name.strip_prefix(&prefix) else { continue };
            let Some((part, object)) = part_objects::parse(name, bytes) else { continue };
            if owns(part.part) {
                found.entry(part).or_default().push(object);
            }
        }
        Ok(found)
    }

    /// Returns the contents of objects, in their order.
    async fn read(
        &self,
        part: ChangelogPart,
        objects: &[ChangelogObject],
    ) -> StoreResult<Vec<LinkedChange>> {
        let reads: Vec<_> = objects.iter().map(|object| self.read_one(part, *object)).collect();
        stream::iter(reads).buffered(READS_IN_FLIGHT_MAX).try_collect().await
    }

    /// Reads an object and checks that part and epoch in it are those of its name.
    async fn read_one(
        &self,
        part: ChangelogPart,
        object: ChangelogObject,
    ) -> StoreResult<LinkedChange> {
        let name = self.name(part, object);
        let key = self.store.place(&name);
        if object.bytes > OBJECT_BYTES_MAX {
            return Err(change_bytes::damaged(&key, "it is longer than any object of a changelog"));
        }
        let stored = StoredChange { name, bytes: object.bytes };
        let bytes = self.store.read(&stored).await?;
        let linked =
            change_bytes::decode(&bytes).map_err(|reason| change_bytes::damaged(&key, reason))?;
        let change = &linked.change;
        if ChangelogPart::of(change) != part || change.run.epoch != object.epoch {
            return Err(change_bytes::damaged(&key, "it is of another part or epoch"));
        }
        Ok(linked)
    }

    /// Removes objects of a part.
    async fn remove(&self, part: ChangelogPart, objects: Vec<ChangelogObject>) -> StoreResult<()> {
        for object in objects {
            self.store.remove(&self.name(part, object)).await?;
        }
        Ok(())
    }

    /// Returns the directory of a part.
    fn part_dir(&self, part: ChangelogPart) -> String {
        format!("{}/{part}", self.dir)
    }

    /// Returns the name of an object.
    fn name(&self, part: ChangelogPart, object: ChangelogObject) -> String {
        format!("{}/{part}/{object}", self.dir)
    }

    /// Locks the newest changes.
    fn newest(&self) -> MutexGuard<'_, (NewestChanges, Option<NewestChangesLog>)> {
        self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the epochs with a result.
    fn results(&self) -> MutexGuard<'_, ResultEpochs> {
        self.results.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Locks the objects of all parts.
    fn parts(&self) -> MutexGuard<'_, BTreeMap<ChangelogPart, PartObjects>> {
        // Each list is changed as a whole, so a panic elsewhere leaves nothing half-done.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
