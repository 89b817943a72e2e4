//! Looking at a journal without opening it: `wordtide journal dump` and `check`.
//!
//! Both read everything there is, verify everything, and go on after damage. They take no lock; at
//! the tail of a journal that is being written they may see a record that is not whole yet.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;

use super::disk::{self, Disk, LocalDisk};
use super::record::{ALL_CONNECTIONS, Entry, Record, Resume};
use super::record_bytes::Fault;
use super::scan_segment::{self, Cursor, Step, scan_after};
use super::segment::{self, Header};
use super::segment_files::Log;
use crate::error::{Error, ErrorKind, Result};
use crate::hex_varint::hex;

/// The result of a check.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// Whole records.
    pub records: u64,
    /// Bytes from the socket in them.
    pub data_bytes: u64,
    /// EpochEnds among them.
    pub marks: u64,
    /// Bytes of a torn tail, which the next start cuts off.
    pub torn_bytes: u64,
    /// Places that are damaged: bytes that were on disk and are bad.
    pub damaged_places: u64,
    /// Epochs that lost bytes by damage, in order.
    pub epochs_affected: Vec<u64>,
    /// Bytes after the last EpochEnd are damaged.
    pub unmarked_affected: bool,
}

impl Verdict {
    /// The journal can be opened and replayed.
    pub fn is_sound(&self) -> bool {
        self.damaged_places == 0
    }
}

/// Walks over a journal that a run writes to, before the damage that they find is believed.
const WALKS_MAX: usize = 20;

/// Writes every record of the journal in `folder` to `out`, one a line.
///
/// # Errors
/// `Configuration` if the folder holds no journal, `Disk` if the disk fails or no part of the
/// journal can be read, `Failed` if `out` fails, and as [`check`].
pub fn dump(folder: &Path, out: &mut dyn Write) -> Result<Verdict> {
    let is_in_use = disk::is_in_use(folder);
    let walked = inspect(&LocalDisk::read_only(folder), true, out);
    // A run may have begun or ended meanwhile.
    let is_in_use = is_in_use || disk::is_in_use(folder);
    if !is_in_use || walked.as_ref().is_ok_and(Verdict::is_sound) {
        return walked;
    }
    writeln!(out, "a run writes to this journal; it is read again:").map_err(unwritable)?;
    check(folder, out)
}

/// Verifies every record of the journal in `folder` and writes what is wrong, and a summary, to
/// `out`.
///
/// A run that writes to the journal takes segments out meanwhile and uses them again, which looks
/// like damage. So damage counts only if it is found twice at the same places.
///
/// # Errors
/// As [`dump`]. Damage is no error here: see [`Verdict::is_sound`]. `Temporary` if a run writes to
/// the journal and no two walks agree.
pub fn check(folder: &Path, out: &mut dyn Write) -> Result<Verdict> {
    let mut before = None;
    for _ in 0..WALKS_MAX {
        let is_in_use = disk::is_in_use(folder);
        let mut text = Vec::new();
        let walked = inspect(&LocalDisk::read_only(folder), false, &mut text);
        // A run may have begun or ended meanwhile.
        let is_in_use = is_in_use || disk::is_in_use(folder);
        let is_damage = |line: &&[u8]| line.starts_with(DAMAGED.as_bytes());
        let lines = text.split(|byte| *byte == b'\n').filter(is_damage);
        let damage: Vec<Vec<u8>> = match &walked {
            Ok(_) => lines.map(<[u8]>::to_vec).collect(),
            Err(error) => vec![error.to_string().into_bytes()],
        };
        let is_sound = walked.as_ref().is_ok_and(Verdict::is_sound);
        if is_sound || before.as_ref() == Some(&damage) || !is_in_use {
            out.write_all(&text).map_err(unwritable)?;
            return walked;
        }
        before = Some(damage);
    }
    let message = format!("a run writes to the journal {} too quickly", folder.display());
    Err(Error::new(ErrorKind::Temporary, message).hint("stop the run, or look again"))
}

/// The beginning of a line about a place that is damaged.
const DAMAGED: &str = "damaged: ";

/// The hint for a folder that is no journal's.
pub const FOLDER_HINT: &str = "give the folder of a journal, STATE/journal-…";

/// A walk over a journal, and what it has found so far.
struct Inspection<'a> {
    /// Takes the listing.
    out: &'a mut dyn Write,
    /// True for `dump`, false for `check`.
    prints_records: bool,
    /// Counts what was found.
    verdict: Verdict,
    /// `(epoch, cut)` of every mark.
    marks: Vec<(u64, u64)>,
    /// The greatest promise that bytes are on disk.
    promised: u64,
    /// The records that cannot be read.
    bad: Vec<BadPlace>,
}

/// Bytes between two whole records that are none.
struct BadPlace {
    /// The index of the segment.
    at: usize,
    /// The position of the bad record.
    from: u64,
    /// The position at which the segment ends.
    to: u64,
    /// Bytes that are not zero.
    used: u64,
    /// The fault of the record.
    fault: Fault,
}

/// Walks over all segments and judges them as a recovery would. A header that cannot be read does
/// not end the walk: the id of the journal is in every other header, and records are found by it.
///
/// Fails with `Configuration` if there is no segment, and with `Disk` if one cannot be read. Damage
/// is counted, and is no failure.
pub fn inspect(disk: &dyn Disk, prints_records: bool, out: &mut dyn Write) -> Result<Verdict> {
    let log = Log::list(disk)?;
    if log.bases.is_empty() {
        let message = format!("{} holds no journal", disk.place(""));
        return Err(Error::new(ErrorKind::Configuration, message).hint(FOLDER_HINT));
    }
    let mut id = None;
    for at in 0..log.bases.len() {
        id = id.or(log.header(at, None)?.map(|header| header.id));
    }
    let Some(id) = id else {
        return Err(Error::new(
            ErrorKind::Disk,
            format!("no segment of the journal {} has a header that can be read", disk.place("")),
        )
        .hint("look at the disk; a run names the id for --abandon-journal"));
    };
    let mut inspection = Inspection {
        out,
        prints_records,
        verdict: Verdict::default(),
        marks: Vec::new(),
        promised: 0,
        bad: Vec::new(),
    };
    for at in 0..log.bases.len() {
        inspection.segment(&log, at, id)?;
    }
    inspection.conclude(&log)
}

impl Inspection<'_> {
    /// Walks over one segment. After a bad record it goes on at the next whole one, if there is any
    /// up to `limit`.
    fn segment(&mut self, log: &Log<'_>, at: usize, id: u128) -> Result<()> {
        let base = log.bases[at];
        let (file, bytes, end) = log.extent(at)?;
        let next = log.next_base(at);
        let limit = next.unwrap_or(u64::MAX).min(end);
        let header = log.header(at, Some(id))?;
        match &header {
            Some(header) => self.header(log, at, header)?,
            None => {
                self.bad.push(BadPlace { at, from: base, to: base, used: 0, fault: Fault::Header })
            }
        }
        let seed = Header::seed(id);
        let mut cursor = Cursor::new(Arc::clone(&file), seed, base, base);
        loop {
            let fault = match cursor.next(limit).map_err(|error| log.failed(at, error))? {
                Step::Entry(entry) => {
                    self.entry(&entry)?;
                    continue;
                }
                Step::End => break,
                Step::Bad(fault) => fault,
            };
            let from = cursor.position();
            let mut to = cursor.hop(limit).map_err(|error| log.failed(at, error))?;
            let mut used = to.map_or(0, |to| to - from);
            if to.is_none() {
                let mut next_whole = limit;
                let end = scan_after(&*file, seed, base, from, limit, |position, _, _| {
                    next_whole = next_whole.min(position);
                });
                used = end.map_err(|error| log.failed(at, error))? - from;
                to = Some(next_whole);
            }
            let to = to.unwrap_or(limit);
            if used > 0 || next.is_some() {
                self.bad.push(BadPlace { at, from, to, used, fault });
            }
            cursor.enter(Arc::clone(&file), base, to);
        }
        let is_synced = |header: &Header| header.base == 0 || self.promised > header.base;
        if next.is_none() && header.is_some_and(|it| bytes < it.bytes && is_synced(&it)) {
            let (from, fault) = (cursor.position(), Fault::Truncated);
            self.bad.push(BadPlace { at, from, to: u64::MAX, used: 0, fault });
        }
        if next.is_some_and(|next| next > end) {
            self.bad.push(BadPlace {
                at,
                from: end,
                to: next.unwrap_or(end),
                used: 0,
                fault: Fault::Missing,
            });
        }
        Ok(())
    }

    /// Prints the header of a segment, and takes over how far it states the log to be on disk.
    fn header(&mut self, log: &Log<'_>, at: usize, header: &Header) -> Result<()> {
        self.promised = self.promised.max(header.standing.synced);
        if !self.prints_records {
            return Ok(());
        }
        writeln!(
            self.out,
            "segment {} journal={:032x} source={} parts={} interval_ms={} synced_through={}",
            segment::name(log.bases[at]),
            header.id,
            header.facts.source,
            header.facts.parts,
            header.facts.interval_ms,
            header.standing.synced
        )
        .map_err(unwritable)
    }

    /// Counts a record and prints it.
    fn entry(&mut self, entry: &Entry<'_>) -> Result<()> {
        self.verdict.records += 1;
        self.promised = self.promised.max(entry.record.synced_through().map_or(0, |p| p.0));
        match &entry.record {
            Record::Data { bytes, .. } => self.verdict.data_bytes += bytes.len() as u64,
            Record::EpochEnd { end, .. } => {
                self.verdict.marks += 1;
                self.marks.push((end.epoch, end.cut.0));
            }
            _ => {}
        }
        if self.prints_records {
            print_record(entry, self.out).map_err(unwritable)?;
        }
        Ok(())
    }

    /// Separates damage from a torn tail, now that every promise is known, and prints both. A bad
    /// record below the greatest position that a record states to be on disk is damage; after it, a
    /// crash may leave anything.
    fn conclude(mut self, log: &Log<'_>) -> Result<Verdict> {
        let verdict = &mut self.verdict;
        for bad in &self.bad {
            let place = log.disk.place(&segment::name(log.bases[bad.at]));
            let torn = bad.from >= self.promised && bad.fault != Fault::Truncated;
            if torn {
                verdict.torn_bytes += bad.used;
                writeln!(
                    self.out,
                    "torn: {place} position {}: {}, {} bytes never promised to be on disk",
                    bad.from,
                    bad.fault.as_str(),
                    bad.used
                )
                .map_err(unwritable)?;
                continue;
            }
            verdict.damaged_places += 1;
            let to = bad.to.max(bad.from + 1);
            let affected = match bad.fault {
                // The records after a bad header are read all the same.
                Fault::Header => (Vec::new(), false),
                _ => scan_segment::affected(&self.marks, bad.from, to),
            };
            verdict.epochs_affected.extend(&affected.0);
            verdict.unmarked_affected |= affected.1;
            writeln!(
                self.out,
                "{DAMAGED}{place} position {}: {}; epochs affected: {}",
                bad.from,
                bad.fault.as_str(),
                scan_segment::name_epochs(affected)
            )
            .map_err(unwritable)?;
        }
        verdict.epochs_affected.sort_unstable();
        verdict.epochs_affected.dedup();
        writeln!(
            self.out,
            "{}: {} segments, {} records, {} bytes of data, {} marks, {} bytes torn, \
             {} places damaged",
            if verdict.is_sound() { "sound" } else { "damaged" },
            log.bases.len(),
            verdict.records,
            verdict.data_bytes,
            verdict.marks,
            verdict.torn_bytes,
            verdict.damaged_places
        )
        .map_err(unwritable)?;
        Ok(self.verdict)
    }
}

/// Prints a record as one line.
fn print_record(entry: &Entry<'_>, out: &mut dyn Write) -> std::io::Result<()> {
    let at = entry.position.0;
    match &entry.record {
        Record::Data { connection, bytes } => {
            writeln!(out, "{at} DATA connection={connection} bytes={}", bytes.len())
        }
        Record::StreamEnd { connection, kind } => {
            let connection = match *connection {
                ALL_CONNECTIONS => "all".to_owned(),
                one => one.to_string(),
            };
            let kind = format!("{kind:?}").to_lowercase();
            writeln!(out, "{at} EOS connection={connection} kind={kind}")
        }
        Record::LineCut { connection } => writeln!(out, "{at} LINECUT connection={connection}"),
        Record::Repeat { connection, offset, bytes } => {
            let bytes = bytes.len();
            writeln!(out, "{at} REPEAT connection={connection} offset={offset} bytes={bytes}")
        }
        Record::Producer { connection, name } => {
            writeln!(out, "{at} PRODUCER connection={connection} name={}", name.escape_ascii())
        }
        Record::EpochEnd { end, synced_through, .. } => writeln!(
            out,
            "{at} MARK epoch={} next_epoch={} cut={}{} synced_through={}{}",
            end.epoch,
            end.next_epoch,
            end.cut.0,
            show_position(&end.resume),
            synced_through.0,
            show_state(&end.resume),
        ),
        Record::Synced { synced_through } => {
            writeln!(out, "{at} SYNC synced_through={}", synced_through.0)
        }
        Record::Committed { note, synced_through } => writeln!(
            out,
            "{at} DONE epoch={}{} synced_through={}{}",
            note.epoch,
            show_position(&note.resume),
            synced_through.0,
            show_state(&note.resume),
        ),
    }
}

/// The record where reading goes on, and the bytes of it that are done with.
fn show_position(resume: &Resume) -> String {
    let first = resume.connections.iter().find(|state| state.position == resume.position);
    format!(" resume={}+{}", resume.position.0, first.map_or(0, |state| state.skip))
}

/// Most bytes of positions that are shown themselves.
const POSITIONS_SHOWN_MAX: usize = 32;

/// The numbers of open lines and producers, and the length of a source's own positions.
fn show_state(resume: &Resume) -> String {
    let numbers = [
        ("open_lines", resume.connections.len()),
        ("producers", resume.producers.len()),
        ("positions_bytes", resume.positions.len()),
    ];
    let present = numbers.iter().filter(|(_, number)| *number > 0);
    let mut text: String = present.map(|(name, number)| format!(" {name}={number}")).collect();
    if (1..=POSITIONS_SHOWN_MAX).contains(&resume.positions.len()) {
        text.push_str(" positions=");
        text.push_str(&hex(&resume.positions));
    }
    text
}

/// Returns the error of a listing that cannot be written.
fn unwritable(error: std::io::Error) -> Error {
    Error::new(ErrorKind::Failed, "writing the listing failed").cause(error)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::super::{Append, EpochEnd, Facts, Journal, JournalSettings};
    use super::*;

    /// Appends, ends and commits epochs until `has_ended`, so that segments are used again.
    fn write(mut journal: Journal, has_ended: &AtomicBool) {
        let mut epoch = 1;
        while !has_ended.load(Ordering::Relaxed) {
            for _ in 0..20 {
                let stored = journal.append_data(1, &[b'x'; 100_000]).expect("a disk");
                assert!(matches!(stored, Append::Stored { .. }));
            }
            let cut = journal.tail();
            let end = EpochEnd { epoch, next_epoch: epoch + 1, cut, resume: Resume::at(cut) };
            assert!(matches!(journal.append_epoch_end(&end), Ok(Append::Stored { .. })));
            journal.append_committed(epoch).expect("a disk");
            journal.syncer().sync().expect("a disk");
            while journal.syncer().tidy().expect("a disk") {}
            epoch += 1;
        }
    }

    #[test]
    fn check_beside_a_writer_finds_no_damage() {
        let dir = tempfile::tempdir().expect("a folder");
        let facts = Facts { source: "localhost:1".to_owned(), parts: 1, interval_ms: 1000 };
        let settings = JournalSettings { journal_bytes_max: 16 << 20, ..Default::default() };
        let (journal, _) = Journal::open(dir.path(), settings, facts).expect("room");
        let has_ended = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| write(journal, &has_ended));
            let found: Vec<_> = (0..100).map(|_| check(dir.path(), &mut Vec::new())).collect();
            has_ended.store(true, Ordering::Relaxed);
            assert!(found.iter().any(Result::is_ok), "no two walks agreed");
            for walked in found {
                match walked {
                    Ok(verdict) => assert!(verdict.is_sound(), "{verdict:?}"),
                    Err(error) => assert_eq!(error.kind(), ErrorKind::Temporary, "{error}"),
                }
            }
        });
    }
}
