//! Recovery of what a former run left in journals, state and store.
//!
//! A start finds the journals first and lists them ([`JournalList`]); process 0 gathers
//! that from all and looks in the store which of the marked epochs are committed ([`judge`]); only
//! when nothing stops the start does it empty the others of what a crash left there ([`clear`]).
//! The store is the truth: a journal may not have heard of the last commits. Where a reader has
//! taken an epoch away, the commit log of the state knows it.
//!
//! Then each process opens its journals ([`JournalPlan::open`]): lines of committed epochs are
//! dropped when they come back, those of the others are handed over again, into the epochs that
//! they were marked for, and bytes that no mark took belong to the first new epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use futures::stream::{self, StreamExt, TryStreamExt};
use serde::{Deserialize, Serialize};

use super::epoch_ranges;
use super::find_journals::{self, JournalList, KnownJournal, OrphanJournal, folder, folders};
use super::put_journals_away::{self, FinishedJournal};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Budget, Facts, Journal, JournalSettings, id_digits, peek, put_away};
use crate::outputs::{CommitEvidence, Output, OutputStart};
use crate::sources::{KafkaTopic, Past, Source};
use crate::state::FinishedJournals;

/// Journals of files hold marks only.
const FILE_JOURNAL_BYTES_MAX: u64 = 4 << 20;
const FILE_RECORD_BYTES_MAX: usize = 4 << 10;
/// So many epochs are looked up in the output at a time.
const EPOCHS_AT_A_TIME: usize = 16;

/// The plan for the epochs that journals have marked: those to count again, and those committed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct RecoveryPlan {
    /// Epochs to be counted and published again, in order.
    #[serde(with = "epoch_ranges")]
    pub replay: Vec<Epoch>,
    /// Epochs that are committed.
    #[serde(with = "epoch_ranges")]
    pub committed: BTreeSet<Epoch>,
    /// The newest epoch that any journal knows.
    pub newest: Option<Epoch>,
    /// Journals whose source is not read where they lie, by id.
    pub orphans: BTreeMap<String, OrphanJournal>,
    /// Ids of journals that are given up.
    pub abandoned: Vec<String>,
    /// Positions from which topics of Kafka are read on, by their names.
    pub topics: BTreeMap<String, Vec<u8>>,
    /// The journals of a job that has finished.
    pub finished: Vec<FinishedJournal>,
}

impl RecoveryPlan {
    /// Returns the newest epoch of which all that came before and in it is committed, for a job
    /// that opens `open` first.
    pub fn committed_before(&self, open: Epoch) -> Epoch {
        let before_replay = self.replay.first().map(|first| first.saturating_sub(1));
        before_replay.or(self.newest).unwrap_or(open.saturating_sub(1))
    }
}

/// Finds out which of the epochs that journals have marked are committed, and changes nothing.
/// Epochs are committed in order: with one, all before it are, also those that had nothing to
/// publish and so have no marker.
///
/// # Errors
///
/// `Configuration` where the marker of such an epoch is another job's or another state's.
pub async fn judge(
    lists: &[JournalList],
    output: &dyn Output,
    start: &OutputStart<'_>,
    evidence: &CommitEvidence,
) -> Result<RecoveryPlan> {
    let mut epochs: BTreeSet<Epoch> = lists.iter().flat_map(|list| &list.epochs).copied().collect();
    let newest = lists.iter().filter_map(|seen| seen.last).max().max(evidence.newest());
    let mut replay = Vec::new();
    let newest_first: Vec<Epoch> = epochs.iter().rev().copied().collect();
    let mut recovery_plan = stream::iter(newest_first)
        .map(async |epoch| {
            let committed = output.is_committed(start, evidence, epoch).await?;
            Ok::<_, Error>((epoch, committed))
        })
        .buffered(EPOCHS_AT_A_TIME);
    while let Some((epoch, false)) = recovery_plan.try_next().await? {
        replay.push(epoch);
        epochs.pop_last();
    }
    drop(recovery_plan);
    replay.reverse();
    let (orphans, topics) = (find_journals::orphans(lists), find_journals::topic_positions(lists)?);
    let (abandoned, finished) = (Vec::new(), put_journals_away::finished(lists));
    Ok(RecoveryPlan { replay, committed: epochs, newest, orphans, abandoned, topics, finished })
}

/// Empties the epochs that are to be counted again of what a crash left in them. They are the
/// job's own: its journals hold their lines, and no marker stands there.
///
/// Fails with the error of the output, after retries for a while.
pub async fn clear(recovery_plan: &RecoveryPlan, output: &dyn Output) -> Result<()> {
    output.clear(&recovery_plan.replay).await?;
    if !recovery_plan.replay.is_empty() {
        let epochs = recovery_plan.replay.len();
        tracing::info!("{epochs} epochs of the last run are not committed: counting them again");
    }
    Ok(())
}

/// A journal that is open, with the past of its source.
#[derive(Debug)]
pub struct OpenJournal {
    /// The journal, open for appending.
    pub journal: Journal,
    /// How far a former run has come in it.
    pub past: Past,
    /// Where it lies.
    pub place: JournalPlace,
}

/// Where a journal lies, and what it is known by.
#[derive(Debug)]
pub struct JournalPlace {
    /// The folder of the journal.
    folder: PathBuf,
    /// The state folder that the journal is in.
    state: PathBuf,
    /// The note that names the journal.
    known: KnownJournal,
}

impl JournalPlace {
    /// Returns the state folder, and the note in it.
    pub fn noted(&self) -> (&Path, &KnownJournal) {
        (&self.state, &self.known)
    }

    /// Returns the note of the journal.
    pub fn known(&self) -> KnownJournal {
        self.known.clone()
    }
}

/// The settings by which journals are opened.
#[derive(Clone, Debug)]
pub struct JournalPlan<'a> {
    /// The state folder of this process.
    pub state: &'a Path,
    /// The limits of journals, and when they are synced.
    pub settings: JournalSettings,
    /// Shared by the journals of all sources of this process that cannot be read again.
    pub budget: Budget,
    /// Parts of a result, which a journal states.
    pub parts: u32,
    /// Length of an epoch in milliseconds, which a journal states.
    pub interval_ms: u64,
    /// This process.
    pub process: usize,
}

impl JournalPlan<'_> {
    /// Opens or makes the journal of a source.
    ///
    /// Fails with `Disk` if the journal cannot be read, and with `Configuration` if it was made for
    /// another job.
    pub fn open(
        &self,
        name: &str,
        is_file: bool,
        recovery_plan: &RecoveryPlan,
    ) -> Result<OpenJournal> {
        let folder = folder(self.state, name);
        let (mut settings, mut budget) = (self.settings.clone(), self.budget.clone());
        if is_file {
            settings.journal_bytes_max = FILE_JOURNAL_BYTES_MAX;
            settings.record_bytes_max = FILE_RECORD_BYTES_MAX;
            budget = Budget::new(&settings, 1)?;
        }
        let facts =
            Facts { source: name.to_owned(), parts: self.parts, interval_ms: self.interval_ms };
        let (journal, recovery) = Journal::open_within(&folder, settings, facts, &budget)?;
        let known = KnownJournal::new(recovery.id, name);
        known.note(self.state)?;
        let past = Past {
            resume: recovery.resume,
            ends: recovery
                .open_epochs
                .into_iter()
                .map(|end| (end.epoch, end.resume.positions))
                .collect(),
            committed: recovery_plan.committed.clone(),
            is_replay: false,
            is_replayable: is_file,
            next_connection: recovery.next_connection,
            folder: Some(folder.clone()),
        };
        let place = JournalPlace { folder, state: self.state.to_owned(), known };
        Ok(OpenJournal { journal, past, place })
    }

    /// Opens the journals that this process brings back without a source, each with its number
    /// among all of that kind. A share of one of the `topics` of this run comes with the source
    /// that reads what it recorded: there were other shares then.
    ///
    /// Fails with `Disk` if one of them cannot be opened, and with `Configuration` for files or a
    /// topic that are not given now and have epochs which are not committed.
    pub fn open_orphans(
        &self,
        recovery_plan: &RecoveryPlan,
        topics: &BTreeMap<String, KafkaTopic>,
    ) -> Result<Vec<(u32, Option<Source>, OpenJournal)>> {
        let mut opened = Vec::new();
        // Only these are looked at: others may be open already, and being written to.
        for (number, (id, orphan)) in (0..).zip(&recovery_plan.orphans) {
            let path = self.state.join(&orphan.folder);
            if orphan.process != self.process {
                continue;
            }
            let Some(summary) = peek(&path)? else { continue };
            let known = KnownJournal::new(summary.id, &summary.source);
            if known.id != *id {
                continue;
            }
            let topic = known.topic().and_then(|name| topics.get(&name));
            if topic.is_some() || !known.is_replayable() {
                let journal = self.open(&summary.source, topic.is_some(), recovery_plan)?;
                let source = topic.map(|topic| topic.clone().recovery_only());
                let source = source.map(|topic| Source::Kafka(Box::new(topic)));
                opened.push((number, source, journal));
                continue;
            }
            let lost =
                summary.open_epochs.iter().filter(|epoch| recovery_plan.replay.contains(epoch));
            match lost.count() {
                0 => tracing::warn!(
                    "{} was read before and is not given now: its rest is not read",
                    known.source
                ),
                epochs => return Err(unfinished(&known, epochs)),
            }
        }
        Ok(opened)
    }
}

/// Lines of a source were promised to be counted, and it is not given any more.
fn unfinished(known: &KnownJournal, epochs: usize) -> Error {
    let KnownJournal { id, source, .. } = known;
    let message = format!("{epochs} epochs with lines of {source} are not committed");
    let flag = match known.topic() {
        Some(_) => "--kafka",
        None if source.starts_with("watch ") => "--watch",
        None => "--file",
    };
    Error::new(ErrorKind::Configuration, message)
        .hint(format!("give it with {flag} again, or --abandon-journal {id} to lose these lines"))
}

/// Returns the epochs that are to be replayed, each with the number of `pasts` that will pass its
/// end.
pub fn ends_to_pass<'a>(
    recovery_plan: &RecoveryPlan,
    pasts: impl Iterator<Item = &'a Past>,
) -> Vec<(Epoch, usize)> {
    let mut passes: BTreeMap<Epoch, usize> =
        recovery_plan.replay.iter().map(|epoch| (*epoch, 0)).collect();
    for (epoch, _) in pasts.flat_map(|past| &past.ends) {
        passes.entry(*epoch).and_modify(|times| *times += 1);
    }
    passes.into_iter().collect()
}

/// Puts a journal away that was read to its end and whose source no process reads any more.
pub fn close(JournalPlace { folder, state, known }: &JournalPlace, keep: bool) {
    // A note without a journal would stop the next start; a journal without a note is noted again.
    known.forget(state);
    // One rename, so that a crash leaves all of it or nothing.
    let keep_aside = |folder| put_journals_away::keep_aside(folder).map(drop);
    let closed = if keep { keep_aside(folder) } else { put_away(folder) };
    if let Err(error) = closed {
        tracing::warn!("cannot put the journal {} away: {error}", folder.display());
    }
}

/// Warns of states of the same definition, with other flags, that hold lines not committed.
pub fn warn_of_other_states(state: &Path, definition: &str) {
    let Some(parent) = state.parent() else { return };
    let Ok(siblings) = std::fs::read_dir(parent) else { return };
    for sibling in siblings.flatten() {
        let name = sibling.file_name().to_string_lossy().into_owned();
        if sibling.path() == state || !name.starts_with(&format!("{definition}-")) {
            continue;
        }
        let journals = folders(&sibling.path()).unwrap_or_default();
        let finished = FinishedJournals::read(&sibling.path()).unwrap_or_default().journals;
        let epochs: BTreeSet<Epoch> = journals
            .iter()
            .filter_map(|journal| peek(journal).ok().flatten())
            .filter(|summary| !finished.contains(&id_digits(summary.id)))
            .flat_map(|summary| summary.open_epochs)
            .collect();
        if !epochs.is_empty() {
            tracing::warn!(
                "{} holds {} epochs not known to be committed, from {}: start with the flags of \
                 then to finish them",
                sibling.path().display(),
                epochs.len(),
                epochs.first().copied().unwrap_or_default(),
            );
        }
    }
}
