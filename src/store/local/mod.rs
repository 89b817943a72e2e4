//! A local directory as a store, safe against crashes.
//!
//! An object is written to a temporary file beside its place, synced, and renamed: a reader or a
//! crash finds all of it or nothing. Its *name* is durable once [`Store::seal`] has synced the
//! directory, which the committer does once an epoch instead of once an object. Creating without
//! overwriting is a hard link, the one call that is both atomic and refuses.
//!
//! The parts of an epoch mean nothing without its marker, so they are written under their own names
//! at once, and file and directory are synced at the same time: see [`Store::write_part`].
//!
//! A temporary's name begins with a dot and ends in `.tmp`. It is random, and the file is created
//! exclusively: a write whose caller gave up may still be running on the blocking pool and must not
//! get into the file of the next try, and another user of a shared directory cannot plant the name.
//! Below the root no symbolic link is followed, neither to write nor to read nor to remove. A crash
//! can leave temporaries; listings do not show them and [`Store::clear`] removes them.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::Semaphore;

use super::{
    Body, Creation, Listing, ObjectEntry, Page, Preparation, Store, StoreError, StoreErrorKind,
    StoreResult, Stored, check_key,
};
use crate::error::{Error, Result};
use crate::file_lock::LockPatience;
use crate::supervise;

mod file_calls;
mod prefix_lock;
mod sync_folders;
mod write_files;

use file_calls::Scan;
pub(crate) use prefix_lock::cannot_lock;
pub use prefix_lock::{PrefixLock, lock_path};
use sync_folders::SealedDirs;

/// Files that are written or read at a time. Enough that one commit of the file system's journal
/// serves many; without a bound a slow disk would be met by hundreds of threads, each with a stack
/// and what the allocator keeps for it.
const FILES_MAX: usize = 32;

/// The MD5 of a longer body is computed while it is synced.
const HASH_ASIDE_BYTES: u64 = 256 << 10;

/// Objects as files below a directory.
#[derive(Clone, Debug)]
pub struct LocalStore {
    /// The folder that keys are relative to.
    root: Arc<Path>,
    /// Bounds the threads that wait for the disk.
    turns: Arc<Semaphore>,
    /// The rest of the last scan of keys, and of the last scan of directories.
    scans: [Arc<Mutex<Option<Scan>>>; 2],
    /// The folders whose names are durable.
    sealed: Arc<SealedDirs>,
    /// True if it was logged that directories cannot be synced.
    reported: Arc<AtomicBool>,
}

impl LocalStore {
    /// Returns the store below `root`, which is created durably if it is missing.
    ///
    /// Fails with `Configuration` if the folder may not be made or is none, with `Temporary` if the
    /// disk is full, and with `Disk` if it fails.
    pub fn open(root: impl Into<PathBuf>) -> Result<Self> {
        let root: PathBuf = root.into();
        file_calls::create_root(&root).map_err(|error| {
            let mut refused = failure("create the directory", &root, &error);
            refused.hint.get_or_insert_with(|| "check the path given to --to".to_owned());
            Error::from(refused)
        })?;
        Ok(LocalStore {
            root: root.into(),
            turns: Arc::new(Semaphore::new(FILES_MAX)),
            scans: Default::default(),
            sealed: Arc::default(),
            reported: Arc::default(),
        })
    }

    /// Locks the prefix for this process until the lock is dropped, so that no two jobs write the
    /// same names. `note` is one line for other processes of the same cluster to recognise it by.
    /// Another holder is a `Configuration` error that names its process id.
    ///
    /// Fails with `Configuration`, naming the holder, if another process has it, and with
    /// `Temporary` if that one ends and needs longer than `patience`.
    pub fn lock_prefix(
        &self,
        prefix: &str,
        note: &str,
        patience: &LockPatience,
    ) -> Result<PrefixLock> {
        PrefixLock::take(&self.root, prefix, note, patience)
    }

    /// Returns the note of the present holder of the prefix's lock, or `None` without a lock file.
    /// Two processes that read the same note use the same directory.
    pub fn lock_note(&self, prefix: &str) -> StoreResult<Option<String>> {
        prefix_lock::read_note(&self.root, prefix)
    }

    /// Returns a page of a listing: from the rest of the scan before if this is its next page, else
    /// from a new scan.
    fn page<'a, T: Send + 'static>(
        &'a self,
        kept: &Arc<Mutex<Option<Scan>>>,
        ask: Listing<'a>,
        scan: impl FnOnce(&Path, &str, Option<&str>) -> StoreResult<Scan> + Send + 'static,
        describe: impl Fn(&Path, String) -> Option<T> + Send + 'static,
    ) -> BoxFuture<'a, StoreResult<Page<T>>> {
        let (prefix, after) = (ask.prefix.to_owned(), ask.after.map(str::to_owned));
        let (kept, limit) = (Arc::clone(kept), ask.limit.max(1));
        self.run(&[], move |root| {
            let lock = || kept.lock().unwrap_or_else(PoisonError::into_inner);
            let after = after.as_deref();
            // Taken out: a second listing at the same time makes a scan of its own.
            let left = lock().take_if(|scan| scan.answers(&prefix, after));
            let mut scan = left.map_or_else(|| scan(root, &prefix, after), Ok)?;
            let page = scan.page(limit, |name| describe(root, name));
            *lock() = page.next.is_some().then_some(scan);
            Ok(page)
        })
    }

    /// Runs `work` on the blocking pool.
    fn run<'a, T: Send + 'static>(
        &'a self,
        keys: &[&str],
        work: impl FnOnce(&Path) -> StoreResult<T> + Send + 'static,
    ) -> BoxFuture<'a, StoreResult<T>> {
        if let Err(error) = keys.iter().try_for_each(|key| check_key(key)) {
            return futures::future::ready(Err(error)).boxed();
        }
        let (root, turns) = (Arc::clone(&self.root), Arc::clone(&self.turns));
        async move {
            // The semaphore is never closed. The turn lasts as long as the work, which continues if
            // this future is dropped.
            let turn = turns.acquire_owned().await;
            let work = move || {
                let _turn = turn;
                work(&root)
            };
            supervise::blocking(work).await
        }
        .boxed()
    }
}

impl Store for LocalStore {
    /// Writes a file under another name, syncs it, and renames it over one that is there.
    fn put<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        let name = key.to_owned();
        self.run(&[key], move |root| write_files::put(root, &name, &body))
    }

    /// Writes a file under another name, syncs it, and renames it if there is none.
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        let name = key.to_owned();
        self.run(&[key], move |root| write_files::put_new(root, &name, &body))
    }

    /// Writes a file under its own name. Then syncs it and its folder, and hashes it meanwhile.
    fn write_part<'a>(
        &'a self,
        key: &'a str,
        body: Body,
    ) -> BoxFuture<'a, StoreResult<Creation<'a>>> {
        let (name, content) = (key.to_owned(), body.clone());
        let written = self.run(&[key], move |root| write_files::draft(root, &name, &content));
        async move {
            let draft = written.await?;
            let dir = key.rsplit_once('/').map_or("", |(dir, _)| dir);
            let synced = async move {
                // The MD5 of a large body takes as long as the syncs.
                let hashed = async {
                    if body.bytes() > HASH_ASIDE_BYTES {
                        let body = body.clone();
                        supervise::blocking(move || body.md5()).await;
                    }
                };
                let synced = self.run(&[key], move |root| draft.sync(root));
                // All of them end before another attempt finds the file.
                let (synced, sealed, ()) = futures::join!(synced, self.seal(dir), hashed);
                synced.and(sealed)?;
                Ok(Stored::of(&body, None))
            };
            Ok(synced.boxed())
        }
        .boxed()
    }

    /// Returns true: files are written, and synced later.
    fn writes_before_sync(&self) -> bool {
        true
    }

    /// Writes a file under another name, syncs it, and renames it if there is none.
    fn prepare_new<'a>(
        &'a self,
        key: &'a str,
        body: Body,
    ) -> BoxFuture<'a, StoreResult<Preparation<'a>>> {
        let (name, content) = (key.to_owned(), body.clone());
        let written = self.run(&[key], move |root| write_files::prepare(root, &name, &content));
        async move {
            let written = written.await?;
            let synced = async move {
                let path = key.to_owned();
                let prepared =
                    self.run(&[key], move |root| written.sync(&root.join(&path))).await?;
                let name = key.to_owned();
                let create =
                    move |root: &Path| write_files::place_new(root, &name, prepared, &body);
                Ok(self.run(&[key], create))
            };
            Ok(synced.boxed())
        }
        .boxed()
    }

    /// Reads a file of at most `bytes_max` bytes.
    fn get<'a>(&'a self, key: &'a str, bytes_max: u64) -> BoxFuture<'a, StoreResult<Bytes>> {
        let name = key.to_owned();
        self.run(&[key], move |root| file_calls::get(root, &name, bytes_max))
    }

    /// Lists the files whose names begin with a prefix, by pages.
    fn list<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<ObjectEntry>>> {
        self.page(&self.scans[0], ask, file_calls::scan, file_calls::describe)
    }

    /// Lists the folders whose names begin with a prefix, by pages.
    fn list_dirs<'a>(&'a self, ask: Listing<'a>) -> BoxFuture<'a, StoreResult<Page<String>>> {
        self.page(&self.scans[1], ask, file_calls::scan_dirs, |_, dir| Some(dir))
    }

    /// Removes a file. One that is missing is no error.
    fn delete<'a>(&'a self, key: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let name = key.to_owned();
        self.run(&[key], move |root| file_calls::delete(root, &name))
    }

    /// Removes a folder with its files; returns their number.
    fn clear<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<u64>> {
        let name = dir.trim_end_matches('/');
        let owned = name.to_owned();
        self.run(&[name], move |root| file_calls::clear(root, &owned))
    }

    fn sweep<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let name = dir.trim_end_matches('/');
        let owned = name.to_owned();
        self.run(&[name], move |root| file_calls::sweep(root, &owned))
    }

    /// Makes the names in a folder durable, and the name of the folder.
    fn seal<'a>(&'a self, dir: &'a str) -> BoxFuture<'a, StoreResult<()>> {
        let name = dir.trim_end_matches('/');
        let owned = name.to_owned();
        let (sealed, reported) = (Arc::clone(&self.sealed), Arc::clone(&self.reported));
        self.run(&[name], move |root| {
            if !sealed.seal(root, &owned)?.has_sync && !reported.swap(true, Ordering::Relaxed) {
                let root = root.display();
                tracing::warn!(
                    "the file system of {root} cannot sync a directory: after a power loss a \
                     committed epoch may be missing there"
                );
            }
            Ok(())
        })
    }

    /// Returns the path.
    fn describe(&self) -> String {
        format!("local directory {}", self.root.display())
    }
}

/// Returns the store's error for an error of the operating system.
fn failure(what: &str, path: &Path, error: &io::Error) -> StoreError {
    use io::ErrorKind as Io;
    /// The number of an input/output error.
    const EIO: i32 = 5;
    /// A symbolic link where none is followed.
    const ELOOP: i32 = 40;
    let message = format!("cannot {what} {}: {error}", path.display());
    match error.kind() {
        _ if error.raw_os_error() == Some(EIO) => StoreError::new(StoreErrorKind::Disk, message)
            .hint("the disk below --to failed; look at it before a restart"),
        _ if error.raw_os_error() == Some(ELOOP) => {
            StoreError::new(StoreErrorKind::Denied, message)
                .hint("a symbolic link stands there, which is not followed: remove it")
        }
        Io::NotFound => StoreError::new(StoreErrorKind::NotFound, message),
        Io::StorageFull | Io::QuotaExceeded => {
            StoreError::new(StoreErrorKind::Unavailable, message)
                .hint("free space below --to; it goes on by itself")
        }
        Io::PermissionDenied
        | Io::ReadOnlyFilesystem
        | Io::NotADirectory
        | Io::IsADirectory
        | Io::AlreadyExists
        | Io::InvalidFilename
        | Io::FileTooLarge => StoreError::new(StoreErrorKind::Denied, message)
            .hint("give --to a path that this user can write to"),
        _ => StoreError::new(StoreErrorKind::Unavailable, message),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::error::ErrorKind;

    #[test]
    fn only_a_full_disk_is_retried() {
        let kind = |code| failure("x", Path::new("y"), &io::Error::from_raw_os_error(code)).kind;
        assert_eq!(kind(28), StoreErrorKind::Unavailable, "ENOSPC");
        assert_eq!(kind(122), StoreErrorKind::Unavailable, "EDQUOT");
        assert_eq!(kind(5), StoreErrorKind::Disk, "EIO");
        assert_eq!(kind(13), StoreErrorKind::Denied, "EACCES");
        assert_eq!(kind(20), StoreErrorKind::Denied, "ENOTDIR");
        assert_eq!(kind(30), StoreErrorKind::Denied, "EROFS");
        assert_eq!(kind(24), StoreErrorKind::Unavailable, "EMFILE");
    }

    #[test]
    fn file_as_root_is_a_configuration_error() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "x").unwrap();
        for way in ["file", "file/below"] {
            let error = LocalStore::open(dir.path().join(way)).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
            assert!(error.to_string().contains("--to"), "{error}");
        }
    }

    #[tokio::test(flavor = "current_thread")]
    async fn temporaries_are_not_listed_and_clear_removes_them() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path().join("a/b")).unwrap();
        store.put("e-1/part-00000", "x".into()).await.unwrap();
        let epoch = dir.path().join("a/b/e-1");
        std::fs::write(epoch.join(".part-00001.7-0.tmp"), "half").unwrap();
        std::fs::create_dir(epoch.join("deep")).unwrap();
        std::fs::write(epoch.join("deep/part"), "y").unwrap();

        let page = store.list(Listing::new("e-1/")).await.unwrap();
        let keys: Vec<_> = page.items.iter().map(|entry| entry.key.as_str()).collect();
        assert_eq!(keys, ["e-1/deep/part", "e-1/part-00000"]);
        assert_eq!(store.clear("e-1/").await.unwrap(), 3);
        assert_eq!(std::fs::read_dir(&epoch).unwrap().count(), 0);
        assert_eq!(store.clear("e-2").await.unwrap(), 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn store_follows_no_planted_link() {
        use std::os::unix::fs::symlink;
        let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let target = other.path().join("target");
        std::fs::write(&target, "theirs").unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        // A link in place of an epoch, and links in place of objects.
        symlink(other.path(), dir.path().join("e-1")).unwrap();
        std::fs::create_dir(dir.path().join("e-2")).unwrap();
        symlink(&target, dir.path().join("e-2/part")).unwrap();
        symlink(&target, dir.path().join("e-2/marker")).unwrap();

        store.put("e-1/part", "ours".into()).await.expect_err("a link");
        store.clear("e-1").await.expect("nothing is there");
        store.sweep("e-1").await.expect("nothing is there");
        store.get("e-2/part", 100).await.expect_err("a link");
        store.put_new("e-2/marker", "theirs".into()).await.expect_err("a link");
        store.put("e-2/part", "ours".into()).await.expect("the link itself is replaced");
        assert_eq!(store.get("e-2/part", 100).await.unwrap(), "ours");
        store.clear("e-2").await.unwrap();
        assert_eq!(std::fs::read_dir(other.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read(&target).unwrap(), b"theirs");
    }

    #[tokio::test(flavor = "current_thread")]
    async fn objects_have_the_permissions_of_their_kind() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        let mode = |name: &str| {
            std::fs::metadata(dir.path().join(name)).unwrap().permissions().mode() & 0o777
        };
        std::fs::write(dir.path().join("umask"), "").unwrap();
        store.put("e-1/part", "x".into()).await.unwrap();
        assert_eq!(mode("e-1/part"), mode("umask"));
        store.put("_wordtide/job/0-00000/1.change", "x".into()).await.unwrap();
        assert_eq!(mode("_wordtide/job/0-00000/1.change"), 0o600 & mode("umask"));
        assert_eq!(mode("_wordtide/job") & 0o077, 0);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn long_listing_scans_its_directory_once() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        for epoch in 1000..1050 {
            store.put(&format!("e-{epoch}/part"), "x".into()).await.unwrap();
        }
        let (mut seen, mut files, mut after) = (Vec::new(), 0, None::<String>);
        loop {
            let ask = Listing::new("e-").after(after.as_deref()).limit(7);
            let page = store.list_dirs(ask).await.unwrap();
            // The scan is not repeated: a later directory does not get into the listing.
            std::fs::create_dir_all(dir.path().join("e-9999")).unwrap();
            seen.extend(page.items);
            files += store.list(Listing::new(seen.last().unwrap())).await.unwrap().items.len();
            match page.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
        assert_eq!((seen.len(), files), (50, 8));
        assert!(seen.is_sorted(), "{seen:?}");
        assert_eq!(store.list_dirs(Listing::new("e-")).await.unwrap().items.len(), 51);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_finished_put_leaves_only_the_object() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        store.put("e/p", "one".into()).await.unwrap();
        store.put("e/p", "two".into()).await.unwrap();
        store.put_new("e/q", "three".into()).await.unwrap();
        let refused = store.put_new("e/q", "other".into()).await.unwrap_err();
        assert_eq!(refused.kind, StoreErrorKind::Exists);
        store.seal("e").await.unwrap();
        let mut names: Vec<_> = std::fs::read_dir(dir.path().join("e"))
            .unwrap()
            .map(|entry| entry.unwrap().file_name())
            .collect();
        names.sort();
        assert_eq!(names, ["p", "q"]);
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_write_that_fails_leaves_no_temporary() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        std::fs::create_dir_all(dir.path().join("e/p")).unwrap();
        let error = store.put("e/p", "x".into()).await.unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Denied, "{error}");
        assert_eq!(std::fs::read_dir(dir.path().join("e")).unwrap().count(), 1);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn files_at_a_time_are_limited() {
        let dir = tempfile::tempdir().unwrap();
        let store = LocalStore::open(dir.path()).unwrap();
        // So many wait for each other: they do run at once.
        let gate = Arc::new(Barrier::new(FILES_MAX));
        let at_work = Arc::new(AtomicUsize::new(0));
        let works = (0..2 * FILES_MAX).map(|_| {
            let (at_work, gate) = (Arc::clone(&at_work), Arc::clone(&gate));
            store.run(&["a/b"], move |_| {
                let others = at_work.fetch_add(1, Ordering::SeqCst);
                gate.wait();
                at_work.fetch_sub(1, Ordering::SeqCst);
                Ok(others + 1)
            })
        });
        let works = futures::future::try_join_all(works).await.unwrap();
        assert_eq!(works.iter().max(), Some(&FILES_MAX));
    }
}
