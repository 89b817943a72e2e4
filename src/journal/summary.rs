//! Reads the facts of a journal that a start needs before it opens the journal.

use std::path::Path;

use super::disk::LocalDisk;
use super::recover::recover;
use crate::error::Result;

/// A journal as it stands, unopened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct JournalSummary {
    /// The id that names it.
    pub id: u128,
    /// The source whose bytes it holds.
    pub source: String,
    /// Parts per epoch that it was made for.
    pub parts: u32,
    /// Batch interval in milliseconds that it was made for.
    pub interval_ms: u64,
    /// Epochs that are marked and not known to be committed, in order.
    pub open_epochs: Vec<u64>,
    /// The newest epoch that was marked.
    pub last_epoch: Option<u64>,
    /// The positions of a source that can be read again, at each end of an epoch that is recorded
    /// and needed, in order; empty ones for any other.
    pub positions: Vec<Vec<u8>>,
}

/// Looks at the journal in `folder`, which has no writer; `None` if there is none.
///
/// # Errors
/// `Disk` if the disk fails or the log is damaged.
pub fn peek(folder: &Path) -> Result<Option<JournalSummary>> {
    if !folder.is_dir() {
        return Ok(None);
    }
    let disk = LocalDisk::read_only(folder);
    let found = recover(&disk, false)?;
    Ok(found.map(|found| JournalSummary {
        id: found.header.id,
        source: found.header.facts.source.clone(),
        parts: found.header.facts.parts,
        interval_ms: found.header.facts.interval_ms,
        open_epochs: found.epoch_ends.iter().map(|end| end.epoch).collect(),
        last_epoch: found.last_epoch_end.as_ref().map(|end| end.epoch),
        positions: std::iter::once(found.resume().positions)
            .chain(found.epoch_ends.iter().map(|end| end.resume.positions.clone()))
            .collect(),
    }))
}
