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
    /// False if a record was found that cannot be read: then there are more bytes than counted.
    pub is_whole: bool,
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
    let (mut bytes, mut is_whole) = (0, true);
    for at in first..log.bases.len() {
        let base = log.bases[at];
        let end = log.next_base(at).unwrap_or(u64::MAX).min(found.tail);
        let limit = end.min(log.extent(at)?.2);
        is_whole &= limit == end;
        let from = base.max(resume.position.0);
        let mut cursor = Cursor::new(Arc::clone(&log.open(at)?), seed, base, from);
        loop {
            match cursor.next(limit).map_err(|error| log.failed(at, error))? {
                Step::Entry(entry) => {
                    // Of what was split, only open lines would be counted again.
                    if let Record::Data { bytes: data, .. } = entry.record
                        && entry.position >= resume.split
                    {
                        bytes += data.len() as u64;
                    }
                }
                Step::End => break,
                Step::Bad(_) => {
                    is_whole = false;
                    break;
                }
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
        is_whole,
    }))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::super::segment::{self, HEADER};
    use super::super::{Append, EpochEnd, Facts, Journal, JournalSettings, Resume};
    use super::*;

    #[test]
    fn usage_past_damage_is_not_whole() {
        let dir = tempfile::tempdir().expect("a folder");
        let facts = Facts { source: "localhost:1".to_owned(), parts: 1, interval_ms: 1000 };
        let opened = Journal::open(dir.path(), JournalSettings::default(), facts);
        let (mut journal, _) = opened.expect("room");
        // More than is verified at a start.
        for _ in 0..100 {
            let stored = journal.append_data(1, &[b'x'; 1000]).expect("a disk");
            assert!(matches!(stored, Append::Stored { .. }));
        }
        journal.syncer().sync().expect("a disk");
        // It states that all of them are on disk, so that a bad one is no torn tail.
        let cut = journal.tail();
        let end = EpochEnd { epoch: 1, next_epoch: 2, cut, resume: Resume::at(cut) };
        let stored = journal.append_epoch_end(&end).expect("a disk");
        assert!(matches!(stored, Append::Stored { .. }));
        let measured = || usage(dir.path()).expect("it can be read").expect("a journal");
        let whole = measured();
        assert_eq!((whole.uncommitted_bytes, whole.is_whole), (100_000, true));
        let path = dir.path().join(segment::name(0));
        let mut bytes = fs::read(&path).expect("a segment");
        bytes[HEADER as usize + 100] ^= 1;
        fs::write(&path, bytes).expect("room");
        let damaged = measured();
        assert_eq!((damaged.uncommitted_bytes, damaged.is_whole), (0, false));
    }
}
