//! Reading the changelog of a job back when it starts again.
//!
//! The store keeps the changelogs of totals and windows. A job finds its own by the first epoch
//! that it ever opened, which it notes in its state: the objects of its changelog bear that number.
//! A new state begins with an empty changelog, and so does the start after a job has finished: the
//! [note of that](crate::state::FinishNote) names the changelog that this start removes.

use std::fs;
use std::io;
use std::path::Path;

use super::agreement::FormerRuns;
use super::find_journals::JournalList;
use crate::crash_points::crash_point;
use crate::durable_file::replace_file;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::operators::Restored;
use crate::outputs::{Changelog, ChangelogStore, StartRetrier};

/// The file of a state that names the first epoch of its job.
const BEGUN: &str = "begun";

/// Returns the first epoch of the job of this state; `None` if it has not begun.
///
/// # Errors
///
/// `Disk` if the note cannot be read or holds no epoch.
pub fn begun(state: &Path) -> Result<Option<Epoch>> {
    let path = state.join(BEGUN);
    let failed = |error: io::Error| {
        let message = format!("cannot read {}: {error}", path.display());
        Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
    };
    match fs::read_to_string(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed(error)),
        Ok(text) => match text.trim().parse() {
            Ok(epoch) => Ok(Some(epoch)),
            Err(_) => Err(failed(io::Error::from(io::ErrorKind::InvalidData))),
        },
    }
}

/// Notes durably that the job of this state began with `epoch`. Several processes may write the
/// note in one directory.
///
/// Fails with `Disk` if the note cannot be written.
pub fn note_begun(state: &Path, epoch: Epoch) -> Result<()> {
    if begun(state)? == Some(epoch) {
        return Ok(());
    }
    let written = replace_file(&state.join(BEGUN), format!("{epoch}\n").as_bytes());
    written.map(drop).map_err(|error| {
        let message = format!("cannot note the job's beginning in {}: {error}", state.display());
        Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
    })
}

/// Returns the first epoch of the job that has left these traces, if it has finished: no later
/// start has noted another one.
pub fn finished(found: &FormerRuns) -> Option<Epoch> {
    let is_noted = |list: &JournalList| list.finished.begun == found.begun;
    found.begun.filter(|_| found.journals.iter().any(is_noted))
}

/// Removes the changelog in `dir`, of a job that has finished. A failure is logged, since nothing
/// reads it any more.
pub async fn discard(retrier: &StartRetrier, place: &dyn ChangelogStore, dir: &str) {
    if let Err(error) = retrier.run(|| place.clear(dir)).await {
        tracing::warn!("{error}; what the finished job remembered is left there");
    }
    crash_point("recovery.discarded");
}

/// Fails if the state of a job has changes and does not name the first epoch any more: totals and
/// windows would begin anew.
///
/// A state in whose journals no epoch has ended is that of a job that begins anew.
///
/// # Errors
///
/// `Disk`, naming the file.
pub fn check_begun(found: &FormerRuns, state: Option<&Path>) -> Result<()> {
    let has_epochs = found.journals.iter().any(|list| list.last.is_some());
    let (None, Some(changes), true) = (found.begun, found.changes.first(), has_epochs) else {
        return Ok(());
    };
    let path = state.unwrap_or(Path::new("")).join(BEGUN);
    let message = format!(
        "{} is missing, and the job has stored changes of totals or windows in {}",
        path.display(),
        changes.dir
    );
    let begun = changes.dir.rsplit_once('-').map_or("", |(_, begun)| begun);
    Err(Error::new(ErrorKind::Disk, message).hint(format!(
        "bring the file back (it holds {begun} and a line end), or give another --state to begin \
         anew"
    )))
}

/// Reads the changes of the epochs up to and including `through`, the newest committed one, of the
/// parts for which `owns` holds. `result` is the newest of these epochs with a result, if that is
/// known, and whether that is proven.
///
/// Fails with the error of the place after retries, or if a change is damaged or missing.
pub async fn restore(
    retrier: &StartRetrier,
    changelog: &Changelog,
    owns: impl Fn(u32) -> bool,
    through: Epoch,
    (result, is_proven): (Option<Epoch>, bool),
) -> Result<Restored> {
    let shown = (result.unwrap_or(through), result.is_some() && is_proven);
    let changes = retrier.run(|| changelog.restore(&owns, through, shown)).await?;
    if !changes.is_empty() {
        let counts: usize = changes.iter().map(|change| change.run.len()).sum();
        tracing::info!("{counts} counts of epochs up to {through} are remembered");
    }
    Ok(Restored::new(changes, through, result))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn first_epoch_is_noted_once() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(begun(state.path()).expect("no note"), None);
        note_begun(state.path(), 1_795_345_210_000).expect("a note");
        assert_eq!(begun(state.path()).expect("a note"), Some(1_795_345_210_000));
        fs::write(state.path().join(BEGUN), "what?").expect("a file");
        assert_eq!(begun(state.path()).expect_err("no number").kind(), ErrorKind::Disk);
    }
}
