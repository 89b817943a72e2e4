//! The ledger: the files that a source has begun to read, in order, and those that it will not.
//!
//! The end of an epoch states a position: the number of a file and an offset in its text. The
//! ledger knows which file has the number. It is a file of records beside the journal, synced
//! before a position that needs it is recorded. So an epoch's record costs a few bytes however many
//! files there are, and a new file costs one record.
//!
//! It is rewritten when more than half of it speaks of files that are gone. A rewrite replaces the
//! file by a rename, so a crash leaves the old one or the new one.

use std::collections::{HashMap, VecDeque};
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use super::found::{FoundFile, NameHash, Version};
use super::record::LedgerRecord;
use crate::error::{Error, ErrorKind, Result};

/// The name of the ledger's file in the folder of the journal.
const FILE: &str = "files";
/// A ledger that is shorter is not rewritten.
const REWRITE_BYTES_MIN: u64 = 1 << 20;
/// Bytes of the record of a known file.
const KNOWN_BYTES: u64 = 33;
/// Bytes of the record of a file that was begun, but for its name.
const BEGUN_BYTES: u64 = 41;

/// A file that was begun, with its number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BegunFile {
    pub(super) number: u64,
    pub(super) file: FoundFile,
}

impl BegunFile {
    /// Returns the length of its record.
    fn record_bytes(&self) -> u64 {
        BEGUN_BYTES + self.file.name.len() as u64
    }
}

/// The files of one source.
#[derive(Debug)]
pub(super) struct Ledger {
    /// `None` in a job without state.
    disk: Option<LedgerFile>,
    known: HashMap<NameHash, Version>,
    /// How many names have each version.
    versions: HashMap<Version, u32>,
    /// Files whose epochs are not known to be committed, in the order of their numbers.
    pending: VecDeque<BegunFile>,
    /// Bytes of the records of `pending`.
    pending_bytes: u64,
    next_number: u64,
}

#[derive(Debug)]
struct LedgerFile {
    path: PathBuf,
    file: File,
    /// Where the next record goes.
    bytes: u64,
    is_synced: bool,
}

impl Ledger {
    /// Begins a ledger with files that are not to be read; durably, where there is a `folder`.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be written.
    pub(super) fn create(folder: Option<&Path>, known: &[FoundFile]) -> Result<Ledger> {
        let mut ledger = Ledger {
            disk: None,
            known: HashMap::new(),
            versions: HashMap::new(),
            pending: VecDeque::new(),
            pending_bytes: 0,
            next_number: 0,
        };
        known.iter().for_each(|file| ledger.insert(file.hash(), file.facts.version));
        if let Some(folder) = folder {
            ledger.write_anew(folder.join(FILE))?;
        }
        Ok(ledger)
    }

    /// Opens the ledger in `folder`; `None` if there is none.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be read.
    pub(super) fn open(folder: &Path) -> Result<Option<Ledger>> {
        let path = folder.join(FILE);
        let bytes = match fs::read(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            read => read.map_err(|error| failed("read", &path, &error))?,
        };
        let opened = OpenOptions::new().write(true).open(&path);
        let file = opened.map_err(|error| failed("open", &path, &error))?;
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

    fn apply(&mut self, record: LedgerRecord) {
        match record {
            LedgerRecord::Header { next_number } => self.next_number = next_number,
            LedgerRecord::Known { name, version } => self.insert(name, version),
            LedgerRecord::Gone { name } => self.remove(name),
            LedgerRecord::Begun { number, file } => {
                self.next_number = self.next_number.max(number + 1);
                self.insert(file.hash(), file.facts.version);
                let begun = BegunFile { number, file };
                self.pending_bytes += begun.record_bytes();
                self.pending.push_back(begun);
            }
        }
    }

    fn insert(&mut self, name: NameHash, version: Version) {
        self.remove(name);
        self.known.insert(name, version);
        *self.versions.entry(version).or_default() += 1;
    }

    fn remove(&mut self, name: NameHash) {
        let Some(version) = self.known.remove(&name) else { return };
        if let Some(names) = self.versions.get_mut(&version) {
            *names -= 1;
            if *names == 0 {
                self.versions.remove(&version);
            }
        }
    }

    /// Returns the files that are not to be read.
    pub(super) fn known(&self) -> &HashMap<NameHash, Version> {
        &self.known
    }

    /// Returns the number that the next file gets.
    pub(super) fn next_number(&self) -> u64 {
        self.next_number
    }

    /// Returns the first file with at least this number that is not known to be committed.
    pub(super) fn begun_from(&self, number: u64) -> Option<&BegunFile> {
        // Numbers increase.
        self.pending.get(self.pending.partition_point(|begun| begun.number < number))
    }

    /// Returns true if a file of this version is known under another name, so that this one is the
    /// same, renamed.
    pub(super) fn is_renamed(&self, file: &FoundFile) -> bool {
        // A file with several names is not moved, and an object has no inode to be known by.
        let can_tell = file.facts.inode != 0 && !file.facts.has_links;
        can_tell && self.versions.contains_key(&file.facts.version)
    }

    /// Notes that reading `file` begins; returns its number.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub(super) fn begin(&mut self, file: FoundFile) -> io::Result<u64> {
        let number = self.next_number;
        let record = LedgerRecord::Begun { number, file };
        self.append(&record)?;
        self.apply(record);
        Ok(number)
    }

    /// Notes that a file is not to be read.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub(super) fn know(&mut self, name: NameHash, version: Version) -> io::Result<()> {
        let record = LedgerRecord::Known { name, version };
        self.append(&record)?;
        self.apply(record);
        Ok(())
    }

    /// Notes that a name is no longer there: a file that appears under it is another one.
    ///
    /// # Errors
    ///
    /// Those of writing; nothing was noted then.
    pub(super) fn forget(&mut self, name: NameHash) -> io::Result<()> {
        if !self.known.contains_key(&name) {
            return Ok(());
        }
        let record = LedgerRecord::Gone { name };
        self.append(&record)?;
        self.apply(record);
        Ok(())
    }

    /// Forgets files with at least this number: their reading is not part of any recorded epoch, so
    /// they are found again.
    ///
    /// # Errors
    ///
    /// `Disk` if the ledger cannot be rewritten without them.
    pub(super) fn forget_from(&mut self, number: u64) -> Result<()> {
        let from = self.pending.partition_point(|begun| begun.number < number);
        let lost = self.pending.split_off(from);
        if lost.is_empty() {
            return Ok(());
        }
        for begun in &lost {
            self.remove(begun.file.hash());
            self.pending_bytes -= begun.record_bytes();
        }
        // Otherwise a later position would take them for read.
        self.rewrite()
    }

    /// Notes that files with a lower number belong to committed epochs. Rewrites the ledger if that
    /// makes it much shorter.
    ///
    /// # Errors
    ///
    /// `Disk` if it cannot be rewritten.
    pub(super) fn committed(&mut self, number: u64) -> Result<()> {
        while let Some(begun) = self.pending.front().filter(|begun| begun.number < number) {
            self.pending_bytes -= begun.record_bytes();
            self.pending.pop_front();
        }
        let Some(disk) = &self.disk else { return Ok(()) };
        let needed = KNOWN_BYTES * self.known.len() as u64 + self.pending_bytes;
        if disk.bytes < REWRITE_BYTES_MIN || disk.bytes / 2 < needed {
            return Ok(());
        }
        self.rewrite()
    }

    fn rewrite(&mut self) -> Result<()> {
        match &self.disk {
            Some(disk) => self.write_anew(disk.path.clone()),
            None => Ok(()),
        }
    }

    /// Writes the whole ledger to `path`, durably.
    fn write_anew(&mut self, path: PathBuf) -> Result<()> {
        let mut bytes = Vec::new();
        LedgerRecord::Header { next_number: self.next_number }.encode(&mut bytes);
        for (&name, &version) in &self.known {
            LedgerRecord::Known { name, version }.encode(&mut bytes);
        }
        for BegunFile { number, file } in &self.pending {
            let is_known = self.known.contains_key(&file.hash());
            LedgerRecord::Begun { number: *number, file: file.clone() }.encode(&mut bytes);
            if !is_known {
                LedgerRecord::Gone { name: file.hash() }.encode(&mut bytes);
            }
        }
        let file = replace(&path, &bytes).map_err(|error| failed("write", &path, &error))?;
        self.disk = Some(LedgerFile { path, file, bytes: bytes.len() as u64, is_synced: true });
        Ok(())
    }

    fn append(&mut self, record: &LedgerRecord) -> io::Result<()> {
        let Some(disk) = &mut self.disk else { return Ok(()) };
        let mut bytes = Vec::new();
        record.encode(&mut bytes);
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
    pub(super) fn sync(&mut self) -> Result<()> {
        let Some(disk) = self.disk.as_mut().filter(|disk| !disk.is_synced) else { return Ok(()) };
        disk.file.sync_data().map_err(|error| failed("sync", &disk.path, &error))?;
        disk.is_synced = true;
        Ok(())
    }
}

/// Replaces the file at `path` durably and returns the new one, open for writing.
fn replace(path: &Path, bytes: &[u8]) -> io::Result<File> {
    let aside = path.with_extension("new");
    // Names of files are nobody else's business.
    let file =
        OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&aside)?;
    file.write_all_at(bytes, 0)?;
    file.sync_all()?;
    fs::rename(&aside, path)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

fn failed(what: &str, path: &Path, error: &io::Error) -> Error {
    let message = format!("cannot {what} {}: {error}", path.display());
    Error::new(ErrorKind::Disk, message).hint("see --state")
}

#[cfg(test)]
mod tests {
    use super::super::found::FileFacts;
    use super::*;

    fn file(name: &str, version: u64) -> FoundFile {
        let facts =
            FileFacts { version: Version(version), inode: 1, bytes: 5, ..FileFacts::default() };
        FoundFile { name: name.into(), facts }
    }

    fn names(ledger: &Ledger) -> Vec<&str> {
        let each = ledger.pending.iter();
        each.map(|begun| std::str::from_utf8(&begun.file.name).expect("text")).collect()
    }

    fn reopen(folder: &Path) -> Ledger {
        Ledger::open(folder).expect("it is whole").expect("it is there")
    }

    #[test]
    fn ledger_reads_back_what_was_noted() {
        let dir = tempfile::tempdir().expect("a directory");
        assert!(Ledger::open(dir.path()).expect("no error").is_none());
        let mut ledger = Ledger::create(Some(dir.path()), &[file("old", 1)]).expect("created");
        assert_eq!(ledger.begin(file("a", 2)).expect("noted"), 0);
        assert_eq!(ledger.begin(file("b", 3)).expect("noted"), 1);
        ledger.forget(file("a", 2).hash()).expect("noted");
        let again = reopen(dir.path());
        assert_eq!(names(&again), ["a", "b"]);
        assert_eq!(again.known.len(), 2, "old and b");
        assert_eq!((again.known(), again.next_number()), (ledger.known(), 2));
    }

    #[test]
    fn torn_end_is_cut_off() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
        ledger.begin(file("a", 2)).expect("noted");
        ledger.begin(file("b", 3)).expect("noted");
        let path = dir.path().join(FILE);
        let whole = fs::read(&path).expect("a ledger");
        fs::write(&path, &whole[..whole.len() - 1]).expect("torn");
        let mut again = reopen(dir.path());
        assert_eq!(names(&again), ["a"]);
        again.begin(file("c", 4)).expect("noted");
        assert_eq!(names(&reopen(dir.path())), ["a", "c"]);
        fs::write(&path, b"nonsense that is no ledger").expect("damaged");
        assert_eq!(Ledger::open(dir.path()).expect_err("damaged").kind(), ErrorKind::Disk);
    }

    #[test]
    fn forgotten_files_can_be_found_again() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
        for (name, version) in [("a", 1), ("b", 2), ("c", 3)] {
            ledger.begin(file(name, version)).expect("noted");
        }
        ledger.forget_from(1).expect("rewritten");
        let again = reopen(dir.path());
        assert_eq!(names(&again), ["a"]);
        assert_eq!((again.known.len(), again.next_number()), (1, 3), "numbers are not used twice");
    }

    #[test]
    fn same_version_under_other_name_is_renamed() {
        let mut ledger = Ledger::create(None, &[file("a", 1)]).expect("in memory");
        assert!(ledger.is_renamed(&file("b", 1)));
        assert!(!ledger.is_renamed(&file("b", 2)));
        let mut linked = file("b", 1);
        linked.facts.has_links = true;
        assert!(!ledger.is_renamed(&linked));
        ledger.forget(file("a", 1).hash()).expect("noted");
        assert!(!ledger.is_renamed(&file("b", 1)));
    }

    #[test]
    fn ledger_stays_short_while_files_come_and_go() {
        let dir = tempfile::tempdir().expect("a directory");
        let mut ledger = Ledger::create(Some(dir.path()), &[]).expect("created");
        for number in 0..8_000 {
            let file = file(&format!("{number}-{}", "x".repeat(240)), number);
            let hash = file.hash();
            ledger.begin(file).expect("noted");
            ledger.forget(hash).expect("noted");
            ledger.committed(number).expect("rewritten");
        }
        let bytes = fs::metadata(dir.path().join(FILE)).expect("a ledger").len();
        assert!(bytes <= REWRITE_BYTES_MIN + 1000, "{bytes} bytes");
        assert_eq!(reopen(dir.path()).next_number(), 8_000);
    }
}
