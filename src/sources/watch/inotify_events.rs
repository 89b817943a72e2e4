//! inotify: what happens in a folder, as it happens.
//!
//! The events are hints. A folder that cannot be watched (no inotify, too many watches, a network
//! file system that others write to) is listed all the same.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use inotify::{Event, EventMask, Inotify, WatchMask};

use super::found_file::is_hidden;

/// Bytes of events that are read at a time.
const BUFFER_BYTES: usize = 64 << 10;

/// An event of a name in the folder.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum FolderEvent {
    /// It was created; its writer has it open.
    Created(OsString),
    /// It was opened.
    Opened(OsString),
    /// A writer has closed it, or it was renamed into the folder.
    Whole(OsString),
    /// It was removed, or renamed out of the folder.
    Gone(OsString),
    /// Events are missing: the folder must be listed.
    Lost,
}

/// The events of one folder, which may come and go.
#[derive(Debug)]
pub struct FolderEvents {
    /// The folder that is watched.
    folder: PathBuf,
    /// The queue of events; `None` while they cannot be had.
    inotify: Option<Inotify>,
    /// Device and inode of the folder that is watched.
    watched: Option<(u64, u64)>,
    /// True if it was reported that there are no events.
    is_failure_told: bool,
}

impl FolderEvents {
    /// The events of `folder`, which is not watched yet.
    pub fn new(folder: PathBuf) -> FolderEvents {
        FolderEvents { folder, inotify: None, watched: None, is_failure_told: false }
    }

    /// Returns the path of the folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }

    /// Watches what is at the folder's path now, unless that is being watched.
    pub fn attach(&mut self) {
        let Ok(found) = fs::metadata(&self.folder) else {
            self.detach();
            return;
        };
        let place = (found.dev(), found.ino());
        if self.inotify.is_some() && self.watched == Some(place) {
            return;
        }
        self.detach();
        match self.watch() {
            Ok(inotify) => (self.inotify, self.watched) = (Some(inotify), Some(place)),
            Err(error) if std::mem::replace(&mut self.is_failure_told, true) => {
                tracing::debug!(%error, "the folder is still not watched");
            }
            Err(error) => {
                tracing::warn!(
                    "new files in {} are found by listing only, each --watch-every: {error}; see \
                     fs.inotify.max_user_watches",
                    self.folder.display()
                );
            }
        }
    }

    /// Watches the folder.
    ///
    /// Fails where the system has no more watches, or the folder is not there.
    fn watch(&self) -> io::Result<Inotify> {
        let inotify = Inotify::init()?;
        let mask = WatchMask::CREATE
            | WatchMask::OPEN
            | WatchMask::CLOSE_WRITE
            | WatchMask::MOVE
            | WatchMask::DELETE
            | WatchMask::DELETE_SELF
            | WatchMask::MOVE_SELF
            | WatchMask::ONLYDIR;
        inotify.watches().add(&self.folder, mask)?;
        Ok(inotify)
    }

    /// Ends the watch: the folder is not the one that it was.
    fn detach(&mut self) {
        (self.inotify, self.watched) = (None, None);
    }

    /// Returns the descriptor that is readable when there are events.
    pub fn descriptor(&self) -> Option<BorrowedFd<'_>> {
        self.inotify.as_ref().map(|inotify| inotify.as_fd())
    }

    /// Takes the events that are there, in order.
    pub fn take(&mut self) -> Vec<FolderEvent> {
        let mut taken = Vec::new();
        let Some(mut inotify) = self.inotify.take() else { return taken };
        let mut buffer = vec![0; BUFFER_BYTES];
        let is_valid = loop {
            match inotify.read_events(&mut buffer) {
                Ok(events) => {
                    let mut is_valid = true;
                    for event in events {
                        is_valid &= translate(&event, &mut taken);
                    }
                    if !is_valid {
                        break false;
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break true,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    tracing::debug!(%error, "cannot read events");
                    break false;
                }
            }
        };
        if is_valid {
            self.inotify = Some(inotify);
        } else {
            self.detach();
            taken.push(FolderEvent::Lost);
        }
        taken
    }
}

/// Adds an event to `taken`; returns false if the folder is no longer at its path. A rename within
/// the folder is a name that has left, and one that has come.
fn translate(event: &Event<&OsStr>, taken: &mut Vec<FolderEvent>) -> bool {
    let mask = event.mask;
    if mask.contains(EventMask::Q_OVERFLOW) {
        taken.push(FolderEvent::Lost);
    }
    let ends =
        EventMask::DELETE_SELF | EventMask::MOVE_SELF | EventMask::UNMOUNT | EventMask::IGNORED;
    if mask.intersects(ends) {
        return false;
    }
    let is_file = !mask.contains(EventMask::ISDIR);
    if let Some(name) = event.name.filter(|name| is_file && !is_hidden(name.as_bytes())) {
        let name = name.to_owned();
        if mask.intersects(EventMask::MOVED_TO | EventMask::CLOSE_WRITE) {
            taken.push(FolderEvent::Whole(name));
        } else if mask.contains(EventMask::CREATE) {
            taken.push(FolderEvent::Created(name));
        } else if mask.intersects(EventMask::MOVED_FROM | EventMask::DELETE) {
            taken.push(FolderEvent::Gone(name));
        } else if mask.contains(EventMask::OPEN) {
            taken.push(FolderEvent::Opened(name));
        }
    }
    true
}

#[cfg(test)]
mod tests {
    use super::*;

    fn gone(name: &str) -> FolderEvent {
        FolderEvent::Gone(name.into())
    }

    fn whole(name: &str) -> FolderEvent {
        FolderEvent::Whole(name.into())
    }

    fn watched() -> (tempfile::TempDir, FolderEvents) {
        let dir = tempfile::tempdir().expect("a directory");
        let mut events = FolderEvents::new(dir.path().to_owned());
        events.attach();
        assert!(events.descriptor().is_some(), "inotify works here");
        (dir, events)
    }

    #[test]
    fn rename_within_folder_leaves_and_arrives() {
        let (dir, mut events) = watched();
        let path = |name: &str| dir.path().join(name);
        fs::write(path("a"), "text").expect("a file");
        let (created, opened) = (FolderEvent::Created("a".into()), FolderEvent::Opened("a".into()));
        assert_eq!(events.take(), [created, opened, whole("a")]);
        fs::rename(path("a"), path("b")).expect("renamed");
        assert_eq!(events.take(), [gone("a"), whole("b")]);
        fs::rename(path("b"), path("_b")).expect("renamed");
        assert_eq!(events.take(), [gone("b")]);
        let outside = tempfile::tempdir().expect("a directory");
        fs::rename(path("_b"), path("c")).expect("renamed");
        assert_eq!(events.take(), [whole("c")]);
        fs::rename(path("c"), outside.path().join("c")).expect("renamed");
        assert_eq!(events.take(), [gone("c")]);
        fs::rename(outside.path().join("c"), path("c")).expect("renamed");
        fs::remove_file(path("c")).expect("removed");
        fs::create_dir(path("folder")).expect("a folder");
        assert_eq!(events.take(), [whole("c"), gone("c")]);
    }

    #[test]
    fn folder_that_moves_is_lost_and_attached_again() {
        let (dir, _) = watched();
        let (folder, moved) = (dir.path().join("in"), dir.path().join("in.old"));
        fs::create_dir(&folder).expect("a folder");
        let mut events = FolderEvents::new(folder.clone());
        events.attach();
        fs::rename(&folder, moved).expect("renamed");
        assert_eq!(events.take(), [FolderEvent::Lost]);
        events.attach();
        assert!(events.descriptor().is_none());
        fs::create_dir(&folder).expect("a folder");
        events.attach();
        fs::write(folder.join("a"), "").expect("a file");
        assert!(events.take().contains(&whole("a")));
    }
}
