//! Writes objects as files. All of this blocks.
//!
//! An object becomes visible in one step: a synced temporary gets its name. The parts of an epoch,
//! which no reader takes before the marker, are written under their own names ([`draft`]).

use std::fs::File;
use std::hash::{BuildHasher, RandomState};
use std::io::{self, Write};
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use md5::{Digest, Md5};
use rustix::fs::{
    Advice, AtFlags, Mode, OFlags, RenameFlags, fadvise, linkat, openat, renameat, renameat_with,
    statat, unlinkat,
};
use rustix::io::Errno;

use super::super::{Body, StoreError, StoreErrorKind, StoreResult, Stored};
use super::failure;
use super::file_calls::{is_private, open_dir, open_file, split};
use crate::crash_points::crash_point;

/// Tries of a name for a temporary. One is enough unless a program guesses 64 random bits.
const NAMES_MAX: u64 = 4;

/// Returns a name for a temporary of the object `name` that no other write uses and no program can
/// guess.
fn temporary(name: &str, attempt: u64) -> String {
    let random = RandomState::new().hash_one(attempt);
    format!(".{name}.{random:016x}.tmp")
}

/// Creates a temporary for the object `name` in `folder`.
fn create_temporary(folder: &OwnedFd, name: &str, mode: u32) -> io::Result<(String, File)> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let mut attempt = 0;
    loop {
        let temporary = temporary(name, attempt);
        attempt += 1;
        match openat(folder, &temporary, flags, Mode::from_raw_mode(mode)) {
            Ok(file) => return Ok((temporary, file.into())),
            Err(Errno::EXIST) if attempt < NAMES_MAX => {}
            // Not `AlreadyExists`, which a caller would take for the object's.
            Err(Errno::EXIST) => return Err(io::Error::other("names of temporaries are taken")),
            Err(error) => return Err(error.into()),
        }
    }
}

/// A file with a name that is removed when this value is dropped, unless it is kept.
#[derive(Debug)]
struct RemoveOnDrop {
    /// The folder of the file.
    folder: OwnedFd,
    /// The name in the folder.
    name: String,
    /// Device and inode.
    id: (u64, u64),
    /// True if the name stays.
    is_kept: bool,
}

impl RemoveOnDrop {
    /// Takes over the open `file`, which was created as `name` in `folder`.
    fn new(folder: OwnedFd, name: String, file: &File) -> io::Result<RemoveOnDrop> {
        let metadata = file.metadata()?;
        Ok(RemoveOnDrop { folder, name, id: (metadata.dev(), metadata.ino()), is_kept: false })
    }

    /// Returns true if the name is still that of this file.
    fn bears_name(&self) -> bool {
        let stat = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
        stat.is_ok_and(|stat| (stat.st_dev, stat.st_ino) == self.id)
    }

    /// Looks at the file, so that its next change has the exact time. Kernels since 6.13 take that
    /// if the change before was looked at in the same tick, and else the time of the tick, of up to
    /// 4 ms.
    fn note_change_time(&self) {
        // Only the precision of the time depends on it.
        let _ = statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW);
    }
}

impl Drop for RemoveOnDrop {
    fn drop(&mut self) {
        // A later attempt may have put a file of its own there.
        if !self.is_kept && self.bears_name() {
            // The first error is the one to report; a leftover is removed by `clear`.
            let _ = unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

/// A temporary beside an object that is not synced. It is removed unless it becomes that object.
#[derive(Debug)]
pub struct UnsyncedTemporary {
    name: RemoveOnDrop,
    file: File,
}

/// A durable temporary beside an object. It is removed unless it becomes that object.
#[derive(Debug)]
pub struct SyncedTemporary(RemoveOnDrop);

impl UnsyncedTemporary {
    /// Makes the bytes durable. `path` is that of the object, for messages.
    pub fn sync(self, path: &Path) -> StoreResult<SyncedTemporary> {
        self.file.sync_all().map_err(|error| failure("write", path, &error))?;
        Ok(SyncedTemporary(self.name))
    }
}

/// Returns the directory of an object, which the first part of an epoch makes, and the permissions
/// of the files in it.
fn folder_of(root: &Path, dir: &str) -> io::Result<(OwnedFd, u32)> {
    let mode = if is_private(dir) { 0o600 } else { 0o666 };
    Ok((open_dir(root, dir, true)?, mode))
}

/// Writes all of `body` to `file`.
fn write_body(file: &mut File, body: &Body) -> io::Result<()> {
    body.pieces().try_for_each(|piece| file.write_all(&piece?))
}

/// Length of the longest file that is given to the disk before its sync.
const BEGIN_BYTES_MAX: u64 = 8 << 20;

/// Begins to write `file` to the disk. It is synced shortly after.
///
/// The kernel begins to write the pages of a file that is said not to be needed, and does not wait
/// for them. It then tries to drop the pages, mostly in vain, for which every processor hands over
/// those it has added. `sync_file_range` would only write, but rustix does not offer it.
fn begin_writeback(file: &File, body: &Body) {
    if body.bytes() <= BEGIN_BYTES_MAX {
        // Only the time of the sync depends on it.
        let _ = fadvise(file, 0, None, Advice::DontNeed);
    }
}

/// Writes `body` to a temporary beside the object `key`, and does not sync it.
fn write(root: &Path, key: &str, body: &Body) -> io::Result<UnsyncedTemporary> {
    let (dir, name) = split(key);
    let (folder, mode) = folder_of(root, dir)?;
    let (name, mut file) = create_temporary(&folder, name, mode)?;
    let name = RemoveOnDrop::new(folder, name, &file)?;
    write_body(&mut file, body)?;
    Ok(UnsyncedTemporary { name, file })
}

/// Stores `body` as the object `key` and replaces an object that exists.
///
/// The bytes are durable when this returns, the name is after the folder was sealed.
pub fn put(root: &Path, key: &str, body: &Body) -> StoreResult<Stored> {
    let put = || {
        let UnsyncedTemporary { mut name, file } = write(root, key, body)?;
        file.sync_all()?;
        renameat(&name.folder, &name.name, &name.folder, split(key).1)?;
        name.is_kept = true;
        Ok(())
    };
    put().map_err(|error: io::Error| failure("write", &root.join(key), &error))?;
    Ok(Stored::of(body, None))
}

/// Creates the object `key` from `body`, in one step for those who look.
///
/// Fails with `Exists` if there is one with other bytes.
pub fn put_new(root: &Path, key: &str, body: &Body) -> StoreResult<Stored> {
    place_new(root, key, prepare(root, key, body)?.sync(&root.join(key))?, body)
}

/// Writes `body` as a temporary beside the object `key`.
pub fn prepare(root: &Path, key: &str, body: &Body) -> StoreResult<UnsyncedTemporary> {
    let temporary = write(root, key, body);
    let temporary = temporary.map_err(|error| failure("write", &root.join(key), &error))?;
    begin_writeback(&temporary.file, body);
    Ok(temporary)
}

/// Creates the object `key` from what was prepared of `body`. The temporary is gone afterwards.
///
/// Fails with `Exists` if there is an object with other bytes.
pub fn place_new(
    root: &Path,
    key: &str,
    SyncedTemporary(file): SyncedTemporary,
    body: &Body,
) -> StoreResult<Stored> {
    // The marker's age is measured by this time.
    file.note_change_time();
    let linked = link_new(&file.folder, &file.name, split(key).1);
    // Its first name, if it has two.
    drop(file);
    match linked {
        Ok(()) => Ok(Stored::of(body, None)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check_same(root, key, body)?;
            Ok(Stored::of(body, None))
        }
        Err(error) => Err(failure("write", &root.join(key), &error)),
    }
}

/// Fails with `Exists` unless the object `key` has the bytes of `body`.
fn check_same(root: &Path, key: &str, body: &Body) -> StoreResult<()> {
    let path = root.join(key);
    if same_content(root, key, body).map_err(|error| failure("read", &path, &error))? {
        return Ok(());
    }
    let message = format!("{} exists with other content", path.display());
    Err(StoreError::new(StoreErrorKind::Exists, message))
}

/// An object that is written and not synced.
#[derive(Debug)]
pub struct UnsyncedPart {
    /// The name of the object.
    key: String,
    /// The file with the bytes.
    file: File,
    /// Removes the file unless it is synced; `None` for an object that was there before.
    name: Option<RemoveOnDrop>,
}

/// Creates the object `key` from `body` under its own name at once. Leaves no file after a failure;
/// a crash may leave one with some of the bytes, which the next start removes with the epoch.
///
/// Fails with `Exists` if there is an object with other bytes.
pub fn draft(root: &Path, key: &str, body: &Body) -> StoreResult<UnsyncedPart> {
    let (dir, name) = split(key);
    let create = || {
        let (folder, mode) = folder_of(root, dir)?;
        let flags =
            OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut file = File::from(openat(&folder, name, flags, Mode::from_raw_mode(mode))?);
        let name = RemoveOnDrop::new(folder, name.to_owned(), &file)?;
        crash_point("output.part_opened");
        write_body(&mut file, body)?;
        begin_writeback(&file, body);
        Ok(UnsyncedPart { key: key.to_owned(), file, name: Some(name) })
    };
    let created: io::Result<UnsyncedPart> = create();
    match created {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            check_same(root, key, body)?;
            let failed = |error| failure("read", &root.join(key), &error);
            let file = open_file(root, key).map_err(failed)?;
            Ok(UnsyncedPart { key: key.to_owned(), file, name: None })
        }
        created => created.map_err(|error| failure("write", &root.join(key), &error)),
    }
}

impl UnsyncedPart {
    /// Makes the bytes durable. A file that cannot be synced is removed, so that the next attempt
    /// writes another one.
    pub fn sync(self, root: &Path) -> StoreResult<()> {
        let UnsyncedPart { key, file, name } = self;
        let synced = file.sync_all();
        synced.map_err(|error| failure("write", &root.join(key), &error))?;
        if let Some(mut name) = name {
            name.is_kept = true;
        }
        Ok(())
    }
}

/// Gives the file at `temporary` the name `name`, unless that name is taken. In one step, where the
/// file system can: a crash between a link and the removal of the first name leaves the latter.
fn link_new(folder: &OwnedFd, temporary: &str, name: &str) -> io::Result<()> {
    match renameat_with(folder, temporary, folder, name, RenameFlags::NOREPLACE) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => Err(Errno::EXIST.into()),
        // Kernels and file systems without this flag, as some network and user-space ones.
        Err(_) => Ok(linkat(folder, temporary, folder, name, AtFlags::empty())?),
    }
}

/// Compares an object with a body, by length and MD5.
fn same_content(root: &Path, key: &str, body: &Body) -> io::Result<bool> {
    let mut file = open_file(root, key)?;
    if file.metadata()?.len() != body.bytes() {
        return Ok(false);
    }
    let mut hasher = Md5::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(<[u8; 16]>::from(hasher.finalize()) == body.md5())
}

#[cfg(test)]
mod tests {
    use futures::future::FutureExt;

    use super::super::LocalStore;
    use super::*;
    use crate::store::Store;

    #[tokio::test(flavor = "current_thread")]
    async fn part_is_written_under_its_name_or_refused() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let put_part = async |key, body| store.write_part(key, body).await?.await;
        for _ in 0..2 {
            let stored = put_part("e-1/part", "one".into()).await.unwrap();
            assert_eq!((stored.bytes, stored.md5), (3, Body::from("one").md5_hex()));
        }
        for other in ["", "on", "two"] {
            let refused = put_part("e-1/part", other.into()).await.unwrap_err();
            assert_eq!(refused.kind, StoreErrorKind::Exists, "{refused}");
        }
        assert_eq!(store.get("e-1/part", 3).await.unwrap(), "one");
        let long = Body::from("x".repeat(super::super::HASH_ASIDE_BYTES as usize + 1));
        let stored = put_part("e-1/long", long.clone()).await.unwrap();
        assert_eq!(stored.md5, long.md5_hex());
        std::fs::create_dir(dir.path().join("e-1/taken")).unwrap();
        put_part("e-1/taken", "x".into()).await.unwrap_err();
        let planted = dir.path().join("e-1/planted");
        std::os::unix::fs::symlink(dir.path().join("elsewhere"), planted).unwrap();
        put_part("e-1/planted", "x".into()).await.unwrap_err();
        assert_eq!(std::fs::read_dir(dir.path().join("e-1")).unwrap().count(), 4);
    }

    #[test]
    fn draft_that_is_not_synced_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let make = || draft(dir.path(), "e/part", &"one".into()).unwrap();
        drop(make());
        assert!(!dir.path().join("e/part").exists());
        // Another file has its name by now.
        let late = make();
        std::fs::rename(dir.path().join("e/part"), dir.path().join("e/gone")).unwrap();
        make().sync(dir.path()).unwrap();
        drop(late);
        assert!(dir.path().join("e/part").exists());
        make().sync(dir.path()).unwrap();
        // What was there before is not this draft's.
        drop(make());
        assert_eq!(std::fs::read(dir.path().join("e/part")).unwrap(), b"one");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn prepared_object_is_invisible_until_created() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let path = dir.path().join("e/marker");
        let seen = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
        let objects = |dir: &Path| std::fs::read_dir(dir.join("e")).unwrap().count();
        let (noted, place) = (std::sync::Arc::clone(&seen), dir.path().to_owned());
        let note = move || noted.store(objects(&place), std::sync::atomic::Ordering::SeqCst);
        let create = store.prepare_new("e/marker", "one".into(), Box::new(note)).await.unwrap();
        assert_eq!(seen.load(std::sync::atomic::Ordering::SeqCst), 1, "it was written then");
        assert!(!path.exists(), "not yet");
        create.await.unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one");
        let prepare = |key, body: Body| store.prepare_new(key, body, Box::new(|| {}));
        let create = prepare("e/marker", "two".into()).await.unwrap();
        assert_eq!(create.await.unwrap_err().kind, StoreErrorKind::Exists);
        // One that is given up leaves nothing, nor does one that is given up while it is prepared.
        drop(prepare("e/other", "one".into()).await.unwrap());
        drop(prepare("e/other", "one".into()).now_or_never());
        let objects = || objects(dir.path());
        for _ in 0..1_000 {
            // A thread may still be writing it.
            if objects() == 1 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        panic!("{} files are left", objects());
    }
}
