//! The ledger: the files that a source has begun to read, in order, and those that it will not.
//!
//! The end of an epoch states a position: the number of a file and an offset in its text. The
//! ledger knows which file has the number. It is a file of records beside the journal, synced
//! before a position that needs it is recorded. So an epoch's record costs a few bytes however many
//! files there are, and a new file costs one record.
//!
//! It is rewritten when more than half of it speaks of files that are gone. A rewrite replaces the
//! file by a rename, so a crash leaves the old one or the new one. A full disk puts it off.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use super::found_file::{FileId, FileState, FoundFile, NameHash, Version, hash_of};
use super::ledger_record::{LedgerRecord, RenamedFile};
use crate::durable_file::{remove_temporaries, replace_file};
use crate::error::{Error, ErrorKind, Result};

/// The name of the ledger's file in the folder of the journal.
const FILE: &str = "files";
/// A ledger that is shorter is not rewritten.
const REWRITE_BYTES_MIN: u64 = 1 << 20;
/// Bytes by which a ledger grows before a rewrite that found no room is tried again.
const REWRITE_AGAIN_BYTES: u64 = 64 << 10;
/// The name of the record that holds the device of the folder. No file has it.
const DEVICE_NAME: &[u8] = b"/";
/// Bytes of the record of a known file.
const KNOWN_BYTES: u64 = 49;
/// Bytes of the record of a file that was begun, but for its name.
const BEGUN_BYTES: u64 = 49;

/// A file that was begun, with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BegunFile {
    /// The number of the file in the order of reading.
    pub number: u64,
    /// The file.
    pub file: FoundFile,
}

impl BegunFile {
    /// Returns the length of its record.
    fn record_bytes(&self) -> u64 {
        BEGUN_BYTES + self.file.name.len() as u64
    }
}

/// The files of one source.
#[derive(Debug)]
pub struct Ledger {
    /// `None` in a job without state.
    disk: Option<LedgerFile>,
    /// Replaces the file durably. Tests give it a full disk.
    replace: fn(&Path, &[u8]) -> io::Result<File>,
    /// The ledger is not rewritten while it is shorter.
    rewrite_from_bytes: u64,
    /// The device of the folder, if a listing has stated it.
    device: Option<u64>,
    /// The state of each known file, by the hash of its name.
    known: HashMap<NameHash, FileState>,
    /// Files whose epochs are not known to be committed, in the order of their numbers.
    pending: VecDeque<BegunFile>,
    /// Bytes of the records of `pending`.
    pending_bytes: u64,
    /// The number of the next file.
    next_number: u64,
    /// Files were forgotten that the file still holds.
    holds_forgotten: bool,
}

#[derive(Debug)]
struct LedgerFile {
    /// The path of the ledger.
    path: PathBuf,
    /// The open file.
    file: File,
    /// Where the next record goes.
    bytes: u64,
    /// True if nothing was appended since the last sync.
    is_synced: bool,
}

impl Ledger {
    /// Begins a ledger with files that are not to be read; durably, where there is a `folder`.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be written.
    pub fn create(folder: Option<&Path>, known: &[FoundFile]) -> Result<Ledger> {
        let mut ledger = Ledger {
            disk: None,
            replace: replace_file,
            rewrite_from_bytes: REWRITE_BYTES_MIN,
            device: None,
            known: known.iter().map(|file| (file.hash(), file.facts.state())).collect(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_number: 0,
            holds_forgotten: false,
        };
        if let Some(folder) = folder {
            let path = folder.join(FILE);
            ledger.write_anew(path.clone()).map_err(|error| failed("write", &path, &error))?;
        }
        Ok(ledger)
    }

    /// Opens the ledger in `folder`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be read.
    pub fn open(folder: &Path) -> Result<Option<Ledger>> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| failed("read", &path, &error))?,
        };
        let opened = OpenOptions::new().write(true).open(&path);
        let file = opened.map_err(|error| failed("open", &path, &error))?;
        remove_temporaries(folder);
        let mut ledger = Ledger::create(None, &[])?;
        let mut at = 0;
        while let Some((record, length)) = LedgerRecord::decode(&bytes[at..]) {
            ledger.apply(record);
            at += length;
        }
        if at == 0 {
            let message = format!("{} is damaged, or of a newer version", path.display());
            return Err(Error::new(ErrorKind::Disk, message)
                .hint("restore it from a backup of --state, or give another --state"));
        }
        if at < bytes.len() {
            // Records that were not synced: no position needs them.
            tracing::debug!("{} bytes at the end of {} are torn", bytes.len() - at, path.display());
        }
        file.set_len(at as u64).map_err(|error| failed("shorten", &path, &error))?;
        ledger.disk = Some(LedgerFile { path, file, bytes: at as u64, is_synced: false });
        Ok(Some(ledger))
    }

    /// Applies a record that was read back.
    fn apply(&mut self, record: LedgerRecord) {
        match record {
            LedgerRecord::Header { next_number } => self.next_number = next_number,
            LedgerRecord::Known { name, state } if name == hash_of(DEVICE_NAME) => {
                self.device = Some(state.version.0);
            }
            LedgerRecord::Known { name, state } => {
                self.known.insert(name, state);
            }
            LedgerRecord::Gone { name } => {
                self.known.remove(&name);
            }
            LedgerRecord::Renamed(renamed) => self.apply_rename(renamed),
            LedgerRecord::Begun { number, file } => {
                self.next_number = self.next_number.max(number + 1);
                self.known.insert(file.hash(), file.facts.state());
                let begun = BegunFile { number, file };
                self.pending_bytes += begun.record_bytes();
                self.pending.push_back(begun);
            }
        }
    }

    /// Moves what is known of a file to its new name. Another file may have the old one by now.
    fn apply_rename(&mut self, renamed: RenamedFile) {
        let RenamedFile { from, name, state } = renamed;
        self.forget_state(from, state.version);
        self.known.insert(hash_of(&name), state);
        let mut begun = self.pending.iter_mut();
        let is_it = |file: &FoundFile| file.facts.version == state.version && file.hash() == from;
        if let Some(begun) = begun.find(|begun| is_it(&begun.file)) {
            self.pending_bytes += name.len() as u64;
            self.pending_bytes -= begun.file.name.len() as u64;
            begun.file.name = name;
        }
    }

    /// Forgets a name unless it is that of another file by now.
    fn forget_state(&mut self, name: NameHash, version: Version) {
        if self.known.get(&name).is_some_and(|known| known.version == version) {
            self.known.remove(&name);
        }
    }

    /// Returns the files that are not to be read.
    pub fn known(&self) -> &HashMap<NameHash, FileState> {
        &self.known
    }

    /// Returns the device that the folder was on when it was listed last; `None` if that was not
    /// noted.
    pub fn device(&self) -> Option<u64> {
        self.device
    }

    /// Notes the device of the folder.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub fn know_device(&mut self, device: u64) -> io::Result<()> {
        let record = device_record(device);
        self.append(std::slice::from_ref(&record))?;
        self.apply(record);
        Ok(())
    }

    /// Returns the number that the next file gets.
    pub fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Returns the first file with at least this number that is not known to be committed.
    pub fn begun_from(&self, number: u64) -> Option<&BegunFile> {
        // Numbers increase.
        self.pending.get(self.pending.partition_point(|begun| begun.number < number))
    }

    /// Notes that reading `file` begins; returns its number.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub fn begin(&mut self, file: FoundFile) -> io::Result<u64> {
        let number = self.next_number;
        let record = LedgerRecord::Begun { number, file };
        self.append(std::slice::from_ref(&record))?;
        self.apply(record);
        Ok(number)
    }

    /// Notes the new names of files, all or none: two that have exchanged their names are never
    /// without one.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub fn rename(&mut self, files: &[RenamedFile]) -> io::Result<()> {
        let records: Vec<_> = files.iter().cloned().map(LedgerRecord::Renamed).collect();
        self.append(&records)?;
        records.into_iter().for_each(|record| self.apply(record));
        Ok(())
    }

    /// Notes that a name is no longer there: a file that appears under it is another one.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub fn forget(&mut self, name: NameHash) -> io::Result<()> {
        if !self.known.contains_key(&name) {
            return Ok(());
        }
        let record = LedgerRecord::Gone { name };
        self.append(std::slice::from_ref(&record))?;
        self.apply(record);
        Ok(())
    }

    /// Forgets files with at least this number: their reading is not part of any recorded epoch, so
    /// they are found again.
    ///
    /// # Errors
    ///
    /// Those of rewriting the ledger without them.
    pub fn forget_from(&mut self, number: u64) -> io::Result<()> {
        let from = self.pending.partition_point(|begun| begun.number < number);
        let lost = self.pending.split_off(from);
        for begun in &lost {
            self.forget_state(begun.file.hash(), begun.file.facts.version);
            self.pending_bytes -= begun.record_bytes();
        }
        self.holds_forgotten |= !lost.is_empty();
        if self.holds_forgotten {
            // Otherwise a later position would take them for read.
            self.rewrite()?;
            self.holds_forgotten = false;
        }
        Ok(())
    }

    /// Notes that files with a lower number belong to committed epochs. Rewrites the ledger if that
    /// makes it much shorter. A full disk puts that off.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be rewritten.
    pub fn committed(&mut self, number: u64) -> Result<()> {
        while let Some(begun) = self.pending.front().filter(|begun| begun.number < number) {
            self.pending_bytes -= begun.record_bytes();
            self.pending.pop_front();
        }
        let Some(disk) = &self.disk else { return Ok(()) };
        let needed = KNOWN_BYTES * self.known.len() as u64 + self.pending_bytes;
        if disk.bytes < self.rewrite_from_bytes || disk.bytes / 2 < needed {
            return Ok(());
        }
        let (path, bytes) = (disk.path.clone(), disk.bytes);
        match self.rewrite() {
            Ok(()) => self.rewrite_from_bytes = REWRITE_BYTES_MIN,
            Err(error) if is_full(&error) => {
                tracing::debug!("{} is not shortened yet: {error}", path.display());
                self.rewrite_from_bytes = bytes + REWRITE_AGAIN_BYTES;
            }
            Err(error) => return Err(failed("write", &path, &error)),
        }
        Ok(())
    }

    /// Writes the ledger anew, without what is of no use any more.
    fn rewrite(&mut self) -> io::Result<()> {
        match &self.disk {
            Some(disk) => self.write_anew(disk.path.clone()),
            None => Ok(()),
        }
    }

    /// Writes the whole ledger to `path`, durably. One that is there stays as it is on an error.
    fn write_anew(&mut self, path: PathBuf) -> io::Result<()> {
        let mut bytes = Vec::new();
        LedgerRecord::Header { next_number: self.next_number }.encode(&mut bytes);
        if let Some(device) = self.device {
            device_record(device).encode(&mut bytes);
        }
        // After the files that were begun: the name of one of them may be that of another file now.
        for BegunFile { number, file } in &self.pending {
            LedgerRecord::Begun { number: *number, file: file.clone() }.encode(&mut bytes);
            if !self.known.contains_key(&file.hash()) {
                LedgerRecord::Gone { name: file.hash() }.encode(&mut bytes);
            }
        }
        for (&name, &state) in &self.known {
            LedgerRecord::Known { name, state }.encode(&mut bytes);
        }
        let file = (self.replace)(&path, &bytes)?;
        self.disk = Some(LedgerFile { path, file, bytes: bytes.len() as u64, is_synced: true });
        Ok(())
    }

    /// Appends records. Without a state folder they are kept in memory only.
    fn append(&mut self, records: &[LedgerRecord]) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let mut bytes = Vec::new();
        records.iter().for_each(|record| record.encode(&mut bytes));
        // A record that was written in part is written again at the same place.
        disk.file.write_all_at(&bytes, disk.bytes)?;
        disk.bytes += bytes.len() as u64;
        disk.is_synced = false;
        Ok(())
    }

    /// Makes what was noted durable.
    ///
    /// # Errors
    ///
    /// `Disk` if that fails.
    pub fn sync(&mut self) -> Result<()> {
        let Some(disk) = self.disk.as_mut().filter(|disk| !disk.is_synced) else { return Ok(()) };
        disk.file.sync_data().map_err(|error| failed("sync", &disk.path, &error))?;
        disk.is_synced = true;
        Ok(())
    }
}

/// Returns the record of the folder's device.
fn device_record(device: u64) -> LedgerRecord {
    let state = FileState { version: Version(device), id: FileId::default() };
    LedgerRecord::Known { name: hash_of(DEVICE_NAME), state }
}

/// Returns true for an error that ends when the disk has room again.
pub fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

/// Returns the error of an operation on the ledger.
fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot {what} {}: {error}", path.display());
    Error::new(ErrorKind::Disk, message).hint("see --state")
}

#[cfg(test)]
mod tests;
