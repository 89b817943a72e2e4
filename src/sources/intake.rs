//! Between a source and the workers: bytes in, blocks out, and the journal in between.
//!
//! A source reads into [`Intake::spare`] and hands over. The bytes go into the journal first, then
//! through the splitter to the workers. When the workers have had no room for a moment, the intake
//! goes *behind*: the source reads on, into the journal only, and [`Intake::catch_up`] brings the
//! records back from there as room comes, until it is at the tail again. So a sender is held back
//! only when the journal is full, and what the kernel has received is soon safe.
//!
//! One append is one `take` of the splitter, here and when it is read back: a replay must cut an
//! over-long line at the same places.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use super::behind::Behind;
use super::stop::Stop;
use super::track::{Taken, Track};
use crate::crash::crash_point;
use crate::error::Result;
use crate::journal::{DATA_BYTES_MAX, Full, FullCause, Room};
use crate::lines::{BlockPool, LineLimits, LineSplitter, LineStats, StreamEnd};
use crate::meters::SourceMeter;

/// How long the workers may have no room before the source reads into the journal only. Counting at
/// full speed frees room many times in this time, and then reading back would be work for nothing.
const PATIENCE: Duration = Duration::from_millis(50);

/// A read that only goes into the journal. A little less than a block, so that reading it back
/// finds room in one beside an unfinished line.
const ASIDE_BYTES: usize = 192 << 10;

/// Room that the journal must have before the source is read, in bytes.
const ROOM_BYTES: u64 = DATA_BYTES_MAX as u64 + 64;

/// So many bytes are synced without waiting for a border: the sync there, for which the epoch
/// waits, then has little left to do.
const SYNC_BYTES: usize = 8 << 20;

/// How often a full disk is looked at again.
const DISK_PAUSE: Duration = Duration::from_secs(1);

/// Takes the bytes of one source and pushes them, as blocks of whole lines, into the feed.
#[derive(Debug)]
pub struct Intake {
    pub(super) track: Track,
    pub(super) splitter: LineSplitter,
    stop: Stop,
    told: LineStats,
    /// It was said that the journal is full.
    told_full: bool,
    /// It was said that a line was cut for the journal's sake.
    told_cut: bool,
    room: Option<Room>,
    /// Most bytes of a read.
    record_bytes_max: usize,
    /// An append waits for the disk.
    syncs_always: bool,
    behind: Option<Behind>,
    /// Where to read while behind.
    aside: Vec<u8>,
    /// Bytes of the next record, read and not handed over.
    pending: usize,
    connection: u64,
    /// Borders that the splitter has settled for.
    pub(super) borders: u64,
    unsynced: usize,
    /// The figures of the source.
    meter: Arc<SourceMeter>,
}

impl Intake {
    /// The intake of the source with this index, which goes on where the track is.
    pub fn new(
        source: u32,
        limits: LineLimits,
        pool: BlockPool,
        track: Track,
        next_connection: u64,
        stop: Stop,
        meter: Arc<SourceMeter>,
    ) -> Self {
        let state = track.splitter_state();
        let splitter = LineSplitter::resume(source, limits, pool, state);
        let room = track.room();
        let behind = room.as_ref().and_then(|_| Behind::at_start(&track, state));
        Intake {
            track,
            splitter,
            stop,
            told: LineStats::default(),
            told_full: false,
            told_cut: false,
            syncs_always: room.as_ref().is_some_and(Room::syncs_always),
            record_bytes_max: room.as_ref().map_or(DATA_BYTES_MAX, Room::record_bytes_max),
            room,
            behind,
            aside: Vec::new(),
            pending: 0,
            connection: next_connection,
            borders: 0,
            unsynced: 0,
            meter,
        }
    }

    /// Returns the figures of the source.
    pub fn meter(&self) -> &Arc<SourceMeter> {
        &self.meter
    }

    /// The word when to stop.
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns true if there are records that the workers do not have yet.
    pub fn is_behind(&self) -> bool {
        self.behind.is_some()
    }

    /// Waits until there is room for the next read: the back-pressure that a sender feels. With a
    /// journal it is felt only when that is full. Safe to cancel.
    pub async fn ready(&mut self) -> Result<()> {
        self.journal_room().await?;
        if self.behind.is_none() && !self.splitter.try_ready() {
            if self.room.is_none() {
                let meter = Arc::clone(&self.meter);
                let _blocked = meter.blocked.run();
                self.splitter.ready().await;
            } else if tokio::time::timeout(PATIENCE, self.splitter.ready()).await.is_err() {
                self.behind = Behind::from_here(&self.track);
            }
        }
        if self.behind.is_some() {
            self.aside.resize(ASIDE_BYTES, 0);
        }
        Ok(())
    }

    /// The same for a source that nothing is lost of while it waits: it never gets ahead of the
    /// workers.
    pub async fn ready_in_step(&mut self) -> Result<()> {
        self.finish().await?;
        self.journal_room().await?;
        if !self.splitter.try_ready() {
            let meter = Arc::clone(&self.meter);
            let _blocked = meter.blocked.run();
            self.splitter.ready().await;
        }
        Ok(())
    }

    /// Does `work`, and catches up meanwhile.
    pub async fn alongside<T>(&mut self, work: impl Future<Output = T>) -> Result<T> {
        let mut work = pin!(work);
        loop {
            tokio::select! {
                done = &mut work => return Ok(done),
                caught_up = self.catch_up(), if self.is_behind() => caught_up?,
            }
        }
    }

    /// Where to read into.
    pub fn spare(&mut self) -> &mut [u8] {
        let pending = self.pending;
        let spare = if self.behind.is_some() { &mut self.aside } else { self.splitter.spare() };
        let most = spare.len().min(self.record_bytes_max);
        &mut spare[pending..most]
    }

    /// Takes the first `bytes` bytes of [`Intake::spare`] as read.
    pub fn filled(&mut self, bytes: usize) {
        self.pending += bytes;
        self.meter.bytes.add(bytes as u64);
        crash_point("source.after_read");
    }

    /// Keeps what was read, and hands the whole lines of it to the workers unless they have no
    /// room.
    pub async fn hand_over(&mut self) -> Result<()> {
        loop {
            let handed_over = if self.syncs_always {
                tokio::task::block_in_place(|| self.try_hand_over())
            } else {
                self.try_hand_over()
            };
            match handed_over? {
                None => break,
                Some(full) => {
                    self.tell_full(full.cause);
                    let meter = Arc::clone(&self.meter);
                    let _blocked = meter.blocked.run();
                    self.wait_for_room(full).await?;
                }
            }
        }
        self.tell();
        Ok(())
    }

    fn try_hand_over(&mut self) -> Result<Option<Full>> {
        let bytes = std::mem::take(&mut self.pending);
        if bytes == 0 {
            return Ok(None);
        }
        let track = self.track.clone();
        let mut shared = track.lock();
        let is_behind = self.behind.is_some();
        let read = if is_behind { &self.aside[..bytes] } else { &self.splitter.spare()[..bytes] };
        let at = match shared.append(self.connection, read)? {
            Taken::At(position, next) => (position, next),
            Taken::Full(full) => {
                self.pending = bytes;
                return Ok(Some(full));
            }
        };
        if !is_behind {
            if shared.borders != self.borders {
                self.borders = shared.borders;
                self.splitter.settle();
            }
            self.splitter.filled(bytes);
            let block = self.splitter.take();
            shared.place.advance(at, (0, bytes as u64), self.splitter.state());
            crash_point("source.before_push");
            shared.push(block);
        }
        drop(shared);
        self.have_synced(bytes);
        self.cut_long_line()?;
        Ok(None)
    }

    /// Cuts the unfinished line if its records keep more of the journal than a line may: the
    /// journal could not let go of them before the line ends, and might be full before.
    fn cut_long_line(&mut self) -> Result<()> {
        let Some(most) = self.room.as_ref().map(Room::line_bytes_max) else { return Ok(()) };
        let track = self.track.clone();
        let mut shared = track.lock();
        while self.behind.is_none() && shared.place.line_record_bytes() > most {
            let at = match shared.append_line_cut(self.connection)? {
                Taken::At(position, next) => (position, next),
                // Ends of epochs need what room is left; it is cut when there is more.
                Taken::Full(_) => break,
            };
            if shared.borders != self.borders {
                self.borders = shared.borders;
                self.splitter.settle();
            }
            let block = self.splitter.cut_open_line();
            shared.place.advance(at, (0, 0), self.splitter.state());
            shared.push(block);
            if !std::mem::replace(&mut self.told_cut, true) {
                tracing::warn!(
                    "a line takes more than {most} bytes of the journal: it is cut at a space, as \
                     one above --max-line-bytes is; see --journal-max"
                );
            }
        }
        Ok(())
    }

    /// Asks for what makes `bytes` more bytes in the journal durable in time.
    fn have_synced(&mut self, bytes: usize) {
        if self.room.is_none() {
            return;
        }
        self.track.watcher().appended();
        self.unsynced += bytes;
        if self.unsynced >= SYNC_BYTES {
            self.track.watcher().write_due();
            self.unsynced = 0;
        }
    }

    /// Ends the stream; the next one begins with a new line.
    pub fn end(&mut self, end: StreamEnd) -> Result<()> {
        let track = self.track.clone();
        let mut shared = track.lock();
        let at = match shared.append_end(self.connection, end)? {
            Taken::At(position, next) => (position, next),
            Taken::Full(_) => {
                let message = "the journal has no room for the end of a connection";
                return Err(crate::Error::new(crate::ErrorKind::Disk, message)
                    .hint("free disk space or raise --journal-max"));
            }
        };
        self.connection += 1;
        if self.behind.is_none() {
            let block = self.splitter.end(end);
            shared.push(block);
            shared.place.advance(at, (0, 0), self.splitter.state());
        }
        drop(shared);
        self.have_synced(0);
        self.tell();
        Ok(())
    }

    /// Brings records back from the journal, as many as there is room for now, once there is room.
    /// Does nothing unless behind. Safe to cancel.
    pub async fn catch_up(&mut self) -> Result<()> {
        if self.behind.is_none() {
            return Ok(());
        }
        self.splitter.ready().await;
        // Records that have left the page cache are read from the disk.
        tokio::task::block_in_place(|| self.bring_back())
    }

    fn bring_back(&mut self) -> Result<()> {
        let Some(behind) = &mut self.behind else { return Ok(()) };
        let step = behind.step(&self.track, &mut self.splitter)?;
        for epoch in &step.passed {
            self.track.watcher().passed(*epoch);
        }
        if let Some(borders) = step.at_tail {
            self.behind = None;
            self.borders = borders;
            self.cut_long_line()?;
        }
        self.tell();
        Ok(())
    }

    /// Brings back everything that was read, for a source that has ended.
    pub async fn finish(&mut self) -> Result<()> {
        while self.is_behind() {
            self.catch_up().await?;
        }
        Ok(())
    }

    /// Returns true if the journal is full. Bytes in the sockets then stay there.
    pub fn is_full(&self) -> bool {
        self.room.as_ref().is_some_and(|room| room.look(ROOM_BYTES).is_some())
    }

    async fn journal_room(&mut self) -> Result<()> {
        let meter = Arc::clone(&self.meter);
        let mut blocked = None;
        while let Some(full) = self.full() {
            self.tell_full(full.cause);
            if self.stop.is_stopped() {
                return Ok(());
            }
            blocked.get_or_insert_with(|| meter.blocked.run());
            self.wait_for_room(full).await?;
        }
        drop(blocked);
        if std::mem::take(&mut self.told_full) {
            self.meter.journal_has_room();
            tracing::info!("the journal has room again: reading goes on");
        }
        Ok(())
    }

    /// Says once why reading stops.
    fn tell_full(&mut self, cause: FullCause) {
        if std::mem::replace(&mut self.told_full, true) {
            return;
        }
        self.meter.journal_full(match cause {
            FullCause::Disk => "the disk of the journal is full",
            FullCause::Cap => "the journal is full: see --journal-max",
        });
        match cause {
            FullCause::Disk => tracing::warn!(
                "the disk of the journal is full: reading stops until there is room again"
            ),
            FullCause::Cap => tracing::warn!(
                "the journal is full: reading stops until an epoch is committed; see --journal-max"
            ),
        }
    }

    fn full(&self) -> Option<Full> {
        self.room.as_ref().and_then(|room| room.look(ROOM_BYTES))
    }

    /// Waits until something has changed since the journal was found full; meanwhile catches up.
    async fn wait_for_room(&mut self, full: Full) -> Result<()> {
        let Some(room) = self.room.clone() else { return Ok(()) };
        self.track.watcher().room_wanted();
        let stop = self.stop.clone();
        // There is no event for a disk that somebody has cleared.
        let look_again = async {
            match full.cause {
                FullCause::Disk => tokio::time::sleep(DISK_PAUSE).await,
                FullCause::Cap => std::future::pending().await,
            }
        };
        let is_behind = self.behind.is_some() && self.pending == 0;
        tokio::select! {
            _ = room.wait_async(&full) => Ok(()),
            () = look_again => Ok(()),
            () = stop.stopped(), if self.pending == 0 => Ok(()),
            caught_up = self.catch_up(), if is_behind => caught_up,
        }
    }

    /// Says what the limits discarded, which nobody could otherwise see.
    pub(super) fn tell(&mut self) {
        let (now, told) = (self.splitter.stats(), self.told);
        if now == told {
            return;
        }
        if now.oversized_words > told.oversized_words {
            let words = now.oversized_words - told.oversized_words;
            tracing::warn!("{words} words longer than --max-word-bytes were not counted");
        }
        if now.dropped_lines > told.dropped_lines {
            let lines = now.dropped_lines - told.dropped_lines;
            tracing::warn!("{lines} lines longer than --max-line-bytes were dropped");
        }
        if now.dropped_bytes > told.dropped_bytes {
            let bytes = now.dropped_bytes - told.dropped_bytes;
            tracing::warn!(
                "the connection was reset: {bytes} bytes of an unfinished line were dropped"
            );
        }
        self.told = now;
    }
}
