//! Reads the facts of a journal that a start needs before it opens the journal.

use std::path::Path;

use super::disk::{Disk, LocalDisk};
use super::recover::{RecoveredLog, recover};
use super::segment::{self, HEADER};
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
    /// True if bytes of a sender, or a torn tail, stand after the end of that epoch.
    pub has_unmarked: bool,
    /// The file and the byte at which the log ends, for messages.
    pub end: String,
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
        has_unmarked: found.has_unmarked,
        end: end_of(&found, &disk),
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

/// Returns the file of the newest record and the byte at which it ends, for messages.
fn end_of(found: &RecoveredLog, disk: &dyn Disk) -> String {
    let base = found.segments.last().map_or(0, |segment| segment.base);
    let at = HEADER + found.tail.saturating_sub(base);
    format!("{} at byte {at}", disk.place(&segment::name(base)))
}
