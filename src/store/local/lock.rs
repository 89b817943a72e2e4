//! The lock on a local prefix: a hidden file beside the output, held with `flock`.
//!
//! The kernel drops the lock with the process, so a crash leaves a file and no lock. The file is
//! removed when the lock is given back; whoever takes it makes sure that the file it has locked is
//! still the one that bears the name, or two processes could hold locks on two files.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read, Seek, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::super::StoreErrorKind;
use super::failure;
use crate::error::{Error, ErrorKind, Result};

/// How every lock file's name ends; such files are no objects.
pub(super) const LOCK_SUFFIX: &str = ".wordtide.lock";

/// More than any lock file holds.
const NOTE_BYTES_MAX: u64 = 4096;

/// A held lock on a prefix. Dropping it gives the prefix back.
#[derive(Debug)]
pub struct PrefixLock {
    path: PathBuf,
    // Holds the lock for as long as it is open.
    _file: File,
}

fn lock_path(root: &Path, prefix: &str) -> PathBuf {
    root.join(format!(".{prefix}{LOCK_SUFFIX}"))
}

impl PrefixLock {
    pub(super) fn take(root: &Path, prefix: &str, note: &str) -> Result<PrefixLock> {
        let path = lock_path(root, prefix);
        let told = |error: io::Error| Error::from(failure("lock", &path, &error));
        let mut file = loop {
            let opened = open(&path).map_err(told)?;
            if let Some(file) = hold(opened, &path)? {
                break file;
            }
            // Given back between opening and locking: the name is free or another's now.
        };
        let text = format!("pid {}\n{}\n", std::process::id(), note.replace('\n', " "));
        file.set_len(0)
            .and_then(|()| file.rewind())
            .and_then(|()| file.write_all(text.as_bytes()))
            .map_err(told)?;
        Ok(PrefixLock { path, _file: file })
    }

    /// The lock file.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for PrefixLock {
    fn drop(&mut self) {
        // While the lock is still held. A file that stays behind locks nothing.
        fs::remove_file(&self.path).unwrap_or_default();
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().read(true).write(true).create(true).truncate(false).open(path)
}

/// Locks an opened lock file; `None` when it no longer bears the name, so that its lock is worth
/// nothing.
fn hold(mut file: File, path: &Path) -> Result<Option<File>> {
    match file.try_lock() {
        Ok(()) => Ok(bears_name(&file, path).then_some(file)),
        Err(TryLockError::WouldBlock) => Err(held(path, &mut file)),
        Err(TryLockError::Error(error)) => Err(failure("lock", path, &error).into()),
    }
}

fn bears_name(file: &File, path: &Path) -> bool {
    match (file.metadata(), fs::metadata(path)) {
        (Ok(ours), Ok(named)) => (ours.dev(), ours.ino()) == (named.dev(), named.ino()),
        _ => false,
    }
}

fn held(path: &Path, file: &mut File) -> Error {
    let text = read_text(file).unwrap_or_default();
    let holder = match text.lines().next().and_then(|line| line.strip_prefix("pid ")) {
        Some(pid) => format!("process {pid}"),
        None => "another process".to_owned(),
    };
    Error::new(
        ErrorKind::Configuration,
        format!("{holder} is writing to the same output and holds {}", path.display()),
    )
    .hint("stop it, or give --to another prefix")
}

fn read_text(file: &mut File) -> io::Result<String> {
    let mut text = String::new();
    file.rewind()?;
    file.take(NOTE_BYTES_MAX).read_to_string(&mut text)?;
    Ok(text)
}

pub(super) fn read_note(root: &Path, prefix: &str) -> Result<Option<String>> {
    let path = lock_path(root, prefix);
    match File::open(&path).and_then(|mut file| read_text(&mut file)) {
        Ok(text) => Ok(text.lines().nth(1).map(str::to_owned)),
        Err(error) => match failure("read", &path, &error) {
            failed if failed.kind == StoreErrorKind::NotFound => Ok(None),
            failed => Err(failed.into()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_holder_is_refused_by_the_firsts_pid_until_it_is_given_back() {
        let dir = tempfile::tempdir().unwrap();
        let first = PrefixLock::take(dir.path(), "counts", "run 1").unwrap();
        assert_eq!(read_note(dir.path(), "counts").unwrap().as_deref(), Some("run 1"));
        let error = PrefixLock::take(dir.path(), "counts", "run 2").unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let pid = format!("process {}", std::process::id());
        assert!(error.to_string().contains(&pid), "{error}");
        assert!(error.to_string().contains("--to"), "{error}");
        PrefixLock::take(dir.path(), "other", "").unwrap();

        drop(first);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
        assert_eq!(read_note(dir.path(), "counts").unwrap(), None);
        PrefixLock::take(dir.path(), "counts", "run 2").unwrap();
    }

    #[test]
    fn a_file_left_by_a_crash_locks_nothing() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(lock_path(dir.path(), "counts"), "pid 1\na much longer old note\n").unwrap();
        let lock = PrefixLock::take(dir.path(), "counts", "new").unwrap();
        assert_eq!(read_note(dir.path(), "counts").unwrap().as_deref(), Some("new"));
        assert!(lock.path().ends_with(".counts.wordtide.lock"));
    }

    #[test]
    fn a_lock_on_a_file_that_was_given_back_counts_for_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let first = PrefixLock::take(dir.path(), "counts", "").unwrap();
        let path = first.path().to_owned();
        let opened = open(&path).unwrap();
        drop(first);
        let _second = PrefixLock::take(dir.path(), "counts", "").unwrap();
        assert!(hold(opened, &path).unwrap().is_none());
    }
}
