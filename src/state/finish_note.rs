//! The note that a job has finished: from then on its journals are of no use.
//!
//! A finished job is begun anew by its next start. Its journals and its changelog must therefore
//! go, but a process that is killed while it removes them, or after that, has not ended in order: a
//! supervisor starts it again, and its input would be counted twice. So a job that ends only names
//! them, in one file whose name appears in one step, as the last act of process 0. The next start
//! puts the journals away and removes the changelog. A start that finds no note reads on where the
//! journals have left their sources, with the totals and windows of the changelog.

use std::fs;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde::{Deserialize, Serialize};

use super::unreadable;
use crate::crash_points::crash_point;
use crate::durable_file::write_temporary;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};

/// The name of the note in the state folder.
pub const FINISHED: &str = "finished";

/// Most journals of former runs that a note names.
const FORMER_MAX: usize = 256;

/// The journals of a job that has finished.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct FinishedJournals {
    /// The ids of the journals of all processes, in hexadecimal digits.
    pub journals: Vec<String>,
    /// True if the journals are kept, under names that no start looks at.
    pub keep: bool,
    /// The first epoch of the job, whose number its changelog bears; `None` in notes of older
    /// releases, which removed the changelog before they wrote the note.
    #[serde(default)]
    pub begun: Option<Epoch>,
}

impl FinishedJournals {
    /// Reads the note in a state folder; none where no job has finished.
    ///
    /// # Errors
    ///
    /// `Disk` if the note cannot be read.
    pub fn read(state: &Path) -> Result<FinishedJournals> {
        let path = state.join(FINISHED);
        match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::default()),
            Err(error) => Err(unreadable(&path, error)),
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map_err(|error| unreadable(&path, error.into()))
            }
        }
    }

    /// Writes the note under a name that does not count yet, for a job that holds `lock`. It also
    /// names journals of the note before: one may lie in the state of a host that was not there.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be written, or the note before cannot be read.
    pub fn prepare(mut self, state: &Path, lock: &Arc<File>) -> Result<FinishNote> {
        let path = state.join(FINISHED);
        let before = FinishedJournals::read(state)?.journals;
        let before = before.into_iter().filter(|id| !self.journals.contains(id));
        let before: Vec<String> = before.take(FORMER_MAX).collect();
        self.journals.extend(before);
        let json = serde_json::to_vec(&self).map_err(io::Error::from);
        let written = json.and_then(|json| write_temporary(&path, &json));
        let (temporary, _) = written.map_err(|error| {
            let message = format!("cannot write {}: {error}", path.display());
            Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
        })?;
        Ok(FinishNote { temporary, path, _lock: Arc::clone(lock) })
    }
}

/// A note that is written and has not got its name yet. It holds the lock on the state: another
/// start would use the journals that the note names.
#[derive(Debug)]
pub struct FinishNote {
    /// The path that it was written to.
    temporary: PathBuf,
    /// The path by which a start finds it.
    path: PathBuf,
    /// The lock on the state.
    _lock: Arc<File>,
}

impl FinishNote {
    /// Gives the note its name: the last act of a job that ends in order. Returns false, with a
    /// warning, if that fails.
    ///
    /// The name is not synced, because that would take longer than all that is left to do. If a
    /// loss of power takes it back, the next start reads nothing again.
    pub fn set(self) -> bool {
        crash_point("finish.prepared");
        let renamed = fs::rename(&self.temporary, &self.path).inspect_err(|error| {
            tracing::warn!(
                "cannot rename {} to {}: {error}; the next start reads nothing again",
                self.temporary.display(),
                self.path.display()
            );
        });
        crash_point("finish.noted");
        renamed.is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn note_counts_once_it_is_set() {
        let dir = tempfile::tempdir().expect("a directory");
        let lock = Arc::new(File::create(dir.path().join("lock-0")).expect("a file"));
        let read = || FinishedJournals::read(dir.path()).expect("it can be read");
        let finished =
            FinishedJournals { journals: vec!["a".repeat(32)], keep: true, begun: Some(7) };
        let note = finished.clone().prepare(dir.path(), &lock).expect("room");
        assert_eq!(read(), FinishedJournals::default());
        assert!(note.set());
        assert_eq!(read(), finished);
        let journals = vec!["b".repeat(32)];
        let later = FinishedJournals { journals, keep: false, begun: None };
        assert!(later.prepare(dir.path(), &lock).expect("room").set());
        assert_eq!(read().journals, ["b".repeat(32), "a".repeat(32)], "the host may come back");
        fs::write(dir.path().join(FINISHED), "[").expect("room");
        let damaged = FinishedJournals::read(dir.path()).expect_err("damaged");
        assert_eq!(damaged.kind(), ErrorKind::Disk);
    }
}
