//! The lock on a local prefix: a hidden file beside the output, held with `flock`.
//!
//! The kernel drops the lock with the process, so a crash leaves a file and no lock. The file is
//! removed when the lock is given back; its taker makes sure that the file it has locked is still
//! the one that bears the name, or two processes could hold locks on two files. The holder makes
//! the same check before it publishes ([`PrefixLock::check`]), since another program may remove the
//! file, or the whole output, under a running job.
//!
//! Only the file's owner can open it: a reader could lock it, too. It is never reached through a
//! symbolic link and must have no other name, because it is emptied before it is written.

use std::fs::{self, File, OpenOptions, Permissions};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::OFlags;
use rustix::io::Errno;

use super::super::{StoreError, StoreErrorKind, StoreResult};
use super::failure;
use crate::error::{Error, ErrorKind, Result};
use crate::file_lock::{self, LockOutcome, LockPatience, bears_name};

/// The end of every lock file's name; such files are no objects.
pub const LOCK_SUFFIX: &str = ".wordtide.lock";

/// More than any lock file holds.
const NOTE_BYTES_MAX: u64 = 4096;

/// Readable and writable by its owner only.
const MODE: u32 = 0o600;

/// A held lock on a prefix. Dropping it gives the prefix back.
#[derive(Debug)]
pub struct PrefixLock {
    /// The path of the lock.
    path: PathBuf,
    // Holds the lock for as long as it is open.
    /// The locked file.
    file: Arc<File>,
}

/// Returns the path of the lock of a prefix.
pub fn lock_path(root: &Path, prefix: &str) -> PathBuf {
    root.join(format!(".{prefix}{LOCK_SUFFIX}"))
}

impl PrefixLock {
    /// Takes the lock and writes `note` into it.
    ///
    /// Fails with `Configuration`, naming the holder, if another process has it, and if the file
    /// system has no locks; with `Temporary` if the holder ends and needs longer than `patience`,
    /// and with `Stopped` at a stop.
    pub(crate) fn take(
        root: &Path,
        prefix: &str,
        note: &str,
        patience: &LockPatience,
    ) -> Result<PrefixLock> {
        let path = lock_path(root, prefix);
        let failed = |error: io::Error| Error::from(failure("lock", &path, &error));
        let mut file = loop {
            let opened = open(&path)?;
            if let Some(file) = hold(opened, &path, patience)? {
                break file;
            }
            // Given back between opening and locking: the name is free or another's now.
        };
        let text = format!("pid {}\n{}\n", std::process::id(), note.replace('\n', " "));
        file.set_permissions(Permissions::from_mode(MODE))
            .and_then(|()| file.set_len(0))
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(failed)?;
        Ok(PrefixLock { path, file: Arc::new(file) })
    }

    #[cfg(any(test, feature = "internals"))]
    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns the locked file.
    pub fn file(&self) -> &Arc<File> {
        &self.file
    }

    /// Succeeds while the locked file bears its name.
    ///
    /// # Errors
    ///
    /// `Exists`, naming the process that holds the prefix now if there is one: the lock protects
    /// nothing any more, and another job may be writing. Those of the disk if that cannot be found
    /// out.
    pub fn check(&self) -> StoreResult<()> {
        match bears_name(&self.file, &self.path) {
            Ok(true) => return Ok(()),
            Ok(false) => {}
            Err(error) => return Err(failure("look at the lock", &self.path, &error)),
        }
        let path = self.path.display();
        let message = match open_existing(&self.path).and_then(|mut file| read_text(&mut file)) {
            Ok(text) => format!("{} has taken the output over and holds {path}", holder(&text)),
            Err(_) => format!("{path}, the lock on the output, was removed or replaced"),
        };
        Err(StoreError::new(StoreErrorKind::Exists, message).hint(
            "nothing of the open epochs was published; see that no other job writes to --to, \
             then start again",
        ))
    }
}

impl PrefixLock {
    /// Removes the lock file and unlocks the prefix. Nothing may be written below it afterwards.
    pub fn release(&self) {
        // While the lock is still held, and only if the name is not another's. A file that stays
        // there locks nothing.
        if bears_name(&self.file, &self.path).is_ok_and(|is_ours| is_ours) {
            let _ = fs::remove_file(&self.path);
        }
        // The lock ends with the file at the latest.
        let _ = self.file.unlock();
    }
}

impl Drop for PrefixLock {
    fn drop(&mut self) {
        self.release();
    }
}

/// Opens a lock that is there, and follows no symbolic link.
fn open_existing(path: &Path) -> io::Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    OpenOptions::new().read(true).custom_flags(flags).open(path)
}

/// Opens or makes the lock file without touching its content.
///
/// # Errors
///
/// `Configuration` where it is a link, another kind of file, or has further names.
fn open(path: &Path) -> Result<File> {
    let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits() as i32;
    let mut options = OpenOptions::new();
    options.read(true).write(true).create(true).truncate(false).mode(MODE).custom_flags(flags);
    let refused = |what: &str| {
        Error::new(ErrorKind::Configuration, format!("{} is {what}", path.display()))
            .hint("it would be the lock on the output: remove it, or give another --to")
    };
    let file = match options.open(path) {
        Err(error) if error.raw_os_error() == Some(Errno::LOOP.raw_os_error()) => {
            return Err(refused("a symbolic link"));
        }
        opened => opened.map_err(|error| Error::from(failure("lock", path, &error)))?,
    };
    let metadata = file.metadata().map_err(|error| Error::from(failure("lock", path, &error)))?;
    if !metadata.is_file() {
        return Err(refused("no regular file"));
    }
    // Without any name it was given back just now, which is found out when it is locked.
    if metadata.nlink() > 1 {
        return Err(refused("a file with other names, too"));
    }
    Ok(file)
}

/// Locks an opened lock file; `None` when it no longer bears the name, so that its lock is worth
/// nothing.
fn hold(mut file: File, path: &Path, patience: &LockPatience) -> Result<Option<File>> {
    match file_lock::exclusive(&file, patience) {
        Ok(LockOutcome::Locked) => match bears_name(&file, path) {
            Ok(is_named) => Ok(is_named.then_some(file)),
            Err(error) => Err(failure("lock", path, &error).into()),
        },
        Ok(LockOutcome::Held) => Err(held(path, &mut file)),
        Ok(LockOutcome::StillEnding) => Err(file_lock::still_ending(path)),
        Ok(LockOutcome::Stopped) => Err(file_lock::stopped()),
        Err(error) => Err(cannot_lock(path, &error.into(), "--to")),
    }
}

/// Returns the error of a file system that cannot lock `path`, which `flag` leads to.
pub(crate) fn cannot_lock(path: &Path, error: &io::Error, flag: &str) -> Error {
    let message = format!("cannot lock {}: {error}", path.display());
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::IO) => Error::new(ErrorKind::Disk, message)
            .hint(format!("the disk below {flag} failed; look at it before a restart")),
        _ => Error::new(ErrorKind::Configuration, message).hint(format!(
            "the file system below {flag} has no locks: give {flag} a place on a local disk, or \
             start the lock service of the network file system"
        )),
    }
}

/// Returns the words for the process that wrote `text` into a lock file.
fn holder(text: &str) -> String {
    match text.lines().next().and_then(|line| line.strip_prefix("pid ")) {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    }
}

/// Returns the error of a lock that is held.
fn held(path: &Path, file: &mut File) -> Error {
    let holder = holder(&read_text(file).unwrap_or_default());
    Error::new(
        ErrorKind::Configuration,
        format!("{holder} is writing to the same output and holds {}", path.display()),
    )
    .hint("stop it, or give --to another prefix")
}

/// Reads the note in a lock, up to [`NOTE_BYTES_MAX`] bytes.
fn read_text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

/// Returns the note of the holder; `None` if there is no lock.
pub fn read_note(root: &Path, prefix: &str) -> StoreResult<Option<String>> {
    let path = lock_path(root, prefix);
    match open_existing(&path).and_then(|mut file| read_text(&mut file)) {
        Ok(text) => Ok(text.lines().nth(1).map(str::to_owned)),
        Err(error) => match failure("read", &path, &error) {
            failed if failed.kind == StoreErrorKind::NotFound => Ok(None),
            failed => Err(failed),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn take(root: &Path, prefix: &str, note: &str) -> Result<PrefixLock> {
        PrefixLock::take(root, prefix, note, &LockPatience::default())
    }

    #[test]
    fn second_holder_is_refused_until_release() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "counts", "run 1").unwrap();
        assert_eq!(read_note(dir.path(), "counts").unwrap().as_deref(), Some("run 1"));
        let error = take(dir.path(), "counts", "run 2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let pid = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        assert!(error.to_string().contains("--to"), "{error}");
        take(dir.path(), "other", "").unwrap();

        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(read_note(dir.path(), "counts").unwrap(), None);
        take(dir.path(), "counts", "run 2").unwrap();
    }

    #[test]
    fn stop_ends_wait_for_ending_holder() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "counts", "run 1").unwrap();
        let mut locks = file_lock::HeldLocks::default();
        locks.add(first.file());
        locks.note_end();
        let stopped = LockPatience::of_start(None, || true);
        let error = PrefixLock::take(dir.path(), "counts", "run 2", &stopped).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Stopped, "{error}");
    }

    #[test]
    fn a_file_left_by_a_crash_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(lock_path(dir.path(), "counts"), "pid 1\na much longer old note\n").unwrap();
        let lock = take(dir.path(), "counts", "new").unwrap();
        assert_eq!(read_note(dir.path(), "counts").unwrap().as_deref(), Some("new"));
        assert!(lock.path().ends_with(".counts.wordtide.lock"));
    }

    #[test]
    fn lock_on_a_removed_file_is_void() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "counts", "").unwrap();
        let path = first.path().to_owned();
        let opened = open(&path).unwrap();
        drop(first);
        let _second = take(dir.path(), "counts", "").unwrap();
        assert!(hold(opened, &path, &LockPatience::default()).unwrap().is_none());
    }

    #[test]
    fn lock_without_its_name_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), "counts", "run 1").unwrap();
        first.check().unwrap();
        fs::remove_file(first.path()).unwrap();
        let error = first.check().unwrap_err();
        assert_eq!(error.kind, StoreErrorKind::Exists, "{error}");
        assert!(error.message.contains("was removed or replaced"), "{error}");
        let second = take(dir.path(), "counts", "run 2").unwrap();
        let error = first.check().unwrap_err();
        let pid = format!("process {}", std::process::id());
        assert!(error.message.contains(&pid), "{error}");
        drop(first);
        second.check().expect("the first one leaves the name of the second alone");
    }

    #[test]
    fn fault_of_the_disk_is_no_other_owner() {
        let dir = tempfile::tempdir().unwrap();
        let (root, moved) = (dir.path().join("out"), dir.path().join("moved"));
        fs::create_dir(&root).unwrap();
        let lock = take(&root, "counts", "").unwrap();
        fs::rename(&root, &moved).unwrap();
        // The path leads through a file now, so it cannot be looked at.
        fs::write(&root, "").unwrap();
        let error = lock.check().unwrap_err();
        assert_ne!(error.kind, StoreErrorKind::Exists, "{error}");
        let path = lock.path().display().to_string();
        assert!(error.message.contains(&path), "{error}");
        assert!(error.message.contains("Not a directory"), "{error}");
        assert!(read_note(&root, "counts").is_err());
    }

    #[test]
    fn lock_file_is_private_and_no_link() {
        let dir = tempfile::tempdir().unwrap();
        let path = lock_path(dir.path(), "counts");
        fs::write(&path, "pid 1\nan older release\n").unwrap();
        fs::set_permissions(&path, Permissions::from_mode(0o644)).unwrap();
        let lock = take(dir.path(), "counts", "").unwrap();
        assert_eq!(fs::metadata(lock.path()).unwrap().mode() & 0o777, 0o600);
        drop(lock);
        let victim = dir.path().join("victim");
        fs::write(&victim, "precious").unwrap();
        let links: [fn(&Path, &Path) -> io::Result<()>; 2] =
            [|from, to| std::os::unix::fs::symlink(from, to), |from, to| fs::hard_link(from, to)];
        for link in links {
            link(&victim, &path).unwrap();
            let error = take(dir.path(), "counts", "").unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Configuration, "{error}");
            assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
            fs::remove_file(&path).unwrap();
        }
    }

    #[test]
    fn missing_locks_are_not_another_process() {
        for (errno, kind) in [
            (Errno::NOLCK, ErrorKind::Configuration),
            (Errno::NOSYS, ErrorKind::Configuration),
            (Errno::OPNOTSUPP, ErrorKind::Configuration),
            (Errno::IO, ErrorKind::Disk),
        ] {
            let error = cannot_lock(Path::new("/x/lock"), &errno.into(), "--to");
            assert_eq!(error.kind(), kind);
            let text = error.to_string();
            let number = format!("os error {}", errno.raw_os_error());
            assert!(text.contains(&number) && text.contains("--to"), "{text}");
            assert!(!text.contains("process"), "{text}");
        }
    }
}
