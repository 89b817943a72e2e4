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
    /// Returns the directory that is open as `folder`, which was `dir` below `root`.
    fn of(folder: &File, root: &Path, dir: &str) -> StoreResult<SealedDir> {
        let found = folder.metadata();
        let found = found.map_err(|error| failure("open", &root.join(dir), &error))?;
        let (device, inode, created) = (found.dev(), found.ino(), found.created().ok());
        Ok(SealedDir { dir: dir.to_owned(), device, inode, created })
    }
}

/// Opens the directory `dir` below `root`. Fails with `NotFound` if it is missing.
fn open(root: &Path, dir: &str) -> StoreResult<File> {
    let opened = open_dir(root, dir, false).map(File::from);
    opened.map_err(|error| failure("open", &root.join(dir), &error))
}

/// Syncs the directory that is open as `folder`. `path` is its path for messages.
///
/// Fails with `Disk` if the sync fails.
fn sync(folder: &File, path: &Path) -> StoreResult<Sealing> {
    let has_sync = sync_names(folder).map_err(|error| unsynced(path, &error))?;
    Ok(Sealing { has_sync, synced: 1 })
}

/// Returns the directory above `dir`. Empty for the root.
fn above(dir: &str) -> &str {
    dir.rsplit_once('/').map_or("", |(outer, _)| outer)
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
    /// Fails with `Disk` if a sync fails, and with `NotFound` if the directory is missing. Its
    /// removal is durable then.
    pub fn seal(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        match open(root, dir) {
            Ok(folder) => self.seal_open(root, dir, &folder),
            Err(error) if error.kind == StoreErrorKind::NotFound => {
                self.seal_removal(root, dir)?;
                Err(error)
            }
            Err(error) => Err(error),
        }
    }

    /// Works as [`SealedDirs::seal`] for the directory that is open as `folder`. It may lose its
    /// name meanwhile: a reader may move an epoch that has its marker.
    fn seal_open(&self, root: &Path, dir: &str, folder: &File) -> StoreResult<Sealing> {
        let names = sync(folder, &root.join(dir))?;
        let above = self.seal_above_one(root, SealedDir::of(folder, root, dir)?)?;
        let has_sync = names.has_sync && above.has_sync;
        Ok(Sealing { has_sync, synced: names.synced + above.synced })
    }

    /// Syncs the innermost directory above `dir` that exists. A file system that keeps the order of
    /// changes makes those of `dir` durable with it.
    fn seal_removal(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        let mut dir = dir;
        loop {
            dir = above(dir);
            match self.seal_names(root, dir) {
                Err(error) if error.kind == StoreErrorKind::NotFound && !dir.is_empty() => {}
                sealed => return sealed,
            }
        }
    }

    /// Syncs the directory `dir` alone.
    ///
    /// Fails with `Disk` if the sync fails.
    pub fn seal_names(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        sync(&open(root, dir)?, &root.join(dir))
    }

    /// Syncs the names of the directories above `dir` unless they are durable already. The parts of
    /// an epoch ask for that at the same time; the first syncs, and the others wait.
    ///
    /// Fails with `Disk` if a sync fails.
    pub fn seal_above(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        self.seal_above_one(root, SealedDir::of(&open(root, dir)?, root, dir)?)
    }

    /// Works as [`SealedDirs::seal_above`] for the directory `this`.
    fn seal_above_one(&self, root: &Path, this: SealedDir) -> StoreResult<Sealing> {
        let mut sealing = Sealing { has_sync: true, synced: 0 };
        if self.contains(&this) {
            return Ok(sealing);
        }
        // One that comes meanwhile has to wait: the names are not durable before the syncs end.
        let _turn = self.above.lock().unwrap_or_else(PoisonError::into_inner);
        if self.contains(&this) {
            return Ok(sealing);
        }
        let mut dir = this.dir.as_str();
        while !dir.is_empty() {
            dir = above(dir);
            let names = self.seal_names(root, dir)?;
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
    fn folder_that_moves_during_its_sync_is_sealed() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(root.path().join("a/b")).unwrap();
        let sealed = SealedDirs::default();
        let folder = open(root.path(), "a/b").unwrap();
        std::fs::rename(root.path().join("a/b"), root.path().join("a/c")).unwrap();
        let sealing = sealed.seal_open(root.path(), "a/b", &folder).unwrap();
        assert_eq!(sealing.synced, 3);
        for dir in ["a/b", "missing/b", "missing"] {
            let error = sealed.seal(root.path(), dir).unwrap_err();
            assert_eq!(error.kind, StoreErrorKind::NotFound);
        }
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
