//! Journals that are of no use any more: those of a job that has finished, those of sources that
//! are not read any more, and those that are given up.
//!
//! A job that finishes leaves its journals where they are, because a process that is killed at its
//! end has not ended in order. It notes that they are of no use as its last act
//! ([`FinishedJournals`](crate::state::FinishedJournals)), and the next start puts them away.

use std::collections::BTreeMap;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::find_journals::{JournalList, OrphanJournal, assigned, noted};
use crate::error::{Error, ErrorKind, Result};
use crate::journal::put_away;
use crate::state::KEPT;

/// A journal of a job that has finished, which is put away before a new one is made.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedJournal {
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// The process that puts it away, and its folder there; none where no process found it.
    place: OrphanJournal,
    /// True if it is kept.
    keep: bool,
}

/// Assigns each journal of a finished job to the process that puts it away, before it opens any:
/// the reader of its source, else the first that found it.
pub fn finished(lists: &[JournalList]) -> Vec<FinishedJournal> {
    let mut found = assigned(lists);
    for (process, list) in lists.iter().enumerate() {
        for own in list.found.iter().filter(|found| found.is_own) {
            found.insert(own.id.clone(), OrphanJournal { process, folder: own.folder.clone() });
        }
    }
    // Processes that share a state have the same note.
    let mut finished = BTreeMap::new();
    for note in lists.iter().map(|list| &list.finished) {
        for id in &note.journals {
            let place = found.remove(id).unwrap_or_default();
            let journal = FinishedJournal { id: id.clone(), place, keep: note.keep };
            finished.entry(id).or_insert(journal);
        }
    }
    finished.into_values().collect()
}

/// Puts away the journals of a finished job that are `process`'s, and takes back the notes of all.
///
/// The note that the job has finished stays until the next one has: its ids are of no other
/// journal, and a crash may come before all processes have done this.
///
/// # Errors
///
/// `Disk` if a folder cannot be put away: its source would not be read again.
pub fn put_finished_away(state: &Path, process: usize, finished: &[FinishedJournal]) -> Result<()> {
    for FinishedJournal { place, keep, .. } in finished {
        if place.process != process || place.folder.is_empty() {
            continue;
        }
        let folder = state.join(&place.folder);
        let gone = if *keep { keep_aside(&folder).map(drop) } else { put_away(&folder) };
        gone.map_err(|error| {
            let message = format!("cannot put the journal {} away: {error}", folder.display());
            Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
        })?;
    }
    for known in noted(state)? {
        if finished.iter().any(|finished| finished.id == known.id) {
            known.forget(state);
        }
    }
    Ok(())
}

/// Sets the journals aside that are given up: nothing of them is read, and their folders are kept
/// under names that no start looks at.
///
/// # Errors
///
/// `Disk` if a folder cannot be renamed.
pub fn set_aside(state: &Path, abandoned: &[String]) -> Result<()> {
    for known in noted(state)?.into_iter().filter(|known| abandoned.contains(&known.id)) {
        let folder = known.folder(state);
        match keep_aside(&folder) {
            Ok(kept) => tracing::warn!(
                "journal {} of {} is kept in {}; no start reads it",
                known.id,
                known.source,
                kept.display()
            ),
            // It is missing, or in the state of another process.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => {
                let message = format!("cannot rename {}: {error}", folder.display());
                return Err(Error::new(ErrorKind::Disk, message).cause(error));
            }
        }
        // The note goes last: a crash before leaves a journal that is missing, and abandoned.
        known.forget(state);
    }
    Ok(())
}

/// Renames the folder of a journal to one that is kept, and returns that.
pub fn keep_aside(folder: &Path) -> io::Result<PathBuf> {
    let name = folder.file_name().unwrap_or_default().to_string_lossy();
    let kept = |n: u32| folder.with_file_name(format!("{KEPT}{n}-{name}"));
    let number = (1u32..).find(|&n| !kept(n).exists());
    let kept = kept(number.unwrap_or(0));
    fs::rename(folder, &kept)?;
    Ok(kept)
}
