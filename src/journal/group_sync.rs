//! Group commit: one `fdatasync` makes everything durable that was appended before it began.
//!
//! A [`Syncer`] lives in a thread of its own, so that neither reading nor the sync of another epoch
//! waits. It also does the slow work that a sync allows, when no epoch waits for one: it takes the
//! segments out of the log below the newest Committed record that is itself on disk, one at a time,
//! and looks whether a full disk has room again.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};
use std::time::Duration;

use super::disk;
use super::record::Position;
use super::segment;
use super::shared_state::{JournalShared, Segment, Spare};
use super::{FullCause, SyncPolicy};
use crate::crash_points::crash_point;
use crate::error::Result;

/// Makes the journal durable, from any thread.
#[derive(Clone, Debug)]
pub struct Syncer {
    /// The state of the journal.
    pub(crate) shared: Arc<JournalShared>,
}

impl Syncer {
    /// Returns when everything appended before the call is on disk, and how far that is. With
    /// [`SyncPolicy::Never`] only segments that are full are synced.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before. It is never tried again: the journal is closed.
    pub fn sync(&self) -> Result<Position> {
        Ok(Position(self.shared.sync()?))
    }

    /// Lets old bytes leave the page cache, takes out one segment that is done with, or empties one
    /// old file, and wakes those that wait for room; `false` if nothing of that is left to do. A
    /// file takes tens of milliseconds, and an epoch may leave dozens, so a sync that is asked for
    /// meanwhile goes first.
    ///
    /// Call it after every sync, and at least once a second while the journal is full: it is what
    /// notices that a full disk has room again.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn tidy(&self) -> Result<bool> {
        self.shared.check_poison()?;
        self.shared.uncache();
        let tidied = self.shared.retire()? || self.shared.adopt()?;
        self.shared.restock()?;
        Ok(tidied)
    }

    /// How long bytes may wait for a sync; `None` where syncs do not follow the time.
    pub fn sync_every(&self) -> Option<Duration> {
        let settings = &self.shared.settings;
        (settings.sync != SyncPolicy::Never).then_some(settings.sync_every)
    }

    #[cfg(any(test, feature = "internals"))]
    /// How far the journal is on disk.
    pub fn synced_through(&self) -> Position {
        Position(self.shared.synced.load(Ordering::Acquire))
    }
}

/// Waits until what was appended before it was made is on disk.
#[derive(Clone, Debug)]
pub struct Durable {
    /// The state of the journal.
    shared: Arc<JournalShared>,
    /// The end of what must be durable.
    appended: u64,
}

impl Durable {
    /// Returns what waits until everything before `appended` is durable.
    pub(crate) fn new(shared: &Arc<JournalShared>, appended: u64) -> Durable {
        Durable { shared: Arc::clone(shared), appended }
    }

    /// Returns when the bytes are on disk. With [`SyncPolicy::Never`] they need not be: it returns
    /// at once. It does not ask for the sync.
    ///
    /// # Errors
    /// `Disk` if the disk failed.
    pub async fn wait(self) -> Result<()> {
        if self.shared.settings.sync == SyncPolicy::Never {
            return self.shared.check_poison();
        }
        let mut durable = self.shared.durable.subscribe();
        loop {
            self.shared.check_poison()?;
            if *durable.borrow_and_update() >= self.appended {
                return Ok(());
            }
            if durable.changed().await.is_err() {
                return self.shared.check_poison();
            }
        }
    }
}

impl JournalShared {
    /// Syncs everything that was appended before the call. Returns the position up to which the log
    /// is on disk. One sync runs at a time.
    pub fn sync(&self) -> Result<u64> {
        let wanted = self.appended.load(Ordering::Acquire);
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        self.check_poison()?;
        let synced = self.synced.load(Ordering::Acquire);
        if synced >= wanted && !self.ledger().names_changed {
            return Ok(synced);
        }
        crash_point("journal.before_sync");
        let (segments, goal, names_changed) = self.unsynced(synced);
        for unsynced in segments {
            let name = segment::name(unsynced.base);
            let file = match unsynced.file {
                Some(file) => file,
                None => (self.disk.open(&name)).map_err(|e| self.poison("opening", &name, e))?,
            };
            file.sync().map_err(|error| self.poison("syncing", &name, error))?;
        }
        crash_point("journal.synced_segment");
        if names_changed {
            let synced = self.disk.sync();
            synced.map_err(|error| self.poison("syncing the folder of", "", error))?;
        }
        self.synced.store(goal, Ordering::Release);
        self.durable.send_replace(goal);
        crash_point("journal.after_sync");
        self.close_synced(goal);
        Ok(goal)
    }

    /// Returns the segments with bytes after `synced`, the position that syncing them reaches, and
    /// true if the folder has to be synced with them.
    fn unsynced(&self, synced: u64) -> (Vec<Segment>, u64, bool) {
        let mut ledger = self.ledger();
        // Read under the lock: a roll cannot come between the goal and the list.
        let mut goal = self.appended.load(Ordering::Acquire);
        let active = ledger.segments.back().map_or(0, |segment| segment.base);
        if self.settings.sync == SyncPolicy::Never {
            goal = active.max(synced);
        }
        let segments = ledger.between(synced, goal);
        (segments, goal, std::mem::take(&mut ledger.names_changed))
    }

    /// Closes the files that need no further sync.
    fn close_synced(&self, synced: u64) {
        let mut ledger = self.ledger();
        for at in 1..ledger.segments.len() {
            if ledger.segments[at].base <= synced {
                ledger.segments[at - 1].file = None;
            }
        }
    }

    /// Takes the first segment out of the log that the newest durable Committed record does not
    /// need, or sets all of them aside; `false` if there is none.
    ///
    /// Fails with `Disk` if a file cannot be removed or emptied.
    pub fn retire(&self) -> Result<bool> {
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let Some((first, count)) = self.retired() else {
            return Ok(false);
        };
        if self.settings.keep_journal {
            let mut ledger = self.ledger();
            ledger.kept += count;
            ledger.settle();
        } else {
            crash_point("journal.before_delete");
            self.take_out(&first)?;
            crash_point("journal.after_delete");
        }
        self.room().wake_all();
        Ok(true)
    }

    /// Empties a file that a former run left, or removes it if it is one too many; `false` if there
    /// is none.
    fn adopt(&self) -> Result<bool> {
        let (leftover, is_wanted) = {
            let mut ledger = self.ledger();
            let Some(leftover) = ledger.leftovers.pop() else {
                return Ok(false);
            };
            ledger.emptying = leftover.bytes;
            let is_wanted = ledger.wants_spare(leftover.bytes);
            (leftover, is_wanted)
        };
        let spare = if is_wanted {
            self.emptied(leftover)?
        } else {
            let removed = self.disk.remove(&leftover.name);
            removed.map_err(|error| self.poison("removing", &leftover.name, error))?;
            None
        };
        let mut ledger = self.ledger();
        ledger.emptying = 0;
        ledger.spares.extend(spare);
        ledger.names_changed = true;
        ledger.settle();
        drop(ledger);
        self.room().wake_all();
        Ok(true)
    }

    /// Takes the first segment out of the log: it becomes a spare, or goes.
    ///
    /// The name goes first, and durably, one segment after the other: a crash that took back an
    /// older removal but not a newer one would leave a hole, and a hole is what damage looks like.
    fn take_out(&self, segment: &Segment) -> Result<()> {
        let name = segment::name(segment.base);
        let spare = self.spare_wanted(segment);
        let (doing, done) = match &spare {
            Some(spare) => ("renaming", self.disk.rename(&name, spare)),
            None => ("removing", self.disk.remove(&name)),
        };
        done.map_err(|error| self.poison(doing, &name, error))?;
        if self.settings.sync != SyncPolicy::Never {
            let synced = self.disk.sync();
            synced.map_err(|error| self.poison("syncing the folder of", &name, error))?;
        }
        let spare = match spare {
            Some(name) => self.make_spare(name, segment.bytes)?,
            None => None,
        };
        let mut ledger = self.ledger();
        ledger.segments.pop_front();
        ledger.spares.extend(spare);
        ledger.names_changed = true;
        ledger.settle();
        Ok(())
    }

    /// The name that a segment gets which is done with, if its file is of use again. Without syncs
    /// a crash could take back the name but not that the file was emptied.
    fn spare_wanted(&self, segment: &Segment) -> Option<String> {
        let mut ledger = self.ledger();
        let is_wanted =
            self.settings.sync != SyncPolicy::Never && ledger.wants_spare(segment.bytes);
        is_wanted.then(|| ledger.name_spare())
    }

    /// Empties a file for its next use; one that cannot be emptied is removed.
    fn make_spare(&self, name: String, bytes: u64) -> Result<Option<Spare>> {
        crash_point("journal.recycled");
        match disk::emptied(&*self.disk, &name, bytes) {
            Ok(file) => Ok(file.map(|file| Spare { name, bytes, file })),
            Err(_) => {
                let removed = self.disk.remove(&name);
                removed.map_err(|error| self.poison("removing", &name, error)).map(|()| None)
            }
        }
    }

    /// The first of the live segments wholly below the newest Committed record that a crash cannot
    /// take back, and how many they are. Deleting for a Committed record that is not on disk could
    /// leave a log that begins in the middle and nothing that states why.
    fn retired(&self) -> Option<(Segment, usize)> {
        let ledger = self.ledger();
        let synced = self.synced.load(Ordering::Acquire);
        let durable = |end: u64| end <= synced || self.settings.sync == SyncPolicy::Never;
        let (note, _) = ledger.committed.as_ref().filter(|(_, end)| durable(*end))?;
        let position = note.resume.position.0;
        Some((ledger.below(position).next()?.clone(), ledger.below(position).count()))
    }

    /// Brings the reserve back, and wakes those that wait when a disk that was full has room again.
    fn restock(&self) -> Result<()> {
        let mut ledger = self.ledger();
        let was_full = ledger.disk_full;
        if !was_full && ledger.reserve.is_some() {
            return Ok(());
        }
        let mut lacks = self.stock_reserve(&mut ledger)?;
        if was_full && lacks.is_none() {
            match self.next_file(&mut ledger)? {
                Ok(spare) => ledger.spares.push(spare),
                Err(cause) => lacks = Some(cause),
            }
        }
        let has_reserve = ledger.reserve.is_some();
        drop(ledger);
        // The limit may forbid another file while the disk has room: that is no reason to go on
        // waiting for the disk, and the next append finds out which it is.
        if lacks != Some(FullCause::Disk) && has_reserve {
            self.room().wake_all();
        }
        Ok(())
    }
}
