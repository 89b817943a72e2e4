//! Measures a journal from outside: what is in it and not committed.

use std::path::Path;
use std::sync::Arc;

use super::disk::LocalDisk;
use super::record::Record;
use super::recover::{Log, recover};
use super::scan::{Cursor, Step};
use super::segment::Header;
use crate::error::Result;

/// The contents of a journal that a start would count again.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JournalUsage {
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

/// Measures the journal in `folder`; `None` if there is none. Somebody may be writing to it: what
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
    let mut bytes = 0;
    for at in first..log.bases.len() {
        let base = log.bases[at];
        let limit = log.next_base(at).unwrap_or(u64::MAX).min(log.extent(at)?.2).min(found.tail);
        let from = base.max(resume.position.0);
        let mut cursor = Cursor::new(Arc::clone(&log.open(at)?), seed, base, from);
        while from < limit
            && let Step::Entry(entry) = cursor.next(limit).map_err(|error| log.failed(at, error))?
        {
            if let Record::Data { bytes: data, .. } = entry.record {
                bytes += data.len() as u64;
            }
        }
    }
    Ok(Some(JournalUsage {
        source: found.header.facts.source.clone(),
        // The first record may begin with the end of a line that is committed.
        uncommitted_bytes: bytes.saturating_sub(u64::from(resume.skip)),
        is_replayable: found.marks.iter().any(|mark| mark.source.is_some()),
        open_epochs: found.marks.iter().map(|mark| mark.epoch).collect(),
        last_committed: found.done.as_ref().map(|(done, _)| done.epoch),
    }))
}
