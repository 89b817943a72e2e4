//! The newest change of each part, as process 0 notes them in the state folder.
//!
//! Two files are written in turn, one for each commit: the older one stays valid if a crash tears
//! the newer one, or if its epoch was not committed. They are not synced. One that a loss of power
//! takes back names older changes, which are there as well, so it only proves less.

use std::fs;
use std::io::{self, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use super::change_links::NewestChange;
use super::part_objects::ChangelogPart;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};

/// The longest file that is read: many times the greatest number of parts.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// The newest changes of all parts, as of an epoch.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewestChanges {
    /// The folder of the changelog that they are in.
    pub dir: String,
    /// The epoch.
    pub epoch: Epoch,
    /// The newest change of each part up to and in that epoch, in the order of the parts.
    pub changes: Vec<NewestChange>,
}

impl NewestChanges {
    /// The names of the files in the state folder.
    pub const FILES: [&str; 2] = ["changes-0", "changes-1"];

    /// Returns what is noted in a state folder: nothing in that of a release before.
    ///
    /// # Errors
    ///
    /// `Disk` if a file cannot be read.
    pub fn read(state: &Path) -> Result<Vec<NewestChanges>> {
        let mut found = Vec::new();
        for name in Self::FILES {
            let path = state.join(name);
            let text = match fs::metadata(&path) {
                Ok(metadata) if metadata.len() <= FILE_BYTES_MAX => fs::read_to_string(&path),
                Ok(_) => continue,
                Err(error) => Err(error),
            };
            match text {
                Ok(text) => found.extend(decode(&text)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                // Bytes that are no text are those of a torn file.
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {}
                Err(error) => {
                    let message = format!("cannot read {}: {error}", path.display());
                    return Err(Error::new(ErrorKind::Disk, message)
                        .cause(error)
                        .hint("see --state"));
                }
            }
        }
        Ok(found)
    }

    /// Returns the newest of `found` that are of the changelog in `dir` and of epochs up to and
    /// including the committed epoch `through`.
    pub fn choose(found: &[NewestChanges], dir: &str, through: Epoch) -> NewestChanges {
        let fitting = found.iter().filter(|noted| noted.dir == dir && noted.epoch <= through);
        fitting.max_by_key(|noted| noted.epoch).cloned().unwrap_or_default()
    }

    /// Returns the newest change of a part.
    pub fn of(&self, part: ChangelogPart) -> Option<NewestChange> {
        let at = self.changes.binary_search_by_key(&part, NewestChange::of_part).ok()?;
        Some(self.changes[at])
    }

    /// Takes the changes of an epoch into account.
    pub fn advance(&mut self, epoch: Epoch, changes: impl IntoIterator<Item = NewestChange>) {
        self.epoch = epoch;
        for change in changes {
            match self.changes.binary_search_by_key(&change.of_part(), NewestChange::of_part) {
                Ok(at) => self.changes[at] = change,
                Err(at) => self.changes.insert(at, change),
            }
        }
    }
}

/// Writes the files.
#[derive(Debug)]
pub struct NewestChangesLog {
    /// The state folder.
    state: PathBuf,
    /// The file that is written next.
    next: usize,
    /// True after a file that could not be written.
    is_failing: bool,
}

impl NewestChangesLog {
    /// Returns the writer in a state folder. The file that holds `kept` is written last.
    pub fn new(state: &Path, kept: &NewestChanges) -> NewestChangesLog {
        let read = |name: &str| fs::read_to_string(state.join(name)).ok();
        let is_kept = |name: &str| read(name).and_then(|text| decode(&text)).as_ref() == Some(kept);
        let next = usize::from(is_kept(NewestChanges::FILES[0]));
        NewestChangesLog { state: state.to_owned(), next, is_failing: false }
    }

    /// Notes the newest changes. It blocks. A failure is logged: the next start then notices fewer
    /// changes that are gone.
    pub fn note(&mut self, newest: &NewestChanges) {
        let path = self.state.join(NewestChanges::FILES[self.next]);
        match write(&path, newest) {
            Ok(()) => {
                self.next = (self.next + 1) % NewestChanges::FILES.len();
                self.is_failing = false;
            }
            Err(error) if !self.is_failing => {
                self.is_failing = true;
                tracing::warn!("cannot note the newest changes in {}: {error}", path.display());
            }
            Err(_) => {}
        }
    }
}

/// Writes a file in place: a checksum, a blank, JSON.
fn write(path: &Path, newest: &NewestChanges) -> io::Result<()> {
    let json = serde_json::to_string(newest)?;
    let hash = xxhash_rust::xxh3::xxh3_64(json.as_bytes());
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true).mode(0o600);
    let mut file = options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(path)?;
    file.write_all(format!("{hash:016x} {json}\n").as_bytes())
}

/// Reads a file; `None` for a torn one.
fn decode(text: &str) -> Option<NewestChanges> {
    let (hash, json) = text.strip_suffix('\n')?.split_once(' ')?;
    let is_whole =
        u64::from_str_radix(hash, 16).ok()? == xxhash_rust::xxh3::xxh3_64(json.as_bytes());
    is_whole.then(|| serde_json::from_slice(json.as_bytes()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn newest(epoch: Epoch, parts: &[u32]) -> NewestChanges {
        let change = |part: &u32| NewestChange { counts: 0, part: *part, epoch, lasts_ms: None };
        let changes = parts.iter().map(change).collect();
        NewestChanges { dir: "job-5".to_owned(), epoch, changes }
    }

    #[test]
    fn newest_committed_note_is_chosen() {
        let state = tempfile::tempdir().expect("a directory");
        assert_eq!(NewestChanges::read(state.path()).expect("no file"), []);
        let mut noted = newest(10, &[0, 1]);
        let mut log = NewestChangesLog::new(state.path(), &noted);
        log.note(&noted);
        for epoch in [20, 30] {
            noted.advance(epoch, newest(epoch, &[1, 2]).changes);
            log.note(&noted);
        }
        let found = NewestChanges::read(state.path()).expect("two files");
        let choose = |dir, through| NewestChanges::choose(&found, dir, through);
        assert_eq!(choose("job-5", 30), noted);
        assert_eq!(choose("job-5", 29).epoch, 20);
        assert_eq!(choose("job-5", 19), NewestChanges::default());
        assert_eq!(choose("job-6", 30), NewestChanges::default());
        let of = |part| noted.of(ChangelogPart { counts: 0, part }).map(|newest| newest.epoch);
        assert_eq!([of(0), of(1), of(2), of(3)], [Some(10), Some(30), Some(30), None]);
        // The epoch 30 was not committed: its file is written first.
        let mut log = NewestChangesLog::new(state.path(), &choose("job-5", 29));
        log.note(&newest(40, &[3]));
        let found = NewestChanges::read(state.path()).expect("two files");
        let mut epochs: Vec<Epoch> = found.iter().map(|noted| noted.epoch).collect();
        epochs.sort_unstable();
        assert_eq!(epochs, [20, 40]);
    }

    #[test]
    fn torn_file_leaves_the_other() {
        let state = tempfile::tempdir().expect("a directory");
        let mut log = NewestChangesLog::new(state.path(), &NewestChanges::default());
        log.note(&newest(10, &[0]));
        log.note(&newest(20, &[0]));
        let path = state.path().join(NewestChanges::FILES[1]);
        let bytes = fs::read(&path).expect("a file");
        for kept in 0..bytes.len() {
            fs::write(&path, &bytes[..kept]).expect("room");
            assert_eq!(NewestChanges::read(state.path()).expect("files"), [newest(10, &[0])]);
        }
    }
}
