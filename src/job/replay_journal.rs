//! A kept journal, run again: the same lines in the same epochs, so the same bytes.
//!
//! Nothing is read from a source and no clock is asked: the recorded ends name the epochs. Bytes
//! after the last of them, which a crash leaves, are one more epoch.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use super::find_journals::{FoundJournal, JournalList, KnownJournal};
use super::recover_epochs::RecoveryPlan;
use super::restore_changelog;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{
    ALL_CONNECTIONS, Facts, Journal, JournalSettings, JournalSummary, Position, Record, Resume,
    SyncPolicy, peek,
};
use crate::sources::{KafkaTopic, Past};
use crate::state::{Identity, KEPT};

/// Returns the journals in `dir`: the folder of one, or a state that holds some.
///
/// Fails with `Configuration` if there is none, or the folder cannot be listed.
pub fn kept_journals(dir: &Path) -> Result<Vec<(PathBuf, JournalSummary)>> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot list {}: {error}", dir.display());
        Error::new(ErrorKind::Configuration, message).cause(error)
    };
    let mut folders = vec![dir.to_owned()];
    for entry in fs::read_dir(dir).map_err(failed)? {
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
    /// True if lines begin or end after the last recorded end.
    has_rest: bool,
    /// True if no start reads it any more, so that it was not cut with the others.
    is_set_aside: bool,
    /// Where it is read from.
    resume: Resume,
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

/// Returns what `find` finds in the state that `dir` is, or in which `dir` lies.
fn in_state<T>(dir: &Path, find: impl Fn(&Path) -> Option<T>) -> Option<T> {
    // The parent of `.` is not its name's.
    let dir = fs::canonicalize(dir).unwrap_or_else(|_| dir.to_owned());
    find(&dir).or_else(|| find(dir.parent()?))
}

/// Warns if the journals in `dir` were written by another definition than `definition`: that gives
/// other results, which may be what is wanted.
pub fn warn_of_other_definition(dir: &Path, definition: &str) {
    let Some(written) = in_state(dir, Identity::of_state) else { return };
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
    let interval_ms = kept.first().map_or(1, |(_, summary)| summary.interval_ms).max(1);
    let mut all = Vec::new();
    for (folder, summary) in &kept {
        all.push(open(folder, summary)?);
    }
    name_rests(&mut all, interval_ms, || in_state(dir, |at| restore_changelog::begun(at).ok()?));
    if all.iter().all(|one| one.ends.is_empty()) {
        tracing::warn!(
            "{} holds no epoch: committed lines are kept with --keep-journal only",
            dir.display()
        );
    }
    Ok(all)
}

/// Names the epochs of what was read after the last recorded ends. A job that was killed in its
/// first epoch has recorded none; it `begun` with that name.
fn name_rests(all: &mut [KeptJournal], interval_ms: u64, begun: impl Fn() -> Option<Epoch>) {
    let first = || begun().unwrap_or(interval_ms);
    let mut taken: BTreeSet<Epoch> = all.iter().flat_map(|one| one.ends.clone()).collect();
    // The journals of a job are cut together, so this is one epoch.
    let live = all.iter().filter(|one| !one.is_set_aside);
    let rest = live.filter_map(|one| one.next).max().unwrap_or_else(first);
    for one in all.iter_mut().filter(|one| one.has_rest && !one.is_set_aside) {
        one.ends.push(rest);
        taken.insert(rest);
    }
    // A later run may have used the name.
    for one in all.iter_mut().filter(|one| one.has_rest && one.is_set_aside) {
        let mut rest = one.next.unwrap_or_else(first);
        while taken.contains(&rest) {
            rest = rest.saturating_add(interval_ms);
        }
        one.ends.push(rest);
    }
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
    let JournalSummary { source, parts, interval_ms, last_epoch, .. } = summary.clone();
    let (journal, recovery) =
        Journal::open(folder, settings, Facts { source, parts, interval_ms })?;
    // Of a journal that has given room back, only what is not committed is whole.
    let is_whole = recovery.first == Position(0);
    let open_epochs: BTreeSet<Epoch> = recovery.open_epochs.iter().map(|end| end.epoch).collect();
    let resume = if is_whole { Resume::at(Position(0)) } else { recovery.resume };
    let unfinished = resume.connections.iter().filter(|state| !state.is_fresh());
    let mut unfinished: BTreeSet<u64> = unfinished.map(|state| state.connection).collect();
    let (mut ends, mut has_rest) = (Vec::new(), false);
    let mut next = last_epoch.map(|last| last.saturating_add(interval_ms));
    let mut reader = journal.reader(resume.position);
    while let Some(entry) = reader.next()? {
        match entry.record {
            Record::EpochEnd { end, .. } => {
                ends.extend(Some(end.epoch).filter(|it| is_whole || open_epochs.contains(it)));
                (next, has_rest) = (Some(end.next_epoch), false);
            }
            Record::Data { connection, bytes } => {
                has_rest |= !bytes.is_empty();
                match bytes.last() {
                    Some(b'\n') => unfinished.remove(&connection),
                    _ => unfinished.insert(connection),
                };
            }
            // It ends the line that was open at the last cut.
            Record::StreamEnd { connection: ALL_CONNECTIONS, .. } => {
                has_rest |= !std::mem::take(&mut unfinished).is_empty();
            }
            Record::StreamEnd { connection, .. } => has_rest |= unfinished.remove(&connection),
            _ => {}
        }
    }
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let is_set_aside = name.starts_with(KEPT);
    Ok(KeptJournal { journal, ends, next, has_rest, is_set_aside, resume })
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
        Past {
            resume: self.resume.clone(),
            ends: self.ends.iter().map(|epoch| (*epoch, Vec::new())).collect(),
            committed: left_out,
            is_replay: true,
            ..Past::default()
        }
    }
}
