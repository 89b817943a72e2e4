//! Opening: lock, recover, mend, and close the connections that were open.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;

use super::append::{Active, Journal, beginning};
use super::disk::{self, Disk, File, LocalDisk};
use super::record::{EosKind, Position};
use super::recover::{Found, Recovery, recover};
use super::segment::{self, Facts, HEADER, Header, SOURCE_ID_BYTES_MAX, Standing};
use super::shared::{Ledger, SPARES_MAX, Segment, Shared, Spare, disk_error};
use super::{Append, JournalSettings, SyncPolicy};
use crate::crash::crash_point;
use crate::error::{Error, ErrorKind, Result};

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
        Journal::open_on(Arc::new(disk), settings, facts)
    }

    /// As [`open`](Journal::open), on any disk; the caller has locked it.
    ///
    /// # Errors
    /// As [`open`](Journal::open).
    pub fn open_on(
        disk: Arc<dyn Disk>,
        settings: JournalSettings,
        facts: Facts,
    ) -> Result<(Journal, Recovery)> {
        settings.validate()?;
        if facts.source.len() > SOURCE_ID_BYTES_MAX {
            return Err(Error::new(
                ErrorKind::Usage,
                format!(
                    "the source id {:?} is longer than {SOURCE_ID_BYTES_MAX} bytes",
                    facts.source
                ),
            ));
        }
        let (mut spares, next_spare) = adopt_spares(&*disk, &settings)?;
        let found = recover(&*disk, settings.sync != SyncPolicy::Never)?;
        crash_point("journal.recovery_scanned");
        let created = found.is_none();
        let found = match found {
            Some(found) => {
                check_facts(&found.header.facts, &facts, &*disk)?;
                mend(&*disk, found)?
            }
            None => create(&*disk, &settings, facts, spares.pop())?,
        };
        let torn_bytes = found.torn_bytes;
        let mut recovery = Recovery {
            id: found.header.id,
            created,
            first: Position(found.segments.first().map_or(0, |segment| segment.base)),
            resume: found.resume(),
            unmarked: (found.last_mark.as_ref()).map_or(Position(0), |mark| mark.cut),
            last_mark: found.last_mark.clone(),
            last_done: found.done.as_ref().map(|(done, _)| done.clone()),
            open_epochs: found.marks.iter().cloned().collect(),
            tail: Position(found.tail),
            torn_bytes,
            crashed_connections: Vec::new(),
            next_connection: found.standing.next_connection,
        };
        if torn_bytes > 0 {
            let place = disk.place("");
            tracing::warn!("a crash left {torn_bytes} torn bytes at the end of {place}: cut off");
        }
        let mut journal = assemble(disk, settings, found, (spares, next_spare))?;
        recovery.crashed_connections = close_connections(&mut journal)?;
        crash_point("journal.recovery_closed");
        Ok((journal, recovery))
    }
}

fn assemble(
    disk: Arc<dyn Disk>,
    settings: JournalSettings,
    mut found: Found,
    (spares, next_spare): (Vec<Spare>, u64),
) -> Result<Journal> {
    let Some(last) = found.segments.last_mut() else {
        return Err(Error::new(ErrorKind::Disk, "the journal has no segment"));
    };
    let name = segment::name(last.base);
    let file = disk.open(&name).map_err(|error| failed("opening", &*disk, &name, error))?;
    last.file = Some(Arc::clone(&file));
    let active =
        Active { file, base: last.base, end: last.base + last.bytes.saturating_sub(HEADER) };
    let needed = found.resume().position.0;
    let below = found.segments.iter().skip(1).take_while(|next| next.base <= needed);
    let kept = if settings.keep_journal { below.count() } else { 0 };
    let mut ledger = Ledger {
        segments: found.segments.into(),
        kept,
        spares,
        next_spare,
        // Names that a crashed run made may not be on disk.
        names_changed: true,
        marks: found.marks,
        done: found.done,
        ..Ledger::default()
    };
    let seed = Header::seed(found.header.id);
    let reach = (found.tail, found.standing.synced);
    let shared = Shared::new(disk, seed, settings, reach, Ledger::default());
    // A journal that is full opens without a reserve: what is in it must come out.
    let has_reserve = shared.stock(&mut ledger, 1)?.is_none();
    *shared.ledger() = ledger;
    Ok(Journal {
        shared: Arc::new(shared),
        id: found.header.id,
        facts: found.header.facts,
        active,
        tail: found.tail,
        standing: found.standing,
        last_epoch: found.last_mark.as_ref().map(|mark| mark.epoch),
        last_cut: found.last_mark.as_ref().map_or(0, |mark| mark.cut.0),
        has_reserve,
        scratch: Vec::with_capacity(super::encoding::CONTROL_MAX),
    })
}

/// Says of each connection that was open that the program died, before anything else is appended.
fn close_connections(journal: &mut Journal) -> Result<Vec<u64>> {
    let open = journal.standing.connections.clone();
    for &connection in &open {
        if let Append::Full(_) = journal.append_eos(connection, EosKind::Crash)? {
            return Err(Error::new(
                ErrorKind::Disk,
                "the journal has no room for the end of a connection",
            )
            .hint("free disk space or raise --journal-max"));
        }
    }
    Ok(open)
}

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

/// Makes the first segment. It gets its name when its header is on disk, so that a segment with a
/// bad header is never taken for one that was just being made.
fn create(
    disk: &dyn Disk,
    settings: &JournalSettings,
    facts: Facts,
    spare: Option<Spare>,
) -> Result<Found> {
    let header = Header { id: random_id()?, base: 0, facts, standing: Standing::default() };
    let name = segment::name(0);
    let bytes = settings.segment_bytes();
    let make = || {
        let name = segment::spare_name(0);
        disk.create(&name, bytes).map(|file| Spare { name, file })
    };
    (spare.map_or_else(make, Ok))
        .and_then(|spare| {
            spare.file.write_at(0, [&header.encode(), &[]])?;
            spare.file.sync()?;
            disk.rename(&spare.name, &name)?;
            disk.sync()
        })
        .map_err(|error| failed("making", disk, &name, error))?;
    Ok(Found {
        header,
        segments: vec![Segment { base: 0, bytes, file: None }],
        tail: beginning().position.0,
        standing: Standing::default(),
        last_mark: None,
        marks: Default::default(),
        done: None,
        torn_bytes: 0,
        dirty: false,
        dropped: Vec::new(),
    })
}

/// Cuts off what stands behind the tail, durably: an old record there could come to stand right
/// behind a new one and count again.
fn mend(disk: &dyn Disk, mut found: Found) -> Result<Found> {
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
                match file.truncate(kept, last.bytes.max(kept)) {
                    // The blocks went to somebody else meanwhile: the segment is shorter, no more.
                    Err(error) if disk::is_full(&error) => {}
                    other => other?,
                }
                file.sync()?;
                file.bytes()
            })
            .map_err(|error| failed("cutting", disk, &name, error))?;
    }
    crash_point("journal.recovery_truncated");
    Ok(found)
}

/// Takes over the spares of a former run, and tells the number of the next one. They may hold
/// records, if a crash took their new name or what emptied them: these must go, durably, before a
/// file has a place in the log again. What is not of use is removed.
fn adopt_spares(disk: &dyn Disk, settings: &JournalSettings) -> Result<(Vec<Spare>, u64)> {
    let bytes = settings.segment_bytes();
    let names = disk.list().map_err(|error| failed("listing", disk, "", error))?;
    let segments = names.iter().filter(|name| segment::base(name).is_some()).count() as u64;
    let room = (settings.journal_bytes_max / bytes).saturating_sub(segments.max(1));
    // Without a segment, one of them becomes the first.
    let most = (SPARES_MAX + usize::from(segments == 0)).min(room as usize);
    let (mut spares, mut next) = (Vec::new(), 1);
    for name in names {
        let Some(number) = segment::spare_number(&name) else { continue };
        next = next.max(number.saturating_add(1));
        match if spares.len() < most { empty(disk, &name, bytes)? } else { None } {
            Some(file) => spares.push(Spare { name, file }),
            None => (disk.remove(&name)).map_err(|e| failed("removing", disk, &name, e))?,
        }
    }
    Ok((spares, next))
}

/// The file of that name with nothing but zeros in it, on disk; `None` if it is of another length
/// or the file system cannot.
fn empty(disk: &dyn Disk, name: &str, bytes: u64) -> Result<Option<Arc<dyn File>>> {
    let opened = disk.open(name).and_then(|file| {
        let fits = file.bytes()? == bytes && file.zero(bytes).is_ok();
        Ok(fits.then_some(file))
    });
    let Some(file) = opened.map_err(|error| failed("opening", disk, name, error))? else {
        return Ok(None);
    };
    file.sync().map_err(|error| failed("syncing", disk, name, error))?;
    Ok(Some(file))
}

fn random_id() -> Result<u128> {
    let mut id = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut random| random.read_exact(&mut id))
        .map_err(|error| disk_error(format!("reading /dev/urandom failed: {error}"), error))?;
    Ok(u128::from_le_bytes(id))
}

fn failed(doing: &str, disk: &dyn Disk, name: &str, error: std::io::Error) -> Error {
    disk_error(format!("{doing} {} failed: {error}", disk.place(name)), error)
}
