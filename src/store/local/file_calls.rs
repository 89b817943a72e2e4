//! Directories, reads, listings and removals of [`LocalStore`](super::LocalStore). All of them
//! block.

use crate::durable_file::sync_folder;
use std::collections::{BTreeSet, VecDeque};
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::Path;

use bytes::Bytes;
use rustix::fs::{AtFlags, CWD, Dir, Mode, OFlags, mkdirat, openat, unlinkat};
use rustix::io::Errno;

use super::super::{ObjectEntry, Page, StoreError, StoreResult};
use super::failure;

/// Creates `root` with all that leads to it and syncs every directory that got a new name, so that
/// a crash does not take the whole output with it.
pub fn create_root(root: &Path) -> io::Result<()> {
    let mut missing = Vec::new();
    let mut path = root;
    while !path.as_os_str().is_empty() && !path.is_dir() {
        missing.push(path);
        match path.parent() {
            Some(parent) => path = parent,
            None => break,
        }
    }
    let made = missing.len().max(1);
    for path in missing.into_iter().rev() {
        match fs::create_dir(path) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
            made => made?,
        }
    }
    // Always the root's own name too: a crash may have come between making and syncing it.
    for path in root.ancestors().take(made) {
        let Some(parent) = path.parent() else { break };
        match sync_folder(parent) {
            // A directory above that may be passed but not read was not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => drop(synced?),
        }
    }
    Ok(())
}

/// The directory that the program's own objects are in. Those in a directory below it hold words,
/// so only their owner may read them; the results have the permissions of the umask.
const OWN_DIR: &str = "_wordtide";

/// Returns true if a file is a temporary or a lock, which are no objects.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.')
        && (name.ends_with(".tmp") || name.ends_with(super::prefix_lock::LOCK_SUFFIX))
}

/// Splits a key into its directory and its name.
pub fn split(key: &str) -> (&str, &str) {
    key.rsplit_once('/').unwrap_or(("", key))
}

/// Returns true if files in the directory `dir` of a store are readable by their owner only.
pub fn is_private(dir: &str) -> bool {
    dir.split('/').skip_while(|name| *name != OWN_DIR).count() > 1
}

/// Opens the directory `dir` below `root` one name at a time and follows no symbolic link. With
/// `creates`, makes what is missing.
///
/// A link that another user puts there would otherwise lead the writes of this one elsewhere.
pub fn open_dir(root: &Path, dir: &str, creates: bool) -> io::Result<OwnedFd> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let mut folder = openat(CWD, root, flags, Mode::empty())?;
    let names = dir.split('/').filter(|name| !name.is_empty());
    let mut path = String::new();
    for name in names {
        path = if path.is_empty() { name.to_owned() } else { format!("{path}/{name}") };
        let open = || openat(&folder, name, flags | OFlags::NOFOLLOW, Mode::empty());
        folder = match open() {
            Err(Errno::NOENT) if creates => {
                let mode = if is_private(&path) { 0o700 } else { 0o777 };
                match mkdirat(&folder, name, Mode::from_raw_mode(mode)) {
                    // Another part of the epoch has made it.
                    Ok(()) | Err(Errno::EXIST) => open()?,
                    Err(error) => return Err(error.into()),
                }
            }
            opened => opened?,
        };
    }
    Ok(folder)
}

/// Opens the regular file `key` to read it. A symbolic link is not followed, and a pipe that stands
/// there does not block.
pub fn open_file(root: &Path, key: &str) -> io::Result<File> {
    let (dir, name) = split(key);
    let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let file = File::from(openat(open_dir(root, dir, false)?, name, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::new(io::ErrorKind::IsADirectory, "it is not a regular file"));
    }
    Ok(file)
}

/// Reads the object `key`, if it is at most `bytes_max` bytes long.
///
/// Fails with `NotFound` if there is none, and with `Invalid` for a longer file.
pub fn get(root: &Path, key: &str, bytes_max: u64) -> StoreResult<Bytes> {
    let path = root.join(key);
    let read = || {
        let mut bytes = Vec::new();
        let file = open_file(root, key)?;
        // A longer file is not read at all, unless it grows meanwhile.
        let is_longer = file.metadata()?.len() > bytes_max;
        let most = if is_longer { 0 } else { bytes_max.saturating_add(1) };
        file.take(most).read_to_end(&mut bytes)?;
        Ok((bytes, is_longer))
    };
    let (bytes, is_longer) = read().map_err(|error| failure("read", &path, &error))?;
    if is_longer || bytes.len() as u64 > bytes_max {
        let message = format!("{} is longer than the {bytes_max} bytes asked for", path.display());
        return Err(StoreError::invalid(message));
    }
    Ok(bytes.into())
}

/// Returns a file as the entry of a listing.
fn entry(key: String, metadata: &fs::Metadata) -> ObjectEntry {
    ObjectEntry { key, bytes: metadata.len(), modified: metadata.modified().ok(), etag: None }
}

/// Returns true if an error means that there is no such file.
fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// Names of one directory listing, sorted. Pages are taken from its front, so that a listing of any
/// length reads each directory once for every [`NAMES_KEPT_MAX`] names.
#[derive(Debug)]
pub struct Scan {
    /// The last name of the page before; this scan answers only the page that follows it.
    after: Option<String>,
    /// The prefix that names begin with.
    prefix: String,
    /// Names after `after`, ascending.
    names: VecDeque<String>,
    /// True if there are names after the last of `names`.
    has_more: bool,
}

/// Names that a scan keeps: a few megabytes.
const NAMES_KEPT_MAX: usize = 128 << 10;

impl Scan {
    /// Returns true if the page of `prefix` after `after` is the next one of this scan.
    pub fn answers(&self, prefix: &str, after: Option<&str>) -> bool {
        self.prefix == prefix && self.after.as_deref() == after && !self.names.is_empty()
    }

    /// Removes and returns the next page of at most `limit` names. `make` returns `None` for a name
    /// that is gone.
    pub fn page<T>(&mut self, limit: usize, mut make: impl FnMut(String) -> Option<T>) -> Page<T> {
        let count = limit.min(self.names.len());
        self.after = count.checked_sub(1).map(|last| self.names[last].clone());
        let items = self.names.drain(..count).filter_map(&mut make).collect();
        let more = self.has_more || !self.names.is_empty();
        Page { items, next: self.after.clone().filter(|_| more) }
    }
}

/// The smallest names after `after`, as many as a scan keeps, however many files there are.
struct Smallest<'a> {
    /// The least names so far.
    found: BTreeSet<String>,
    /// The prefix that names begin with.
    prefix: &'a str,
    /// The name after which names count.
    after: Option<&'a str>,
    /// True if greater names were left out.
    has_more: bool,
}

impl<'a> Smallest<'a> {
    /// Begins without names.
    fn new(prefix: &'a str, after: Option<&'a str>) -> Self {
        Smallest { found: BTreeSet::new(), prefix, after, has_more: false }
    }

    /// Adds a name, and drops the greatest above the limit.
    fn add(&mut self, name: String) {
        if !name.starts_with(self.prefix) || self.after.is_some_and(|after| *name <= *after) {
            return;
        }
        self.found.insert(name);
        if self.found.len() > NAMES_KEPT_MAX {
            self.found.pop_last();
            self.has_more = true;
        }
    }

    /// Returns the names as a page of a listing.
    fn finish(self) -> Scan {
        Scan {
            after: self.after.map(str::to_owned),
            prefix: self.prefix.to_owned(),
            names: self.found.into_iter().collect(),
            has_more: self.has_more,
        }
    }
}

/// Visits the entries of a directory whose names are text; a directory that is not there has none.
fn visit(path: &Path, mut each: impl FnMut(&str, fs::FileType)) -> StoreResult<()> {
    let mut read = || {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str() {
                each(name, entry.file_type()?);
            }
        }
        Ok(())
    };
    match read() {
        Err(error) if is_absence(&error) => Ok(()),
        done => done.map_err(|error: io::Error| failure("list", path, &error)),
    }
}

/// The directory part of a prefix, with its `/`.
fn directory_of(prefix: &str) -> &str {
    &prefix[..prefix.rfind('/').map_or(0, |at| at + 1)]
}

/// Finds the keys of all files below `prefix` that come after `after`, in the order of their bytes,
/// as an object store lists them. Files are not looked at yet.
pub fn scan(root: &Path, prefix: &str, after: Option<&str>) -> StoreResult<Scan> {
    let mut smallest = Smallest::new(prefix, after);
    let mut directories = vec![directory_of(prefix).to_owned()];
    while let Some(directory) = directories.pop() {
        visit(&root.join(&directory), |name, kind| {
            let key = format!("{directory}{name}");
            if kind.is_dir() {
                let inner = format!("{key}/");
                let is_past =
                    after.is_some_and(|after| *inner < *after && !after.starts_with(&inner));
                if !is_past && (inner.starts_with(prefix) || prefix.starts_with(&inner)) {
                    directories.push(inner);
                }
            } else if kind.is_file() && !is_hidden(name) {
                smallest.add(key);
            }
        })?;
    }
    Ok(smallest.finish())
}

/// Describes the file `key`; `None` if it was removed since it was listed.
pub fn describe(root: &Path, key: String) -> Option<ObjectEntry> {
    let metadata = fs::symlink_metadata(root.join(&key)).ok()?;
    metadata.is_file().then(|| entry(key, &metadata))
}

/// Finds the directories that begin with `prefix` and come after `after`.
pub fn scan_dirs(root: &Path, prefix: &str, after: Option<&str>) -> StoreResult<Scan> {
    let mut smallest = Smallest::new(prefix, after);
    let directory = directory_of(prefix);
    visit(&root.join(directory), |name, kind| {
        if kind.is_dir() {
            smallest.add(format!("{directory}{name}/"));
        }
    })?;
    Ok(smallest.finish())
}

/// Removes the object `key`; one that is not there is a success.
pub fn delete(root: &Path, key: &str) -> StoreResult<()> {
    let (dir, name) = split(key);
    let remove = || Ok(unlinkat(open_dir(root, dir, false)?, name, AtFlags::empty())?);
    match remove() {
        Err(error) if !is_absence(&error) => Err(failure("remove", &root.join(key), &error)),
        _ => Ok(()),
    }
}

/// Removes everything in the directory `dir`, however deep, and the directory stays. Returns the
/// number of files removed.
pub fn clear(root: &Path, dir: &str) -> StoreResult<u64> {
    let cleared = open_dir(root, dir, false).and_then(|folder| empty(&folder, &|_| true));
    match cleared {
        Err(error) if is_absence(&error) => Ok(0),
        cleared => cleared.map_err(|error| failure("empty", &root.join(dir), &error)),
    }
}

/// Removes the temporaries in the directory `dir`; locks and directories stay.
pub fn sweep(root: &Path, dir: &str) -> StoreResult<()> {
    let is_temporary = |name: &str| name.starts_with('.') && name.ends_with(".tmp");
    let swept = open_dir(root, dir, false).and_then(|folder| empty(&folder, &is_temporary));
    match swept {
        Err(error) if is_absence(&error) => Ok(()),
        swept => swept.map(drop).map_err(|error| failure("sweep", &root.join(dir), &error)),
    }
}

/// Removes the files in `folder` whose name `is_due`, and the directories, with all in them. A
/// symbolic link is removed and not followed.
fn empty(folder: &OwnedFd, is_due: &dyn Fn(&str) -> bool) -> io::Result<u64> {
    let mut removed = 0;
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        let name = entry.file_name();
        let text = name.to_string_lossy();
        if matches!(&*text, "." | "..") || !is_due(&text) {
            continue;
        }
        match unlinkat(folder, name, AtFlags::empty()) {
            Ok(()) => removed += 1,
            Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => {
                let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                removed += empty(&openat(folder, name, flags, Mode::empty())?, &|_| true)?;
                unlinkat(folder, name, AtFlags::REMOVEDIR)?;
            }
            Err(error) => return Err(error.into()),
        }
    }
    Ok(removed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn objects_with_words_are_private() {
        let dirs = ["a/_wordtide/job-1/0-00000", "_wordtide/job-1", "_wordtide", "a/-1", ""];
        assert_eq!(dirs.map(is_private), [true, true, false, false, false]);
    }
}
