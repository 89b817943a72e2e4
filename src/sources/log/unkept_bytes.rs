//! The last bytes of a run whose journal is full.
//!
//! A source that has to stop may hold bytes for which the journal has no room. Room comes when
//! an epoch is committed. If none waits to be, it cannot come any more: the open epoch is cut only
//! when the source has ended. So these bytes go to the workers without a record. They are counted
//! in the last epoch, and are lost if that one is not committed.

use super::SourceLog;
use crate::error::Result;
use crate::journal::{LASTING, Room};

impl SourceLog {
    /// Returns true if no room for what was read of a connection can come any more.
    pub fn can_only_go_unkept(&self, connection: u64) -> bool {
        // Producers learn that nothing was taken, and send it again.
        connection & LASTING == 0
            && self.stop.is_stopped()
            && !self.room.as_ref().is_some_and(Room::awaits_commit)
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
