//! Journals that no start reads: those that are missing, and those that are set aside.

use std::fs;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::unreadable;
use crate::error::{Error, ErrorKind, Result};
use crate::journal::usage;

/// The beginning of the name of a note that a journal exists.
pub const NOTE: &str = "known-";
/// The beginning of the name of a journal's folder that no start reads any more.
pub const KEPT: &str = "kept-";

/// A journal that a note names, and that is not in the state folder.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct MissingJournal {
    /// Its id, in hexadecimal digits.
    pub id: String,
    /// The source whose bytes it holds.
    pub source: String,
}

/// A journal that was set aside.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SetAsideJournal {
    /// Its folder.
    pub path: PathBuf,
    /// Bytes of its source that are not known to be committed; `None` if they cannot be read.
    pub uncommitted_bytes: Option<u64>,
}

impl SetAsideJournal {
    /// Returns true unless nothing is lost with it.
    pub fn may_hold_lines(&self) -> bool {
        self.uncommitted_bytes != Some(0)
    }
}

/// Returns the journals that notes among the `entries` of a state folder name and that are neither
/// `present` nor of a job that has `finished`, by their ids. One may lie in the state of another
/// process: process 0 notes those of all.
///
/// # Errors
///
/// `Disk` if a note cannot be read.
pub fn missing(
    entries: &[PathBuf],
    present: &[&str],
    finished: &[String],
) -> Result<Vec<MissingJournal>> {
    let mut missing = Vec::new();
    for path in entries {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        let Some(id) = name.strip_prefix(NOTE) else { continue };
        if present.contains(&id) || finished.iter().any(|finished| finished == id) {
            continue;
        }
        let source = fs::read_to_string(path).map_err(|error| unreadable(path, error))?;
        missing.push(MissingJournal { id: id.to_owned(), source });
    }
    Ok(missing)
}

/// Returns the journals that were set aside, among the `entries` of a state folder. All lines of
/// those of a job that has `finished` are committed, whatever they state themselves.
pub fn set_aside(entries: &[PathBuf], finished: &[String]) -> Vec<SetAsideJournal> {
    let is_kept = |path: &&PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(KEPT) && path.is_dir()
    };
    let look = |path: &PathBuf| {
        // Many are set aside because they are damaged, which hides nothing else of the state.
        let uncommitted_bytes = match usage(path) {
            Ok(None) => return None,
            Ok(Some(journal)) if finished.contains(&journal.id) => Some(0),
            Ok(Some(journal)) => journal.is_whole.then_some(journal.uncommitted_bytes),
            Err(_) => None,
        };
        Some(SetAsideJournal { path: path.clone(), uncommitted_bytes })
    };
    entries.iter().filter(is_kept).filter_map(look).collect()
}

/// Refuses to remove the state in `dir` with what these journals hold or held.
///
/// # Errors
///
/// `Configuration`, naming the journals.
pub fn refuse_loss(
    dir: &Path,
    missing: &[MissingJournal],
    set_aside: &[SetAsideJournal],
) -> Result<()> {
    let refused = |what: String, hint: String| {
        let message = format!("the state in {} {what}: nothing was removed", dir.display());
        Err(Error::new(ErrorKind::Configuration, message).hint(hint))
    };
    if !missing.is_empty() {
        let name = |journal: &MissingJournal| format!("{} of {}", journal.id, journal.source);
        let names: Vec<String> = missing.iter().map(name).collect();
        let ids: Vec<&str> = missing.iter().map(|journal| journal.id.as_str()).collect();
        return refused(
            format!("misses journal {}", names.join(", ")),
            format!(
                "bring it back, or start the job once more with --abandon-journal {} to lose \
                 what it held; if another process has it, remove the folder by hand",
                ids.join(",")
            ),
        );
    }
    let holders: Vec<&SetAsideJournal> =
        set_aside.iter().filter(|journal| journal.may_hold_lines()).collect();
    let Some(first) = holders.first() else { return Ok(()) };
    let name = |journal: &&SetAsideJournal| {
        let name = journal.path.file_name().unwrap_or_default().to_string_lossy();
        match journal.uncommitted_bytes {
            Some(bytes) => format!("{name} ({bytes} bytes)"),
            None => format!("{name} (it cannot be read to its end)"),
        }
    };
    let names: Vec<String> = holders.iter().map(name).collect();
    let path = first.path.display();
    let hint = match first.uncommitted_bytes {
        Some(_) => format!(
            "`wordtide replay {path} DATAFLOW --interval TIME --to ELSEWHERE` publishes what one \
             holds; then remove {path} by hand"
        ),
        None => format!(
            "`wordtide journal check {path}` names the damage, before which a replay stops; then \
             remove {path} by hand"
        ),
    };
    let names = names.join(", ");
    refused(format!("holds lines that are not committed in journals set aside: {names}"), hint)
}
