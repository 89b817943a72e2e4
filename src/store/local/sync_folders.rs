//! Makes the names in a directory durable.
//!
//! A file is as durable as its name, and so is a directory. The names above a directory change
//! only when the directory is made, so they are synced once for each directory. Syncing them again
//! would cost an epoch a flush of the disk for every level.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::super::{StoreError, StoreErrorKind, StoreResult};
use super::failure;
use super::file_calls::open_dir;
use crate::durable_file::sync_names;

/// Directories that are remembered. An output has a few at a time: that of the epoch, and one for
/// each part of the changelog.
const SEALED_MAX: usize = 256;

/// A directory, and the file that it was when its name was made durable. A directory that was
/// removed and made again is another one.
#[derive(Clone, Debug, PartialEq, Eq)]
struct SealedDir {
    /// The path of the folder.
    dir: String,
    /// The device that it is on.
    device: u64,
    /// Its number on the device, by which a folder of the same name is known from it.
    inode: u64,
    /// A number is used again after a removal, so it is not sufficient.
    created: Option<SystemTime>,
}

impl SealedDir {
    /// Returns the directory `dir` below `root` as it is now.
    fn find(root: &Path, dir: &str) -> StoreResult<SealedDir> {
        let found = open_dir(root, dir, false).and_then(|folder| File::from(folder).metadata());
        let found = found.map_err(|error| failure("open", &root.join(dir), &error))?;
        let (device, inode, created) = (found.dev(), found.ino(), found.created().ok());
        Ok(SealedDir { dir: dir.to_owned(), device, inode, created })
    }
}

/// Returns the error of a directory that cannot be synced. A sync that failed once proves nothing
/// when it succeeds later.
fn unsynced(path: &Path, error: &io::Error) -> StoreError {
    let mut failed = failure("sync", path, error);
    if failed.kind == StoreErrorKind::Unavailable {
        failed.kind = StoreErrorKind::Disk;
    }
    failed
}

/// The directories whose names are durable, the newest last.
#[derive(Debug, Default)]
pub struct SealedDirs {
    /// The newest [`SEALED_MAX`] folders.
    dirs: Mutex<VecDeque<SealedDir>>,
    /// Held while the folders above one are synced.
    above: Mutex<()>,
}

/// The outcome of a seal.
#[derive(Debug, PartialEq, Eq)]
pub struct Sealing {
    /// False if the file system has no sync of directories.
    pub has_sync: bool,
    /// Number of directories that were synced.
    pub synced: usize,
}

impl SealedDirs {
    /// Syncs the directory `dir` and, unless they are durable already, the names of the directories
    /// above it up to the root, the last included.
    ///
    /// Fails with `Disk` if a sync fails.
    pub fn seal(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        let names = self.seal_names(root, dir)?;
        let above = self.seal_above(root, dir)?;
        let has_sync = names.has_sync && above.has_sync;
        Ok(Sealing { has_sync, synced: names.synced + above.synced })
    }

    /// Syncs the directory `dir` alone.
    ///
    /// Fails with `Disk` if the sync fails.
    pub fn seal_names(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        let path = root.join(dir);
        let opened = open_dir(root, dir, false);
        let opened = File::from(opened.map_err(|error| failure("open", &path, &error))?);
        let has_sync = sync_names(&opened).map_err(|error| unsynced(&path, &error))?;
        Ok(Sealing { has_sync, synced: 1 })
    }

    /// Syncs the names of the directories above `dir` unless they are durable already. The parts of
    /// an epoch ask for that at the same time; the first syncs, and the others wait.
    ///
    /// Fails with `Disk` if a sync fails.
    pub fn seal_above(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        let mut sealing = Sealing { has_sync: true, synced: 0 };
        let this = SealedDir::find(root, dir)?;
        if self.contains(&this) {
            return Ok(sealing);
        }
        // One that comes meanwhile has to wait: the names are not durable before the syncs end.
        let _turn = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        if self.contains(&this) {
            return Ok(sealing);
        }
        let mut above = dir;
        while !above.is_empty() {
            above = above.rsplit_once('/').map_or("", |(outer, _)| outer);
            let names = self.seal_names(root, above)?;
            sealing.has_sync &= names.has_sync;
            sealing.synced += names.synced;
        }
        self.add(this);
        Ok(sealing)
    }

    /// Returns true if the names in the folder are known to be durable.
    fn contains(&self, dir: &SealedDir) -> bool {
        self.dirs.lock().unwrap_or_else(PoisonError::into_inner).contains(dir)
    }

    /// Notes that the names in the folder are durable.
    fn add(&self, dir: SealedDir) {
        let mut dirs = self.dirs.lock().unwrap_or_else(PoisonError::into_inner);
        if dirs.len() == SEALED_MAX {
            dirs.pop_front();
        }
        dirs.push_back(dir);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_above_are_synced_once() {
        let root = tempfile::tempdir().unwrap();
        let make = || std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        make();
        let sealed = SealedDirs::default();
        let synced = |dir| sealed.seal(root.path(), dir).unwrap().synced;
        assert_eq!([synced("a/b"), synced("a/b"), synced("a/b")], [3, 1, 1]);
        assert_eq!([synced("a"), synced("a"), synced("")], [2, 1, 1]);
        // A new directory of the same name is another one.
        std::fs::rename(root.path().join("a/b"), root.path().join("a/c")).unwrap();
        make();
        assert_eq!([synced("a/b"), synced("a/b")], [3, 1]);
        sealed.seal(root.path(), "a/missing").unwrap_err();
        sealed.seal_above(root.path(), "a/missing").unwrap_err();
    }

    #[test]
    fn concurrent_seals_sync_names_above_once() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        let (sealed, ready) = (SealedDirs::default(), std::sync::Barrier::new(8));
        let synced = std::thread::scope(|scope| {
            let seal = || {
                ready.wait();
                sealed.seal(root.path(), "a/b").unwrap().synced
            };
            let sealing: Vec<_> = (0..8).map(|_| scope.spawn(seal)).collect();
            sealing.into_iter().map(|sealing| sealing.join().unwrap()).sum::<usize>()
        });
        assert_eq!(synced, 8 + 2);
        assert_eq!(sealed.dirs.lock().unwrap().len(), 1);
    }

    #[test]
    fn remembered_directories_are_bounded() {
        let root = tempfile::tempdir().unwrap();
        let sealed = SealedDirs::default();
        for number in 0..=SEALED_MAX {
            let dir = number.to_string();
            std::fs::create_dir(root.path().join(&dir)).unwrap();
            sealed.seal(root.path(), &dir).unwrap();
        }
        assert_eq!(sealed.dirs.lock().unwrap().len(), SEALED_MAX);
    }
}
