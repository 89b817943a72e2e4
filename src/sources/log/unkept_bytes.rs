//! The last bytes of a run whose journal is full.
//!
//! A source that has to stop may hold bytes for which the journal has no room. Room comes when
//! an epoch is committed. If none waits to be, it cannot come any more: the open epoch is cut only
//! when the source has ended. So these bytes go to the workers without a record. They are counted
//! in the last epoch, and are lost if that one is not committed.
//!
//! Bytes whose sender waits for an acknowledgement never go without a record. They are given up at
//! the stop, and the sender is refused: it sends them again.

use super::SourceLog;
use crate::error::Result;
use crate::journal::Room;

/// The fate of bytes that find no room in the journal at a stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutRoom {
    /// They go to the workers without a record when no room can come any more.
    HandOver,
    /// They are dropped at once: their sender is refused.
    GiveUp,
}

impl SourceLog {
    /// Returns true if the run stops and no room can come any more for what was read. Takes the
    /// messages first: one may end an epoch, whose commit brings room.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn can_only_go_unkept(&mut self) -> Result<bool> {
        if !self.stop.is_stopped() {
            return Ok(false);
        }
        self.take_messages()?;
        Ok(!self.room.as_ref().is_some_and(Room::awaits_commit))
    }

    /// Drops what was read of a connection and stands in no record.
    pub fn give_up(&mut self, connection: u64) {
        self.aside_pending = 0;
        let known = self.connection(connection);
        known.pending = 0;
        if known.unfinished == 0 {
            known.splitter.release();
        }
    }

    /// Hands what was read of a connection to the workers, without a record.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn hand_over_unkept(&mut self, connection: u64) -> Result<()> {
        let aside = self.aside[..std::mem::take(&mut self.aside_pending)].to_vec();
        let bytes = aside.len() + self.connection(connection).pending;
        self.reports.unkept(bytes);
        // What the journal has comes first.
        self.finish().await?;
        if aside.is_empty() {
            self.split_unkept(connection);
        }
        let mut rest = &aside[..];
        while !rest.is_empty() {
            self.workers_room(connection, None).await?;
            let known = self.connection(connection);
            let spare = known.splitter.spare();
            let (now, later) = rest.split_at(rest.len().min(spare.len()));
            spare[..now.len()].copy_from_slice(now);
            known.pending = now.len();
            self.split_unkept(connection);
            rest = later;
        }
        Ok(())
    }
}
