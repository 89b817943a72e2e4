//! The files that take the place of the one that is fed.
//!
//! Each is opened as soon as it is seen, also while the server is away: a file that was renamed a
//! second time is found at its path no more. They wait here, in order, until the ones before them
//! have been read to their ends.

use std::collections::VecDeque;
use std::convert::Infallible;
use std::fs::{File, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crate::sources::{Departures, PathEvent};

/// How often the path is looked at.
const LOOK: Duration = Duration::from_millis(100);
/// Most files that wait, each of which takes a descriptor.
const FILES_MAX: usize = 64;
/// Most looks at a path at which files come and go.
const LOOKS_MAX: usize = 8;

/// The files that take the place of another at one path.
#[derive(Debug)]
pub struct Successors {
    /// The path at which they appear.
    path: PathBuf,
    /// The files that were seen at the path.
    queue: Mutex<Queue>,
}

#[derive(Debug)]
struct Queue {
    /// The files that wait, oldest first.
    files: VecDeque<File>,
    /// Device and inode of the last file that was seen. It is open, so no other has them.
    last: (u64, u64),
    /// The last file that was seen is at the path still.
    is_there: bool,
    /// The files that leave the path.
    departures: Departures,
}

impl Successors {
    /// Returns the successors of `file`, which was at `path`.
    pub fn new(path: &Path, file: &File) -> Successors {
        let last = file.metadata().as_ref().map(id).unwrap_or_default();
        let departures = Departures::new(path);
        // If another has taken its place already, the first look finds that.
        let is_there = path.metadata().is_ok_and(|there| id(&there) == last);
        let queue = Queue { files: VecDeque::new(), last, is_there, departures };
        Successors { path: path.to_owned(), queue: Mutex::new(queue) }
    }

    /// Looks at the path again and again.
    pub async fn watch(&self) -> Infallible {
        loop {
            self.look();
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Returns true if a file waits of which the writer makes use. It goes on in the old file until
    /// it has opened the new one, which is empty until then.
    pub fn has_used(&self) -> bool {
        let queue = self.lock();
        let is_used = |file: &File| file.metadata().is_ok_and(|metadata| metadata.len() > 0);
        queue.files.len() > 1 || queue.files.front().is_some_and(is_used)
    }

    /// Takes the file that comes next.
    pub fn take(&self) -> Option<File> {
        self.lock().files.pop_front()
    }

    /// Reports files that wait when the feed ends. The next one begins with that at the path.
    pub fn warn_of_waiting(&self) {
        if !self.lock().files.is_empty() {
            tracing::warn!(
                "{} was rotated and not all of its former files are read: feed them under their \
                 new paths",
                self.path.display()
            );
        }
    }

    /// Opens what has appeared at the path since the last look.
    fn look(&self) {
        let mut queue = self.lock();
        let mut events = Vec::new();
        let mut there = open(&self.path);
        for _ in 0..LOOKS_MAX {
            events.extend(queue.departures.take());
            // If it is there still, those events are all of the files before it.
            let again = open(&self.path);
            let is_same = again.as_ref().map(|(_, id)| *id) == there.as_ref().map(|(_, id)| *id);
            there = again;
            if is_same {
                break;
            }
        }
        for event in events {
            match event {
                PathEvent::Left(_) if queue.is_there => queue.is_there = false,
                PathEvent::Left(place) => {
                    let found = place.as_deref().and_then(open);
                    if !found.is_some_and(|found| queue.add(found)) {
                        self.warn_of_missed(place.as_deref());
                    }
                }
                PathEvent::Replaced => queue.is_there = false,
            }
        }
        // A departure whose end has not come is reported by the next look: until then it is the
        // file in use that has left.
        queue.is_there = match there {
            Some(there) => queue.add(there),
            None => queue.is_there && queue.departures.is_leaving(),
        };
    }

    /// Reports a file that was at the path and cannot be read.
    fn warn_of_missed(&self, place: Option<&Path>) {
        let path = self.path.display();
        let place = match place {
            Some(place) => format!("{} first", place.display()),
            None => "it under its new path, if there is one".to_owned(),
        };
        tracing::warn!(
            "a file that was at {path} for a moment, or came while {FILES_MAX} others waited, is \
             not read: feed {place}"
        );
    }

    /// Locks the files.
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    /// Adds a file, unless it is the last one; returns false if there is no room for it.
    fn add(&mut self, (file, id): (File, (u64, u64))) -> bool {
        if id == self.last {
            return true;
        }
        if self.files.len() == FILES_MAX {
            return false;
        }
        self.last = id;
        self.files.push_back(file);
        true
    }
}

/// Opens a regular file; returns its device and inode, too.
fn open(path: &Path) -> Option<(File, (u64, u64))> {
    path.metadata().ok().filter(Metadata::is_file)?;
    let file = File::open(path).ok()?;
    let id = id(&file.metadata().ok()?);
    Some((file, id))
}

/// Returns device and inode.
fn id(metadata: &Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    use std::fs;
    use std::io::Read;

    #[test]
    fn files_wait_in_order_up_to_bound() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, "0").expect("a file");
        let first = File::open(&path).expect("it is there");
        let successors = Successors::new(&path, &first);
        let last = FILES_MAX + 2;
        for number in 1..=last {
            let old = dir.path().join(format!("log.{}", number - 1));
            fs::rename(&path, old).expect("renamed");
            fs::write(&path, number.to_string()).expect("a file");
        }
        let read = |mut file: File| {
            let mut text = String::new();
            file.read_to_string(&mut text).expect("it is open");
            text
        };
        successors.look();
        for number in 1..=FILES_MAX {
            assert!(successors.has_used());
            assert_eq!(successors.take().map(read), Some(number.to_string()));
        }
        // One too many is missed; the one that is at the path has room now.
        successors.look();
        assert_eq!(successors.take().map(read), Some(last.to_string()));
        successors.look();
        assert!(successors.take().is_none() && !successors.has_used());
    }
}
