//! A kept journal, run again: the same lines in the same epochs, so the same bytes.
//!
//! Nothing is read from a source and no clock is asked: the marks name the epochs. Bytes after the
//! last mark belong to no epoch and are left out.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::find_journals::{FoundJournal, JournalList, KnownJournal};
use super::recover_epochs::RecoveryPlan;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{
    Facts, Journal, JournalSettings, JournalSummary, Position, Record, Resume, SyncPolicy, peek,
};
use crate::sources::{KafkaTopic, Past};

/// Returns the journals in `dir`: the folder of one, or a state that holds some.
///
/// Fails with `Configuration` if there is none, or the folder cannot be listed.
pub fn kept_journals(dir: &Path) -> Result<Vec<(PathBuf, JournalSummary)>> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot list {}: {error}", dir.display());
        Error::new(ErrorKind::Configuration, message).cause(error)
    };
    let mut folders = vec![dir.to_owned()];
    for entry in std::fs::read_dir(dir).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if path.is_dir() {
            folders.push(path);
        }
    }
    folders.sort();
    let mut found = Vec::new();
    for folder in folders {
        if let Some(summary) = peek(&folder)? {
            found.push((folder, summary));
        }
    }
    if found.is_empty() {
        let message = format!("{} holds no journal", dir.display());
        return Err(Error::new(ErrorKind::Configuration, message)
            .hint("give the folder of a journal that --keep-journal kept, or the state with it"));
    }
    Ok(found)
}

/// A journal that is open to be run again.
pub struct KeptJournal {
    /// The journal, opened for reading.
    pub journal: Journal,
    /// The ends of its epochs, in order.
    ends: Vec<Epoch>,
    /// The position of its first record.
    first: Position,
    /// True if all lines of the first epoch are there.
    is_first_whole: bool,
}

/// Returns the number of parts of the job whose kept journals lie in `dir`.
///
/// # Errors
///
/// `Configuration` if the interval of a journal is not `interval_ms`.
pub fn parts(dir: &Path, interval_ms: u64) -> Result<u32> {
    let kept_journals = kept_journals(dir)?;
    let Some((_, first)) = kept_journals.first() else { return Ok(1) };
    if let Some((folder, other)) =
        kept_journals.iter().find(|(_, at)| at.interval_ms != interval_ms)
    {
        let message = format!("{} has epochs of {} ms", folder.display(), other.interval_ms);
        return Err(Error::new(ErrorKind::Configuration, message)
            .hint(format!("give --interval {}ms", other.interval_ms)));
    }
    Ok(first.parts)
}

/// Opens a kept journal and finds its marks.
///
/// Fails with `Disk` if the journal cannot be read, or is damaged, and with `Configuration` if it
/// holds positions only.
pub fn open(folder: &Path, summary: &JournalSummary) -> Result<KeptJournal> {
    if KafkaTopic::base_name(&summary.source).is_some() {
        let message =
            format!("the journal of {} holds no bytes: a topic is not copied", summary.source);
        return Err(Error::new(ErrorKind::Configuration, message)
            .hint("read the topic itself with another --state: --kafka"));
    }
    if KnownJournal::new(summary.id, &summary.source).is_replayable() {
        let message =
            format!("the journal of {} holds no bytes: files are not copied", summary.source);
        return Err(Error::new(ErrorKind::Configuration, message)
            .hint("run the files themselves: --file, or --watch with --watch-existing"));
    }
    // Nothing is added but the ends of connections that a crash left open.
    let settings = JournalSettings {
        journal_bytes_max: u64::MAX / 2,
        sync: SyncPolicy::Never,
        keep_journal: true,
        ..JournalSettings::default()
    };
    let JournalSummary { source, parts, interval_ms, open_epochs, .. } = summary.clone();
    let (journal, recovery) =
        Journal::open(folder, settings, Facts { source, parts, interval_ms })?;
    let mut reader = journal.reader(recovery.first);
    let mut ends = Vec::new();
    while let Some(entry) = reader.next()? {
        if let Record::EpochEnd { end, .. } = entry.record {
            ends.push(end.epoch);
        }
    }
    let first = recovery.first;
    // Segments are emptied only when all that is in them is committed.
    let is_open = ends.first().is_some_and(|epoch| open_epochs.contains(epoch));
    Ok(KeptJournal { journal, ends, first, is_first_whole: first == Position(0) || is_open })
}

impl KeptJournal {
    /// Adds the journal and its epochs to the list that process 0 decides by.
    pub fn add_to(self, list: &mut JournalList) {
        list.found.push(FoundJournal::of(&self.journal));
        let last = self.ends.last().copied();
        list.add_epochs(self.ends, last);
    }

    /// Returns the past from which the journal is read; lines after the last mark would belong to
    /// `open`.
    pub fn past(&self, recovery_plan: &RecoveryPlan, open: Epoch) -> Past {
        let mut left_out: BTreeSet<Epoch> = recovery_plan.committed.clone();
        left_out.insert(open);
        if !self.is_first_whole {
            left_out.extend(self.ends.first());
        }
        Past {
            resume: Resume::at(self.first),
            ends: self.ends.iter().map(|epoch| (*epoch, Vec::new())).collect(),
            committed: left_out,
            is_replay: true,
            ..Past::default()
        }
    }
}
