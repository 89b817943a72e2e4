//! Finds the files of a local folder: by inotify at once, and by listing it again and again.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs::{self, Metadata};
use std::io::{self, PipeReader};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::mpsc;
use std::time::{Duration, Instant, SystemTime};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;

use super::find_files_thread::{FoundSender, ListingReport, ScanPace};
use super::found_file::{FileFacts, FoundFile, NameHash, hash_of, is_hidden};
use super::inotify_events::{FolderEvent, FolderEvents};
use super::new_files::{Arrivals, SETTLED, UnreadFile};
use crate::epoch::SystemClock;
use crate::error::Result;

/// The files that are in a folder at a start.
#[derive(Debug, Default)]
pub struct FirstListing {
    /// The files, in the order of their names.
    pub files: Vec<FoundFile>,
    /// Those of them that may be unfinished: they were written to shortly before.
    pub unfinished: HashSet<NameHash>,
}

impl FirstListing {
    /// Lists `folder`.
    ///
    /// # Errors
    ///
    /// Those of reading the folder.
    pub fn of(folder: &Path) -> io::Result<FirstListing> {
        let (wall, mut listing) = (SystemClock::new().wall(), FirstListing::default());
        for entry in fs::read_dir(folder)? {
            let name = entry?.file_name();
            if is_hidden(name.as_bytes()) {
                continue;
            }
            let Ok(Some(metadata)) = examine(&folder.join(&name)) else { continue };
            let facts = FileFacts::of_file(&metadata);
            if age(&metadata, wall).is_none_or(|age| age < SETTLED) {
                listing.unfinished.insert(hash_of(name.as_bytes()));
            }
            listing.files.push(FoundFile { name: name.as_bytes().to_vec(), facts });
        }
        Ok(listing)
    }
}

/// Returns the facts about a regular file; `None` for anything else.
fn examine(path: &Path) -> io::Result<Option<Metadata>> {
    let found = fs::metadata(path)?;
    Ok(found.is_file().then_some(found))
}

/// Returns the time since the last write; `None` if that lies in the future.
fn age(found: &Metadata, wall: SystemTime) -> Option<Duration> {
    wall.duration_since(found.modified().ok()?).ok()
}

/// Finds files in a folder until the source has stopped.
pub struct FolderWatch {
    /// Reports changes at once.
    pub events: FolderEvents,
    /// Decides when the folder is listed.
    pub pace: ScanPace,
    /// If true, the end is reached when the files of the first scan are whole.
    pub once: bool,
    /// Decides which files are new and whole.
    pub arrivals: Arrivals,
    /// Takes the files that were found.
    pub results: FoundSender,
    /// Reports a folder that cannot be listed.
    pub report: ListingReport,
    /// Files that were not read come back by this.
    pub unread: mpsc::Receiver<UnreadFile>,
    /// Ends when the source stops.
    pub stop: PipeReader,
}

/// The state of a folder that is being watched.
struct Watching {
    /// The settings of the watch.
    watch: FolderWatch,
    /// The folder.
    folder: PathBuf,
    /// The time from which others are measured.
    started: Instant,
    /// Names that a warning was logged for, with the scan that has seen them last.
    told: HashMap<NameHash, u64>,
    /// Listings so far.
    scans: u64,
    /// With `once`, the files that are waited for.
    only: Option<HashSet<NameHash>>,
}

impl FolderWatch {
    /// Runs on a thread of its own.
    pub fn run(self) -> Result<()> {
        let mut watching = Watching {
            folder: self.events.folder().to_owned(),
            watch: self,
            started: Instant::now(),
            told: HashMap::new(),
            scans: 0,
            only: None,
        };
        watching.run();
        Ok(())
    }
}

impl Watching {
    /// Lists the folder and takes events until the source has gone.
    fn run(&mut self) {
        loop {
            if self.watch.pace.is_due() {
                self.watch.pace.begin();
                // Before the listing: what comes later makes an event.
                self.watch.events.attach();
                let listed = self.scan();
                self.watch.pace.end(listed.is_ok());
                match listed {
                    Ok(()) => self.watch.report.listed(),
                    Err(error) => self.watch.report.failed(&error),
                }
            }
            if !self.watch.results.send(self.watch.arrivals.take()) {
                return;
            }
            if self.watch.once && self.only.is_some() && !self.watch.arrivals.is_waiting() {
                return;
            }
            match self.wait() {
                Ok(true) => self.take_events(),
                Ok(false) => return,
                Err(error) => tracing::debug!(%error, "cannot wait for events"),
            }
        }
    }

    /// Lists the folder once.
    fn scan(&mut self) -> io::Result<()> {
        let folder = fs::metadata(&self.folder)?;
        let entries = fs::read_dir(&self.folder)?;
        let (wall, now) = (SystemClock::new().wall(), self.started.elapsed());
        while let Ok(file) = self.watch.unread.try_recv() {
            self.watch.arrivals.returned(file, now);
        }
        self.scans += 1;
        self.watch.arrivals.begin_scan();
        let mut seen = HashSet::new();
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let is_folder = entry.file_type().is_ok_and(|found| found.is_dir());
            if is_folder || is_hidden(name.as_bytes()) {
                continue;
            }
            let hash = hash_of(name.as_bytes());
            if self.only.as_ref().is_some_and(|only| !only.contains(&hash)) {
                continue;
            }
            if self.watch.once && self.only.is_none() {
                seen.insert(hash);
            }
            match examine(&entry.path()) {
                Ok(Some(found)) => {
                    let (facts, age) = (FileFacts::of_file(&found), age(&found, wall));
                    self.watch.arrivals.seen(&name, facts, age, now);
                }
                Ok(None) => self.tell(&name, hash, "it is not a regular file"),
                // It has gone since it was listed, but a link to nothing stays.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    if entry.file_type().is_ok_and(|found| found.is_symlink()) {
                        self.tell(&name, hash, "it is a link to a file that is not there");
                    }
                }
                Err(error) => self.tell(&name, hash, &error.to_string()),
            }
        }
        // A file that was renamed meanwhile may not have been listed.
        self.take_events();
        // Nothing is mounted there now, perhaps: the files may come back.
        let is_same = self.watch.arrivals.is_same_device(folder.dev());
        self.watch.arrivals.end_scan(is_same);
        self.told.retain(|_, scan| *scan == self.scans);
        if self.watch.once && self.only.is_none() {
            self.only = Some(seen);
        }
        Ok(())
    }

    /// Logs once that a file is not read, and why.
    fn tell(&mut self, name: &OsStr, hash: NameHash, why: &str) {
        if self.told.insert(hash, self.scans).is_none() {
            let path = self.folder.join(name);
            tracing::warn!("{} is not read: {why}", path.display());
        }
    }

    /// Waits for events or until the next scan is due; returns false when the source has ended.
    fn wait(&self) -> io::Result<bool> {
        let left = Timespec::try_from(self.watch.pace.left()).unwrap_or_default();
        let stop = PollFd::new(&self.watch.stop, PollFlags::IN);
        let mut fds = vec![stop];
        let events = self.watch.events.descriptor();
        fds.extend(events.map(|events| PollFd::from_borrowed_fd(events, PollFlags::IN)));
        match poll(&mut fds, Some(&left)) {
            Ok(_) | Err(Errno::INTR) => Ok(fds[0].revents().is_empty()),
            Err(error) => Err(error.into()),
        }
    }

    /// Takes the events that have come.
    fn take_events(&mut self) {
        for event in self.watch.events.take() {
            match event {
                FolderEvent::Lost => {
                    self.watch.arrivals.lost_events();
                    self.watch.pace.make_due();
                }
                FolderEvent::Created(name) => self.created(&name),
                FolderEvent::Opened(name) => self.watch.arrivals.opened(&name),
                FolderEvent::Whole(name) => {
                    // A file that is not there any more was not seen in time.
                    if let Ok(Some(found)) = examine(&self.folder.join(&name)) {
                        self.watch.arrivals.closed(&name, FileFacts::of_file(&found));
                    }
                }
                FolderEvent::Gone(name) => self.watch.arrivals.gone(&name),
            }
        }
    }

    /// Examines a file that was created.
    fn created(&mut self, name: &OsString) {
        let path = self.folder.join(name);
        let facts = match examine(&path) {
            Ok(Some(found)) => FileFacts::of_file(&found),
            _ => return,
        };
        let is_link = fs::symlink_metadata(&path).is_ok_and(|found| found.is_symlink());
        let has_links = facts.has_links || is_link;
        self.watch.arrivals.created(name, Some(FileFacts { has_links, ..facts }));
    }
}
