//! inotify: the files that leave a path, and where they lie then.
//!
//! A reader that looks at a path now and then misses a file that came and went meanwhile, as when a
//! log is rotated twice. Its rename is among the events of the folder.

use std::ffi::{OsStr, OsString};
use std::io;
use std::path::{Path, PathBuf};

use inotify::{Event, EventMask, Inotify, WatchMask};

/// Bytes of events that are read at a time.
const BUFFER_BYTES: usize = 16 << 10;

/// A file that left the path, or took it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum PathEvent {
    /// A file was renamed to the path: what was there is gone.
    Replaced,
    /// The file at the path was renamed and now lies at this path; `None` if it was removed, or has
    /// left the folder.
    Left(Option<PathBuf>),
}

/// The files that leave one path, while its folder is there.
#[derive(Debug)]
pub(crate) struct Departures {
    /// The folder, and the name in it.
    place: (PathBuf, OsString),
    /// The queue of events; `None` while they cannot be had.
    inotify: Option<Inotify>,
    /// Events that were read and not taken.
    events: Vec<PathEvent>,
    /// The cookie of a rename whose end was not read, and the index of its event.
    leaving: Option<(u32, usize)>,
}

impl Departures {
    /// Begins to watch `path`.
    pub(crate) fn new(path: &Path) -> Departures {
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new(".")).to_owned();
        let place = (folder, path.file_name().unwrap_or_default().to_owned());
        let mut departures = Departures { place, inotify: None, events: vec![], leaving: None };
        departures.attach();
        departures
    }

    /// Watches the folder, unless it is watched or cannot be.
    fn attach(&mut self) {
        let watch = |folder: &Path| {
            let inotify = Inotify::init()?;
            let mask = WatchMask::MOVE | WatchMask::DELETE | WatchMask::ONLYDIR;
            inotify.watches().add(folder, mask)?;
            Ok::<_, io::Error>(inotify)
        };
        if self.inotify.is_none() {
            self.inotify = watch(&self.place.0).ok();
        }
    }

    /// Returns true if a rename has begun whose end was not read.
    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.is_some()
    }

    /// Takes what has happened since the last call, in order. Nothing where the folder cannot be
    /// watched.
    pub(crate) fn take(&mut self) -> Vec<PathEvent> {
        self.attach();
        let Some(mut inotify) = self.inotify.take() else { return Vec::new() };
        let mut buffer = vec![0; BUFFER_BYTES];
        let was_leaving = self.leaving.is_some();
        let mut is_valid = true;
        while is_valid {
            let Ok(events) = inotify.read_events(&mut buffer) else { break };
            for event in events {
                is_valid &= self.note(&event);
            }
        }
        if is_valid {
            self.inotify = Some(inotify);
            // The end of a rename comes at once or never.
            if self.leaving.is_some() && !was_leaving {
                return Vec::new();
            }
        }
        self.leaving = None;
        std::mem::take(&mut self.events)
    }

    /// Notes one event; returns false if the folder is watched no more.
    fn note(&mut self, event: &Event<&OsStr>) -> bool {
        let leaving = self.leaving.take();
        let gone = EventMask::Q_OVERFLOW | EventMask::IGNORED | EventMask::UNMOUNT;
        let Some(name) = event.name else { return !event.mask.intersects(gone) };
        let place = self.place.0.join(name);
        let is_own = name == self.place.1;
        // A file that left before may have been renamed again, or removed.
        let known = self.events.iter().position(|event| match event {
            PathEvent::Left(Some(at)) => *at == place,
            _ => false,
        });
        if let Some(known) = known {
            self.events[known] = PathEvent::Left(None);
        }
        if event.mask.contains(EventMask::MOVED_TO) {
            match leaving.filter(|(cookie, _)| *cookie == event.cookie) {
                Some((_, index)) if !is_own => self.events[index] = PathEvent::Left(Some(place)),
                _ if is_own => self.events.push(PathEvent::Replaced),
                _ => {}
            }
        } else {
            if is_own {
                self.events.push(PathEvent::Left(None));
            }
            let index = if is_own { Some(self.events.len() - 1) } else { known };
            let index = index.filter(|_| event.mask.contains(EventMask::MOVED_FROM));
            self.leaving = index.map(|index| (event.cookie, index));
        }
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;

    #[test]
    fn files_that_left_are_found_by_new_names() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = |name: &str| dir.path().join(name);
        let write = |name: &str| fs::write(path(name), name).expect("a file");
        let rename = |from: &str, to: &str| fs::rename(path(from), path(to)).expect("renamed");
        let left = |name: &str| PathEvent::Left(Some(path(name)));
        write("log");
        let mut departures = Departures::new(&path("log"));
        assert!(departures.take().is_empty());
        for _ in 0..2 {
            write("other");
            rename("other", "log.1");
            rename("log", "log.1");
            write("log");
            rename("log.1", "log.2");
            rename("log", "log.1");
            write("log");
            assert_eq!(departures.take(), [left("log.2"), left("log.1")]);
        }
        fs::remove_file(path("log")).expect("removed");
        write("log");
        rename("log", "log.1");
        write("log.2");
        fs::remove_file(path("log.1")).expect("removed");
        assert_eq!(departures.take(), [PathEvent::Left(None), PathEvent::Left(None)]);
        write("new");
        rename("new", "log");
        rename("log", "log.3");
        assert_eq!(departures.take(), [PathEvent::Replaced, left("log.3")]);
        assert!(departures.take().is_empty());
    }

    #[test]
    fn file_that_left_folder_is_reported_later() {
        let (dir, other) = (tempfile::tempdir(), tempfile::tempdir());
        let (dir, other) = (dir.expect("a directory"), other.expect("a directory"));
        let path = dir.path().join("log");
        fs::write(&path, "text").expect("a file");
        let mut departures = Departures::new(&path);
        fs::rename(&path, other.path().join("log")).expect("renamed");
        assert!(departures.take().is_empty());
        assert_eq!(departures.take(), [PathEvent::Left(None)]);
    }
}
