//! Where counts with memory survive: beside the output, under a name that readers ignore.
//!
//! ```text
//! <dir>/_wordtide/<job>-<begun>/<counts>-<part>/<epoch>.change   what a part received in an epoch
//! <dir>/_wordtide/<job>-<begun>/<counts>-<part>/<epoch>.base     all that it received up to one
//! ```
//!
//! The changes of an epoch are stored beside its parts and before its marker, so whatever is
//! committed can be restored, and what is not is written again when the epoch is. Nothing else
//! depends on an order: an object is whole or not there, and carries its own checksum.
//!
//! What lasts for ever is merged: when the changes of a part weigh as much as its base, all of them
//! become the new base, in the background and only as far as epochs are committed. What a window
//! has let go of is removed. Either leaves garbage at worst when it is cut off, which the next
//! start tells from what counts, and removes.

mod object;
mod pieces;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::future::try_join_all;
use futures::stream::{self, StreamExt, TryStreamExt};
use tokio::sync::Semaphore;

use super::publish::Publisher;
use crate::crash::crash_point;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::failure::Failure;
use crate::operators::{Change, Run};
use crate::store::{Body, Listing, StoreResult};
use crate::supervise::{self, supervise};
use pieces::{Piece, Pieces, Place};

/// Objects that are read at a time.
const READS_AT_A_TIME: usize = 16;
/// Longest object that is written, and read: far above what a part with its words in memory is. A
/// base that would be longer is not made.
const OBJECT_BYTES_MAX: u64 = 8 << 30;

/// Keeps the changes of counts with memory. Clones keep the same.
#[derive(Clone, Debug)]
pub struct Keeper {
    publisher: Publisher,
    dir: String,
    places: Arc<Mutex<BTreeMap<Place, Pieces>>>,
    /// A merge needs room for all that it merges: one at a time.
    merges: Arc<Semaphore>,
    failure: Failure,
}

impl Keeper {
    /// A keeper of the job whose first epoch ever was `begun`, with objects beside those that
    /// `publisher` publishes. A panic in its background work ends the job by `failure`.
    pub fn new(publisher: Publisher, begun: Epoch, failure: Failure) -> Keeper {
        let publication = &publisher.publication;
        let dir = format!("{}/{}-{begun}", publication.layout.own_dir(), publication.job);
        let merges = Arc::new(Semaphore::new(1));
        Keeper { publisher, dir, places: Arc::default(), merges, failure }
    }

    /// What was kept, up to and with the committed epoch `through`, of the parts that this process
    /// `owns`; whatever else was kept of them is removed. Before anything new is kept.
    ///
    /// # Errors
    ///
    /// `Disk` where an object is damaged; else those of the store.
    pub async fn restore(
        &self,
        owns: impl Fn(u32) -> bool,
        through: Epoch,
    ) -> StoreResult<Vec<Change>> {
        let mut restored = Vec::new();
        for (place, stored) in self.find(owns).await? {
            let mut pieces = Pieces::default();
            self.remove(place, pieces.adopt(stored, through)).await?;
            self.publisher.store().sweep(&self.place_dir(place)).await?;
            let changes = self.read(place, pieces.stored()).await?;
            pieces.lasts_ms = changes.last().and_then(|change| change.lasts_ms);
            self.remove(place, pieces.expire(through)).await?;
            restored.extend(changes.into_iter().filter(|change| !change.is_past(through)));
            self.places().insert(place, pieces);
        }
        Ok(restored)
    }

    /// Stores the changes of an epoch; done when they are durable.
    ///
    /// # Errors
    ///
    /// Those that trying again does not mend.
    pub async fn keep(&self, changes: Vec<Change>) -> Result<()> {
        try_join_all(changes.into_iter().map(|change| self.keep_one(change))).await.map(drop)
    }

    async fn keep_one(&self, change: Change) -> Result<()> {
        let (place, piece) = (Place::of(&change), Piece::change(change.run.epoch));
        let (lasts_ms, encoded) = (change.lasts_ms, object::encode(&change));
        // The store may be away for long: the run is not kept beside its bytes.
        drop(change);
        crash_point("memory.before_put");
        let piece = self.put(place, piece, encoded).await?;
        crash_point("memory.after_put");
        let mut places = self.places();
        let pieces = places.entry(place).or_default();
        pieces.lasts_ms = lasts_ms;
        pieces.add(piece);
        Ok(())
    }

    /// Notes that `epoch` and all before it are committed: what is due is merged or removed, in the
    /// background.
    pub fn committed(&self, epoch: Epoch) {
        for (place, pieces) in self.places().iter_mut() {
            let expired = pieces.expire(epoch);
            let due = pieces.take_due(epoch);
            if expired.is_empty() && due.is_empty() {
                continue;
            }
            let (keeper, place) = (self.clone(), *place);
            let tidy = async move {
                let tidied = match keeper.remove(place, expired).await {
                    Ok(()) if !due.is_empty() => keeper.merge(place, due).await,
                    removed => removed.map_err(Into::into),
                };
                if let Err(error) = tidied {
                    tracing::warn!("{error}; the memory in {} grows meanwhile", keeper.dir);
                }
                Ok(())
            };
            supervise(&self.failure, self.publisher.runtime(), "compact", tidy);
        }
    }

    /// Removes all that was kept: the job has finished. Nothing is kept any more.
    pub async fn discard(&self) -> StoreResult<()> {
        // A merge that runs would put its base behind us.
        let running = self.merges.acquire().await;
        self.merges.close();
        drop(running);
        self.publisher.store().clear(&self.dir).await.map(drop)
    }

    /// Makes one base of these pieces, the oldest of their place.
    async fn merge(&self, place: Place, due: Vec<Piece>) -> Result<()> {
        let Ok(_turn) = self.merges.acquire().await else { return Ok(()) };
        let merged = self.merged(place, &due).await;
        let mut obsolete = Vec::new();
        if let Some(pieces) = self.places().get_mut(&place) {
            obsolete = pieces.merged(due, merged.as_ref().ok().copied());
        }
        merged?;
        crash_point("memory.before_forget");
        Ok(self.remove(place, obsolete).await?)
    }

    async fn merged(&self, place: Place, due: &[Piece]) -> Result<Piece> {
        if due.iter().map(|piece| piece.bytes).sum::<u64>() > OBJECT_BYTES_MAX {
            let dir = self.place_dir(place);
            let message =
                format!("the base of {dir} would be longer than {OBJECT_BYTES_MAX} bytes");
            return Err(Error::new(ErrorKind::Failed, message).hint("give more --parts"));
        }
        let changes = self.read(place, due).await?;
        let base = Piece::base(due.last().map_or(0, |piece| piece.epoch));
        let add_up = move || {
            let runs: Vec<Run> = changes.into_iter().map(|change| change.run).collect();
            let run = Run::add_up(runs, base.epoch);
            object::encode(&Change { counts: place.counts, part: place.part, lasts_ms: None, run })
        };
        let encoded = supervise::blocking(add_up).await;
        crash_point("memory.before_base");
        let base = self.put(place, base, encoded).await?;
        crash_point("memory.after_base");
        Ok(base)
    }

    /// The objects of the parts that this process owns.
    async fn find(&self, owns: impl Fn(u32) -> bool) -> StoreResult<BTreeMap<Place, Vec<Piece>>> {
        let mut found: BTreeMap<Place, Vec<Piece>> = BTreeMap::new();
        let (prefix, mut after) = (format!("{}/", self.dir), None::<String>);
        loop {
            let ask = Listing::new(&prefix).after(after.as_deref());
            let page = self.publisher.store().list(ask).await?;
            for entry in &page.items {
                let name = entry.key.strip_prefix(&prefix).unwrap_or_default();
                let Some((place, piece)) = pieces::parse(name, entry.bytes) else { continue };
                if owns(place.part) {
                    found.entry(place).or_default().push(piece);
                }
            }
            after = page.next;
            if after.is_none() {
                return Ok(found);
            }
        }
    }

    /// The contents of these objects, in their order.
    async fn read(&self, place: Place, pieces: &[Piece]) -> StoreResult<Vec<Change>> {
        let reads: Vec<_> = pieces.iter().map(|piece| self.read_one(place, *piece)).collect();
        stream::iter(reads).buffered(READS_AT_A_TIME).try_collect().await
    }

    /// Reads an object and checks that it is the one which its name says.
    async fn read_one(&self, place: Place, piece: Piece) -> StoreResult<Change> {
        let key = self.key(place, piece);
        if piece.bytes > OBJECT_BYTES_MAX {
            return Err(object::damaged(&key, "it is longer than any object of a changelog"));
        }
        let bytes = self.publisher.store().get(&key, piece.bytes).await?;
        let change = object::decode(&bytes).map_err(|reason| object::damaged(&key, reason))?;
        if Place::of(&change) != place || change.run.epoch != piece.epoch {
            return Err(object::damaged(&key, "it is of another part or epoch"));
        }
        Ok(change)
    }

    /// Stores an object, durably.
    async fn put(&self, place: Place, piece: Piece, bytes: Vec<u8>) -> Result<Piece> {
        let stored = self.publisher.put(&self.key(place, piece), Body::from(bytes)).await?;
        self.publisher.seal(&self.place_dir(place)).await?;
        Ok(piece.of(stored.bytes))
    }

    async fn remove(&self, place: Place, pieces: Vec<Piece>) -> StoreResult<()> {
        for piece in pieces {
            self.publisher.store().delete(&self.key(place, piece)).await?;
        }
        Ok(())
    }

    fn place_dir(&self, place: Place) -> String {
        format!("{}/{place}", self.dir)
    }

    fn key(&self, place: Place, piece: Piece) -> String {
        format!("{}/{place}/{piece}", self.dir)
    }

    fn places(&self) -> MutexGuard<'_, BTreeMap<Place, Pieces>> {
        // Lists, each changed at once: a panic elsewhere leaves nothing half-done.
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
