//! The source log: the ordered record stream of one source, split into lines and cut into epochs.
//!
//! One task owns a [`SourceLog`]: the task that reads the source. It opens connections, reads into
//! [`SourceLog::spare`] and hands over. The bytes go into the journal first, then through the
//! splitter of their connection to the workers. Cuts and commits are messages ([`LogMessage`]) that
//! the same task takes between two steps, so a cut is exact because it is a message in order: no
//! byte is between journal and lines then, and nothing is locked while the disk is waited for.
//!
//! ```text
//! bytes ─► ready ─► spare, filled ─► hand_over ─► journal ─► splitter ─► feed
//!            ▲ room: workers, journal                 └── lagging: records come back ──┘
//! ```
//!
//! **Lagging.** When the workers have had no room for a moment, or at a start with records that are
//! not committed, the log *lags*: what is read goes into the journal only, and the records come
//! back from there as room comes ([`lagging_log`]). So a sender is held back only when the journal
//! is full, and what the kernel has received is soon safe.
//!
//! **Cuts.** An epoch ends at the position where its EpochEnd record stands. It is *passed* when
//! all lines before it are with the workers: at once unless the log lags ([`cuts_and_commits`]).
//!
//! **Sources that can be read again** copy nothing into the journal. EpochEnd and Committed records
//! hold their positions ([`replayable`]). Producers have numbered bytes ([`producers`]).
//!
//! One append is one `take` of the splitter, live and when it is read back: a replay must cut an
//! over-long line at the same places.

mod connection;
mod cuts_and_commits;
mod lagging_log;
mod producers;
mod replayable;
mod reports;
mod resume_log;
mod unkept_bytes;
mod wait_for_input;

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::sync::Notify;
use tokio::sync::mpsc::UnboundedReceiver;

use super::stop_signal::Stop;
use crate::crash_points::crash_point;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::feed::Feed;
use crate::journal::{Append, DATA_BYTES_MAX, Full, FullCause, Journal, LASTING, Position, Room};
use crate::lines::{Block, BlockPool, LineLimits, StreamEnd};
use crate::meters::SourceMeter;
use connection::Connection;
use cuts_and_commits::LogEpochs;
pub use cuts_and_commits::{LogEvents, LogMessage};
use lagging_log::Lagging;
pub use producers::LogProducer;
use producers::Producers;
use replayable::Replayable;
use reports::Reports;
pub use reports::{DISK_FULL, ROOM_AGAIN};
pub use resume_log::{LogSetup, Past};
use unkept_bytes::WithoutRoom;

/// A read that only goes into the journal. A little less than a block, so that reading it back
/// finds room in one beside an unfinished line.
const ASIDE_BYTES: usize = 192 << 10;

/// So many bytes are synced without waiting for a cut: the sync there, for which the epoch waits,
/// then has little left to do.
const SYNC_BYTES: usize = 8 << 20;

/// With so many connections each holds as little as it can.
const MANY_CONNECTIONS: usize = 16;

/// The log of one source. The task that reads the source owns it.
pub struct SourceLog {
    /// The index of the source, which blocks bear.
    source: u32,
    /// The limits of lines and words.
    limits: LineLimits,
    /// Bounds the blocks that are not counted yet.
    pool: BlockPool,
    /// Takes the blocks.
    feed: Feed,
    /// The signal to stop reading.
    stop: Stop,
    /// Receives what happens in the log.
    events: Arc<dyn LogEvents>,
    /// Cuts and commits, in order.
    inbox: UnboundedReceiver<LogMessage>,
    /// `None` without a state folder.
    journal: Option<Journal>,
    /// The room in the journal, where bytes go into one.
    room: Option<Room>,
    /// The folder of the journal.
    folder: Option<PathBuf>,
    /// The positions of a source that can be read again; `None` for any other.
    replayable: Option<Replayable>,
    /// The open epoch and those before it.
    epochs: LogEpochs,
    /// The connections whose bytes are being split, by id.
    connections: BTreeMap<u64, Connection>,
    /// The id of the next connection.
    next_connection: u64,
    /// The producers and their offsets.
    producers: Producers,
    /// The end of the records that were split.
    split: Position,
    /// Records before this position were split by a former run.
    split_before: Position,
    /// Records and bytes that were split: it orders the blocks of the source.
    order: u64,
    /// Records on their way back from the journal; `None` unless the log lags.
    lagging: Option<Lagging>,
    /// Where a kept journal is run again from.
    replayed_from: Option<Position>,
    /// Where to read while the log lags.
    aside: Vec<u8>,
    /// Bytes in `aside` that are not in the journal yet.
    aside_pending: usize,
    /// Bytes since a sync was asked for.
    unsynced: usize,
    /// Bytes of memory that the unfinished lines are taken to hold.
    held_bytes: usize,
    /// Bytes since the unfinished lines were looked at.
    unchecked: u64,
    /// Reports to the user that are due.
    reports: Reports,
    /// Notified when records have come back from the journal.
    came_back: Arc<Notify>,
    /// The figures of the source.
    meter: Arc<SourceMeter>,
    /// Set when nothing more can come from the source.
    has_ended: Arc<AtomicBool>,
}

impl SourceLog {
    /// Returns the signal to stop reading.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns true if lines that are not committed can be read again.
    pub fn is_kept(&self) -> bool {
        self.journal.is_some()
    }

    /// Returns the folder of the journal, where the source may keep what belongs to it.
    pub fn folder(&self) -> Option<&Path> {
        self.folder.as_deref()
    }

    /// Returns true if there are records that the workers do not have yet.
    pub fn is_lagging(&self) -> bool {
        self.lagging.is_some()
    }

    /// Opens a connection; returns its id. It costs nothing before its first bytes.
    pub fn open_connection(&mut self) -> u64 {
        self.next_connection += 1;
        self.next_connection - 1
    }

    /// Returns where to read into, after [`SourceLog::ready`]. The bytes of one connection are
    /// handed over before those of another are read.
    pub fn spare(&mut self, connection: u64) -> &mut [u8] {
        let most = self.record_bytes_max();
        if self.lagging.is_some() {
            let pending = self.aside_pending;
            let most = self.aside.len().min(most);
            return &mut self.aside[pending..most];
        }
        let is_replayable = self.replayable.is_some();
        let connection = self.connection(connection);
        let (unfinished, pending) = (connection.unfinished, connection.pending);
        let spare = connection.splitter.spare();
        if is_replayable {
            // The bytes of a line that was open are fed on their own, as they were then.
            let most = if unfinished > 0 { unfinished - pending as u64 } else { u64::MAX };
            let most = usize::try_from(most).unwrap_or(usize::MAX).min(spare.len());
            return &mut spare[..most];
        }
        let most = spare.len().min(most);
        &mut spare[pending..most]
    }

    /// Takes the first `bytes` bytes of [`SourceLog::spare`] as read.
    pub fn filled(&mut self, connection: u64, bytes: usize) {
        if self.lagging.is_some() {
            self.aside_pending += bytes;
        } else {
            let is_replayable = self.replayable.is_some();
            let connection = self.connection(connection);
            connection.pending += bytes;
            if is_replayable {
                connection.splitter.filled(bytes);
            }
        }
        self.meter.bytes.add(bytes as u64);
        crash_point("source.after_read");
    }

    /// Returns the figures of the source.
    pub fn meter(&self) -> &Arc<SourceMeter> {
        &self.meter
    }

    /// Keeps what was read, and hands the whole lines of it to the workers unless the log lags. It
    /// waits only while the journal is full. At a stop, what can find no room goes to the workers
    /// all the same: see [`unkept_bytes`].
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn hand_over(&mut self, connection: u64) -> Result<()> {
        self.hand_over_or(connection, WithoutRoom::HandOver).await.map(drop)
    }

    /// Hands over what was read; at a stop, does with what finds no room as `without_room` states.
    /// Returns false if it gave bytes up.
    async fn hand_over_or(&mut self, connection: u64, without_room: WithoutRoom) -> Result<bool> {
        loop {
            let handed_over = if self.syncs_always() {
                tokio::task::block_in_place(|| self.try_hand_over(connection))
            } else {
                self.try_hand_over(connection)
            };
            let Some(full) = handed_over? else { break };
            match without_room {
                WithoutRoom::GiveUp if self.stop.is_stopped() => {
                    self.give_up(connection);
                    return Ok(false);
                }
                WithoutRoom::HandOver if self.can_only_go_unkept()? => {
                    self.hand_over_unkept(connection).await?;
                    break;
                }
                WithoutRoom::GiveUp | WithoutRoom::HandOver => {}
            }
            self.report_full(full.cause);
            let meter = Arc::clone(&self.meter);
            let _blocked = meter.blocked.run();
            self.wait_for_room(full, true).await?;
        }
        self.report(connection);
        Ok(true)
    }

    /// Appends bytes that are in memory, in as many pieces as that takes.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn append(&mut self, connection: u64, bytes: &[u8]) -> Result<()> {
        self.append_or(connection, bytes, WithoutRoom::HandOver).await.map(drop)
    }

    /// Appends bytes whose sender waits for an acknowledgement. Returns false if the run stops
    /// while the journal is full: the bytes from there on are given up.
    ///
    /// # Errors
    /// `Disk` if the journal fails.
    pub async fn append_acknowledged(&mut self, connection: u64, bytes: &[u8]) -> Result<bool> {
        self.append_or(connection, bytes, WithoutRoom::GiveUp).await
    }

    /// Appends bytes; returns false if it gave some up.
    async fn append_or(
        &mut self,
        connection: u64,
        mut bytes: &[u8],
        without_room: WithoutRoom,
    ) -> Result<bool> {
        while !bytes.is_empty() {
            self.ready(connection).await?;
            let spare = self.spare(connection);
            let (now, rest) = bytes.split_at(bytes.len().min(spare.len()));
            spare[..now.len()].copy_from_slice(now);
            self.filled(connection, now.len());
            if !self.hand_over_or(connection, without_room).await? {
                return Ok(false);
            }
            bytes = rest;
        }
        Ok(true)
    }

    /// Ends a connection: `Reset` drops its unfinished line, the others make it a line. The
    /// connection of a producer goes on after `Stop`.
    ///
    /// # Errors
    /// `Disk` if the journal fails or has no room for this record.
    pub fn end_connection(&mut self, connection: u64, end: StreamEnd) -> Result<()> {
        let mut ended_at = None;
        if let Some(journal) = self.journal.as_mut().filter(|_| self.replayable.is_none()) {
            match journal.append_stream_end(connection, end)? {
                Append::Stored { end, .. } => ended_at = Some(end),
                Append::Full(_) => {
                    let message = "the journal has no room for the end of a connection";
                    return Err(Error::new(ErrorKind::Disk, message)
                        .hint("free disk space or raise --journal-max"));
                }
            }
        }
        if self.lagging.is_none() {
            self.split_through(ended_at, 0);
            self.end_split(connection, end);
        }
        self.have_synced(0);
        self.reports.report();
        Ok(())
    }

    /// Appends what was read of a connection; returns why it could not, if the journal is full.
    fn try_hand_over(&mut self, id: u64) -> Result<Option<Full>> {
        if self.lagging.is_some() {
            return self.append_aside(id);
        }
        let is_replayable = self.replayable.is_some();
        let connection = self.connection(id);
        let bytes = connection.pending;
        if bytes == 0 {
            // Connections that were about to be read and had nothing must not hold the room.
            if connection.unfinished == 0 && !is_replayable {
                connection.splitter.release();
            }
            return Ok(None);
        }
        if is_replayable {
            self.connection(id).pending = 0;
            let block = self.connection(id).take(None, (0, bytes as u64));
            self.split_through(None, bytes as u64);
            self.push(block);
            return Ok(None);
        }
        let mut place = None;
        if let Some(journal) = &mut self.journal {
            let connection = self.connections.get_mut(&id);
            let Some(connection) = connection else { return Ok(None) };
            let read = &connection.splitter.spare()[..bytes];
            match journal.append_data(id, read)? {
                Append::Stored { position, end } => place = Some((position, end)),
                Append::Full(full) => return Ok(Some(full)),
            }
        }
        let connection = self.connection(id);
        connection.pending = 0;
        connection.splitter.filled(bytes);
        let block = connection.take(place.map(|(position, _)| position), (0, bytes as u64));
        crash_point("source.before_push");
        self.split_through(place.map(|(_, end)| end), bytes as u64);
        self.push(block);
        self.bound_held_lines(id);
        self.producers.appended(id, bytes as u64, self.epochs.open());
        self.have_synced(bytes);
        self.bound_lines(bytes as u64)?;
        Ok(None)
    }

    /// Appends what was read while the log lags.
    fn append_aside(&mut self, id: u64) -> Result<Option<Full>> {
        let bytes = self.aside_pending;
        if bytes == 0 {
            return Ok(None);
        }
        if let Some(journal) = &mut self.journal
            && let Append::Full(full) = journal.append_data(id, &self.aside[..bytes])?
        {
            return Ok(Some(full));
        }
        self.aside_pending = 0;
        self.producers.appended(id, bytes as u64, self.epochs.open());
        self.have_synced(bytes);
        Ok(None)
    }

    /// Notes that the records up to `end` were split, the last of which had `bytes` bytes.
    fn split_through(&mut self, end: Option<Position>, bytes: u64) {
        self.order += 1 + bytes;
        if let Some(end) = end {
            self.split = end;
        }
    }

    /// Ends a connection in its splitter.
    fn end_split(&mut self, id: u64, end: StreamEnd) {
        if id & LASTING != 0 && end == StreamEnd::Stop {
            let connection = self.connection(id);
            let block = connection.splitter.end(end);
            connection.settle_state();
            self.push(block);
            self.bound_held_lines(id);
            return;
        }
        let Some(mut connection) = self.connections.remove(&id) else { return };
        self.held_bytes = self.held_bytes.saturating_sub(connection.held);
        let block = connection.splitter.end(end);
        self.push(block);
        self.reports.discarded(&mut connection);
    }

    /// Hands a block over, unless it belongs to an epoch that is committed.
    fn push(&self, block: Option<Block>) {
        let epoch = self.epochs.of_next_line();
        if let Some(block) = block.filter(|_| !self.epochs.is_committed(epoch)) {
            self.feed.push(epoch, block.placed_at(self.order));
        }
    }

    /// Returns the connection with this id, which begins if it is not known.
    fn connection(&mut self, id: u64) -> &mut Connection {
        let (source, limits, pool) = (self.source, self.limits, &self.pool);
        let offset = self.producers.split_offset(id);
        let are_many = self.connections.len() >= MANY_CONNECTIONS;
        let begin = || {
            let mut connection = Connection::new(source, limits, pool.clone(), offset);
            if are_many {
                connection.splitter.be_one_of_many();
            }
            connection
        };
        self.connections.entry(id).or_insert_with(begin)
    }

    /// Asks for what makes `bytes` more bytes in the journal durable in time.
    fn have_synced(&mut self, bytes: usize) {
        if self.room.is_none() {
            return;
        }
        self.events.appended();
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES {
            self.events.write_due();
            self.unsynced = 0;
        }
    }

    /// Splits what was read of a connection and stands in no record.
    fn split_unkept(&mut self, id: u64) {
        let connection = self.connection(id);
        let bytes = std::mem::take(&mut connection.pending);
        connection.splitter.filled(bytes);
        let block = connection.take(None, (0, bytes as u64));
        self.split_through(None, bytes as u64);
        self.push(block);
        self.bound_held_lines(id);
    }

    /// Returns true if every append is synced before the bytes are handed over.
    fn syncs_always(&self) -> bool {
        self.room.as_ref().is_some_and(Room::syncs_always)
    }

    /// Returns the most bytes of one record.
    fn record_bytes_max(&self) -> usize {
        self.room.as_ref().map_or(DATA_BYTES_MAX, Room::record_bytes_max)
    }

    /// Reports what the limits discarded of a connection.
    fn report(&mut self, id: u64) {
        if let Some(connection) = self.connections.get_mut(&id) {
            self.reports.discarded(connection);
        }
        self.reports.report();
    }

    /// Reports once why reading stops.
    fn report_full(&mut self, cause: FullCause) {
        self.meter.journal_full(match cause {
            FullCause::Disk => DISK_FULL,
            FullCause::Cap => "the journal is full: see --journal-max",
        });
        self.reports.full(cause);
    }

    /// Notes that nothing more can come from the source.
    pub fn input_has_ended(&self) {
        self.has_ended.store(true, Ordering::Release);
    }
}

impl fmt::Debug for SourceLog {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SourceLog")
            .field("source", &self.source)
            .field("epochs", &self.epochs)
            .field("connections", &self.connections.len())
            .field("is_lagging", &self.is_lagging())
            .finish_non_exhaustive()
    }
}

/// Positions of epochs that a former run ended: the epoch and the positions of the source there.
type RecordedEnds = VecDeque<(Epoch, Vec<u8>)>;
