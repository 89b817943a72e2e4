//! A kept journal, run again: the same lines in the same epochs, so the same bytes.
//!
//! Nothing is read from a source and no clock is asked: the recorded ends name the epochs. Bytes
//! after the last of them, which a crash leaves, are one more epoch.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::find_journals::{FoundJournal, JournalList, KnownJournal};
use super::recover_epochs::RecoveryPlan;
use super::restore_changelog;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{
    Facts, Journal, JournalSettings, JournalSummary, Position, Record, Resume, SyncPolicy, peek,
};
use crate::sources::{KafkaTopic, Past};
use crate::state::Identity;

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
    /// The ends of its epochs, in order; that of bytes after the last recorded end included.
    ends: Vec<Epoch>,
    /// The least name for an epoch after the last recorded end, if the journal knows one.
    next: Option<Epoch>,
    /// True if there are bytes after the last recorded end.
    has_rest: bool,
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

/// Warns if the journals in `dir` were written by another definition than `definition`: that gives
/// other results, which may be what is wanted.
pub fn warn_of_other_definition(dir: &Path, definition: &str) {
    let of_state = [Some(dir), dir.parent()].into_iter().flatten();
    let Some(written) = of_state.filter_map(Identity::of_state).next() else { return };
    if written.definition_name() != definition {
        tracing::warn!(
            "the state of {} is run again with {definition}; its own results come from `wordtide \
             replay DIR {}`",
            written.definition,
            written.definition_name()
        );
    }
}

/// Opens the kept journals in `dir` and finds the ends of their epochs.
///
/// Fails with `Disk` if one cannot be read, or is damaged, and with `Configuration` if one holds
/// positions only.
pub fn open_all(dir: &Path) -> Result<Vec<KeptJournal>> {
    let kept = kept_journals(dir)?;
    let interval_ms = kept.first().map_or(1, |(_, summary)| summary.interval_ms);
    let mut all = Vec::new();
    for (folder, summary) in &kept {
        all.push(open(folder, summary)?);
    }
    // A job that was killed in its first epoch has recorded no end. Its state has the name.
    let begun = || {
        let of_state = [Some(dir), dir.parent()].into_iter().flatten();
        of_state.filter_map(|state| restore_changelog::begun(state).ok()?).next()
    };
    // All journals of a job are cut together, so this is one epoch.
    let rest = all.iter().filter_map(|one| one.next).max().or_else(begun).unwrap_or(interval_ms);
    for one in all.iter_mut().filter(|one| one.has_rest) {
        one.ends.push(rest);
    }
    Ok(all)
}

/// Opens a kept journal and finds the recorded ends.
fn open(folder: &Path, summary: &JournalSummary) -> Result<KeptJournal> {
    refuse_positions_only(summary)?;
    // Nothing is added but the ends of connections that a crash left open.
    let settings = JournalSettings {
        journal_bytes_max: u64::MAX / 2,
        sync: SyncPolicy::Never,
        keep_journal: true,
        ..JournalSettings::default()
    };
    let JournalSummary { source, parts, interval_ms, open_epochs, last_epoch, .. } =
        summary.clone();
    let (journal, recovery) =
        Journal::open(folder, settings, Facts { source, parts, interval_ms })?;
    let mut reader = journal.reader(recovery.first);
    let (mut ends, mut has_rest) = (Vec::new(), false);
    let mut next = last_epoch.map(|last| last.saturating_add(interval_ms));
    while let Some(entry) = reader.next()? {
        match entry.record {
            Record::EpochEnd { end, .. } => {
                ends.push(end.epoch);
                (next, has_rest) = (Some(end.next_epoch), false);
            }
            Record::Data { bytes, .. } => has_rest |= !bytes.is_empty(),
            _ => {}
        }
    }
    let first = recovery.first;
    // Segments are emptied only when all that is in them is committed.
    let is_open = ends.first().is_none_or(|epoch| open_epochs.contains(epoch));
    let is_first_whole = first == Position(0) || is_open;
    Ok(KeptJournal { journal, ends, next, has_rest, first, is_first_whole })
}

/// Fails with `Configuration` for a journal of a source that can be read again: it holds no bytes.
fn refuse_positions_only(summary: &JournalSummary) -> Result<()> {
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
    Ok(())
}

impl KeptJournal {
    /// Adds the journal and its epochs to the list that process 0 decides by.
    pub fn add_to(self, list: &mut JournalList) {
        list.found.push(FoundJournal::of(&self.journal));
        let last = self.ends.last().copied();
        list.add_epochs(self.ends, last);
    }

    /// Returns the past from which the journal is read. Nothing belongs to `open`.
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
