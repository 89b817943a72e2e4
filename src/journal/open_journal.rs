//! Opening: lock, recover, mend, and close the connections that were open.
//!
//! ```text
//! lock ─► read the end of the log (recover) ─► clear the torn tail (mend) ─► assemble
//!   ─► StreamEnd crash
//! ```
//!
//! Each step is durable before the next one begins, and each can be done again: a crash in between
//! leaves a journal that the next start opens in the same way.

use std::collections::VecDeque;
use std::path::Path;
use std::sync::Arc;

use super::append_records::{Active, Journal, beginning};
use super::disk::{self, Disk, LocalDisk};
use super::disk_budget::Budget;
use super::record::{ALL_CONNECTIONS, Position};
use super::record_bytes::Fault;
use super::recover::{RecoveredLog, Recovery, recover};
use super::segment::{self, Facts, HEADER, Header, SOURCE_ID_BYTES_MAX, SegmentState};
use super::shared_state::{JournalShared, Leftover, Segment, Spare, disk_error};
use super::{Append, JournalSettings, SyncPolicy};
use crate::crash_points::crash_point;
use crate::error::{Error, ErrorKind, Result};
use crate::lines::StreamEnd;
use crate::random::random_bytes;

impl Journal {
    /// Opens the journal in `folder`, or makes it, and takes its lock.
    ///
    /// # Errors
    /// `Configuration` if another process holds the journal or it belongs to another job; `Disk` if
    /// the disk fails, has no room for the first segment, or the log is damaged; `Usage` for
    /// settings that cannot work.
    pub fn open(
        folder: &Path,
        settings: JournalSettings,
        facts: Facts,
    ) -> Result<(Journal, Recovery)> {
        let budget = Budget::new(&settings, 1)?;
        Journal::open_within(folder, settings, facts, &budget)
    }

    /// As [`open`](Journal::open), with a part of a budget that several journals share.
    ///
    /// # Errors
    /// As [`open`](Journal::open).
    pub fn open_within(
        folder: &Path,
        settings: JournalSettings,
        facts: Facts,
        budget: &Budget,
    ) -> Result<(Journal, Recovery)> {
        settings.validate()?;
        let locked = LocalDisk::lock(folder).map_err(|error| {
            disk_error(format!("opening the journal {} failed: {error}", folder.display()), error)
        })?;
        let Some(disk) = locked else {
            return Err(Error::new(
                ErrorKind::Configuration,
                format!("the journal {} is in use by another process", folder.display()),
            )
            .hint("stop that process or give another --state"));
        };
        Journal::open_on(Arc::new(disk), settings, facts, budget)
    }

    /// As [`open`](Journal::open), on any disk; the caller has locked it.
    ///
    /// # Errors
    /// As [`open`](Journal::open).
    pub fn open_on(
        disk: Arc<dyn Disk>,
        mut settings: JournalSettings,
        facts: Facts,
        budget: &Budget,
    ) -> Result<(Journal, Recovery)> {
        settings.validate()?;
        settings.record_bytes_max = settings.record_bytes_max.min(budget.record_bytes_max());
        if facts.source.len() > SOURCE_ID_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the source id {:?} is longer than {SOURCE_ID_BYTES_MAX} bytes",
                    facts.source
                ),
            ));
        }
        let mut left = Left::find(&*disk)?;
        let found = recover(&*disk, settings.sync != SyncPolicy::Never)?;
        crash_point("journal.recovery_scanned");
        let created = found.is_none();
        let found = match found {
            Some(found) => {
                check_facts(&found.header.facts, &facts, &*disk)?;
                mend(&*disk, found)?
            }
            None => {
                left.drop_short(&*disk, budget.segment_bytes_min())?;
                let spare = left.take_spare(&*disk)?;
                create(&*disk, budget.segment_bytes_min(), facts, spare)?
            }
        };
        let torn_bytes = found.torn_bytes;
        let mut recovery = Recovery {
            id: found.header.id,
            created,
            first: Position(found.segments.first().map_or(0, |segment| segment.base)),
            resume: found.resume(),
            unmarked: (found.last_epoch_end.as_ref()).map_or(Position(0), |end| end.cut),
            last_epoch_end: found.last_epoch_end.clone(),
            last_committed: found.committed.as_ref().map(|(done, _)| done.clone()),
            open_epochs: found.epoch_ends.iter().cloned().collect(),
            tail: Position(found.tail),
            torn_bytes,
            crashed_connections: Vec::new(),
            next_connection: found.standing.next_connection,
        };
        if torn_bytes > 0 {
            warn_of_torn(&*disk, &found);
        }
        let mut journal = assemble(disk, (settings, budget), found, left)?;
        recovery.crashed_connections = close_connections(&mut journal)?;
        crash_point("journal.recovery_closed");
        Ok((journal, recovery))
    }
}

/// Warns of a torn tail: where it begins, and how many bytes go with it.
fn warn_of_torn(disk: &dyn Disk, found: &RecoveredLog) {
    let RecoveredLog { torn_bytes, sound_bytes, tail, .. } = found;
    let base = found.segments.last().map_or(0, |segment| segment.base);
    let (place, at) = (disk.place(&segment::name(base)), HEADER + tail.saturating_sub(base));
    let fault = found.fault.map_or("", Fault::as_str);
    tracing::warn!(
        "journal {place} is cut at byte {at}, at {fault}: no record states that the {torn_bytes} \
         bytes from there on were on disk when the last run died; {sound_bytes} of them are whole \
         records after a bad one"
    );
}

/// Makes the writing end and the reader of what recovery found, with its spares and leftovers.
///
/// The bytes of all files are counted against the budget, which may be smaller than that of the
/// former run. What is above it is removed, spares first; the records stay in any case.
///
/// Fails with `Disk` if there is no segment, or a file cannot be opened or removed.
fn assemble(
    disk: Arc<dyn Disk>,
    (settings, budget): (JournalSettings, &Budget),
    mut found: RecoveredLog,
    mut left: Left,
) -> Result<Journal> {
    let Some(last) = found.segments.last_mut() else {
        return Err(Error::new(ErrorKind::Disk, "the journal has no segment"));
    };
    let name = segment::name(last.base);
    let file = disk.open(&name).map_err(|error| failed("opening", &*disk, &name, error))?;
    last.file = Some(Arc::clone(&file));
    let last_bytes = last.bytes;
    let active =
        Active { file, base: last.base, end: last.base + last.bytes.saturating_sub(HEADER) };
    let needed = found.resume().position.0;
    let below = found.segments.iter().skip(1).take_while(|next| next.base <= needed);
    let kept = if settings.keep_journal { below.count() } else { 0 };
    left.drop_short(&*disk, budget.segment_bytes_min())?;
    let reach = (found.tail, found.standing.synced);
    let shared = JournalShared::new(disk, found.header.id, settings, budget.clone(), reach);
    let mut ledger = shared.ledger();
    ledger.segments = found.segments.into();
    ledger.kept = kept;
    ledger.next_spare = left.next_number;
    // They are emptied when there is time.
    ledger.leftovers = left.files;
    let (least, most) = (budget.segment_bytes_min(), budget.segment_bytes_max());
    ledger.next_bytes = (2 * last_bytes).clamp(least, most);
    // Names that a crashed run made may not be on disk.
    ledger.names_changed = true;
    ledger.epoch_ends = found.epoch_ends;
    ledger.committed = found.committed;
    ledger.settle();
    // The limit may be lower than it was, and the reserve comes first.
    while ledger.account.left(ledger.bytes_held()) < least
        && let Some(Leftover { name, .. }) = ledger.leftovers.pop()
    {
        let removed = shared.disk.remove(&name);
        removed.map_err(|error| failed("removing", &*shared.disk, &name, error))?;
        ledger.settle();
    }
    if let Some(at) = ledger.leftovers.iter().position(|leftover| leftover.bytes == least) {
        let leftover = ledger.leftovers.swap_remove(at);
        ledger.reserve = shared.emptied(leftover)?;
    }
    // A journal that is full opens without a reserve: what is in it must come out.
    let has_reserve = shared.stock_reserve(&mut ledger)?.is_none();
    drop(ledger);
    Ok(Journal {
        shared: Arc::new(shared),
        id: found.header.id,
        facts: found.header.facts,
        active,
        tail: found.tail,
        last_line_record: found.tail,
        stated: found.standing.synced,
        standing: found.standing,
        last_epoch: found.last_epoch_end.as_ref().map(|end| end.epoch),
        last_cut: found.last_epoch_end.as_ref().map_or(0, |end| end.cut.0),
        has_reserve,
        scratch: Vec::with_capacity(super::record_bytes::CONTROL_SHORT),
    })
}

/// Ends each connection that was open, since the program died, before anything else is appended.
/// Returns the ids of those that are known by name; more than a segment's header names end in one
/// record for all.
///
/// Fails with `Disk` if the journal has no room for the records.
fn close_connections(journal: &mut Journal) -> Result<Vec<u64>> {
    let open: Vec<u64> = journal.standing.connections.iter().copied().collect();
    let more = journal.standing.more_connections.then_some(ALL_CONNECTIONS);
    for connection in open.iter().copied().chain(more) {
        if let Append::Full(_) = journal.append_stream_end(connection, StreamEnd::Crash)? {
            return Err(Error::new(
                ErrorKind::Disk,
                "the journal has no room for the end of a connection",
            )
            .hint("free disk space or raise --journal-max"));
        }
    }
    Ok(open)
}

/// Refuses a journal that was made for another job.
///
/// Fails with `Configuration`, naming the facts that differ.
fn check_facts(recorded: &Facts, given: &Facts, disk: &dyn Disk) -> Result<()> {
    if recorded == given {
        return Ok(());
    }
    Err(Error::new(
        ErrorKind::Configuration,
        format!(
            "the journal {} was made for source {:?}, {} parts, interval {} ms; now it is \
             source {:?}, {} parts, interval {} ms",
            disk.place(""),
            recorded.source,
            recorded.parts,
            recorded.interval_ms,
            given.source,
            given.parts,
            given.interval_ms
        ),
    )
    .hint("start with the recorded --parts and --interval, or give another --state"))
}

/// Makes the first segment, of `bytes` bytes or of a spare that is there. It gets its name when its
/// header is on disk, so that a segment with a bad header is never taken for one that was just
/// being made.
///
/// Fails with `Disk` if there is no room for it.
fn create(disk: &dyn Disk, bytes: u64, facts: Facts, spare: Option<Spare>) -> Result<RecoveredLog> {
    let bytes = spare.as_ref().map_or(bytes, |spare| spare.bytes);
    let header = Header {
        id: u128::from_le_bytes(random_bytes()?),
        base: 0,
        facts,
        standing: SegmentState::default(),
        bytes,
    };
    let name = segment::name(0);
    let make = || {
        let name = segment::spare_name(0);
        disk.create(&name, bytes).map(|file| Spare { name, bytes, file })
    };
    let bytes = (spare.map_or_else(make, Ok))
        .and_then(|spare| {
            spare.file.write_at(0, [&header.encode(), &[]])?;
            spare.file.sync()?;
            disk.rename(&spare.name, &name)?;
            disk.sync()?;
            Ok(spare.bytes)
        })
        .map_err(|error| failed("making", disk, &name, error))?;
    Ok(RecoveredLog {
        header,
        segments: vec![Segment { base: 0, bytes, file: None }],
        tail: beginning().position.0,
        standing: SegmentState::default(),
        last_epoch_end: None,
        epoch_ends: VecDeque::new(),
        committed: None,
        torn_bytes: 0,
        sound_bytes: 0,
        fault: None,
        dirty: false,
        last_bytes: bytes,
        dropped: Vec::new(),
    })
}

/// Cuts off what stands after the tail, durably: an old record there could come to follow a new
/// one and count again. Gives the last segment its length back if it has lost it.
///
/// Later segments go first, the last of them at the beginning, so that a crash leaves no gap in
/// the middle. Fails with `Disk` if a file cannot be removed or cut, for lack of room, too: what
/// stays after the tail could be read as a part of the log later.
fn mend(disk: &dyn Disk, mut found: RecoveredLog) -> Result<RecoveredLog> {
    if !found.dirty {
        return Ok(found);
    }
    for &base in found.dropped.iter().rev() {
        let name = segment::name(base);
        disk.remove(&name).map_err(|error| failed("removing", disk, &name, error))?;
    }
    if !found.dropped.is_empty() {
        disk.sync().map_err(|error| failed("syncing the folder of", disk, "", error))?;
    }
    crash_point("journal.recovery_removed");
    if let Some(last) = found.segments.last_mut() {
        let name = segment::name(last.base);
        let kept = HEADER + (found.tail - last.base);
        last.bytes = (disk.open(&name))
            .and_then(|file| {
                file.truncate(kept, found.last_bytes.max(kept))?;
                file.sync()?;
                file.bytes()
            })
            .map_err(|error| failed("cutting", disk, &name, error))?;
    }
    crash_point("journal.recovery_truncated");
    Ok(found)
}

/// The spares of a former run. They may hold records, if a crash took their new name or what
/// emptied them: these must go, durably, before a file has a place in the log again.
struct Left {
    /// Files that recovery no longer needs.
    files: Vec<Leftover>,
    /// For the next spare that is made.
    next_number: u64,
}

impl Left {
    /// Finds spare segments and files that a crash left without use.
    fn find(disk: &dyn Disk) -> Result<Left> {
        let mut names = disk.list().map_err(|error| failed("listing", disk, "", error))?;
        names.retain(|name| segment::spare_number(name).is_some());
        let last = names.iter().filter_map(|name| segment::spare_number(name)).max();
        let mut files = Vec::new();
        for name in names {
            let bytes = disk.open(&name).and_then(|file| file.bytes());
            let bytes = bytes.map_err(|error| failed("opening", disk, &name, error))?;
            files.push(Leftover { name, bytes });
        }
        Ok(Left { files, next_number: last.map_or(1, |last| last.saturating_add(1)) })
    }

    /// Removes those that are too short for a segment.
    fn drop_short(&mut self, disk: &dyn Disk, least: u64) -> Result<()> {
        let (kept, short) = std::mem::take(&mut self.files)
            .into_iter()
            .partition(|leftover| leftover.bytes >= least);
        self.files = kept;
        let short: Vec<Leftover> = short;
        short.iter().try_for_each(|Leftover { name, .. }| {
            disk.remove(name).map_err(|error| failed("removing", disk, name, error))
        })
    }

    /// One of them, emptied; those that are of no use are removed.
    fn take_spare(&mut self, disk: &dyn Disk) -> Result<Option<Spare>> {
        while let Some(Leftover { name, bytes }) = self.files.pop() {
            let file = disk::emptied_durably(disk, &name, bytes);
            let file = file.map_err(|error| failed("emptying", disk, &name, error))?;
            if let Some(file) = file {
                return Ok(Some(Spare { name, bytes, file }));
            }
        }
        Ok(None)
    }
}

/// Returns the error of an operation on a file of the journal: `Disk`, naming the file.
fn failed(doing: &str, disk: &dyn Disk, name: &str, error: std::io::Error) -> Error {
    disk_error(format!("{doing} {} failed: {error}", disk.place(name)), error)
}

#[cfg(test)]
mod tests {
    use super::super::model_disk::{Faults, ModelDisk};
    use super::*;

    #[test]
    fn tail_that_cannot_be_cleared_stops_start() {
        let disk = ModelDisk::default();
        let open = || {
            let settings = JournalSettings::default();
            let facts = Facts { source: "localhost:1".to_owned(), parts: 1, interval_ms: 1000 };
            let budget = Budget::new(&settings, 1)?;
            Journal::open_on(Arc::new(disk.clone()), settings, facts, &budget)
        };
        let stored = |append: Append| assert!(matches!(append, Append::Stored { .. }));
        let (mut journal, _) = open().expect("room");
        stored(journal.append_data(1, b"whole").expect("room"));
        // No connection is open at the tail, so the start appends nothing.
        stored(journal.append_stream_end(1, StreamEnd::Fin).expect("room"));
        let torn = journal.tail();
        stored(journal.append_data(2, b"torn").expect("room"));
        stored(journal.append_data(2, b"a whole record").expect("room"));
        drop(journal);
        let at = (HEADER + torn.0) as usize + 18;
        disk.tamper(&segment::name(0), |bytes| bytes[at] ^= 1);
        disk.set_faults(Faults { full_for_writes: true, ..Faults::default() });
        let error = open().expect_err("the old record stays");
        assert_eq!(error.kind(), ErrorKind::Disk);
        disk.set_faults(Faults::default());
        let (_, recovery) = open().expect("room");
        assert_eq!(recovery.tail, torn);
        assert!(recovery.torn_bytes > 0);
    }
}
