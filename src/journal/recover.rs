//! Reads the contents of a log after a crash. [`open`](super::open_journal) repairs it.
//!
//! ```text
//! newest header ─► first segment that the disk has not promised ─► walk over its records and later
//!   ─► first bad record: torn tail or damage? ─► ends of epochs before the walk ─► segments
//! ```
//!
//! Only the end of the log is verified byte for byte. What a record states to be on disk is trusted
//! now, and verified when it is replayed.

use std::collections::VecDeque;
use std::sync::Arc;

use super::disk::Disk;
use super::record::{CommitNote, Entry, EpochEnd, Position, Record, Resume};
use super::record_bytes::Fault;
use super::scan_segment::{self, Cursor, Step, scan_after};
use super::segment::{Header, SegmentState};
use super::segment_files::Log;
use super::shared_state::Segment;
use crate::error::Result;

/// The contents of a journal when it was opened.
#[derive(Clone, Debug)]
// The tests of the journal read the fields that the product does not.
#[cfg_attr(not(any(test, feature = "internals")), allow(dead_code))]
pub struct Recovery {
    /// The id that names the journal.
    pub id: u128,
    /// It was made just now.
    pub created: bool,
    /// The oldest record that is there.
    pub first: Position,
    /// Where a replay of what is not committed begins.
    pub resume: Resume,
    /// The newest mark, committed or not.
    pub last_epoch_end: Option<EpochEnd>,
    /// The last Committed record. The journal may not know of later commits; the store does.
    pub last_committed: Option<CommitNote>,
    /// Epochs that are marked and not known to be committed, in order. Their marks may not be on
    /// disk yet: [`Syncer::sync`](super::Syncer::sync) before anything of them is published.
    pub open_epochs: Vec<EpochEnd>,
    /// Where the bytes begin that no mark took; they end at [`Recovery::tail`].
    pub unmarked: Position,
    /// The end of the log as it was found, before the StreamEnd records of this start.
    pub tail: Position,
    /// Bytes of a torn tail that were cut off.
    pub torn_bytes: u64,
    /// Connections that were open: each was given a StreamEnd crash.
    pub crashed_connections: Vec<u64>,
    /// The least connection id that was never used.
    pub next_connection: u64,
}

/// So much at the end is verified at a start in any case, which takes a few milliseconds.
const VERIFIED_BYTES_MIN: u64 = if cfg!(test) { 16 << 10 } else { 32 << 20 };

/// A log as it was found.
#[derive(Debug)]
pub struct RecoveredLog {
    /// The header of the newest segment.
    pub header: Header,
    /// The segments, oldest first.
    pub segments: Vec<Segment>,
    /// The end of the last whole record, at which appending goes on.
    pub tail: u64,
    /// The state that the records up to there give.
    pub standing: SegmentState,
    /// The newest end of an epoch.
    pub last_epoch_end: Option<EpochEnd>,
    /// Ends of epochs that are not known to be committed, in order.
    pub epoch_ends: VecDeque<EpochEnd>,
    /// The newest Committed and the end of its record.
    pub committed: Option<(CommitNote, u64)>,
    /// Bytes after the last whole record, which are cut off.
    pub torn_bytes: u64,
    /// Bytes of whole records among them, as far as they follow the first bad one.
    pub sound_bytes: u64,
    /// The fault at the tail.
    pub fault: Option<Fault>,
    /// Something stands after the tail and must go before anything is appended: an old record
    /// could fit in with a new one and come back to life. Or the last segment has lost its length.
    pub dirty: bool,
    /// The length that the last segment has, or gets again.
    pub last_bytes: u64,
    /// Bases of the segments after the tail.
    pub dropped: Vec<u64>,
}

impl RecoveredLog {
    /// Returns where reading goes on: the newest commit, or the beginning.
    pub fn resume(&self) -> Resume {
        match &self.committed {
            Some((note, _)) => note.resume.clone(),
            None => Resume::at(Position(self.segments.first().map_or(0, |s| s.base))),
        }
    }
}

/// The facts that the walk over the records found.
struct Walk {
    /// The state that the records give so far.
    standing: SegmentState,
    /// The ends of epochs that are not known to be committed.
    epoch_ends: VecDeque<EpochEnd>,
    /// The newest note of commits, and its position.
    committed: Option<(CommitNote, u64)>,
}

impl Walk {
    /// Takes a record into account.
    fn take(&mut self, entry: &Entry<'_>) {
        let standing = &mut self.standing;
        if let Some(synced) = entry.record.synced_through() {
            standing.synced = standing.synced.max(synced.0);
        }
        match &entry.record {
            Record::Data { connection, .. } | Record::Producer { connection, .. } => {
                standing.opened(*connection);
            }
            Record::StreamEnd { connection, .. } => standing.ended(*connection),
            Record::EpochEnd { end, .. } => {
                standing.last_epoch_end = Some(entry.position.0);
                self.epoch_ends.push_back(end.clone());
            }
            Record::Committed { note, .. } => {
                standing.last_committed = Some(entry.position.0);
                self.committed = Some((note.clone(), entry.end.0));
            }
            Record::Synced { .. } | Record::LineCut { .. } | Record::Repeat { .. } => {}
        }
    }
}

/// Where the walk ended: in this segment, at this position, at this fault or at the end of the
/// file.
struct ScanEnd {
    /// The index of the segment in which the scan ended.
    at: usize,
    /// The position at which it ended.
    position: u64,
    /// The reason, if it was not the end of the log.
    fault: Option<Fault>,
}

/// Reads what a restart needs of a log; `None` if there is none. With `strict` a log that does not
/// begin where its Committed record states, or at 0, is damage.
///
/// # Errors
/// `Disk` if the disk fails or the log is damaged.
pub fn recover(disk: &dyn Disk, strict: bool) -> Result<Option<RecoveredLog>> {
    let log = Log::list(disk)?;
    if log.bases.is_empty() {
        return Ok(None);
    }
    let header = newest_header(&log)?;
    let (start, start_header) = first_to_verify(&log, &header)?;
    let seed = Header::seed(header.id);
    let begin = || {
        let mut standing = start_header.standing.clone();
        standing.synced = standing.synced.max(header.standing.synced);
        Walk { standing, epoch_ends: VecDeque::new(), committed: None }
    };
    let mut trusted = 0;
    if log.extent(log.bases.len() - 1)?.2 - log.bases[start] > VERIFIED_BYTES_MIN {
        // The first walk looks how far the log was on disk, the second at what follows.
        let mut skimmed = begin();
        let stop = walk_records(&log, start, header.id, u64::MAX, &mut skimmed)?;
        trusted = skimmed.standing.synced.min(stop.position.saturating_sub(VERIFIED_BYTES_MIN));
    }
    let mut walk = begin();
    let stop = walk_records(&log, start, header.id, trusted, &mut walk)?;
    let mut found = RecoveredLog {
        header,
        segments: Vec::new(),
        tail: stop.position,
        standing: SegmentState::default(),
        last_epoch_end: walk.epoch_ends.back().cloned(),
        epoch_ends: VecDeque::new(),
        committed: None,
        torn_bytes: 0,
        sound_bytes: 0,
        fault: stop.fault,
        dirty: false,
        last_bytes: 0,
        dropped: Vec::new(),
    };
    refuse_truncated(&log, &walk, &stop, found.header.id)?;
    judge_end(&log, &walk, &stop, seed, &mut found)?;
    complete_marks(&log, &start_header.standing, walk, seed, &mut found)?;
    list_segments(&log, start, strict, &stop, &mut found)?;
    note_length(&log, &mut found)?;
    Ok(Some(found))
}

/// Notes the length that the last segment is to have. One that a loss of power has left shorter
/// gets it back before anything in it is synced, or it would count as truncated from then on.
fn note_length(log: &Log<'_>, found: &mut RecoveredLog) -> Result<()> {
    let Some(last) = found.segments.last() else { return Ok(()) };
    let at = log.bases.partition_point(|&base| base < last.base);
    let stated = log.header(at, Some(found.header.id))?.map_or(0, |header| header.bytes);
    found.last_bytes = last.bytes.max(stated);
    found.dirty |= last.bytes < stated;
    Ok(())
}

/// Returns the newest header that can be read. A crash may have left the last segment without one.
fn newest_header(log: &Log<'_>) -> Result<Header> {
    for at in (0..log.bases.len()).rev() {
        if let Some(header) = log.header(at, None)? {
            return Ok(header);
        }
    }
    Err(log.damage(0, log.bases[0], Fault::Header, "all"))
}

/// Returns the newest segment before which everything is known to be on disk, with its header: what
/// lies below was verified by the disk's own promise and will be again when it is replayed.
///
/// Fails with `Disk` if the header of a segment that is on disk cannot be read.
fn first_to_verify(log: &Log<'_>, newest: &Header) -> Result<(usize, Header)> {
    let synced = newest.standing.synced;
    let trusted = synced.min(newest.base);
    let mut at = log.bases.partition_point(|&base| base <= trusted).saturating_sub(1);
    loop {
        if let Some(header) = log.header(at, Some(newest.id))? {
            return Ok((at, header));
        }
        if at == 0 || log.bases[at] < synced {
            return Err(log.damage(at, log.bases[at], Fault::Header, "unknown"));
        }
        at -= 1;
    }
}

/// Walks over the records from segment `start` on, up to the end of the log or the first bad
/// record; the bytes of Data before `trusted` are stepped over.
fn walk_records(
    log: &Log<'_>,
    start: usize,
    id: u128,
    trusted: u64,
    walk: &mut Walk,
) -> Result<ScanEnd> {
    let seed = Header::seed(id);
    let mut cursor: Option<Cursor> = None;
    for at in start..log.bases.len() {
        let base = log.bases[at];
        let stop = |position, fault| ScanEnd { at, position, fault };
        if at > start && log.header(at, Some(id))?.is_none() {
            return Ok(stop(base, Some(Fault::Header)));
        }
        let (file, _, end) = log.extent(at)?;
        let next = log.next_base(at);
        let limit = next.unwrap_or(u64::MAX).min(end);
        let cursor = match &mut cursor {
            Some(cursor) => {
                cursor.enter(file, base, base);
                cursor
            }
            None => cursor.insert(Cursor::new(file, seed, base, base)),
        };
        loop {
            match cursor.skim(limit, trusted).map_err(|error| log.failed(at, error))? {
                Step::Entry(entry) => walk.take(&entry),
                Step::End if next == Some(limit) => break,
                Step::End if next.is_none() => return Ok(stop(limit, None)),
                Step::End => return Ok(stop(limit, Some(Fault::Missing))),
                Step::Bad(fault) => return Ok(stop(cursor.position(), Some(fault))),
            }
        }
    }
    // The last segment has no next one, so the loop ends in one of its returns.
    Ok(ScanEnd {
        at: log.bases.len() - 1,
        position: cursor.map_or(0, |cursor| cursor.position()),
        fault: None,
    })
}

/// Fails with `Disk` if the last segment is shorter than its header states: segments get their
/// length when they are made and keep it. A loss of power may take the length only from a segment
/// that was never synced, which is never the first one.
fn refuse_truncated(log: &Log<'_>, walk: &Walk, stop: &ScanEnd, id: u128) -> Result<()> {
    let last = log.bases.len() - 1;
    let Some(header) = log.header(last, Some(id))? else { return Ok(()) };
    let is_synced = header.base == 0 || walk.standing.synced > header.base;
    if stop.at < last || !is_synced || log.extent(last)?.1 >= header.bytes {
        return Ok(());
    }
    let marks: Vec<(u64, u64)> = walk.epoch_ends.iter().map(|end| (end.epoch, end.cut.0)).collect();
    let lost = scan_segment::affected(&marks, stop.position, u64::MAX);
    let epochs = scan_segment::name_epochs(lost);
    Err(log.damage(last, stop.position, Fault::Truncated, &epochs))
}

/// Separates a torn tail from damage: a later record that states the bad place to be synced makes
/// it damage.
fn judge_end(
    log: &Log<'_>,
    walk: &Walk,
    stop: &ScanEnd,
    seed: u32,
    found: &mut RecoveredLog,
) -> Result<()> {
    let mut promised = walk.standing.synced;
    let mut marks: Vec<(u64, u64)> =
        walk.epoch_ends.iter().map(|end| (end.epoch, end.cut.0)).collect();
    let mut next_whole = u64::MAX;
    for at in stop.at..log.bases.len() {
        let base = log.bases[at];
        if at > stop.at {
            let header = log.header(at, Some(found.header.id))?;
            promised = promised.max(header.map_or(0, |header| header.standing.synced));
        }
        let (file, _, end) = log.extent(at)?;
        let from = stop.position.max(base);
        let used = scan_after(&*file, seed, base, from, end, |position, _, record| {
            if let Some(synced) = record.synced_through() {
                promised = promised.max(synced.0);
            }
            next_whole = next_whole.min(position);
            if let Record::EpochEnd { end, .. } = record {
                marks.push((end.epoch, end.cut.0));
            }
        });
        let used = used.map_err(|error| log.failed(at, error))?;
        found.torn_bytes += used - from;
        let headless = at == stop.at && stop.fault == Some(Fault::Header);
        if at > stop.at || headless {
            found.dropped.push(base);
        }
    }
    if found.torn_bytes > 0 {
        found.sound_bytes = sound_bytes(log, stop, seed)?;
    }
    found.dirty = found.torn_bytes > 0 || !found.dropped.is_empty();
    if promised <= stop.position {
        return Ok(());
    }
    marks.sort_unstable();
    marks.dedup();
    let to = next_whole.min(promised).max(stop.position + 1);
    let epochs = scan_segment::name_epochs(scan_segment::affected(&marks, stop.position, to));
    let fault = stop.fault.unwrap_or(Fault::Missing);
    Err(log.damage(stop.at, stop.position, fault, &epochs))
}

/// Bytes of whole records after the bad one.
fn sound_bytes(log: &Log<'_>, stop: &ScanEnd, seed: u32) -> Result<u64> {
    let (file, _, end) = log.extent(stop.at)?;
    let base = log.bases[stop.at];
    let failed = |error| log.failed(stop.at, error);
    let mut cursor = Cursor::new(Arc::clone(&file), seed, base, stop.position);
    let Some(next) = cursor.hop(end).map_err(failed)? else { return Ok(0) };
    cursor.enter(file, base, next);
    while let Step::Entry(_) = cursor.next(end).map_err(failed)? {}
    Ok(cursor.position() - next)
}

/// Adds to the marks of the walk those before it that are not done.
fn complete_marks(
    log: &Log<'_>,
    before: &SegmentState,
    walk: Walk,
    seed: u32,
    found: &mut RecoveredLog,
) -> Result<()> {
    found.committed = match (walk.committed, before.last_committed) {
        (Some(noted), _) => Some(noted),
        (None, Some(position)) if position >= log.bases[0] => {
            Some(log.record_at(seed, position, |entry| match &entry.record {
                Record::Committed { note, .. } => Some((note.clone(), entry.end.0)),
                _ => None,
            })?)
        }
        (None, _) => None,
    };
    let committed_epoch = found.committed.as_ref().map(|(note, _)| note.epoch);
    found.standing = walk.standing;
    found.epoch_ends = walk.epoch_ends;
    let mut previous = before.last_epoch_end;
    while let Some(position) = previous.filter(|&position| position >= log.bases[0]) {
        let (end, earlier) = log.record_at(seed, position, |entry| match &entry.record {
            Record::EpochEnd { end, previous, .. } => Some((end.clone(), *previous)),
            _ => None,
        })?;
        found.last_epoch_end.get_or_insert_with(|| end.clone());
        if committed_epoch.is_some_and(|committed| end.epoch <= committed) {
            break;
        }
        // Positions only go down, or a record that lies would be followed for ever.
        previous = earlier.map(|p| p.0).filter(|&p| p < position);
        found.epoch_ends.push_front(end);
    }
    found.epoch_ends.retain(|end| committed_epoch.is_none_or(|committed| end.epoch > committed));
    Ok(())
}

/// The segments that stay, without a hole between the resume position and the tail.
fn list_segments(
    log: &Log<'_>,
    start: usize,
    strict: bool,
    stop: &ScanEnd,
    found: &mut RecoveredLog,
) -> Result<()> {
    let kept = stop.at + usize::from(stop.fault != Some(Fault::Header));
    let needed = match &found.committed {
        Some((note, _)) => note.resume.position.0,
        None if strict => 0,
        None => log.bases[0],
    };
    if needed < log.bases[0] {
        return Err(log.damage(0, needed, Fault::Missing, "those not committed"));
    }
    for at in 0..kept {
        let base = log.bases[at];
        let (_, bytes, end) = log.extent(at)?;
        found.segments.push(Segment { base, bytes, file: None });
        let next = log.next_base(at).filter(|&next| at < start && next > needed);
        if next.is_some_and(|next| next > end) {
            return Err(log.damage(at, end, Fault::Missing, "those not committed"));
        }
    }
    Ok(())
}
