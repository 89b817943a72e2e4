//! Group commit: one `fdatasync` makes everything durable that was appended before it began.
//!
//! A [`Syncer`] lives in a thread of its own, so that neither reading nor the sync of another epoch
//! waits. It also does the slow work that a sync allows, when those who waited for the sync have
//! been told: it deletes the segments below the newest DONE that is itself on disk, and looks
//! whether a full disk has room again.

use std::io;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use super::SyncPolicy;
use super::record::Position;
use super::segment;
use super::shared::{Segment, Shared};
use crate::crash::crash_point;
use crate::error::Result;

/// Makes the journal durable, from any thread.
#[derive(Clone, Debug)]
pub struct Syncer {
    pub(super) shared: Arc<Shared>,
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

    /// Deletes what is done with, and wakes those who wait for room if there is some.
    ///
    /// Call it after every sync, and at least once a second while the journal is full: it is what
    /// notices that a full disk has room again.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn tidy(&self) -> Result<()> {
        self.shared.check_poison()?;
        self.shared.retire()?;
        self.shared.restock()
    }

    /// Has the disk begin to write what was appended, without waiting for it.
    pub fn begin(&self) {
        self.shared.begin_to_sync();
    }

    /// How far the journal is on disk.
    pub fn synced_through(&self) -> Position {
        Position(self.shared.synced.load(Ordering::Acquire))
    }
}

impl Shared {
    pub(super) fn sync(&self) -> Result<u64> {
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
        crash_point("journal.after_sync");
        self.close_synced(goal);
        Ok(goal)
    }

    fn begin_to_sync(&self) {
        if self.settings.sync == SyncPolicy::Never {
            return;
        }
        let goal = self.appended.load(Ordering::Acquire);
        let begun =
            self.begun.swap(goal, Ordering::AcqRel).max(self.synced.load(Ordering::Acquire));
        let segments = self.ledger().between(begun, goal);
        for Segment { base, file, .. } in segments {
            let Some(file) = file else { continue };
            let from = begun.max(base);
            file.begin_to_sync(segment::HEADER + from - base, goal.saturating_sub(from));
        }
    }

    /// The segments with bytes behind `synced`, the position that syncing them reaches, and whether
    /// the folder has to be synced with them.
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

    /// Closes the files that nobody has to sync again.
    fn close_synced(&self, synced: u64) {
        let mut ledger = self.ledger();
        for at in 1..ledger.segments.len() {
            if ledger.segments[at].base <= synced {
                ledger.segments[at - 1].file = None;
            }
        }
    }

    /// Deletes the segments that the newest durable DONE does not need, or sets them aside.
    pub(super) fn retire(&self) -> Result<()> {
        let _turn = self.syncing.lock().unwrap_or_else(PoisonError::into_inner);
        let old = self.retired();
        if old.is_empty() {
            return Ok(());
        }
        if !self.settings.keep_journal {
            crash_point("journal.before_delete");
            for old in &old {
                let name = segment::name(old.base);
                let removed: io::Result<()> = self.disk.remove(&name);
                removed.map_err(|error| self.poison("removing", &name, error))?;
                if self.settings.sync != SyncPolicy::Never {
                    // One by one: a crash that took back an older removal but not a newer one would
                    // leave a hole, and a hole is what damage looks like.
                    let synced = self.disk.sync();
                    synced.map_err(|error| self.poison("syncing the folder of", &name, error))?;
                }
                crash_point("journal.mid_delete");
            }
        }
        let mut ledger = self.ledger();
        if self.settings.keep_journal {
            ledger.kept += old.len();
        } else {
            ledger.segments.drain(..old.len());
            ledger.names_changed = true;
        }
        drop(ledger);
        crash_point("journal.after_delete");
        self.room.wake_all();
        Ok(())
    }

    /// The live segments wholly below the newest DONE that a crash cannot take back. Deleting for a
    /// DONE that is not on disk could leave a log that begins in the middle and nothing that says
    /// why.
    fn retired(&self) -> Vec<Segment> {
        let ledger = self.ledger();
        let synced = self.synced.load(Ordering::Acquire);
        let durable = |end: u64| end <= synced || self.settings.sync == SyncPolicy::Never;
        let Some((done, _)) = ledger.done.as_ref().filter(|(_, end)| durable(*end)) else {
            return Vec::new();
        };
        let live = ledger.segments.iter().skip(ledger.kept);
        let next = ledger.segments.iter().skip(ledger.kept + 1);
        live.zip(next)
            .take_while(|(_, next)| next.base <= done.resume.position.0)
            .map(|(segment, _)| segment.clone())
            .collect()
    }

    /// Brings the reserve back, and tells those who wait when a disk that was full has room again.
    fn restock(&self) -> Result<()> {
        let mut ledger = self.ledger();
        let wanted = if ledger.disk_full { 2 } else { 1 };
        if !ledger.disk_full && ledger.spares.len() >= wanted {
            return Ok(());
        }
        let full = self.stock(&mut ledger, wanted)?;
        let has_reserve = !ledger.spares.is_empty();
        drop(ledger);
        // The cap may forbid a second spare while the disk has room: that is no reason to go on
        // waiting for the disk, and the next append tells which it is.
        if full.is_none() && has_reserve {
            self.room.wake_all();
        }
        Ok(())
    }
}
