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
//! writer pauses. Each file is given out once. It is forgotten when it has left the folder.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;
use std::time::Duration;

use super::found_file::{FileFacts, FoundFile, NameHash, Version, hash_of};

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
    /// The folder is on this device now.
    Device(u64),
}

/// A file that was given out and not read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum UnreadFile {
    /// It cannot be read.
    Unreadable(FoundFile),
    /// It has changed since it was found: it may still grow.
    Changed(FoundFile),
}

/// A file that is known: given out, or not to be read.
#[derive(Clone, Copy, Debug)]
struct KnownFile {
    /// The version with which the file was given to the source.
    version: Version,
    /// The scan that has seen it last.
    scan: u64,
    /// True if it was reported that the file has changed.
    is_change_told: bool,
    /// It was there at the first start and may have been unfinished then.
    may_be_unfinished: bool,
    /// A scan has seen it on the device of the folder.
    is_on_device: bool,
}

/// A file that is not known to be whole.
#[derive(Clone, Copy, Debug)]
struct Candidate {
    /// The version at the last look.
    version: Version,
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

/// The files of one folder.
#[derive(Debug)]
pub struct Arrivals {
    /// Files that were given to the source.
    known: HashMap<NameHash, KnownFile>,
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
    pub fn new(known: &HashMap<NameHash, Version>, patience: Duration) -> Arrivals {
        let known = known.iter().map(|(&name, &version)| {
            let file = KnownFile {
                version,
                scan: 0,
                is_change_told: false,
                may_be_unfinished: false,
                is_on_device: true,
            };
            (name, file)
        });
        Arrivals {
            known: known.collect(),
            candidates: HashMap::new(),
            created: HashMap::new(),
            unreadable: HashMap::new(),
            patience,
            scan: 0,
            device: None,
            whole: Vec::new(),
            results: Vec::new(),
        }
    }

    /// Notes that these files, which are known, may have been unfinished when the list of known
    /// files was made: a writer that closes one of them makes it new.
    pub fn may_be_unfinished(&mut self, names: &HashSet<NameHash>) {
        for (name, known) in &mut self.known {
            known.may_be_unfinished = names.contains(name);
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
            if self.device.is_some() && !self.known.is_empty() && !self.known.values().any(proves) {
                return false;
            }
            self.device = Some(device);
            self.results.push(WatchEvent::Device(device));
        }
        for known in self.known.values_mut().filter(|known| known.scan == self.scan) {
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
    }

    /// Called for each file that the scan finds, at time `now`; `age` is the time since the last
    /// write, where that can be seen.
    pub fn seen(&mut self, name: &OsStr, facts: FileFacts, age: Option<Duration>, now: Duration) {
        let (hash, scan) = (hash_of(name.as_bytes()), self.scan);
        if let Some(known) = self.known.get_mut(&hash) {
            known.scan = scan;
            self.compare(name, hash, facts);
            return;
        }
        if let Some(unreadable) = self.unreadable.get_mut(&hash) {
            unreadable.scan = scan;
            if unreadable.facts == facts && now.saturating_sub(unreadable.since) < RETRY {
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
                now.saturating_sub(candidate.since) >= self.patience
            }
            _ => {
                let candidate = Candidate { version, since: now, scan };
                self.candidates.insert(name.to_owned(), candidate);
                age.is_some_and(|age| age >= SETTLED)
            }
        };
        if is_whole {
            self.whole.push(FoundFile { name: name.as_bytes().to_vec(), facts });
        }
    }

    /// Called when a scan has seen everything. With `forgets`, names that it has not seen are gone.
    pub fn end_scan(&mut self, forgets: bool) {
        let mut whole = std::mem::take(&mut self.whole);
        whole.sort_by(|a, b| (a.facts.appeared_ns, &a.name).cmp(&(b.facts.appeared_ns, &b.name)));
        whole.into_iter().for_each(|file| self.give(file));
        if !forgets {
            return;
        }
        let scan = self.scan;
        self.candidates.retain(|_, candidate| candidate.scan == scan);
        // A file that waits under another name was renamed: it is still there.
        let waiting: HashSet<_> = self.candidates.values().map(|one| one.version).collect();
        let results = &mut self.results;
        self.known.retain(|name, known| {
            let is_there = known.scan == scan || waiting.contains(&known.version);
            if !is_there {
                results.push(WatchEvent::Gone(*name));
            }
            is_there
        });
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
        match self.known.get_mut(&hash) {
            Some(known) if known.may_be_unfinished && known.version != facts.version => {
                self.known.remove(&hash);
            }
            Some(_) => return self.compare(name, hash, facts),
            None => {}
        }
        self.unreadable.remove(&hash);
        self.give(FoundFile { name: name.as_bytes().to_vec(), facts });
    }

    /// Called when a name has left the folder.
    pub fn gone(&mut self, name: &OsStr) {
        self.created.remove(name);
        self.candidates.remove(name);
        let hash = hash_of(name.as_bytes());
        self.unreadable.remove(&hash);
        if self.known.remove(&hash).is_some() {
            self.results.push(WatchEvent::Gone(hash));
        }
    }

    /// Called at time `now` when a file that was given out was not read, because it cannot be, or
    /// because it is another one now.
    pub fn returned(&mut self, unread: UnreadFile, now: Duration) {
        let (file, is_unreadable) = match unread {
            UnreadFile::Unreadable(file) => (file, true),
            UnreadFile::Changed(file) => (file, false),
        };
        let hash = file.hash();
        // It may have left the folder, and another one have come, since it was given out.
        if self.known.get(&hash).is_none_or(|known| known.version != file.facts.version) {
            return;
        }
        self.known.remove(&hash);
        if is_unreadable {
            let unreadable = UnreadableFile { facts: file.facts, since: now, scan: self.scan };
            self.unreadable.insert(hash, unreadable);
        }
    }

    /// Called when events were lost: it is not known which files are being written.
    pub fn lost_events(&mut self) {
        self.created.clear();
    }

    /// Gives a file to the source.
    fn give(&mut self, file: FoundFile) {
        self.candidates.remove(file.path().as_os_str());
        let known = KnownFile {
            version: file.facts.version,
            scan: self.scan,
            is_change_told: false,
            may_be_unfinished: false,
            is_on_device: false,
        };
        self.known.insert(file.hash(), known);
        self.results.push(WatchEvent::Found(file));
    }

    /// Reports a known file whose version has changed, once.
    fn compare(&mut self, name: &OsStr, hash: NameHash, facts: FileFacts) {
        let Some(known) = self.known.get_mut(&hash) else { return };
        if known.version == facts.version || std::mem::replace(&mut known.is_change_told, true) {
            return;
        }
        let file = FoundFile { name: name.as_bytes().to_vec(), facts };
        self.results.push(WatchEvent::Changed(file));
    }
}

#[cfg(test)]
mod tests;
