//! The commit log: the newest epochs whose marker was about to be stored, in the state folder.
//!
//! The marker commits an epoch, but a reader may move an epoch's folder away as soon as it has the
//! marker. A crash at that moment leaves nothing in the output that separates a committed epoch
//! from one that was never stored. So an epoch is noted here, durably, when all its parts are
//! durable and before its marker is stored. A start that finds neither the marker nor all the parts
//! of the epoch noted last knows that a reader took them; with all the parts there and no marker,
//! the epoch was not committed.
//!
//! An epoch whose result has no rows, and so no marker, is noted too, without parts: what counts as
//! changed in the next window is the difference from it.
//!
//! Two slots of a small file are written in turn, so that a torn write leaves the other. Epochs are
//! committed one after the other: the older slot's epoch is committed for certain.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};

use rustix::fs::OFlags;
use serde::{Deserialize, Serialize};

use crate::durable_file::sync_folder;
use crate::epoch::Epoch;
use crate::error::{Error, ErrorKind, Result};
use crate::supervise;

/// The name of the file in the state folder.
pub const COMMITS: &str = "commits";
/// A slot is written by one request and lies in a block of its own.
const SLOT_BYTES: usize = 512;
/// The distance of slots: the block of a disk, so that a torn write leaves the other slot.
const SLOT_DISTANCE: u64 = 4096;
/// The number of slots, which are written in turn.
const SLOTS: u64 = 2;

/// An epoch that was about to be committed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempt {
    /// The epoch.
    pub epoch: Epoch,
    /// Its parts, all durable at that time.
    pub parts: u32,
}

/// The content of a slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Slot {
    /// The epoch.
    #[serde(flatten)]
    attempt: Attempt,
    /// True if the note was durable before the marker was stored. Earlier releases do not say so.
    #[serde(default)]
    is_synced: bool,
}

impl Slot {
    /// Returns the epoch that was noted.
    fn epoch(&self) -> Epoch {
        self.attempt.epoch
    }
}

/// The content of a commit log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attempts {
    /// The newest epoch that is committed for certain.
    pub settled: Option<Epoch>,
    /// The epoch that was noted last.
    pub last: Option<Attempt>,
    /// True if there is a log, be it empty.
    pub is_kept: bool,
    /// True if there are notes and each was durable before its marker was stored: a loss of power
    /// has taken none after them.
    pub is_synced: bool,
}

impl Attempts {
    /// Reads the log of the state in `dir`; a missing one is empty.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be read.
    pub fn read(dir: &Path) -> Result<Attempts> {
        match File::open(dir.join(COMMITS)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Attempts::default()),
            opened => {
                let slots = opened.and_then(|file| slots(&file));
                slots.map(Attempts::of).map_err(|error| failed("read", dir, error))
            }
        }
    }

    /// Orders what the slots hold. When the second epoch was noted, the first was committed.
    fn of(mut slots: [Option<Slot>; SLOTS as usize]) -> Attempts {
        slots.sort_by_key(|slot| slot.map(|slot| slot.epoch()));
        let settled = slots[0].map(|slot| slot.epoch());
        let last = slots[1].map(|slot| slot.attempt);
        let is_synced = last.is_some() && slots.iter().flatten().all(|slot| slot.is_synced);
        Attempts { settled, last, is_kept: true, is_synced }
    }

    /// Returns the newest epoch whose parts were durable for certain, as the ends of epochs up to
    /// it in all journals of the state were.
    pub fn proven(&self) -> Option<Epoch> {
        self.last.filter(|_| self.is_synced).map(|attempt| attempt.epoch)
    }

    /// Returns the newest epoch with a result among those up to `through`, which are committed; 0
    /// if none had a result, and `None` where no log says so.
    pub fn result(&self, through: Epoch) -> Option<Epoch> {
        let noted = [self.last.map(|attempt| attempt.epoch), self.settled];
        let committed = noted.into_iter().flatten().find(|epoch| *epoch <= through);
        self.is_kept.then(|| committed.unwrap_or(0))
    }
}

/// The commit log of process 0. Clones write the same file.
#[derive(Clone, Debug)]
pub struct CommitLog {
    /// The file, and the slot that is next.
    inner: Arc<Mutex<CommitSlots>>,
    /// True if a note is durable before its marker is stored.
    syncs: bool,
}

#[derive(Debug)]
/// The open file of a commit log.
struct CommitSlots {
    /// The file.
    file: File,
    /// The state folder, for messages.
    dir: std::path::PathBuf,
    /// The slot that is written next.
    next: u64,
}

impl CommitLog {
    /// Opens or makes the log in `dir`. Without `syncs` a note survives a crash of the process and
    /// not one of the machine, so the notes that are there do not count as the newest any more.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be opened.
    pub fn open(dir: &Path, syncs: bool) -> Result<CommitLog> {
        let open = || {
            let mut options = OpenOptions::new();
            options.read(true).write(true).create(true).truncate(false).mode(0o600);
            let file =
                options.custom_flags(OFlags::NOFOLLOW.bits() as i32).open(dir.join(COMMITS))?;
            let found = slots(&file)?;
            let [first, second] = found.map(|slot| slot.map(|slot| slot.epoch()));
            // Full length from the start, with blocks for all of it: a note then changes no
            // metadata that must be synced, and needs no room on a disk that is full.
            if file.metadata()?.blocks() * 512 < SLOTS * SLOT_DISTANCE {
                let mut whole = vec![0; (SLOTS * SLOT_DISTANCE) as usize];
                for (number, slot) in (0..).zip(found) {
                    let note = encode(slot)?;
                    let at = number * SLOT_DISTANCE as usize;
                    whole[at..at + note.len()].copy_from_slice(&note);
                }
                file.write_all_at(&whole, 0)?;
                file.sync_all()?;
                sync_folder(dir)?;
            }
            let is_stated = |slot: &Option<Slot>| slot.is_some_and(|slot| slot.is_synced);
            if !syncs && found.iter().any(is_stated) {
                for (number, slot) in (0..).zip(found) {
                    let slot = slot.map(|slot| Slot { is_synced: false, ..slot });
                    file.write_all_at(&encode(slot)?, number * SLOT_DISTANCE)?;
                }
                file.sync_data()?;
            }
            Ok(CommitSlots { file, dir: dir.to_owned(), next: u64::from(first > second) })
        };
        let slots = open().map_err(|error| failed("open", dir, error))?;
        Ok(CommitLog { inner: Arc::new(Mutex::new(slots)), syncs })
    }

    /// Notes that `attempt` is about to be committed, and all before it are.
    ///
    /// # Errors
    ///
    /// `Disk` if the note cannot be made durable.
    pub async fn note(&self, attempt: Attempt) -> Result<()> {
        let log = self.clone();
        supervise::blocking(move || log.write(Some(attempt))).await
    }

    /// Takes back the note of `epoch`, which is not committed, before its parts are removed.
    ///
    /// # Errors
    ///
    /// `Disk` if that cannot be made durable.
    pub fn retract(&self, epoch: Epoch) -> Result<()> {
        {
            let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
            let slots = slots(&inner.file).map_err(|error| failed("read", &inner.dir, error))?;
            let noted =
                slots.iter().position(|slot| slot.is_some_and(|slot| slot.epoch() == epoch));
            let Some(noted) = noted else { return Ok(()) };
            inner.next = noted as u64;
        }
        self.write(None)
    }

    /// Writes the next slot; without an attempt empties it, which a later note then fills.
    ///
    /// Fails with `Disk` if it cannot be written.
    fn write(&self, attempt: Option<Attempt>) -> Result<()> {
        let mut inner = self.inner.lock().unwrap_or_else(PoisonError::into_inner);
        let slot = inner.next;
        let write = || {
            let content = attempt.map(|attempt| Slot { attempt, is_synced: self.syncs });
            inner.file.write_all_at(&encode(content)?, slot * SLOT_DISTANCE)?;
            // A retraction is always synced: parts are removed on the strength of it.
            if self.syncs || attempt.is_none() { inner.file.sync_data() } else { Ok(()) }
        };
        write().map_err(|error| failed("write", &inner.dir, error))?;
        if attempt.is_some() {
            inner.next = (slot + 1) % SLOTS;
        }
        Ok(())
    }
}

/// Returns the error of a log that cannot be read or written: `Disk`.
fn failed(what: &str, dir: &Path, error: io::Error) -> Error {
    let message = format!("cannot {what} {}: {error}", dir.join(COMMITS).display());
    Error::new(ErrorKind::Disk, message).cause(error).hint("see --state")
}

/// Returns the bytes of a slot: a checksum, a blank, JSON, and blanks. Zeros are an empty one.
fn encode(content: Option<Slot>) -> io::Result<[u8; SLOT_BYTES]> {
    let mut slot = [0; SLOT_BYTES];
    if let Some(content) = content {
        let json = serde_json::to_string(&content)?;
        let hash = xxhash_rust::xxh3::xxh3_64(json.as_bytes());
        let text = format!("{hash:016x} {json}\n");
        slot[..text.len()].copy_from_slice(text.as_bytes());
    }
    Ok(slot)
}

/// Reads both slots; a file that ends before has empty ones.
fn slots(file: &File) -> io::Result<[Option<Slot>; SLOTS as usize]> {
    let mut slots = [None; SLOTS as usize];
    for (number, slot) in (0..).zip(&mut slots) {
        let mut bytes = [0; SLOT_BYTES];
        match file.read_exact_at(&mut bytes, number * SLOT_DISTANCE) {
            Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => {}
            read => read?,
        }
        *slot = decode(&bytes);
    }
    Ok(slots)
}

/// Reads a slot; `None` for an empty or torn one.
fn decode(bytes: &[u8]) -> Option<Slot> {
    let text = str::from_utf8(bytes).ok()?.trim_end_matches(['\0', '\n']);
    let (hash, json) = text.split_once(' ')?;
    let is_whole =
        u64::from_str_radix(hash, 16).ok()? == xxhash_rust::xxh3::xxh3_64(json.as_bytes());
    is_whole.then(|| serde_json::from_slice(json.as_bytes()).ok())?
}

#[cfg(test)]
mod tests {
    use super::*;

    fn attempt(epoch: Epoch) -> Attempt {
        Attempt { epoch, parts: 2 }
    }

    fn read(dir: &Path) -> (Option<Epoch>, Option<Epoch>) {
        let Attempts { settled, last, .. } = Attempts::read(dir).expect("a log");
        (settled, last.map(|last| last.epoch))
    }

    #[tokio::test]
    async fn notes_survive_and_settle_those_before() {
        let dir = tempfile::tempdir().expect("a directory");
        assert_eq!(read(dir.path()), (None, None));
        for epoch in [10, 20, 30] {
            // Opened anew each time, as by restarts.
            let log = CommitLog::open(dir.path(), true).expect("room");
            log.note(attempt(epoch)).await.expect("room");
        }
        assert_eq!(read(dir.path()), (Some(20), Some(30)));
        let log = CommitLog::open(dir.path(), true).expect("room");
        log.retract(30).expect("room");
        log.retract(15).expect("it was never noted");
        assert_eq!(read(dir.path()), (None, Some(20)), "which is looked up again");
        log.note(attempt(30)).await.expect("room");
        assert_eq!(read(dir.path()), (Some(20), Some(30)));
    }

    #[tokio::test]
    async fn log_without_blocks_gets_them_and_keeps_notes() {
        let dir = tempfile::tempdir().expect("a directory");
        CommitLog::open(dir.path(), true).expect("room").note(attempt(10)).await.expect("room");
        let file = File::options().write(true).open(dir.path().join(COMMITS)).expect("a log");
        // As a release before left it: the second slot is a hole.
        file.set_len(SLOT_DISTANCE).expect("a size");
        file.set_len(SLOTS * SLOT_DISTANCE).expect("a size");
        drop(CommitLog::open(dir.path(), true).expect("room"));
        let blocks = file.metadata().expect("a log").blocks();
        assert!(blocks * 512 >= SLOTS * SLOT_DISTANCE, "the file system may round up");
        assert_eq!(read(dir.path()).1, Some(10));
    }

    #[tokio::test]
    async fn notes_without_syncs_prove_nothing() {
        let dir = tempfile::tempdir().expect("a directory");
        let is_synced = || Attempts::read(dir.path()).expect("a log").is_synced;
        let open = |syncs| CommitLog::open(dir.path(), syncs).expect("room");
        let log = open(true);
        assert!(!is_synced(), "there is no note");
        log.note(attempt(10)).await.expect("room");
        log.note(attempt(20)).await.expect("room");
        assert!(is_synced());
        // All notes of this run may be lost with the power: those before look like the newest.
        drop(open(false));
        assert!(!is_synced());
        assert_eq!(read(dir.path()), (Some(10), Some(20)));
        let log = open(true);
        log.note(attempt(30)).await.expect("room");
        assert!(!is_synced(), "one of them is of the run before");
        log.note(attempt(40)).await.expect("room");
        assert!(is_synced());
        let old = "{\"epoch\":7,\"parts\":2}";
        let hash = xxhash_rust::xxh3::xxh3_64(old.as_bytes());
        let slot = decode(format!("{hash:016x} {old}\n").as_bytes()).expect("an earlier release");
        assert_eq!(slot, Slot { attempt: attempt(7), is_synced: false });
    }

    #[tokio::test]
    async fn torn_slots_leave_the_other() {
        let dir = tempfile::tempdir().expect("a directory");
        let log = CommitLog::open(dir.path(), true).expect("room");
        log.note(attempt(10)).await.expect("room");
        log.note(attempt(20)).await.expect("room");
        let file = OpenOptions::new().write(true).open(dir.path().join(COMMITS)).expect("a log");
        file.write_all_at(b"x", SLOT_DISTANCE + 20).expect("room");
        assert_eq!(read(dir.path()), (None, Some(10)));
    }
}
