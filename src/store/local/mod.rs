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

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt};
use tokio::sync::Semaphore;

use super::{
    Body, Creation, Listing, ObjectEntry, OnWritten, OwnerCheck, Page, Store, StoreError,
    StoreErrorKind, StoreResult, Stored, check_key,
};
use crate::error::{Error, Result};
use crate::file_lock::LockPatience;
use crate::supervise;

mod file_calls;
mod prefix_lock;
mod sync_folders;
mod write_files;

use file_calls::{Scan, split};
pub(crate) use prefix_lock::cannot_lock;
pub use prefix_lock::{PrefixLock, lock_path};
use sync_folders::{SealedDirs, Sealing};
use write_files::UnsyncedPart;

/// Files that are written or read at a time. Enough that one commit of the file system's journal
/// serves many; without a bound a slow disk would be met by hundreds of threads, each with a stack
/// and what the allocator keeps for it. [`Store::write_part_here`] takes no turn: its threads, one
/// for each worker and epoch that is being written, come on top.
const FILES_MAX: usize = 32;

/// The MD5 of a longer body is computed while it is synced.
const HASH_ASIDE_BYTES: u64 = 256 << 10;

/// Objects as files below a directory.
#[derive(Clone)]
pub struct LocalStore {
    /// The folder that keys are relative to.
    root: Arc<Path>,
    /// Bounds the threads of this store that wait for the disk.
    turns: Arc<Semaphore>,
    /// The rest of the last scan of keys, and of the last scan of directories.
    scans: [Arc<Mutex<Option<Scan>>>; 2],
    /// The folders whose names are durable.
    sealed: Arc<SealedDirs>,
    /// True if it was logged that directories cannot be synced.
    reported: Arc<AtomicBool>,
    /// Called before an object gets its name. Not called for temporaries, folders and removals.
    check: Option<OwnerCheck>,
}

impl fmt::Debug for LocalStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LocalStore").field("root", &self.root).finish_non_exhaustive()
    }
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
            check: None,
        })
    }

    /// Returns the check that comes before an object gets its name.
    fn owner_check(&self) -> impl FnOnce() -> StoreResult<()> + Send + use<> {
        let check = self.check.clone();
        move || check.map_or(Ok(()), |check| check())
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

    /// Syncs a part, its folder and those above it, all at the same time.
    async fn sync_part(self, key: String, body: Body, draft: UnsyncedPart) -> StoreResult<Stored> {
        // The MD5 of a large body takes as long as the syncs.
        let hashed = async {
            if body.bytes() > HASH_ASIDE_BYTES && !body.has_md5() {
                let body = body.clone();
                supervise::blocking(move || body.md5()).await;
            }
        };
        let dir = split(&key).0;
        let synced = self.run(&[&key], move |root| draft.sync(root));
        let names = self.sync_names(dir, SealedDirs::seal_names);
        let above = self.sync_names(dir, SealedDirs::seal_above);
        // All of them end before another attempt finds the file.
        let (synced, names, above, ()) = futures::join!(synced, names, above, hashed);
        synced.and(names).and(above)?;
        Ok(Stored::of(&body, None))
    }

    /// Makes names in the folder `dir`, or above it, durable by `sync`. Logs once that a file
    /// system cannot do that.
    fn sync_names<'a>(
        &'a self,
        dir: &str,
        sync: fn(&SealedDirs, &Path, &str) -> StoreResult<Sealing>,
    ) -> BoxFuture<'a, StoreResult<()>> {
        let name = dir.trim_end_matches('/');
        let owned = name.to_owned();
        let (sealed, reported) = (Arc::clone(&self.sealed), Arc::clone(&self.reported));
        self.run(&[name], move |root| {
            if !sync(&sealed, root, &owned)?.has_sync && !reported.swap(true, Ordering::Relaxed) {
                let root = root.display();
                tracing::warn!(
                    "the file system of {root} cannot sync a directory: after a power loss a \
                     committed epoch may be missing there"
                );
            }
            Ok(())
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
        let (name, check_owner) = (key.to_owned(), self.owner_check());
        self.run(&[key], move |root| {
            check_owner()?;
            write_files::put(root, &name, &body)
        })
    }

    /// Writes a file under another name, syncs it, and renames it if there is none.
    fn put_new<'a>(&'a self, key: &'a str, body: Body) -> BoxFuture<'a, StoreResult<Stored>> {
        let (name, check_owner) = (key.to_owned(), self.owner_check());
        self.run(&[key], move |root| {
            check_owner()?;
            write_files::put_new(root, &name, &body)
        })
    }

    /// Writes a file under its own name. Then syncs it and its folder, and hashes it meanwhile.
    fn write_part<'a>(
        &'a self,
        key: &'a str,
        body: Body,
    ) -> BoxFuture<'a, StoreResult<Creation<'a>>> {
        let (name, content, check_owner) = (key.to_owned(), body.clone(), self.owner_check());
        let written = self.run(&[key], move |root| {
            check_owner()?;
            write_files::draft(root, &name, &content)
        });
        async move {
            let draft = written.await?;
            Ok(self.clone().sync_part(key.to_owned(), body, draft).boxed() as Creation<'a>)
        }
        .boxed()
    }

    fn write_part_here(&self, key: &str, body: &Body) -> Option<StoreResult<Creation<'static>>> {
        let draft = check_key(key)
            .and_then(|()| self.owner_check()())
            .and_then(|()| write_files::draft(&self.root, key, body));
        let (store, key, body) = (self.clone(), key.to_owned(), body.clone());
        Some(draft.map(|draft| store.sync_part(key, body, draft).boxed() as Creation<'static>))
    }

    fn checked_by(&self, check: OwnerCheck) -> Option<Arc<dyn Store>> {
        Some(Arc::new(LocalStore { check: Some(check), ..self.clone() }))
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
        written: OnWritten,
    ) -> BoxFuture<'a, StoreResult<Creation<'a>>> {
        let (name, content) = (key.to_owned(), body.clone());
        let prepared = self.run(&[key], move |root| {
            let temporary = write_files::prepare(root, &name, &content)?;
            // On this thread: the others sync meanwhile.
            written();
            temporary.sync(&root.join(&name))
        });
        async move {
            let prepared = prepared.await?;
            let (name, check_owner) = (key.to_owned(), self.owner_check());
            let create = move |root: &Path| {
                check_owner()?;
                write_files::place_new(root, &name, prepared, &body)
            };
            Ok(self.run(&[key], create))
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
        self.sync_names(dir, SealedDirs::seal)
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
mod tests;
