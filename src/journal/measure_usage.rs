//! Measures a journal from outside: what is in it and not committed.

use std::path::Path;
use std::sync::Arc;

use super::disk::LocalDisk;
use super::record::Record;
use super::recover::recover;
use super::scan_segment::{Cursor, Step};
use super::segment::{Header, id_digits};
use super::segment_files::Log;
use crate::error::Result;

/// The contents of a journal that a start would count again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalUsage {
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// The source whose bytes it holds.
    pub source: String,
    /// Bytes of the source that are in the journal and not known to be committed.
    pub uncommitted_bytes: u64,
    /// Epochs that have ended and are not known to be committed, oldest first.
    pub open_epochs: Vec<u64>,
    /// True if the source can be read again: the journal has positions in it, and no bytes.
    pub is_replayable: bool,
    /// The newest epoch that is known to be committed.
    pub last_committed: Option<u64>,
}

/// Measures the journal in `folder`; `None` if there is none. It may have a writer: what
/// is appended meanwhile may be missing.
///
/// # Errors
///
/// `Disk` if the disk fails or the log is damaged.
pub fn usage(folder: &Path) -> Result<Option<JournalUsage>> {
    let disk = LocalDisk::read_only(folder);
    let Some(found) = recover(&disk, false)? else { return Ok(None) };
    let log = Log::list(&disk)?;
    let resume = found.resume();
    let seed = Header::seed(found.header.id);
    let first = log.bases.partition_point(|&base| base <= resume.position.0).saturating_sub(1);
    // A state of version 1 begins where its open line does, and has no other.
    let recorded = resume.connections.iter().filter(|state| state.position < resume.split);
    let unfinished: u64 = recorded.map(|state| state.splitter.unfinished_bytes).sum();
    let mut bytes = 0;
    for at in first..log.bases.len() {
        let base = log.bases[at];
        let limit = log.next_base(at).unwrap_or(u64::MAX).min(log.extent(at)?.2).min(found.tail);
        let from = base.max(resume.position.0);
        let mut cursor = Cursor::new(Arc::clone(&log.open(at)?), seed, base, from);
        while from < limit
            && let Step::Entry(entry) = cursor.next(limit).map_err(|error| log.failed(at, error))?
        {
            // Of what was split, only open lines would be counted again.
            if let Record::Data { bytes: data, .. } = entry.record
                && entry.position >= resume.split
            {
                bytes += data.len() as u64;
            }
        }
    }
    Ok(Some(JournalUsage {
        id: id_digits(found.header.id),
        source: found.header.facts.source.clone(),
        uncommitted_bytes: bytes + unfinished,
        is_replayable: found.epoch_ends.iter().any(|end| !end.resume.positions.is_empty()),
        open_epochs: found.epoch_ends.iter().map(|end| end.epoch).collect(),
        last_committed: found.committed.as_ref().map(|(note, _)| note.epoch),
    }))
}
