//! Makes the names in a directory durable.
//!
//! A file is as durable as its name, and so is a directory. The names above a directory change
//! only when the directory is made, so they are synced once for each directory. Syncing them again
//! would cost an epoch a flush of the disk for every level.

use std::collections::VecDeque;
use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::SystemTime;

use super::super::{StoreErrorKind, StoreResult};
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
    /// above it up to the root, the last included. The parts of an epoch seal their directory at
    /// the same time; the first syncs those above it, and the others wait for that.
    ///
    /// Fails with `Disk` if a sync fails.
    pub fn seal(&self, root: &Path, dir: &str) -> StoreResult<Sealing> {
        let mut sealing = Sealing { has_sync: true, synced: 0 };
        let mut sync_one = |inner: &str| {
            let path = root.join(inner);
            let opened = open_dir(root, inner, false);
            let opened = File::from(opened.map_err(|error| failure("open", &path, &error))?);
            let synced = opened.metadata().and_then(|found| Ok((found, sync_names(&opened)?)));
            let (found, has_sync) = synced.map_err(|error| {
                // A sync that failed once proves nothing when it succeeds later.
                let mut failed = failure("sync", &path, &error);
                if failed.kind == StoreErrorKind::Unavailable {
                    failed.kind = StoreErrorKind::Disk;
                }
                failed
            })?;
            sealing.has_sync &= has_sync;
            sealing.synced += 1;
            let (device, inode) = (found.dev(), found.ino());
            let created = found.created().ok();
            Ok(SealedDir { dir: inner.to_owned(), device, inode, created })
        };
        let this = sync_one(dir)?;
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
            sync_one(above)?;
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
