//! The writing end of a journal, whose one owner appends.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::disk::{self, File};
use super::group_sync::{Durable, Syncer};
use super::read_back::Reader;
use super::record::{
    ALL_CONNECTIONS, CommitNote, EpochEnd, LASTING, POSITIONS_BYTES_MAX, Position, Record, Resume,
};
use super::record_bytes::{self, FRAME};
use super::segment::{self, Facts, Header, SegmentState};
use super::shared_state::{JournalShared, Room, Segment};
use super::{Append, Full, FullCause, SyncPolicy};
use crate::crash_points::{self, crash_point};
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;

/// The local log of one source, open for appending.
///
/// One value appends; [`Syncer`], [`Room`] and [`Reader`] are handles for other threads. The folder
/// stays locked until all of them are gone.
#[derive(Debug)]
pub struct Journal {
    /// The state that syncer and readers share.
    pub(crate) shared: Arc<JournalShared>,
    /// The id that names the journal.
    pub(crate) id: u128,
    /// The facts that a restart must come with.
    pub(crate) facts: Facts,
    /// The segment that is appended to.
    pub(crate) active: Active,
    /// Where the next record goes.
    pub tail: u64,
    /// As the next segment's header will state it.
    pub standing: SegmentState,
    /// The newest epoch whose end is appended.
    pub(crate) last_epoch: Option<u64>,
    /// The position of its cut.
    pub(crate) last_cut: u64,
    /// A Data record must leave the reserve alone. Only this value takes a spare away, so `true`
    /// holds until then; `false` is looked up again.
    pub has_reserve: bool,
    /// End of the last record that brought or ended lines.
    pub last_line_record: u64,
    /// The greatest `synced_through` that a record or a header states.
    pub stated: u64,
    /// A buffer for control records, used again.
    pub(crate) scratch: Vec<u8>,
}

/// The segment that is written to.
#[derive(Debug)]
pub struct Active {
    /// The file of the segment.
    pub file: Arc<dyn File>,
    /// The position of its first byte in the log.
    pub base: u64,
    /// First position that is not in it.
    pub end: u64,
}

/// The permission of a record to use the reserve.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Share {
    /// Data, which may fill the journal up to its limit.
    Ordinary,
    /// Records that let it be emptied. They may use the reserve, too.
    Reserve,
}

impl Journal {
    /// Appends bytes of a connection as they were read: one write, no copy, no allocation, no sync
    /// (but with [`SyncPolicy::Always`]).
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before; `Failed` for no bytes or more than the record
    /// limit.
    pub fn append_data(&mut self, connection: u64, bytes: &[u8]) -> Result<Append> {
        let limit = self.shared.settings.record_bytes_max;
        if bytes.is_empty() || bytes.len() > limit {
            return Err(refused(format!(
                "{} bytes in one journal record, whose limit is {limit}",
                bytes.len()
            )));
        }
        crash_point("journal.before_append");
        if let Some(full) = self.reserve(FRAME + 8 + bytes.len(), Share::Ordinary)? {
            return Ok(Append::Full(full));
        }
        let head = record_bytes::data_head(self.shared.seed, self.tail, connection, bytes);
        let appended = self.put([&head, bytes])?;
        self.note_lines(appended);
        if let Append::Stored { .. } = appended {
            self.standing.opened(connection);
        }
        crash_point("journal.after_append");
        Ok(appended)
    }

    /// Appends the end of a connection.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn append_stream_end(&mut self, connection: u64, kind: StreamEnd) -> Result<Append> {
        crash_point("journal.before_stream_end");
        let appended = self.append_control(&Record::StreamEnd { connection, kind })?;
        self.note_lines(appended);
        if let Append::Stored { .. } = appended {
            self.standing.ended(connection);
        }
        crash_point("journal.after_stream_end");
        Ok(appended)
    }

    /// Appends the first bytes of an unfinished line once more, so that the records before are not
    /// needed for it.
    ///
    /// # Errors
    /// As [`append_data`](Journal::append_data).
    pub fn append_repeat(&mut self, connection: u64, offset: u64, bytes: &[u8]) -> Result<Append> {
        let limit = self.shared.settings.record_bytes_max;
        if bytes.is_empty() || bytes.len() > limit {
            return Err(refused(format!("{} repeated bytes in one journal record", bytes.len())));
        }
        if let Some(full) = self.reserve(FRAME + 16 + bytes.len(), Share::Ordinary)? {
            return Ok(Append::Full(full));
        }
        let numbers = (connection, offset);
        let head = record_bytes::repeat_head(self.shared.seed, self.tail, numbers, bytes);
        self.put([&head, bytes])
    }

    /// Appends that a new lasting connection is that of the producer called `name`.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn append_producer(&mut self, connection: u64, name: &[u8]) -> Result<Append> {
        debug_assert!(connection & LASTING != 0 && connection != ALL_CONNECTIONS);
        let appended = self.append_control(&Record::Producer { connection, name })?;
        if let Append::Stored { .. } = appended {
            self.standing.opened(connection);
        }
        Ok(appended)
    }

    /// Appends that the unfinished line of a connection is cut here, so that a replay cuts it at
    /// the same place.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn append_line_cut(&mut self, connection: u64) -> Result<Append> {
        let appended = self.append_control(&Record::LineCut { connection })?;
        self.note_lines(appended);
        Ok(appended)
    }

    /// Ends an epoch. Nothing of it may be published before a [`Syncer::sync`] that began after
    /// this.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before; `Failed` if epochs or cuts would go backward, or
    /// the cut or the resume position lies where it cannot.
    pub fn append_epoch_end(&mut self, end: &EpochEnd) -> Result<Append> {
        self.check_epoch_end(end)?;
        crash_point("journal.before_epoch_end");
        let appended = self.append_control(&Record::EpochEnd {
            end: end.clone(),
            synced_through: self.synced(),
            previous: self.standing.last_epoch_end.map(Position),
        })?;
        if let Append::Stored { position, .. } = appended {
            self.standing.last_epoch_end = Some(position.0);
            self.last_epoch = Some(end.epoch);
            self.last_cut = end.cut.0;
            self.shared.ledger().epoch_ends.push_back(end.clone());
        }
        crash_point("journal.after_epoch_end");
        Ok(appended)
    }

    /// Refuses an end of an epoch that does not follow those before it.
    fn check_epoch_end(&self, end: &EpochEnd) -> Result<()> {
        let EpochEnd { epoch, next_epoch, cut: Position(cut), resume } = end;
        let forward = self.last_epoch.is_none_or(|last| *epoch > last);
        if !forward || next_epoch <= epoch {
            return Err(refused(format!(
                "epoch {epoch} (next {next_epoch}) cannot end after {:?}",
                self.last_epoch
            )));
        }
        if *cut < self.last_cut || *cut > self.tail || resume.position.0 > *cut {
            return Err(refused(format!(
                "epoch {epoch} cannot be cut at {cut}: the last cut is {}, the tail {}",
                self.last_cut, self.tail
            )));
        }
        if resume.positions.len() > POSITIONS_BYTES_MAX {
            return Err(refused(format!(
                "{} bytes of positions, whose limit is {POSITIONS_BYTES_MAX}",
                resume.positions.len()
            )));
        }
        Ok(())
    }

    /// Appends a record of how far the log is on disk if lines are on disk that no record states to
    /// be; returns whether it did. Called after a sync. The record itself is on disk after the
    /// next.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn state_synced(&mut self) -> Result<bool> {
        let states_more = self.stated < self.last_line_record && self.synced().0 > self.stated;
        if states_more {
            return Ok(matches!(self.append_synced()?, Append::Stored { .. }));
        }
        Ok(false)
    }

    /// Appends a record of how far the log is on disk, so that damage to what was synced can be
    /// separated from a torn tail, and a restart verifies little.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before.
    pub fn append_synced(&mut self) -> Result<Append> {
        let synced_through = self.synced();
        let appended = self.append_control(&Record::Synced { synced_through })?;
        crash_point("journal.after_sync_record");
        Ok(appended)
    }

    /// Replaces where the replay after the end of `epoch` begins, for the Committed record that
    /// will state it: when the EpochEnd was appended, the lines before it may not all have been
    /// split yet. The cut is the latest that it can begin.
    pub fn refine_epoch_end(&self, epoch: u64, resume: &Resume) {
        let mut ledger = self.shared.ledger();
        if let Some(end) = ledger.epoch_ends.iter_mut().find(|end| end.epoch == epoch) {
            let position = resume.position.min(end.cut);
            end.resume = Resume { position, ..resume.clone() };
        }
    }

    /// Appends that every ended epoch up to `epoch` is committed. The segments that are not needed
    /// any more go when this is on disk, by [`Syncer::tidy`]. `None` if there is no such epoch: the
    /// log states that already.
    ///
    /// # Errors
    /// `Disk` if the disk failed, now or before; `Failed` for an epoch after the last EpochEnd.
    pub fn append_committed(&mut self, epoch: u64) -> Result<Option<Append>> {
        if self.last_epoch.is_none_or(|last| epoch > last) {
            return Err(refused(format!(
                "epoch {epoch} cannot be committed: the last that ended is {:?}",
                self.last_epoch
            )));
        }
        let newest = {
            let ledger = self.shared.ledger();
            let after = ledger.epoch_ends.partition_point(|end| end.epoch <= epoch);
            after.checked_sub(1).map(|at| ledger.epoch_ends[at].clone())
        };
        let Some(EpochEnd { epoch, resume, .. }) = newest else {
            return Ok(None);
        };
        let note = CommitNote { epoch, resume };
        crash_point("journal.before_committed");
        let appended = self.append_control(&Record::Committed {
            note: note.clone(),
            synced_through: self.synced(),
        })?;
        if let Append::Stored { position, end } = appended {
            self.standing.last_committed = Some(position.0);
            let mut ledger = self.shared.ledger();
            while ledger.epoch_ends.front().is_some_and(|end| end.epoch <= epoch) {
                ledger.epoch_ends.pop_front();
            }
            ledger.released_last = ledger.below(note.resume.position.0).count();
            ledger.committed = Some((note, end.0));
        }
        crash_point("journal.after_committed");
        Ok(Some(appended))
    }

    /// The id that names this journal, minted when it was made.
    pub fn id(&self) -> u128 {
        self.id
    }

    /// The end of the last record: the cut that takes all that was appended.
    pub fn tail(&self) -> Position {
        Position(self.tail)
    }

    /// Returns a function that returns the bytes of files that count against the limit, and the
    /// bytes that are not synced.
    pub fn gauge(&self) -> impl Fn() -> (u64, u64) + Send + use<> {
        let shared = Arc::clone(&self.shared);
        move || {
            let synced = shared.synced.load(Ordering::Acquire);
            let unsynced = shared.appended.load(Ordering::Acquire).saturating_sub(synced);
            (shared.ledger().bytes_held(), unsynced)
        }
    }

    #[cfg(any(test, feature = "internals"))]
    /// Bytes of files that count against the limit.
    pub fn bytes_held(&self) -> u64 {
        self.shared.ledger().bytes_held()
    }

    /// A handle that makes the journal durable.
    pub fn syncer(&self) -> Syncer {
        Syncer { shared: Arc::clone(&self.shared) }
    }

    /// A handle that waits for room.
    pub fn room(&self) -> Room {
        Room { shared: Arc::clone(&self.shared) }
    }

    /// Reads records from `from` on, which must be the position of a record.
    pub fn reader(&self, from: Position) -> Reader {
        Reader::new(Arc::clone(&self.shared), from)
    }

    /// Returns what resolves when all that is appended now is on disk.
    pub fn durable(&self) -> Durable {
        Durable::new(&self.shared, self.tail)
    }

    /// Notes where the last record with bytes of lines ends.
    fn note_lines(&mut self, appended: Append) {
        if let Append::Stored { end, .. } = appended {
            self.last_line_record = end.0;
        }
    }

    /// Returns the position up to which the log is on disk.
    fn synced(&self) -> Position {
        Position(self.shared.synced.load(Ordering::Acquire))
    }

    /// Appends a record that is not Data. It may use the reserve.
    fn append_control(&mut self, record: &Record<'_>) -> Result<Append> {
        let mut whole = std::mem::take(&mut self.scratch);
        record_bytes::encode_control(self.shared.seed, self.tail, record, &mut whole);
        let longest = FRAME + self.control_bytes_max();
        if whole.len() > longest {
            let message = format!(
                "{} bytes in one journal record, whose limit is {longest}: too many connections \
                 or producers, or too long positions",
                whole.len()
            );
            return Err(refused(message));
        }
        // A roll does not move the tail, so the encoding stays right.
        let appended = match self.reserve(whole.len(), Share::Reserve) {
            Ok(None) => self.put([&whole, &[]]),
            Ok(Some(full)) => Ok(Append::Full(full)),
            Err(error) => Err(error),
        };
        self.scratch = whole;
        if let (Ok(Append::Stored { .. }), Some(synced)) = (&appended, record.synced_through()) {
            self.stated = self.stated.max(synced.0);
        }
        appended
    }

    /// Most bytes of the payload of a record without bytes of a sender.
    pub fn control_bytes_max(&self) -> usize {
        self.shared.settings.record_bytes_max.max(record_bytes::CONTROL_SHORT)
    }

    /// Makes the active segment one that has room for a record of `bytes`.
    fn reserve(&mut self, bytes: usize, share: Share) -> Result<Option<Full>> {
        self.shared.check_poison()?;
        let fits = self.tail + bytes as u64 <= self.active.end;
        if fits && (share == Share::Reserve || self.has_reserve) {
            return Ok(None);
        }
        let ticket = self.shared.room().ticket();
        let cause = if fits { self.find_reserve()? } else { self.roll(share)? };
        Ok(cause.map(|cause| self.shared.room().full(ticket, cause)))
    }

    /// Looks for the reserve again, which a full disk may have taken. Returns the cause if there is
    /// none.
    fn find_reserve(&mut self) -> Result<Option<FullCause>> {
        let mut ledger = self.shared.ledger();
        let full = self.shared.stock_reserve(&mut ledger)?;
        self.has_reserve = full.is_none();
        Ok(full)
    }

    /// Begins the next segment. Ordinary records roll only if the reserve remains.
    ///
    /// Nothing is synced here: the reader waits for a roll. If a crash loses header or name,
    /// everything in the new segment was unsynced too, and recovery takes it for the torn tail that
    /// it is.
    fn roll(&mut self, share: Share) -> Result<Option<FullCause>> {
        let shared = Arc::clone(&self.shared);
        let mut ledger = shared.ledger();
        if share == Share::Ordinary
            && let Some(cause) = shared.stock_reserve(&mut ledger)?
        {
            self.has_reserve = false;
            return Ok(Some(cause));
        }
        let found = shared.next_file(&mut ledger)?;
        self.has_reserve = ledger.reserve.is_some();
        let spare = match found {
            Ok(spare) => spare,
            Err(cause) if share == Share::Ordinary => return Ok(Some(cause)),
            Err(cause) => match ledger.reserve.take() {
                Some(reserve) => reserve,
                None => return Ok(Some(cause)),
            },
        };
        crash_point("journal.before_roll");
        let base = self.tail;
        self.standing.synced = shared.synced.load(Ordering::Acquire);
        self.stated = self.stated.max(self.standing.synced);
        let header = Header {
            id: self.id,
            base,
            facts: self.facts.clone(),
            standing: self.standing.clone(),
            bytes: spare.bytes,
        };
        if let Err(error) = spare.file.write_at(0, [&header.encode(), &[]]) {
            if !disk::is_full(&error) {
                return Err(shared.poison("writing", &spare.name, error));
            }
            ledger.spares.push(spare);
            ledger.disk_full = true;
            return Ok(Some(FullCause::Disk));
        }
        crash_point("journal.roll_header");
        let name = segment::name(base);
        let renamed = shared.disk.rename(&spare.name, &name);
        renamed.map_err(|error| shared.poison("renaming", &name, error))?;
        crash_point("journal.roll_renamed");
        if ledger.segments.back().is_some_and(|segment| segment.base == base) {
            // It had room for no record, since a crash or a full disk left its header only: the new
            // one has taken its name.
            ledger.segments.pop_back();
        }
        let bytes = spare.bytes;
        ledger.segments.push_back(Segment { base, bytes, file: Some(Arc::clone(&spare.file)) });
        ledger.next_bytes = (2 * bytes).clamp(ledger.next_bytes, shared.budget.segment_bytes_max());
        ledger.names_changed = true;
        ledger.settle();
        self.has_reserve = ledger.reserve.is_some();
        self.active = Active { file: spare.file, base, end: base + bytes - segment::HEADER };
        crash_point("journal.after_roll");
        Ok(None)
    }

    /// Writes a record for which there is room, and moves the tail after it.
    fn put(&mut self, parts: [&[u8]; 2]) -> Result<Append> {
        let bytes = (parts[0].len() + parts[1].len()) as u64;
        let offset = segment::HEADER + (self.tail - self.active.base);
        if crash_points::is_armed("journal.mid_record") {
            // If even this fails the process ends all the same.
            let _torn =
                (self.active.file).write_at(offset, [parts[0], &parts[1][..parts[1].len() / 2]]);
        }
        crash_point("journal.mid_record");
        let ticket = self.shared.room().ticket();
        if let Err(error) = self.active.file.write_at(offset, parts) {
            if !disk::is_full(&error) {
                let name = segment::name(self.active.base);
                return Err(self.shared.poison("writing", &name, error));
            }
            // Half of the record may stand there: the next one is written over it.
            self.shared.ledger().disk_full = true;
            return Ok(Append::Full(self.shared.room().full(ticket, FullCause::Disk)));
        }
        let position = Position(self.tail);
        self.tail += bytes;
        self.shared.appended.store(self.tail, Ordering::Release);
        if self.shared.settings.sync == SyncPolicy::Always {
            self.shared.sync()?;
        }
        Ok(Append::Stored { position, end: Position(self.tail) })
    }
}

/// Returns the error of a call that breaks the order of records.
fn refused(message: String) -> Error {
    Error::new(ErrorKind::Failed, message)
}

/// A journal that holds nothing yet begins here.
pub fn beginning() -> Resume {
    Resume::at(Position(0))
}
