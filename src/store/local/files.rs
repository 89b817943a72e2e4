//! The file system calls behind [`LocalStore`](super::LocalStore), all of them blocking.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use md5::{Digest, Md5};

use super::super::{Body, Entry, Page, StoreError, StoreErrorKind, StoreResult, Stored};
use super::failure;

/// Creates `root` with all that leads to it and syncs every directory that got a new name, so that
/// a crash does not take the whole output with it.
pub(super) fn create_root(root: &Path) -> io::Result<()> {
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
        let parent = match path.parent() {
            Some(parent) if parent.as_os_str().is_empty() => Path::new("."),
            Some(parent) => parent,
            None => break,
        };
        match sync_dir(parent) {
            // A directory above that may be passed but not read was not made by us.
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => break,
            synced => synced?,
        }
    }
    Ok(())
}

/// The name of a temporary beside `path` that no other write uses.
fn temporary(path: &Path) -> PathBuf {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let count = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = path.file_name().unwrap_or_default().to_string_lossy();
    path.with_file_name(format!(".{name}.{}-{count}.tmp", std::process::id()))
}

/// Whether a file is a temporary or a lock, which is no object.
fn is_hidden(name: &str) -> bool {
    name.starts_with('.') && (name.ends_with(".tmp") || name.ends_with(super::lock::LOCK_SUFFIX))
}

/// Writes `body` to a synced temporary beside `path`, lets `place` give it its name, and leaves no
/// temporary behind.
fn write(path: &Path, body: &Body, place: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    let temporary = temporary(path);
    let open = || OpenOptions::new().write(true).create(true).truncate(true).open(&temporary);
    let mut file = match open() {
        // The first part of an epoch makes its directory.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(directory)?;
            open()?
        }
        opened => opened?,
    };
    let written = body
        .chunks()
        .iter()
        .try_for_each(|chunk| file.write_all(chunk))
        .and_then(|()| file.sync_all())
        .and_then(|()| place(&temporary));
    if written.is_err() {
        // The first error is the one to tell; a leftover is removed by `clear`.
        fs::remove_file(&temporary).unwrap_or_default();
    }
    written
}

pub(super) fn put(path: &Path, body: &Body) -> StoreResult<Stored> {
    write(path, body, |temporary| fs::rename(temporary, path))
        .map_err(|error| failure("write", path, &error))?;
    Ok(Stored::of(body, None))
}

pub(super) fn put_new(path: &Path, body: &Body) -> StoreResult<Stored> {
    let linked = write(path, body, |temporary| {
        link_new(temporary, path)?;
        // Already without a temporary when it was renamed.
        fs::remove_file(temporary).unwrap_or_default();
        Ok(())
    });
    match linked {
        Ok(()) => Ok(Stored::of(body, None)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            if same_content(path, body).map_err(|error| failure("read", path, &error))? {
                return Ok(Stored::of(body, None));
            }
            Err(StoreError::new(
                StoreErrorKind::Exists,
                format!("{} already stands there with other content", path.display()),
            ))
        }
        Err(error) => Err(failure("write", path, &error)),
    }
}

/// Names the file at `temporary` `path`, unless that name is taken.
fn link_new(temporary: &Path, path: &Path) -> io::Result<()> {
    match fs::hard_link(temporary, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(error),
        // File systems without hard links: vfat, some network and user-space ones.
        Err(_) => {
            use rustix::fs::{CWD, RenameFlags, renameat_with};
            renameat_with(CWD, temporary, CWD, path, RenameFlags::NOREPLACE)?;
            Ok(())
        }
        Ok(()) => Ok(()),
    }
}

fn same_content(path: &Path, body: &Body) -> io::Result<bool> {
    let mut file = File::open(path)?;
    if file.metadata()?.len() != body.bytes() {
        return Ok(false);
    }
    let mut hasher = Md5::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(<[u8; 16]>::from(hasher.finalize()) == body.md5())
}

pub(super) fn get(path: &Path, bytes_max: u64) -> StoreResult<Bytes> {
    let read = || {
        let mut bytes = Vec::new();
        let file = File::open(path)?;
        file.take(bytes_max.saturating_add(1)).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    let bytes = read().map_err(|error| failure("read", path, &error))?;
    if bytes.len() as u64 > bytes_max {
        return Err(StoreError::invalid(format!(
            "{} is longer than the {bytes_max} bytes asked for",
            path.display()
        )));
    }
    Ok(bytes.into())
}

fn entry(key: String, metadata: &fs::Metadata) -> Entry {
    Entry { key, bytes: metadata.len(), modified: metadata.modified().ok() }
}

fn is_absence(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

/// The `limit` smallest names that come behind `after`, and whether there are more: what a listing
/// keeps in memory, however many files there are.
struct Smallest<'a, T> {
    found: BTreeMap<String, T>,
    prefix: &'a str,
    after: Option<&'a str>,
    limit: usize,
    more: bool,
}

impl<'a, T> Smallest<'a, T> {
    fn new(prefix: &'a str, after: Option<&'a str>, limit: usize) -> Self {
        Smallest { found: BTreeMap::new(), prefix, after, limit, more: false }
    }

    fn wants(&self, name: &str) -> bool {
        name.starts_with(self.prefix) && self.after.is_none_or(|after| name > after)
    }

    fn add(&mut self, name: String, item: T) {
        self.found.insert(name, item);
        if self.found.len() > self.limit {
            self.found.pop_last();
            self.more = true;
        }
    }

    fn page<U>(self, make: impl Fn(String, T) -> U) -> Page<U> {
        let last = self.found.last_key_value().map(|(name, _)| name.clone());
        Page {
            next: last.filter(|_| self.more),
            items: self.found.into_iter().map(|(name, item)| make(name, item)).collect(),
        }
    }
}

/// Visits the entries of a directory whose names are text; a directory that is not there has none.
fn visit(
    path: &Path,
    mut each: impl FnMut(&str, &fs::DirEntry, fs::FileType) -> io::Result<()>,
) -> StoreResult<()> {
    let mut read = || {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if let Some(name) = entry.file_name().to_str() {
                each(name, &entry, entry.file_type()?)?;
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

pub(super) fn list(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> StoreResult<Page<Entry>> {
    let mut smallest = Smallest::new(prefix, after, limit);
    let mut directories = vec![directory_of(prefix).to_owned()];
    while let Some(directory) = directories.pop() {
        visit(&root.join(&directory), |name, file, kind| {
            let key = format!("{directory}{name}");
            if kind.is_dir() {
                let inner = format!("{key}/");
                if inner.starts_with(prefix) || prefix.starts_with(&inner) {
                    directories.push(inner);
                }
            } else if !is_hidden(name) && smallest.wants(&key) {
                match fs::metadata(file.path()) {
                    Ok(metadata) if metadata.is_file() => {
                        smallest.add(key, metadata);
                    }
                    // Removed since it was read, or a link to nowhere.
                    _ => {}
                }
            }
            Ok(())
        })?;
    }
    Ok(smallest.page(|key, metadata| entry(key, &metadata)))
}

pub(super) fn list_dirs(
    root: &Path,
    prefix: &str,
    after: Option<&str>,
    limit: usize,
) -> StoreResult<Page<String>> {
    let mut smallest = Smallest::new(prefix, after, limit);
    let directory = directory_of(prefix);
    visit(&root.join(directory), |name, _, kind| {
        let name = format!("{directory}{name}/");
        if kind.is_dir() && smallest.wants(&name) {
            smallest.add(name, ());
        }
        Ok(())
    })?;
    Ok(smallest.page(|name, ()| name))
}

pub(super) fn delete(path: &Path) -> StoreResult<()> {
    match fs::remove_file(path) {
        Err(error) if !is_absence(&error) => Err(failure("remove", path, &error)),
        _ => Ok(()),
    }
}

pub(super) fn clear(path: &Path) -> StoreResult<u64> {
    let mut removed = 0;
    let mut inner = Vec::new();
    let remove = |removed: &mut u64, inner: &mut Vec<PathBuf>| {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            if entry.file_type()?.is_dir() {
                inner.push(entry.path());
            } else {
                fs::remove_file(entry.path())?;
                *removed += 1;
            }
        }
        Ok(())
    };
    match remove(&mut removed, &mut inner) {
        Err(error) if is_absence(&error) => {}
        done => done.map_err(|error: io::Error| failure("empty", path, &error))?,
    }
    for path in inner {
        removed += clear(&path)?;
        fs::remove_dir(&path).map_err(|error| failure("remove", &path, &error))?;
    }
    Ok(removed)
}

/// Removes the temporaries in `path`; locks and directories stay.
pub(super) fn sweep(path: &Path) -> StoreResult<()> {
    let remove = || {
        for entry in fs::read_dir(path)? {
            let entry = entry?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') && name.ends_with(".tmp") {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    };
    match remove() {
        Err(error) if is_absence(&error) => Ok(()),
        done => done.map_err(|error: io::Error| failure("sweep", path, &error)),
    }
}

/// Syncs `dir` and every directory above it up to the root, the last included.
pub(super) fn seal(root: &Path, dir: &str) -> StoreResult<()> {
    let mut dir = Some(dir);
    loop {
        let path = dir.map_or_else(|| root.to_owned(), |dir| root.join(dir));
        sync_dir(&path).map_err(|error| {
            // A sync that failed once proves nothing when it succeeds later.
            let mut failed = failure("sync", &path, &error);
            if failed.kind == StoreErrorKind::Unavailable {
                failed.kind = StoreErrorKind::Disk;
            }
            failed
        })?;
        match dir {
            None => return Ok(()),
            Some(inner) => dir = inner.rsplit_once('/').map(|(outer, _)| outer),
        }
    }
}

fn sync_dir(path: &Path) -> io::Result<()> {
    File::open(path)?.sync_all()
}
