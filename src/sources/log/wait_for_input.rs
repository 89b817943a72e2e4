//! The waits of a source log. In each of them messages are taken, and records are brought back.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Notify;

use super::connection::Connection;
use super::lagging_log::Lagging;
use super::{ASIDE_BYTES, SourceLog};
use crate::error::Result;
use crate::journal::{Append, DATA_BYTES_MAX, Full, FullCause};
use crate::lines::RoomRequest;

/// How long the workers may have no room before the source reads into the journal only. Counting at
/// full speed frees room many times in this time, and then reading back would be work for nothing.
const PATIENCE: Duration = Duration::from_millis(50);

/// Room that the journal must have before the source is read, in bytes.
const ROOM_BYTES: u64 = DATA_BYTES_MAX as u64 + 64;

/// Most bytes of memory that the unfinished lines of a source hold together, unless two of the
/// longest lines are more.
const HELD_BYTES_MAX: usize = 32 << 20;

/// How often a full disk is looked at again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

impl SourceLog {
    /// Waits until there is room for the next read of a connection: the back-pressure that a sender
    /// feels. With a journal it is felt only when that is full. Safe to cancel.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn ready(&mut self, connection: u64) -> Result<()> {
        self.take_messages()?;
        self.journal_room().await?;
        if self.lagging.is_none() {
            let patience = self.room.is_some().then_some(PATIENCE);
            if !self.workers_room(connection, patience).await?
                && let Some(journal) = &self.journal
            {
                self.lagging = Some(Lagging::from(journal.reader(self.split)));
            }
        }
        if self.lagging.is_some() && self.aside.is_empty() {
            self.aside.resize(ASIDE_BYTES, 0);
        }
        Ok(())
    }

    /// Waits as `ready` does, for a source that loses nothing while it waits: its log never lags.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn ready_in_step(&mut self, connection: u64) -> Result<()> {
        self.take_messages()?;
        self.finish().await?;
        self.journal_room().await?;
        self.workers_room(connection, None).await.map(drop)
    }

    /// Waits until the splitter of a connection has room; false when `patience` is at its end.
    pub async fn workers_room(&mut self, id: u64, patience: Option<Duration>) -> Result<bool> {
        let Some(request) = self.connection(id).splitter.room_wanted() else { return Ok(true) };
        let granted = match self.pool.try_grant(request) {
            Some(granted) => granted,
            None => {
                let pool = self.pool.clone();
                let meter = Arc::clone(&self.meter);
                // With a journal the source is read on, into that.
                let _blocked = patience.is_none().then(|| meter.blocked.run());
                let mut granted = pin!(pool.grant(request));
                let mut patience = pin!(async {
                    match patience {
                        Some(patience) => tokio::time::sleep(patience).await,
                        None => std::future::pending().await,
                    }
                });
                loop {
                    tokio::select! {
                        granted = &mut granted => break granted,
                        Some(message) = self.inbox.recv() => self.take_message(message)?,
                        () = &mut patience => return Ok(false),
                    }
                }
            }
        };
        self.connection(id).splitter.accept(granted);
        Ok(true)
    }

    /// Does `work`; takes messages and catches up meanwhile. Each wait of a source is in here.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn serve_during<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                tended = self.serve_one() => tended?,
            }
        }
    }

    /// Takes the next message, or brings some records back. Safe to cancel.
    async fn serve_one(&mut self) -> Result<()> {
        // Bytes without a record wait for room, and it is what comes back that frees room.
        let has_next = self.aside_pending == 0 || self.has_records_to_bring_back();
        let Some(request) = self.lagging_room().filter(|_| has_next) else {
            return match self.inbox.recv().await {
                Some(message) => self.take_message(message),
                None => std::future::pending().await,
            };
        };
        self.take_messages()?;
        if let Some((id, request)) = request {
            let pool = self.pool.clone();
            let granted = tokio::select! {
                biased;
                Some(message) = self.inbox.recv() => return self.take_message(message),
                granted = pool.grant(request) => granted,
            };
            self.connection(id).splitter.accept(granted);
        }
        // Records that have left the page cache are read from the disk.
        tokio::task::block_in_place(|| self.bring_back())
    }

    /// Returns true if the log lags and its journal has records that are not back yet.
    fn has_records_to_bring_back(&self) -> bool {
        let (Some(lagging), Some(journal)) = (&self.lagging, &self.journal) else { return false };
        lagging.position() < journal.tail()
    }

    /// Returns how many bytes of a connection the workers were given or its splitter holds.
    pub fn split_bytes(&self, connection: u64) -> u64 {
        self.connections.get(&connection).map_or(0, |connection| connection.fed)
    }

    /// Returns what is notified when records have come back from the journal.
    pub fn came_back(&self) -> Arc<Notify> {
        Arc::clone(&self.came_back)
    }

    /// Returns the room that the next record needs; `None` unless the log lags.
    fn lagging_room(&mut self) -> Option<Option<(u64, RoomRequest)>> {
        let waits = self.lagging.as_ref()?.waits;
        Some(waits.and_then(|id| {
            let request = self.connection(id).splitter.room_wanted();
            request.map(|request| (id, request))
        }))
    }

    /// Brings back everything that was read.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn finish(&mut self) -> Result<()> {
        while self.lagging.is_some() {
            self.serve_one().await?;
        }
        self.reports.report_all();
        Ok(())
    }

    /// Takes messages until none can come any more: the source has ended.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn serve(mut self) -> Result<()> {
        while !self.epochs.has_closed() {
            match self.inbox.recv().await {
                Some(message) => self.take_message(message)?,
                None => break,
            }
        }
        Ok(())
    }

    /// Returns true if the journal is full. Bytes in the sockets then stay there.
    pub fn is_full(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.look(ROOM_BYTES).is_some())
    }

    /// Makes sure that so many bytes find room in the journal and on the disk. Returns false if
    /// they do not. A full disk is reported.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub fn make_room(&mut self, bytes: u64) -> Result<bool> {
        let Some(room) = &self.room else { return Ok(true) };
        let Some(cause) = room.make_room(bytes)? else {
            if self.reports.has_room() {
                self.meter.journal_has_room();
            }
            return Ok(true);
        };
        if cause == FullCause::Disk {
            self.report_full(cause);
        }
        Ok(false)
    }

    /// Waits until the journal has room for a read, or until a stop. Messages are taken meanwhile.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn journal_room(&mut self) -> Result<()> {
        let meter = Arc::clone(&self.meter);
        let mut blocked = None;
        while let Some(full) = self.room.as_ref().and_then(|room| room.look(ROOM_BYTES)) {
            self.report_full(full.cause);
            if self.stop.is_stopped() {
                return Ok(());
            }
            blocked.get_or_insert_with(|| meter.blocked.run());
            self.wait_for_room(full, false).await?;
        }
        drop(blocked);
        if self.reports.has_room() {
            self.meter.journal_has_room();
        }
        Ok(())
    }

    /// Waits until something has changed since the journal was found full, or until a stop. A log
    /// that holds bytes which it has read waits through a stop, too.
    ///
    /// Fails with `Disk` if the journal has failed.
    pub async fn wait_for_room(&mut self, full: Full, holds_bytes: bool) -> Result<()> {
        let Some(room) = self.room.clone() else { return Ok(()) };
        self.events.room_wanted();
        let stop = self.stop.clone();
        // There is no event for a disk that has room again.
        let look_again = async {
            match full.cause {
                FullCause::Disk => tokio::time::sleep(DISK_PAUSE).await,
                FullCause::Cap => std::future::pending().await,
            }
        };
        tokio::select! {
            _ = room.wait_async(&full) => Ok(()),
            () = look_again => Ok(()),
            () = stop.stopped(), if !holds_bytes || !self.stop.is_stopped() => Ok(()),
            tended = self.serve_one() => tended,
        }
    }

    /// Keeps unfinished lines from holding the journal: one that needs old records is written
    /// again, or cut if it is long itself.
    pub fn bound_lines(&mut self, bytes: u64) -> Result<()> {
        let Some(most) = self.room.as_ref().map(|room| room.line_bytes_max()) else {
            return Ok(());
        };
        // To look at a thousand connections after each read would cost more than the reads.
        self.unchecked += bytes;
        if self.connections.len() > 1 && self.unchecked < most / 16 && bytes > 0 {
            return Ok(());
        }
        self.unchecked = 0;
        loop {
            let split = self.split;
            let holds = |connection: &Connection| {
                connection.first_record().is_some_and(|first| split.0 - first.0 > most)
            };
            let oldest = self.connections.iter().filter(|(_, connection)| holds(connection));
            let oldest = oldest.min_by_key(|(_, connection)| connection.first_record());
            let Some((&id, _)) = oldest.filter(|_| self.lagging.is_none()) else { return Ok(()) };
            if !self.relieve(id, most)? {
                // Ends of epochs need what room is left; it is tried again when there is more.
                return Ok(());
            }
        }
    }

    /// Takes over how much memory the unfinished line of a connection holds. While all together
    /// hold too much, the longest is cut.
    ///
    /// It is called after each record that was split, live and when records come back, and looks
    /// at nothing but what was split so far. So a replay cuts the same lines at the same places,
    /// and no record states the cut.
    pub fn bound_held_lines(&mut self, id: u64) {
        self.update_held(id);
        let most = HELD_BYTES_MAX.max(2 * self.limits.line_bytes_max + (1 << 20));
        while self.held_bytes > most {
            let longest = self.connections.iter().max_by_key(|(_, connection)| connection.held);
            let Some((&longest, _)) = longest else { return };
            self.cut_split_line(longest);
            self.reports.lines_cut(most);
            if self.update_held(longest) >= 0 {
                return;
            }
        }
    }

    /// Takes over how much memory the unfinished line of a connection holds; returns by how much
    /// that has changed.
    fn update_held(&mut self, id: u64) -> isize {
        let connection = self.connections.get_mut(&id);
        let change = connection.map_or(0, Connection::update_held);
        self.held_bytes = self.held_bytes.saturating_add_signed(change);
        change
    }

    /// Cuts the unfinished line of a connection where it is split.
    pub fn cut_split_line(&mut self, id: u64) {
        let connection = self.connection(id);
        let block = connection.splitter.cut_open_line();
        connection.splitter.release();
        connection.settle_state();
        self.split_through(None, 0);
        self.push(block);
    }

    /// Frees the old records of an unfinished line; false if the journal is full.
    fn relieve(&mut self, id: u64, most: u64) -> Result<bool> {
        let unfinished = self.connection(id).splitter.unfinished().len() as u64;
        if unfinished <= most / 4 {
            return self.repeat_line(id);
        }
        let is_cut = self.cut_line(id)?;
        if is_cut {
            self.reports.line_cut(most);
        }
        Ok(is_cut)
    }

    /// Cuts the unfinished line of a connection; false if the journal is full.
    fn cut_line(&mut self, id: u64) -> Result<bool> {
        let mut cut_at = None;
        if let Some(journal) = &mut self.journal {
            match journal.append_line_cut(id)? {
                Append::Stored { end, .. } => cut_at = Some(end),
                Append::Full(_) => return Ok(false),
            }
        }
        self.cut_split_line(id);
        self.split = cut_at.unwrap_or(self.split);
        self.update_held(id);
        Ok(true)
    }

    /// Appends the bytes of an unfinished line again.
    fn repeat_line(&mut self, id: u64) -> Result<bool> {
        let most = self.record_bytes_max();
        let (Some(journal), Some(connection)) = (&mut self.journal, self.connections.get_mut(&id))
        else {
            return Ok(false);
        };
        let mut offset = connection.splitter_state().resume_offset;
        let mut anchors = std::collections::VecDeque::new();
        for bytes in connection.splitter.unfinished().chunks(most) {
            let Append::Stored { position, .. } = journal.append_repeat(id, offset, bytes)? else {
                return Ok(false);
            };
            anchors.push_back((offset, position));
            offset += bytes.len() as u64;
        }
        connection.move_anchors(anchors);
        self.split = journal.tail();
        Ok(true)
    }
}
