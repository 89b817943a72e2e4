//! Decides which files of a folder are new and whole: a state machine that takes in what is seen.
//!
//! A scan lists the folder and is the truth. Events come between scans and make it fast: they are
//! hints, and one that is lost costs time only. A file is *whole*, and read, when
//!
//! * it was renamed or linked into the folder, or
//! * its writer has closed it, or
//! * a scan finds it unchanged since an earlier one, or since some time before the scan.
//!
//! A file that an event has shown to be opened for writing waits for its closing, however long the
//! writer pauses. Where events may have been missed, as before a start, one whose last change was a
//! write waits longer. Each file is given out once. It is forgotten when it has left the folder.
//!
//! Files are known by their identity, not by their names alone. A known file whose name is gone has
//! *departed*. If it comes to light under another name it was renamed; if the next scan does not
//! find it, it has left the folder. Another file under the name of a known one is new.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::found_file::{FileFacts, FileState, FoundFile, NameHash, Version, hash_of};
use super::known_files::{DepartedFile, DepartedFiles, KnownFile, KnownFiles};
use super::ledger_record::RenamedFile;

/// A file that is not written to for so long, when it is first seen, is whole.
pub const SETTLED: Duration = Duration::from_secs(10);

/// A file that cannot be read is tried again after so long.
const RETRY: Duration = Duration::from_secs(60);

/// The result of what was seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEvent {
    /// A file is new and whole.
    Found(FoundFile),
    /// A file that was given out, or was there at the start, has another content now.
    Changed(FoundFile),
    /// A name is no longer there.
    Gone(NameHash),
    /// Known files have other names now.
    Renamed(Vec<RenamedFile>),
    /// The folder is on this device now.
    Device(u64),
}

/// A file that was given out and not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnreadFile {
    /// It cannot be read.
    Unreadable(FoundFile),
    /// It has changed since it was found and may still grow, or is not in the folder.
    Changed(FoundFile),
}

/// A file that is not known to be whole.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The version at the last look.
    version: Version,
    /// A program may have it open for writing, without an event that has shown it.
    may_be_open: bool,
    /// When this version was seen first, by a clock that only goes forward.
    since: Duration,
    /// The listing that saw it so.
    scan: u64,
}

/// A file that was created before our eyes.
#[derive(Clone, Copy, Debug, Default)]
struct CreatedFile {
    /// True if a program holds it open for writing, as far as events show.
    is_opened: bool,
    /// The listing after which it is a candidate like any other.
    scan: u64,
}

/// A file that could not be read. It is tried again when it has changed, or some time later.
#[derive(Clone, Debug)]
struct UnreadableFile {
    /// The state in which it could not be read.
    facts: FileFacts,
    /// The time of the first failure.
    since: Duration,
    /// The listing that saw it last.
    scan: u64,
}

/// A file that a scan has seen, and that is not known under its name.
#[derive(Clone, Debug)]
struct SeenFile {
    /// The file.
    file: FoundFile,
    /// The time since the last write, where that can be seen.
    age: Option<Duration>,
    /// When it was seen, by a clock that only goes forward.
    now: Duration,
}

/// The files of one folder.
#[derive(Debug)]
pub struct Arrivals {
    /// Files that were given to the source.
    known: KnownFiles,
    /// Those of them whose names are gone, until a scan has shown that they have no other.
    departed: DepartedFiles,
    /// Files that the scan under way has seen, and that are not known under their names.
    unknown: HashMap<NameHash, SeenFile>,
    /// Files that may still be written.
    candidates: HashMap<OsString, Candidate>,
    /// Files that were created and not closed.
    created: HashMap<OsString, CreatedFile>,
    /// Files that could not be read.
    unreadable: HashMap<NameHash, UnreadableFile>,
    /// Time for which a candidate must not change.
    patience: Duration,
    /// The number of the current listing.
    scan: u64,
    /// The last scan that sees files whose events were missed.
    blind_until: u64,
    /// The device that the known files are on.
    device: Option<u64>,
    /// The whole files that the scan under way has found.
    whole: Vec<FoundFile>,
    /// The decisions that were not taken yet.
    results: Vec<WatchEvent>,
}

impl Arrivals {
    /// Nothing was seen yet; files in `known` are not given out. A file is whole when it was
    /// unchanged for `patience`.
    pub fn new(known: &HashMap<NameHash, FileState>, patience: Duration) -> Arrivals {
        let mut files = KnownFiles::default();
        for (&name, &state) in known {
            files.insert(name, KnownFile { is_on_device: true, ..KnownFile::new(state, 0) });
        }
        Arrivals {
            known: files,
            departed: DepartedFiles::default(),
            unknown: HashMap::new(),
            candidates: HashMap::new(),
            created: HashMap::new(),
            unreadable: HashMap::new(),
            patience,
            scan: 0,
            blind_until: 1,
            device: None,
            whole: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Notes that these files, which are known, may have been unfinished when the list of known
    /// files was made: a writer that closes one of them makes it new.
    pub fn may_be_unfinished(&mut self, names: &HashSet<NameHash>) {
        for (name, known) in self.known.iter_mut() {
            known.may_be_unfinished = names.contains(&name);
        }
    }

    /// Notes the device of the folder in which the known files were, if it is known.
    pub fn were_on(&mut self, device: Option<u64>) {
        self.device = device;
    }

    /// Called after a scan of a folder on `device`. Returns false if the known files that it has
    /// not seen may come back: the folder is on another device than before, and none of them is
    /// there, as below a mount point without its file system. Devices get other numbers when they
    /// are mounted anew, so known files prove that it is the same file system.
    pub fn is_same_device(&mut self, device: u64) -> bool {
        if self.device != Some(device) {
            // A file that came while the folder was on another device proves nothing.
            let scan = self.scan;
            let proves = |known: &KnownFile| known.is_on_device && known.scan == scan;
            let mut known = self.known.iter().peekable();
            let may_come_back = self.device.is_some() && known.peek().is_some();
            if may_come_back && !known.any(|(_, known)| proves(known)) {
                return false;
            }
            self.device = Some(device);
            self.results.push(WatchEvent::Device(device));
        }
        for (_, known) in self.known.iter_mut().filter(|(_, known)| known.scan == self.scan) {
            known.is_on_device = true;
        }
        true
    }

    /// Returns what has come of all that was seen, in order.
    pub fn take(&mut self) -> Vec<WatchEvent> {
        std::mem::take(&mut self.results)
    }

    /// Returns true if files were seen that are not known to be whole.
    pub fn is_waiting(&self) -> bool {
        !self.candidates.is_empty() || self.created.values().any(|created| created.is_opened)
    }

    /// Called when a scan begins.
    pub fn begin_scan(&mut self) {
        self.scan += 1;
        // The last scan may have failed on its way.
        self.whole.clear();
        self.unknown.clear();
    }

    /// Called for each file that the scan finds, at time `now`; `age` is the time since the last
    /// write, where that can be seen.
    pub fn seen(&mut self, name: &OsStr, facts: FileFacts, age: Option<Duration>, now: Duration) {
        let hash = hash_of(name.as_bytes());
        if let Some(&known) = self.known.get(hash) {
            let known = KnownFile { scan: self.scan, ..known };
            if !known.state.id.is_other(facts.id) {
                // The ledger may not hold the identity.
                let state = FileState { id: facts.id, ..known.state };
                self.known.insert(hash, KnownFile { state, ..known });
                self.compare(name, hash, facts);
                return;
            }
            if facts.is_copy_of(known.state) {
                // The folder is the same, restored.
                self.known.insert(hash, known);
            }
        }
        let file = FoundFile { name: name.as_bytes().to_vec(), facts };
        self.unknown.insert(hash, SeenFile { file, age, now });
    }

    /// Decides if a file that is not known is whole.
    fn consider(&mut self, hash: NameHash, seen: SeenFile) {
        let SeenFile { file, age, now } = seen;
        let (name, facts, scan) = (file.path().as_os_str(), &file.facts, self.scan);
        if let Some(unreadable) = self.unreadable.get_mut(&hash) {
            unreadable.scan = scan;
            if unreadable.facts == *facts && now.saturating_sub(unreadable.since) < RETRY {
                return;
            }
            self.unreadable.remove(&hash);
        }
        if let Some(created) = self.created.get_mut(name) {
            created.scan = scan;
            if created.is_opened {
                return;
            }
        }
        let version = facts.version;
        let is_whole = match self.candidates.get_mut(name) {
            Some(candidate) if candidate.version == version => {
                candidate.scan = scan;
                let waited = now.saturating_sub(candidate.since);
                let is_settled = waited.max(age.unwrap_or_default()) >= SETTLED;
                waited >= self.patience && (is_settled || !candidate.may_be_open)
            }
            former => {
                let is_missed = scan <= self.blind_until && facts.is_written_last();
                let may_be_open = is_missed || former.is_some_and(|former| former.may_be_open);
                let candidate = Candidate { version, may_be_open, since: now, scan };
                self.candidates.insert(name.to_owned(), candidate);
                // A file that is known under another name may have been renamed just now.
                let is_elsewhere = self.known.has_inode(facts.id.inode);
                !is_elsewhere && age.is_some_and(|age| age >= SETTLED)
            }
        };
        if is_whole {
            self.whole.push(file);
        }
    }

    /// Called when a scan has seen everything. With `forgets`, names that it has not seen are gone.
    pub fn end_scan(&mut self, forgets: bool) {
        let mut unknown = std::mem::take(&mut self.unknown);
        let mut displaced = HashMap::new();
        if forgets {
            displaced = self.depart_unseen(&unknown);
        } else {
            // The known file of that name may come back.
            unknown.retain(|name, _| self.known.get(*name).is_none());
        }
        // First those that were renamed: a name may be left to a copy of the same length and time.
        unknown.retain(|_, seen| !self.is_renamed(&seen.file));
        unknown.retain(|name, seen| !self.is_copy(&seen.file, displaced.get(name).copied()));
        unknown.into_iter().for_each(|(name, seen)| self.consider(name, seen));
        let mut whole = std::mem::take(&mut self.whole);
        whole.sort_by(|a, b| (a.facts.appeared_ns, &a.name).cmp(&(b.facts.appeared_ns, &b.name)));
        whole.into_iter().for_each(|file| self.give(file));
        if !forgets {
            return;
        }
        let scan = self.scan;
        self.candidates.retain(|_, candidate| candidate.scan == scan);
        for name in self.departed.forget(scan) {
            self.forget(name);
        }
        self.created.retain(|_, created| created.scan == scan);
        self.unreadable.retain(|_, unreadable| unreadable.scan == scan);
    }

    /// Called when a file was renamed into the folder, or linked there: it is whole.
    pub fn moved_in(&mut self, name: &OsStr, facts: FileFacts) {
        self.closed(name, facts);
    }

    /// Called when a file was created, with its facts if it is still there.
    pub fn created(&mut self, name: &OsStr, facts: Option<FileFacts>) {
        match facts {
            // A second name of a file comes with its content.
            Some(facts) if facts.has_links => self.moved_in(name, facts),
            _ => {
                let created = CreatedFile { is_opened: false, scan: self.scan };
                self.created.entry(name.to_owned()).or_insert(created);
            }
        }
    }

    /// Called when a file was opened, by any program. A file that was created is opened by its
    /// writer; one that was linked from nowhere is not.
    pub fn opened(&mut self, name: &OsStr) {
        if let Some(created) = self.created.get_mut(name) {
            created.is_opened = true;
        }
    }

    /// Called when a file that was open for writing was closed.
    pub fn closed(&mut self, name: &OsStr, facts: FileFacts) {
        self.created.remove(name);
        self.candidates.remove(name);
        let hash = hash_of(name.as_bytes());
        self.unknown.remove(&hash);
        let mut displaced = None;
        match self.known.get(hash) {
            Some(known) if known.state.id.is_other(facts.id) => {
                displaced = Some(known.state.id.inode);
                self.depart(hash, self.scan);
            }
            Some(known) if known.may_be_unfinished && known.state.version != facts.version => {
                self.known.remove(hash);
            }
            Some(_) => return self.compare(name, hash, facts),
            None => {}
        }
        self.unreadable.remove(&hash);
        let file = FoundFile { name: name.as_bytes().to_vec(), facts };
        // It may be here by a later rename, whose events are on their way: a scan shows that.
        let is_elsewhere = self.known.has_inode(file.facts.id.inode);
        if !self.is_renamed(&file) && !self.is_copy(&file, displaced) && !is_elsewhere {
            self.give(file);
        }
    }

    /// Called when a name has left the folder.
    pub fn gone(&mut self, name: &OsStr) {
        self.created.remove(name);
        self.candidates.remove(name);
        let hash = hash_of(name.as_bytes());
        self.unreadable.remove(&hash);
        self.unknown.remove(&hash);
        self.depart(hash, self.scan);
    }

    /// Takes a known file from its name. The scan with the number `scan` may have missed the one
    /// that it has now.
    fn depart(&mut self, name: NameHash, scan: u64) {
        let Some(known) = self.known.remove(name) else { return };
        if known.state.id.inode == 0 {
            self.forget(name);
        } else {
            self.departed.add(DepartedFile { name, scan, known });
        }
    }

    /// Takes the known files from their names that the scan has not seen, and those with a name
    /// that another file has now. Returns the inodes of the latter.
    fn depart_unseen(&mut self, unknown: &HashMap<NameHash, SeenFile>) -> HashMap<NameHash, u64> {
        let is_left = |(name, known): &(NameHash, &KnownFile)| {
            known.scan != self.scan || unknown.contains_key(name)
        };
        let left = self.known.iter().filter(is_left);
        let left: HashMap<_, _> = left.map(|(name, known)| (name, known.state.id.inode)).collect();
        // All events of the time before the end of the scan were taken.
        left.keys().for_each(|name| self.depart(*name, self.scan - 1));
        left
    }

    /// Reports that a name is gone, unless another file has it.
    fn forget(&mut self, name: NameHash) {
        if self.known.get(name).is_none() {
            self.results.push(WatchEvent::Gone(name));
        }
    }

    /// Returns true for a departed file that has come to light under this name.
    fn is_renamed(&mut self, file: &FoundFile) -> bool {
        let facts = &file.facts;
        let departed = self.departed.take(facts.id.inode, |one| one.known.state.is_of(facts));
        let Some(departed) = departed else { return false };
        self.know_again(departed, file, FileState { id: facts.id, ..departed.known.state });
        true
    }

    /// Returns true for a copy of the departed file that had the same name and the inode
    /// `displaced`.
    fn is_copy(&mut self, file: &FoundFile, displaced: Option<u64>) -> bool {
        let Some(inode) = displaced else { return false };
        let (facts, name) = (&file.facts, file.hash());
        let is_original =
            |one: &DepartedFile| one.name == name && facts.is_copy_of(one.known.state);
        let Some(departed) = self.departed.take(inode, is_original) else { return false };
        self.know_again(departed, file, facts.state());
        true
    }

    /// Notes that a departed file is there as `file`, and that its content is that of `state`.
    fn know_again(&mut self, departed: DepartedFile, file: &FoundFile, state: FileState) {
        let (name, hash) = (file.path().as_os_str(), file.hash());
        self.candidates.remove(name);
        self.known.insert(hash, KnownFile { state, scan: self.scan, ..departed.known });
        if (departed.name, departed.known.state) != (hash, state) {
            let file = RenamedFile { from: departed.name, name: file.name.clone(), state };
            match self.results.last_mut() {
                Some(WatchEvent::Renamed(files)) => files.push(file),
                _ => self.results.push(WatchEvent::Renamed(vec![file])),
            }
        }
        self.compare(name, hash, file.facts.clone());
    }

    /// Called at time `now` when a file that was given out was not read, because it cannot be, or
    /// because it is another one now.
    pub fn returned(&mut self, unread: UnreadFile, now: Duration) {
        let (file, is_unreadable) = match unread {
            UnreadFile::Unreadable(file) => (file, true),
            UnreadFile::Changed(file) => (file, false),
        };
        let hash = file.hash();
        let is_it = |known: &KnownFile| known.state.version == file.facts.version;
        // It may have another name since it was given out, or have left the folder.
        if !self.known.get(hash).is_some_and(is_it) {
            let id = file.facts.id;
            if id.inode != 0 && self.departed.take(id.inode, |one| is_it(&one.known)).is_none() {
                let renamed = self.known.iter().find(|(_, known)| is_it(known));
                renamed.map(|(name, _)| name).map(|name| self.known.remove(name));
            }
            return;
        }
        self.known.remove(hash);
        if is_unreadable {
            let unreadable = UnreadableFile { facts: file.facts, since: now, scan: self.scan };
            self.unreadable.insert(hash, unreadable);
        }
    }

    /// Takes two equal scans for whole files from the start on, as if no event had been missed.
    pub fn trust_scans(&mut self) {
        self.blind_until = 0;
    }

    /// Called when events were lost: it is not known which files are being written.
    pub fn lost_events(&mut self) {
        self.created.clear();
        self.blind_until = self.scan + 1;
    }

    /// Gives a file to the source.
    fn give(&mut self, file: FoundFile) {
        self.candidates.remove(file.path().as_os_str());
        self.known.insert(file.hash(), KnownFile::new(file.facts.state(), self.scan));
        self.results.push(WatchEvent::Found(file));
    }

    /// Reports a known file whose version has changed, once.
    fn compare(&mut self, name: &OsStr, hash: NameHash, facts: FileFacts) {
        let Some(known) = self.known.get_mut(hash) else { return };
        if known.state.version == facts.version
            || std::mem::replace(&mut known.is_change_told, true)
        {
            return;
        }
        let file = FoundFile { name: name.as_bytes().to_vec(), facts };
        self.results.push(WatchEvent::Changed(file));
    }
}

#[cfg(test)]
mod tests;
