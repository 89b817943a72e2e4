//! What a former run left: found, judged by the store, and begun again.
//!
//! A start finds the journals first and says what it found ([`Found`]); process 0 gathers that from
//! all, looks in the store which of the marked epochs are committed, and empties the others of what
//! a crash left there ([`judge`]). The store is the truth: a journal may not have heard of the last
//! commits. Then each process opens its journals ([`open`]): lines of committed epochs are dropped
//! when they come back, those of the others are handed over again, into the epochs that they were
//! marked for, and bytes that no mark took belong to the first new epoch.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::crash::{self, crash_point};
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::{Facts, Journal, JournalSettings, peek};
use crate::sink::{Marker, Publication};
use crate::source::{Past, Source};
use crate::store::{Store, StoreErrorKind};

/// What the name of every journal's folder begins with.
const FOLDER: &str = "journal-";
/// What the name of the note begins with that a journal exists.
const NOTE: &str = "known-";
/// Longest marker that is read.
const MARKER_BYTES_MAX: u64 = 64 << 20;
/// Journals of files hold marks only.
const FILE_JOURNAL_BYTES_MAX: u64 = 4 << 20;
const FILE_RECORD_BYTES_MAX: usize = 4 << 10;

/// A journal that was found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Found {
    /// Its id, in hexadecimal digits.
    pub(super) id: String,
    source: String,
    epochs: Vec<Epoch>,
    last: Option<Epoch>,
}

impl Found {
    pub(super) fn of(journal: &Journal, epochs: Vec<Epoch>, last: Option<Epoch>) -> Found {
        Found { id: format!("{:032x}", journal.id()), source: String::new(), epochs, last }
    }
}

/// What the store says of the epochs that journals have marked.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Judgement {
    /// Epochs to be counted and published again, in order.
    pub(super) replay: Vec<Epoch>,
    /// Epochs that are committed.
    pub(super) committed: BTreeSet<Epoch>,
    /// The newest epoch that any journal knows.
    pub(super) newest: Option<Epoch>,
}

/// The folder of a source's journal.
fn folder(state: &Path, source: &str) -> PathBuf {
    let plain = |c: char| if c.is_ascii_alphanumeric() || ".-".contains(c) { c } else { '_' };
    let name: String = source.chars().map(plain).take(64).collect();
    let hash = xxhash_rust::xxh3::xxh3_64(source.as_bytes()) as u32;
    state.join(format!("{FOLDER}{name}-{hash:08x}"))
}

/// Names of sources, different for each: by these their journals are known.
pub(super) fn names(sources: &[Source]) -> Vec<String> {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    let name = |source: &Source| {
        let name = source.to_string();
        let times = seen.entry(name.clone()).or_default();
        *times += 1;
        if *times == 1 { name } else { format!("{name} ({times})") }
    };
    sources.iter().map(name).collect()
}

/// The folders of journals in a state.
fn folders(state: &Path) -> Result<Vec<PathBuf>> {
    let failed = |error: std::io::Error| {
        let message = format!("cannot list the state in {}: {error}", state.display());
        Error::new(ErrorKind::Disk, message).cause(error)
    };
    let mut found = Vec::new();
    match std::fs::read_dir(state) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
        Err(error) => return Err(failed(error)),
        Ok(entries) => {
            for entry in entries {
                let entry = entry.map_err(failed)?;
                if entry.file_name().to_string_lossy().starts_with(FOLDER) {
                    found.push(entry.path());
                }
            }
        }
    }
    found.sort();
    Ok(found)
}

/// The journals in a state that belong to the sources of `own`, and, with `all` names given, those
/// that belong to none of them: process 0 sees to those.
pub(super) fn find(state: &Path, own: &[String], all: Option<&[String]>) -> Result<Vec<Found>> {
    let mut found = Vec::new();
    for path in folders(state)? {
        let Some(glimpse) = peek(&path)? else { continue };
        let is_orphan = all.is_some_and(|all| !all.contains(&glimpse.source));
        if own.contains(&glimpse.source) || is_orphan {
            found.push(Found {
                id: format!("{:032x}", glimpse.id),
                source: glimpse.source,
                epochs: glimpse.open_epochs,
                last: glimpse.last_epoch,
            });
        }
    }
    Ok(found)
}

/// The note that a journal exists, so that its loss is noticed.
fn note(state: &Path, id: &str) -> PathBuf {
    state.join(format!("{NOTE}{id}"))
}

/// Refuses to start while a journal that is known is not among those `found`: bytes that were
/// promised to be counted are in it. Those `abandoned` are forgotten.
pub(super) fn miss_none(state: Option<&Path>, found: &[Found], abandoned: &[String]) -> Result<()> {
    let Some(state) = state else { return Ok(()) };
    let failed = |error: std::io::Error| {
        let message = format!("cannot read the state in {}: {error}", state.display());
        Error::new(ErrorKind::Disk, message).cause(error)
    };
    for entry in std::fs::read_dir(state).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let Some(id) = name.strip_prefix(NOTE) else { continue };
        if found.iter().any(|found| found.id == id) {
            continue;
        }
        let source = std::fs::read_to_string(entry.path()).map_err(failed)?;
        if abandoned.iter().any(|given| given == id) {
            std::fs::remove_file(entry.path()).map_err(failed)?;
            tracing::warn!("journal {id} of {source} is abandoned, with all that it held");
            continue;
        }
        let message = format!("journal {id} of {source} is missing from {}", state.display());
        return Err(Error::new(ErrorKind::Configuration, message)
            .hint(format!("bring it back, or give --abandon-journal {id} to lose what it held")));
    }
    Ok(())
}

/// Asks the store which of the epochs that journals have marked are committed, and empties the
/// others. Epochs are committed in order: with one, all before it are, also those that had nothing
/// to publish and so have no marker.
pub(super) async fn judge(
    found: &[Found],
    store: &dyn Store,
    publication: &Publication,
) -> Result<Judgement> {
    let mut epochs: BTreeSet<Epoch> = found.iter().flat_map(|found| found.epochs.clone()).collect();
    let newest = found.iter().filter_map(|found| found.last).max();
    let mut replay = Vec::new();
    while let Some(epoch) = epochs.last().copied() {
        if !crash::is_mutant("skip_by_memory") && is_committed(store, publication, epoch).await? {
            break;
        }
        replay.push(epoch);
        epochs.pop_last();
    }
    replay.reverse();
    let judgement = Judgement { replay, committed: epochs, newest };
    for epoch in &judgement.replay {
        crash_point("recovery.before_clear");
        store.clear(&publication.layout.dir(*epoch)).await?;
        crash_point("recovery.after_clear");
    }
    if !judgement.replay.is_empty() {
        let epochs = judgement.replay.len();
        tracing::info!("{epochs} epochs of the last run are not committed: counting them again");
    }
    Ok(judgement)
}

async fn is_committed(store: &dyn Store, publication: &Publication, epoch: Epoch) -> Result<bool> {
    let key = publication.layout.marker(epoch);
    let bytes = match store.get(&key, MARKER_BYTES_MAX).await {
        Ok(bytes) => bytes,
        Err(error) if error.kind == StoreErrorKind::NotFound => return Ok(false),
        Err(error) => return Err(error.into()),
    };
    if Marker::parse(&bytes).is_some_and(|marker| marker.job == publication.job) {
        return Ok(true);
    }
    let message =
        format!("{key} was written by another job, and this one has lines for that epoch");
    Err(Error::new(ErrorKind::Configuration, message).hint("give another --to, or remove it"))
}

/// A journal that is open, and what it remembers.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) journal: Journal,
    pub(super) past: Past,
    /// Where it lies.
    pub(super) place: JournalPlace,
}

/// Where a journal lies, and the note that it exists.
#[derive(Debug)]
pub(super) struct JournalPlace {
    folder: PathBuf,
    note: PathBuf,
}

/// How journals are made.
#[derive(Clone, Debug)]
pub(super) struct JournalPlan<'a> {
    pub(super) state: &'a Path,
    pub(super) settings: JournalSettings,
    pub(super) parts: u32,
    pub(super) interval_ms: u64,
}

impl JournalPlan<'_> {
    /// Opens or makes the journal of a source.
    pub(super) fn open(&self, name: &str, is_file: bool, judged: &Judgement) -> Result<Opened> {
        let folder = folder(self.state, name);
        let mut settings = self.settings.clone();
        if is_file {
            settings.journal_bytes_max = FILE_JOURNAL_BYTES_MAX;
            settings.record_bytes_max = FILE_RECORD_BYTES_MAX;
        }
        let facts =
            Facts { source: name.to_owned(), parts: self.parts, interval_ms: self.interval_ms };
        let (journal, recovery) = Journal::open(&folder, settings, facts)?;
        let note = note(self.state, &format!("{:032x}", recovery.id));
        std::fs::write(&note, name).map_err(|error| {
            let message = format!("cannot write {}: {error}", note.display());
            Error::new(ErrorKind::Disk, message).cause(error)
        })?;
        let past = Past {
            resume: recovery.resume,
            borders: recovery
                .open_epochs
                .into_iter()
                .map(|mark| (mark.epoch, mark.source))
                .collect(),
            committed: judged.committed.clone(),
            is_replay: false,
            is_file,
            file: recovery.last_done.and_then(|done| done.source),
            next_connection: recovery.next_connection,
        };
        Ok(Opened { journal, past, place: JournalPlace { folder, note } })
    }

    /// Opens the journals in which the bytes of sources stand that are not read any more.
    pub(super) fn open_orphans(&self, names: &[String], judged: &Judgement) -> Result<Vec<Opened>> {
        let mut opened = Vec::new();
        for path in folders(self.state)? {
            let Some(glimpse) = peek(&path)? else { continue };
            if names.contains(&glimpse.source) {
                continue;
            }
            let is_file = glimpse.source.starts_with("file ");
            if is_file {
                let source = &glimpse.source;
                tracing::warn!(
                    "{source} was read before and is not given now: its rest is not read"
                );
                continue;
            }
            opened.push(self.open(&glimpse.source, false, judged)?);
        }
        Ok(opened)
    }
}

/// How many of these pasts will pass the end of each epoch that is to be replayed.
pub(super) fn crossings<'a>(
    judged: &Judgement,
    pasts: impl Iterator<Item = &'a Past> + Clone,
) -> Vec<(Epoch, usize)> {
    let passes = |epoch: Epoch| {
        pasts.clone().filter(|past| past.borders.iter().any(|(border, _)| *border == epoch)).count()
    };
    judged.replay.iter().map(|epoch| (*epoch, passes(*epoch))).collect()
}

/// Puts a journal away whose job has finished, so that the same command begins a new one.
pub(super) fn close(JournalPlace { folder, note }: &JournalPlace, keep: bool) {
    // A note without a journal would stop the next start; a journal without a note is noted again.
    std::fs::remove_file(note).unwrap_or_else(|error| tracing::debug!(%error, "no note to remove"));
    let put_away = |name: String| -> std::io::Result<PathBuf> {
        let aside = folder.with_file_name(name);
        std::fs::rename(folder, &aside)?;
        Ok(aside)
    };
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    // One rename, so that a crash leaves all of it or nothing.
    let closed = if keep {
        let number = (1u32..).find(|n| !folder.with_file_name(format!("kept-{n}-{name}")).exists());
        put_away(format!("kept-{}-{name}", number.unwrap_or(0))).map(drop)
    } else {
        put_away(format!("closed-{name}")).and_then(std::fs::remove_dir_all)
    };
    if let Err(error) = closed {
        tracing::warn!("cannot put the journal {} away: {error}", folder.display());
    }
}

/// Tells of states of the same definition, with other flags, that hold lines not committed.
pub(super) fn tell_of_others(state: &Path, definition: &str) {
    let Some(parent) = state.parent() else { return };
    let Ok(siblings) = std::fs::read_dir(parent) else { return };
    for sibling in siblings.flatten() {
        let name = sibling.file_name().to_string_lossy().into_owned();
        if sibling.path() == state || !name.starts_with(&format!("{definition}-")) {
            continue;
        }
        let journals = folders(&sibling.path()).unwrap_or_default();
        let epochs: BTreeSet<Epoch> = journals
            .iter()
            .filter_map(|journal| peek(journal).ok().flatten())
            .flat_map(|glimpse| glimpse.open_epochs)
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
