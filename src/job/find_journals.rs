//! The journals of a job, known by their ids wherever they lie.
//!
//! A journal belongs to a source and not to a process: a restart with another `-n`, or on hosts
//! that each have a state of their own, may find it where its source is not read any more. So each
//! process lists the journals in its state. Process 0 gives every journal to one that sees it: to
//! the reader of its source, else to the first, which brings back what is in it and reads nothing.
//!
//! A note beside each journal, and one in the state of process 0 for those of all processes,
//! records that it exists. So the next start notices a journal that is gone, with its host or
//! without.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::control_messages::{WHILE_ALIVE, decode, encode};
use super::epoch_ranges;
use crate::cluster::Control;
use crate::durable_file::replace_file;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Journal, JournalSummary, damage_hint, id_digits, peek};
use crate::outputs::Attempts;
use crate::sources::{KafkaTopic, merged_positions};
use crate::state::{FinishedJournals, JOURNAL, NOTE};

/// Returns the folder of a source's journal.
pub fn folder(state: &Path, source: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    let name: String = source.chars().map(plain).take(64).collect();
    let hash = xxhash_rust::xxh3::xxh3_64(source.as_bytes()) as u32;
    state.join(format!("{JOURNAL}{name}-{hash:08x}"))
}

/// Returns the folders of journals in a state, sorted.
///
/// Fails with `Disk` if the state cannot be read.
pub fn folders(state: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: io::Error| {
        let message = format!("cannot list the state in {}: {error}", state.display());
        Error::new(ErrorKind::Disk, message).cause(error)
    };
    let mut found = Vec::new();
    match fs::read_dir(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(failed)?;
                if entry.file_name().to_string_lossy().starts_with(JOURNAL) {
                    found.push(entry.path());
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// A journal that a note names: it exists, or did.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct KnownJournal {
    /// In hexadecimal digits.
    pub id: String,
    /// The name of the source whose bytes the journal holds.
    pub source: String,
    /// True if no process reads its source.
    pub is_orphan: bool,
}

impl KnownJournal {
    /// Returns the note of a journal with this id.
    pub fn new(id: u128, source: &str) -> KnownJournal {
        KnownJournal { id: id_digits(id), source: source.to_owned(), is_orphan: false }
    }

    /// Returns the topic of Kafka that its source is a share of.
    pub fn topic(&self) -> Option<String> {
        KafkaTopic::base_name(&self.source)
    }

    /// Returns true if its source can be read again, so that its bytes are not in the journal.
    pub fn is_replayable(&self) -> bool {
        let is_of_files = ["file ", "watch "].iter().any(|kind| self.source.starts_with(kind));
        is_of_files || self.topic().is_some()
    }

    /// Returns the folder of the journal, if it lies in `state`.
    pub fn folder(&self, state: &Path) -> PathBuf {
        folder(state, &self.source)
    }

    /// Returns the path of the note in a state folder.
    fn path(&self, state: &Path) -> PathBuf {
        state.join(format!("{NOTE}{}", self.id))
    }

    /// Notes durably in `state` that the journal exists. A note that is there stays as it is: the
    /// disk may be full.
    ///
    /// Fails with `Disk` if the note cannot be written.
    pub fn note(&self, state: &Path) -> Result<()> {
        let path = self.path(state);
        if path.exists() {
            return Ok(());
        }
        replace_file(&path, self.source.as_bytes()).map(drop).map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Error::new(ErrorKind::Disk, message).cause(error)
        })
    }

    /// Removes the note.
    pub fn forget(&self, state: &Path) {
        let removed = fs::remove_file(self.path(state));
        removed.unwrap_or_else(|error| tracing::debug!(%error, "no note to remove"));
    }
}

/// A journal that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoundJournal {
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// Its folder in the state of the process that found it.
    pub folder: String,
    /// True if that process reads its source.
    pub is_own: bool,
}

impl FoundJournal {
    /// Returns a journal that this process has made just now.
    pub fn of(journal: &Journal) -> FoundJournal {
        let id = id_digits(journal.id());
        FoundJournal { id, folder: String::new(), is_own: true }
    }
}

/// A journal whose source no process reads where it lies.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct OrphanJournal {
    /// The process that replays it.
    pub process: usize,
    /// Its folder there.
    pub folder: String,
}

/// The journals that one process found, and those that its notes name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct JournalList {
    /// The journals in the state folder.
    pub found: Vec<FoundJournal>,
    /// The notes in the state folder, also of journals that lie elsewhere.
    known: Vec<KnownJournal>,
    /// Epochs that are marked in any of the journals and not known to be committed. Their sources
    /// pass the same cuts: kept for each journal, the same epochs would fill the memory.
    #[serde(with = "epoch_ranges")]
    pub epochs: BTreeSet<Epoch>,
    /// The newest that was marked.
    pub last: Option<Epoch>,
    /// Positions in topics of Kafka that the journals have recorded.
    pub topics: Vec<TopicPositions>,
    /// The journals of a job that has finished, as the state folder notes them.
    pub finished: FinishedJournals,
}

/// The positions in a topic of Kafka that one journal has recorded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicPositions {
    /// The newest epoch of the journal.
    epoch: Option<Epoch>,
    /// The name that all shares of the topic have in common.
    name: String,
    /// The encoded positions of one share of the topic.
    positions: Vec<u8>,
}

/// Returns the positions from which each topic is read on, by its name.
///
/// Fails with `Disk` if the positions are of no known form.
pub fn topic_positions(lists: &[JournalList]) -> Result<BTreeMap<String, Vec<u8>>> {
    let mut recorded: Vec<&TopicPositions> = lists.iter().flat_map(|list| &list.topics).collect();
    recorded.sort_by_key(|topic| topic.epoch);
    let names: BTreeSet<&String> = recorded.iter().map(|topic| &topic.name).collect();
    let merged = names.into_iter().map(|name| {
        let of_name = recorded.iter().filter(|topic| topic.name == *name);
        let merged = merged_positions(of_name.map(|topic| topic.positions.as_slice()))?;
        Ok((name.clone(), merged))
    });
    merged.collect()
}

impl JournalList {
    /// Adds the epochs that are marked in one more journal.
    pub fn add_epochs(&mut self, epochs: Vec<Epoch>, last: Option<Epoch>) {
        self.last = self.last.max(last);
        // Most journals of a process have the same epochs.
        if !self.epochs.iter().eq(&epochs) {
            self.epochs.extend(epochs);
        }
    }
}

/// Returns the error of a state folder that cannot be read.
fn unreadable(state: &Path, error: io::Error) -> Error {
    let message = format!("cannot read the state in {}: {error}", state.display());
    Error::new(ErrorKind::Disk, message).cause(error)
}

/// Lists the journals in a state, as the process that reads the sources named in `own`. Those
/// `abandoned` are not looked into: they may be damaged. Of those of a finished job nothing counts.
///
/// Fails with `Disk` if a journal cannot be read or is damaged, naming the flag that gives it up.
pub fn find(state: &Path, own: &[String], abandoned: &[String]) -> Result<JournalList> {
    let (known, finished) = (noted(state)?, FinishedJournals::read(state)?);
    let committed = Attempts::read(state)?.proven();
    let mut list = JournalList { known, finished, ..JournalList::default() };
    let known: BTreeMap<PathBuf, String> =
        list.known.iter().map(|known| (known.folder(state), known.id.clone())).collect();
    for path in folders(state)? {
        let id = known.get(&path);
        if id.is_some_and(|id| abandoned.contains(id)) {
            continue;
        }
        let summary = peek(&path).map_err(|error| match id {
            Some(id) if error.kind() == ErrorKind::Disk => error.hint(damage_hint(id)),
            _ => error,
        });
        let Some(summary) = summary? else { continue };
        let id = id_digits(summary.id);
        let is_finished = list.finished.journals.contains(&id);
        list.found.push(FoundJournal {
            id,
            folder: path.file_name().unwrap_or_default().to_string_lossy().into_owned(),
            is_own: own.contains(&summary.source),
        });
        if is_finished {
            continue;
        }
        check_end(&path, &summary, committed)?;
        if let Some(name) = KafkaTopic::base_name(&summary.source) {
            let positions = merged_positions(summary.positions.iter().map(Vec::as_slice))?;
            list.topics.push(TopicPositions { epoch: summary.last_epoch, name, positions });
        }
        list.add_epochs(summary.open_epochs, summary.last_epoch);
    }
    Ok(list)
}

/// Fails if the journal in `folder` does not know the end of an epoch that was `committed` for
/// certain: that end was durable before, so the journal has lost it, and lines after it.
///
/// The journal of a source that can be read again gets no more ends while its source is not given.
///
/// # Errors
///
/// `Disk`, naming the flag that gives the journal up.
fn check_end(folder: &Path, summary: &JournalSummary, committed: Option<Epoch>) -> Result<()> {
    let known = KnownJournal::new(summary.id, &summary.source);
    // One without any end may have been made just before a crash.
    let (Some(last), Some(committed)) = (summary.last_epoch, committed) else { return Ok(()) };
    if last >= committed || known.is_replayable() {
        return Ok(());
    }
    let message = format!(
        "the journal {} has lost its end: it has the ends of epochs up to {last}, and {committed} \
         was committed",
        folder.display()
    );
    Err(Error::new(ErrorKind::Disk, message).hint(damage_hint(&known.id)))
}

/// Returns the journals that have a note in a state.
pub fn noted(state: &Path) -> Result<Vec<KnownJournal>> {
    let mut known = Vec::new();
    let entries = match fs::read_dir(state) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(known),
        entries => entries.map_err(|error| unreadable(state, error))?,
    };
    for entry in entries {
        let path = entry.map_err(|error| unreadable(state, error))?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(id) = name.strip_prefix(NOTE) else { continue };
        let source = match fs::read_to_string(&path) {
            // A run that is ending has taken it back since the folder was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            source => source.map_err(|error| unreadable(state, error))?,
        };
        known.push(KnownJournal { id: id.to_owned(), source, is_orphan: false });
    }
    Ok(known)
}

/// Assigns each journal whose source no process reads where it lies to a process that found it.
/// Those of a finished job are left out.
pub fn orphans(lists: &[JournalList]) -> BTreeMap<String, OrphanJournal> {
    let mut orphans = assigned(lists);
    let own = lists.iter().flat_map(|list| &list.found).filter(|found| found.is_own);
    let finished = lists.iter().flat_map(|list| &list.finished.journals);
    for id in own.map(|own| &own.id).chain(finished) {
        orphans.remove(id);
    }
    orphans
}

/// Assigns each journal to the first process that found it.
pub fn assigned(lists: &[JournalList]) -> BTreeMap<String, OrphanJournal> {
    let mut assigned = BTreeMap::new();
    for (process, list) in lists.iter().enumerate() {
        for found in &list.found {
            let place = || OrphanJournal { process, folder: found.folder.clone() };
            assigned.entry(found.id.clone()).or_insert_with(place);
        }
    }
    assigned
}

/// Refuses to start while a journal that is known was not found by any process: bytes that were
/// promised to be counted are in it. Those `abandoned` and those of a finished job are not missed.
pub fn check_none_missing(lists: &[JournalList], abandoned: &[String]) -> Result<()> {
    let found =
        |id: &String| lists.iter().flat_map(|list| &list.found).any(|found| found.id == *id);
    let known = || lists.iter().flat_map(|list| &list.known);
    for id in abandoned.iter().filter(|id| !found(id) && !known().any(|known| known.id == **id)) {
        tracing::warn!("--abandon-journal {id}: there is no such journal, so nothing is abandoned");
    }
    let is_finished = |id: &String| lists.iter().any(|list| list.finished.journals.contains(id));
    let missing = known().filter(|known| !found(&known.id) && !is_finished(&known.id));
    for KnownJournal { id, source, .. } in missing {
        if abandoned.contains(id) {
            tracing::warn!("journal {id} of {source} is abandoned, with all that it held");
            continue;
        }
        let message = format!("journal {id} of {source} is missing: no process finds it");
        return Err(Error::new(ErrorKind::Configuration, message).hint(format!(
            "bring it back to --state, or give --abandon-journal {id} to lose what it held"
        )));
    }
    Ok(())
}

/// Process 0 notes the journals of all processes, before anything is read into them. Returns those
/// of the others, whose notes are removed when they have been put away.
///
/// Fails with `Disk` if a note cannot be written, and with `PeerLost` if a process is lost
/// meanwhile.
pub fn note_all(
    control: &Control,
    state: Option<&Path>,
    own: &[KnownJournal],
) -> Result<Vec<KnownJournal>> {
    let facts = encode(&own)?;
    let mut elsewhere = Vec::new();
    control.agree(facts, WHILE_ALIVE, |facts| {
        for facts in facts.iter().skip(1) {
            elsewhere.extend(decode::<Vec<KnownJournal>>(facts)?);
        }
        if let Some(state) = state {
            elsewhere.iter().try_for_each(|known| known.note(state))?;
        }
        Ok(Vec::new())
    })?;
    // Beside a state that all share, each forgets its own.
    elsewhere.retain(|known| !own.contains(known));
    Ok(elsewhere)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(id: &str, is_own: bool) -> FoundJournal {
        let (id, folder) = (id.to_owned(), format!("journal-{id}"));
        FoundJournal { id, folder, is_own }
    }

    fn of(found: Vec<FoundJournal>) -> JournalList {
        JournalList { found, ..JournalList::default() }
    }

    #[test]
    fn many_epochs_and_sources_fit_a_message() {
        let mut list = JournalList::default();
        let epochs: Vec<Epoch> = (0..100_000).map(|k| 1_795_345_210_000 + 10 * k).collect();
        for source in 0..1_000 {
            list.found.push(found(&format!("{source:032x}"), true));
            // Comparing them takes a debug build its time: a few stand for all.
            if source < 20 {
                list.add_epochs(epochs.clone(), epochs.last().copied());
            }
        }
        let sent = encode(&list).expect("a message");
        assert!(sent.len() < 1 << 20, "{} bytes", sent.len());
        assert_eq!(decode::<JournalList>(&sent).expect("a list"), list);
        assert_eq!(list.epochs.len(), 100_000);
    }

    #[test]
    fn journal_goes_to_reader_else_to_first_finder() {
        let first = of(vec![found("a", false), found("b", false)]);
        let second = of(vec![found("b", true), found("c", false)]);
        let third = of(vec![found("c", false)]);
        let orphans = orphans(&[first, second, third]);
        let orphans = orphans.iter().map(|(id, orphan)| (id.as_str(), orphan.process));
        let orphans: Vec<_> = orphans.collect();
        assert_eq!(orphans, [("a", 0), ("c", 1)]);
    }

    #[test]
    fn journal_known_only_by_note_stops_start() {
        let (mut first, second) = (JournalList::default(), of(vec![found("a", true)]));
        first.known =
            vec![KnownJournal::new(0xa, "localhost:1"), KnownJournal::new(0xb, "localhost:2")];
        first.known[0].id = "a".to_owned();
        let id = first.known[1].id.clone();
        let error =
            check_none_missing(&[first.clone(), second.clone()], &[]).expect_err("one is gone");
        assert!(error.to_string().contains(&format!("--abandon-journal {id}")), "{error}");
        check_none_missing(&[first, second], &[id]).expect("nothing else is missing");
    }
}
